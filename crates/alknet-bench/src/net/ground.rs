//! The lab: two relays with public addresses, and two sites behind each kind of
//! NAT.

use super::{Part, run::Nats};
use alknet_lab::{Host, Lab, LabError, Nat, Site, measure};
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Where a process runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    Relay(Part),
    Server(Nats),
    Client(Nats),
}

/// The lab of one run. Dropped, it is removed.
pub(crate) struct Ground {
    relay: Host,
    bare_relay: Host,
    sites: BTreeMap<Nats, (Site, Site)>,
    /// What a packet takes from a far site to the relay and back.
    pub(crate) far: Duration,
    _lab: Lab,
}

/// How long a packet takes over the line of a far site, each way: between two
/// of them, 50 ms there and back.
const FAR: Duration = Duration::from_micros(12_500);

impl Ground {
    /// Builds it; `folder` is removed with it if the run is interrupted.
    /// Inside, why this machine cannot have one.
    pub(crate) fn open(folder: &Path) -> Result<Result<Self, LabError>> {
        let lab = match Lab::new() {
            Ok(lab) => lab,
            Err(reason) => return Ok(Err(reason)),
        };
        remove_when_interrupted(folder.to_owned())?;
        let mut sites = BTreeMap::new();
        for nats in Nats::ALL {
            let nat = match nats {
                Nats::Cones | Nats::Far => Nat::Cone,
                Nats::Symmetric => Nat::Symmetric,
            };
            let site = |side: &str| lab.site(&format!("{}-{side}", nats.word()), nat);
            let (server, client) = (site("server")?, site("client")?);
            if nats == Nats::Far {
                server.delay(FAR)?;
                client.delay(FAR)?;
            }
            sites.insert(nats, (server, client));
        }
        let relay = lab.host("relay")?;
        let (_, client) = sites.get(&Nats::Far).context("built above")?;
        let far = measure::round_trip(client, &relay)?;
        ensure!(far >= 2 * FAR, "the delay is not there: {far:?}");
        Ok(Ok(Self {
            relay,
            bare_relay: lab.host("bare-relay")?,
            sites,
            far,
            _lab: lab,
        }))
    }

    /// Where this relay listens.
    pub(crate) fn relay_ip(&self, part: Part) -> Ipv4Addr {
        self.relay(part).v4()
    }

    fn relay(&self, part: Part) -> &Host {
        match part {
            Part::BareRelay => &self.bare_relay,
            _ => &self.relay,
        }
    }

    /// A command that runs there.
    pub(crate) fn command(&self, spot: Spot, program: &Path) -> Result<Command> {
        let sites = |nats| self.sites.get(&nats).context("there are sites behind both");
        Ok(match spot {
            Spot::Relay(part) => self.relay(part).command(program),
            Spot::Server(nats) => sites(nats)?.0.command(program),
            Spot::Client(nats) => sites(nats)?.1.command(program),
        })
    }
}

/// What the system says of a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// Set when the program is about to end.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Whether the run was interrupted: then what fails fails since its processes
/// are gone, and nobody wants to hear of it.
pub(crate) fn is_ending() -> bool {
    IS_ENDING.load(Ordering::Relaxed)
}

/// Ends the program on Ctrl-C, or when it is told to end, and leaves nothing
/// behind: what a process drops at its end, one that a signal ends does not.
fn remove_when_interrupted(folder: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupted, mut ended) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupted.recv() => {}
                _ = ended.recv() => {}
            }
        });
        IS_ENDING.store(true, Ordering::Relaxed);
        // Kills what runs in the lab, too.
        alknet_lab::clean_own();
        // Nothing else could be done about it.
        let _ = std::fs::remove_dir_all(folder);
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}
