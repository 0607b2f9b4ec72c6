//! Operations that a test watches from inside.

use alknet_core::{CallError, Context, ErrorSpec, Operation, Registration};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::watch;

/// Counts how many of something are alive.
#[derive(Clone)]
pub(crate) struct Alive(Arc<watch::Sender<usize>>);

impl Default for Alive {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

pub(crate) struct Guard(Alive);

impl Alive {
    pub(crate) fn guard(&self) -> Guard {
        self.0.send_modify(|count| *count += 1);
        Guard(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        *self.0.borrow()
    }

    pub(crate) async fn until(&self, wanted: usize) {
        let mut changes = self.0.subscribe();
        changes.wait_for(|count| *count == wanted).await.unwrap();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}

/// What a node of a test offers beside its own: nothing here ends by itself
/// that is called `hold`.
#[derive(Clone, Default)]
pub(crate) struct Offers {
    /// Handlers that run.
    pub(crate) held: Alive,
    /// Calls of `test/once`.
    pub(crate) done: Arc<AtomicUsize>,
    /// Items that `test/numbers` was asked for.
    pub(crate) made: Arc<AtomicUsize>,
}

impl Offers {
    pub(crate) fn operations(&self) -> Vec<Registration> {
        let mut operations = self.unary();
        operations.extend(self.lasting());
        operations
    }

    fn unary(&self) -> Vec<Registration> {
        let (held, done) = (self.held.clone(), self.done.clone());
        vec![
            Operation::query("test/echo", "Answers with its input.")
                .handler(|_cx, input: Value| async move { Ok(input) }),
            Operation::query("test/hold", "Runs until it is cancelled.").handler(
                move |_cx, (): ()| {
                    let guard = held.guard();
                    async move {
                        let _guard = guard;
                        pending::<Result<(), CallError>>().await
                    }
                },
            ),
            Operation::query("test/panic", "Panics.").handler(|_cx, n: u32| async move {
                assert!(n == 0, "as asked");
                Ok(n)
            }),
            Operation::mutation("test/once", "Counts its calls.").handler(move |_cx, (): ()| {
                let now = done.fetch_add(1, Ordering::SeqCst) + 1;
                async move { Ok(now) }
            }),
            Operation::query("test/fail", "Fails with a declared error.")
                .error(ErrorSpec::new("OUT_OF_INK", "No ink."))
                .handler(|_cx, details: Value| async move {
                    let error = CallError::domain("OUT_OF_INK", "the ink is gone");
                    Err::<(), _>(error.with_details(details))
                }),
            Operation::query("test/who", "Says who calls.").handler(
                |cx: Context, (): ()| async move {
                    Ok(json!({
                        "caller": cx.principal().id(),
                        "originator": cx.originator().map(ToString::to_string),
                        "key": cx.idempotency_key(),
                        "remaining_ms": cx.remaining().map(|left| left.as_millis() as u64),
                    }))
                },
            ),
            Operation::query("test/ask", "Reports, asks, and answers with the answer.").handler(
                |cx: Context, (): ()| async move {
                    cx.progress(&json!({ "step": 1 })).await;
                    let answer = cx.ask(&json!({ "question": "why?" })).await?;
                    cx.progress(&json!({ "step": 2 })).await;
                    Ok(answer)
                },
            ),
        ]
    }

    fn lasting(&self) -> Vec<Registration> {
        let (stream, channel, made) = (self.held.clone(), self.held.clone(), self.made.clone());
        vec![
            Operation::subscription("test/hold-items", "Gives one item and no more.").stream(
                move |_cx, (): ()| {
                    let guard = stream.guard();
                    async move {
                        let first = futures::stream::iter([Ok(1)]);
                        let rest = futures::stream::pending::<Result<u32, CallError>>();
                        Ok(first.chain(rest).inspect(move |_| {
                            let _held = &guard;
                        }))
                    }
                },
            ),
            Operation::subscription("test/numbers", "Counts, as far as it is asked.").stream(
                move |_cx, to: usize| {
                    let made = made.clone();
                    async move {
                        Ok(futures::stream::iter(1..=to).map(move |n| {
                            made.store(n, Ordering::SeqCst);
                            Ok::<_, CallError>(n)
                        }))
                    }
                },
            ),
            Operation::channel("test/hold-channel", "Opens and stays.")
                .channel::<(), Value, Value, _, _>(move |_cx, (): (), opening| {
                    let guard = channel.guard();
                    async move {
                        let _guard = guard;
                        let _channel = opening.accept(&json!({ "open": true }))?;
                        pending::<Result<Value, CallError>>().await
                    }
                }),
            Operation::channel(
                "test/cut",
                "Says a word, breaks off, and listens to the end.",
            )
            .channel::<(), Value, Value, _, _>(|_cx, (): (), opening| async move {
                let mut channel = opening.accept(&Value::Null)?;
                let word = channel.tx.send("word".into()).await;
                drop(channel.tx);
                let mut heard = 0;
                while let Ok(Some(chunk)) = channel.rx.recv().await {
                    heard += chunk.bytes.len();
                }
                Ok(json!({ "said": word.is_ok(), "heard": heard }))
            }),
            Operation::channel("test/pour", "Sends bytes until nobody takes them.")
                .channel::<(), Value, Value, _, _>(|_cx, (): (), opening| async move {
                    let mut channel = opening.accept(&Value::Null)?;
                    let block = bytes::Bytes::from(vec![7; 64 * 1024]);
                    while channel.tx.send(block.clone()).await.is_ok() {}
                    Ok(json!("nobody reads"))
                }),
            Operation::channel("test/mirror", "Sends bytes and control messages back.")
                .channel::<(), Value, Value, _, _>(|_cx, (): (), opening| async move {
                    let channel = opening.accept(&json!({ "open": true }))?;
                    mirror(channel).await
                }),
        ]
    }
}

/// Ends when the bytes end; whatever control messages came by then went back.
async fn mirror(channel: alknet_core::Channel) -> Result<Value, CallError> {
    let alknet_core::Channel {
        mut tx,
        mut rx,
        control_tx,
        mut control_rx,
    } = channel;
    let (mut main, mut aux, mut controls) = (0_u64, 0_u64, 0_u64);
    loop {
        tokio::select! {
            control = control_rx.recv(), if !control_rx.is_closed() => if let Some(control) = control {
                controls += 1;
                if control_tx.send(json!({ "back": control })).await.is_err() {
                    break;
                }
            },
            chunk = rx.recv() => match chunk {
                Ok(Some(chunk)) => {
                    match chunk.aux {
                        true => aux += chunk.bytes.len() as u64,
                        false => main += chunk.bytes.len() as u64,
                    }
                    if tx.send_chunk(chunk).await.is_err() {
                        break;
                    }
                }
                Ok(None) | Err(_) => break,
            },
        }
    }
    tx.end();
    Ok(json!({ "main": main, "aux": aux, "controls": controls }))
}
