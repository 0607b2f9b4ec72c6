//! Progress and questions, on every kind of call.

use crate::support::{Node, connect, request, settle};
use alknet_core::{
    CallError, ChannelOpening, ErrorCode, Interaction, InteractionEvent, Operation, Registration,
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::mpsc;

fn operations(reported: &Arc<AtomicUsize>) -> Vec<Registration> {
    let reported = reported.clone();
    vec![
        Operation::query("demo/chatty", "Reports a thousand times.").handler(
            move |cx, bytes: usize| {
                let reported = reported.clone();
                async move {
                    for n in 0..1000 {
                        cx.progress(&json!({ "n": n, "text": "x".repeat(bytes) }))
                            .await;
                        reported.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(())
                }
            },
        ),
        Operation::subscription("demo/curious", "Asks before each item.").stream(
            |cx, n: u32| async move {
                Ok(stream::iter(0..n).then(move |i| {
                    let cx = cx.clone();
                    async move { cx.ask(&i).await }
                }))
            },
        ),
        Operation::channel("demo/login", "Asks for a word before it opens.")
            .channel::<Value, String, _, _, _>(
                |cx, _input: Value, opening: ChannelOpening| async move {
                    let word = cx.ask(&"before").await?;
                    let channel = opening.accept(&word.as_str().unwrap_or_default())?;
                    let later = cx.ask(&"after").await?;
                    drop(channel);
                    Ok(later)
                },
            ),
        Operation::query("demo/parallel", "Asks two things at once.").handler(
            |cx, (): ()| async move {
                let (a, b) = tokio::join!(cx.ask(&"a"), cx.ask(&"b"));
                Ok(json!([a?, b?]))
            },
        ),
    ]
}

/// Answers every question with itself, doubled.
fn answering() -> (Interaction, tokio::task::JoinHandle<Vec<Value>>) {
    let (to, mut events) = mpsc::channel(4);
    let task = tokio::spawn(async move {
        let mut heard = Vec::new();
        while let Some(event) = events.recv().await {
            if let InteractionEvent::Ask { question, answer } = event {
                let twice = json!([question, question]);
                heard.push(question);
                // Whoever asked may have left.
                let _ = answer.send(twice);
            }
        }
        heard
    });
    (Interaction::to(to, true), task)
}

#[tokio::test]
async fn subscriptions_and_channels_ask_too() {
    let node = Node::new(operations(&Arc::default()));
    let pair = connect(&node).await;
    let (interaction, heard) = answering();
    let mut asked = request("demo/curious", &json!(3));
    asked.interaction = interaction.clone();
    let items = pair.session.subscribe(asked).await.unwrap();
    let items: Vec<Value> = items
        .map(|item| item.unwrap().parse().unwrap())
        .collect()
        .await;
    assert_eq!(items, [json!([0, 0]), json!([1, 1]), json!([2, 2])]);

    let mut asked = request("demo/parallel", &json!(null));
    asked.interaction = interaction.clone();
    let both = pair.session.call(asked).await.unwrap().into_value();
    assert_eq!(both, Ok(json!([["a", "a"], ["b", "b"]])));

    let mut asked = request("demo/login", &json!(null));
    asked.interaction = interaction;
    let call = pair.session.open(asked).await.unwrap();
    let done = call.done.await.unwrap().into_value();
    assert_eq!(done, Ok(json!(["after", "after"])));
    drop(call.channel);
    assert_eq!(heard.await.unwrap().len(), 7);
}

#[tokio::test]
async fn a_question_is_refused_if_the_caller_cannot_answer_and_fails_if_it_will_not() {
    let node = Node::new(operations(&Arc::default()));
    let pair = connect(&node).await;
    let (to, _events) = mpsc::channel(4);
    for interaction in [Interaction::none(), Interaction::to(to, false)] {
        let mut asked = request("demo/parallel", &json!(null));
        asked.interaction = interaction;
        let error = pair.session.call(asked).await.unwrap_err();
        assert!(error.is(ErrorCode::Conflict), "{error}");
    }
    let (to, mut events) = mpsc::channel(4);
    let mut asked = request("demo/parallel", &json!(null));
    asked.interaction = Interaction::to(to, true);
    let call = pair.session.call(asked);
    let unwilling = async {
        while let Some(event) = events.recv().await {
            drop(event);
        }
    };
    let error = tokio::select! {
        outcome = call => outcome.unwrap_err(),
        () = unwilling => panic!("the call ends first"),
    };
    assert!(error.is(ErrorCode::Cancelled), "{error}");
}

#[tokio::test]
async fn a_listener_that_rests_slows_down_whoever_reports() {
    let reported = Arc::default();
    let node = Node::new(operations(&reported));
    let pair = connect(&node).await;
    let (to, mut events) = mpsc::channel(1);
    let mut asked = request("demo/chatty", &json!(1000));
    asked.interaction = Interaction::to(to, false);
    let session = pair.session.clone();
    let task = tokio::spawn(async move { session.call(asked).await });
    for _ in 0..10 {
        settle().await;
    }
    let ahead = reported.load(Ordering::SeqCst);
    assert!((200..300).contains(&ahead), "{ahead}");
    let answer = pair.session.call(request("demo/echo", &json!(1))).await;
    assert_eq!(answer.unwrap().into_value(), Ok(json!(1)));
    for n in 0..1000 {
        let Some(InteractionEvent::Progress(progress)) = events.recv().await else {
            panic!("{n} reports, and no more");
        };
        assert_eq!(progress["n"], n);
    }
    assert_eq!(task.await.unwrap().unwrap().into_value(), Ok(json!(null)));
}

#[tokio::test]
async fn nobody_listens_and_nothing_is_sent() {
    let node = Node::new(operations(&Arc::default()));
    let pair = connect(&node).await;
    let done: Result<_, CallError> = pair.session.call(request("demo/chatty", &json!(10))).await;
    assert_eq!(done.unwrap().into_value(), Ok(json!(null)));
}
