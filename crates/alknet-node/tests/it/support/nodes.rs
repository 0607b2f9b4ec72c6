//! Nodes of a test, alone and in pairs.

use super::{SOON, eventually};
use alknet_call::Client;
use alknet_core::{
    CallError,
    storage::{SharedClock, Timestamp, system_clock},
};
use alknet_node::{Node, NodeBuilder};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    ops::Deref,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// Describes a node that is reached over loopback alone and asks nobody's
/// servers.
pub(crate) fn builder(dir: &Path, name: &str) -> NodeBuilder {
    Node::builder()
        .data_dir(dir)
        .name(name)
        .bind("127.0.0.1:0".parse().unwrap())
        .relays(["none"])
}

/// What running calls get when a node is stopped.
pub(crate) const DRAIN: Duration = Duration::from_secs(15);

/// A node in a directory of its own.
pub(crate) struct TestNode {
    node: Option<Node>,
    name: String,
    pub(crate) dir: TempDir,
}

impl Deref for TestNode {
    type Target = Node;
    fn deref(&self) -> &Node {
        self.node.as_ref().unwrap()
    }
}

pub(crate) async fn start(name: &str) -> TestNode {
    start_with(name, |builder| builder).await
}

pub(crate) async fn start_with(
    name: &str,
    describe: impl FnOnce(NodeBuilder) -> NodeBuilder,
) -> TestNode {
    let dir = TempDir::with_prefix("alknet-").unwrap();
    let node = describe(builder(dir.path(), name)).spawn().await.unwrap();
    TestNode {
        node: Some(node),
        name: name.into(),
        dir,
    }
}

/// A node with this `alknet.toml`.
pub(crate) async fn start_configured(name: &str, config: &str) -> TestNode {
    let dir = TempDir::with_prefix("alknet-").unwrap();
    std::fs::write(dir.path().join("alknet.toml"), config).unwrap();
    let node = builder(dir.path(), name).spawn().await.unwrap();
    TestNode {
        node: Some(node),
        name: name.into(),
        dir,
    }
}

/// The part of a configuration that lets commands run, whoever runs the test.
pub(crate) fn runs_commands() -> String {
    match rustix::process::geteuid().is_root() {
        true => "[exec]\nuser = \"root\"\n".into(),
        false => String::new(),
    }
}

impl TestNode {
    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.status().addresses[0].parse().unwrap()
    }

    /// Calls its operations as its owner.
    pub(crate) async fn ask(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        self.client().call_json(operation, &input).await
    }

    /// The same, of which nothing can go wrong.
    #[track_caller]
    pub(crate) fn told(&self, operation: &str, input: Value) -> impl Future<Output = Value> {
        let asked_at = std::panic::Location::caller();
        let (client, operation) = (self.client(), operation.to_owned());
        async move {
            match client.call_json(&operation, &input).await {
                Ok(reply) => reply,
                Err(error) => panic!("{asked_at}: `{operation}` failed: {error:?}"),
            }
        }
    }

    /// A peer as it is listed here.
    pub(crate) async fn peer_shown(&self, peer: &str) -> Value {
        self.told("peers/show", json!({ "peer": peer })).await
    }

    /// A ticket as `invites/create` makes it.
    pub(crate) async fn ticket(&self, input: Value) -> String {
        let created = self.told("invites/create", input).await;
        created["ticket"].as_str().unwrap().to_owned()
    }

    /// Rows of the audit log that match, newest first, once there are any:
    /// they are written in batches.
    #[track_caller]
    pub(crate) fn audit(&self, filter: Value) -> impl Future<Output = Vec<Value>> {
        let client = self.client();
        eventually("audit rows", move || {
            let (client, filter) = (client.clone(), filter.clone());
            async move {
                let reply = client.call_json("audit/list", &filter).await.unwrap();
                let rows = reply["rows"].as_array().unwrap().clone();
                (!rows.is_empty()).then_some(rows)
            }
        })
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(node) = self.node.take() {
            node.shutdown(DRAIN).await;
        }
    }

    /// Ends it without a word to its store.
    pub(crate) fn kill(&mut self) {
        drop(self.node.take());
    }

    /// Starts it again with the same directory.
    pub(crate) async fn start_again(&mut self) {
        self.start_again_with(|builder| builder).await;
    }

    pub(crate) async fn start_again_with(
        &mut self,
        describe: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) {
        let spawned = describe(builder(self.dir.path(), &self.name)).spawn();
        self.node = Some(spawned.await.unwrap());
    }
}

/// Two nodes that know each other: `laptop` was invited by `home`.
pub(crate) struct Pair {
    pub(crate) home: TestNode,
    pub(crate) laptop: TestNode,
}

impl Pair {
    /// With what `home` gives and what `laptop` gives in return.
    pub(crate) async fn new(home_gives: &[&str], laptop_gives: &[&str]) -> Self {
        Self::with(home_gives, laptop_gives, |home| home, |laptop| laptop).await
    }

    pub(crate) async fn with(
        home_gives: &[&str],
        laptop_gives: &[&str],
        home: impl FnOnce(NodeBuilder) -> NodeBuilder,
        laptop: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Self {
        let (home, laptop) = tokio::join!(start_with("home", home), start_with("laptop", laptop));
        Self::of(home, laptop, home_gives, laptop_gives).await
    }

    pub(crate) async fn of(
        home: TestNode,
        laptop: TestNode,
        home_gives: &[&str],
        laptop_gives: &[&str],
    ) -> Self {
        let ticket = home.invite(home_gives).await.unwrap();
        assert_eq!(laptop.join(&ticket, laptop_gives).await.unwrap(), "home");
        let pair = Self { home, laptop };
        pair.linked().await;
        pair
    }

    /// Waits until each holds the other's operations.
    pub(crate) async fn linked(&self) {
        self.home.connected("laptop", SOON).await.unwrap();
        self.laptop.connected("home", SOON).await.unwrap();
    }

    /// Calls operations of `home` as `laptop`, through its own node.
    pub(crate) fn at_home(&self) -> Client {
        self.laptop.peer("home")
    }
}

/// A call that borrows nothing.
pub(crate) async fn ask(client: Client, operation: &str, input: Value) -> Result<Value, CallError> {
    client.call_json(operation, &input).await
}

/// A wall clock that can be put forward.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn shared(&self) -> SharedClock {
        let (ahead, system) = (self.0.clone(), system_clock());
        Arc::new(move || Timestamp(system().0 + ahead.load(Ordering::SeqCst)))
    }

    pub(crate) fn forward(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}
