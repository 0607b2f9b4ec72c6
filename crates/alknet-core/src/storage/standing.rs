//! How a peer stands: whether it is let in, as whom, and where each of its
//! rights comes from. What `explain` asks about.

use super::{
    ApiKeyRecord, IdentityIndex, IdentitySnapshot, PeerRecord, Timestamp,
    index::{compile, ssh_credentials, under_key},
};
use crate::{
    api_key::{ApiKeyProof, KeyId},
    error::CallError,
    explain::{Stage, Step},
    gate::unauthenticated,
    identity::{Caller, Credential, IdentityProvider},
    name::{GroupName, RoleName},
    role::{GrantTarget, RoleSet},
};
use std::{fmt, sync::Arc};

/// Where a right comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantSource {
    /// The group it was given to; `None` if to the peer, or to its key.
    pub group: Option<GroupName>,
    /// The role that has it; `None` if it was given by itself.
    pub role: Option<RoleName>,
    /// Whether it is what a key allows at most.
    pub of_key: bool,
}

impl fmt::Display for GrantSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Some(role) => write!(f, "role `{role}`")?,
            None if self.group.is_none() => return f.write_str(self.own()),
            None => f.write_str("grant")?,
        }
        match &self.group {
            Some(group) => write!(f, " of group `{group}`"),
            None if self.of_key => f.write_str(" of the key"),
            None => Ok(()),
        }
    }
}

impl GrantSource {
    /// Whether it was given to the peer itself, by itself.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.group.is_none() && self.role.is_none() && !self.of_key
    }

    fn own(&self) -> &'static str {
        if self.of_key {
            "grant of the key"
        } else {
            "own grant"
        }
    }
}

/// Something held, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldGrant {
    /// An operation, a scope, a resource, or one that is denied.
    pub target: GrantTarget,
    /// Where from.
    pub source: GrantSource,
}

/// How a caller stands before it asks for anything.
#[derive(Clone, Debug)]
pub struct Standing {
    caller: Caller,
    steps: Vec<Step>,
    refused: Option<CallError>,
    held: Vec<HeldGrant>,
}

impl Standing {
    /// Of a caller that is let in; where its rights come from is not known.
    #[must_use]
    pub fn of(caller: Caller) -> Self {
        Self {
            caller,
            steps: Vec::new(),
            refused: None,
            held: Vec::new(),
        }
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn refused(&self) -> Option<CallError> {
        self.refused.clone()
    }

    /// Where what decided a step comes from: every grant that gives it.
    pub fn sources<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = &'a GrantSource> {
        let held = self.held.iter().filter(|held| {
            Some(&held.target) == step.by.as_ref() && held.source.of_key == step.of_key
        });
        held.map(|held| &held.source)
    }
}

impl IdentityIndex {
    /// How a peer stands now, by the first of its credentials that is let in,
    /// or by one of its API keys. `None` if there is no such peer, or if it
    /// has no such key. `let_in` resolves credentials for calls: this index, or
    /// one over it that knows more reasons to keep somebody out.
    ///
    /// A peer that is kept out (disabled, its access over, no credential that
    /// counts) is said to be so, and stands with what it would hold.
    #[must_use]
    pub fn standing(
        &self,
        peer: &str,
        key: Option<&KeyId>,
        let_in: &dyn IdentityProvider,
    ) -> Option<Standing> {
        let snapshot = self.snapshot();
        let peer = snapshot
            .peers
            .iter()
            .find(|held| held.id.as_str() == peer)?;
        let keys = snapshot.keys.iter().filter(|held| held.peer == peer.id);
        let keys: Vec<&ApiKeyRecord> = match key {
            None => keys.collect(),
            Some(id) => vec![keys.into_iter().find(|held| held.id == *id)?],
        };
        let now = self.now();
        let mut steps = of_record(peer, now);
        let proofs = credentials(peer, &keys, key.is_some());
        let mut caller = None;
        let mut banned = false;
        for (credential, until) in &proofs {
            caller = Caller::resolve(let_in, credential.clone());
            let told = told(credential, *until, now);
            if caller.is_some() {
                steps.push(Step::passes(Stage::Caller, format!("known by {told}")));
                break;
            }
            let barred = self.resolve(credential).is_some();
            banned |= barred;
            let why = if barred { ": banned" } else { "" };
            steps.push(Step::notes(Stage::Caller, format!("not by {told}{why}")));
        }
        let refused = caller.is_none().then(unauthenticated);
        if caller.is_none() {
            let text = match banned {
                true => "is banned",
                false if proofs.is_empty() => "has no key by which it could be known",
                false => "no key of it is accepted",
            };
            steps.push(Step::refuses(Stage::Caller, text));
        }
        let roles = self.roles();
        let presented = caller.as_ref().map_or(key, Caller::key);
        let presented = keys.iter().find(|held| Some(&held.id) == presented);
        let caller = caller.unwrap_or_else(|| {
            let identity = Arc::new(compile(peer, &snapshot, &roles));
            Caller::kept_out(match presented {
                Some(key) => under_key(&identity, key, &roles),
                None => identity,
            })
        });
        Some(Standing {
            caller,
            steps,
            refused,
            held: held(peer, &snapshot, &roles, presented.copied()),
        })
    }
}

/// Everything that gives a peer something, with roles opened.
fn held(
    peer: &PeerRecord,
    snapshot: &IdentitySnapshot,
    roles: &RoleSet,
    key: Option<&ApiKeyRecord>,
) -> Vec<HeldGrant> {
    let mut held = Vec::new();
    let mut add = |grants, group: Option<&GroupName>, of_key| {
        held.extend(roles.plain(grants).map(|(role, target)| HeldGrant {
            target: target.clone(),
            source: GrantSource {
                group: group.cloned(),
                role: role.cloned(),
                of_key,
            },
        }));
    };
    add(&peer.grants, None, false);
    for (group, grants) in &snapshot.groups {
        if peer.groups.contains(group) {
            add(grants, Some(group), false);
        }
    }
    if let Some(grants) = key.and_then(|key| key.grants.as_ref()) {
        add(grants, None, true);
    }
    held
}

/// What the peer's own row says.
fn of_record(peer: &PeerRecord, now: Timestamp) -> Vec<Step> {
    let mut steps = vec![match peer.enabled {
        true => Step::passes(Stage::Caller, format!("`{}` is a peer here", peer.id)),
        false => Step::refuses(Stage::Caller, format!("`{}` is disabled", peer.id)),
    }];
    if let Some(at) = peer.expires_at {
        steps.push(match at > now {
            true => Step::passes(Stage::Caller, format!("its access ends at {at}")),
            false => Step::refuses(Stage::Caller, format!("its access ended at {at}")),
        });
    }
    steps
}

type Proof = (Credential, Option<Timestamp>);

/// What proves a peer, in the order in which it is tried; or its key alone.
fn credentials(peer: &PeerRecord, keys: &[&ApiKeyRecord], only_key: bool) -> Vec<Proof> {
    let mut all = Vec::new();
    if !only_key {
        let node_keys = peer.node_keys.iter();
        all.extend(node_keys.map(|key| (Credential::NodeKey(key.key), key.until)));
        all.extend(ssh_credentials(peer).map(|credential| (credential, None)));
    }
    all.extend(keys.iter().map(|key| (of_key(key), key.expires_at)));
    all
}

fn of_key(key: &ApiKeyRecord) -> Credential {
    Credential::ApiKey(ApiKeyProof::stored(key.id, key.secret_hash))
}

fn told(credential: &Credential, until: Option<Timestamp>, now: Timestamp) -> String {
    let what = match credential {
        Credential::NodeKey(key) => {
            let key = super::hex32::encode(key);
            format!("node key `{}…`", key.get(..8).unwrap_or(&key))
        }
        Credential::SshKey(print) => format!("SSH key `{print}`"),
        Credential::SshPrincipal {
            authority,
            principal,
        } => format!("SSH certificates of `{authority}` for `{principal}`"),
        Credential::ApiKey(proof) => format!("API key `{}`", proof.id()),
    };
    match until {
        None => what,
        Some(at) if at > now => format!("{what}, which is accepted until {at}"),
        Some(at) => format!("{what}, which was accepted until {at}"),
    }
}
