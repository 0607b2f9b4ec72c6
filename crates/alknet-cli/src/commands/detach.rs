//! `alknet up --detach`: the same program again, in a session of its own.

use crate::{
    app::App,
    commands::{
        greeting,
        up::{UpArgs, detached_words},
    },
    duration,
    failure::{Exit, Failure},
    node_access::{self, Secret},
};
use serde_json::json;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// What a detached node says, in the data directory.
const LOG_FILE: &str = "up.log";
/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of its log that are repeated when it fails.
const TOLD_BYTES_MAX: usize = 4096;

/// Starts the node, waits until it is ready, and prints its status.
pub(crate) async fn run(
    app: &App,
    args: &UpArgs,
    passphrase: Option<&Secret>,
) -> Result<(), Failure> {
    let log_path = app.dir().join(LOG_FILE);
    let log = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&log_path);
    let log = log.map_err(|error| Failure::io("write", &log_path, &error))?;
    let mut child = start(app, args, log, passphrase)?;
    let ready = tokio::time::timeout(START_MAX, ready(app.dir(), &mut child)).await;
    match ready {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(status))) => return Err(failed(&log_path, status)),
        Ok(Err(error)) => return Err(Failure::local(format!("failed to watch the node: {error}"))),
        Err(_) => {
            let message = format!(
                "the node is not ready after {}",
                duration::in_words(START_MAX)
            );
            let hint = format!("it says why in {}", log_path.display());
            return Err(Failure::local(message).hint(hint));
        }
    }
    let status = app.ask("node/info", json!({})).await?;
    greeting::print(app, &status)
}

fn start(
    app: &App,
    args: &UpArgs,
    log: File,
    passphrase: Option<&Secret>,
) -> Result<Child, Failure> {
    let failed =
        |error: std::io::Error| Failure::local(format!("failed to start the node: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(detached_words(app.dir(), args));
    command.args(std::iter::repeat_n("-v", usize::from(app.verbose)));
    // Not by a file or an argument: what was typed, or could be read once only,
    // goes through a pipe.
    let stdin = match passphrase {
        Some(_) => {
            command.args(["--passphrase-file", "-"]);
            Stdio::piped()
        }
        None => Stdio::null(),
    };
    command.stdin(stdin).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().map_err(failed)?;
    if let (Some(passphrase), Some(mut stdin)) = (passphrase, child.stdin.take()) {
        // A child that ended says why itself.
        let _ = stdin.write_all(passphrase.expose());
    }
    Ok(child)
}

/// Waits until the child is ready, or has ended.
async fn ready(dir: &Path, child: &mut Child) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if node_access::runtime(dir).is_some_and(|runtime| runtime.pid == child.id()) {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Repeats the error of the child, which was written as JSON.
fn failed(log: &Path, status: ExitStatus) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let error = text.lines().rev().find_map(|line| {
        serde_json::from_str::<serde_json::Value>(line)
            .ok()?
            .get("error")
            .cloned()
    });
    let exit = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(Exit::FAILED, Exit);
    let field = |name: &str| {
        let field = error.as_ref().and_then(|error| error.get(name));
        field.and_then(serde_json::Value::as_str).map(str::to_owned)
    };
    match field("message") {
        Some(message) => Failure::new(exit, "START", message).hint_if(field("hint")),
        None => {
            let start = text.len().saturating_sub(TOLD_BYTES_MAX);
            let told = text.get(start..).unwrap_or_default().trim();
            Failure::new(
                exit,
                "START",
                format!("the node ended at its start ({status}): {told}"),
            )
        }
    }
}
