//! Calls of every kind, their errors and questions, and what is written of
//! them.

use super::{Row, join, row_of, soon, text};
use crate::e2e::harness::{Node, eventually};
use alknet::{Interaction, InteractionEvent, node::control, parse_route};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio::sync::mpsc;

#[test]
fn audit_rows_name_the_caller_and_who_is_behind_it() {
    let row = Row::started_and_granted();
    row.call(&["test/query", "text=x"]).exits(0);
    let there = row_of(&row.nas, "test/query");
    assert_eq!(
        (
            text(&there, "caller"),
            text(&there, "originator"),
            text(&there, "surface")
        ),
        ("hub", "hub/phone", "call"),
        "{there}"
    );
    let between = row_of(&row.hub, "test/query");
    assert_eq!(
        (
            text(&between, "caller"),
            text(&between, "originator"),
            text(&between, "route")
        ),
        ("phone", "", "nas"),
        "{between}"
    );
    let here = row_of(&row.phone, "test/query");
    assert_eq!(
        (
            text(&here, "caller"),
            text(&here, "originator"),
            text(&here, "route")
        ),
        ("owner", "", "hub/nas"),
        "{here}"
    );
    // One call, one id on all three.
    assert_eq!(there["call_id"], here["call_id"]);
    assert_eq!(between["call_id"], here["call_id"]);
    // Who called at the phone is passed on as the phone says.
    let guest = Node::start("guest", "");
    join(&row.phone, &guest);
    row.phone
        .cli(&["grant", "guest", "peer:hub/nas=demo/*"])
        .exits(0);
    guest
        .cli(&["call", "demo/greet", "name=Ada", "--on", "phone/hub/nas"])
        .exits(0);
    for (node, caller) in [(&row.hub, "phone"), (&row.nas, "hub")] {
        let there = row_of(node, "demo/greet");
        assert_eq!(
            (text(&there, "caller"), text(&there, "originator")),
            (caller, "phone/guest"),
            "{there}"
        );
    }
}

#[test]
fn every_kind_passes_the_hub() {
    let row = Row::started_and_granted();
    assert_eq!(row.call(&["test/query", "text=hi"]).exits(0).stdout, "hi\n");
    row.call(&["test/touch"]).exits(0);
    assert!(row.files.path().join("trace").exists());
    // The fields get their types from what the hub knows of `nas`.
    let counted = row.call(&["demo/count", "to=3"]).exits(0).stdout;
    assert_eq!(counted, "1\n2\n3\n");
    let words = ["call", "demo/echo", "--on", "hub/nas"];
    let echoed = row.phone.feed(&words, b"hello\0world").exits(0);
    assert_eq!(echoed.stdout, "hello\0world");
    assert!(echoed.stderr.contains(r#"{"bytes":11}"#), "{echoed:?}");
    // Whoever offers it there.
    let any = ["call", "test/query", "text=any", "--on", "hub/any"];
    assert_eq!(row.phone.cli(&any).exits(0).stdout, "any\n");
    let any = ["call", "demo/count", "to=2", "--on", "hub/any"];
    assert_eq!(row.phone.cli(&any).exits(0).stdout, "1\n2\n");
    // And a program.
    let ran = row
        .phone
        .cli(&["exec", "hub/nas", "--", "sh", "-c", "echo out; exit 7"]);
    assert_eq!(ran.exits(7).stdout, "out\n");
    // What is there is listed and described from the hub's view of it.
    let listed = row
        .phone
        .cli(&["ops", "--on", "hub/nas", "--json"])
        .exits(0)
        .json();
    let names: BTreeSet<&str> = listed["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| text(entry, "name"))
        .collect();
    assert!(
        names.contains("test/query") && names.contains("demo/echo"),
        "{names:?}"
    );
    assert!(!names.contains("node/info"), "{names:?}");
    let said = row
        .phone
        .cli(&["ops", "describe", "test/query", "--on", "hub/nas"]);
    assert!(
        said.exits(0)
            .stdout
            .starts_with("test/query (query) on nas\n")
    );
}

#[test]
fn an_error_arrives_with_its_details() {
    let row = Row::started_and_granted();
    let said = row.call(&["test/fail", "--json"]).exits(1);
    let error: Value = serde_json::from_str(said.stderr.trim()).unwrap();
    let error = &error["error"];
    assert_eq!(error["code"], "NOT_HEALTHY", "{error}");
    assert_eq!(error["message"], "The service did not come up.");
    assert_eq!(
        error["details"],
        json!({ "exit_code": 3, "signal": null, "stderr": "no heartbeat\n" })
    );
    let said = row
        .call(&["demo/divide", "dividend=1", "divisor=0", "--json"])
        .exits(1);
    let error: Value = serde_json::from_str(said.stderr.trim()).unwrap();
    assert_eq!(error["error"]["details"], json!({ "dividend": 1 }));
    // What the last node finds wrong with the input is said as here.
    let said = row.call(&["test/query", "text:=5"]).exits(1);
    assert!(said.stderr.contains("`/text`"), "{said:?}");
    assert!(
        said.stderr
            .ends_with("hint: alknet ops describe test/query --on hub/nas\n"),
        "{said:?}"
    );
    // A misspelt name brings near ones of there.
    let said = row.call(&["test/qeury"]).exits(1);
    assert!(
        said.stderr
            .starts_with("error: peer `nas` does not offer `test/qeury`\n")
            && said.stderr.contains("`test/query`"),
        "{said:?}"
    );
}

#[test]
fn a_route_that_loops_or_is_too_long_is_refused() {
    let row = Row::started_and_granted();
    let on = |at: &str| row.phone.cli(&["call", "test/query", "--on", at]);
    // Without a grant the way ends at the hub.
    let said = on("hub/phone").exits(4);
    assert!(
        said.stderr
            .contains("missing resource `peer:phone=test/query`"),
        "{said:?}"
    );
    row.hub
        .cli(&[
            "grant",
            "phone",
            "peer:phone=*",
            "peer:nas/hub=*",
            "peer:nas/hub/nas=*",
        ])
        .exits(0);
    row.nas
        .cli(&["grant", "hub", "peer:hub=*", "peer:hub/nas=*"])
        .exits(0);
    for (at, node) in [
        ("hub/phone", "phone"),
        ("hub/nas/hub", "hub"),
        ("hub/nas/hub/nas", "hub"),
    ] {
        let said = on(at).exits(1);
        assert_eq!(
            said.stderr,
            format!("error: the call has passed `{node}` already: its route is a loop\n"),
            "{at}"
        );
    }
    for (at, why) in [
        ("a/b/c/d/e", "the route has 5 steps, at most 4 are allowed"),
        ("any/hub", "`any` can only be the last step of a route"),
        ("hub/any/nas", "`any` can only be the last step of a route"),
    ] {
        let said = on(at).exits(2);
        assert!(said.stderr.contains(why), "{said:?}");
    }
    // What came as far as that says so.
    eventually("both are in the log of `nas`", || {
        let rows = row.nas.audit(&["--operation", "test/query"]);
        let looped = rows.iter().all(|row| row["outcome"] == "CONFLICT");
        (rows.len() == 2 && looped).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_a_question_pass_the_hub() {
    let row = Row::started_and_granted();
    let local = control::connect(&row.phone.data()).await.unwrap();
    let (events, mut heard) = mpsc::channel(8);
    let client = local
        .client
        .on(parse_route("hub/nas").unwrap())
        .interaction(Interaction::to(events, true));
    let asked = json!({ "question": "Which way?" });
    let asking = tokio::spawn(async move { client.call_json("demo/ask", &asked).await });
    let mut told = Vec::new();
    while let Some(event) = soon(heard.recv()).await {
        match event {
            InteractionEvent::Progress(progress) => told.push(progress),
            InteractionEvent::Ask { question, answer } => {
                told.push(question);
                answer.send(json!("left")).unwrap();
            }
        }
    }
    assert_eq!(
        told,
        [
            json!({ "message": "a question comes" }),
            json!({ "question": "Which way?" }),
            json!({ "message": "it was answered" }),
        ]
    );
    assert_eq!(soon(asking).await.unwrap().unwrap(), "left");
    // Nobody there to answer: it does not wait for one.
    let said = row.call(&["demo/ask", "question=why", "--json"]).exits(1);
    assert!(said.stderr.contains("CONFLICT"), "{said:?}");
    local.close().await;
}
