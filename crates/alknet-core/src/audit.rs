//! The record of every call: one row each, handed over without waiting,
//! written in batches, never dropped.

use crate::{
    api_key::KeyId,
    call::{CallId, Originator, Route, route_text},
    name::{OperationName, PeerId},
    storage::{AuditLog, StoreError, Timestamp},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::{Notify, mpsc};

/// Through which protocol a call arrived.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Surface(Cow<'static, str>);

impl Surface {
    /// The native call protocol.
    pub const CALL: Surface = Surface(Cow::Borrowed("call"));
    /// Inside the process.
    pub const LOCAL: Surface = Surface(Cow::Borrowed("local"));
    /// Redeeming an invite.
    pub const JOIN: Surface = Surface(Cow::Borrowed("join"));

    /// A surface of another protocol.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a call ended: `ok`, or the error's code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AuditOutcome(Cow<'static, str>);

impl AuditOutcome {
    /// It was done.
    pub const OK: AuditOutcome = AuditOutcome(Cow::Borrowed("ok"));

    /// It failed with this code.
    #[must_use]
    pub fn code(code: Cow<'static, str>) -> Self {
        Self(code)
    }

    /// As listed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One row of the audit log. Inputs never appear in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    /// When the call began.
    pub at: Timestamp,
    /// The call, or the change.
    pub call_id: String,
    /// The call that made this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Who was checked.
    pub caller: String,
    /// The id of the API key that was presented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The peer whose connection carried the call, if a presented key made it
    /// another caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Who is said to have started it all: `node/label`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub originator: Option<String>,
    /// Through which protocol it arrived.
    pub surface: Surface,
    /// What was called; with a route, `peer/…:operation` is kept in `route`.
    pub operation: String,
    /// The peers it was to pass through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The resource that was checked, in canonical form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// `ok`, or the code.
    pub outcome: AuditOutcome,
    /// What was missing, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Microseconds it took.
    pub duration_us: u64,
    /// Bytes that came in, the opening input included.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
}

impl AuditRow {
    /// A row about a change made outside a call, or about the node itself.
    #[must_use]
    pub fn event(at: Timestamp, caller: &str, operation: &str) -> Self {
        Self {
            at,
            call_id: CallId::new().to_string(),
            parent_id: None,
            caller: caller.into(),
            key: None,
            transport: None,
            originator: None,
            surface: Surface::LOCAL,
            operation: operation.into(),
            route: None,
            resource: None,
            outcome: AuditOutcome::OK,
            detail: None,
            duration_us: 0,
            bytes_in: 0,
            bytes_out: 0,
        }
    }
}

impl AuditRow {
    /// The row of a pruning that removed so many, up to this number.
    #[must_use]
    pub fn with_removed(mut self, removed: u64, through: u64) -> Self {
        self.detail = Some(format!("removed {removed}, up to number {through}"));
        self
    }
}

/// Rows that may wait to be written; a full queue slows callers down.
const QUEUE_ROWS_MAX: usize = 16_384;
/// Rows written in one batch.
const BATCH_ROWS_MAX: usize = 4_096;
/// How long a row may wait: what a crash can lose.
const BATCH_WAIT: Duration = Duration::from_millis(100);
/// Tries to write a batch once the node stops; [`BATCH_WAIT`] between them.
const STOP_TRIES: u32 = 20;
/// How long the stopping node waits for rows of calls that have not ended.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What the door knows of a call, before it is written out: the texts of a row
/// are made by the writer, not by the caller's own task.
#[derive(Clone, Debug)]
pub(crate) struct CallRow {
    pub(crate) at: Timestamp,
    pub(crate) call_id: CallId,
    pub(crate) parent_id: Option<CallId>,
    pub(crate) caller: PeerId,
    pub(crate) key: Option<KeyId>,
    pub(crate) transport: Option<PeerId>,
    pub(crate) originator: Option<Originator>,
    pub(crate) surface: Surface,
    pub(crate) operation: Operation,
    pub(crate) route: Route,
    pub(crate) resource: Option<String>,
    pub(crate) outcome: AuditOutcome,
    pub(crate) detail: Option<String>,
    pub(crate) duration_us: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// What was called; a permit may ask for what is no name.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Name(OperationName),
    Text(String),
}

impl CallRow {
    fn written_out(&self) -> AuditRow {
        AuditRow {
            at: self.at,
            call_id: self.call_id.to_string(),
            parent_id: self.parent_id.map(|id| id.to_string()),
            caller: self.caller.to_string(),
            key: self.key.map(|id| id.to_string()),
            transport: self.transport.as_ref().map(ToString::to_string),
            originator: self.originator.as_ref().map(ToString::to_string),
            surface: self.surface.clone(),
            operation: match &self.operation {
                Operation::Name(name) => name.to_string(),
                Operation::Text(text) => text.clone(),
            },
            route: (!self.route.is_empty()).then(|| route_text(&self.route)),
            resource: self.resource.clone(),
            outcome: self.outcome.clone(),
            detail: self.detail.clone(),
            duration_us: self.duration_us,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }
}

/// A row that waits.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are the large one
enum Waiting {
    Call(CallRow),
    Event(Box<AuditRow>),
}

impl Waiting {
    fn written_out(&self) -> AuditRow {
        match self {
            Waiting::Call(row) => row.written_out(),
            Waiting::Event(row) => (**row).clone(),
        }
    }
}

/// Where the door puts its rows.
#[derive(Clone, Debug)]
pub struct AuditSink(Option<Queue>);

#[derive(Clone, Debug)]
struct Queue {
    rows: mpsc::Sender<Waiting>,
    /// Wakes a writer that waits for more rows to write at once.
    busy: Arc<Notify>,
}

impl Queue {
    fn hurry(&self) {
        if self.rows.capacity() < self.rows.max_capacity() / 2 {
            self.busy.notify_one();
        }
    }
}

/// A place in the queue, taken before a call runs, so that its row can be
/// handed over from a destructor.
#[derive(Debug)]
pub(crate) struct AuditSlot(Option<mpsc::OwnedPermit<Waiting>>);

impl AuditSink {
    /// Keeps nothing.
    #[must_use]
    pub fn discard() -> Self {
        Self(None)
    }

    /// A place, if one is free now.
    pub(crate) fn slot_now(&self) -> Option<AuditSlot> {
        let Some(queue) = &self.0 else {
            return Some(AuditSlot(None));
        };
        queue.hurry();
        match queue.rows.clone().try_reserve_owned() {
            Ok(permit) => Some(AuditSlot(Some(permit))),
            // A closed queue means the node has drained: nothing is left to write to.
            Err(mpsc::error::TrySendError::Closed(_)) => Some(AuditSlot(None)),
            Err(mpsc::error::TrySendError::Full(_)) => None,
        }
    }

    /// A place, waiting for one.
    pub(crate) async fn slot(&self) -> AuditSlot {
        let Some(queue) = &self.0 else {
            return AuditSlot(None);
        };
        queue.hurry();
        AuditSlot(queue.rows.clone().reserve_owned().await.ok())
    }

    /// Hands over a row that belongs to no call, waiting if the queue is full.
    pub async fn record(&self, row: AuditRow) {
        self.slot().await.send(Waiting::Event(Box::new(row)));
    }

    /// Rows that wait to be written, or for their call to end.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let held = |queue: &Queue| queue.rows.max_capacity() - queue.rows.capacity();
        self.0.as_ref().map_or(0, held)
    }
}

impl AuditSlot {
    pub(crate) fn fill(self, row: CallRow) {
        self.send(Waiting::Call(row));
    }

    fn send(self, row: Waiting) {
        if let Some(permit) = self.0 {
            permit.send(row);
        }
    }

    /// Whether rows are kept at all.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }
}

/// Why audit rows are missing when the writer has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditLost {
    /// Calls did not end in time after the stop; their rows are missing.
    #[error("calls did not end in time")]
    CallsGoOn,
    /// What waited could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes rows in batches of at most 100 ms.
#[derive(Debug)]
pub struct AuditWriter {
    queue: mpsc::Receiver<Waiting>,
    busy: Arc<Notify>,
}

impl AuditWriter {
    /// A queue and its writer; run the writer in a task and wait for it after
    /// the last [`AuditSink`] is gone.
    #[must_use]
    pub fn new() -> (AuditSink, Self) {
        Self::with_rows_max(QUEUE_ROWS_MAX)
    }

    /// The same with another number of rows that may wait, calls in flight
    /// included; 16,384 otherwise.
    #[must_use]
    pub fn with_rows_max(rows_max: usize) -> (AuditSink, Self) {
        let (rows, queue) = mpsc::channel(rows_max.max(1));
        let busy = Arc::new(Notify::new());
        let sink = AuditSink(Some(Queue {
            rows,
            busy: busy.clone(),
        }));
        (sink, Self { queue, busy })
    }

    /// Writes until every sink is gone, or `stop` resolves; then what is still
    /// queued, and the rows of calls that end within 5 seconds. A batch that
    /// fails is tried again until it succeeds, and the queue fills up
    /// meanwhile; after `stop` it is tried for 2 seconds more.
    ///
    /// # Errors
    ///
    /// [`AuditLost`], if rows were left unwritten at the end.
    pub async fn run(
        mut self,
        log: Arc<dyn AuditLog>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), AuditLost> {
        tokio::pin!(stop);
        let mut stopping = false;
        loop {
            let mut batch = Vec::new();
            let open = tokio::select! {
                taken = self.queue.recv_many(&mut batch, BATCH_ROWS_MAX) => taken > 0,
                () = &mut stop => { stopping = true; false },
            };
            let full = batch.len() == BATCH_ROWS_MAX;
            write_batch(&*log, batch, stop.as_mut(), &mut stopping).await?;
            if !open || stopping {
                break;
            }
            if !full {
                tokio::select! {
                    () = tokio::time::sleep(BATCH_WAIT) => {}
                    () = self.busy.notified() => {}
                    () = &mut stop => break,
                }
            }
        }
        self.queue.close();
        let until = tokio::time::Instant::now() + STOP_WAIT;
        stopping = true;
        loop {
            let mut rest = Vec::new();
            let taken = self.queue.recv_many(&mut rest, BATCH_ROWS_MAX);
            match tokio::time::timeout_at(until, taken).await {
                Ok(1..) => write_batch(&*log, rest, stop.as_mut(), &mut stopping).await?,
                Ok(0) => return Ok(()),
                Err(_) => return Err(AuditLost::CallsGoOn),
            }
        }
    }
}

async fn write_batch(
    log: &dyn AuditLog,
    batch: Vec<Waiting>,
    mut stop: Pin<&mut impl Future<Output = ()>>,
    stopping: &mut bool,
) -> Result<(), StoreError> {
    if batch.is_empty() {
        return Ok(());
    }
    let (mut failed, mut failed_stopping) = (0u32, 0);
    loop {
        let rows = batch.iter().map(Waiting::written_out).collect();
        let Err(error) = log.append(rows).await else {
            return Ok(());
        };
        if failed == 0 {
            tracing::error!(cause = %error, "audit rows cannot be written, callers will wait");
        }
        failed = failed.saturating_add(1);
        failed_stopping += u32::from(*stopping);
        if failed_stopping >= STOP_TRIES {
            return Err(error);
        }
        tokio::select! {
            () = tokio::time::sleep(BATCH_WAIT) => {}
            () = &mut stop, if !*stopping => *stopping = true,
        }
    }
}
