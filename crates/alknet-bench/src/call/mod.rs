//! Calls, channels and subscriptions beside a bare iroh stream, irpc, gRPC and
//! NATS; a call through a node between; and the door alone.

mod bare_irpc;
mod door;
mod endpoint;
mod grpc;
pub(crate) mod measure;
mod native;
mod nats;
pub(crate) mod payload;
pub(crate) mod raw;
mod report;
mod tls;
mod whole_node;

use crate::{
    machine,
    worker::{Usage, Worker},
};
use anyhow::{Context, Result};
use payload::Payload;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path, process::Command};

/// What a process is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Role {
    /// Which contender.
    contender: Contender,
    /// Which side of it.
    side: Side,
    /// Where the other side is, as it said; of a server its directory.
    #[arg(default_value = "")]
    place: String,
}

/// Which side of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// Answers.
    Server,
    /// Passes on what it is asked.
    Between,
    /// Asks.
    Client,
}

/// Who is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
pub(crate) enum Contender {
    /// A bare iroh stream, written and read as any stream.
    Raw,
    /// The same, in chunks that are handed over instead of copied.
    RawChunks,
    /// alknet's call protocol, and a door with its audit log in memory.
    Alknet,
    /// irpc over iroh.
    Irpc,
    /// tonic over TLS; the server looks at nothing.
    Tonic,
    /// The same; the server reads the JSON and writes it again.
    TonicJson,
    /// NATS over TLS; whoever answers looks at nothing.
    Nats,
    /// The same; whoever answers reads the JSON and writes it again.
    NatsJson,
    /// A whole node with its audit log in SQLite.
    Node,
    /// Two of them: calls pass through one to the other.
    Hub,
    /// The door, in one process.
    Door,
}

impl Contender {
    /// How the command line calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Contender::Raw => "raw",
            Contender::RawChunks => "raw-chunks",
            Contender::Alknet => "alknet",
            Contender::Irpc => "irpc",
            Contender::Tonic => "tonic",
            Contender::TonicJson => "tonic-json",
            Contender::Nats => "nats",
            Contender::NatsJson => "nats-json",
            Contender::Node => "node",
            Contender::Hub => "hub",
            Contender::Door => "door",
        }
    }

    /// What keeps it from taking part here.
    fn lacks(self) -> Option<&'static str> {
        match self {
            Contender::Nats | Contender::NatsJson if !machine::has_program(nats::PROGRAM) => {
                Some("`nats-server` is not installed")
            }
            _ => None,
        }
    }
}

/// What a client is told to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Calls, so many under way at a time, for so long.
    Unary {
        payload: Payload,
        in_flight: usize,
        ms: u64,
    },
    /// Bytes to the server on one stream.
    Upload { bytes: u64 },
    /// Bytes from the server on one stream.
    Download { bytes: u64 },
    /// Items of a subscription.
    Items { count: u64 },
    /// Calls through the door, one after the other; bare, the same parsing
    /// without it.
    Door {
        payload: Payload,
        calls: u64,
        is_bare: bool,
    },
}

/// What came out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Calls, bytes or items.
    pub(crate) count: u64,
    /// Time it took.
    pub(crate) seconds: f64,
    /// Half of the calls took no longer.
    pub(crate) p50_ns: u32,
    /// 99 of 100 calls took no longer.
    pub(crate) p99_ns: u32,
}

impl Measured {
    /// Calls, bytes or items a second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }

    pub(crate) fn p50_us(&self) -> f64 {
        f64::from(self.p50_ns) / 1e3
    }

    pub(crate) fn p99_us(&self) -> f64 {
        f64::from(self.p99_ns) / 1e3
    }
}

/// One contender's turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    measured: Measured,
    client_cpu_ns: u64,
    server_cpu_ns: u64,
}

/// One thing that is measured, and who takes part.
struct Event {
    work: Work,
    contenders: Vec<Contender>,
    turns: BTreeMap<Contender, Vec<Turn>>,
}

/// How much is measured.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Turns of each contender in each event of a round.
    turns: usize,
    /// The same where bytes are moved.
    bulk_turns: usize,
    /// Milliseconds of a turn of calls.
    unary_ms: u64,
    in_flight: &'static [usize],
    bulk_bytes: u64,
    items: u64,
    door_calls: u64,
}

impl Plan {
    /// What the figures in the documents come from.
    pub(crate) fn full() -> Self {
        Self {
            rounds: 5,
            turns: 3,
            bulk_turns: 2,
            unary_ms: 400,
            in_flight: &[1, 16, 256],
            bulk_bytes: 1 << 30,
            items: 200_000,
            door_calls: 100_000,
        }
    }

    /// A minute's work.
    pub(crate) fn quick() -> Self {
        Self {
            rounds: 2,
            turns: 3,
            bulk_turns: 3,
            unary_ms: 150,
            bulk_bytes: 1 << 28,
            items: 50_000,
            door_calls: 20_000,
            ..Self::full()
        }
    }

    /// Says nothing about speed.
    pub(crate) fn smoke() -> Self {
        Self {
            rounds: 1,
            turns: 1,
            bulk_turns: 1,
            unary_ms: 20,
            in_flight: &[1, 16],
            bulk_bytes: 1 << 20,
            items: 50,
            door_calls: 50,
        }
    }

    fn events(&self) -> Vec<Event> {
        use Contender::{
            Alknet, Door, Hub, Irpc, Nats, NatsJson, Node, Raw, RawChunks, Tonic, TonicJson,
        };
        let mut events = Vec::new();
        let mut add = |work, contenders: &[Contender]| {
            let present = contenders.iter().filter(|of| of.lacks().is_none());
            events.push(Event {
                work,
                contenders: present.copied().collect(),
                turns: BTreeMap::new(),
            });
        };
        for payload in Payload::ALL {
            for is_bare in [false, true] {
                let calls = self.door_calls;
                let work = Work::Door {
                    payload,
                    calls,
                    is_bare,
                };
                add(work, &[Door]);
            }
        }
        for payload in Payload::ALL {
            for &in_flight in self.in_flight {
                let ms = self.unary_ms;
                let work = Work::Unary {
                    payload,
                    in_flight,
                    ms,
                };
                // Of 64 bytes, reading and writing costs nobody anything.
                add(
                    work,
                    match payload {
                        Payload::Small => &[Raw, Alknet, Irpc, Tonic, Nats, Node, Hub],
                        Payload::Listing => &[
                            Raw, Alknet, Irpc, Tonic, TonicJson, Nats, NatsJson, Node, Hub,
                        ],
                        Payload::Large => &[Raw, Alknet, Irpc, Tonic, TonicJson, Nats, NatsJson],
                    },
                );
            }
        }
        let bytes = self.bulk_bytes;
        add(Work::Upload { bytes }, &[Raw, RawChunks, Alknet, Hub]);
        add(Work::Download { bytes }, &[Raw, RawChunks, Alknet, Hub]);
        add(Work::Items { count: self.items }, &[Alknet, Irpc]);
        events
    }
}

/// The processes of a contender: its client, and all that stands behind it.
struct Pair {
    client: Worker,
    servers: Vec<Worker>,
}

/// Starts one side of a contender.
fn start(contender: Contender, side: Side, place: &str) -> Result<Worker> {
    let side = match side {
        Side::Server => "server",
        Side::Between => "between",
        Side::Client => "client",
    };
    let own = std::env::current_exe().context("this program is not found")?;
    let name = format!("{} {side}", contender.word());
    let mut command = Command::new(own);
    Worker::start(
        command.args(["worker", contender.word(), side, place]),
        name,
    )
}

impl Pair {
    fn start(contender: Contender, folder: &Path) -> Result<Self> {
        let directory = |side: &str| {
            let path = folder.join(contender.word()).join(side);
            let text = path.to_str().map(ToOwned::to_owned);
            text.context("its path is text")
        };
        let mut servers = Vec::new();
        let mut place = String::new();
        if contender != Contender::Door {
            let server = start(contender, Side::Server, &directory("server")?)?;
            place.clone_from(&server.ready);
            servers.push(server);
        }
        if contender == Contender::Hub {
            let own = format!("{}\n{place}", directory("between")?);
            let between = start(contender, Side::Between, &own)?;
            place.clone_from(&between.ready);
            servers.push(between);
        }
        let client = start(contender, Side::Client, &place)?;
        Ok(Self { client, servers })
    }

    fn usage(&mut self) -> Result<(Usage, Usage)> {
        let mut servers = Usage::default();
        for server in &mut self.servers {
            servers = servers.and(server.usage()?);
        }
        Ok((self.client.usage()?, servers))
    }

    fn turn(&mut self, work: &Work) -> Result<Turn> {
        if let &Work::Unary {
            payload,
            in_flight,
            ms,
        } = work
        {
            // What was idle is woken before anything is counted.
            let ms = ms / 8;
            let _: Measured = self.client.measure(&Work::Unary {
                payload,
                in_flight,
                ms,
            })?;
        }
        let (client, server) = self.usage()?;
        let measured = self.client.measure(work)?;
        let (client_after, server_after) = self.usage()?;
        Ok(Turn {
            measured,
            client_cpu_ns: client_after.cpu_ns - client.cpu_ns,
            server_cpu_ns: server_after.cpu_ns - server.cpu_ns,
        })
    }
}

/// Runs the plan and writes the report.
pub(crate) fn measure(plan: &Plan) -> Result<String> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let mut events = plan.events();
    let mut pairs = BTreeMap::new();
    for contender in events.iter().flat_map(|event| &event.contenders) {
        if !pairs.contains_key(contender) {
            pairs.insert(*contender, Pair::start(*contender, folder.path())?);
        }
    }
    let load_before = machine::load();
    for _ in 0..plan.rounds {
        for event in &mut events {
            let turns = match event.work {
                Work::Upload { .. } | Work::Download { .. } => plan.bulk_turns,
                _ => plan.turns,
            };
            for _ in 0..turns {
                for contender in &event.contenders {
                    let pair = pairs.get_mut(contender).context("started above")?;
                    let turn = pair.turn(&event.work)?;
                    event.turns.entry(*contender).or_default().push(turn);
                }
            }
        }
    }
    let mut usage = BTreeMap::new();
    for (contender, pair) in &mut pairs {
        usage.insert(*contender, pair.usage()?);
    }
    let load = (load_before, machine::load());
    Ok(report::write(plan, &events, &usage, &load))
}

/// Is one side of a contender.
pub(crate) async fn serve_role(role: Role) -> Result<()> {
    let place = role.place.as_str();
    match (role.side, role.contender) {
        (Side::Server, Contender::Raw | Contender::RawChunks) => raw::serve().await,
        (Side::Server, Contender::Alknet) => native::serve().await,
        (Side::Server, Contender::Irpc) => bare_irpc::serve().await,
        (Side::Server, Contender::Tonic | Contender::TonicJson) => grpc::serve().await,
        (Side::Server, Contender::Nats | Contender::NatsJson) => nats::serve(place).await,
        (Side::Server, Contender::Node) => whole_node::serve(place).await,
        (Side::Server, Contender::Hub) => whole_node::serve_far(place).await,
        (Side::Between, _) => whole_node::serve_between(place).await,
        (_, Contender::Door) => door::serve().await,
        (Side::Client, Contender::Raw) => {
            measure::serve(raw::Raw::connect(place, true).await?).await
        }
        (Side::Client, Contender::RawChunks) => {
            measure::serve(raw::Raw::connect(place, false).await?).await
        }
        (Side::Client, Contender::Alknet) => {
            measure::serve(native::Native::connect(place).await?).await
        }
        (Side::Client, Contender::Irpc) => {
            measure::serve(bare_irpc::Irpc::connect(place).await?).await
        }
        (Side::Client, Contender::Node) => {
            measure::serve(native::Native::connect_node(place, "").await?).await
        }
        (Side::Client, Contender::Hub) => {
            let hub = native::Native::connect_node(place, whole_node::FAR);
            measure::serve(hub.await?).await
        }
        (Side::Client, Contender::Tonic | Contender::TonicJson) => {
            let reads_json = role.contender == Contender::TonicJson;
            measure::serve(grpc::Tonic::connect(place, reads_json).await?).await
        }
        (Side::Client, Contender::Nats | Contender::NatsJson) => {
            let reads_json = role.contender == Contender::NatsJson;
            measure::serve(nats::Nats::connect(place, reads_json).await?).await
        }
    }
}
