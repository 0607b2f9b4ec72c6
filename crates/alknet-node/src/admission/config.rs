//! When somebody is shut out without being asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest automatic ban that may be configured: a year.
const BAN_MS_MAX: u64 = 365 * 24 * 3_600_000;

/// When strangers and peers that misbehave are shut out for a while. What they
/// do wrong adds to a score of their address (of IPv6: of its /64) or, for a
/// known key and over relays, of the key: 10 for a wrong API key or invite, 5
/// for an unknown key, 3 for breaking the protocol, 1 for asking for more than
/// a limit allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BansConfig {
    /// Score at which an address or a key is shut out; 0 for never.
    pub score_max: u32,
    /// What a minute takes off every score.
    pub score_forgiven_per_minute: u32,
    /// How long it is shut out the first time, in milliseconds; each further
    /// time within a day takes twice as long.
    pub ban_ms: u64,
    /// The longest that it is shut out by itself, in milliseconds.
    pub ban_most_ms: u64,
    /// Bans kept, automatic and others.
    pub bans_max: usize,
}

impl Default for BansConfig {
    fn default() -> Self {
        Self {
            score_max: 100,
            score_forgiven_per_minute: 10,
            ban_ms: 600_000,
            ban_most_ms: 24 * 3_600_000,
            bans_max: 1024,
        }
    }
}

impl BansConfig {
    /// Says which field makes no sense, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, value) in [
            ("bans.ban_ms", self.ban_ms),
            ("bans.ban_most_ms", self.ban_most_ms),
        ] {
            if !(1000..=BAN_MS_MAX).contains(&value) {
                let message = format!("{value} is not between 1000 and {BAN_MS_MAX}");
                return Err((field, message));
            }
        }
        Ok(())
    }
}
