//! `alknet down`.

use crate::{
    app::App,
    cli::parse_duration,
    duration,
    failure::{Exit, Failure},
    node_access::{self, CallOptions, ErrorCode},
};
use clap::Args;
use serde_json::json;
use std::time::Duration;

/// How long to wait beyond the drain for the files to be closed.
const CLOSING_MAX: Duration = Duration::from_secs(20);
/// The drain of a node that is not told otherwise, and the most it may be
/// configured to without `--drain`.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How often the lock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// How long calls may take to finish; the node's `drain_ms` if not given
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    drain: Option<Duration>,
}

pub(crate) async fn run(app: &App, args: &DownArgs) -> Result<(), Failure> {
    let input = match args.drain {
        Some(drain) => json!({ "drain_ms": duration::millis(drain) }),
        None => json!({}),
    };
    let home = app.home().await?;
    match home
        .call("node/shutdown", input, CallOptions::default())
        .await
    {
        // A node without calls to wait for may be gone before its reply got
        // here; whether it stopped shows below.
        Err(error) if !error.is(ErrorCode::Lost) => return Err(app.explain(home, &error)),
        _ => {}
    }
    let patience = args.drain.unwrap_or(DRAIN_MAX) + CLOSING_MAX;
    let stopped = async {
        while node_access::is_running(app.dir()) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(patience, stopped).await.is_err() {
        let message = format!(
            "the node has not stopped within {}",
            duration::in_words(patience)
        );
        return Err(Failure::new(Exit::FAILED, "TIMEOUT", message).hint("alknet status"));
    }
    match app.out.json {
        true => app.out.json_line(&json!({ "stopped": true })),
        false => {
            app.out.say("stopped");
            Ok(())
        }
    }
}
