//! How this node lets others use its network.

use alknet_core::TimeSpan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of forwarded ports. To whom a caller may connect, and where
/// it may listen, is a matter of grants: `net:HOST:PORT=dial`, `=listen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NetConfig {
    /// Most time to resolve a name and connect to one of its addresses.
    /// Default `10s`.
    pub connect_timeout: TimeSpan,
    /// Most sockets that one caller listens on at a time. Default 64.
    pub listeners_per_caller_max: usize,
    /// Most connections that came to one listener, were announced to its
    /// caller and not yet taken; further ones wait in the system's queue.
    /// Default 128.
    pub waiting_per_listener_max: usize,
    /// How long such a connection may wait, before it is reset. Default `10s`.
    pub waiting_timeout: TimeSpan,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            connect_timeout: TimeSpan::seconds(10),
            listeners_per_caller_max: 64,
            waiting_per_listener_max: 128,
            waiting_timeout: TimeSpan::seconds(10),
        }
    }
}

/// Why the configuration of forwarded ports cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetConfigError {
    /// A limit outside its range.
    #[error("`[net] {field}` is {value}: it must be between {least} and {most}")]
    Limit {
        /// The field.
        field: &'static str,
        /// What it says.
        value: usize,
        /// The least it may be.
        least: usize,
        /// The most it may be.
        most: usize,
    },
}

impl NetConfig {
    pub(super) fn check(&self) -> Result<(), NetConfigError> {
        let limits = [
            (
                "listeners_per_caller_max",
                self.listeners_per_caller_max,
                10_000,
            ),
            (
                "waiting_per_listener_max",
                self.waiting_per_listener_max,
                10_000,
            ),
        ];
        for (field, value, most) in limits {
            if !(1..=most).contains(&value) {
                return Err(NetConfigError::Limit {
                    field,
                    value,
                    least: 1,
                    most,
                });
            }
        }
        Ok(())
    }
}
