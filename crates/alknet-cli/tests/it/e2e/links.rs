//! How a link is told and measured, between two processes.

use super::harness::{Node, Pair, exec_config};
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_ping_needs_no_grant_and_says_time_and_path() {
    let pair = Pair::start(exec_config());
    for (caller, called) in pair.ways() {
        let name = called.name.as_str();
        let said = caller
            .cli(&["ping", name, "-c", "3", "-i", "0.01", "--json"])
            .exits(0);
        let told = lines(&said.stdout);
        let (summary, answers) = told.split_last().unwrap();
        assert_eq!(answers.len(), 3, "{told:?}");
        for answer in answers {
            assert_eq!(
                (&answer["type"], &answer["path"]),
                (&"answer".into(), &"direct".into())
            );
            assert_eq!(answer["address"], called.address());
            let (call, path) = (answer["ms"].as_f64(), answer["path_rtt_ms"].as_f64());
            assert!(call > Some(0.0) && path > Some(0.0), "{answer}");
        }
        assert_eq!(
            (
                &summary["type"],
                &summary["sent"],
                &summary["lost"],
                &summary["direct"]
            ),
            (&"summary".into(), &3.into(), &0.into(), &3.into())
        );
        assert!(summary["min_ms"].as_f64() <= summary["max_ms"].as_f64());
        // The same machine, the same clock.
        assert!(summary["clock_ahead_ms"].as_f64().unwrap().abs() < 10_000.0);

        let said = caller
            .cli(&["ping", name, "--until-direct"])
            .exits(0)
            .stdout;
        let first = format!("answer 1 from {name} in ");
        assert!(said.starts_with(&first), "{said}");
        assert!(
            said.contains(&format!(" ms, direct {} (path ", called.address())),
            "{said}"
        );
        assert!(
            said.contains(&format!(
                "{name}: 1 sent, 1 answered, 0 lost (0%)\nms: min "
            )),
            "{said}"
        );
        assert!(said.contains("\npath: direct, direct after 0."), "{said}");
    }
}

#[test]
fn a_ping_of_nobody_is_told_who_there_is() {
    let pair = Pair::start(exec_config());
    let said = pair.laptop.cli(&["ping", "hmoe"]).exits(1);
    assert_eq!(
        said.stderr,
        "error: no peer `hmoe`\nhint: did you mean `home`?\n"
    );
    assert_eq!(said.stdout, "");
    let said = pair.laptop.cli(&["ping", ":"]).exits(2);
    assert_eq!(said.stderr, "error: name a peer\nhint: alknet peers list\n");
    let said = pair.laptop.cli(&["ping", "any"]).exits(2);
    assert_eq!(
        said.stderr,
        "error: `any` is no peer to ping\nhint: alknet peers list\n"
    );
    let said = pair.laptop.cli(&["ping", "home", "-i", "0"]).exits(2);
    assert!(
        said.stderr.contains("at least 0.01 seconds"),
        "{}",
        said.stderr
    );
}

#[test]
fn slow_a_ping_of_a_stopped_peer_says_that_it_is_not_reached() {
    let mut pair = Pair::start(exec_config());
    let mut going = pair.laptop.spawn(&["ping", "home", "-i", "0.05", "--json"]);
    let answer: Value = serde_json::from_str(&going.lines.next()).unwrap();
    assert_eq!(answer["type"], "answer");
    pair.home.stop();
    // It goes on, and says of each call that there was no answer.
    loop {
        let line: Value = serde_json::from_str(&going.lines.next()).unwrap();
        if line["type"] == "lost" {
            let code = line["code"].as_str().unwrap();
            assert!(["LOST", "UNAVAILABLE"].contains(&code), "{line}");
            break;
        }
    }
    going.interrupt();
    let summary = loop {
        let line: Value = serde_json::from_str(&going.lines.next()).unwrap();
        if line["type"] == "summary" {
            break line;
        }
    };
    assert!(summary["answered"].as_u64() > Some(0) && summary["lost"].as_u64() > Some(0));
    going.code().exits(0);

    let said = pair
        .laptop
        .cli(&["ping", "home", "--within", "1s"])
        .exits(3);
    assert!(
        said.stderr
            .starts_with("error: peer `home` is not connected: "),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr
            .ends_with("hint: alknet peers show home; on `home`: alknet status\n"),
        "{}",
        said.stderr
    );
    pair.home.restart();
    // Dialled at once, however long the link had failed.
    pair.laptop.cli(&["ping", "home", "-c", "1"]).exits(0);
}

#[test]
fn what_a_link_carried_is_counted_with_its_channels() {
    let pair = Pair::start(exec_config());
    pair.grant(&["operator"]);
    let before = pair.laptop.peer("home")["link"].clone();
    assert_eq!(before["path"], "direct");
    assert_eq!(
        (&before["relay_share"], &before["path_changes"]),
        (&0.0.into(), &0.into())
    );
    assert_eq!(before.get("relay"), None);
    assert!(before["mtu"].as_u64() >= Some(1200), "{before}");
    assert!(before["loss"].as_f64() < Some(1.0), "{before}");

    let megabyte = vec![b'x'; 1_000_000];
    let said = pair
        .laptop
        .feed(&["exec", "home", "--", "wc", "-c"], &megabyte)
        .exits(0);
    assert_eq!(said.stdout, "1000000\n");
    let link = |node: &Node, peer: &str| node.peer(peer)["link"].clone();
    let (laptop, home) = (link(&pair.laptop, "home"), link(&pair.home, "laptop"));
    let count = |link: &Value, what: &str| link[what].as_u64().unwrap();
    let sent = count(&laptop, "bytes_sent") - count(&before, "bytes_sent");
    // Headers and acknowledgements come on top.
    assert!((1_000_000..1_500_000).contains(&sent), "{sent}");
    assert!(count(&home, "bytes_received") >= 1_000_000, "{home}");
    // Channels have a connection of their own, which counts to the link.
    let carries = |link: &Value, what: &str| {
        let paths = link["paths"].as_array().unwrap().iter();
        paths
            .filter(|path| path["carries"] == what && path["selected"] == true)
            .count() as u64
    };
    assert_eq!(carries(&before, "calls"), count(&before, "connections"));
    assert_eq!(carries(&laptop, "channels"), 1, "{laptop}");

    let shown = pair.laptop.cli(&["peers", "show", "home"]).exits(0).stdout;
    for wanted in [
        "path:         direct ",
        "round trip:   ",
        "carried:      1.",
        " MB sent, ",
    ] {
        assert!(shown.contains(wanted), "{wanted:?} is not in\n{shown}");
    }
}

#[test]
fn whoever_watches_peers_sees_them_go_and_come_back() {
    let mut pair = Pair::start(exec_config());
    let watching = pair.laptop.spawn(&["peers", "watch", "--json"]);
    let state = |wanted: &str| loop {
        let item: Value = serde_json::from_str(&watching.lines.next()).unwrap();
        if item["peer"] == "home" && item["state"] == wanted {
            return item;
        }
    };
    let item = state("connected");
    assert_eq!(
        (&item["path"], &item["address"]),
        (&"direct".into(), &pair.home.address().into())
    );
    pair.home.stop();
    assert_eq!(state("waiting")["path"], "none");
    pair.home.restart();
    assert_eq!(state("connected")["path"], "direct");
}
