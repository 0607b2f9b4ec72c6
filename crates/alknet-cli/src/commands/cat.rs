//! `alknet cat`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    files::{
        FilePlace, RemotePlace,
        expand::Expansion,
        place::PLACES_HELP,
        remote::{Remote, Tally},
    },
    node_access::{CallError, Chunk, ErrorCode, FileKind, FilePath},
};
use clap::{Args, ValueHint};
use serde_json::json;
use std::{ffi::OsString, io::Write};
use tokio::{sync::mpsc, task::JoinHandle};

const EXAMPLES: &str = "\
It ends when nobody reads its output any more, with 141 as a program that
SIGPIPE ended.

Examples:
  alknet cat nas:logs/today.log | grep error
  alknet cat 'nas:logs/2026-11-*.log'
  alknet cat nas:disk/image --offset 446 --bytes 64 | xxd";

/// 128 + SIGPIPE, as a shell says of a program that wrote to nobody.
const NOBODY_READS: Exit = Exit(141);

/// Chunks that wait to be written.
const CHUNKS_MAX: usize = 16;

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{PLACES_HELP}"))]
pub(crate) struct CatArgs {
    /// Files, or patterns of files
    #[arg(value_name = "PLACE", required = true, value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// Where in each file to begin
    #[arg(long, value_name = "N")]
    offset: Option<u64>,
    /// How many bytes of each at most
    #[arg(long, value_name = "N")]
    bytes: Option<u64>,
}

impl CatArgs {
    /// All bytes of these.
    pub(crate) fn whole(places: Vec<OsString>) -> Self {
        Self {
            places,
            offset: None,
            bytes: None,
        }
    }
}

pub(crate) async fn run(app: &App, args: CatArgs) -> Result<Exit, Failure> {
    let places = FilePlace::parse_all_remote(&args.places)?;
    let mut cat = Cat {
        app,
        offset: args.offset,
        bytes: args.bytes,
        output: Output::open(),
        tally: Tally::default(),
    };
    let mut read = Ok(());
    for place in &places {
        read = cat.place(place).await;
        if read.is_err() {
            break;
        }
    }
    // What was read before something failed is written all the same.
    let written = cat.output.close().await;
    match read.and(written) {
        Ok(()) => Ok(cat.tally.exit()),
        Err(Stop::NobodyReads) => Ok(NOBODY_READS),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

/// Why there is no point in going on.
enum Stop {
    NobodyReads,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Cat<'a> {
    app: &'a App,
    offset: Option<u64>,
    bytes: Option<u64>,
    output: Output,
    tally: Tally,
}

/// One file failed, or everything does.
enum FileFailed {
    Call(CallError),
    Stop(Stop),
}

impl From<CallError> for FileFailed {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl Cat<'_> {
    async fn place(&mut self, place: &RemotePlace) -> Result<(), Stop> {
        let remote = Remote::at(self.app, &place.route).await?;
        if !place.is_pattern() {
            let file = place.file()?;
            return self.file(&remote, &file).await;
        }
        let mut expansion = Expansion::of(remote.clone(), place);
        let (mut files, mut is_empty) = (Vec::new(), true);
        while let Some(found) = expansion.next().await {
            match found {
                Ok(found) if found.stat.kind != FileKind::Directory => files.push(found.file),
                Ok(_) => {}
                Err(not) => {
                    is_empty = false;
                    self.failed(&remote, not.error, &not.file).await;
                }
            }
        }
        is_empty &= files.is_empty();
        if let (true, Some(file)) = (is_empty, place.literal()) {
            return self.file(&remote, &file).await;
        }
        // In the order in which a shell names them.
        files.sort();
        for file in files {
            self.file(&remote, &file).await?;
        }
        Ok(())
    }

    async fn failed(&mut self, remote: &Remote<'_>, error: CallError, file: &FilePath) {
        let failure = remote.explain(error, Some(file)).await;
        self.tally.failed(self.app, &failure);
    }

    async fn file(&mut self, remote: &Remote<'_>, file: &FilePath) -> Result<(), Stop> {
        match self.copy(remote, file).await {
            Ok(()) => self.tally.done(),
            Err(FileFailed::Call(error)) => self.failed(remote, error, file).await,
            Err(FileFailed::Stop(stop)) => return Err(stop),
        }
        Ok(())
    }

    async fn copy(&mut self, remote: &Remote<'_>, file: &FilePath) -> Result<(), FileFailed> {
        let mut input = json!({ "file": file });
        if let Some(offset) = self.offset {
            input["offset"] = json!(offset);
        }
        if let Some(bytes) = self.bytes {
            input["bytes"] = json!(bytes);
        }
        let mut call = remote.open("fs/read", &input).await?;
        // Nothing is sent: the other end need not wait for it.
        call.channel.tx.end();
        let mut bytes = 0_u64;
        // A cut shows in the result, which says why.
        while let Ok(Some(chunk)) = call.channel.rx.recv().await {
            if chunk.aux {
                continue;
            }
            bytes += chunk.bytes.len() as u64;
            let written = self.output.write(chunk).await;
            written.map_err(FileFailed::Stop)?;
        }
        let result = call.done.await?.into_value()?;
        let told = result.get("bytes").and_then(serde_json::Value::as_u64);
        if told.is_some_and(|told| told != bytes) {
            let message = format!("`{file}`: {bytes} bytes came, and not all that were sent");
            return Err(CallError::new(ErrorCode::Internal, message).into());
        }
        Ok(())
    }
}

/// Standard output, written by a thread while more is fetched.
struct Output {
    chunks: Option<mpsc::Sender<Chunk>>,
    writing: Option<JoinHandle<std::io::Result<()>>>,
}

impl Output {
    fn open() -> Self {
        let (chunks, mut waiting) = mpsc::channel::<Chunk>(CHUNKS_MAX);
        let writing = tokio::task::spawn_blocking(move || {
            let mut stdout = unbuffered_stdout()?;
            while let Some(chunk) = waiting.blocking_recv() {
                stdout.write_all(&chunk.bytes)?;
            }
            Ok(())
        });
        Self {
            chunks: Some(chunks),
            writing: Some(writing),
        }
    }

    async fn write(&mut self, chunk: Chunk) -> Result<(), Stop> {
        let sent = match &self.chunks {
            Some(chunks) => chunks.send(chunk).await.is_ok(),
            None => false,
        };
        match sent {
            true => Ok(()),
            // The thread has ended, and says why.
            false => match self.close().await {
                Ok(()) => Err(Stop::NobodyReads),
                Err(stop) => Err(stop),
            },
        }
    }

    /// Waits until all is written.
    async fn close(&mut self) -> Result<(), Stop> {
        self.chunks = None;
        let Some(writing) = self.writing.take() else {
            return Ok(());
        };
        let failed = |error: &dyn std::fmt::Display| {
            let message = format!("failed to write the output: {error}");
            Err(Stop::Failed(Failure::local(message)))
        };
        match writing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Stop::NobodyReads)
            }
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
}

/// Standard output without the buffer of `std`, which looks for line breaks.
fn unbuffered_stdout() -> std::io::Result<std::fs::File> {
    let own = rustix::io::dup(std::io::stdout()).map_err(std::io::Error::from)?;
    Ok(std::fs::File::from(own))
}
