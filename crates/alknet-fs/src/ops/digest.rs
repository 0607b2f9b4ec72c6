//! `fs/digest`: digests of a file's bytes.

use super::{LONG, read::blocking, reads};
use crate::root::Digester;
use alknet_core::{
    CallError, Context, Operation, Permit, Registration,
    files::{
        Algorithm, ByteRange, DigestRequest, Digests, FilePath, FileService, OpenOptions,
        READ_BYTES_MAX,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often progress is reported.
const REPORTS_EVERY: Duration = Duration::from_millis(500);
/// Files of more bytes are read in steps, for whoever wants to hear of them.
const STEPS_FROM: u64 = 256 * 1024 * 1024;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DigestInput {
    /// The file: `bucket[@branch]/path`.
    file: FilePath,
    /// Which digests.
    #[schemars(length(min = 1, max = 3))]
    algorithms: Vec<Algorithm>,
    /// Where to begin, in bytes.
    #[serde(default)]
    offset: u64,
    /// How many bytes; to the end if it is left out.
    #[serde(default)]
    bytes: Option<u64>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct DigestReply {
    /// The digests, in lowercase hexadecimal digits.
    digests: Digests,
    /// Bytes that they are of.
    bytes: u64,
    /// Version of the file.
    version: String,
}

#[derive(Serialize)]
struct Progress {
    bytes: u64,
    of: u64,
}

pub(super) fn digest(files: Arc<dyn FileService>) -> Registration {
    reads(Operation::query(
        "fs/digest",
        "Computes digests of a file's bytes.",
    ))
    .description(
        "BLAKE3, SHA-256 (FIPS 180-4) or MD5 (RFC 1321, against accidents only), of all \
             bytes or of a part. Reports progress as `{\"bytes\", \"of\"}`.",
    )
    .timeout(LONG)
    .example(
        json!({ "file": "inbox/notes.txt", "algorithms": ["md5"] }),
        json!({
            "digests": { "md5": "5d41402abc4b2a76b9719d911017c592" }, "bytes": 5,
            "version": "41.1b2.5",
        }),
    )
    .handler(move |cx, input: DigestInput| {
        let files = files.clone();
        async move { run(&*files, &cx, input).await }
    })
}

async fn run(
    files: &dyn FileService,
    cx: &Context,
    input: DigestInput,
) -> Result<DigestReply, CallError> {
    let permit = cx.permit();
    if cx.interaction().is_listening() {
        let stat = files.stat(&permit, &input.file, true).await?;
        if length(stat.bytes, &input) > STEPS_FROM {
            return in_steps(files, cx, &permit, input).await;
        }
    }
    let range = ByteRange {
        offset: input.offset,
        bytes: input.bytes,
    };
    let request = DigestRequest {
        range,
        algorithms: input.algorithms.clone(),
    };
    let (digests, stat) = files.digest(&permit, &input.file, request).await?;
    Ok(DigestReply {
        digests,
        bytes: length(stat.bytes, &input),
        version: stat.version,
    })
}

fn length(bytes: u64, input: &DigestInput) -> u64 {
    let most = input.bytes.unwrap_or(u64::MAX);
    bytes.saturating_sub(input.offset).min(most)
}

async fn in_steps(
    files: &dyn FileService,
    cx: &Context,
    permit: &Permit,
    input: DigestInput,
) -> Result<DigestReply, CallError> {
    let file = files
        .open(permit, &input.file, OpenOptions::reading())
        .await?;
    let stat = file.stat(permit).await?;
    let of = length(stat.bytes, &input);
    let mut digester = Digester::new(&input.algorithms);
    let mut done = 0;
    let mut reported = Instant::now();
    while done < of {
        let most = usize::try_from(of - done).unwrap_or(usize::MAX);
        let at = input.offset + done;
        let bytes = file.read_at(permit, at, most.min(READ_BYTES_MAX)).await?;
        if bytes.is_empty() {
            break;
        }
        done += bytes.len() as u64;
        digester = blocking(move || {
            digester.update(&bytes);
            digester
        })
        .await?;
        if reported.elapsed() >= REPORTS_EVERY {
            reported = Instant::now();
            cx.progress(&Progress { bytes: done, of }).await;
        }
    }
    Ok(DigestReply {
        digests: digester.finish(),
        bytes: done,
        version: stat.version,
    })
}
