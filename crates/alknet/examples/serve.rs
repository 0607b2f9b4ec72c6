//! A program that is a node until it is told to stop: by Ctrl-C, by a service
//! manager, or by `alknet down`. Its log is there for `alknet logs`.
//!
//! `cargo run -p alknet --example serve -- ./data`

// A program may print; only libraries never do.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use alknet::{LogBuffer, Node, StartError};
use std::{error::Error, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The node's log in memory, where `alknet logs` finds it, and warnings on
/// standard error.
fn install_log() -> LogBuffer {
    let logs = LogBuffer::default();
    let kept = logs.clone().with_filter(EnvFilter::new("info"));
    let told = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(EnvFilter::new("warn"));
    tracing_subscriber::registry().with(kept).with(told).init();
    logs
}

/// Why a node did not start: the sentence, its causes, and what helps.
fn explain(error: &StartError) -> String {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

/// Waits until the node is to stop; answers with the time that running calls
/// have left.
async fn told_to_stop(node: &Node) -> std::io::Result<Duration> {
    let mut ended = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map(|()| node.drain_time()),
        _ = ended.recv() => Ok(node.drain_time()),
        drain = node.stopping() => Ok(drain),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let logs = install_log();
    let dir = std::env::args().nth(1).unwrap_or_else(|| "./data".into());
    let node = match Node::builder().data_dir(dir).logs(logs).spawn().await {
        Ok(node) => node,
        Err(error) => {
            eprintln!("{}", explain(&error));
            return ExitCode::FAILURE;
        }
    };
    println!("`{}` is running", node.name());
    let stop = told_to_stop(&node).await;
    node.shutdown(stop.unwrap_or_default()).await;
    ExitCode::SUCCESS
}
