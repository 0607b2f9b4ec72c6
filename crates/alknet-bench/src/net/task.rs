//! What a process of this area is told to do, and how one that visits does it.

use crate::{
    call::{
        Work,
        measure::{self, Client},
    },
    worker::follow,
};
use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Mutex, time::timeout};

/// How often the path of a connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Time for a path to become direct where it can.
const DIRECT_MAX: Duration = Duration::from_secs(20);

/// What a process is told about its surroundings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The relay, as its address is written everywhere; where the relay itself
    /// listens, of a relay.
    pub(crate) relay: String,
    /// A directory of its own.
    pub(crate) folder: PathBuf,
}

/// What a process does. Who is asked decides what makes sense.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// A relay: let this key in.
    Admit { id: String },
    /// A relay: say how many bytes have come in so far.
    Received,
    /// A server: say what a new client needs to know.
    Invite,
    /// A server or a relay: forget this key.
    Forget { id: String },
    /// A client: be somebody new, and say who.
    Prepare,
    /// A client: meet the server, and if that is wanted stay until the path is
    /// direct.
    Meet {
        meeting: Meeting,
        until_direct: bool,
    },
    /// A client: say whether the path is direct.
    IsDirect,
    /// A client: measure.
    Run(Work),
    /// A client: end the connection, and remember the server.
    Leave,
}

/// How a client meets a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Meeting {
    /// For the first time, with what the server said of itself, through the
    /// relay. What is counted starts when this side is at the relay.
    First(String),
    /// Again, with what is remembered. What is counted starts with nothing:
    /// no socket, no process of a node.
    Again,
}

/// What a meeting took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Met {
    /// From nothing to a place at the relay; of a first meeting only.
    pub(crate) at_relay_ms: f64,
    /// To the first reply.
    pub(crate) replied_ms: f64,
    /// To a direct path, where one was waited for.
    pub(crate) direct_ms: Option<f64>,
}

/// Milliseconds since then.
pub(crate) fn ms_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The asking side of a contender.
pub(crate) trait Guest: Send + Sync + 'static {
    /// Asks, once it has met the server.
    type Client: Client;
    /// Becomes somebody new; answers with the public key in hexadecimal.
    fn prepare(&mut self) -> impl Future<Output = Result<String>> + Send;
    /// Meets the server, up to the first reply; answers too with when counting
    /// began.
    fn meet(&mut self, meeting: Meeting) -> impl Future<Output = Result<(Met, Instant)>> + Send;
    /// Whether the path of calls is direct now.
    fn is_direct(&self) -> impl Future<Output = Result<bool>> + Send;
    /// Ends what it has with the server.
    fn leave(&mut self) -> impl Future<Output = Result<()>> + Send;
    /// Asks for more, after it met the server.
    fn client(&mut self) -> impl Future<Output = Result<Arc<Self::Client>>> + Send;
}

/// Is a client until there are no more orders.
pub(crate) async fn visit(guest: impl Guest) -> Result<()> {
    let guest = Arc::new(Mutex::new(guest));
    let ended = follow("ready", |task| {
        // On a thread of the runtime: the main one has to be woken by the system.
        let doing = tokio::spawn(perform(guest.clone(), task));
        async { doing.await? }
    });
    let ended = ended.await;
    guest.lock().await.leave().await?;
    ended
}

async fn perform<G: Guest>(guest: Arc<Mutex<G>>, task: Task) -> Result<Value> {
    let mut guest = guest.lock().await;
    let answer = match task {
        Task::Prepare => serde_json::to_value(guest.prepare().await?),
        Task::Meet {
            meeting,
            until_direct,
        } => {
            let (mut met, start) = guest.meet(meeting).await?;
            if until_direct {
                met.direct_ms = Some(when_direct(&*guest, start).await?);
            }
            serde_json::to_value(met)
        }
        Task::IsDirect => serde_json::to_value(guest.is_direct().await?),
        Task::Run(work) => serde_json::to_value(measure::run(guest.client().await?, work).await?),
        Task::Leave => serde_json::to_value(guest.leave().await?),
        other => bail!("a client does nothing of the kind: {other:?}"),
    };
    Ok(answer?)
}

/// Waits for a direct path; answers with the milliseconds since `start`.
async fn when_direct(guest: &impl Guest, start: Instant) -> Result<f64> {
    let looking = async {
        while !guest.is_direct().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(ms_since(start))
    };
    timeout(DIRECT_MAX, looking)
        .await
        .map_err(|_| anyhow!("no direct path within {DIRECT_MAX:?}"))?
}
