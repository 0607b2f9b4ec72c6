//! The catalogue of a peer that may say anything: taken over, listed, searched
//! and described.

use super::{MIB, Target, texts};
use crate::note;
use alknet_core::{
    Access, Call, Caller, CatalogueEntry, Change, Dispatcher, Handler, Kind, Output, PeerId,
    Registration, Registry,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::runtime::Runtime;

pub(super) const CATALOGUE: Target = Target {
    name: "catalogue",
    about: "Whatever a peer lists is taken or refused, and what is taken can be found.",
    run: catalogue,
    seeds: || {
        texts(&[
            r#"[{"name":"fs/read","kind":"query","summary":"Reads a file.","input":{"type":"object"},"output":true}]"#,
            r#"[{"name":"a/b","kind":"subscription","summary":"S","errors":[{"code":"A_B","description":"D"}],"deprecated":"x"}]"#,
            r#"[{"name":"a/b","kind":"channel","summary":""},{"name":"a/b","kind":"query","summary":"again"}]"#,
            r#"[{"name":"a/c","kind":"mutation","summary":"é ß\u202e","description":"text\u001b[2J","examples":[{"input":1,"output":2}]}]"#,
            r#"[{"name":"A/b","kind":"query","summary":"bad"},{"name":"a/d","kind":"query","summary":"good"}]"#,
            r#"[{"name":"a/e","kind":"query","summary":"s","input":{"$ref":"http://x/"},"hints":{"read_only":false}}]"#,
            "[]",
            "[1,null]",
        ])
    },
    tokens: &[
        b"\"name\":\"fs/read\"",
        b"\"kind\":\"query\"",
        b"\"kind\":\"channel\"",
        b"\"summary\":",
        b"\"input\":",
        b"\"output\":",
        b"\"errors\":[",
        b"\"code\":\"NOT_FOUND\"",
        b"\"examples\":[",
        b"\"hints\":{",
        b"\"resume\":{",
        b"{",
        b"}",
        b",",
        b"true",
    ],
    bytes_max: 1200,
    held_max: 16 * MIB,
};

struct World {
    runtime: Runtime,
    registry: Registry,
    door: Dispatcher,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let registry = Registry::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            runtime: runtime.expect("a runtime without I/O needs nothing"),
            door: Dispatcher::builder(registry.clone()).build(),
            registry,
        }
    }

    fn ask(&self, operation: &str, input: &Value) -> Option<Value> {
        let call = Call::new(operation, Caller::host())
            .expect("a name")
            .input(input);
        let reply = self.runtime.block_on(self.door.call(call)).ok()?;
        Some(reply.parse().expect("JSON"))
    }
}

/// Answers nothing, and has the form that the kind asks for.
fn handler(kind: Kind) -> Handler {
    match kind {
        Kind::Query | Kind::Mutation => Handler::Unary(Arc::new(|_, _| {
            Box::pin(async { Ok(Output::Value(Value::Null)) })
        })),
        Kind::Subscription => Handler::Stream(Arc::new(|_, _| {
            Box::pin(async { Ok(futures::stream::empty().boxed()) })
        })),
        Kind::Channel => Handler::Channel(Arc::new(|_, _, _| {
            Box::pin(async { Ok(Output::Value(Value::Null)) })
        })),
    }
}

fn catalogue(data: &[u8]) {
    let Ok(entries) = serde_json::from_slice::<Vec<Value>>(data) else {
        return;
    };
    let entries = entries
        .into_iter()
        .filter_map(|entry| serde_json::from_value::<CatalogueEntry>(entry).ok());
    let mut registrations: Vec<Registration> = Vec::new();
    let mut names = Vec::new();
    for entry in entries {
        // Written and read again it is the same.
        let text = serde_json::to_value(&entry).expect("what was read can be written");
        let back: CatalogueEntry =
            serde_json::from_value(text.clone()).expect("what was written can be read");
        assert_eq!(serde_json::to_value(&back).expect("as above"), text);
        let kind = entry.kind;
        names.push(entry.name.to_string());
        registrations.push(Registration::imported(
            entry.into_spec(Access::Authenticated),
            handler(kind),
            None,
        ));
    }
    WORLD.with(|world| {
        let peer = PeerId::parse("nas").expect("a slug");
        let taken = world
            .registry
            .apply(Change::SetPeer(peer.clone(), registrations))
            .is_ok();
        note((taken, names.len()));
        if taken {
            found(world, &mut names);
        }
        let gone = world.registry.apply(Change::RemovePeer(peer));
        assert!(gone.is_ok(), "removing a peer cannot fail");
    });
}

/// All of it is listed, described and searched through.
fn found(world: &World, names: &mut [String]) {
    names.sort();
    let page = world.ask("services/list", &json!({ "peer": "nas", "schemas": true }));
    let page = page.expect("a catalogue that was taken can be listed");
    let listed = page["operations"].as_array().into_iter().flatten();
    let listed: Vec<&str> = listed.filter_map(|entry| entry["name"].as_str()).collect();
    assert_eq!(listed, names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in names.iter() {
        let described = world.ask("services/schema", &json!({ "name": name, "peer": "nas" }));
        assert_eq!(
            described.expect("what is listed can be described")["name"],
            json!(name)
        );
        let searched = world.ask("services/search", &json!({ "query": name, "peer": "nas" }));
        assert!(searched.is_some(), "a search that fails: {name}");
    }
}
