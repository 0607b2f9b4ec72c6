//! `node/*`: what this node is, how it does, and when it stops.

use super::NoInput;
use crate::{
    logs::{LogLine, is_severe},
    node::{NodeStatus, ReloadReport, Shared},
};
use alknet_core::{CallError, Context, ErrorCode, Operation, Registration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::sync::broadcast::error::RecvError;

/// Lines of the past that are shown, unless said otherwise.
const LINES_DEFAULT: usize = 100;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Metrics {
    /// Calls in flight.
    calls_in_flight: u64,
    /// Operation handlers that panicked since the start.
    handler_panics: u64,
    /// Protocol handlers that panicked since the start.
    protocol_panics: u64,
    /// Open connections.
    connections: u64,
    /// Connections accepted since the start.
    connections_accepted: u64,
    /// Connections refused since the start.
    connections_refused: u64,
    /// What was refused since the start, by why: connections, handshakes, API
    /// keys and invites.
    refused: BTreeMap<String, u64>,
    /// Calls refused since the start since a limit was reached.
    calls_limited: u64,
    /// Bans in force.
    bans: u64,
    /// Bans since the start that nobody asked for.
    bans_automatic: u64,
    /// Peers linked now.
    peers_connected: u64,
    /// Memory of the process that is resident, in bytes.
    memory_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ShutdownInput {
    /// How long calls get to finish, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Stopping {
    /// Always true.
    stopping: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct LogsInput {
    /// Lines of the past: 100 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<u32>,
    /// Whether to go on with new lines; yes if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    follow: Option<bool>,
    /// Least severe level shown: `error`, `warn`, `info`, `debug`, `trace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<String>,
}

pub(super) fn operations(shared: &Arc<Shared>) -> Vec<Registration> {
    let (info_for, metrics_for, reload_for, stop_for, logs_for) = (
        shared.clone(),
        shared.clone(),
        shared.clone(),
        shared.clone(),
        shared.clone(),
    );
    let status = json!({ "node_id": "07".repeat(32), "name": "home", "version": "0.1.0", "pid": 4711, "started_at": "2026-01-01T00:00:00.000Z", "uptime_ms": 60000, "addresses": ["192.168.1.2:4433"], "relays": [], "anchors": [], "relays_in_use": [], "relay": null, "http": null, "ssh": null, "peers": 1, "calls_in_flight": 1, "notes": [] });
    vec![
        Operation::query("node/info", "Describes this node and how it can be reached.")
            .requires("node:read")
            .example(json!({}), status)
            .handler(move |_cx: Context, _: NoInput| {
                let shared = info_for.clone();
                async move { Ok::<NodeStatus, CallError>(shared.status()) }
            }),
        Operation::query("node/metrics", "Counts what this node does.")
            .example(json!({}), json!({ "calls_in_flight": 1, "handler_panics": 0, "protocol_panics": 0, "connections": 1, "connections_accepted": 3, "connections_refused": 0, "refused": { "unknown_key": 0 }, "calls_limited": 0, "bans": 0, "bans_automatic": 0, "peers_connected": 1, "memory_bytes": 40_000_000 }))
            .handler(move |_cx: Context, _: NoInput| {
                let shared = metrics_for.clone();
                async move { Ok(metrics(&shared)) }
            }),
        Operation::mutation("node/reload", "Reads the configuration again and applies what can change while the node runs.")
            .idempotent()
            .example(json!({}), json!({ "applied": ["role"], "needs_restart": [] }))
            .handler(move |cx: Context, _: NoInput| {
                let shared = reload_for.clone();
                async move {
                    let row = super::change_row(&cx, &shared.identities, "configuration");
                    let failed = |error: crate::node::ReloadError| CallError::new(ErrorCode::Conflict, error.full_text());
                    shared.reload(row).await.map_err(failed) as Result<ReloadReport, CallError>
                }
            }),
        Operation::mutation("node/shutdown", "Lets calls finish, then stops this node.")
            .destructive()
            .example(json!({}), json!({ "stopping": true }))
            .handler(move |_cx: Context, input: ShutdownInput| {
                stop_for.request_stop(input.drain_ms.map(Duration::from_millis));
                async move { Ok(Stopping { stopping: true }) }
            }),
        Operation::subscription("node/logs", "Shows the log of this node.")
            .example(json!({ "lines": 10, "follow": false }), json!({ "at": "2026-01-01T00:00:00.000Z", "level": "info", "target": "alknet_node", "message": "ready", "fields": {} }))
            .stream(move |_cx: Context, input: LogsInput| {
                let shared = logs_for.clone();
                async move { logs(&shared, input).map(|lines| super::until_stopping(&shared, lines)) }
            }),
    ]
}

fn metrics(shared: &Shared) -> Metrics {
    use std::sync::atomic::Ordering::Relaxed;
    let admission = shared.admission();
    let refusals = &admission.conduct.refusals;
    Metrics {
        calls_in_flight: shared.door().in_flight() as u64,
        handler_panics: shared.door().panics(),
        protocol_panics: admission.counters.handler_panics.load(Relaxed),
        connections: admission.count() as u64,
        connections_accepted: admission.counters.accepted.load(Relaxed),
        connections_refused: refusals.connections(),
        refused: refusals.by_kind(),
        calls_limited: shared.door().limited(),
        bans: admission.conduct.bans.count() as u64,
        bans_automatic: admission.counters.bans.load(Relaxed),
        peers_connected: shared.links().connected().len() as u64,
        memory_bytes: resident_bytes(),
    }
}

/// Resident memory as Linux counts it (proc_pid_statm(5)); 0 elsewhere.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn logs(
    shared: &Shared,
    input: LogsInput,
) -> Result<
    impl futures::Stream<Item = Result<LogLine, CallError>> + Send + 'static + use<>,
    CallError,
> {
    let level = input.level.unwrap_or_else(|| "trace".into());
    if !["error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
        return Err(CallError::invalid_field(
            "/level",
            "one of error, warn, info, debug, trace",
        ));
    }
    let (past, live) = shared
        .logs
        .follow(input.lines.map_or(LINES_DEFAULT, |lines| lines as usize));
    let past: VecDeque<LogLine> = past
        .into_iter()
        .filter(|line| is_severe(&line.level, &level))
        .collect();
    let live = input.follow.unwrap_or(true).then_some(live);
    Ok(futures::stream::unfold(
        (past, live, level),
        |(mut past, mut live, level)| async move {
            if let Some(line) = past.pop_front() {
                return Some((Ok(line), (past, live, level)));
            }
            loop {
                match live.as_mut()?.recv().await {
                    Ok(line) if is_severe(&line.level, &level) => {
                        return Some((Ok(line), (past, live, level)));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(lines)) => {
                        let error = CallError::new(
                            ErrorCode::Gone,
                            format!("{lines} lines went by faster than they were read; ask again"),
                        );
                        return Some((Err(error), (past, None, level)));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        },
    ))
}
