//! `node/backup`: this node as one file, while it runs.

use super::NoInput;
use crate::{
    backup::{BackupHeader, Prepared, TakeBackupError, prepare},
    node::Shared,
};
use alknet_core::{
    ByteSender, CallError, ChannelOpening, Context, ErrorCode, ErrorSpec, Operation, Registration,
};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

/// Bytes handed on at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// The disk of the data directory is full.
const NO_ROOM: &str = "NO_ROOM";

/// Opening reply: what will come.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Coming {
    /// How long it is.
    bytes: u64,
    /// Whose backup it is.
    node_id: String,
    /// What a restore needs: `words` or `passphrase`.
    needs: String,
}

/// Result: what was sent.
#[derive(Debug, Serialize)]
struct Sent {
    bytes: u64,
}

const DESCRIPTION: &str = "\
The bytes are a backup as `alknet restore` reads it: the database as of one moment at or \
after the call, the configuration, and the vault if a passphrase wraps it. Secrets are in \
it only sealed or hashed; everything else is as it is, so whoever may take it may read \
who is known here and who did what. The result is `{\"bytes\": 0}`. One copy is made at a \
time; it is sent as fast as the caller reads, and not on to one that reads nothing for 30 seconds.";

/// How long the caller may take for a chunk; the copy is on the disk until then.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Backups that one caller may be sent at a time.
const PER_CALLER_MAX: usize = 2;

pub(super) fn operation(shared: &Arc<Shared>) -> Registration {
    let shared = shared.clone();
    let alone = Arc::new(Semaphore::new(1));
    let example = json!({ "bytes": 500_000, "node_id": "07".repeat(32), "needs": "words" });
    Operation::channel("node/backup", "Sends a backup of this node.")
        .description(DESCRIPTION)
        .error(ErrorSpec::new(
            NO_ROOM,
            "The disk has no room for the copy that is made first.",
        ))
        .in_flight_max(PER_CALLER_MAX)
        .example(json!({}), example)
        .channel::<_, Coming, _, _, _>(move |cx: Context, _: NoInput, opening| {
            let (shared, alone) = (shared.clone(), alone.clone());
            async move {
                let Ok(turn) = alone.try_acquire() else {
                    let message = "a backup is being taken already; one is taken at a time";
                    return Err(CallError::new(ErrorCode::Conflict, message));
                };
                backup(&shared, &cx, opening, turn).await
            }
        })
}

async fn backup(
    shared: &Shared,
    cx: &Context,
    opening: ChannelOpening,
    turn: SemaphorePermit<'_>,
) -> Result<Sent, CallError> {
    // A caller that leaves takes the copy along.
    let stop = Stop(Arc::default());
    let (dir, name, now) = (
        shared.data.path().to_owned(),
        shared.name.clone(),
        shared.identities.now(),
    );
    let asked = stop.0.clone();
    let prepared = tokio::task::spawn_blocking(move || prepare(&dir, &name, now, &asked));
    let prepared = prepared
        .await
        .map_err(|error| CallError::internal(cx.call_id(), &error))?;
    let prepared = prepared.map_err(|error| not_taken(cx, &error))?;
    // Whoever reads slowly keeps nobody else from a backup.
    drop(turn);
    let mut channel = opening.accept(&coming(prepared.header()))?;
    let bytes = send(cx, prepared, &mut channel.tx).await?;
    channel.tx.end();
    Ok(Sent { bytes })
}

fn coming(header: &BackupHeader) -> Coming {
    Coming {
        bytes: header.bytes(),
        node_id: header.node_id.clone(),
        needs: match header.needs {
            crate::backup::Needs::Words => "words".into(),
            crate::backup::Needs::Passphrase => "passphrase".into(),
        },
    }
}

fn not_taken(cx: &Context, error: &TakeBackupError) -> CallError {
    match error.is_no_room() {
        true => CallError::domain(NO_ROOM, "the node's disk has no room for a copy"),
        false => CallError::internal(cx.call_id(), error),
    }
}

/// Reads off the runtime's threads, and sends as fast as the caller takes it.
async fn send(cx: &Context, mut prepared: Prepared, to: &mut ByteSender) -> Result<u64, CallError> {
    let mut bytes = 0;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut len = 0;
            while len < chunk.len() {
                match prepared.read(&mut chunk[len..])? {
                    0 => break,
                    read => len += read,
                }
            }
            chunk.truncate(len);
            Ok::<_, std::io::Error>((prepared, chunk))
        });
        let read = read
            .await
            .map_err(|error| CallError::internal(cx.call_id(), &error))?;
        let (rest, chunk) = read.map_err(|error| CallError::internal(cx.call_id(), &error))?;
        if chunk.is_empty() {
            return Ok(bytes);
        }
        prepared = rest;
        bytes += chunk.len() as u64;
        match timeout(STALL_MAX, to.send(Bytes::from(chunk))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CallError::new(ErrorCode::Cancelled, "the caller left")),
            Err(_) => {
                let message = "the caller read nothing of the backup for 30 seconds";
                return Err(CallError::new(ErrorCode::Timeout, message));
            }
        }
    }
}

/// Ends a copy that nobody waits for any more.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
