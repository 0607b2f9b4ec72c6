//! Unary calls: outcomes, cancelling, deadlines, isolation.

use crate::support::{Node, connect, connect_as, request, settle};
use alknet_call::Session;
use alknet_core::{
    Call, CallError, Caller, Dispatcher, ErrorCode, Identity, IdentityProvider, Originator,
    Registry, TraceContext,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

async fn call(session: &Session, operation: &str, input: &Value) -> Result<Value, CallError> {
    session.call(request(operation, input)).await?.into_value()
}

#[tokio::test]
async fn a_call_answers_with_what_the_door_answers() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let input = json!({ "a": [1, 2.5, "ö"], "b": null });
    assert_eq!(
        call(&pair.session, "demo/echo", &input).await.unwrap(),
        input
    );
    assert_eq!(pair.session.remote().versions, [1]);
    assert!(pair.session.remote().software.starts_with("alknet/"));
    assert_eq!(node.door.in_flight(), 0);
}

#[tokio::test]
async fn both_sides_call_on_one_connection() {
    let (node, other) = (Node::new(vec![]), Node::new(vec![]));
    let (ours, theirs) = alknet_testkit::transport::connection_pair(Default::default());
    let (a, b) = tokio::join!(
        Session::start(
            ours,
            Some(other.door.clone()),
            other.alice(),
            Default::default()
        ),
        Session::start(
            theirs,
            Some(node.door.clone()),
            node.alice(),
            Default::default()
        ),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    for n in 0..10 {
        let (there, back) = (json!({ "there": n }), json!({ "back": n }));
        let both = tokio::join!(call(&a, "demo/echo", &there), call(&b, "demo/echo", &back));
        assert_eq!(both, (Ok(there), Ok(back)));
    }
}

#[tokio::test]
async fn a_side_without_a_door_refuses_every_call() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let error = call(&pair.served, "demo/echo", &json!(1))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::NotFound), "{error}");
}

#[tokio::test]
async fn the_callee_hears_who_started_it_and_both_log_one_id() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let mut asked = request("demo/who", &json!(null));
    asked.originator = Some(Originator {
        node: "home".into(),
        label: "carol".into(),
    });
    asked.via = vec![[9; 32]];
    asked.trace = Some(TraceContext("00-aa-bb-01".into()));
    let id = asked.call_id;
    let who = pair
        .session
        .call(asked)
        .await
        .unwrap()
        .into_value()
        .unwrap();
    let want = json!({
        "caller": "alice", "originator": "home/carol", "via": 1, "trace": "00-aa-bb-01",
        "call_id": id.to_string(), "surface": "call",
    });
    assert_eq!(who, want);
}

#[tokio::test]
async fn errors_keep_their_details_class_and_advice() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let details = json!({ "left": 0, "deep": [{ "x": "y" }] });
    let error = call(&pair.session, "demo/fail", &details)
        .await
        .unwrap_err();
    let local = Call::new("demo/fail", node.alice())
        .unwrap()
        .input(&details);
    assert_eq!(error, node.door.call(local).await.unwrap_err());
    assert_eq!(error.details.as_deref(), Some(&details));
    assert_eq!(error.retry_after, Some(Duration::from_millis(1500)));
    assert!(error.retryable && error.protocol_code().is_none());
}

#[tokio::test]
async fn details_too_large_for_the_wire_give_way_to_their_size() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let details = json!("x".repeat(300 * 1024));
    let error = call(&pair.session, "demo/fail", &details)
        .await
        .unwrap_err();
    assert_eq!(error.code, "OUT_OF_INK");
    assert_eq!(error.details.unwrap()["details_bytes"], 300 * 1024 + 2);
}

#[tokio::test]
async fn names_that_cannot_exist_are_not_found_and_strangers_learn_nothing() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let missing = call(&pair.session, "demo/missing", &json!({}))
        .await
        .unwrap_err();
    assert!(missing.is(ErrorCode::NotFound));
    let private = call(&pair.session, "demo/private", &json!(null))
        .await
        .unwrap_err();
    assert!(private.is(ErrorCode::NotFound), "{private}");

    let strangers = connect_as(&node, Caller::anonymous()).await;
    for name in ["demo/echo", "demo/missing", "demo/private"] {
        let error = call(&strangers.session, name, &json!({}))
            .await
            .unwrap_err();
        assert!(error.is(ErrorCode::Unauthenticated), "{name}: {error}");
    }
    let open = call(&strangers.session, "demo/public", &json!(3)).await;
    assert_eq!(open, Ok(json!(3)));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_reaches_a_sleeping_handler_within_100_ms() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let session = pair.session.clone();
    let task = tokio::spawn(async move { call(&session, "demo/sleep", &json!(null)).await });
    node.sleeping.until(1).await;
    let start = Instant::now();
    task.abort();
    node.sleeping.until(0).await;
    assert!(start.elapsed() < Duration::from_millis(100));
    settle().await;
    assert_eq!(node.door.in_flight(), 0);
    // The connection serves on.
    assert_eq!(
        call(&pair.session, "demo/echo", &json!(1)).await,
        Ok(json!(1))
    );
}

#[tokio::test(start_paused = true)]
async fn closing_the_connection_reaches_a_sleeping_handler_and_loses_the_call() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let session = pair.session.clone();
    let task = tokio::spawn(async move { call(&session, "demo/sleep", &json!(null)).await });
    node.sleeping.until(1).await;
    pair.session.close(0, "enough");
    node.sleeping.until(0).await;
    let error = task.await.unwrap().unwrap_err();
    assert!(error.is(ErrorCode::Lost), "{error}");
    assert!(pair.session.is_closed() && pair.served.is_closed());
    assert_eq!(pair.served.closed().await.reason, "enough");
    let late = call(&pair.session, "demo/echo", &json!(1))
        .await
        .unwrap_err();
    assert!(late.is(ErrorCode::Unavailable) && late.retryable, "{late}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_loses_the_call_and_dropping_the_server_does_too() {
    for cut in [true, false] {
        let node = Node::new(vec![]);
        let pair = connect(&node).await;
        let session = pair.session.clone();
        let task = tokio::spawn(async move { call(&session, "demo/sleep", &json!(null)).await });
        node.sleeping.until(1).await;
        if cut {
            pair.connection.cut();
        } else {
            drop(pair.served);
        }
        let error = task.await.unwrap().unwrap_err();
        assert!(error.is(ErrorCode::Lost) && !error.retryable, "{error}");
        node.sleeping.until(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_callee_enforces_the_budget() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let start = Instant::now();
    let mut asked = request("demo/sleep", &json!(null));
    asked.budget = Some(Duration::from_millis(250));
    let error = pair.session.call(asked).await.unwrap_err();
    assert!(error.is(ErrorCode::Timeout), "{error}");
    // The callee said so: the caller alone would have waited for two seconds more.
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_millis(300),
        "{took:?}"
    );
    assert_eq!(node.sleeping.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_says_nothing_is_given_up_after_the_budget_and_its_grace() {
    let (ours, theirs) = alknet_testkit::transport::connection_pair(Default::default());
    let hold = tokio::spawn(async move {
        use alknet_core::transport::Connection;
        let _hello = theirs.accept_uni().await.unwrap();
        crate::support::say_hello(&*theirs).await;
        let stream = theirs.accept_bi().await.unwrap();
        (theirs, stream)
    });
    let session = Session::start(ours, None, Caller::anonymous(), Default::default())
        .await
        .unwrap();
    let start = Instant::now();
    let mut asked = request("demo/echo", &json!(1));
    asked.budget = Some(Duration::from_secs(1));
    let error = session.call(asked).await.unwrap_err();
    assert!(error.is(ErrorCode::Timeout), "{error}");
    assert!(start.elapsed() < Duration::from_millis(3100));
    // And it was told: the stream is reset.
    let (_connection, mut stream) = hold.await.unwrap();
    assert_eq!(
        stream.send.stopped().await,
        Some(alknet_call::stream_code::CANCELLED)
    );
}

#[tokio::test]
async fn a_panicking_operation_harms_itself_alone() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let calls = (0..1000).map(|n| {
        let session = pair.session.clone();
        async move { call(&session, "demo/echo", &json!(n)).await }
    });
    // At most as many at a time as one peer may have in flight.
    let others = async {
        use futures::StreamExt;
        futures::stream::iter(calls)
            .buffered(100)
            .collect::<Vec<_>>()
            .await
    };
    let panic = json!(1);
    let (panicked, others) = tokio::join!(call(&pair.session, "demo/panic", &panic), others);
    assert!(panicked.unwrap_err().is(ErrorCode::Internal));
    for (n, answer) in others.into_iter().enumerate() {
        assert_eq!(answer, Ok(json!(n)));
    }
    assert_eq!(node.door.panics(), 1);
}

/// Panics when it is asked, once told to: the door itself goes down with it.
struct Treacherous {
    known: Arc<Identity>,
    treason: AtomicBool,
    epoch: watch::Sender<u64>,
}

impl IdentityProvider for Treacherous {
    fn resolve(&self, _credential: &alknet_core::Credential) -> Option<Arc<Identity>> {
        assert!(!self.treason.load(Ordering::SeqCst), "treason");
        Some(self.known.clone())
    }
    fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }
}

#[tokio::test]
async fn a_panic_outside_of_any_handler_harms_one_stream_alone() {
    let provider = Arc::new(Treacherous {
        known: Arc::new(crate::support::identity("alice", &["*"])),
        treason: AtomicBool::new(false),
        epoch: watch::Sender::new(1),
    });
    let mut node = Node::new(vec![]);
    let registry = Registry::new();
    registry
        .register(crate::support::operations(&node.sleeping, &node.made))
        .unwrap();
    node.door = Dispatcher::builder(registry)
        .identities(provider.clone())
        .build();
    let caller = Caller::resolve(&*provider, crate::support::alice()).unwrap();
    let pair = connect_as(&node, caller).await;
    provider.epoch.send_modify(|epoch| *epoch += 1);
    provider.treason.store(true, Ordering::SeqCst);
    let error = call(&pair.session, "demo/echo", &json!(1))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::Lost), "{error}");
    provider.treason.store(false, Ordering::SeqCst);
    assert_eq!(
        call(&pair.session, "demo/echo", &json!(1)).await,
        Ok(json!(1))
    );
}

#[tokio::test]
async fn ten_thousand_cancelled_calls_leak_no_task() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    // The sessions' own tasks have begun.
    settle().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    for round in 0..100 {
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let session = pair.session.clone();
                tokio::spawn(async move { call(&session, "demo/sleep", &json!(null)).await })
            })
            .collect();
        node.sleeping.until(100).await;
        assert!(metrics.num_alive_tasks() >= before + 200, "round {round}");
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        node.sleeping.until(0).await;
    }
    settle().await;
    assert_eq!(metrics.num_alive_tasks(), before);
    assert_eq!(node.door.in_flight(), 0);
}

#[tokio::test]
async fn a_mutation_with_a_key_happens_once() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let keyed = |input: &Value| {
        let mut asked = request("demo/count", input);
        asked.idempotency_key = Some("k-1".into());
        pair.session.call(asked)
    };
    let first = keyed(&json!({ "a": 1 })).await.unwrap().into_value();
    let again = keyed(&json!({ "a": 1 })).await.unwrap().into_value();
    assert_eq!((first, again), (Ok(json!(1)), Ok(json!(1))));
    let other = keyed(&json!({ "a": 2 })).await.unwrap_err();
    assert!(other.is(ErrorCode::Conflict), "{other}");
    assert_eq!(node.made.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_call_that_comes_back_is_refused() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let mut asked = request("demo/echo", &json!(1));
    asked.via = vec![[9; 32], [2; 32]];
    let error = pair.session.call(asked).await.unwrap_err();
    assert!(
        error.is(ErrorCode::Conflict) && error.message.contains("loop"),
        "{error}"
    );
}

#[tokio::test]
async fn an_operation_of_another_kind_says_so() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let error = pair
        .session
        .subscribe(request("demo/echo", &json!(1)))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::InvalidOperationType), "{error}");
    let error = pair
        .session
        .open(request("demo/echo", &json!(1)))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::InvalidOperationType), "{error}");
    assert_eq!(error.details.unwrap()["kind"], "query");
}

#[tokio::test]
async fn large_inputs_and_outputs_pass_up_to_the_limit_and_not_beyond() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let most = 16 * 1024 * 1024;
    let text = |bytes: usize| Value::String("x".repeat(bytes - 2));
    let input = text(most);
    assert_eq!(
        call(&pair.session, "demo/echo", &input).await.unwrap(),
        input
    );
    let error = call(&pair.session, "demo/echo", &text(most + 1))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::TooLarge), "{error}");
    let error = call(&pair.session, "demo/text", &json!(most))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::TooLarge), "{error}");
    // The door's own limit, one past it: a megabyte unless an operation says otherwise.
    let over = Bytes::from(text(1024 * 1024 + 1).to_string());
    let mut asked = request("demo/count", &json!({}));
    asked.input = over;
    let error = pair.session.call(asked).await.unwrap_err();
    assert!(error.is(ErrorCode::TooLarge), "{error}");
}

#[tokio::test]
async fn many_large_inputs_share_the_room_of_one_connection() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let input = Value::String("x".repeat(8 * 1024 * 1024));
    // 96 MiB on their way, where 64 are received at once.
    let calls = (0..12).map(|_| call(&pair.session, "demo/size", &input));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer, Ok(json!(8 * 1024 * 1024)));
    }
}

#[tokio::test]
async fn fields_of_a_request_keep_to_their_limits() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let mut asked = request("demo/echo", &json!(1));
    asked.idempotency_key = Some("k".repeat(128));
    asked.trace = Some(TraceContext("t".repeat(128)));
    asked.via = vec![[9; 32]; 8];
    pair.session.call(asked.clone()).await.unwrap();
    let mut over = asked.clone();
    over.idempotency_key = Some("k".repeat(129));
    assert!(
        pair.session
            .call(over)
            .await
            .unwrap_err()
            .is(ErrorCode::InvalidInput)
    );
    let mut over = asked.clone();
    over.trace = Some(TraceContext("t".repeat(129)));
    assert!(
        pair.session
            .call(over)
            .await
            .unwrap_err()
            .is(ErrorCode::InvalidInput)
    );
    let mut over = asked.clone();
    over.route = alknet_core::parse_route("a/b/c/d").unwrap();
    over.route.extend(over.route.clone().pop());
    assert!(
        pair.session
            .call(over)
            .await
            .unwrap_err()
            .is(ErrorCode::InvalidInput)
    );
    let mut over = asked;
    over.via.push([8; 32]);
    assert!(
        pair.session
            .call(over)
            .await
            .unwrap_err()
            .is(ErrorCode::Conflict)
    );
}

#[tokio::test(start_paused = true)]
async fn a_session_is_drained_when_the_last_reply_has_arrived() {
    let node = Node::new(vec![]);
    let pair = connect(&node).await;
    let mut asked = request("demo/sleep", &json!(null));
    asked.budget = Some(Duration::from_secs(3));
    let session = pair.session.clone();
    let call = tokio::spawn(async move { session.call(asked).await });
    node.sleeping.until(1).await;
    let start = Instant::now();
    node.door.begin_drain();
    let late = call_echo(&pair.session).await.unwrap_err();
    assert!(late.is(ErrorCode::Unavailable), "{late}");
    pair.served.drained().await;
    assert!(start.elapsed() >= Duration::from_secs(3));
    pair.served.close(0, "shut down");
    // It was answered, and not lost.
    assert!(call.await.unwrap().unwrap_err().is(ErrorCode::Timeout));
    pair.served.drained().await;
}

async fn call_echo(session: &Session) -> Result<Value, CallError> {
    call(session, "demo/echo", &json!(1)).await
}
