//! What identities and the audit log cost each call.

use alknet_core::{
    ApiKey, ApiKeyProof, AuditLost, AuditRow, AuditSink, AuditWriter, Call, Caller, Credential,
    Dispatcher, IdentityProvider, KeyId, Operation, OperationName, PeerId, Registry, RoleSet,
    storage::{
        ApiKeyRecord, AuditLog, IdentityChange, IdentityIndex, IdentitySnapshot, IdentityStore,
        NodeKey, PeerAddresses, PeerRecord, StoreError, Timestamp, system_clock,
    },
};
use alknet_store::Store;
use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::HashMap,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lookup {
    /// A key in a plain `HashMap`.
    Map,
    /// A node key.
    NodeKey,
    /// An API key that was parsed before, as for each call of a connection.
    ApiKey,
    /// An API key from its text: parsed, hashed and compared.
    ApiKeyText,
}

impl Lookup {
    pub(super) const ALL: [Self; 4] = [
        Lookup::Map,
        Lookup::NodeKey,
        Lookup::ApiKey,
        Lookup::ApiKeyText,
    ];
}

/// Identities that do not change.
struct Fixed(IdentitySnapshot);

fn fixed<T>() -> Result<T, StoreError> {
    Err(StoreError::backend("these identities do not change"))
}

#[async_trait::async_trait]
impl IdentityStore for Fixed {
    async fn load(&self) -> Result<IdentitySnapshot, StoreError> {
        Ok(self.0.clone())
    }

    async fn apply(&self, _: IdentityChange, _: AuditRow) -> Result<(), StoreError> {
        fixed()
    }

    async fn seen(
        &self,
        _: &PeerId,
        _: Timestamp,
        _: Option<PeerAddresses>,
    ) -> Result<(), StoreError> {
        fixed()
    }

    async fn keys_used(&self, _: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        fixed()
    }
}

/// Peers with what proves them.
pub(super) struct Known {
    index: IdentityIndex,
    map: HashMap<[u8; 32], Arc<str>>,
    keys: Vec<[u8; 32]>,
    node_keys: Vec<Credential>,
    api_keys: Vec<Credential>,
    texts: Vec<ApiKey>,
}

/// So many peers, each with a node key and an API key.
pub(super) async fn known(count: usize) -> Result<Known> {
    let mut snapshot = IdentitySnapshot::default();
    let (mut keys, mut texts) = (Vec::new(), Vec::new());
    for number in 0..count as u64 {
        let id = PeerId::parse(&format!("peer-{number}"))?;
        let key = spread(number);
        snapshot.peers.push(PeerRecord {
            node_keys: vec![NodeKey { key, until: None }],
            ..PeerRecord::new(id.clone(), Timestamp(0))
        });
        let short = number.to_be_bytes();
        let text = ApiKey::of_random([short[3], short[4], short[5], short[6], short[7]], &key);
        let proof = ApiKeyProof::parse(text.expose())?;
        snapshot.keys.push(ApiKeyRecord {
            id: *proof.id(),
            peer: id,
            name: "bench".into(),
            secret_hash: *proof.secret_hash(),
            grants: None,
            created_at: Timestamp(0),
            expires_at: None,
            last_used_at: None,
        });
        keys.push(key);
        texts.push(text);
    }
    let proofs = texts.iter().map(|text| ApiKeyProof::parse(text.expose()));
    let api_keys = proofs
        .map(|proof| proof.map(Credential::ApiKey))
        .collect::<Result<_, _>>()?;
    let store = Arc::new(Fixed(snapshot));
    Ok(Known {
        index: IdentityIndex::load(store, RoleSet::default(), system_clock()).await?,
        map: keys.iter().map(|key| (*key, Arc::from("peer"))).collect(),
        node_keys: keys.iter().map(|key| Credential::NodeKey(*key)).collect(),
        keys,
        api_keys,
        texts,
    })
}

/// Bytes that look like a key.
fn spread(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    for (at, part) in key.chunks_mut(8).enumerate() {
        let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ at as u64);
        part.copy_from_slice(&mixed.rotate_left(29).to_le_bytes());
    }
    key
}

impl Known {
    /// Nanoseconds of a look-up, on average of so many.
    pub(super) fn turn(&self, lookup: Lookup, lookups: usize) -> f64 {
        let start = Instant::now();
        match lookup {
            Lookup::Map => {
                for key in self.keys.iter().cycle().take(lookups) {
                    black_box(self.map.get(black_box(key)).cloned());
                }
            }
            Lookup::NodeKey => self.resolve(&self.node_keys, lookups),
            Lookup::ApiKey => self.resolve(&self.api_keys, lookups),
            Lookup::ApiKeyText => {
                for text in self.texts.iter().cycle().take(lookups) {
                    let proof = ApiKeyProof::parse(black_box(text.expose()));
                    let proof = proof.map(Credential::ApiKey);
                    black_box(proof.ok().and_then(|proof| self.index.resolve(&proof)));
                }
            }
        }
        start.elapsed().as_nanos() as f64 / lookups as f64
    }

    fn resolve(&self, credentials: &[Credential], lookups: usize) {
        for credential in credentials.iter().cycle().take(lookups) {
            black_box(self.index.resolve(black_box(credential)));
        }
    }
}

/// Calls through two doors, of which one keeps an audit log on disk.
pub(super) struct DoorTurn {
    /// Nanoseconds of a call that leaves no row.
    pub(super) plain_ns: f64,
    /// The same of one that does.
    pub(super) audited_ns: f64,
    /// Rows a second, from the first call until the last row is durable.
    pub(super) rows_per_second: f64,
}

/// A door with an audit log in SQLite, and one without.
pub(super) struct Doors {
    plain: Dispatcher,
    audited: Dispatcher,
    store: Store,
    stop: oneshot::Sender<()>,
    writer: JoinHandle<Result<(), AuditLost>>,
}

fn door(audit: AuditSink) -> Result<Dispatcher> {
    let registry = Registry::new();
    let echo = Operation::query("bench/double", "Doubles a number.")
        .example(json!(21), json!(42))
        .handler(|_cx, n: u32| async move { Ok(n.wrapping_mul(2)) });
    registry.register(vec![echo])?;
    Ok(Dispatcher::builder(registry).audit(audit).build())
}

impl Doors {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let store = Store::open(path)?;
        let (sink, writer) = AuditWriter::new();
        let (stop, stopped) = oneshot::channel();
        let log = Arc::new(store.clone());
        let stopped = async move {
            // A sender that is gone stops it too.
            let _ = stopped.await;
        };
        Ok(Self {
            plain: door(AuditSink::discard())?,
            audited: door(sink)?,
            writer: tokio::spawn(writer.run(log, stopped)),
            store,
            stop,
        })
    }

    /// One turn of each; a row counts when it is durable.
    pub(super) async fn turn(&self, most: Duration) -> Result<DoorTurn> {
        let (count, took) = calls(&self.plain, most).await?;
        let plain_ns = took.as_nanos() as f64 / count as f64;
        let mut written = self.store.written();
        let before = *written.borrow_and_update();
        let start = Instant::now();
        let (count, took) = calls(&self.audited, most).await?;
        let all = written.wait_for(|now| *now >= before + count).await;
        drop(all.context("the store has ended")?);
        Ok(DoorTurn {
            plain_ns,
            audited_ns: took.as_nanos() as f64 / count as f64,
            rows_per_second: count as f64 / start.elapsed().as_secs_f64(),
        })
    }

    /// Writes what is left, and closes the file.
    pub(super) async fn close(self) -> Result<()> {
        // The writer may have ended by itself, which it says below.
        let _ = self.stop.send(());
        self.writer.await??;
        self.store.close().await;
        Ok(())
    }
}

/// One call after the other, on a thread of the runtime.
async fn calls(door: &Dispatcher, most: Duration) -> Result<(u64, Duration)> {
    let door = door.clone();
    let calling = async move {
        let name = OperationName::parse("bench/double")?;
        let (caller, input) = (Caller::host(), Bytes::from_static(b"21"));
        let (start, mut count) = (Instant::now(), 0_u64);
        while start.elapsed() < most {
            for _ in 0..16 {
                let call = Call::named(name.clone(), caller.clone()).input_json(input.clone());
                black_box(door.call(call).await?);
            }
            count += 16;
        }
        anyhow::Ok((count, start.elapsed()))
    };
    tokio::spawn(calling).await?
}
