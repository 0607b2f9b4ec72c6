//! Laws over everything that a node offers, and what others script against.

use crate::support::{Pair, TestNode, builder, runs_commands, soon, start};
use alknet_core::{CallError, ErrorClass, Kind, OperationSpec};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const CONFIGURED: &str = r#"
[[operation]]
name = "deploy/restart"
summary = "Restarts one service and waits until it is healthy."
kind = "mutation"
command = ["echo", "--", "{service}"]
input = { service = { enum = ["web", "worker"], description = "Which one." } }
scopes = ["deploy:write"]
timeout = "60s"

[[operation]]
name = "deploy/log"
summary = "Shows the last lines of a service."
command = ["seq", "{lines}"]
input = { lines = { type = "integer", minimum = 1, description = "How many." } }
output = "lines"
"#;

/// A node with the demo and with operations of its configuration.
async fn full(dir: &Path) -> alknet_node::Node {
    std::fs::write(dir.join("alknet.toml"), runs_commands() + CONFIGURED).unwrap();
    builder(dir, "home").demo(true).spawn().await.unwrap()
}

fn specs(node: &alknet_node::Node) -> Vec<OperationSpec> {
    let view = node.door().registry().view();
    view.local().map(|entry| entry.spec().clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_keeps_the_laws() {
    let dir = tempfile::tempdir().unwrap();
    let node = full(dir.path()).await;
    let view = node.door().registry().view();
    let broken = alknet_testkit::laws::check_catalogue(&view);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let mut tools = std::collections::HashSet::new();
    for spec in specs(&node) {
        let name = spec.name.as_str();
        // One line of a listing, and a tool's name of its own.
        assert!(spec.summary.chars().count() <= 120, "{name}");
        assert!(tools.insert(name.replace('/', "_")), "{name}");
        let input = spec.input.value();
        let closed = ["additionalProperties", "unevaluatedProperties"];
        let closed = closed
            .iter()
            .any(|key| input.get(*key) == Some(&json!(false)));
        assert!(
            closed || input.get("properties").is_none(),
            "{name} takes unknown fields: {input}"
        );
    }
    assert!(tools.len() > 30, "{tools:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_a_node_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let node = full(dir.path()).await;
    // Those come from the configuration, and from elsewhere.
    let areas = ["deploy", "shell"];
    let without: Vec<_> = specs(&node)
        .into_iter()
        .filter(|spec| spec.examples.is_empty() && !areas.contains(&spec.name.area()))
        .map(|spec| spec.name.to_string())
        .collect();
    assert_eq!(without, Vec::<String>::new());
}

/// Examples are inputs that are understood: what they name need not exist.
fn is_understood(outcome: &Result<Value, CallError>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) => {
            error.class == ErrorClass::Domain || ["NOT_FOUND", "CONFLICT"].contains(&&*error.code)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_run() {
    let dir = tempfile::tempdir().unwrap();
    let node = full(dir.path()).await;
    let client = node.client().timeout(Duration::from_secs(10));
    for spec in specs(&node) {
        let name = spec.name.as_str();
        // Some would end the test, start what it need not start, ask others on
        // the network, or lock away what those behind it need.
        let left_out = [
            "node/shutdown",
            "shell/exec",
            "net/dial",
            "peers/dial",
            "vault/lock",
        ];
        if left_out.contains(&name) {
            continue;
        }
        for example in &spec.examples {
            let outcome = match spec.kind {
                Kind::Query | Kind::Mutation => soon(client.call_json(name, &example.input)).await,
                Kind::Subscription => {
                    let items = soon(client.subscribe::<_, Value>(name, &example.input)).await;
                    match items {
                        Err(error) => Err(error),
                        Ok(mut items) => {
                            let first =
                                tokio::time::timeout(Duration::from_millis(300), items.next());
                            // One that waits for something to happen is fine.
                            first.await.ok().flatten().unwrap_or(Ok(Value::Null))
                        }
                    }
                }
                Kind::Channel => {
                    let call = soon(client.open(name, &example.input)).await;
                    call.and_then(|call| call.reply.into_value())
                }
            };
            assert!(
                is_understood(&outcome),
                "{name} {}: {outcome:?}",
                example.input
            );
        }
    }
    let greeted = client
        .call_json("demo/greet", &json!({ "name": "Ada" }))
        .await;
    assert_eq!(greeted.unwrap(), "Hello, Ada!");
}

/// What a caller may not call it cannot list, search or describe.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_listed_that_cannot_be_called() {
    let pair = Pair::new(&["demo:greet"], &[]).await;
    let known = crate::support::Known::to(&pair.home, "tablet", &["node:read"]).await;
    let listed = known.call_json("services/list", &json!({})).await.unwrap();
    let names: Vec<&str> = listed["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "fs/offered",
            "node/info",
            "node/netcheck",
            "node/ping",
            "roles/list",
            "services/list",
            "services/schema",
            "services/search",
            "services/watch"
        ]
    );
    let hidden = json!({ "name": "peers/remove" });
    let error = known.call_json("services/schema", &hidden).await;
    assert_eq!(error.unwrap_err().code, "NOT_FOUND");
    let found = known
        .call_json(
            "services/search",
            &json!({ "query": "removes a peer and ends its connections" }),
        )
        .await
        .unwrap();
    assert!(!found.to_string().contains("peers/remove"), "{found}");
}

fn golden(name: &str, found: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = serde_json::to_string_pretty(found).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, kept, "{name} changed: UPDATE_GOLDEN=1 rewrites it");
}

/// Every field with its type, so that the values may differ.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Array(items) => json!([items.first().map_or(Value::Null, shape)]),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_kinds_and_needs_are_promises() {
    let dir = tempfile::tempdir().unwrap();
    let node = full(dir.path()).await;
    let listed = node
        .client()
        .call_json("services/list", &json!({ "limit": 1000 }))
        .await
        .unwrap();
    let entries: Vec<Value> = listed["operations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let needs = entry.get("needs").cloned().unwrap_or(json!([]));
            json!({ "name": entry["name"], "kind": entry["kind"], "needs": needs })
        })
        .collect();
    golden("catalogue.json", &json!(entries));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_runtime_status_and_peers_are_promises() {
    let home = start("home").await;
    let read = |node: &TestNode| {
        let text = std::fs::read(node.dir.path().join("runtime.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    golden("runtime.json", &shape(&read(&home)));
    let status = home.told("node/info", json!({})).await;
    golden("status.json", &shape(&status));
    let metrics = home.told("node/metrics", json!({})).await;
    golden("metrics.json", &shape(&metrics));
    let pair = Pair::new(&["reader"], &[]).await;
    let mut peer = pair.home.peer_shown("laptop").await;
    // There once the peer was seen, which is noted on the side.
    peer["last_seen_at"] = json!("");
    // There once the link has settled and records were exchanged.
    peer["told"] = json!([""]);
    peer["reached"] = json!([""]);
    golden("peer.json", &shape(&peer));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_keys_groups_and_ssh_keys_are_promises() {
    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDcsEJaut3dDTUAS6ZAk6B3ZS8wn5MYaYcLY0miUew8j ada@laptop";
    let home = start("home").await;
    let input = json!({
        "peer": "ada", "ssh_keys": [ED25519],
        "ssh_cas": [{ "public_key": ED25519, "principals": ["ops"] }],
    });
    home.told("peers/add", input).await;
    let input =
        json!({ "name": "ci", "peer": "ada", "scopes": ["fs:read"], "expires_in_ms": 60_000 });
    let created = home.told("keys/create", input).await;
    let listed = home.told("keys/list", json!({})).await;
    let peer = home.peer_shown("ada").await;
    let revoked = home.told("keys/revoke", json!({ "key": "ci" })).await;
    home.told(
        "peers/update",
        json!({ "peer": "ada", "groups": ["family"] }),
    )
    .await;
    let input = json!({ "group": "family", "targets": ["reader"] });
    let granted = home.told("groups/grant", input).await;
    let groups = home.told("groups/list", json!({})).await;
    let removed = home
        .told("groups/remove", json!({ "group": "family" }))
        .await;
    let shapes = json!({
        "keys/create": shape(&created), "keys/list": shape(&listed), "keys/revoke": shape(&revoked),
        "groups/grant": shape(&granted), "groups/list": shape(&groups), "groups/remove": shape(&removed),
        "peers/show": { "ssh_keys": shape(&peer["ssh_keys"]), "ssh_cas": shape(&peer["ssh_cas"]), "api_keys": shape(&peer["api_keys"]) },
    });
    golden("keys.json", &shapes);
}

/// Finds `fn NAME(` below a folder.
fn has_function(folder: &Path, name: &str) -> bool {
    let wanted = format!("fn {name}(");
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => has_function(&path, name),
            false => {
                path.extension().is_some_and(|ext| ext == "rs")
                    && std::fs::read_to_string(&path).unwrap().contains(&wanted)
            }
        }
    })
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/architecture/security.md")).unwrap();
    let named: Vec<(&str, &str)> = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|code| code.contains("::"))
        .filter_map(|code| Some((code.split_once(' ')?.0, code.rsplit_once("::")?.1)))
        .collect();
    assert!(named.len() > 60, "the tables were not understood");
    let missing: Vec<_> = named
        .iter()
        .filter(|(name, test)| !has_function(&root.join(format!("crates/alknet-{name}")), test))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
