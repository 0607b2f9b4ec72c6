//! What `up` prints when the node is ready.

use crate::{app::App, commands::status, failure::Failure, hint::quote, output::cell, table};
use serde_json::Value;
use std::path::Path;

/// Commands worth trying first.
const NEXT: [&str; 3] = [
    "alknet ops",
    "alknet call node/info",
    // Of the built-in roles those that give something today are as good as an
    // account on the machine: nothing to suggest to whoever is new.
    "alknet invite --role node/info",
];

/// The same for a relay, of which others need to know.
const NEXT_OF_RELAY: [&str; 2] = ["alknet invite --name laptop", "alknet status"];

/// Prints the status of a node that is ready.
pub(crate) fn print(app: &App, status: &Value) -> Result<(), Failure> {
    if app.out.json {
        return app.out.json_line(status);
    }
    let dir = app.dir().display().to_string();
    app.out.text(&render(status, &dir, app.is_default_dir()))
}

fn render(info: &Value, dir: &str, is_default_dir: bool) -> String {
    let field = |name: &str| cell(info.get(name));
    let or = |name: &str, empty: &str| match field(name) {
        text if text.is_empty() => empty.to_owned(),
        text => text,
    };
    let mut text = format!(
        "`{}` is running, alknet {}\n",
        field("name"),
        field("version")
    );
    let mut rows = vec![
        ("node id", field("node_id")),
        ("data", dir.to_owned()),
        ("addresses", or("addresses", "none")),
        ("relays", status::relays(info)),
        ("calls", "on, over QUIC, for known peers".into()),
        ("http", or("http", "off")),
        ("ssh", or("ssh", "off")),
    ];
    let inbox = Path::new(dir).join("inbox");
    if inbox.is_dir() {
        let inbox = format!("{}, as the bucket `inbox`", inbox.display());
        rows.insert(2, ("inbox", inbox));
    }
    rows.extend(status::own_relay(info).map(|relay| ("own relay", relay)));
    text.push_str(&table::pairs(&rows));
    for note in info
        .get("notes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        text.push_str(&format!("note: {}\n", table::one_line(&cell(Some(note)))));
    }
    text.push_str("\nNext, in a second terminal:\n");
    let data_dir = match is_default_dir {
        true => String::new(),
        false => format!(" --data-dir {}", quote(dir)),
    };
    let is_relay = info.get("relay").is_some_and(Value::is_object);
    let next: &[&str] = if is_relay { &NEXT_OF_RELAY } else { &NEXT };
    for command in next {
        text.push_str(&format!("  {command}{data_dir}\n"));
    }
    if is_relay {
        text.push_str("and on the other machine: alknet join --use-relays TICKET\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_ready_node_says_who_where_and_what_next() {
        let status = json!({
            "node_id": "ab", "name": "home", "version": "0.1.0", "pid": 7,
            "addresses": ["10.0.0.2:4433"], "relays": [], "http": null, "ssh": null,
            "notes": ["no relay: reached directly only"],
        });
        assert_eq!(
            render(&status, "/my data", false),
            "`home` is running, alknet 0.1.0\n\
             node id:    ab\n\
             data:       /my data\n\
             addresses:  10.0.0.2:4433\n\
             relays:     none\n\
             calls:      on, over QUIC, for known peers\n\
             http:       off\n\
             ssh:        off\n\
             note: no relay: reached directly only\n\
             \nNext, in a second terminal:\n  \
             alknet ops --data-dir '/my data'\n  \
             alknet call node/info --data-dir '/my data'\n  \
             alknet invite --role node/info --data-dir '/my data'\n"
        );
        assert!(render(&status, "/d", true).contains("\n  alknet ops\n"));
        let mut relay = status;
        relay["relay"] = json!({ "url": "https://r/", "clients": 1, "metrics": "127.0.0.1:9" });
        let said = render(&relay, "/d", true);
        assert!(
            said.contains(
                "own relay:  https://r/ (1 client, metrics at http://127.0.0.1:9/metrics)\n"
            ),
            "{said}"
        );
        assert!(
            said.ends_with("\n  alknet invite --name laptop\n  alknet status\nand on the other machine: alknet join --use-relays TICKET\n"),
            "{said}"
        );
    }
}
