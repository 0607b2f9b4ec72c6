//! The owner's program: it writes over the call protocol, and notes each write
//! once it is acknowledged.

use super::ledger::Ledger;
use crate::e2e::harness::Node;
use alknet::{
    CallError, Client, ProgramKey, Remote, Session,
    storage::{PeerAddresses, hex32},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::Runtime, task::JoinSet};

/// Writers at a time, over one connection.
const WRITERS: u64 = 6;

/// A connection as the owner.
pub(super) struct Owner {
    pub(super) runtime: Runtime,
    remote: Remote,
}

impl Owner {
    /// Connects to a node that runs.
    #[track_caller]
    pub(super) fn of(node: &Node) -> Self {
        Self::at(&node.data(), &node.status)
    }

    /// The same to a node by its data directory and what it said when it was
    /// ready.
    #[track_caller]
    pub(super) fn at(data: &Path, status: &Value) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let key = fs::read_to_string(data.join("owner.key")).unwrap();
        let key = ProgramKey::from_bytes(&hex32::decode(key.trim()).unwrap());
        let node_id = hex32::decode(status["node_id"].as_str().unwrap()).unwrap();
        let addresses = PeerAddresses {
            direct: serde_json::from_value(status["addresses"].clone()).unwrap(),
            relays: Vec::new(),
        };
        let remote = runtime
            .block_on(Remote::connect(&key, &node_id, &addresses))
            .unwrap();
        Self { runtime, remote }
    }

    pub(super) fn client(&self) -> &Client {
        self.remote.client()
    }

    /// Calls and waits.
    pub(super) fn call(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        let called = self.client().call_json(operation, &input);
        self.runtime.block_on(called)
    }
}

/// What happened while writers were at work.
#[derive(Default)]
pub(super) struct Noted {
    ledger: Mutex<Ledger>,
    /// Codes of refused calls, each with one message.
    refused: Mutex<Vec<(String, String)>>,
    /// When each acknowledgement came, in microseconds since 1970.
    at: Mutex<Vec<(u64, String)>>,
    acknowledged: AtomicU64,
}

impl Noted {
    fn take(&self, line: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = u64::try_from(at.as_micros()).unwrap();
        self.at.lock().unwrap().push((at, line.clone()));
        self.ledger.lock().unwrap().add(&line);
        self.acknowledged.fetch_add(1, Ordering::SeqCst);
    }

    fn refuse(&self, error: &CallError) {
        let mut refused = self.refused.lock().unwrap();
        let code = error.code.to_string();
        if !refused.iter().any(|(known, _)| *known == code) {
            refused.push((code, error.message.clone()));
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Codes and messages of what was refused.
    pub(super) fn refused(&self) -> Vec<(String, String)> {
        self.refused.lock().unwrap().clone()
    }

    /// Each acknowledgement with its moment, in the order of time.
    pub(super) fn moments(&self) -> Vec<(u64, String)> {
        let mut at = self.at.lock().unwrap().clone();
        at.sort();
        at
    }

    /// Adds what was acknowledged to what was before.
    pub(super) fn add_to(&self, ledger: &mut Ledger) {
        ledger.merge(&self.ledger.lock().unwrap());
    }
}

/// Writers at work; they end when dropped.
pub(super) struct Writers {
    tasks: JoinSet<()>,
    pub(super) noted: Arc<Noted>,
}

impl Writers {
    /// Starts them; `name` is in all they write. If `early`, they note what
    /// they are about to write, which is wrong: the tests must find it.
    pub(super) fn start(owner: &Owner, name: &str, early: bool) -> Self {
        let noted = Arc::new(Noted::default());
        let mut tasks = JoinSet::new();
        for writer in 0..WRITERS {
            let client = owner.client().timeout(Duration::from_secs(20));
            let one = Writer {
                client,
                noted: noted.clone(),
                name: format!("{name}-w{writer}"),
                early,
            };
            tasks.spawn_on(one.write(writer), owner.runtime.handle());
        }
        Self { tasks, noted }
    }

    /// Ends them where they are: what they wait for is never acknowledged.
    pub(super) fn end(mut self, owner: &Owner) -> Arc<Noted> {
        self.tasks.abort_all();
        owner
            .runtime
            .block_on(async { while self.tasks.join_next().await.is_some() {} });
        self.noted
    }
}

struct Writer {
    client: Client,
    noted: Arc<Noted>,
    name: String,
    early: bool,
}

impl Writer {
    /// Writes until it is ended, or the connection is.
    async fn write(self, first: u64) {
        for n in 0_u64.. {
            let id = format!("{}-n{n}", self.name);
            if self.early {
                self.noted.take(format!("peer {id}"));
            }
            match write_one(&self.client, first + n, &id).await {
                Ok(lines) => lines.into_iter().for_each(|line| self.noted.take(line)),
                Err(error) => {
                    self.noted.refuse(&error);
                    let ended = |session: &Arc<Session>| session.is_closed();
                    if self.client.session().is_none_or(ended) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            if self.early {
                return;
            }
        }
    }
}

/// A node key that is nobody's, and another one for each text: a point of the
/// curve, so it is derived.
pub(super) fn node_key(text: &str) -> String {
    let seed = blake3::hash(text.as_bytes());
    iroh::SecretKey::from_bytes(seed.as_bytes())
        .public()
        .to_string()
}

/// Does one write, of one kind after the other; what it is called in a
/// [`Ledger`], once it is acknowledged.
pub(super) async fn write_one(client: &Client, n: u64, id: &str) -> Result<Vec<String>, CallError> {
    let peer = json!({ "peer": id, "node_id": node_key(id) });
    match n % 6 {
        0 => {
            client.call_json("peers/add", &peer).await?;
            Ok(vec![format!("peer {id}")])
        }
        1 => {
            // The same call again is answered from what was kept of this one.
            let keyed = client.idempotency_key(id);
            let output = keyed.call_json("peers/add", &peer).await?;
            Ok(vec![format!("peer {id}"), format!("call {id} {output}")])
        }
        2 => {
            let invite = json!({ "name": id, "grants": [] });
            let made = client.call_json("invites/create", &invite).await?;
            let invite = made["id"].as_str().unwrap_or_default();
            let mut lines = vec![format!("invite {invite}")];
            // Only so many may be open at a time; some stay so.
            if !n.is_multiple_of(8) {
                let input = json!({ "id": invite });
                if client.call_json("invites/revoke", &input).await.is_ok() {
                    lines.push(format!("revoked {invite}"));
                }
            }
            Ok(lines)
        }
        3 => {
            // A key without a peer makes one for it, in the same transaction.
            let key = json!({ "name": id, "scopes": ["node:read"] });
            let made = client.call_json("keys/create", &key).await?;
            let key = made["id"].as_str().unwrap_or_default();
            Ok(vec![format!("key {key}"), format!("peer {id}")])
        }
        4 => {
            let account = format!("{id}-account");
            let secret = json!({ "provider": "faults", "account": account, "secret": id });
            client.call_json("credentials/put", &secret).await?;
            Ok(vec![format!("credential faults/{account}")])
        }
        _ => {
            client.call_json("peers/add", &peer).await?;
            let target = format!("given/{id}");
            let given = json!({ "peer": id, "targets": [target] });
            let mut lines = vec![format!("peer {id}")];
            if client.call_json("peers/grant", &given).await.is_ok() {
                lines.push(format!("grant {id} {target}"));
            }
            Ok(lines)
        }
    }
}
