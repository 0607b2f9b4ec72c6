//! The configuration, read again while the node runs.

use super::Shared;
use crate::{
    config::{Config, ConfigError},
    files::change_buckets,
    operations::{OperationsError, configured_operations, names},
    relay::RelayStartError,
    unasked::Asked,
};
use alknet_core::{
    AuditRow, Change, Grants, Registration, RoleSet,
    storage::{EventKind, NewEvent, StoreError},
};
use alknet_exec::{
    Exec, ExecConfigError,
    net::{Net, NetConfigError},
};
use alknet_fs::FilesConfigError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadReport {
    /// Sections that are in force now.
    pub applied: Vec<String>,
    /// Sections that differ and wait for a restart.
    pub needs_restart: Vec<String>,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Configured operations cannot be used.
    #[error(transparent)]
    Operations(#[from] OperationsError),
    /// Programs could not be run so: the next start would refuse it.
    #[error(transparent)]
    Exec(#[from] ExecConfigError),
    /// Addresses could not be reached so: the next start would refuse it.
    #[error(transparent)]
    Net(#[from] NetConfigError),
    /// Buckets could not be like this.
    #[error(transparent)]
    Files(#[from] FilesConfigError),
    /// The relay's certificate could not be used.
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    /// A role that somebody holds would go.
    #[error("role `{role}` is held by {}", holders.join(", "))]
    RoleInUse {
        /// The role.
        role: String,
        /// Who holds it.
        holders: Vec<String>,
    },
    /// That it was read could not be written down, so nothing has changed.
    #[error("that the configuration was read cannot be recorded, so it was not applied")]
    Record(#[source] StoreError),
}

impl ReloadError {
    /// The sentence with its cause and its hint.
    #[must_use]
    pub fn full_text(&self) -> String {
        let hint = match self {
            ReloadError::Config(error) => error.hint(),
            ReloadError::RoleInUse { role, holders } => {
                holders
                    .first()
                    .map(|first| match first.strip_prefix("key ") {
                        // What a key was made with is not changed.
                        Some(key) => format!(
                            "alknet keys revoke {}",
                            key.split(' ').next().unwrap_or_default()
                        ),
                        None => format!("alknet revoke {first} {role}"),
                    })
            }
            ReloadError::Relay(error) => error.hint(),
            ReloadError::Files(error) => error.hint().map(Into::into),
            ReloadError::Operations(_)
            | ReloadError::Exec(_)
            | ReloadError::Net(_)
            | ReloadError::Record(_) => None,
        };
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            // Some say their cause themselves.
            let said = next.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = next.source();
        }
        match hint {
            Some(hint) => format!("{text} ({hint})"),
            None => text,
        }
    }
}

impl Shared {
    /// Reads the configuration again; all of it is checked before any of it
    /// is applied, and `row` is written before it is in force.
    pub(crate) async fn reload(&self, row: AuditRow) -> Result<ReloadReport, ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let mut next = self.source.read()?;
        (self.overrides)(&mut next);
        let old = self
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut report = ReloadReport::default();
        for (section, differs) in [
            ("name", next.name != old.name),
            ("network", next.network != old.network),
            ("limits", next.limits != old.limits),
            ("bans", next.bans != old.bans),
            ("exec", next.exec != old.exec),
            ("net", next.net != old.net),
            ("relay", old.relay.needs_restart(&next.relay)),
        ] {
            if differs {
                report.needs_restart.push(section.into());
            }
        }
        // Used after the next start, and judged now: a file that this accepts
        // is one that a start accepts.
        Exec::new(next.exec.clone())?;
        Net::new(next.net.clone())?;
        next.check_relay()?;
        self.buckets.check(&next.files, &next.buckets)?;
        let renewal = match &self.relay {
            Some(relay) => {
                let needs_restart = old.relay.needs_restart(&next.relay);
                relay.check_certificate(&next.relay, &self.data, needs_restart)?
            }
            None => None,
        };
        let (added, scopes) = configured_operations(&next, &self.exec, self.data.path())?;
        let roles = next.role_set(scopes)?;
        self.roles_in_use(&next)?;
        if next.operations != old.operations {
            self.replace_operations(added)?;
            report.applied.push("operation".into());
        }
        for (section, differs) in [
            ("role", next.roles != old.roles),
            ("events", next.events != old.events),
            ("audit", next.audit != old.audit),
            ("files", next.files != old.files),
            ("bucket", next.buckets != old.buckets),
        ] {
            if differs {
                report.applied.push(section.into());
            }
        }
        let differ = next.files != old.files || next.buckets != old.buckets;
        if differ {
            change_buckets(&self.buckets, &next.files, &next.buckets).await?;
        }
        if let Err(error) = self.record_reload(row, &report).await {
            if differ
                && let Err(cause) = change_buckets(&self.buckets, &old.files, &old.buckets).await
            {
                tracing::error!(%cause, "buckets of the configuration in force were not put back");
            }
            // What cannot be recorded is not done.
            if next.operations != old.operations {
                self.take_back_operations(&old);
            }
            return Err(ReloadError::Record(error));
        }
        if next.roles != old.roles {
            Asked::by(self.door().registry()).warn_of_roles(&roles);
        }
        self.identities.set_roles(roles);
        if let (Some(relay), Some(renewal)) = (&self.relay, &renewal) {
            relay.renew(renewal);
        }
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Config {
            name: old.name,
            network: old.network,
            limits: old.limits,
            bans: old.bans,
            exec: old.exec,
            net: old.net,
            relay: old.relay,
            ..next
        };
        tracing::info!(
            applied = report.applied.join(" "),
            needs_restart = report.needs_restart.join(" "),
            "configuration read again"
        );
        Ok(report)
    }

    /// Writes what was read, in one transaction with its event.
    async fn record_reload(
        &self,
        mut row: AuditRow,
        report: &ReloadReport,
    ) -> Result<(), StoreError> {
        let event = NewEvent::of(EventKind::CONFIG_RELOADED, "configuration", &row)
            .with("applied", report.applied.clone())
            .with("needs_restart", report.needs_restart.clone());
        row.resource = Some("configuration".into());
        row.detail = Some(match report.applied.as_slice() {
            [] => "nothing applied".into(),
            applied => format!("applied {}", applied.join(", ")),
        });
        self.events.append_events(vec![event], vec![row]).await
    }

    /// Puts these operations into the place of the configured ones.
    fn replace_operations(&self, add: Vec<Registration>) -> Result<(), OperationsError> {
        let mut configured = self
            .configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let names = names(&add);
        let remove = configured.clone();
        let change = Change::ReplaceLocal { remove, add };
        self.door()
            .registry()
            .apply(change)
            .map_err(OperationsError::Registration)?;
        *configured = names;
        Ok(())
    }

    /// Puts the operations of the configuration in force back into their place.
    fn take_back_operations(&self, old: &Config) {
        let restored = configured_operations(old, &self.exec, self.data.path());
        let restored = restored.and_then(|(add, _)| self.replace_operations(add));
        if let Err(cause) = restored {
            tracing::error!(%cause, "operations of the configuration in force were not put back");
        }
    }

    /// A role that goes while somebody holds it would take rights silently.
    fn roles_in_use(&self, next: &Config) -> Result<(), ReloadError> {
        let snapshot = self.identities.snapshot();
        for role in self.identities.roles().iter() {
            let name = role.name.as_str();
            if RoleSet::is_builtin(name) || next.roles.iter().any(|role| role.name == name) {
                continue;
            }
            let holds = |grants: &Grants| grants.iter().any(|target| target.to_string() == name);
            let peers = snapshot
                .peers
                .iter()
                .filter(|peer| holds(&peer.grants))
                .map(|peer| peer.id.to_string());
            let groups = snapshot
                .groups
                .iter()
                .filter(|(_, grants)| holds(grants))
                .map(|(group, _)| format!("group:{group}"));
            let keys = snapshot
                .keys
                .iter()
                .filter(|key| key.grants.as_ref().is_some_and(holds))
                .map(|key| format!("key {} of {}", key.id, key.peer));
            let holders: Vec<String> = peers.chain(groups).chain(keys).collect();
            if !holders.is_empty() {
                return Err(ReloadError::RoleInUse {
                    role: name.into(),
                    holders,
                });
            }
        }
        Ok(())
    }
}
