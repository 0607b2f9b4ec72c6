//! Patterns with the actions they carry, and sets of them.

use super::{ResourceError, ResourceKind, ResourcePattern, invalid, is_plain_word};
use crate::name::OperationPattern;
use std::fmt;

/// A pattern with the actions it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceGrant {
    /// What it covers.
    pub pattern: ResourcePattern,
    /// `*`, an action's name, or for peers a pattern over operations.
    pub actions: Vec<String>,
}

impl ResourceGrant {
    /// Parses a pattern with its actions.
    ///
    /// # Errors
    ///
    /// [`ResourceError`] for a bad pattern, no actions, or (for peers) an
    /// action that is no operation pattern.
    pub fn parse(
        kind: ResourceKind,
        pattern: &str,
        actions: &[impl AsRef<str>],
    ) -> Result<Self, ResourceError> {
        if actions.is_empty() {
            return Err(ResourceError::NoAction {
                pattern: pattern.into(),
            });
        }
        for action in actions {
            let action = action.as_ref();
            let fine = if kind == ResourceKind::Peer {
                OperationPattern::parse(action).is_ok()
            } else {
                action == "*" || is_plain_word(action)
            };
            if !fine {
                return Err(invalid(
                    kind,
                    format!("`{}` is not an action", action.escape_debug()),
                ));
            }
        }
        let actions = actions
            .iter()
            .map(|action| action.as_ref().to_owned())
            .collect();
        Ok(Self {
            pattern: ResourcePattern::parse(kind, pattern)?,
            actions,
        })
    }

    /// Whether it carries `action`.
    #[must_use]
    pub fn carries(&self, action: &str) -> bool {
        self.actions.iter().any(|held| match self.pattern.kind {
            ResourceKind::Peer => OperationPattern::text_covers(held, action),
            _ => held == "*" || held == action,
        })
    }

    fn hits(&self, kind: ResourceKind, action: &str, resource: &str) -> bool {
        self.pattern.kind == kind && self.carries(action) && self.pattern.covers(resource)
    }

    fn bars(&self, kind: ResourceKind, action: &str, resource: &str) -> bool {
        self.pattern.kind == kind && self.carries(action) && self.pattern.bars(resource)
    }
}

impl fmt::Display for ResourceGrant {
    /// As it is written on the command line: `bucket:www/**=read,list`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}={}",
            self.pattern.kind,
            self.pattern.text,
            self.actions.join(",")
        )
    }
}

/// Resources held by an identity. Deny wins over allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceSet {
    /// What is covered.
    pub allow: Vec<ResourceGrant>,
    /// What is not, even if covered.
    pub deny: Vec<ResourceGrant>,
}

impl ResourceSet {
    /// Whether `action` on the canonical `resource` is held.
    #[must_use]
    pub fn holds(&self, kind: ResourceKind, action: &str, resource: &str) -> bool {
        self.held_by(kind, action, resource).is_some() && !self.denies(kind, action, resource)
    }

    /// The first grant that covers it, denied or not.
    pub(crate) fn held_by(
        &self,
        kind: ResourceKind,
        action: &str,
        resource: &str,
    ) -> Option<&ResourceGrant> {
        let mut allow = self.allow.iter();
        allow.find(|grant| grant.hits(kind, action, resource))
    }

    /// Whether `action` is held on a file in canonical form and on whatever may
    /// lie below it: one grant covers all of it, and none denies any of it.
    #[must_use]
    pub fn holds_tree(&self, action: &str, file: &str) -> bool {
        let mut allow = self.allow.iter();
        allow.any(|grant| {
            grant.pattern.kind == ResourceKind::Bucket
                && grant.carries(action)
                && grant.pattern.covers_tree(file)
        }) && !self.denies_within(action, file)
    }

    /// Whether `action` is denied on a file in canonical form, or on something
    /// that may lie below it.
    #[must_use]
    pub fn denies_within(&self, action: &str, file: &str) -> bool {
        self.barred_within(action, file).is_some()
    }

    /// The first grant that does.
    pub(crate) fn barred_within(&self, action: &str, file: &str) -> Option<&ResourceGrant> {
        self.deny.iter().find(|grant| {
            grant.pattern.kind == ResourceKind::Bucket
                && grant.carries(action)
                && grant.pattern.reaches(file)
        })
    }

    /// Whether `action` might be held on a file in canonical form, or on
    /// something that may lie below it: a grant reaches there, and no denial
    /// covers all of it.
    #[must_use]
    pub fn might_hold_within(&self, action: &str, file: &str) -> bool {
        let concerns = |grant: &&ResourceGrant| {
            grant.pattern.kind == ResourceKind::Bucket && grant.carries(action)
        };
        let mut allow = self.allow.iter().filter(concerns);
        let mut deny = self.deny.iter().filter(concerns);
        allow.any(|grant| grant.pattern.reaches(file))
            && !deny.any(|grant| grant.pattern.covers_tree(file))
    }

    /// Whether `action` on the canonical `resource` is denied, whatever else
    /// is held.
    #[must_use]
    pub fn denies(&self, kind: ResourceKind, action: &str, resource: &str) -> bool {
        self.barred_by(kind, action, resource).is_some()
    }

    /// The first grant that denies it.
    pub(crate) fn barred_by(
        &self,
        kind: ResourceKind,
        action: &str,
        resource: &str,
    ) -> Option<&ResourceGrant> {
        let mut deny = self.deny.iter();
        deny.find(|grant| grant.bars(kind, action, resource))
    }

    /// Whether `action` on some address that a canonical `host:port` might
    /// resolve to could be held.
    pub(crate) fn might_hold_resolved(&self, action: &str, address: &str) -> bool {
        self.allow.iter().any(|grant| {
            grant.pattern.kind == ResourceKind::Net
                && grant.carries(action)
                && grant.pattern.covers_some_address(address)
        })
    }

    /// Whether some pattern of the kind carries the action: what a listing
    /// asks, which has no input to look at.
    #[must_use]
    pub fn might_hold(&self, kind: ResourceKind, action: &str) -> bool {
        self.allow
            .iter()
            .any(|grant| grant.pattern.kind == kind && grant.carries(action))
    }
}
