//! A caller whose other side answers what it likes, in whatever order.

use super::{
    HOUR, World, greeting,
    peer::{Side, step},
};
use crate::{
    note,
    source::Source,
    targets::{MIB, Target},
};
use alknet_call::{Frame, Request, Session, SessionConfig};
use alknet_core::{
    CallError, Caller, Interaction, InteractionEvent, OperationName, transport::Connection,
};
use alknet_testkit::transport::{PairOptions, connection_pair};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt, sync::mpsc, task::JoinHandle, time::timeout};

pub(in crate::targets) const CALLER: Target = Target {
    name: "caller",
    about: "A call ends with one outcome, whatever the other side answers.",
    run: caller,
    seeds,
    tokens: &[
        &[0, 0, 7, 1],
        &[0, 0, 11, 0],
        &[0, 0, 8, 0],
        &[13],
        &[9],
        &[0, 1],
        &[0, 2],
        &[1, 0, 7, 0],
    ],
    bytes_max: 256,
    held_max: 64 * MIB,
};

/// Items that are taken of a subscription, bytes of a channel.
const TAKEN_MAX: usize = 1000;

thread_local! {
    static WORLD: World = World::new();
}

fn caller(data: &[u8]) {
    WORLD.with(|world| {
        world.runtime.block_on(async {
            answer(&mut Source::new(data)).await;
            world.quiet().await;
        });
    });
}

/// Which ways a call can end, told apart.
#[derive(Debug, Hash)]
enum Outcome {
    Done,
    Failed(String),
    Items(usize, Option<String>),
    Channel(usize, bool, Option<String>),
}

async fn answer(source: &mut Source<'_>) {
    let flags = source.byte();
    let options = PairOptions {
        stream_window: if flags & 8 == 0 { 1_250_000 } else { 700 },
        ..PairOptions::default()
    };
    let (ours, theirs) = connection_pair(options);
    let config = SessionConfig::default();
    let greet = async {
        // Whoever opened the connection speaks first.
        drop(theirs.accept_uni().await.expect("an open connection"));
        let mut send = theirs.open_uni().await.expect("an open connection");
        let bytes = Frame::Hello(greeting(), None).to_bytes();
        send.write_all(&bytes).await.expect("an open connection");
        send.finish();
    };
    let (session, ()) = tokio::join!(
        Session::start(ours, None, Caller::anonymous(), config),
        greet
    );
    let session = session.expect("a sound hello");
    let mut calls = Vec::new();
    let mut sides = Vec::new();
    for _ in 0..1 + (flags & 1) {
        calls.push(begin(&session, source));
        let stream = theirs.accept_bi().await.expect("a call opens a stream");
        sides.push(Side::new(stream));
    }
    while !source.is_empty() {
        let index = source.below(sides.len());
        if source.one_in(64) {
            theirs.cut();
            break;
        }
        step(source, &mut sides[index]).await;
    }
    // Whatever was said: nothing more is, and nothing is read.
    drop(sides);
    for call in calls {
        let outcome = timeout(HOUR, call).await.expect("a call does not end");
        note(outcome.expect("a call that panicked was noticed"));
    }
    theirs.close(0, "done");
    drop(session);
}

fn begin(session: &Arc<Session>, source: &mut Source<'_>) -> JoinHandle<Outcome> {
    let (flags, session) = (source.byte(), session.clone());
    let name = OperationName::parse("demo/any").expect("a name");
    let mut request = Request::new(name, Bytes::from_static(b"{}"));
    if flags & 4 != 0 {
        request.budget = Some(Duration::from_secs(5));
    }
    if flags & 8 != 0 {
        request.interaction = answering(flags & 16 != 0);
    }
    tokio::spawn(async move {
        match flags & 3 {
            0 | 3 => match session.call(request).await {
                Ok(_) => Outcome::Done,
                Err(error) => Outcome::Failed(error.code.into_owned()),
            },
            1 => subscribe(&session, request).await,
            _ => open(&session, request).await,
        }
    })
}

/// Hears what is reported, and answers questions.
fn answering(can_answer: bool) -> Interaction {
    let (to, mut events) = mpsc::channel(2);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let InteractionEvent::Ask { question, answer } = event {
                // Whoever asked may have left.
                let _ = answer.send(Value::Array(vec![question]));
            }
        }
    });
    Interaction::to(to, can_answer)
}

async fn subscribe(session: &Arc<Session>, request: Request) -> Outcome {
    let mut items = match session.subscribe(request).await {
        Ok(items) => items,
        Err(error) => return Outcome::Failed(error.code.into_owned()),
    };
    let mut taken = 0;
    while let Some(item) = items.next().await {
        match item {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(items.next().await.is_none(), "an item after the error");
                return Outcome::Items(taken.min(3), Some(error.code.into_owned()));
            }
        }
        if taken == TAKEN_MAX {
            break;
        }
    }
    Outcome::Items(taken.min(3), None)
}

async fn open(session: &Arc<Session>, request: Request) -> Outcome {
    let mut call = match session.open(request).await {
        Ok(call) => call,
        Err(error) => return Outcome::Failed(error.code.into_owned()),
    };
    let _ = call.channel.tx.send(Bytes::from_static(b"hello")).await;
    let _ = call.channel.control_tx.try_send(Value::Bool(true));
    call.channel.tx.end();
    let (mut bytes, mut is_whole) = (0, false);
    while bytes < TAKEN_MAX {
        match call.channel.rx.recv().await {
            Ok(Some(chunk)) => bytes += chunk.bytes.len(),
            ended => {
                is_whole = ended.is_ok();
                break;
            }
        }
    }
    let done: Result<_, CallError> = call.done.await;
    let code = done.err().map(|error| error.code.into_owned());
    Outcome::Channel(bytes.min(3), is_whole, code)
}

fn seeds() -> Vec<Vec<u8>> {
    // Flags, the call's flags, then: stream, not cut, step, ...
    let step = |bytes: &[u8]| [&[0, 0], bytes].concat();
    let calls = |kind: u8, steps: &[&[u8]]| {
        let mut seed = vec![0, kind];
        steps.iter().for_each(|bytes| seed.extend(step(bytes)));
        seed
    };
    let (done, accepted, item): (&[u8], &[u8], &[u8]) = (&[0, 11, 0], &[0, 7, 6], &[0, 8, 1]);
    let (chunk, end, credit): (&[u8], &[u8], &[u8]) =
        (&[0, 0, 0, 0, 9], &[0, 1, 0], &[0, 4, 0, 64]);
    let (progress, ask, wait): (&[u8], &[u8], &[u8]) = (&[0, 9, 0], &[0, 10, 0, 3], &[13, 2]);
    vec![
        calls(0, &[done]),
        calls(4, &[wait, wait]),
        calls(24, &[progress, ask, wait, done]),
        calls(1, &[accepted, item, item, &[0, 11, 6]]),
        calls(1, &[item]),
        calls(2, &[accepted, chunk, credit, &[0, 2, 2], end, wait, done]),
        calls(2, &[accepted, &[0, 1, 1], done]),
        calls(2, &[done]),
        calls(1, &[accepted, &[6, 8, 4, 255], wait, &[0, 13, 20]]),
        calls(0, &[&[0, 13, 19]]),
        calls(0, &[&[9]]),
        calls(1, &[accepted, &[10, 1]]),
    ]
}
