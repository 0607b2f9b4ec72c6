//! `alknet relay`.

use crate::{
    app::App,
    commands::up::{self, UpArgs},
    failure::{Exit, Failure},
    node_access::{QadSetting, RelayServerConfig},
};
use clap::Args;
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, str::FromStr};

#[derive(Debug, Args)]
#[command(after_help = "\
Is `alknet up` with the relay switched on: same data directory, peers and invites.
The relay serves the nodes that this one knows, and whoever holds an open invite;
it can read nothing of what passes. Others use it by the address it prints:
  alknet up --relay 'https://203.0.113.1/#sha256=...'
Without --cert it makes a certificate for itself, once, and the address says its key.

Examples:
  alknet relay
  alknet relay --listen 0.0.0.0:8443 --url https://relay.example.org:8443/
  alknet relay --cert /etc/relay/fullchain.pem --key /etc/relay/privkey.pem
  alknet relay --rate 1000000 --metrics 127.0.0.1:9090")]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    up: UpArgs,
}

/// The relay, as far as it is not as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Relay")]
pub(crate) struct ServerArgs {
    /// The TCP address and port to serve on; 0.0.0.0:443 if not given
    #[arg(long, value_name = "ADDR:PORT", value_parser = listen_at)]
    listen: Option<SocketAddr>,
    /// The UDP port, at the same address, where clients learn their own
    /// address; 7842 if not given
    #[arg(long, value_name = "PORT|off", value_parser = QadSetting::from_str)]
    qad: Option<QadSetting>,
    /// What others are told: `https://HOST[:PORT]/`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A certificate chain of your own, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM, readable by its owner alone
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// A certificate that the relay makes for itself, whatever the
    /// configuration says
    #[arg(long, conflicts_with_all = ["cert", "key"])]
    self_signed: bool,
    /// Bytes a second that one client may send; 0 for no limit
    #[arg(long, value_name = "BYTES")]
    rate: Option<u32>,
    /// Bytes that one client may send at once before the rate counts
    #[arg(long, value_name = "BYTES")]
    burst: Option<u32>,
    /// Where counters are served over HTTP; off if not given
    #[arg(long, value_name = "ADDR:PORT|off", value_parser = Metrics::from_str)]
    metrics: Option<Metrics>,
}

fn listen_at(text: &str) -> Result<SocketAddr, String> {
    let whole = |_| format!("`{text}` is no address with a port, such as 0.0.0.0:443");
    text.parse().map_err(whole)
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Metrics(Option<SocketAddr>);

impl FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self(None)),
            address => address
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| format!("`{address}` is neither ADDR:PORT nor `off`")),
        }
    }
}

impl ServerArgs {
    /// Switches the relay on, with what was said here.
    pub(crate) fn apply(&self, config: &mut RelayServerConfig) {
        config.enabled = true;
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(qad) = self.qad {
            config.qad = qad;
        }
        if self.url.is_some() {
            config.url.clone_from(&self.url);
        }
        if self.cert.is_some() || self.self_signed {
            config.cert.clone_from(&self.cert);
            config.key.clone_from(&self.key);
        }
        if let Some(rate) = self.rate {
            config.rate = rate;
        }
        if let Some(burst) = self.burst {
            config.burst = burst;
        }
        if let Some(Metrics(metrics)) = self.metrics {
            config.metrics = metrics;
        }
    }

    /// The words that say the same.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let text = |value: Option<String>| value.map(OsString::from);
        let metrics = self.metrics.map(|Metrics(metrics)| {
            metrics.map_or_else(|| "off".into(), |metrics| metrics.to_string())
        });
        let valued: [(&str, Option<OsString>); 8] = [
            (
                "--listen",
                text(self.listen.map(|listen| listen.to_string())),
            ),
            ("--qad", text(self.qad.map(|qad| qad.to_string()))),
            ("--url", text(self.url.clone())),
            ("--cert", self.cert.clone().map(Into::into)),
            ("--key", self.key.clone().map(Into::into)),
            ("--rate", text(self.rate.map(|rate| rate.to_string()))),
            ("--burst", text(self.burst.map(|burst| burst.to_string()))),
            ("--metrics", text(metrics)),
        ];
        let mut words: Vec<OsString> = Vec::new();
        for (flag, value) in valued {
            words.extend(value.into_iter().flat_map(|value| [flag.into(), value]));
        }
        if self.self_signed {
            words.push("--self-signed".into());
        }
        words
    }
}

pub(crate) async fn run(app: &App, args: RelayArgs) -> Result<Exit, Failure> {
    let mut up = args.up;
    up.server = Some(args.server);
    up::run(app, up).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn server(words: &[OsString]) -> ServerArgs {
        let words = [vec!["alknet".into(), "relay".into()], words.to_vec()].concat();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Relay(args) => args.server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_is_said_again_to_a_detached_relay() {
        let given = [
            "--listen",
            "127.0.0.1:8443",
            "--qad",
            "off",
            "--url",
            "https://r.example.org/",
            "--cert",
            "c.pem",
            "--key",
            "k.pem",
            "--rate",
            "0",
            "--burst",
            "70000",
            "--metrics",
            "127.0.0.1:9090",
        ];
        let args = server(&given.map(OsString::from));
        assert_eq!(server(&args.words()), args);
        let own = server(&["--self-signed", "--metrics", "off"].map(OsString::from));
        assert_eq!(server(&own.words()), own);
    }

    #[test]
    fn what_is_not_said_stays_as_configured() {
        let mut config = RelayServerConfig {
            rate: 7,
            cert: Some("c.pem".into()),
            key: Some("k.pem".into()),
            ..RelayServerConfig::default()
        };
        let configured = config.clone();
        server(&[]).apply(&mut config);
        assert_eq!(
            config,
            RelayServerConfig {
                enabled: true,
                ..configured
            }
        );
        server(&["--self-signed".into()]).apply(&mut config);
        assert_eq!((config.cert, config.key, config.rate), (None, None, 7));
    }
}
