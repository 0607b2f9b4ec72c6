//! Limits of those who are said to be behind a caller, and channels, which are
//! counted apart from calls.

use crate::world::{World, fails, identity, key};
use alknet_core::{
    Call, CallError, Caller, ChannelCall, ErrorCode, Handler, Limits, Operation, Originator,
    Output, Registration, Subscription,
};
use futures::StreamExt;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet};

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// `demo/now` answers at once, `demo/waits` when the gate opens, `demo/items`
/// and `demo/pipe` never end.
fn operations(gate: &Arc<Semaphore>) -> Vec<Registration> {
    let gate = gate.clone();
    vec![
        Operation::query("demo/now", "Answers.")
            .authenticated()
            .raw(crate::world::echo()),
        Operation::query("demo/waits", "Waits.")
            .authenticated()
            .raw(Handler::Unary(Arc::new(move |_, _| {
                let gate = gate.clone();
                Box::pin(async move {
                    let _ = gate.acquire().await;
                    Ok(Output::Value(Value::Null))
                })
            }))),
        Operation::subscription("demo/items", "Never ends.")
            .authenticated()
            .raw(Handler::Stream(Arc::new(|_, _| {
                Box::pin(async { Ok(futures::stream::pending().boxed()) })
            }))),
        Operation::channel("demo/pipe", "Never ends.")
            .authenticated()
            .raw(Handler::Channel(Arc::new(|_, _, opening| {
                Box::pin(async move {
                    let _end = opening.accept(&Value::Null)?;
                    std::future::pending().await
                })
            }))),
    ]
}

struct Hub {
    world: World,
    gate: Arc<Semaphore>,
    hub: Caller,
}

impl Hub {
    fn new(set: impl FnOnce(&mut Limits)) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let world = World::with(operations(&gate), |door| {
            door.limits(limits(set)).owner(crate::world::peer("owner"))
        });
        let hub = world.caller("hub", &[]);
        Self { world, gate, hub }
    }

    /// A call of the hub; of one of its users, if one is named.
    fn of(&self, operation: &str, user: &str) -> Call {
        from(&self.hub, operation, user)
    }

    async fn now(&self, user: &str) -> Result<(), CallError> {
        self.world
            .door
            .call(self.of("demo/now", user))
            .await
            .map(drop)
    }

    async fn items(&self, user: &str) -> Result<Subscription, CallError> {
        self.world.door.subscribe(self.of("demo/items", user)).await
    }

    async fn pipe(&self, user: &str) -> Result<ChannelCall, CallError> {
        self.world.door.open(self.of("demo/pipe", user)).await
    }

    /// So many calls that wait.
    async fn waiting(&self, user: &str, calls: usize) -> JoinSet<Result<(), CallError>> {
        let before = self.world.door.in_flight();
        let mut running = JoinSet::new();
        for _ in 0..calls {
            let (door, call) = (self.world.door.clone(), self.of("demo/waits", user));
            running.spawn(async move { door.call(call).await.map(drop) });
        }
        while self.world.door.in_flight() < before + calls {
            tokio::task::yield_now().await;
        }
        running
    }
}

fn from(caller: &Caller, operation: &str, user: &str) -> Call {
    let mut call = Call::new(operation, caller.clone()).unwrap();
    call.originator = (!user.is_empty()).then(|| Originator {
        node: "hub".into(),
        label: user.into(),
    });
    call
}

#[tokio::test]
async fn the_default_limits_are_those_of_the_table() {
    let limits = Limits::default();
    assert_eq!(
        (
            limits.calls_per_originator_max,
            limits.subscriptions_per_originator_max
        ),
        (128, 32)
    );
    assert_eq!(
        (
            limits.channels_per_peer_max,
            limits.channels_per_originator_max
        ),
        (1024, 512)
    );
    assert_eq!(limits.originators_per_peer_max, 256);
    assert_eq!(
        (limits.peer_rate_burst, limits.peer_rate_per_second),
        (0, 0)
    );
}

#[tokio::test]
async fn an_originator_has_128_calls_in_flight_and_leaves_the_rest_to_others() {
    let hub = Hub::new(|_| {});
    let mut running = hub.waiting("phone", 128).await;
    let error = fails(hub.now("phone").await, ErrorCode::RateLimited);
    assert!(error.message.contains("`hub/phone`, at `hub`,"), "{error}");
    assert!(error.retryable && error.retry_after.is_some());
    // Its neighbour has places, and the hub itself; then the hub's are gone.
    hub.now("tablet").await.unwrap();
    let mut others = hub.waiting("tablet", 127).await;
    let mut own = hub.waiting("", 1).await;
    for user in ["tablet", "", "tv"] {
        fails(hub.now(user).await, ErrorCode::RateLimited);
    }
    running.abort_all();
    while running.join_next().await.is_some() {}
    hub.now("phone").await.unwrap();
    hub.gate.add_permits(1_000);
    while let Some(ended) = others.join_next().await {
        ended.unwrap().unwrap();
    }
    own.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(hub.world.door.in_flight(), 0);
}

#[tokio::test]
async fn an_originator_has_32_subscriptions() {
    let hub = Hub::new(|_| {});
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(hub.items("phone").await.unwrap());
    }
    fails(hub.items("phone").await, ErrorCode::RateLimited);
    held.push(hub.items("tablet").await.unwrap());
    held.swap_remove(0);
    held.push(hub.items("phone").await.unwrap());
    fails(hub.items("phone").await, ErrorCode::RateLimited);
    drop(held);
    assert_eq!(hub.world.door.in_flight(), 0);
}

#[tokio::test]
async fn channels_have_places_of_their_own() {
    let hub = Hub::new(|limits| {
        limits.calls_per_peer_max = 1;
        limits.channels_per_peer_max = 5;
        limits.channels_per_originator_max = 3;
    });
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(hub.pipe("phone").await.unwrap());
    }
    let error = fails(hub.pipe("phone").await, ErrorCode::RateLimited);
    assert!(error.message.contains("3 channels"), "{error}");
    for _ in 0..2 {
        held.push(hub.pipe("").await.unwrap());
    }
    let error = fails(hub.pipe("tablet").await, ErrorCode::RateLimited);
    assert!(error.message.contains("`hub` has 5 channels"), "{error}");
    // Calls are none of them, and they are no calls.
    hub.now("phone").await.unwrap();
    let mut waiting = hub.waiting("", 1).await;
    fails(hub.now("phone").await, ErrorCode::RateLimited);
    drop(held.pop());
    eventually(|| hub.world.door.in_flight() == 5).await;
    held.push(hub.pipe("tablet").await.unwrap());
    hub.gate.add_permits(1);
    waiting.join_next().await.unwrap().unwrap().unwrap();
    drop(held);
    eventually(|| hub.world.door.in_flight() == 0).await;
}

/// A dropped channel ends in a task of its own.
async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_peer_has_1024_channels_and_the_node_counts_them_too() {
    let hub = Hub::new(|limits| limits.calls_per_node_max = 1_025);
    let mut held = Vec::new();
    for _ in 0..1_024 {
        held.push(hub.pipe("").await.unwrap());
    }
    fails(hub.pipe("").await, ErrorCode::RateLimited);
    hub.now("").await.unwrap();
    let mut waiting = hub.waiting("", 1).await;
    let error = fails(hub.now("").await, ErrorCode::RateLimited);
    assert!(error.message.contains("the node"), "{error}");
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
}

#[tokio::test]
async fn originators_beyond_those_that_are_told_apart_share() {
    let hub = Hub::new(|limits| {
        limits.originators_per_peer_max = 2;
        limits.calls_per_originator_max = 3;
    });
    let mut held = vec![hub.waiting("aa", 1).await, hub.waiting("bb", 1).await];
    held.push(hub.waiting("made-up-1", 1).await);
    held.push(hub.waiting("made-up-2", 2).await);
    fails(hub.now("made-up-3").await, ErrorCode::RateLimited);
    hub.now("aa").await.unwrap();
    // Who has nothing open any more makes room for another.
    held.remove(0).abort_all();
    eventually(|| hub.world.door.in_flight() == 4).await;
    hub.now("made-up-3").await.unwrap();
    hub.gate.add_permits(1_000);
    for mut running in held {
        while running.join_next().await.is_some() {}
    }
    assert_eq!(hub.world.door.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn each_originator_has_the_rate_of_its_peer() {
    let hub = Hub::new(|limits| {
        limits.peer_rate_burst = 3;
        limits.peer_rate_per_second = 2;
        limits.originators_per_peer_max = 2;
    });
    for user in ["phone", "tablet", ""] {
        for _ in 0..3 {
            hub.now(user).await.unwrap();
        }
        let error = fails(hub.now(user).await, ErrorCode::RateLimited);
        assert!(
            error.retry_after.unwrap() <= Duration::from_millis(500),
            "{error:?}"
        );
    }
    // A new name is no new burst once there are too many, nor when those that
    // spent theirs could be forgotten for it.
    for made_up in 0..3 {
        hub.now(&format!("user-{made_up}")).await.unwrap();
    }
    fails(hub.now("user-3").await, ErrorCode::RateLimited);
    fails(hub.now("phone").await, ErrorCode::RateLimited);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..2 {
        hub.now("phone").await.unwrap();
    }
    fails(hub.now("phone").await, ErrorCode::RateLimited);
    // The node's own command line is not counted.
    let owner = hub.world.caller("owner", &[]);
    for _ in 0..100 {
        let call = from(&owner, "demo/now", "");
        hub.world.door.call(call).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_to_its_own_rate_whoever_it_says_is_behind_it() {
    let hub = Hub::new(|_| {});
    let api = crate::world::api_key(1);
    hub.world.ids.put(api.clone(), identity("agent", &[]));
    let agent = Caller::resolve(&*hub.world.ids, api).unwrap();
    for n in 0..100 {
        let call = from(&agent, "demo/now", &format!("user-{n}"));
        hub.world.door.call(call).await.unwrap();
    }
    let call = from(&agent, "demo/now", "user-new");
    fails(
        hub.world.door.call(call).await.map(drop),
        ErrorCode::RateLimited,
    );
    // By its node key the same peer is not counted at all.
    hub.world.ids.put(key("agent"), identity("agent", &[]));
    let peer = Caller::resolve(&*hub.world.ids, key("agent")).unwrap();
    for _ in 0..1_000 {
        let call = from(&peer, "demo/now", "user-1");
        hub.world.door.call(call).await.unwrap();
    }
}
