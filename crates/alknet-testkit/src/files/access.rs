//! Callers and their permits.

use alknet_core::{
    Caller, Credential, Dispatcher, Handler, Identity, Operation, Output, PeerId, Permit,
    Registration, Registry, StaticIdentities,
};
use serde_json::Value;
use std::sync::Arc;

/// An operation, its scope, and actions with where their resources are.
type Stands = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

/// The permits that surfaces hold: an operation, and the actions that its rule
/// names.
const OPERATIONS: &[Stands] = &[
    ("fs/buckets", "fs:list", &[]),
    ("fs/list", "fs:list", &[("list", "/file")]),
    ("fs/watch", "fs:list", &[("list", "/file")]),
    ("fs/read", "fs:read", &[("read", "/file")]),
    ("fs/write", "fs:write", &[("write", "/file")]),
    (
        "fs/rename",
        "fs:write",
        &[("read", "/file"), ("write", "/file"), ("write", "/to")],
    ),
    (
        "fs/copy",
        "fs:write",
        &[("read", "/file"), ("write", "/to")],
    ),
    ("fs/gc", "fs:gc", &[("admin", "/file")]),
    // What no operation of the product does: all of it with one permit.
    (
        "test/all",
        "fs:write",
        &[
            ("list", "/file"),
            ("read", "/file"),
            ("write", "/file"),
            ("admin", "/file"),
        ],
    ),
];

/// A door with the operations above, and who may pass it.
#[derive(Debug)]
pub(super) struct Access {
    door: Dispatcher,
    identities: Arc<StaticIdentities>,
}

impl Access {
    pub(super) fn new() -> Self {
        let (registry, identities) = (Registry::new(), Arc::new(StaticIdentities::default()));
        registry
            .register(OPERATIONS.iter().map(registration).collect())
            .unwrap();
        let door = Dispatcher::builder(registry).identities(identities.clone());
        Self {
            door: door.build(),
            identities,
        }
    }

    /// A permit that covers everything, all actions with one.
    pub(super) fn all(&self) -> Permit {
        self.door.authorize(&Caller::host(), "test/all").unwrap()
    }

    /// Grants of a peer, as they are written on the command line; given again,
    /// they replace the ones before.
    pub(super) fn grant(&self, peer: &str, grants: &[&str]) {
        let id = PeerId::parse(peer).unwrap();
        let identity = Identity::granted(id, grants).unwrap();
        self.identities.put(credential(peer), identity);
    }

    /// Forgets a peer.
    pub(super) fn forget(&self, peer: &str) {
        self.identities.remove(&credential(peer));
    }

    /// A peer's permit for an operation, which the door must give.
    pub(super) fn permit(&self, peer: &str, operation: &str) -> Permit {
        let caller = Caller::resolve(&*self.identities, credential(peer)).unwrap();
        self.door.authorize(&caller, operation).unwrap()
    }
}

fn registration(operation: &Stands) -> Registration {
    let (name, scope, rules) = operation;
    let mut builder = Operation::query(name, "Stands for what a surface does.").requires(scope);
    for (action, pointer) in *rules {
        builder = builder.resource("bucket", action, pointer);
    }
    builder.raw(Handler::Unary(Arc::new(|_, _| {
        Box::pin(async { Ok(Output::Value(Value::Null)) })
    })))
}

/// A key of the peer.
fn credential(peer: &str) -> Credential {
    let mut key = [0; 32];
    key[..peer.len()].copy_from_slice(peer.as_bytes());
    Credential::NodeKey(key)
}
