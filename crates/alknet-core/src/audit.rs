//! The record of every call: one row each, handed over without waiting,
//! written in batches, never dropped.

use crate::{
    call::CallId,
    storage::{AuditLog, StoreError, Timestamp},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::sync::mpsc;

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

/// Rows that may wait to be written; a full queue slows callers down.
const QUEUE_ROWS_MAX: usize = 16_384;
/// Rows written in one batch.
const BATCH_ROWS_MAX: usize = 4_096;
/// How long a row may wait: what a crash can lose.
const BATCH_WAIT: Duration = Duration::from_millis(100);

/// Where the door puts its rows.
#[derive(Clone, Debug)]
pub struct AuditSink(Option<mpsc::Sender<AuditRow>>);

/// A place in the queue, taken before a call runs, so that its row can be
/// handed over from a destructor.
#[derive(Debug)]
pub(crate) struct AuditSlot(Option<mpsc::OwnedPermit<AuditRow>>);

impl AuditSink {
    /// Keeps nothing.
    #[must_use]
    pub fn discard() -> Self {
        Self(None)
    }

    pub(crate) async fn slot(&self) -> AuditSlot {
        let Some(sender) = &self.0 else {
            return AuditSlot(None);
        };
        match sender.clone().try_reserve_owned() {
            Ok(permit) => AuditSlot(Some(permit)),
            // A closed queue means the node has drained: nothing is left to write to.
            Err(mpsc::error::TrySendError::Closed(_)) => AuditSlot(None),
            Err(mpsc::error::TrySendError::Full(sender)) => {
                AuditSlot(sender.reserve_owned().await.ok())
            }
        }
    }

    /// Hands over a row that belongs to no call, waiting if the queue is full.
    pub async fn record(&self, row: AuditRow) {
        self.slot().await.fill(row);
    }
}

impl AuditSlot {
    pub(crate) fn fill(self, row: AuditRow) {
        if let Some(permit) = self.0 {
            permit.send(row);
        }
    }

    /// Whether rows are kept at all.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }
}

/// Writes rows in batches of at most 100 ms.
#[derive(Debug)]
pub struct AuditWriter {
    queue: mpsc::Receiver<AuditRow>,
}

impl AuditWriter {
    /// A queue and its writer; run the writer in a task and wait for it after
    /// the last [`AuditSink`] is gone.
    #[must_use]
    pub fn new() -> (AuditSink, Self) {
        let (sender, queue) = mpsc::channel(QUEUE_ROWS_MAX);
        (AuditSink(Some(sender)), Self { queue })
    }

    /// Writes until every sink is gone, or `stop` resolves; then what is still
    /// queued. A batch that fails is tried again until it succeeds, and the
    /// queue fills up meanwhile.
    ///
    /// # Errors
    ///
    /// The last [`StoreError`], if rows were left unwritten at the end.
    pub async fn run(
        mut self,
        log: Arc<dyn AuditLog>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), StoreError> {
        tokio::pin!(stop);
        loop {
            let mut batch = Vec::new();
            let open = tokio::select! {
                taken = self.queue.recv_many(&mut batch, BATCH_ROWS_MAX) => taken > 0,
                () = &mut stop => false,
            };
            let full = batch.len() == BATCH_ROWS_MAX;
            write_batch(&*log, batch, u32::MAX).await?;
            if !open {
                break;
            }
            if !full {
                tokio::select! {
                    () = tokio::time::sleep(BATCH_WAIT) => {}
                    () = &mut stop => break,
                }
            }
        }
        self.queue.close();
        let mut rest = Vec::new();
        while self.queue.recv_many(&mut rest, BATCH_ROWS_MAX).await > 0 {
            write_batch(&*log, std::mem::take(&mut rest), 20).await?;
        }
        Ok(())
    }
}

async fn write_batch(
    log: &dyn AuditLog,
    batch: Vec<AuditRow>,
    tries: u32,
) -> Result<(), StoreError> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut tried = 0;
    loop {
        match log.append(batch.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if tried + 1 >= tries => return Err(error),
            Err(error) => {
                if tried == 0 {
                    tracing::error!(cause = %error, "audit rows cannot be written, callers will wait");
                }
                tried += 1;
                tokio::time::sleep(BATCH_WAIT).await;
            }
        }
    }
}
