//! Configuration: `alknet.toml`, documented field by field, misspellings
//! refused with what was meant.

use crate::admission::config::BansConfig;
use crate::join::DELAY_MAX;
use crate::records::{AuditConfig, EventsConfig};
use crate::relay::{ParseRelayError, RelayAddress, RelayServerConfig};
use alknet_call::quic::QuicLimits;
use alknet_core::{
    GrantTarget, Grants, Limits, ResourceGrant, ResourceKind, Role, RoleName, RoleSet, Scope,
};
use alknet_exec::{CommandConfig, ExecConfig, net::NetConfig};
use alknet_fs::{BucketConfig, FilesConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest silence that may be allowed: an hour.
const IDLE_MS_MAX: u64 = 3_600_000;

/// The configuration of a node. Every field has a default; an empty file is a
/// node with nothing switched on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How this node calls itself; what peers that join take as its name. The
    /// host's name if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How the node is reached.
    pub network: NetworkConfig,
    /// The relay that this node is.
    pub relay: RelayServerConfig,
    /// What callers may ask of it.
    pub limits: LimitsConfig,
    /// Who is shut out without being asked.
    pub bans: BansConfig,
    /// How long events are kept.
    pub events: EventsConfig,
    /// How long rows of the audit log are kept.
    pub audit: AuditConfig,
    /// How programs are run.
    pub exec: ExecConfig,
    /// How connections are opened and taken for callers.
    pub net: NetConfig,
    /// Files that callers reach.
    pub files: FilesConfig,
    /// Directories of this machine that callers reach.
    #[serde(rename = "bucket", skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<BucketConfig>,
    /// Operations that run a command.
    #[serde(rename = "operation", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<CommandConfig>,
    /// Bundles of grants, beside the built-in ones.
    #[serde(rename = "role", skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleConfig>,
}

/// How the node is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// UDP address and port. Port 0 picks one at the first start and keeps it.
    /// All interfaces if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<SocketAddr>,
    /// Relays: addresses of your own (`https://HOST[:PORT]/`, with
    /// `#sha256=PIN` if its certificate is self-signed), or `n0` for n0's
    /// public relays together with its DNS discovery. An empty list is none.
    /// Not given means that nobody has chosen yet, which is none too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relays: Option<Vec<String>>,
    /// Asks the router to open a port (UPnP, NAT-PMP, PCP).
    pub port_mapping: bool,
    /// Tells connected peers where this node and their other peers are, in
    /// records that are signed and sealed for the network. Without it, a peer
    /// that has moved is found only at addresses that worked or were given.
    pub gossip: bool,
    /// Announces this node's key and addresses on the LAN by multicast DNS,
    /// and finds peers there.
    pub mdns: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bind: None,
            relays: None,
            port_mapping: false,
            gossip: true,
            mdns: false,
        }
    }
}

/// What callers may ask of the node. Sizes in bytes, times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Bytes of a call's input; operations may raise it to 16 MiB.
    pub input_bytes_max: usize,
    /// Calls in flight of one peer: queries, mutations and subscriptions.
    pub calls_per_peer_max: usize,
    /// Open channels of one peer, which its calls in flight do not include.
    pub channels_per_peer_max: usize,
    /// Calls in flight of the node, channels included.
    pub calls_per_node_max: usize,
    /// Open subscriptions of one peer.
    pub subscriptions_per_peer_max: usize,
    /// Calls in flight of one originator behind a peer: of one user of a hub.
    pub calls_per_originator_max: usize,
    /// Open channels of one originator behind a peer.
    pub channels_per_originator_max: usize,
    /// Open subscriptions of one originator behind a peer.
    pub subscriptions_per_originator_max: usize,
    /// Originators behind one peer that are told apart; the others share.
    pub originators_per_peer_max: usize,
    /// Budget of a query or mutation that states none.
    pub deadline_default_ms: u64,
    /// Largest budget of a query or mutation.
    pub deadline_max_ms: u64,
    /// Calls that a key or an anonymous caller may make at once.
    pub rate_burst: u32,
    /// Calls a second that a key or an anonymous caller may go on making.
    pub rate_per_second: u32,
    /// Calls that a peer, or each originator behind it, may make at once.
    pub peer_rate_burst: u32,
    /// Calls a second that a peer, or each originator behind it, may go on
    /// making; 0 for no such limit.
    pub peer_rate_per_second: u32,
    /// Bytes that a peer, or each originator behind it, may have carried at
    /// once; counted only if `bytes_per_second` is given.
    pub bytes_burst: u64,
    /// Bytes a second that a peer, or each originator behind it, may go on
    /// having carried: inputs, replies, items and channels. What is too much
    /// is made up for before the next call. 0 for no such limit.
    pub bytes_per_second: u64,
    /// Streams a connection: calls in flight on it.
    pub streams_per_connection_max: u32,
    /// Bytes a stream may receive before they are read; never above 2 MiB.
    pub stream_window_bytes: u32,
    /// Bytes a connection may receive before they are read.
    pub connection_window_bytes: u32,
    /// Connections of one identity.
    pub connections_per_identity_max: usize,
    /// Connections from one address (of IPv6: from its /64): of peers, and of
    /// strangers, each.
    pub connections_per_address_max: usize,
    /// Connections of strangers, who come while an invite is open.
    pub connections_of_strangers_max: usize,
    /// Connections in all; the node's own command line is always let in.
    pub connections_per_node_max: usize,
    /// Handshakes a second from one address (of IPv6: from its /64).
    pub handshakes_per_address: u32,
    /// Handshakes under way from one address (of IPv6: from its /64).
    pub handshakes_in_flight_per_address: usize,
    /// Handshakes a second in all, before addresses must prove themselves.
    pub handshakes_total: u32,
    /// Failed attempts of an address (of IPv6: of its /64; over relays: of a
    /// key) within ten minutes, after which it waits: a second at first, twice
    /// as long each time.
    pub failures_before_delay: u32,
    /// The longest that it waits; at most 8000.
    pub failure_delay_max_ms: u64,
    /// Silence after which a peer counts as gone.
    pub idle_ms: u64,
    /// Time that calls get to finish when the node stops.
    pub drain_ms: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (door, quic) = (Limits::default(), QuicLimits::default());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            input_bytes_max: door.input_bytes_max,
            calls_per_peer_max: door.calls_per_peer_max,
            channels_per_peer_max: door.channels_per_peer_max,
            calls_per_node_max: door.calls_per_node_max,
            subscriptions_per_peer_max: door.subscriptions_per_peer_max,
            calls_per_originator_max: door.calls_per_originator_max,
            channels_per_originator_max: door.channels_per_originator_max,
            subscriptions_per_originator_max: door.subscriptions_per_originator_max,
            originators_per_peer_max: door.originators_per_peer_max,
            deadline_default_ms: ms(door.deadline_default),
            deadline_max_ms: ms(door.deadline_max),
            rate_burst: door.rate_burst,
            rate_per_second: door.rate_per_second,
            peer_rate_burst: door.peer_rate_burst,
            peer_rate_per_second: door.peer_rate_per_second,
            bytes_burst: door.bytes_burst,
            bytes_per_second: door.bytes_per_second,
            streams_per_connection_max: quic.streams_per_connection_max,
            stream_window_bytes: quic.stream_window_bytes,
            connection_window_bytes: quic.connection_window_bytes,
            connections_per_identity_max: 64,
            connections_per_address_max: 256,
            connections_of_strangers_max: 256,
            connections_per_node_max: 4096,
            handshakes_per_address: 20,
            handshakes_in_flight_per_address: 64,
            handshakes_total: 200,
            failures_before_delay: 5,
            failure_delay_max_ms: ms(DELAY_MAX),
            idle_ms: ms(quic.idle),
            drain_ms: 10_000,
        }
    }
}

impl LimitsConfig {
    /// Zero would shut everybody out, the owner too.
    fn check(&self) -> Result<(), ConfigError> {
        let least = [
            ("input_bytes_max", self.input_bytes_max as u64, 1),
            ("calls_per_peer_max", self.calls_per_peer_max as u64, 1),
            ("calls_per_node_max", self.calls_per_node_max as u64, 1),
            ("deadline_default_ms", self.deadline_default_ms, 1),
            ("deadline_max_ms", self.deadline_max_ms, 1),
            (
                "streams_per_connection_max",
                u64::from(self.streams_per_connection_max),
                1,
            ),
            (
                "stream_window_bytes",
                u64::from(self.stream_window_bytes),
                64 * 1024,
            ),
            (
                "connection_window_bytes",
                u64::from(self.connection_window_bytes),
                64 * 1024,
            ),
            (
                "connections_per_identity_max",
                self.connections_per_identity_max as u64,
                1,
            ),
            (
                "connections_per_address_max",
                self.connections_per_address_max as u64,
                1,
            ),
            (
                "handshakes_per_address",
                u64::from(self.handshakes_per_address),
                1,
            ),
            (
                "connections_of_strangers_max",
                self.connections_of_strangers_max as u64,
                1,
            ),
            (
                "connections_per_node_max",
                self.connections_per_node_max as u64,
                1,
            ),
            (
                "handshakes_in_flight_per_address",
                self.handshakes_in_flight_per_address as u64,
                1,
            ),
            (
                "failures_before_delay",
                u64::from(self.failures_before_delay),
                1,
            ),
            ("handshakes_total", u64::from(self.handshakes_total), 1),
            ("idle_ms", self.idle_ms, 1000),
        ];
        for (field, value, least) in least {
            if value < least {
                let message = format!("{value} is too small: at least {least}");
                return Err(ConfigError::value(format!("limits.{field}"), message));
            }
        }
        if self.idle_ms > IDLE_MS_MAX {
            let message = format!("{} is too large: at most {IDLE_MS_MAX}", self.idle_ms);
            return Err(ConfigError::value("limits.idle_ms", message));
        }
        if Duration::from_millis(self.failure_delay_max_ms) > DELAY_MAX {
            let most = DELAY_MAX.as_millis();
            let message = format!("{} is too large: at most {most}", self.failure_delay_max_ms);
            return Err(ConfigError::value("limits.failure_delay_max_ms", message));
        }
        Ok(())
    }

    pub(crate) fn door(&self) -> Limits {
        let mut limits = Limits::default();
        limits.input_bytes_max = self.input_bytes_max;
        limits.calls_per_peer_max = self.calls_per_peer_max;
        limits.channels_per_peer_max = self.channels_per_peer_max;
        limits.calls_per_node_max = self.calls_per_node_max;
        limits.subscriptions_per_peer_max = self.subscriptions_per_peer_max;
        limits.calls_per_originator_max = self.calls_per_originator_max;
        limits.channels_per_originator_max = self.channels_per_originator_max;
        limits.subscriptions_per_originator_max = self.subscriptions_per_originator_max;
        limits.originators_per_peer_max = self.originators_per_peer_max;
        limits.deadline_default = Duration::from_millis(self.deadline_default_ms);
        limits.deadline_max = Duration::from_millis(self.deadline_max_ms);
        limits.rate_burst = self.rate_burst;
        limits.rate_per_second = self.rate_per_second;
        limits.peer_rate_burst = self.peer_rate_burst;
        limits.peer_rate_per_second = self.peer_rate_per_second;
        limits.bytes_burst = self.bytes_burst;
        limits.bytes_per_second = self.bytes_per_second;
        limits
    }

    pub(crate) fn quic(&self) -> QuicLimits {
        let idle = Duration::from_millis(self.idle_ms);
        QuicLimits {
            streams_per_connection_max: self.streams_per_connection_max,
            stream_window_bytes: self.stream_window_bytes,
            connection_window_bytes: self.connection_window_bytes,
            idle,
            // Well before the silence would count.
            keep_alive: QuicLimits::default().keep_alive.min(idle / 3),
            ..QuicLimits::default()
        }
    }
}

/// A named bundle of grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// Its name.
    pub name: String,
    /// What it gives, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Scopes, such as `deploy:write`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Operations whose whole access rule is given.
    #[serde(default)]
    pub operations: Vec<String>,
    /// Resources: kind, then pattern, then actions.
    #[serde(default)]
    pub resources: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Resources that are never covered, in the same form.
    #[serde(default)]
    pub deny: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

/// Where a node's configuration comes from, at its start and when it is read
/// again.
#[derive(Clone, Debug)]
pub(crate) enum ConfigSource {
    /// From the program that embeds the node.
    Given(Box<Config>),
    /// From a file. One that was there, or was named, must not go missing:
    /// everything in it would be taken back silently.
    File { path: PathBuf, required: bool },
}

impl ConfigSource {
    pub(crate) fn read(&self) -> Result<Config, ConfigError> {
        match self {
            ConfigSource::Given(config) => {
                config.check()?;
                Ok((**config).clone())
            }
            ConfigSource::File { path, required } if *required || path.exists() => {
                Config::load(path)
            }
            ConfigSource::File { .. } => Ok(Config::default()),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read configuration `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not TOML, or a field is unknown or of another type.
    #[error("configuration `{}`, line {line}: {message}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// A field's value makes no sense.
    #[error("configuration: `{field}`: {message}")]
    Value {
        /// Which field.
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            ConfigError::Parse {
                meant: Some(meant), ..
            } => Some(format!("did you mean `{meant}`?")),
            ConfigError::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                Some(format!(
                    "make it, or an empty one: touch {}",
                    path.display()
                ))
            }
            _ => None,
        }
    }

    fn value(field: impl Into<String>, message: impl ToString) -> Self {
        Self::Value {
            field: field.into(),
            message: message.to_string(),
        }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] that names the line and the field.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        let text = String::from_utf8(text).map_err(|error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            ConfigError::Parse {
                path: path.into(),
                line,
                message: "the file is not UTF-8 text".into(),
                meant: None,
            }
        })?;
        Self::parse(&text, path)
    }

    /// Reads a text; `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] that names the line and the field.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = 1 + text.as_bytes()[..at.min(text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count();
            let message = error.message();
            let meant = meant(message);
            // Where one name is meant, nobody wants to read all of them.
            let told = message.split_once(", expected one of ");
            let told = told.filter(|_| meant.is_some());
            ConfigError::Parse {
                path: path.into(),
                line,
                message: told.map_or(message, |(told, _)| told).to_owned(),
                meant,
            }
        })?;
        config.check()?;
        Ok(config)
    }

    /// Judges the relay alone, whose settings may come from elsewhere too.
    pub(crate) fn check_relay(&self) -> Result<(), ConfigError> {
        let checked = self.relay.check();
        checked.map_err(|(field, message)| ConfigError::value(field, message))
    }

    pub(crate) fn check_name(&self) -> Result<(), ConfigError> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        let checked = alknet_core::PeerId::parse(name);
        checked
            .map(drop)
            .map_err(|error| ConfigError::value("name", error))
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_name()?;
        self.limits.check()?;
        let bans = self.bans.check();
        bans.map_err(|(field, message)| ConfigError::value(field, message))?;
        if self.limits.stream_window_bytes > 2 * 1024 * 1024 {
            return Err(ConfigError::value(
                "limits.stream_window_bytes",
                "above 2 MiB connections break under loss",
            ));
        }
        for relay in self.network.relays.iter().flatten() {
            RelaySetting::parse(relay)
                .map_err(|message| ConfigError::value("network.relays", message))?;
        }
        self.check_relay()?;
        for checked in [self.events.check(), self.audit.check()] {
            checked.map_err(|(field, message)| ConfigError::value(field, message))?;
        }
        self.role_set(Vec::new()).map(drop)
    }

    /// The roles: built-in and configured. `operator` holds the scopes of
    /// configured operations too.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`] that names the role.
    pub fn role_set(&self, operator_scopes: Vec<Scope>) -> Result<RoleSet, ConfigError> {
        let roles: Result<Vec<Role>, ConfigError> =
            self.roles.iter().map(RoleConfig::role).collect();
        let roles = roles?;
        for (at, role) in roles.iter().enumerate() {
            if roles[..at].iter().any(|other| other.name == role.name) {
                return Err(ConfigError::value(
                    format!("role `{}`", role.name),
                    "is given twice",
                ));
            }
        }
        Ok(RoleSet::new(roles, operator_scopes))
    }
}

impl RoleConfig {
    fn role(&self) -> Result<Role, ConfigError> {
        let wrong = |message: String| ConfigError::value(format!("role `{}`", self.name), message);
        let name = RoleName::parse(&self.name).map_err(|error| wrong(error.to_string()))?;
        if RoleSet::is_builtin(&self.name) {
            return Err(wrong("is a built-in role; choose another name".into()));
        }
        let mut grants = Grants::default();
        for text in self.scopes.iter().chain(&self.operations) {
            let target = GrantTarget::parse(text).map_err(|error| wrong(error.to_string()))?;
            if matches!(target, GrantTarget::Role(_)) {
                return Err(wrong(format!(
                    "`{text}` is no scope: roles contain no roles"
                )));
            }
            grants.add(target);
        }
        for grant in resources(&self.resources).map_err(&wrong)? {
            grants.add(GrantTarget::Resource(grant));
        }
        for grant in resources(&self.deny).map_err(&wrong)? {
            grants.add(GrantTarget::Deny(grant));
        }
        let summary = self
            .summary
            .clone()
            .unwrap_or_else(|| "A configured role.".into());
        Ok(Role {
            name,
            summary,
            grants,
        })
    }
}

fn resources(
    table: &BTreeMap<String, BTreeMap<String, Vec<String>>>,
) -> Result<Vec<ResourceGrant>, String> {
    let mut grants = Vec::new();
    for (kind, patterns) in table {
        let kind =
            ResourceKind::parse(kind).ok_or_else(|| format!("`{kind}` is no kind of resource"))?;
        for (pattern, actions) in patterns {
            grants.push(
                ResourceGrant::parse(kind, pattern, actions).map_err(|error| error.to_string())?,
            );
        }
    }
    Ok(grants)
}

/// The nearest field name in a message such as "unknown field `nmae`, expected
/// one of `name`, `network`".
fn meant(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let wrong = quoted.next().filter(|_| message.starts_with("unknown "))?;
    quoted
        .map(|known| (alknet_core::edit_distance(wrong, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known.to_owned())
}

/// How the node uses relays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelaySetting {
    /// None.
    None,
    /// n0's public relays with its DNS discovery.
    N0,
    /// One of one's own.
    Url(RelayAddress),
}

impl RelaySetting {
    /// Parses `none`, `n0` or the address of a relay ([`RelayAddress`]).
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "n0" => Ok(Self::N0),
            text => match text.parse() {
                Ok(address) => Ok(Self::Url(address)),
                Err(ParseRelayError::NotAUrl(text)) => Err(format!(
                    "`{text}` is neither `none`, `n0` nor a relay's URL"
                )),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("alknet.toml"))
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn a_misspelt_field_names_its_line_and_what_was_meant() {
        let error = parse("name = \"home\"\n\n[netwrok]\nbind = \"0.0.0.0:0\"\n").unwrap_err();
        assert!(
            error.to_string().contains("line 3") && error.to_string().contains("netwrok"),
            "{error}"
        );
        assert_eq!(error.hint().unwrap(), "did you mean `network`?");
        let error = parse("[limits]\ncalls_per_pear_max = 3\n").unwrap_err();
        assert_eq!(error.hint().unwrap(), "did you mean `calls_per_peer_max`?");
    }

    #[test]
    fn a_wrong_type_names_its_line() {
        let error = parse("\n[limits]\nrate_burst = \"many\"\n").unwrap_err();
        assert!(error.to_string().contains("line 3"), "{error}");
    }

    #[test]
    fn roles_are_checked() {
        let config = parse("[[role]]\nname = \"support\"\nscopes = [\"deploy:write\"]\nresources = { bucket = { \"logs/**\" = [\"read\", \"list\"] } }\n").unwrap();
        let roles = config.role_set(Vec::new()).unwrap();
        let grants: Vec<String> = roles
            .role("support")
            .unwrap()
            .grants
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(grants, ["deploy:write", "bucket:logs/**=read,list"]);
        assert!(
            parse("[[role]]\nname = \"admin\"\n")
                .unwrap_err()
                .to_string()
                .contains("built-in")
        );
        assert!(parse("[[role]]\nname = \"x\"\nscopes = [\"Bad Scope\"]\n").is_err());
    }

    #[test]
    fn relays_are_https_or_private() {
        assert_eq!(RelaySetting::parse("none"), Ok(RelaySetting::None));
        assert_eq!(RelaySetting::parse("n0"), Ok(RelaySetting::N0));
        for good in [
            "https://relay.example.org",
            "http://127.0.0.1:3340",
            "http://10.0.0.1:3340",
            "http://[::1]:1",
        ] {
            assert!(
                matches!(RelaySetting::parse(good), Ok(RelaySetting::Url(_))),
                "{good}"
            );
        }
        for bad in [
            "http://relay.example.org",
            "relay",
            "ftp://10.0.0.1",
            "http://8.8.8.8",
            "",
        ] {
            assert!(RelaySetting::parse(bad).is_err(), "{bad}");
        }
    }
}
