//! Channels: bytes both ways, then a result.

use super::{
    ChannelCall, ChannelDone, Dispatcher,
    admit::{Admitted, Expect},
    outcome::{mapped, timeout, wrong_kind},
    record::Record,
};
use crate::{
    call::{Call, Output},
    error::CallError,
    handler::{ChannelEnd, ChannelOpening, Handler, channel_pair},
};
use futures::FutureExt;
use std::{panic::AssertUnwindSafe, time::Duration};
use tokio::{
    sync::oneshot,
    time::{interval, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

impl Dispatcher {
    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// As [`Dispatcher::call`], until the handler has accepted; what comes
    /// later is the channel's result.
    pub async fn open(&self, mut call: Call) -> Result<ChannelCall, CallError> {
        let call_id = call.id;
        let mut record = Record::begin(self, &call).await?;
        let admitted = self
            .settle_any(&mut call, &mut record)
            .and_then(|()| self.admit(&mut call, Expect::Channel, &mut record));
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                record.end(Some(&error));
                return Err(error);
            }
        };
        let (ours, theirs) = channel_pair();
        let (opened, opening) = oneshot::channel();
        let door = self.clone();
        let mut task = AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = door
                .run_channel(call, admitted, &mut record, theirs, opened)
                .await;
            record.end(outcome.as_ref().err());
            outcome
        }));
        if let Ok(reply) = opening.await {
            return Ok(ChannelCall {
                call_id,
                reply,
                channel: ours,
                done: ChannelDone(task),
            });
        }
        match (&mut task).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) => Err(CallError::internal(call_id, &NOT_ACCEPTED)),
            Err(error) => Err(CallError::internal(call_id, &error)),
        }
    }

    async fn run_channel(
        &self,
        mut call: Call,
        admitted: Admitted,
        record: &mut Record,
        channel: ChannelEnd,
        opened: oneshot::Sender<Output>,
    ) -> Result<Output, CallError> {
        let entry = admitted.entry.clone();
        let Handler::Channel(run) = &entry.handler else {
            return Err(wrong_kind(entry.spec()));
        };
        record.count(channel.rx.counter(), channel.tx.counter());
        let cx = self.context(&mut call, &admitted);
        let input = admitted.input.clone();
        let (accept, mut accepted) = oneshot::channel();
        let opening = ChannelOpening { accept, channel };
        let handler = AssertUnwindSafe(async { run(cx, input, opening).await }).catch_unwind();
        let deadline = async {
            match admitted.deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let revoked = self.revoked(&admitted.caller, &entry, &admitted.input);
        let is_metered = record.is_metered();
        let mut metering = interval(METERED_EVERY);
        tokio::pin!(handler, deadline, revoked);
        let mut opened = Some(opened);
        let mut waits = true;
        let ended = loop {
            tokio::select! {
                reply = &mut accepted, if waits => {
                    waits = false;
                    // A handler that drops its opening goes on to its end, and
                    // whoever waits for the channel goes on waiting for that.
                    if let Ok(reply) = reply {
                        let reply = self.check_output(call.id, &entry, reply)?;
                        pass_on(&mut opened, reply, record);
                    }
                }
                ended = &mut handler => break ended,
                refused = &mut revoked => return Err(refused),
                () = &mut deadline => return Err(timeout(entry.spec())),
                _ = metering.tick(), if is_metered => record.meter_channel(),
            }
        };
        // Accepted and ended in one step.
        if waits && let Ok(reply) = accepted.try_recv() {
            let reply = self.check_output(call.id, &entry, reply)?;
            pass_on(&mut opened, reply, record);
        }
        match ended {
            Ok(Ok(_)) if opened.is_some() => Err(CallError::internal(call.id, &NOT_ACCEPTED)),
            Ok(Ok(result)) => {
                record.sent(&result);
                Ok(result)
            }
            Ok(Err(error)) => Err(mapped(call.id, &entry, error)),
            Err(panic) => Err(self.panicked(call.id, &entry, &*panic)),
        }
    }
}

/// How often bytes of a channel are counted, where they are limited.
const METERED_EVERY: Duration = Duration::from_millis(100);

const NOT_ACCEPTED: &str = "the handler ended without accepting the channel";

/// Hands the opening reply to the caller. One that is gone has dropped this
/// task too.
fn pass_on(opened: &mut Option<oneshot::Sender<Output>>, reply: Output, record: &mut Record) {
    record.sent(&reply);
    if let Some(opened) = opened.take() {
        let _ = opened.send(reply);
    }
}
