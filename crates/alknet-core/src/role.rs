//! Grants and the roles that bundle them.

use crate::{
    identity::Identity,
    name::{NameError, OperationName, RoleName, Scope},
    near::brief,
    resource::{ResourceError, ResourceGrant, ResourceKind},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// One thing that can be granted, as written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantTarget {
    /// A role by name: `editor`.
    Role(RoleName),
    /// An operation's whole access rule, for that operation only.
    Operation(OperationName),
    /// A scope: `deploy:write`.
    Scope(Scope),
    /// A resource: `bucket:www/public/**=read`.
    Resource(ResourceGrant),
    /// A resource that is never covered, whatever else is held:
    /// `!bucket:www/secret/**=read`.
    Deny(ResourceGrant),
}

/// Why a text is not a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A name inside it is malformed.
    #[error("`{target}` is neither a role, an operation, a scope nor a resource: {source}")]
    Name {
        /// The text.
        target: String,
        /// What is wrong.
        source: NameError,
    },
    /// A resource inside it is malformed.
    #[error("`{target}` is not a resource: {source}")]
    Resource {
        /// The text.
        target: String,
        /// What is wrong.
        source: ResourceError,
    },
    /// The part before the first colon is no kind of resource.
    #[error("`{target}` names no kind of resource: one of bucket, net, command, peer, topic")]
    Kind {
        /// The text.
        target: String,
    },
}

impl GrantTarget {
    /// Parses `editor`, `deploy/restart`, `deploy:write`, `kind:pattern=actions`
    /// or `!kind:pattern=actions`.
    ///
    /// # Errors
    ///
    /// [`TargetError`] that names the text.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let name = |source| TargetError::Name {
            target: brief(text).into(),
            source,
        };
        if let Some(denied) = text.strip_prefix('!') {
            return parse_resource(text, denied).map(Self::Deny);
        }
        if text.contains('=') {
            return parse_resource(text, text).map(Self::Resource);
        }
        if text == "*" || text.contains(':') {
            return Scope::parse(text).map(Self::Scope).map_err(name);
        }
        if text.contains('/') {
            return OperationName::parse(text)
                .map(Self::Operation)
                .map_err(name);
        }
        RoleName::parse(text).map(Self::Role).map_err(name)
    }
}

fn parse_resource(target: &str, text: &str) -> Result<ResourceGrant, TargetError> {
    let no_kind = || TargetError::Kind {
        target: brief(target).into(),
    };
    let (kind, rest) = text.split_once(':').ok_or_else(no_kind)?;
    let kind = ResourceKind::parse(kind).ok_or_else(no_kind)?;
    let (pattern, actions) = rest.rsplit_once('=').unwrap_or((rest, ""));
    let actions: Vec<&str> = actions
        .split(',')
        .filter(|action| !action.is_empty())
        .collect();
    ResourceGrant::parse(kind, pattern, &actions).map_err(|source| TargetError::Resource {
        target: brief(target).into(),
        source,
    })
}

impl fmt::Display for GrantTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::Operation(name) => name.fmt(f),
            Self::Scope(scope) => scope.fmt(f),
            Self::Resource(grant) => grant.fmt(f),
            Self::Deny(grant) => write!(f, "!{grant}"),
        }
    }
}

impl FromStr for GrantTarget {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        Self::parse(text)
    }
}

impl Serialize for GrantTarget {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GrantTarget {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

/// What was given to a peer, group or key: targets, in the order given,
/// without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(Vec<GrantTarget>);

impl Grants {
    /// Adds a target; `false` if it was there.
    pub fn add(&mut self, target: GrantTarget) -> bool {
        let new = !self.0.contains(&target);
        if new {
            self.0.push(target);
        }
        new
    }

    /// Removes a target; `false` if it was not there.
    pub fn remove(&mut self, target: &GrantTarget) -> bool {
        let before = self.0.len();
        self.0.retain(|held| held != target);
        self.0.len() != before
    }

    /// The targets.
    pub fn iter(&self) -> impl Iterator<Item = &GrantTarget> {
        self.0.iter()
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<GrantTarget> for Grants {
    fn from_iter<I: IntoIterator<Item = GrantTarget>>(targets: I) -> Self {
        let mut grants = Self::default();
        for target in targets {
            grants.add(target);
        }
        grants
    }
}

/// A named bundle of grants. Roles contain no roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: RoleName,
    /// What it gives, in a sentence.
    pub summary: String,
    /// What it gives.
    pub grants: Grants,
}

/// The roles that exist: the built-in five and the configured ones.
#[derive(Clone, Debug)]
pub struct RoleSet {
    roles: BTreeMap<RoleName, Role>,
}

const BUILTIN: &[(&str, &str, &[&str])] = &[
    ("none", "Nothing.", &[]),
    (
        "reader",
        "Reads and lists all buckets.",
        &["fs:read", "fs:list", "bucket:*=read,list"],
    ),
    (
        "editor",
        "Reads, lists and writes all buckets.",
        &["fs:read", "fs:list", "fs:write", "bucket:*=read,list,write"],
    ),
    (
        "operator",
        "Runs any program as the node's user, opens connections, and calls the configured operations.",
        &[
            "shell:*",
            "net:*",
            "node:read",
            "peers:list",
            "command:*=*",
            "net:*=*",
            "!net:169.254.0.0/16=*",
            "!net:fe80::/10=*",
            "!net:fd00:ec2::/32=*",
            "!net:fd20:ce::254=*",
            "!net:168.63.129.16=*",
            "!net:100.100.100.200=*",
            "!net:192.0.0.192=*",
        ],
    ),
    (
        "admin",
        "Everything, including to run any program as the node's user.",
        &[
            "*",
            "bucket:*=*",
            "net:*=*",
            "command:*=*",
            "peer:*=*",
            "topic:*=*",
        ],
    ),
];

impl Default for RoleSet {
    fn default() -> Self {
        Self::new([], [])
    }
}

impl RoleSet {
    /// The built-in roles, the configured ones, and the scopes of configured
    /// operations, which `operator` holds too. A configured role of a
    /// built-in's name replaces nothing: see [`RoleSet::is_builtin`].
    #[must_use]
    pub fn new(
        configured: impl IntoIterator<Item = Role>,
        operator_scopes: impl IntoIterator<Item = Scope>,
    ) -> Self {
        let mut roles: BTreeMap<RoleName, Role> = configured
            .into_iter()
            .map(|role| (role.name.clone(), role))
            .collect();
        for (name, summary, targets) in BUILTIN {
            let name = RoleName::parse(name).expect("a literal slug");
            let grants = targets
                .iter()
                .map(|text| GrantTarget::parse(text).expect("a literal grant"))
                .collect();
            roles.insert(
                name.clone(),
                Role {
                    name,
                    summary: (*summary).into(),
                    grants,
                },
            );
        }
        if let Some(operator) = roles.get_mut("operator") {
            for scope in operator_scopes {
                operator.grants.add(GrantTarget::Scope(scope));
            }
        }
        Self { roles }
    }

    /// Whether a name belongs to a built-in role.
    #[must_use]
    pub fn is_builtin(name: &str) -> bool {
        BUILTIN.iter().any(|(builtin, ..)| *builtin == name)
    }

    /// The role of that name.
    #[must_use]
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    /// All roles, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// Adds what `grants` give to `identity`. A role that no longer exists
    /// gives nothing.
    pub fn add_to(&self, grants: &Grants, identity: &mut Identity) {
        for (_, target) in self.plain(grants) {
            add_plain(target, identity);
        }
    }

    /// What `grants` give once roles are opened, each with the role that has
    /// it.
    pub(crate) fn plain<'a>(
        &'a self,
        grants: &'a Grants,
    ) -> impl Iterator<Item = (Option<&'a RoleName>, &'a GrantTarget)> {
        grants.iter().flat_map(|target| {
            let (role, given) = match target {
                GrantTarget::Role(name) => {
                    let role = self.roles.get(name);
                    (Some(name), role.map_or(&[][..], |role| &role.grants.0))
                }
                plain => (None, std::slice::from_ref(plain)),
            };
            given.iter().map(move |target| (role, target))
        })
    }
}

fn add_plain(target: &GrantTarget, identity: &mut Identity) {
    match target {
        GrantTarget::Scope(scope) => identity.scopes.insert(scope.clone()),
        GrantTarget::Operation(name) => drop(identity.operations.insert(name.clone())),
        GrantTarget::Resource(grant) => identity.resources.allow.push(grant.clone()),
        GrantTarget::Deny(grant) => identity.resources.deny.push(grant.clone()),
        GrantTarget::Role(_) => {}
    }
}

/// Gives everything.
pub(crate) fn everything(identity: &mut Identity) {
    let admin = GrantTarget::Role(RoleName::parse("admin").expect("a literal slug"));
    RoleSet::default().add_to(&Grants::from_iter([admin]), identity);
    identity.operations = BTreeSet::new();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::name::PeerId;

    #[test]
    fn targets_read_back_as_written() {
        for text in [
            "editor",
            "deploy/restart",
            "deploy:write",
            "*",
            "fs:*",
            "bucket:www/public/**=read",
            "net:db.lan:5432=dial",
            "peer:nas=fs/*",
            "peer:hub/nas=fs/*",
            "!peer:hub/nas/any=shell/exec,fs/*",
            "!bucket:www/**=read,write",
            "net:[::1]:80=dial",
        ] {
            assert_eq!(GrantTarget::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "Editor",
            "deploy/",
            "bucket:www",
            "disk:x=read",
            "bucket:www=",
            "!editor",
            "bucket:../x=read",
            "a:*:b",
        ] {
            assert!(
                GrantTarget::parse(bad).is_err()
                    || matches!(GrantTarget::parse(bad), Ok(GrantTarget::Scope(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn roles_give_what_the_table_says() {
        let held = |role: &str| {
            let mut identity = Identity::empty(PeerId::parse("bob").unwrap());
            let roles = RoleSet::new([], [Scope::parse("deploy:write").unwrap()]);
            roles.add_to(
                &Grants::from_iter([GrantTarget::parse(role).unwrap()]),
                &mut identity,
            );
            identity
        };
        let scope = |text| Scope::parse(text).unwrap();
        assert_eq!(held("none"), Identity::empty(PeerId::parse("bob").unwrap()));
        assert!(
            held("reader").scopes.holds(&scope("fs:list"))
                && !held("reader").scopes.holds(&scope("fs:write"))
        );
        assert!(
            held("editor")
                .resources
                .holds(ResourceKind::Bucket, "write", "www/a")
        );
        let operator = held("operator");
        assert!(
            operator.scopes.holds(&scope("shell:exec"))
                && operator.scopes.holds(&scope("deploy:write"))
        );
        assert!(
            !operator.scopes.holds(&scope("peers:grant"))
                && !operator
                    .resources
                    .holds(ResourceKind::Bucket, "read", "www")
        );
        assert!(
            operator
                .resources
                .holds(ResourceKind::Net, "dial", "10.0.0.1:80")
        );
        assert!(
            !operator
                .resources
                .holds(ResourceKind::Net, "dial", "169.254.169.254:80")
        );
        assert!(
            held("admin").scopes.holds(&scope("peers:grant"))
                && held("admin")
                    .resources
                    .holds(ResourceKind::Peer, "fs/read", "nas")
        );
        assert_eq!(held("gone"), held("none"));
    }
}
