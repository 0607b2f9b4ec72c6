//! A node as a case has it.

use super::case::{Case, Laptops, ROLES};
use crate::world::{echo, name, peer, route};
use alknet_core::{
    ApiKey, ApiKeyProof, AuditRow, Call, CallError, Caller, Change, Credential, Dispatcher,
    ErrorCode, Explanation, GrantTarget, Grants, GroupName, Input, Operation, Question, Registry,
    Role, RoleName, RoleSet,
    storage::{
        ApiKeyRecord, IdentityChange, IdentityIndex, MemoryIdentityStore, NodeKey, PeerRecord,
        Standing, Timestamp,
    },
};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};

/// A node with one peer, one group, one key.
pub(super) struct House {
    pub(super) index: Arc<IdentityIndex>,
    pub(super) registry: Registry,
    pub(super) door: Dispatcher,
    pub(super) key: ApiKey,
}

pub(super) fn parsed(texts: &[&str]) -> Grants {
    let parse = |text: &&str| GrantTarget::parse(text).unwrap();
    texts.iter().map(parse).collect()
}

pub(super) fn row() -> AuditRow {
    AuditRow::event(Timestamp(0), "owner", "peers/update")
}

pub(super) const NOW: i64 = 1_000_000;
pub(super) const OVER: Timestamp = Timestamp(NOW - 1);
pub(super) const NODE_KEY: [u8; 32] = [7; 32];

impl House {
    pub(super) async fn of(case: &Case) -> Self {
        let roles = ROLES.iter().map(|(role, given)| Role {
            name: RoleName::parse(role).unwrap(),
            summary: "Some.".into(),
            grants: parsed(given),
        });
        let store = Arc::new(MemoryIdentityStore::default());
        let clock = Arc::new(|| Timestamp(NOW));
        let roles = RoleSet::new(roles, []);
        let index = Arc::new(IdentityIndex::load(store, roles, clock).await.unwrap());
        let registry = Registry::new();
        let door = Dispatcher::builder(registry.clone())
            .identities(index.clone())
            .owners(Arc::new(Laptops))
            .known_peers(|| vec![peer("nas")])
            .build();
        let other = Operation::query("demo/other", "Is another one.").raw(echo());
        registry.register(vec![other]).unwrap();
        let change = match case.at {
            None => Change::AddLocal(vec![case.operation()]),
            Some(_) => Change::SetPeer(peer("nas"), vec![case.operation()]),
        };
        registry.apply(change).unwrap();
        let house = Self {
            index,
            registry,
            door,
            key: ApiKey::of_random([3; 5], &[9; 32]),
        };
        house.admit(case).await;
        house
    }

    async fn admit(&self, case: &Case) {
        let group = GroupName::parse("crews").unwrap();
        let mut laptop = PeerRecord {
            grants: parsed(&case.own),
            enabled: case.enabled,
            expires_at: case.access_over.then_some(OVER),
            node_keys: vec![NodeKey {
                key: NODE_KEY,
                until: None,
            }],
            ..PeerRecord::new(peer("laptop"), Timestamp(0))
        };
        if case.group.is_some() {
            laptop.groups = BTreeSet::from([group.clone()]);
        }
        self.apply(IdentityChange::AddPeer(laptop)).await;
        // The others' group gives nothing to this peer.
        let others = GroupName::parse("others").unwrap();
        self.apply(IdentityChange::PutGroup {
            group: others,
            grants: parsed(&["*", "bucket:*=*", "demo/thing", "peer:*=*"]),
        })
        .await;
        if let Some(grants) = &case.group {
            let grants = parsed(grants);
            self.apply(IdentityChange::PutGroup { group, grants }).await;
        }
        if let Some(key) = &case.key {
            let proof = ApiKeyProof::parse(self.key.expose()).unwrap();
            let key = ApiKeyRecord {
                id: *proof.id(),
                peer: peer("laptop"),
                name: "agent".into(),
                secret_hash: *proof.secret_hash(),
                grants: key.grants.as_deref().map(parsed),
                created_at: Timestamp(0),
                expires_at: key.over.then_some(OVER),
                last_used_at: None,
            };
            self.apply(IdentityChange::AddKey {
                key,
                newcomer: None,
            })
            .await;
        }
    }

    pub(super) async fn apply(&self, change: IdentityChange) {
        self.index.apply(change, row()).await.unwrap();
    }

    pub(super) fn standing(&self, case: &Case) -> Standing {
        let proof = ApiKeyProof::parse(self.key.expose()).unwrap();
        let key = case.key.is_some().then(|| proof.id());
        self.index.standing("laptop", key, &*self.index).unwrap()
    }

    pub(super) fn explain(&self, case: &Case) -> Explanation {
        self.explain_with(case, Some(case.input()))
    }

    pub(super) fn explain_with(&self, case: &Case, input: Option<Value>) -> Explanation {
        let standing = self.standing(case);
        let question = Question {
            caller: &standing,
            operation: name("demo/thing"),
            route: case.at.map(route).unwrap_or_default(),
            input: input.map(Input::Value),
        };
        self.door.explain(question).unwrap()
    }

    /// A real call, as a surface makes it.
    pub(super) async fn call(&self, case: &Case) -> Result<Value, CallError> {
        let credential = match &case.key {
            None => Credential::NodeKey(NODE_KEY),
            Some(_) => Credential::ApiKey(ApiKeyProof::parse(self.key.expose()).unwrap()),
        };
        // A surface closes what does not resolve, as the door does.
        let Some(caller) = Caller::resolve(&*self.index, credential) else {
            return Err(CallError::new(ErrorCode::Unauthenticated, "not known"));
        };
        let call = Call::named(name("demo/thing"), caller)
            .on(case.at.map(route).unwrap_or_default())
            .input(&case.input());
        self.door.call(call).await?.into_output().into_value()
    }
}
