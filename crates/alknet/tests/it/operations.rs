//! The notebook's operations, called through the door: no node, no network.

use alknet::{
    Call, CallError, Caller, Client, Credential, Dispatcher, ErrorCode, Identity, Interaction,
    InteractionEvent, PeerId, Registry, StaticIdentities,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::{io::AsyncWriteExt, sync::mpsc};

#[allow(dead_code, unreachable_pub)] // its `main` is run by another test
#[path = "../../examples/operations.rs"]
mod example;
use example::{Count, NOTE_BYTES_MAX, NOTES_MAX, Note, Notebook, operations};

/// Operations with the door in front of them, and who is known there.
struct Door {
    door: Dispatcher,
    known: Arc<StaticIdentities>,
}

impl Door {
    fn new() -> Self {
        let registry = Registry::new();
        registry.register(operations(&Notebook::default())).unwrap();
        let known = Arc::new(StaticIdentities::default());
        let door = Dispatcher::builder(registry)
            .identities(known.clone())
            .build();
        Self { door, known }
    }

    /// A peer with these grants, as they are written on the command line.
    fn peer(&self, name: &str, grants: &[&str]) -> Caller {
        let mut key = [0; 32];
        key[..name.len()].copy_from_slice(name.as_bytes());
        let identity = Identity::granted(PeerId::parse(name).unwrap(), grants).unwrap();
        self.known.put(Credential::NodeKey(key), identity);
        Caller::resolve(&*self.known, Credential::NodeKey(key)).unwrap()
    }

    async fn call(&self, caller: &Caller, name: &str, input: Value) -> Result<Value, CallError> {
        let call = Call::new(name, caller.clone()).unwrap().input(&input);
        self.door.call(call).await?.into_output().into_value()
    }
}

const WRITER: &[&str] = &["notes:read", "notes:write", "topic:home/**=read,write"];

#[tokio::test]
async fn every_example_is_true() {
    let door = Door::new();
    let view = door.door.registry().view();
    let specs = view.local().map(|entry| entry.spec());
    let mut ran = 0;
    for spec in specs.filter(|spec| spec.name.as_str().starts_with("notes/")) {
        for example in spec.examples.iter().filter(|_| spec.kind.is_unary()) {
            let (host, input) = (Caller::host(), example.input.clone());
            let reply = door.call(&host, spec.name.as_str(), input).await;
            assert_eq!(reply.unwrap(), example.output, "`{}`", spec.name);
            ran += 1;
        }
    }
    assert_eq!(ran, 2);
}

#[tokio::test]
async fn what_was_not_granted_is_refused() {
    let door = Door::new();
    let note = json!({ "book": "home/garden", "text": "water the roses" });
    let reader = door.peer("ada", &["notes:read", "topic:home/**=read"]);
    let refused = door
        .call(&reader, "notes/add", note.clone())
        .await
        .unwrap_err();
    assert!(refused.is(ErrorCode::Forbidden));
    assert_eq!(
        refused.details.unwrap()["missing"]["scopes"][0],
        "notes:write"
    );
    let writer = door.peer("bob", WRITER);
    assert_eq!(
        door.call(&writer, "notes/add", note).await.unwrap()["number"],
        1
    );
    let other = json!({ "book": "work/plans", "text": "retire" });
    let refused = door.call(&writer, "notes/add", other).await.unwrap_err();
    assert_eq!(refused.details.unwrap()["grant"], "topic:work/plans=write");
}

#[tokio::test]
async fn an_input_that_breaks_the_schema_never_arrives() {
    let door = Door::new();
    for input in [
        json!({ "book": "home/garden" }),
        json!({ "book": "home/garden", "text": "" }),
    ] {
        let refused = door.call(&Caller::host(), "notes/add", input).await;
        assert!(refused.unwrap_err().is(ErrorCode::InvalidInput));
    }
}

#[tokio::test]
async fn a_full_book_says_so() {
    let door = Door::new();
    let note = json!({ "book": "home/garden", "text": "dig" });
    for _ in 0..NOTES_MAX {
        door.call(&Caller::host(), "notes/add", note.clone())
            .await
            .unwrap();
    }
    let full = door
        .call(&Caller::host(), "notes/add", note)
        .await
        .unwrap_err();
    assert_eq!(full.code, "BOOK_FULL");
    assert_eq!(full.details.unwrap()["notes_max"], NOTES_MAX);
}

#[tokio::test]
async fn a_follower_sees_old_and_new_notes() {
    let door = Door::new();
    let bob = door.peer("bob", WRITER);
    let add = |text: &str| {
        door.call(
            &bob,
            "notes/add",
            json!({ "book": "home/garden", "text": text }),
        )
    };
    add("dig").await.unwrap();
    let follow = Call::new("notes/follow", bob.clone()).unwrap();
    let follow = follow.input(&json!({ "book": "home/garden" }));
    let mut notes = door.door.subscribe(follow).await.unwrap();
    add("sow").await.unwrap();
    for want in ["dig", "sow"] {
        let note: Note = notes.next().await.unwrap().unwrap().parse().unwrap();
        assert_eq!(note.text, want);
    }
    // What runs ends when its right does.
    door.peer("bob", &[]);
    let end = notes.next().await.unwrap().unwrap_err();
    assert!(end.is(ErrorCode::Forbidden), "{end}");
}

#[tokio::test]
async fn a_client_at_the_door_hears_what_is_written_later() {
    let door = Door::new();
    let client = Client::local(door.door.clone(), door.peer("bob", WRITER));
    let book = json!({ "book": "home/garden" });
    let mut notes = client
        .subscribe::<_, Note>("notes/follow", &book)
        .await
        .unwrap();
    let new = json!({ "book": "home/garden", "text": "dig" });
    let added: Note = client.call("notes/add", &new).await.unwrap();
    assert_eq!(notes.next().await.unwrap().unwrap(), added);
}

#[tokio::test]
async fn a_channel_takes_lines_and_ends_with_their_number() {
    let door = Door::new();
    let (events, mut told) = mpsc::channel(8);
    let mut load = Call::new("notes/load", Caller::host()).unwrap();
    load = load.input(&json!({ "book": "home/garden" }));
    load.interaction = Interaction::to(events, false);
    let mut open = door.door.open(load).await.unwrap();
    open.channel.tx.write_all(b"dig\nsow\n").await.unwrap();
    open.channel.tx.end();
    let count: Count = open.done.await.unwrap().parse().unwrap();
    assert_eq!(count, Count { notes: 2 });
    for n in 1..=2 {
        match told.recv().await.unwrap() {
            InteractionEvent::Progress(progress) => assert_eq!(progress, json!({ "notes": n })),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn clearing_asks_first() {
    let door = Door::new();
    let note = json!({ "book": "home/garden", "text": "dig" });
    door.call(&Caller::host(), "notes/add", note).await.unwrap();
    let clear = || {
        let call = Call::new("notes/clear", Caller::host()).unwrap();
        call.input(&json!({ "book": "home/garden" }))
    };
    // Nobody is there who could answer.
    let refused = door.door.call(clear()).await.unwrap_err();
    assert!(refused.is(ErrorCode::Conflict), "{refused}");
    for (says, removed) in [("no", 0), ("yes", 1)] {
        let (events, mut told) = mpsc::channel(1);
        let mut call = clear();
        call.interaction = Interaction::to(events, true);
        let answering = async {
            match told.recv().await.unwrap() {
                InteractionEvent::Ask { answer, .. } => answer.send(json!(says)).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let (reply, ()) = tokio::join!(door.door.call(call), answering);
        assert_eq!(reply.unwrap().parse::<Count>().unwrap().notes, removed);
    }
}

#[tokio::test]
async fn an_operation_uses_its_own_rights_and_no_more() {
    let door = Door::new();
    let note = json!({ "book": "work/plans", "text": "retire" });
    door.call(&Caller::host(), "notes/add", note).await.unwrap();
    let stranger = door.peer("eve", &[]);
    let book = json!({ "book": "work/plans" });
    let count = door
        .call(&stranger, "notes/count", book.clone())
        .await
        .unwrap();
    assert_eq!(count, json!({ "notes": 1 }));
    let refused = door.call(&stranger, "notes/list", book).await.unwrap_err();
    assert!(refused.is(ErrorCode::Forbidden));
}

#[tokio::test]
async fn the_catalogue_keeps_the_laws() {
    let door = Door::new();
    let broken = alknet_testkit::laws::check_catalogue(&door.door.registry().view());
    assert_eq!(broken, Vec::<String>::new());
}

#[tokio::test]
async fn a_channel_refuses_a_line_that_is_too_long() {
    let door = Door::new();
    let longest = usize::try_from(NOTE_BYTES_MAX).unwrap() - 2;
    for (bytes, is_fine) in [(longest, true), (longest + 1, false)] {
        let load = Call::new("notes/load", Caller::host()).unwrap();
        let load = load.input(&json!({ "book": "home/garden" }));
        let mut open = door.door.open(load).await.unwrap();
        let line = format!("{}\n", "x".repeat(bytes));
        open.channel.tx.write_all(line.as_bytes()).await.unwrap();
        open.channel.tx.end();
        match open.done.await {
            Ok(_) => assert!(is_fine, "{bytes}"),
            Err(error) => assert!(!is_fine && error.is(ErrorCode::TooLarge), "{error}"),
        }
    }
}
