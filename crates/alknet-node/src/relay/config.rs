//! `[relay]`: the relay that this node is.

use super::{ParseRelayError, QAD_PORT, RelayAddress};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// Bytes a second that one client may send through the relay: 64 Mbit/s.
const RATE: u32 = 8 * 1024 * 1024;
/// Bytes that one client may send at once before its rate counts.
const BURST: u32 = 4 * 1024 * 1024;
/// Clients at a time.
const CLIENTS_MAX: usize = 1024;

/// The relay that this node is for those it knows. `alknet relay` is
/// `alknet up` with it switched on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RelayServerConfig {
    /// Whether this node is a relay.
    pub enabled: bool,
    /// TCP address and port.
    pub listen: SocketAddr,
    /// UDP port, at the same address, where clients learn under which address
    /// they are seen; `"off"` for none.
    pub qad: QadSetting,
    /// What others are told: `https://HOST[:PORT]/`. The first name in the
    /// certificate, or the address, if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A certificate chain of your own, PEM. Without one, the relay makes a
    /// self-signed one, and others know it by its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The key of that certificate, PEM; readable by its owner alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Bytes a second that one client may send; 0 for no such limit.
    pub rate: u32,
    /// Bytes that one client may send at once before the rate counts.
    pub burst: u32,
    /// Clients at a time.
    pub clients_max: usize,
    /// Where counters are served over HTTP (OpenMetrics); nowhere if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

impl Default for RelayServerConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443)),
            qad: QadSetting::default(),
            url: None,
            cert: None,
            key: None,
            rate: RATE,
            burst: BURST,
            clients_max: CLIENTS_MAX,
            metrics: None,
        }
    }
}

/// A UDP port, or `"off"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a UDP port or \"off\"")]
pub enum QadSetting {
    /// This port; 0 picks a free one.
    Port(u16),
    /// None.
    Off(Off),
}

/// The word `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Off {
    /// Switched off.
    Off,
}

impl Default for QadSetting {
    fn default() -> Self {
        Self::Port(QAD_PORT)
    }
}

impl QadSetting {
    /// The port to bind.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        match self {
            QadSetting::Port(port) => Some(port),
            QadSetting::Off(_) => None,
        }
    }
}

impl std::str::FromStr for QadSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off(Off::Off)),
            port => port
                .parse()
                .map(Self::Port)
                .map_err(|_| format!("`{port}` is neither a UDP port nor `off`")),
        }
    }
}

impl std::fmt::Display for QadSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            QadSetting::Port(port) => write!(f, "{port}"),
            QadSetting::Off(_) => f.write_str("off"),
        }
    }
}

impl RelayServerConfig {
    /// The URL to tell others, if one is given.
    ///
    /// # Errors
    ///
    /// [`ParseRelayError`], also for plain `http`: clients of this relay check
    /// its certificate.
    pub(crate) fn told(&self) -> Result<Option<RelayAddress>, ParseRelayError> {
        let Some(text) = &self.url else {
            return Ok(None);
        };
        let address: RelayAddress = text.parse()?;
        match address.is_plain() {
            true => Err(ParseRelayError::Scheme {
                url: text.clone(),
                scheme: "http".into(),
            }),
            false => Ok(Some(address)),
        }
    }

    /// What is wrong with it, as field and sentence.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if let Err(error) = self.told() {
            return Err(("relay.url", error.to_string()));
        }
        match (&self.cert, &self.key) {
            (Some(_), None) => return Err(("relay.key", "a certificate needs its key".into())),
            (None, Some(_)) => return Err(("relay.cert", "a key needs its certificate".into())),
            _ => {}
        }
        if self.rate > 0 && self.burst < BURST_LEAST {
            // Below the largest frame, nothing at all would pass.
            return Err(("relay.burst", format!("at least {BURST_LEAST} bytes")));
        }
        if self.clients_max == 0 {
            return Err(("relay.clients_max", "at least 1".into()));
        }
        Ok(())
    }

    /// Whether going from one to the other needs a restart. Certificates are
    /// read again without one.
    pub(crate) fn needs_restart(&self, next: &Self) -> bool {
        let plain = |config: &Self| Self {
            cert: None,
            key: None,
            ..config.clone()
        };
        plain(self) != plain(next) || self.cert.is_some() != next.cert.is_some()
    }
}

/// Least burst, in bytes: the largest frame of iroh's relay protocol.
const BURST_LEAST: u32 = 65_536;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wrong(change: impl FnOnce(&mut RelayServerConfig)) -> Option<&'static str> {
        let mut config = RelayServerConfig::default();
        change(&mut config);
        config.check().err().map(|(field, _)| field)
    }

    #[test]
    fn each_field_is_judged() {
        assert_eq!(wrong(|_| {}), None);
        let url = |text: &str| wrong(|config| config.url = Some(text.into()));
        assert_eq!(url("https://relay.example.org"), None);
        assert_eq!(url("http://10.0.0.1"), Some("relay.url"));
        assert_eq!(url("relay"), Some("relay.url"));
        assert_eq!(wrong(|c| c.cert = Some("c.pem".into())), Some("relay.key"));
        assert_eq!(wrong(|c| c.key = Some("k.pem".into())), Some("relay.cert"));
        assert_eq!(wrong(|c| c.burst = BURST_LEAST), None);
        assert_eq!(wrong(|c| c.burst = BURST_LEAST - 1), Some("relay.burst"));
        assert_eq!(wrong(|c| (c.rate, c.burst) = (0, 0)), None);
        assert_eq!(wrong(|c| c.clients_max = 0), Some("relay.clients_max"));
    }

    #[test]
    fn a_port_or_off_reads_back() {
        for text in ["0", "7842", "off"] {
            let qad: QadSetting = text.parse().unwrap();
            assert_eq!(qad.to_string(), text);
            let json = serde_json::to_value(qad).unwrap();
            assert_eq!(serde_json::from_value::<QadSetting>(json).unwrap(), qad);
        }
        assert!("65536".parse::<QadSetting>().is_err());
        assert!("on".parse::<QadSetting>().is_err());
        let refused = serde_json::from_value::<QadSetting>("on".into()).unwrap_err();
        assert_eq!(refused.to_string(), "expected a UDP port or \"off\"");
    }
}
