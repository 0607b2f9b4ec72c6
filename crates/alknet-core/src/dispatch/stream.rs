//! Subscriptions: items, until the handler or something else ends them.

use super::{
    Dispatcher, Subscription,
    admit::{Admitted, Expect},
    outcome::{mapped, timeout, wrong_kind},
    record::Record,
    route::was_lost,
};
use crate::{
    call::{Call, CallId, Output, RouteStep},
    error::CallError,
    handler::{Handler, ItemStream},
};
use futures::{FutureExt, StreamExt};
use std::panic::AssertUnwindSafe;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

impl Dispatcher {
    /// Starts a subscription.
    ///
    /// # Errors
    ///
    /// As [`Dispatcher::call`], before the first item; later errors end the
    /// stream. A caller that loses its right sees the stream end with
    /// `FORBIDDEN` or `UNAUTHENTICATED` within a second.
    pub async fn subscribe(&self, call: Call) -> Result<Subscription, CallError> {
        if call.route == [RouteStep::Any] {
            return Box::pin(self.subscribe_any(call)).await;
        }
        self.subscribe_one(call).await
    }

    /// One whose peer is lost before the first item is tried once on another.
    async fn subscribe_any(&self, call: Call) -> Result<Subscription, CallError> {
        let (first, second) = self.attempts(call).await?;
        let (items, second) = match (self.subscribe_one(first).await, second) {
            (Err(error), Some(second)) if was_lost(&error) => {
                return self.subscribe_one(second).await;
            }
            (items, second) => (items?, second),
        };
        let Some(second) = second else {
            return Ok(items);
        };
        let (door, call_id) = (self.clone(), items.call_id());
        let state = (items, Some(second));
        let items = futures::stream::unfold(state, move |(mut items, second)| {
            let door = door.clone();
            async move {
                let item = match (items.next().await?, second) {
                    (Err(error), Some(second)) if was_lost(&error) => {
                        match door.subscribe_one(second).await {
                            Ok(others) => items = others,
                            Err(error) => return Some((Err(error), (items, None))),
                        }
                        items.next().await?
                    }
                    (item, _) => item,
                };
                Some((item, (items, None)))
            }
        });
        Ok(Subscription::from_stream(call_id, items.boxed()))
    }

    async fn subscribe_one(&self, mut call: Call) -> Result<Subscription, CallError> {
        let call_id = call.id;
        let mut record = Record::begin(self, &call).await?;
        match self.run_subscription(&mut call, &mut record).await {
            Err(error) => {
                record.end(Some(&error));
                Err(error)
            }
            Ok((items, admitted)) => {
                let running = Running::new(self, items, admitted, record, call_id);
                let items = futures::stream::unfold(running, |mut running| async move {
                    running.next().await.map(|item| (item, running))
                });
                // Fused: asking again after the end is answered with the end.
                let items = items.fuse().boxed();
                Ok(Subscription { call_id, items })
            }
        }
    }

    async fn run_subscription(
        &self,
        call: &mut Call,
        record: &mut Record,
    ) -> Result<(ItemStream, Admitted), CallError> {
        let admitted = self.admit(call, Expect::Subscription, record)?;
        let spec = admitted.entry.spec();
        let Handler::Stream(run) = &admitted.entry.handler else {
            return Err(wrong_kind(spec));
        };
        let cx = self.context(call, &admitted);
        let input = admitted.input.clone();
        let opened = AssertUnwindSafe(async { run(cx, input).await }).catch_unwind();
        let opened = match admitted.deadline {
            Some(at) => timeout_at(at, opened).await.map_err(|_| timeout(spec))?,
            None => opened.await,
        };
        match opened {
            Ok(Ok(items)) => Ok((items, admitted)),
            Ok(Err(error)) => Err(mapped(call.id, &admitted.entry, error)),
            Err(panic) => Err(self.panicked(call.id, &admitted.entry, &*panic)),
        }
    }
}

/// A subscription that runs: its items, and what ends it early.
struct Running {
    door: Dispatcher,
    items: ItemStream,
    admitted: Option<Admitted>,
    changes: watch::Receiver<u64>,
    watches: bool,
    record: Record,
    call_id: CallId,
}

impl Running {
    fn new(
        door: &Dispatcher,
        items: ItemStream,
        admitted: Admitted,
        record: Record,
        call_id: CallId,
    ) -> Self {
        let mut changes = door.identities().changes();
        // Whatever changed since the gate was asked is looked at first.
        changes.mark_changed();
        Self {
            door: door.clone(),
            items,
            admitted: Some(admitted),
            changes,
            watches: true,
            record,
            call_id,
        }
    }

    async fn next(&mut self) -> Option<Result<Output, CallError>> {
        // Taken back by `end`: nothing follows it.
        let admitted = self.admitted.as_ref()?;
        let (entry, deadline) = (admitted.entry.clone(), admitted.deadline);
        let timer = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(timer);
        let item = loop {
            tokio::select! {
                // In this order: a caller that lost its right gets no item more.
                biased;
                changed = self.changes.changed(), if self.watches => {
                    self.watches = changed.is_ok();
                    let checked = self.admitted.as_ref()?.recheck(&self.door);
                    if let Err(refused) = checked {
                        return self.end(Some(refused));
                    }
                }
                () = &mut timer => return self.end(Some(timeout(entry.spec()))),
                item = AssertUnwindSafe(self.items.next()).catch_unwind() => break item,
            }
        };
        match item {
            Ok(None) => self.end(None),
            Ok(Some(item)) => match self.door.checked(self.call_id, &entry, item) {
                Ok(output) => {
                    self.record.sent(&output);
                    Some(Ok(output))
                }
                Err(error) => self.end(Some(error)),
            },
            Err(panic) => {
                let error = self.door.panicked(self.call_id, &entry, &*panic);
                self.end(Some(error))
            }
        }
    }

    /// Ends the handler and gives the place back now, not when the reader
    /// drops the stream.
    fn end(&mut self, error: Option<CallError>) -> Option<Result<Output, CallError>> {
        self.admitted = None;
        self.items = futures::stream::empty().boxed();
        self.record.end(error.as_ref());
        error.map(Err)
    }
}
