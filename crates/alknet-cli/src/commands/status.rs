//! `alknet status`.

use crate::{app::App, duration, failure::Failure, output::cell, table};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) async fn run(app: &App) -> Result<(), Failure> {
    let info = app.ask("node/info", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&info);
    }
    app.out.text(&render(&info))
}

/// What the relay that the node is tells of itself.
pub(super) fn own_relay(info: &Value) -> Option<String> {
    let relay = info.get("relay").filter(|relay| relay.is_object())?;
    let field = |name: &str| cell(relay.get(name));
    Some(format!("{} ({} clients)", field("url"), field("clients")))
}

/// The lines for people.
fn render(info: &Value) -> String {
    let field = |name: &str| cell(info.get(name));
    let or = |name: &str, empty: &str| {
        Some(field(name))
            .filter(|text| !text.is_empty())
            .unwrap_or(empty.into())
    };
    let uptime = info
        .get("uptime_ms")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let since = match uptime / 1000 {
        0 => "less than a second".to_owned(),
        seconds => duration::in_words(Duration::from_secs(seconds)),
    };
    let running = format!("process {}, {since}", field("pid"));
    let mut rows = vec![
        ("name", field("name")),
        ("node id", field("node_id")),
        ("version", field("version")),
        ("running", running),
        ("addresses", or("addresses", "none")),
        ("relays", or("relays", "none")),
        ("http", or("http", "off")),
        ("ssh", or("ssh", "off")),
        ("peers", field("peers")),
        ("calls", format!("{} in flight", or("calls_in_flight", "0"))),
    ];
    rows.extend(own_relay(info).map(|relay| ("own relay", relay)));
    let mut text = table::pairs(&rows);
    for note in info
        .get("notes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        text.push_str(&format!("note: {}\n", table::one_line(&cell(Some(note)))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_plain() {
        let info = json!({
            "node_id": "ab", "name": "home", "version": "0.1.0", "pid": 7, "uptime_ms": 61_234,
            "addresses": ["127.0.0.1:4"], "relays": [], "http": null, "ssh": null, "peers": 2,
            "calls_in_flight": 1, "notes": ["no relay is in use"],
        });
        assert_eq!(
            render(&info),
            "name:       home\n\
             node id:    ab\n\
             version:    0.1.0\n\
             running:    process 7, 1 minute 1 second\n\
             addresses:  127.0.0.1:4\n\
             relays:     none\n\
             http:       off\n\
             ssh:        off\n\
             peers:      2\n\
             calls:      1 in flight\n\
             note: no relay is in use\n"
        );
    }
}
