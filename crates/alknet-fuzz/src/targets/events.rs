//! The order of events: whatever the other side does on a connection, nothing
//! panics, hangs or is left behind, and each call has one outcome.
//!
//! Sessions run over streams in memory, on a clock that stands still: when
//! every task waits for something that cannot come, time jumps to the bound of
//! the wait, and the hang is seen at once.

mod callee;
mod caller;
mod hello;
mod peer;

pub(super) use self::{callee::CALLEE, caller::CALLER, hello::HELLO};

use super::frames::{hello as greeting, samples};
use alknet_core::{
    CallError, Caller, ChannelOpening, Credential, Dispatcher, ErrorSpec, GrantTarget, Grants,
    Identity, Operation, PeerId, Registration, Registry, RoleSet, StaticIdentities,
};
use futures::stream;
use serde_json::{Value, json};
use std::{future::pending, sync::Arc, time::Duration};
use tokio::runtime::Runtime;

/// Longer than anything that is waited for.
const HOUR: Duration = Duration::from_secs(3600);

/// What the executions of a thread share.
struct World {
    runtime: Runtime,
    door: Dispatcher,
    alice: Caller,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let registry = Registry::new();
        registry
            .register(operations())
            .expect("operations that are valid");
        let identities = Arc::new(StaticIdentities::default());
        let key = Credential::NodeKey([7; 32]);
        let mut identity = Identity::empty(PeerId::parse("alice").expect("a slug"));
        let admin = GrantTarget::parse("admin").expect("a role");
        RoleSet::default().add_to(&Grants::from_iter([admin]), &mut identity);
        identities.put(key.clone(), identity);
        let alice = Caller::resolve(&*identities, key).expect("put above");
        let door = Dispatcher::builder(registry)
            .identities(identities)
            .node("bobs", [2; 32])
            .build();
        Self {
            runtime,
            door,
            alice,
        }
    }

    /// Waits until nothing of an execution is left.
    async fn quiet(&self) {
        let metrics = self.runtime.metrics();
        let quiet = async {
            while self.door.in_flight() > 0 || metrics.num_alive_tasks() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let ended = tokio::time::timeout(HOUR, quiet).await.is_ok();
        let (calls, tasks) = (self.door.in_flight(), metrics.num_alive_tasks());
        assert!(ended, "{calls} calls and {tasks} tasks are left behind");
    }
}

/// Operations of every kind, with every way to end.
fn operations() -> Vec<Registration> {
    vec![
        Operation::query("demo/echo", "Answers with its input.")
            .handler(|_cx, input: Value| async move { Ok(input) }),
        Operation::query("demo/sleep", "Sleeps until it is cancelled.")
            .handler(|_cx, _: Value| pending::<Result<(), CallError>>()),
        Operation::query("demo/fail", "Fails with a declared error.")
            .error(ErrorSpec::new("OUT_OF_INK", "No ink."))
            .handler(|_cx, input: Value| async move {
                Err::<(), _>(CallError::domain("OUT_OF_INK", "no ink").with_details(input))
            }),
        Operation::mutation("demo/ask", "Asks, and reports what was said.").handler(
            |cx, input: Value| async move {
                cx.progress(&json!({ "asking": input })).await;
                let (one, two) = tokio::join!(cx.ask(&"one"), cx.ask(&"two"));
                Ok(json!([one?, two?]))
            },
        ),
        Operation::subscription("demo/upto", "Counts up to a number.")
            .stream(|_cx, n: u16| async move { Ok(stream::iter((0..n).map(Ok))) }),
        Operation::subscription("demo/text", "Large items without end.").stream(
            |_cx, bytes: u16| async move {
                Ok(stream::repeat_with(move || {
                    Ok("x".repeat(usize::from(bytes)))
                }))
            },
        ),
        Operation::subscription("demo/curious", "Asks before each item.").stream(
            |cx, n: u8| async move {
                let items = stream::iter(0..n);
                Ok(futures::StreamExt::then(items, move |i| {
                    let cx = cx.clone();
                    async move { cx.ask(&i).await }
                }))
            },
        ),
        Operation::channel("demo/pipe", "Sends back what it gets, to the end.")
            .channel::<Value, Value, _, _, _>(
                |_cx, input: Value, opening: ChannelOpening| async move {
                    let mut channel = opening.accept(&input)?;
                    let mut count = 0;
                    while let Ok(Some(chunk)) = channel.rx.recv().await {
                        count += chunk.bytes.len();
                        if channel.tx.send_chunk(chunk).await.is_err() {
                            break;
                        }
                    }
                    channel.tx.end();
                    Ok(json!({ "bytes": count }))
                },
            ),
        Operation::channel("demo/controls", "Sends control messages back, twice.")
            .channel::<Value, Value, _, _, _>(
                |_cx, _: Value, opening: ChannelOpening| async move {
                    let mut channel = opening.accept(&Value::Null)?;
                    while let Some(control) = channel.control_rx.recv().await {
                        if control == json!("stop") {
                            break;
                        }
                        for _ in 0..2 {
                            let _ = channel.control_tx.send(control.clone()).await;
                        }
                    }
                    Ok(json!(null))
                },
            ),
        Operation::query("demo/private", "Exists only inside.")
            .internal()
            .handler(|_cx, (): ()| async move { Ok(()) }),
    ]
}
