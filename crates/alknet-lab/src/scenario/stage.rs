//! The network of a scenario and the nodes in it.

use super::{
    Before, Scenario, ScenarioError,
    program::{Enter, PATIENCE, Seat, text_of, until},
    workload,
};
use crate::{Host, Lab, Site};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Where Debian puts the library of its package `faketime`.
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The library that lies about the time, if it is installed.
pub(super) fn faketime() -> Option<&'static str> {
    FAKETIME.into_iter().find(|path| Path::new(path).exists())
}

/// A lab with relays and two sites, and the nodes in it.
///
/// Fields are dropped in this order: nodes end before their network goes.
pub(super) struct Stage {
    inviting: Seat,
    joining: Seat,
    /// It is the inviting node that calls.
    calls_back: bool,
    relays: Vec<Relay>,
    pub(super) laptop: Site,
    _home: Site,
    _lab: Lab,
}

struct Relay {
    seat: Seat,
    words: Vec<String>,
    url: String,
}

impl Stage {
    /// Makes the network, and starts the relays and both nodes in it. The nodes
    /// do not know each other yet.
    pub(super) fn set(lab: Lab, scenario: &Scenario, alknet: &Path) -> Result<Self, ScenarioError> {
        let home = lab.site("home", scenario.home)?;
        let laptop = lab.site("laptop", scenario.laptop)?;
        if scenario.before == Before::OthersHaveIpv6 {
            home.gain_ipv6()?;
        }
        let inviting = Seat::new("home", alknet, enter(&home))?;
        let is_skewed = matches!(scenario.before, Before::Clock(_));
        let enter_laptop = if is_skewed {
            enter_skewed(&laptop)
        } else {
            enter(&laptop)
        };
        let mut joining = Seat::new("laptop", alknet, enter_laptop)?;
        let clock = joining.path("clock");
        match scenario.before {
            Before::Plain | Before::OthersHaveIpv6 => {}
            Before::UdpBlocked => laptop.block_udp()?,
            Before::UdpTimeout(seconds) => laptop.udp_timeout(seconds)?,
            Before::Clock(seconds) => {
                write_clock(&clock, seconds)?;
                joining.env = skewed(&clock);
            }
        }
        let known = [("home", inviting.init()?), ("laptop", joining.init()?)];
        let mut relays = Vec::new();
        for n in 1..=scenario.relays {
            let host = lab.host(&format!("relay{n}"))?;
            relays.push(Relay::start(&host, n, alknet, &known)?);
        }
        let urls: Vec<&str> = relays.iter().map(|relay| relay.url.as_str()).collect();
        let mut stage = Self {
            inviting,
            joining,
            calls_back: scenario.calls_back,
            relays: Vec::new(),
            laptop,
            _home: home,
            _lab: lab,
        };
        // Whichever is called counts.
        let [stop, pause] = stage.files();
        let operation = workload::operation(&stop, &pause);
        for seat in [&stage.inviting, &stage.joining] {
            seat.configure(&config(&seat.name, &urls, &operation))?;
        }
        stage.relays = relays;
        stage.inviting.start(&["up"])?;
        stage.joining.start(&["up"])?;
        Ok(stage)
    }

    /// The node that calls.
    pub(super) fn caller(&self) -> &Seat {
        if self.calls_back {
            &self.inviting
        } else {
            &self.joining
        }
    }

    /// How it calls the node that is called.
    pub(super) fn peer(&self) -> &str {
        if self.calls_back {
            &self.joining.name
        } else {
            &self.inviting.name
        }
    }

    /// The files with which the subscription is ended, and paused.
    pub(super) fn files(&self) -> [PathBuf; 2] {
        ["stop", "pause"].map(|name| self.inviting.path(name))
    }

    /// Redeems a ticket of [`Stage::invite`], and waits until calls work.
    pub(super) fn join(&self, ticket: &str) -> Result<(), ScenarioError> {
        let words = ["join", "-", "--role", "operator"];
        self.joining.feed(&words, ticket.as_bytes()).map(drop)
    }

    /// Waits until the inviting node has a relay at which it is to be found,
    /// and makes a ticket there.
    pub(super) fn invite(&self) -> Result<String, ScenarioError> {
        until("the inviting node is at a relay", PATIENCE, || {
            let status = self.inviting.json(&["status"])?;
            let relays = status.get("relays").and_then(Value::as_array);
            Ok(relays.filter(|relays| !relays.is_empty()).map(|_| ()))
        })?;
        self.inviting
            .cli(&["invite", "--quiet", "--role", "operator"])
    }

    /// By how many seconds the laptop's clock is ahead, as its node's records
    /// have it: when it came to know the other one, which is now.
    pub(super) fn clock_ahead(&self) -> Result<i64, ScenarioError> {
        let peer = self.joining.json(&["peers", "show", &self.inviting.name])?;
        let known = text_of(&peer, "created_at")
            .and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
        let known = known.ok_or_else(|| ScenarioError::Program {
            command: "alknet peers show home".into(),
            at: self.joining.name.clone(),
            said: format!("no `created_at`: {peer}"),
        })?;
        Ok((known - OffsetDateTime::now_utc()).whole_seconds())
    }

    /// Kills all relays.
    pub(super) fn kill_relays(&mut self) {
        for relay in &mut self.relays {
            relay.seat.kill();
        }
    }

    /// Starts all relays that do not run, at their old addresses and with their
    /// old keys.
    pub(super) fn start_relays(&mut self) -> Result<(), ScenarioError> {
        for relay in &mut self.relays {
            let words: Vec<&str> = relay.words.iter().map(String::as_str).collect();
            relay.seat.start(&words)?;
        }
        Ok(())
    }

    /// Kills the relay that the link to the called node goes through; if it
    /// goes through none, the one at which that node is to be found.
    pub(super) fn kill_relay_in_use(&mut self) -> Result<(), ScenarioError> {
        let peer = self.caller().json(&["peers", "show", self.peer()])?;
        let address = peer
            .get("link")
            .and_then(|link| text_of(link, "address"))
            .unwrap_or_default();
        let host = |url: &str| url.split('/').nth(2).map(str::to_owned);
        let used = self
            .relays
            .iter()
            .position(|relay| host(&relay.url) == host(&address));
        if let Some(relay) = self.relays.get_mut(used.unwrap_or(0)) {
            relay.seat.kill();
        }
        Ok(())
    }

    /// Sets how many seconds the laptop's clock is ahead.
    pub(super) fn set_clock(&self, seconds: i64) -> Result<(), ScenarioError> {
        write_clock(&self.joining.path("clock"), seconds)
    }

    /// What every node said, for a failure.
    pub(super) fn told(&self) -> String {
        let seats = [&self.joining, &self.inviting];
        let relays = self.relays.iter().map(|relay| &relay.seat);
        let all = seats.into_iter().chain(relays);
        all.map(|seat| format!("`{}` said: {}\n", seat.name, seat.told().trim_end()))
            .collect()
    }
}

impl Relay {
    /// A relay of one's own, which serves the peers that it knows.
    fn start(
        host: &Host,
        n: usize,
        alknet: &Path,
        known: &[(&str, String)],
    ) -> Result<Self, ScenarioError> {
        let listen = format!("{}:443", host.v4());
        let words = [
            "relay",
            "--listen",
            &listen,
            "--self-signed",
            // How fast a client may be is not the question here.
            "--rate",
            "0",
            "--relay",
            "none",
        ];
        let mut seat = Seat::new(&format!("relay{n}"), alknet, enter(host))?;
        let ready = seat.start(&words)?;
        for (name, id) in known {
            seat.cli(&["peers", "add", name, "--node-id", id])?;
        }
        let url = ready.get("relay").and_then(|relay| text_of(relay, "url"));
        let url = url.ok_or_else(|| ScenarioError::Program {
            command: "alknet relay".into(),
            at: seat.name.clone(),
            said: format!("no `relay.url`: {ready}"),
        })?;
        Ok(Self {
            seat,
            words: words.map(str::to_owned).to_vec(),
            url,
        })
    }
}

fn enter(host: &Host) -> Enter {
    let host = host.clone();
    Box::new(move |program: &Path| host.command(program))
}

/// The library leaves semaphores of every killed process in `/dev/shm`: its
/// programs get one of their own, which goes with them. It is loaded last, into
/// the program alone.
const SKEW: &str =
    "mount -t tmpfs tmpfs /dev/shm && exec env LD_PRELOAD=\"$SKEW_LIBRARY\" \"$0\" \"$@\"";

/// The same with a clock of its own, which [`skewed`] sets. `ip netns exec`
/// has made a mount namespace for it already.
fn enter_skewed(host: &Host) -> Enter {
    let host = host.clone();
    Box::new(move |program: &Path| {
        let mut command = host.command("/bin/sh");
        command.args(["-c", SKEW]).arg(program);
        command
    })
}

/// How a node of a scenario is configured. Where it runs as root, so do the
/// programs that it runs.
fn config(name: &str, relays: &[&str], operations: &str) -> String {
    let relays = serde_json::json!(relays);
    let exec = if rustix::process::geteuid().is_root() {
        "[exec]\nuser = \"root\"\n"
    } else {
        ""
    };
    format!("name = \"{name}\"\n[network]\nrelays = {relays}\n{exec}{operations}")
}

/// Variables that let a program believe the clock in a file. Only the wall
/// clock: the time that passes is as it is.
fn skewed(clock: &Path) -> Vec<(String, String)> {
    let library = faketime().unwrap_or_default();
    [
        ("SKEW_LIBRARY", library),
        ("FAKETIME_TIMESTAMP_FILE", &clock.to_string_lossy()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

fn write_clock(file: &PathBuf, seconds: i64) -> Result<(), ScenarioError> {
    fs::write(file, format!("{seconds:+}s\n"))
        .map_err(|source| ScenarioError::io("set the clock", source))
}
