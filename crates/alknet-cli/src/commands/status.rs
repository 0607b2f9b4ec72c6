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
    let clients = match field("clients").as_str() {
        "1" => "1 client".to_owned(),
        clients => format!("{clients} clients"),
    };
    let metrics = match field("metrics") {
        none if none.is_empty() => String::new(),
        metrics => format!(", metrics at http://{metrics}/metrics"),
    };
    Some(format!("{} ({clients}{metrics})", field("url")))
}

/// The relays where the node is found, and those that it would use.
pub(super) fn relays(info: &Value) -> String {
    let list = |name: &str| {
        info.get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let url_of = |relay: &Value| cell(relay.get("url"));
    let is_connected = |relay: &&Value| relay.get("connected") == Some(&Value::Bool(true));
    let away: Vec<&Value> = list("relays_in_use")
        .filter(|relay| !is_connected(relay))
        .collect();
    let is_at_one = list("relays_in_use").any(|relay| is_connected(&relay));
    let homes = list("relays").map(|url| cell(Some(url)));
    let mut told: Vec<String> = homes
        .filter(|url| away.iter().all(|relay| url_of(relay) != *url))
        .collect();
    told.extend(away.into_iter().map(|relay| {
        let state = match relay.get("problem") {
            Some(Value::String(_)) => "does not work",
            _ if is_at_one => "in reserve",
            _ => "not connected yet",
        };
        format!("{} ({state})", url_of(relay))
    }));
    match told.is_empty() {
        true => "none".into(),
        false => told.join(", "),
    }
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
        ("relays", relays(info)),
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
    fn a_relay_that_is_not_connected_is_listed_with_why() {
        let one = |connected: bool, problem: Option<&str>| {
            json!({ "relays": ["https://a/"], "relays_in_use": [
                { "url": "https://a/", "connected": connected, "problem": problem },
                { "url": "https://b/", "connected": false, "problem": null },
            ] })
        };
        for (info, told) in [
            (one(true, None), "https://a/, https://b/ (in reserve)"),
            (
                one(false, None),
                "https://a/ (not connected yet), https://b/ (not connected yet)",
            ),
            (
                one(false, Some("REFUSED")),
                "https://a/ (does not work), https://b/ (not connected yet)",
            ),
            (
                json!({ "relays": ["https://n0/"], "relays_in_use": [] }),
                "https://n0/",
            ),
            (json!({}), "none"),
        ] {
            assert_eq!(relays(&info), told);
        }
    }

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
