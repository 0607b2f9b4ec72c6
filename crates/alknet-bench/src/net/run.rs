//! The run: who takes which turn, and what is kept of it.

use super::{
    Part,
    ground::{self, Ground, Spot},
    report,
    task::{Meeting, Met, Setup, Task},
};
use crate::{
    call::{Measured, Work, payload::Payload},
    machine,
    worker::{Usage, Worker},
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// Bare iroh, at alknet's relay.
    Bare,
    /// Whole nodes, at alknet's relay.
    Alknet,
    /// Bare iroh, at iroh's own relay server.
    BareRelay,
}

impl Contender {
    fn parts(self) -> (Part, Part) {
        match self {
            Contender::Bare | Contender::BareRelay => (Part::BareServer, Part::BareClient),
            Contender::Alknet => (Part::Server, Part::Client),
        }
    }

    fn relay(self) -> Part {
        match self {
            Contender::Bare | Contender::Alknet => Part::Relay,
            Contender::BareRelay => Part::BareRelay,
        }
    }
}

/// Behind what both sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nats {
    /// NATs that give a socket one outer port: a direct path can be had.
    Cones,
    /// NATs that give every destination another: the relay stays.
    Symmetric,
    /// The first kind, far apart: what counts is how often a packet has to go
    /// there and back.
    Far,
}

impl Nats {
    pub(crate) const ALL: [Self; 3] = [Nats::Cones, Nats::Symmetric, Nats::Far];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Nats::Cones => "cones",
            Nats::Symmetric => "symmetric",
            Nats::Far => "far",
        }
    }

    /// Who takes part: iroh's relay matters where it is used.
    pub(crate) fn contenders(self) -> &'static [Contender] {
        match self {
            Nats::Cones | Nats::Far => &[Contender::Bare, Contender::Alknet],
            Nats::Symmetric => &[Contender::Bare, Contender::Alknet, Contender::BareRelay],
        }
    }

    fn is_direct(self) -> bool {
        self != Nats::Symmetric
    }

    /// Whether more than meetings is measured there: over a distance, calls and
    /// bulk would measure the distance.
    pub(crate) fn has_work(self) -> bool {
        self != Nats::Far
    }
}

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Meetings of each contender in a round, the first ones with a new key.
    pub(crate) meetings: usize,
    /// Turns of calls of each contender in a round, for each line.
    pub(crate) turns: usize,
    /// The same of bulk.
    pub(crate) bulk_turns: usize,
    /// Milliseconds of a turn of calls.
    pub(crate) unary_ms: u64,
    /// Bytes of a turn of bulk.
    pub(crate) bulk_bytes: u64,
}

/// Calls under way at a time.
const IN_FLIGHT: [usize; 2] = [1, 16];

impl Plan {
    /// What the figures in the documents come from.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            meetings: 3,
            turns: 3,
            bulk_turns: 2,
            unary_ms: 400,
            bulk_bytes: 1 << 28,
        }
    }

    /// Two minutes' work.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            meetings: 2,
            unary_ms: 150,
            bulk_bytes: 1 << 26,
            ..Self::full()
        }
    }

    /// Says nothing about speed.
    pub(crate) fn smoke() -> Self {
        Self {
            rounds: 1,
            meetings: 1,
            turns: 1,
            bulk_turns: 1,
            unary_ms: 20,
            bulk_bytes: 1 << 20,
        }
    }

    fn works(&self) -> Vec<(Work, usize)> {
        let unary = IN_FLIGHT.map(|in_flight| Work::Unary {
            payload: Payload::Small,
            in_flight,
            ms: self.unary_ms,
        });
        let bytes = self.bulk_bytes;
        let bulk = [Work::Upload { bytes }, Work::Download { bytes }];
        let unary = unary.into_iter().map(|work| (work, self.turns));
        let bulk = bulk.into_iter().map(|work| (work, self.bulk_turns));
        unary.chain(bulk).collect()
    }
}

/// One contender's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) measured: Measured,
    pub(crate) client_cpu_ns: u64,
    pub(crate) server_cpu_ns: u64,
    pub(crate) relay_cpu_ns: u64,
    /// Bytes that arrived at the relay, headers of packets included.
    pub(crate) relay_bytes: u64,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    /// Meetings that failed, and why; they were repeated.
    pub(crate) failures: Vec<(Nats, Contender, String)>,
    /// Turns that took another path than they should; they were repeated.
    pub(crate) strays: usize,
    /// First meetings, and those after.
    pub(crate) meetings: BTreeMap<(Nats, bool, Contender), Vec<Met>>,
    /// Turns of each piece of work, in the order of the plan.
    pub(crate) turns: BTreeMap<(Nats, usize, Contender), Vec<Turn>>,
    /// What clients and servers used in all.
    pub(crate) usage: BTreeMap<(Nats, Contender), (Usage, Usage)>,
}

/// What became of a run.
pub(crate) enum Outcome {
    /// The report.
    Measured(String),
    /// This machine cannot have a lab.
    Skipped(String),
}

/// Runs the plan and writes the report.
pub(crate) fn measure(plan: &Plan) -> Result<Outcome> {
    let outcome = run(plan);
    while outcome.is_err() && ground::is_ending() {
        std::thread::park();
    }
    outcome
}

fn run(plan: &Plan) -> Result<Outcome> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let ground = match Ground::open(folder.path())? {
        Ok(ground) => ground,
        Err(reason) => return Ok(Outcome::Skipped(reason.to_string())),
    };
    let mut stage = Stage::open(&ground, folder.path())?;
    let load_before = machine::load();
    let works = plan.works();
    let mut found = Found::default();
    for _ in 0..plan.rounds {
        for nats in Nats::ALL {
            stage.meet_in_turns(nats, plan, &mut found)?;
            if nats.has_work() {
                stage.work_in_turns(nats, &works, &mut found)?;
            }
            stage.part(nats)?;
        }
    }
    for (&(nats, contender), pair) in &mut stage.pairs {
        let used = (pair.client.usage()?, pair.server.usage()?);
        found.usage.insert((nats, contender), used);
    }
    let relays = stage.relays.iter_mut();
    let relays: Result<Vec<_>> = relays
        .map(|(part, relay)| Ok((*part == Part::Relay, relay.usage()?)))
        .collect();
    let load = (load_before, machine::load());
    let works: Vec<Work> = works.into_iter().map(|(work, _)| work).collect();
    let text = report::write(plan, &works, &found, &relays?, &ground, &load);
    Ok(Outcome::Measured(text))
}

/// Milliseconds after a meeting in which what is learned of the other side may
/// be written down.
const SETTLE: Duration = Duration::from_millis(1000);
/// How often a meeting that fails, or a turn on another path, is tried at most.
const TRIES: usize = 3;
/// Bytes that bring a connection for bulk to its path and its speed.
const WARM_BYTES: u64 = 1 << 22;
/// How often they are sent at most, and after which waits.
const WARM_TRIES: usize = 40;
const WARM_WAIT: Duration = Duration::from_millis(100);

/// A client and its server.
struct Pair {
    client: Worker,
    server: Worker,
    relay: Part,
    /// The client's key, while it is known to the others.
    id: Option<String>,
}

/// All processes.
struct Stage {
    relays: Vec<(Part, Worker)>,
    pairs: BTreeMap<(Nats, Contender), Pair>,
}

fn start(ground: &Ground, spot: Spot, part: Part, setup: &Setup, name: &str) -> Result<Worker> {
    let own = std::env::current_exe().context("this program is not found")?;
    let mut command = ground.command(spot, &own)?;
    command.args(["net-worker", part.word(), &serde_json::to_string(setup)?]);
    Worker::start(&mut command, format!("{} {name}", part.word()))
}

impl Stage {
    fn open(ground: &Ground, folder: &Path) -> Result<Self> {
        let mut relays = Vec::new();
        for part in [Part::Relay, Part::BareRelay] {
            let setup = Setup {
                relay: ground.relay_ip(part).to_string(),
                folder: folder.join(part.word()),
            };
            relays.push((part, start(ground, Spot::Relay(part), part, &setup, "")?));
        }
        let mut stage = Self {
            relays,
            pairs: BTreeMap::new(),
        };
        for nats in Nats::ALL {
            for &contender in nats.contenders() {
                let pair = stage.pair(ground, folder, nats, contender)?;
                stage.pairs.insert((nats, contender), pair);
            }
        }
        Ok(stage)
    }

    fn pair(
        &mut self,
        ground: &Ground,
        folder: &Path,
        nats: Nats,
        contender: Contender,
    ) -> Result<Pair> {
        let (server_part, client_part) = contender.parts();
        let name = format!("{contender:?} {}", nats.word()).to_lowercase();
        let place = folder.join(name.replace(' ', "-"));
        let address = self.relay(contender.relay())?.ready.clone();
        let setup = |side: &str| -> Setup {
            let folder: PathBuf = place.join(side);
            Setup {
                relay: address.clone(),
                folder,
            }
        };
        let (at_server, at_client) = (Spot::Server(nats), Spot::Client(nats));
        std::fs::create_dir_all(&place)?;
        let server = start(ground, at_server, server_part, &setup("server"), &name)?;
        let client = start(ground, at_client, client_part, &setup("client"), &name)?;
        let id = server.ready.clone();
        let () = self
            .relay(contender.relay())?
            .measure(&Task::Admit { id })?;
        Ok(Pair {
            client,
            server,
            relay: contender.relay(),
            id: None,
        })
    }

    fn relay(&mut self, part: Part) -> Result<&mut Worker> {
        let found = self.relays.iter_mut().find(|(of, _)| *of == part);
        Ok(&mut found.context("both relays are started first")?.1)
    }

    fn of(&mut self, nats: Nats, contender: Contender) -> Result<(&mut Pair, &mut Worker)> {
        let pair = self.pairs.get_mut(&(nats, contender));
        let pair = pair.context("every pair is started first")?;
        let part = pair.relay;
        let relay = self.relays.iter_mut().find(|(of, _)| *of == part);
        Ok((pair, &mut relay.context("so are the relays")?.1))
    }

    /// New keys meet the server, go, and come again; the last ones stay.
    fn meet_in_turns(&mut self, nats: Nats, plan: &Plan, found: &mut Found) -> Result<()> {
        for _ in 0..plan.meetings {
            for &contender in nats.contenders() {
                let (first, again) = self.meet(nats, contender, found)?;
                for (is_first, met) in [(true, first), (false, again)] {
                    let kept = found.meetings.entry((nats, is_first, contender));
                    kept.or_default().push(met);
                }
            }
        }
        Ok(())
    }

    /// One meeting and the one after; those that fail are told, and repeated.
    fn meet(&mut self, nats: Nats, contender: Contender, found: &mut Found) -> Result<(Met, Met)> {
        let (pair, relay) = self.of(nats, contender)?;
        let mut tries = 1..TRIES;
        loop {
            match pair.twice(relay, nats.is_direct()) {
                Err(error) if tries.next().is_some() && !ground::is_ending() => {
                    // The rest of it holds tickets.
                    let cause = error.root_cause().to_string();
                    found.failures.push((nats, contender, cause));
                }
                ended => return ended,
            }
        }
    }

    fn work_in_turns(
        &mut self,
        nats: Nats,
        works: &[(Work, usize)],
        found: &mut Found,
    ) -> Result<()> {
        for &contender in nats.contenders() {
            let (pair, relay) = self.of(nats, contender)?;
            pair.warm(relay, nats.is_direct())?;
        }
        for (at, (work, turns)) in works.iter().enumerate() {
            for _ in 0..*turns {
                for &contender in nats.contenders() {
                    let (pair, relay) = self.of(nats, contender)?;
                    let (turn, strays) = pair.turn(relay, work, nats.is_direct())?;
                    found.strays += strays;
                    let kept = found.turns.entry((nats, at, contender));
                    kept.or_default().push(turn);
                }
            }
        }
        Ok(())
    }

    /// Ends the meetings that stayed.
    fn part(&mut self, nats: Nats) -> Result<()> {
        for &contender in nats.contenders() {
            let (pair, relay) = self.of(nats, contender)?;
            pair.part(relay)?;
        }
        Ok(())
    }
}

impl Pair {
    /// Meets for the first time, goes, and comes again.
    fn twice(&mut self, relay: &mut Worker, until_direct: bool) -> Result<(Met, Met)> {
        self.part(relay)?;
        let first = self.first(relay, until_direct)?;
        std::thread::sleep(SETTLE);
        Ok((first, self.again(until_direct)?))
    }

    fn first(&mut self, relay: &mut Worker, until_direct: bool) -> Result<Met> {
        let id: String = self.client.measure(&Task::Prepare)?;
        let admit = Task::Admit { id: id.clone() };
        let () = relay.measure(&admit)?;
        self.id = Some(id);
        let invitation = self.server.measure(&Task::Invite)?;
        let meeting = Meeting::First(invitation);
        self.client.measure(&Task::Meet {
            meeting,
            until_direct,
        })
    }

    fn again(&mut self, until_direct: bool) -> Result<Met> {
        let () = self.client.measure(&Task::Leave)?;
        let meeting = Meeting::Again;
        self.client.measure(&Task::Meet {
            meeting,
            until_direct,
        })
    }

    /// Ends what there is, on all sides.
    fn part(&mut self, relay: &mut Worker) -> Result<()> {
        let () = self.client.measure(&Task::Leave)?;
        if let Some(id) = self.id.take() {
            let () = self.server.measure(&Task::Forget { id: id.clone() })?;
            let () = relay.measure(&Task::Forget { id })?;
        }
        Ok(())
    }

    /// Moves bytes until they take the path that they should.
    fn warm(&mut self, relay: &mut Worker, is_direct: bool) -> Result<()> {
        let bytes = WARM_BYTES;
        for _ in 0..WARM_TRIES {
            let up = self.once(relay, &Work::Upload { bytes })?;
            let down = self.once(relay, &Work::Download { bytes })?;
            if up.is_direct() == is_direct && down.is_direct() == is_direct {
                return Ok(());
            }
            std::thread::sleep(WARM_WAIT);
        }
        bail!("{WARM_BYTES} bytes did not take the path that they should");
    }

    /// A turn on the path that it should take, and how many took another.
    fn turn(&mut self, relay: &mut Worker, work: &Work, is_direct: bool) -> Result<(Turn, usize)> {
        let is_bulk = !matches!(work, Work::Unary { .. });
        for strays in 0..TRIES {
            self.wake(work)?;
            let turn = self.once(relay, work)?;
            let says_direct: bool = self.client.measure(&Task::IsDirect)?;
            if says_direct == is_direct && (!is_bulk || turn.is_direct() == is_direct) {
                return Ok((turn, strays));
            }
            self.warm(relay, is_direct)?;
        }
        bail!("the path changed under {TRIES} turns of `{work:?}`");
    }

    /// What was idle is woken before calls are counted.
    fn wake(&mut self, work: &Work) -> Result<()> {
        if let &Work::Unary {
            payload,
            in_flight,
            ms,
        } = work
        {
            let ms = ms / 8;
            let _: Measured = self.client.measure(&Task::Run(Work::Unary {
                payload,
                in_flight,
                ms,
            }))?;
        }
        Ok(())
    }

    fn once(&mut self, relay: &mut Worker, work: &Work) -> Result<Turn> {
        let client = self.client.usage()?.cpu_ns;
        let server = self.server.usage()?.cpu_ns;
        let relaying = relay.usage()?.cpu_ns;
        let received: u64 = relay.measure(&Task::Received)?;
        let measured = self.client.measure(&Task::Run(work.clone()))?;
        let received_after: u64 = relay.measure(&Task::Received)?;
        Ok(Turn {
            measured,
            client_cpu_ns: self.client.usage()?.cpu_ns - client,
            server_cpu_ns: self.server.usage()?.cpu_ns - server,
            relay_cpu_ns: relay.usage()?.cpu_ns - relaying,
            relay_bytes: received_after - received,
        })
    }
}

impl Turn {
    /// Whether bulk went past the relay.
    fn is_direct(&self) -> bool {
        self.relay_bytes < self.measured.count / 2
    }
}
