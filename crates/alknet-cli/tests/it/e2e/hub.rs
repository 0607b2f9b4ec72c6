//! Three nodes in a row: `phone` reaches `nas` through `hub`, and neither of
//! the two at the ends knows the other.

mod ends;
mod passing;
mod rights;
mod volume;

use super::harness::{Node, Running, eventually, exec_config, toml};
use crate::program::Said;
use serde_json::Value;
use std::path::Path;

/// What `nas` offers: one operation of each kind, and ways to fail.
fn config(trace: &Path) -> String {
    format!(
        r#"{}
[[operation]]
name = "test/query"
summary = "Answers."
kind = "query"
command = ["echo", "{{text}}"]
input = {{ text = {{ type = "string", default = "answer" }} }}

[[operation]]
name = "test/touch"
summary = "Leaves a trace."
command = ["touch", {}]

[[operation]]
name = "test/lines"
summary = "Counts, in wide lines."
output = "lines"
command = ["seq", "-f", "%0200.0f", "1", "{{to}}"]
input = {{ to = "integer" }}

[[operation]]
name = "test/tick"
summary = "Counts for ever."
output = "lines"
command = ["sh", "-c", "n=0; while n=$((n+1)); do echo $n; sleep 0.05; done"]

[[operation]]
name = "test/pipe"
summary = "Sends bytes back."
output = "bytes"
command = ["cat"]

[[operation]]
name = "test/sleep"
summary = "Sleeps."
command = ["sleep", "300"]

[[operation]]
name = "test/fail"
summary = "Fails."
command = ["sh", "-c", "echo no heartbeat >&2; exit 3"]
errors = {{ "3" = {{ code = "NOT_HEALTHY", description = "The service did not come up." }} }}
"#,
        exec_config(),
        toml(trace)
    )
}

struct Row {
    phone: Node,
    hub: Node,
    nas: Node,
    /// Kept for the trace in it.
    files: tempfile::TempDir,
}

/// Makes `guest` a peer of `host` by an invite, and waits until both are
/// connected.
#[track_caller]
fn join(host: &Node, guest: &Node) {
    let ticket = host.cli(&["invite", "-q"]).exits(0).stdout;
    guest.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    guest.connected(&host.name);
    host.connected(&guest.name);
}

const LOOPBACK: &[&str] = &["--relay", "none", "--bind", "127.0.0.1:0"];

impl Row {
    /// Three nodes that gave each other nothing.
    #[track_caller]
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let config = config(&files.path().join("trace"));
        let words = [LOOPBACK, &["--demo"]].concat();
        let row = Self {
            phone: Node::start("phone", ""),
            hub: Node::start("hub", exec_config()),
            nas: Node::start_with("nas", &config, &words, None),
            files,
        };
        join(&row.hub, &row.phone);
        join(&row.hub, &row.nas);
        row
    }

    /// The hub may do everything at `nas` that is called there, and the phone
    /// may have it do so.
    #[track_caller]
    fn started_and_granted() -> Self {
        let row = Self::start();
        row.nas
            .cli(&["grant", "hub", "test:*", "demo:*", "shell:*", "command:*=*"])
            .exits(0);
        let targets = ["peer:nas=test/*", "peer:nas=demo/*", "peer:nas=shell/*"];
        row.hub
            .cli(&[&["grant", "phone"], &targets[..]].concat())
            .exits(0);
        row.hub.cli(&["grant", "phone", "peers:list"]).exits(0);
        eventually("the hub knows what nas offers", || {
            row.offered().then_some(())
        });
        row
    }

    /// Whether the hub shows the phone what `nas` offers.
    #[track_caller]
    fn offered(&self) -> bool {
        let said = self
            .phone
            .cli(&["call", "services/list-peers", "--on", "hub", "--json"])
            .exits(0);
        let peers = &said.json()["peers"];
        let nas = peers
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["peer"] == "nas");
        nas.is_some_and(|nas| {
            let names = nas["operations"].as_array().unwrap();
            names.iter().any(|name| name == "test/query")
        })
    }

    /// `alknet call OPERATION... --on hub/nas`, by the phone.
    #[track_caller]
    fn call(&self, words: &[&str]) -> Said {
        self.phone
            .cli(&[&["call"], words, &["--on", "hub/nas"]].concat())
    }

    fn spawn(&self, words: &[&str]) -> Running {
        self.phone
            .spawn(&[&["call"], words, &["--on", "hub/nas"]].concat())
    }

    /// Waits until a program runs for the caller, and is what it is to be.
    #[track_caller]
    fn runs_at_nas(&self) {
        eventually("a program runs at `nas`", || {
            let children = self.nas.children();
            let named = children.iter().all(|(_, line)| !line.is_empty());
            (!children.is_empty() && named).then_some(())
        });
    }

    fn nodes(&self) -> [&Node; 3] {
        [&self.phone, &self.hub, &self.nas]
    }
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// The one row of an operation that did not end as `INVALID_OPERATION_TYPE`,
/// once it is written.
#[track_caller]
fn row_of(node: &Node, operation: &str) -> Value {
    eventually(
        &format!("`{operation}` is in the log of `{}`", node.name),
        || {
            let rows = node.audit(&["--operation", operation]);
            let mut rows = rows.into_iter();
            rows.find(|row| row["outcome"] != "INVALID_OPERATION_TYPE")
        },
    )
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(crate::program::PATIENCE, what)
        .await
        .expect("in time")
}
