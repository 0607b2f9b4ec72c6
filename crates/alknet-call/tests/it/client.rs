//! One client, here and over the wire: the same calls give the same results.

use crate::support::{Node, connect};
use alknet_call::Client;
use alknet_core::{
    CallError, ChannelOpening, ErrorCode, Input, Interaction, InteractionEvent, Operation,
    Registration, parse_route,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{io::AsyncReadExt, sync::mpsc};

fn operations() -> Vec<Registration> {
    vec![
        Operation::subscription("demo/upto", "Counts up to a number.").stream(
            |_cx, n: u32| async move {
                if n > 100 {
                    return Err(CallError::new(ErrorCode::Gone, "too many"));
                }
                Ok(stream::iter((0..n).map(|i| {
                    if i == 50 {
                        Err(CallError::new(ErrorCode::Gone, "half way"))
                    } else {
                        Ok(i)
                    }
                })))
            },
        ),
        Operation::channel("demo/upper", "Answers in capitals.").channel::<Value, String, _, _, _>(
            |_cx, _input: Value, opening: ChannelOpening| async move {
                let mut channel = opening.accept(&"ready")?;
                let mut text = String::new();
                let read = channel.rx.read_to_string(&mut text).await;
                read.map_err(|_| CallError::new(ErrorCode::Gone, "cut"))?;
                channel.tx.send(text.to_uppercase().into()).await.ok();
                channel.tx.end();
                Ok(text.len())
            },
        ),
        Operation::mutation("demo/ask", "Asks for a name.").handler(|cx, (): ()| async move {
            cx.progress(&json!({ "done": 0.5 })).await;
            let name = cx.ask(&"who are you?").await?;
            cx.progress(&json!({ "done": 1 })).await;
            Ok(json!({ "hello": name }))
        }),
    ]
}

/// Everything a client can do, as text.
async fn everything(client: &Client) -> Vec<String> {
    let mut seen = Vec::new();
    let mut see =
        |what: &str, result: &dyn std::fmt::Debug| seen.push(format!("{what}: {result:?}"));

    let calls = [
        ("demo/echo", json!({ "x": [1, "two", null] })),
        ("demo/fail", json!({ "left": 0 })),
        ("demo/text", json!("not a number")),
        ("demo/missing", json!({})),
        ("demo/private", json!(null)),
        ("Not/A Name", json!({})),
        ("demo/upto", json!(1)),
        ("demo/count", json!({})),
    ];
    for (name, input) in &calls {
        see(name, &client.call_json(name, input).await);
    }
    see(
        "typed",
        &client.call::<_, String>("demo/echo", "text").await,
    );
    let unfit = client.call::<_, u8>("demo/echo", "text").await;
    see("unfit", &unfit.map_err(|error| error.code));
    let nothing = client.call_output("demo/echo", Input::default()).await;
    see("empty input", &nothing.unwrap().into_value());

    for n in [3_u32, 60, 200] {
        match client.subscribe::<_, u32>("demo/upto", &n).await {
            Ok(items) => see("items", &items.collect::<Vec<_>>().await),
            Err(error) => see("no items", &error),
        }
    }
    let items = client.subscribe_output("demo/echo", Input::default()).await;
    see("wrong kind", &items.err());

    let mut call = client.open("demo/upper", &json!(1)).await.unwrap();
    see("opening", &call.reply.into_value());
    call.channel.tx.send("quiet".into()).await.unwrap();
    call.channel.tx.end();
    let mut loud = String::new();
    call.channel.rx.read_to_string(&mut loud).await.unwrap();
    see("loud", &loud);
    see("result", &call.done.await.unwrap().into_value());

    let keyed = client.idempotency_key("once");
    let first = keyed.call_json("demo/count", &json!(1)).await;
    see(
        "keyed twice",
        &(first == keyed.call_json("demo/count", &json!(1)).await),
    );
    see(
        "key reused",
        &keyed.call_json("demo/count", &json!(2)).await,
    );
    let long = client.idempotency_key("k".repeat(129));
    let long = long.call_json("demo/count", &json!(1)).await;
    see("long key", &long.map_err(|error| error.code));

    let hurried = client.timeout(Duration::from_millis(20));
    see(
        "hurried",
        &hurried.call_json("demo/sleep", &json!(null)).await,
    );
    let away = client.on(parse_route("nobody").unwrap());
    see("away", &away.call_json("demo/echo", &json!(1)).await);

    see("silent", &client.call_json("demo/ask", &json!(null)).await);
    for can_answer in [true, false] {
        let (to, mut events) = mpsc::channel(1);
        let asked = client.interaction(Interaction::to(to, can_answer));
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            while let Some(event) = events.recv().await {
                match event {
                    InteractionEvent::Progress(progress) => heard.push(progress),
                    InteractionEvent::Ask { question, answer } => {
                        heard.push(question);
                        answer.send(json!("carol")).unwrap();
                    }
                }
            }
            heard
        });
        see("asked", &asked.call_json("demo/ask", &json!(null)).await);
        drop(asked);
        see("heard", &heard.await.unwrap());
    }

    let calls = (0..40).map(|n| ("demo/echo".to_owned(), Input::Value(json!(n))));
    let answers = client
        .batch(calls.collect())
        .map(|(at, answer)| (at, answer.unwrap().into_value()));
    let mut answers: Vec<_> = answers.collect().await;
    answers.sort_by_key(|(at, _)| *at);
    see("batch", &answers);
    let calls = vec![("demo/echo".to_owned(), Input::default()); 1025];
    let refused = client
        .batch(calls)
        .all(|(_, answer)| async move { answer.is_err_and(|error| error.is(ErrorCode::TooLarge)) });
    see("batch too large", &refused.await);
    seen
}

#[tokio::test(start_paused = true)]
async fn local_and_remote_calls_give_equal_results() {
    let here = Node::new(operations());
    let local = everything(&Client::local(here.door.clone(), here.alice())).await;
    let there = Node::new(operations());
    let pair = connect(&there).await;
    let remote = everything(&pair.client()).await;
    assert_eq!(local.len(), remote.len());
    for (local, remote) in local.iter().zip(&remote) {
        // What the door does not yet say in one wording is told by its code.
        assert_eq!(local, remote);
    }
    assert_eq!(here.door.in_flight() + there.door.in_flight(), 0);
    insist(&local);
}

/// The comparison above proves nothing if nothing works.
fn insist(seen: &[String]) {
    let text = seen.join("\n");
    for part in [
        r#"demo/echo: Ok(Object {"x": Array [Number(1), String("two"), Null]})"#,
        r#"items: [Ok(0), Ok(1), Ok(2)]"#,
        r#"loud: "QUIET""#,
        r#"asked: Ok(Object {"hello": String("carol")})"#,
        "keyed twice: true",
        "batch too large: true",
        "TIMEOUT",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
}
