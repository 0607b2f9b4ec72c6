//! Every limit of the door, at the limit and one past it.

use crate::world::{World, echo, fails, is};
use alknet_core::{
    Call, Caller, ErrorCode, Handler, Limits, Operation, Output, Registration, Subscription,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet};

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

/// Waits at a gate that a test opens.
fn waits(name: &str, gate: &Arc<Semaphore>) -> Registration {
    Operation::query(name, "Waits.")
        .authenticated()
        .raw(waiting(gate))
}

fn waiting(gate: &Arc<Semaphore>) -> Handler {
    let gate = gate.clone();
    Handler::Unary(Arc::new(move |_, _| {
        let gate = gate.clone();
        Box::pin(async move {
            let _ = gate.acquire().await;
            Ok(Output::Value(Value::Null))
        })
    }))
}

fn endless(name: &str) -> Registration {
    Operation::subscription(name, "Never ends.")
        .authenticated()
        .raw(Handler::Stream(Arc::new(|_, _| {
            Box::pin(async { Ok(futures::stream::pending().boxed()) })
        })))
}

fn text_of(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

#[tokio::test]
async fn the_default_limits_are_those_of_the_table() {
    let limits = Limits::default();
    assert_eq!(
        (limits.input_bytes_max, limits.input_bytes_ceiling),
        (1 << 20, 16 << 20)
    );
    assert_eq!(
        (limits.calls_per_peer_max, limits.calls_per_node_max),
        (256, 4096)
    );
    assert_eq!(limits.subscriptions_per_peer_max, 64);
    assert_eq!(
        (limits.deadline_default, limits.deadline_max),
        (Duration::from_secs(30), Duration::from_secs(600))
    );
    assert_eq!((limits.rate_burst, limits.rate_per_second), (100, 50));
    assert_eq!(
        (limits.detached_max, limits.composition_depth_max),
        (256, 32)
    );
    assert_eq!(
        (limits.batch_calls_max, limits.batch_in_flight_max),
        (1024, 16)
    );
    assert_eq!(
        (limits.idempotency_key_bytes_max, limits.idempotency_kept),
        (128, Duration::from_secs(86_400))
    );
}

#[tokio::test]
async fn an_input_has_a_mebibyte_unless_its_operation_raises_that() {
    let raised = Operation::query("demo/raised", "Answers.")
        .input_bytes_max(2 << 20)
        .raw(echo());
    let above = Operation::query("demo/above", "Answers.")
        .input_bytes_max(64 << 20)
        .raw(echo());
    let world = World::new(vec![
        Operation::query("demo/thing", "Answers.").raw(echo()),
        raised,
        above,
    ]);
    for (operation, most) in [
        ("demo/thing", 1 << 20),
        ("demo/raised", 2 << 20),
        ("demo/above", 16 << 20),
    ] {
        let text = |bytes| {
            world.door.call(
                Call::new(operation, Caller::host())
                    .unwrap()
                    .input_json(text_of(bytes)),
            )
        };
        text(most).await.unwrap();
        fails(text(most + 1).await, ErrorCode::TooLarge);
        // A value that was never text has the size that its text would have.
        let value = |bytes: usize| world.call_value(operation, json!("x".repeat(bytes - 2)));
        value(most).await.unwrap();
        fails(value(most + 1).await, ErrorCode::TooLarge);
    }
}

impl World {
    async fn call_value(
        &self,
        operation: &str,
        value: Value,
    ) -> Result<Value, alknet_core::CallError> {
        self.call(&Caller::host(), operation, value).await
    }
}

#[tokio::test]
async fn an_input_nests_64_levels() {
    let world = World::new(vec![Operation::query("demo/thing", "Answers.").raw(echo())]);
    let text = |levels: usize| {
        let text = "[".repeat(levels) + &"]".repeat(levels);
        world.door.call(
            Call::new("demo/thing", Caller::host())
                .unwrap()
                .input_json(text),
        )
    };
    text(64).await.unwrap();
    fails(text(65).await, ErrorCode::InvalidInput);
    let value = |levels: usize| {
        world.call_value(
            "demo/thing",
            (1..levels).fold(json!([]), |inner, _| json!([inner])),
        )
    };
    value(64).await.unwrap();
    fails(value(65).await, ErrorCode::InvalidInput);
}

#[tokio::test]
async fn a_peer_has_256_calls_in_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let world = World::new(vec![waits("demo/waits", &gate)]);
    let (bob, ada) = (world.caller("bob", &[]), world.caller("ada", &[]));
    let mut running = JoinSet::new();
    for _ in 0..256 {
        running.spawn(world.door.clone().call_owned(&bob, "demo/waits"));
    }
    while world.door.in_flight() < 256 {
        tokio::task::yield_now().await;
    }
    let error = fails(
        world.call(&bob, "demo/waits", json!({})).await,
        ErrorCode::RateLimited,
    );
    assert!(error.retryable && error.retry_after.is_some());
    // It is bob's limit and nobody else's, and it is given back.
    running.spawn(world.door.clone().call_owned(&ada, "demo/waits"));
    gate.add_permits(1_000);
    while let Some(ended) = running.join_next().await {
        ended.unwrap().unwrap();
    }
    assert_eq!(world.door.in_flight(), 0);
    world.call(&bob, "demo/waits", json!({})).await.unwrap();
}

trait CallOwned {
    fn call_owned(
        self,
        caller: &Caller,
        operation: &str,
    ) -> impl Future<Output = Result<(), alknet_core::CallError>> + Send + 'static;
}

impl CallOwned for alknet_core::Dispatcher {
    fn call_owned(
        self,
        caller: &Caller,
        operation: &str,
    ) -> impl Future<Output = Result<(), alknet_core::CallError>> + Send + 'static {
        let call = Call::new(operation, caller.clone()).unwrap();
        async move { self.call(call).await.map(drop) }
    }
}

#[tokio::test]
async fn a_node_has_so_many_calls_in_flight_whoever_makes_them() {
    let gate = Arc::new(Semaphore::new(0));
    let world = World::with(vec![waits("demo/waits", &gate)], |door| {
        door.limits(limits(|l| l.calls_per_node_max = 3))
    });
    let mut running = JoinSet::new();
    for id in ["ada", "bob", "eve"] {
        let caller = world.caller(id, &[]);
        running.spawn(world.door.clone().call_owned(&caller, "demo/waits"));
    }
    while world.door.in_flight() < 3 {
        tokio::task::yield_now().await;
    }
    let ida = world.caller("ida", &[]);
    fails(
        world.call(&ida, "demo/waits", json!({})).await,
        ErrorCode::RateLimited,
    );
    running.abort_all();
    while running.join_next().await.is_some() {}
    // Cancelled calls give their places back.
    assert_eq!(world.door.in_flight(), 0);
    gate.add_permits(1);
    world.call(&ida, "demo/waits", json!({})).await.unwrap();
}

#[tokio::test]
async fn an_operation_has_its_own_limit_for_each_caller() {
    let gate = Arc::new(Semaphore::new(0));
    let narrow = Operation::query("demo/narrow", "Waits.")
        .authenticated()
        .in_flight_max(2)
        .raw(waiting(&gate));
    let world = World::new(vec![narrow, waits("demo/wide", &gate)]);
    let (bob, ada) = (world.caller("bob", &[]), world.caller("ada", &[]));
    let mut running = JoinSet::new();
    for _ in 0..2 {
        running.spawn(world.door.clone().call_owned(&bob, "demo/narrow"));
    }
    while world.door.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    fails(
        world.call(&bob, "demo/narrow", json!({})).await,
        ErrorCode::RateLimited,
    );
    for (caller, operation) in [(&bob, "demo/wide"), (&ada, "demo/narrow")] {
        running.spawn(world.door.clone().call_owned(caller, operation));
    }
    gate.add_permits(1_000);
    while let Some(ended) = running.join_next().await {
        ended.unwrap().unwrap();
    }
    world.call(&bob, "demo/narrow", json!({})).await.unwrap();
}

#[tokio::test]
async fn an_operation_has_a_limit_for_all_callers_together() {
    let gate = Arc::new(Semaphore::new(0));
    let narrow = Operation::query("demo/narrow", "Waits.")
        .authenticated()
        .in_flight_all_max(2)
        .raw(waiting(&gate));
    let world = World::new(vec![narrow, waits("demo/wide", &gate)]);
    let mut running = JoinSet::new();
    for name in ["bob", "ada"] {
        let caller = world.caller(name, &[]);
        running.spawn(world.door.clone().call_owned(&caller, "demo/narrow"));
    }
    while world.door.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    let ida = world.caller("ida", &[]);
    let refused = world.call(&ida, "demo/narrow", json!({})).await;
    let error = refused.as_ref().unwrap_err();
    assert!(
        error.message.contains("2 calls in flight of all callers"),
        "{error:?}"
    );
    fails(refused, ErrorCode::RateLimited);
    running.spawn(world.door.clone().call_owned(&ida, "demo/wide"));
    gate.add_permits(1_000);
    while let Some(ended) = running.join_next().await {
        ended.unwrap().unwrap();
    }
    world.call(&ida, "demo/narrow", json!({})).await.unwrap();
    assert_eq!(world.door.limited(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_a_rate_for_each_caller() {
    let rated = Operation::query("demo/rated", "Answers.")
        .authenticated()
        .rate(3, 2)
        .raw(echo());
    let world = World::new(vec![rated]);
    let (bob, ada) = (world.caller("bob", &[]), world.caller("ada", &[]));
    let calls = async |caller: &Caller| {
        let mut passed = 0;
        loop {
            match world.call(caller, "demo/rated", json!({})).await {
                Ok(_) => passed += 1,
                Err(error) => {
                    assert!(error.is(ErrorCode::RateLimited), "{error:?}");
                    return (passed, error.retry_after.unwrap());
                }
            }
        }
    };
    assert_eq!(calls(&bob).await, (3, Duration::from_millis(500)));
    assert_eq!(calls(&ada).await.0, 3);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(calls(&bob).await.0, 2);
    // The host is nobody that a rate is for, and what it calls is no less the
    // operation that is protected.
    assert_eq!(calls(&Caller::host()).await.0, 3);
}

#[tokio::test(start_paused = true)]
async fn bytes_beyond_the_rate_are_made_up_for_before_the_next_call() {
    let limits = limits(|limits| {
        limits.bytes_burst = 10_000;
        limits.bytes_per_second = 1_000;
    });
    let echo = Operation::query("demo/echo", "Answers.")
        .authenticated()
        .raw(echo());
    let world = World::with(vec![echo], |door| door.limits(limits));
    let (bob, ada) = (world.caller("bob", &[]), world.caller("ada", &[]));
    // There and back.
    let text = |bytes: usize| json!("x".repeat(bytes / 2 - 2));
    for _ in 0..2 {
        world.call(&bob, "demo/echo", text(5_000)).await.unwrap();
    }
    let error = world.call(&bob, "demo/echo", text(10)).await.unwrap_err();
    assert!(error.is(ErrorCode::RateLimited), "{error:?}");
    assert!(
        error.retry_after.unwrap() <= Duration::from_millis(2),
        "{error:?}"
    );
    world.call(&ada, "demo/echo", text(5_000)).await.unwrap();
    world
        .call(&Caller::host(), "demo/echo", text(50_000))
        .await
        .unwrap();
    // A single call may go beyond it; then that is made up for.
    tokio::time::advance(Duration::from_millis(10)).await;
    world.call(&bob, "demo/echo", text(20_000)).await.unwrap();
    let error = world.call(&bob, "demo/echo", text(10)).await.unwrap_err();
    let wait = error.retry_after.unwrap();
    assert!((19_900..=20_010).contains(&wait.as_millis()), "{wait:?}");
    tokio::time::advance(wait).await;
    world.call(&bob, "demo/echo", text(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_channel_are_counted_while_it_is_open() {
    let limits = limits(|limits| {
        limits.bytes_burst = 10_000;
        limits.bytes_per_second = 1_000;
    });
    let sink = Operation::channel("demo/sink", "Takes bytes.")
        .authenticated()
        .channel::<Value, Value, Value, _, _>(|_cx, _input, opening| async move {
            let mut channel = opening.accept(&Value::Null)?;
            while let Ok(Some(_)) = channel.rx.recv().await {}
            Ok(Value::Null)
        });
    let echo = Operation::query("demo/echo", "Answers.")
        .authenticated()
        .raw(echo());
    let world = World::with(vec![sink, echo], |door| door.limits(limits));
    let bob = world.caller("bob", &[]);
    let opened = world
        .door
        .open(Call::new("demo/sink", bob.clone()).unwrap())
        .await;
    let mut opened = opened.unwrap();
    world.call(&bob, "demo/echo", json!(1)).await.unwrap();
    opened
        .channel
        .tx
        .send(vec![7; 12_000].into())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    fails(
        world.call(&bob, "demo/echo", json!(1)).await,
        ErrorCode::RateLimited,
    );
    opened.channel.tx.end();
    opened.done.await.unwrap();
}

#[tokio::test]
async fn a_peer_has_64_subscriptions() {
    let world = World::new(vec![endless("demo/endless")]);
    let bob = world.caller("bob", &[]);
    let open = || {
        world
            .door
            .subscribe(Call::new("demo/endless", bob.clone()).unwrap())
    };
    let mut held: Vec<Subscription> = Vec::new();
    for _ in 0..64 {
        held.push(open().await.unwrap());
    }
    fails(open().await, ErrorCode::RateLimited);
    held.pop();
    held.push(open().await.unwrap());
    fails(open().await, ErrorCode::RateLimited);
    drop(held);
    assert_eq!(world.door.in_flight(), 0);
}

#[tokio::test]
async fn a_subscription_that_ended_gives_its_place_back_before_it_is_dropped() {
    let short = Operation::subscription("demo/short", "Ends.")
        .authenticated()
        .raw(crate::world::echo_stream());
    let world = World::new(vec![short]);
    let bob = world.caller("bob", &[]);
    let mut items = world
        .door
        .subscribe(Call::new("demo/short", bob).unwrap())
        .await
        .unwrap();
    assert_eq!(world.door.in_flight(), 1);
    assert!(items.next().await.is_some() && items.next().await.is_none());
    assert_eq!(world.door.in_flight(), 0);
    assert!(items.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn keys_and_strangers_have_a_burst_and_then_so_many_a_second() {
    let world = World::new(vec![
        Operation::query("demo/thing", "Answers.")
            .public()
            .raw(echo()),
    ]);
    let api = crate::world::api_key(1);
    world
        .ids
        .put(api.clone(), crate::world::identity("agent", &[]));
    let agent = Caller::resolve(&*world.ids, api).unwrap();
    for caller in [agent, Caller::anonymous()] {
        for _ in 0..100 {
            world.call(&caller, "demo/thing", json!({})).await.unwrap();
        }
        let error = fails(
            world.call(&caller, "demo/thing", json!({})).await,
            ErrorCode::RateLimited,
        );
        let wait = error.retry_after.unwrap();
        assert!(
            error.retryable && wait <= Duration::from_millis(20),
            "{wait:?}"
        );
        tokio::time::sleep(wait).await;
        world.call(&caller, "demo/thing", json!({})).await.unwrap();
        is(
            &world
                .call(&caller, "demo/thing", json!({}))
                .await
                .unwrap_err(),
            ErrorCode::RateLimited,
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..50 {
            world.call(&caller, "demo/thing", json!({})).await.unwrap();
        }
        fails(
            world.call(&caller, "demo/thing", json!({})).await,
            ErrorCode::RateLimited,
        );
        // However long it is quiet, the burst is the most.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        for _ in 0..100 {
            world.call(&caller, "demo/thing", json!({})).await.unwrap();
        }
        fails(
            world.call(&caller, "demo/thing", json!({})).await,
            ErrorCode::RateLimited,
        );
    }
    // Peers by their node key are not counted.
    let bob = world.caller("bob", &[]);
    for _ in 0..1_000 {
        world.call(&bob, "demo/thing", json!({})).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_counts_as_a_call() {
    let strict = Operation::query("demo/strict", "Takes a number.")
        .public()
        .handler(|_, n: u32| async move { Ok(n) });
    let world = World::new(vec![strict]);
    let nobody = Caller::anonymous();
    for _ in 0..100 {
        let call = Call::new("demo/strict", nobody.clone())
            .unwrap()
            .input_json("{{{");
        fails(world.door.call(call).await, ErrorCode::InvalidInput);
    }
    fails(
        world.call(&nobody, "demo/strict", json!(1)).await,
        ErrorCode::RateLimited,
    );
}

#[tokio::test]
async fn a_batch_has_1024_calls_and_16_at_a_time() {
    let (now, most) = (
        Arc::new(Semaphore::new(0)),
        Arc::new(std::sync::atomic::AtomicUsize::new(0)),
    );
    let (inner, peak) = (now.clone(), most.clone());
    let counts = Operation::query("demo/counts", "Counts those beside it.").raw(Handler::Unary(
        Arc::new(move |_, _| {
            let (now, peak) = (inner.clone(), peak.clone());
            Box::pin(async move {
                now.add_permits(1);
                peak.fetch_max(
                    now.available_permits(),
                    std::sync::atomic::Ordering::Relaxed,
                );
                tokio::task::yield_now().await;
                now.forget_permits(1);
                Ok(Output::Value(Value::Null))
            })
        }),
    ));
    let world = World::new(vec![counts]);
    let calls = |n: usize| {
        (0..n)
            .map(|_| Call::new("demo/counts", Caller::host()).unwrap())
            .collect::<Vec<_>>()
    };
    let mut seen: Vec<usize> = Vec::new();
    let mut answers = Box::pin(world.door.batch(calls(1024)));
    while let Some((at, answer)) = answers.next().await {
        answer.unwrap();
        seen.push(at);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..1024).collect::<Vec<_>>());
    assert_eq!(most.load(std::sync::atomic::Ordering::Relaxed), 16);
    let over: Vec<_> = world.door.batch(calls(1025)).collect().await;
    assert_eq!(over.len(), 1025);
    over.into_iter()
        .for_each(|(_, answer)| drop(fails(answer, ErrorCode::TooLarge)));
}

#[tokio::test]
async fn a_node_runs_so_many_detached_tasks() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let starts = Operation::mutation("demo/starts", "Starts a task.").raw(Handler::Unary(
        Arc::new(move |cx, _| {
            let gate = inner.clone();
            Box::pin(async move {
                cx.detached(async move { drop(gate.acquire().await) })?;
                Ok(Output::Value(Value::Null))
            })
        }),
    ));
    let world = World::new(vec![starts]);
    let root = Caller::host();
    for _ in 0..256 {
        world.call(&root, "demo/starts", json!({})).await.unwrap();
    }
    fails(
        world.call(&root, "demo/starts", json!({})).await,
        ErrorCode::RateLimited,
    );
    gate.add_permits(1);
    while world.call(&root, "demo/starts", json!({})).await.is_err() {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1_000);
    world.door.begin_drain();
    assert!(world.door.drained(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn an_idempotency_key_has_1_to_128_bytes() {
    let world = World::new(vec![
        Operation::mutation("demo/thing", "Answers.").raw(echo()),
    ]);
    let call = |key: String| {
        world.door.call(
            Call::new("demo/thing", Caller::host())
                .unwrap()
                .idempotency_key(key),
        )
    };
    call("k".repeat(128)).await.unwrap();
    call("k".into()).await.unwrap();
    fails(call("k".repeat(129)).await, ErrorCode::InvalidInput);
    fails(call(String::new()).await, ErrorCode::InvalidInput);
}

#[tokio::test]
async fn calls_nest_32_levels() {
    // `demo/down` calls itself until it is told to stop.
    let down = Operation::query("demo/down", "Calls itself.")
        .internal()
        .authority("down", &["demo:down"], &[])
        .reaches("demo/down")
        .handler(|cx, levels: u32| async move {
            match levels {
                0 => Ok(0u32),
                _ => cx.env().call("demo/down", &(levels - 1)).await,
            }
        });
    let top = Operation::query("demo/top", "Goes down.")
        .authority("top", &["demo:down"], &[])
        .reaches("demo/down")
        .handler(|cx, levels: u32| async move { cx.env().call::<u32>("demo/down", &levels).await });
    let world = World::new(vec![down, top]);
    // One call of `demo/top`, then 32 below it.
    world
        .call(&Caller::host(), "demo/top", json!(31))
        .await
        .unwrap();
    fails(
        world.call(&Caller::host(), "demo/top", json!(32)).await,
        ErrorCode::Internal,
    );
    assert_eq!(world.door.in_flight(), 0);
}

#[tokio::test]
async fn a_drain_refuses_what_is_new_and_lets_what_runs_finish() {
    let gate = Arc::new(Semaphore::new(0));
    let inner = gate.clone();
    let leaf = Operation::query("demo/leaf", "Answers.")
        .internal()
        .raw(echo());
    let root = Operation::query("demo/root", "Waits, then calls.")
        .authority("root", &["demo:leaf"], &[])
        .reaches("demo/leaf")
        .raw(Handler::Unary(Arc::new(move |cx, _| {
            let gate = inner.clone();
            Box::pin(async move {
                let _ = gate.acquire().await;
                cx.env()
                    .call_output("demo/leaf", alknet_core::Input::Value(json!("done")))
                    .await
            })
        })));
    let world = World::new(vec![leaf, root]);
    let running = tokio::spawn(world.door.clone().call_owned(&Caller::host(), "demo/root"));
    while world.door.in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    world.door.begin_drain();
    fails(
        world.call(&Caller::host(), "demo/root", json!({})).await,
        ErrorCode::Unavailable,
    );
    fails(
        world.door.authorize(&Caller::host(), "demo/root"),
        ErrorCode::Unavailable,
    );
    gate.add_permits(1);
    running.await.unwrap().unwrap();
    assert!(world.door.drained(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_runs_out_of_time_can_end_detached_tasks() {
    let starts = Operation::mutation("demo/starts", "Starts a task.").raw(Handler::Unary(
        Arc::new(|cx, _| {
            Box::pin(async move {
                cx.detached(std::future::pending())?;
                Ok(Output::Value(Value::Null))
            })
        }),
    ));
    let world = World::new(vec![starts]);
    world
        .call(&Caller::host(), "demo/starts", json!({}))
        .await
        .unwrap();
    world.door.begin_drain();
    assert!(!world.door.drained(Duration::from_secs(10)).await);
    world.door.cancel_detached();
    assert!(world.door.drained(Duration::from_secs(1)).await);
}
