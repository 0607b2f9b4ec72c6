//! Nodes, their operations, and sessions between them.

use alknet_call::{Client, Request, Session, SessionConfig};
use alknet_core::{
    CallError, Caller, Credential, Dispatcher, ErrorSpec, Identity, Operation, OperationName,
    PeerId, Registration, Registry, Scope, ScopeSet, StaticIdentities, transport::Connection,
};
use alknet_testkit::transport::{MemoryConnection, PairOptions, connection_pair};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

/// Counts how many of something are alive.
#[derive(Clone, Default)]
pub(crate) struct Alive {
    count: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

pub(crate) struct Guard(Alive);

impl Alive {
    pub(crate) fn guard(&self) -> Guard {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        Guard(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) async fn until(&self, wanted: usize) {
        loop {
            let changed = self.changed.notified();
            if self.count() == wanted {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// What every node of the tests offers.
pub(crate) fn operations(sleeping: &Alive, made: &Arc<AtomicUsize>) -> Vec<Registration> {
    let (asleep, made) = (sleeping.clone(), made.clone());
    vec![
        Operation::query("demo/echo", "Answers with its input.")
            .input_bytes_max(16 * 1024 * 1024)
            .handler(|_cx, input: Value| async move { Ok(input) }),
        Operation::query("demo/size", "Answers with the length of a text.")
            .input_bytes_max(16 * 1024 * 1024)
            .handler(|_cx, text: String| async move { Ok(text.len()) }),
        Operation::query("demo/text", "Answers with a text of so many bytes.")
            .handler(|_cx, bytes: usize| async move { Ok("x".repeat(bytes)) }),
        Operation::query("demo/sleep", "Sleeps until it is cancelled.").handler(
            move |_cx, (): ()| {
                let guard = asleep.guard();
                async move {
                    let _guard = guard;
                    pending::<Result<(), CallError>>().await
                }
            },
        ),
        Operation::query("demo/panic", "Panics.").handler(|_cx, n: u32| async move {
            assert!(n == 0, "as asked");
            Ok(n)
        }),
        Operation::mutation("demo/count", "Counts its calls.").handler({
            let made = made.clone();
            move |_cx, _input: Value| {
                let now = made.fetch_add(1, Ordering::SeqCst) + 1;
                async move { Ok(now) }
            }
        }),
        Operation::query("demo/fail", "Fails with a declared error.")
            .error(ErrorSpec::new("OUT_OF_INK", "No ink."))
            .handler(|_cx, details: Value| async move {
                let error = CallError::domain("OUT_OF_INK", "the ink is gone");
                Err::<(), _>(
                    error
                        .with_details(details)
                        .with_retry_after(Duration::from_millis(1500)),
                )
            }),
        Operation::query("demo/who", "Says who calls.").handler(|cx, (): ()| async move {
            Ok(json!({
                "caller": cx.principal().id(),
                "originator": cx.originator().map(ToString::to_string),
                "via": cx.via().len(),
                "trace": cx.trace().map(|trace| trace.0.clone()),
                "call_id": cx.call_id().to_string(),
                "surface": cx.surface().as_str(),
            }))
        }),
        Operation::query("demo/public", "Anyone may call it.")
            .public()
            .handler(|_cx, input: Value| async move { Ok(input) }),
        Operation::query("demo/private", "Exists only inside.")
            .internal()
            .handler(|_cx, (): ()| async move { Ok(()) }),
    ]
}

/// A node that can be connected to.
pub(crate) struct Node {
    pub(crate) door: Dispatcher,
    pub(crate) identities: Arc<StaticIdentities>,
    pub(crate) sleeping: Alive,
    pub(crate) made: Arc<AtomicUsize>,
}

pub(crate) fn alice() -> Credential {
    Credential::NodeKey([7; 32])
}

pub(crate) fn identity(id: &str, scopes: &[&str]) -> Identity {
    let mut held = ScopeSet::default();
    for scope in scopes {
        held.insert(Scope::parse(scope).unwrap());
    }
    Identity {
        scopes: held,
        ..Identity::empty(PeerId::parse(id).unwrap())
    }
}

impl Node {
    pub(crate) fn new(more: Vec<Registration>) -> Self {
        let sleeping = Alive::default();
        let made = Arc::default();
        let registry = Registry::new();
        registry.register(operations(&sleeping, &made)).unwrap();
        registry.register(more).unwrap();
        let identities = Arc::new(StaticIdentities::default());
        identities.put(alice(), identity("alice", &["*"]));
        let door = Dispatcher::builder(registry)
            .identities(identities.clone())
            .node("bobs", [2; 32])
            .build();
        Self {
            door,
            identities,
            sleeping,
            made,
        }
    }

    pub(crate) fn alice(&self) -> Caller {
        Caller::resolve(&*self.identities, alice()).unwrap()
    }
}

/// A session to a node, and what holds the other end.
pub(crate) struct Pair {
    pub(crate) session: Arc<Session>,
    pub(crate) served: Arc<Session>,
    pub(crate) connection: Arc<MemoryConnection>,
    pub(crate) their_connection: Arc<MemoryConnection>,
}

pub(crate) async fn connect(node: &Node) -> Pair {
    connect_as(node, node.alice()).await
}

pub(crate) async fn connect_as(node: &Node, caller: Caller) -> Pair {
    connect_with(
        node,
        caller,
        PairOptions::default(),
        SessionConfig::default(),
    )
    .await
}

pub(crate) async fn connect_with(
    node: &Node,
    caller: Caller,
    options: PairOptions,
    config: SessionConfig,
) -> Pair {
    let (ours, theirs) = connection_pair(options);
    let (session, served) = tokio::join!(
        Session::start(ours.clone(), None, Caller::anonymous(), config),
        Session::start(
            theirs.clone(),
            Some(node.door.clone()),
            caller,
            SessionConfig::default()
        ),
    );
    Pair {
        session: session.unwrap(),
        served: served.unwrap(),
        connection: ours,
        their_connection: theirs,
    }
}

impl Pair {
    pub(crate) fn client(&self) -> Client {
        Client::over(self.session.clone())
    }
}

pub(crate) fn request(operation: &str, input: &Value) -> Request {
    Request::new(
        OperationName::parse(operation).unwrap(),
        Bytes::from(input.to_string()),
    )
}

/// A session to a node whose other end is spoken by hand.
pub(crate) async fn serve_raw(node: &Node) -> (Arc<MemoryConnection>, Arc<Session>) {
    serve_raw_as(node, node.alice()).await
}

pub(crate) async fn serve_raw_as(
    node: &Node,
    caller: Caller,
) -> (Arc<MemoryConnection>, Arc<Session>) {
    let (ours, theirs) = connection_pair(PairOptions::default());
    let said = async {
        say_hello(&*ours).await;
        let hello = ours.accept_uni().await.unwrap();
        drop(hello);
    };
    let served = Session::start(
        theirs,
        Some(node.door.clone()),
        caller,
        SessionConfig::default(),
    );
    let (served, ()) = tokio::join!(served, said);
    (ours, served.unwrap())
}

pub(crate) async fn say_hello(connection: &dyn Connection) {
    use tokio::io::AsyncWriteExt;
    let mut send = connection.open_uni().await.unwrap();
    send.write_all(&hello(None).to_bytes()).await.unwrap();
    send.finish();
}

pub(crate) fn hello(credential: Option<alknet_call::Bearer>) -> alknet_call::Frame {
    alknet_call::Frame::Hello(
        alknet_call::Hello {
            versions: vec![1],
            software: "test/1".into(),
            node_name: "by-hand".into(),
            limits: alknet_call::PeerLimits {
                frame_bytes_max: 16 * 1024 * 1024,
                chunk_bytes_max: 256 * 1024,
                item_window_bytes: 256 * 1024,
                channel_window_bytes: 1024 * 1024,
            },
            features: vec!["future".into()],
        },
        credential,
    )
}

/// Lets every task run until it waits.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
