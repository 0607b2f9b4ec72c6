//! Queries and mutations: one reply.

use super::{
    Dispatcher, Reply,
    admit::Expect,
    outcome::{timeout, wrong_kind},
    record::Record,
    route::was_lost,
};
use crate::{
    call::{Call, Output, RouteStep},
    error::{CallError, ErrorCode},
    handler::Handler,
    idempotency::{self, Keyed},
};
use futures::{FutureExt, Stream, StreamExt};
use std::panic::AssertUnwindSafe;
use tokio::time::timeout_at;

impl Dispatcher {
    /// Runs a query or a mutation and returns its reply.
    ///
    /// Dropping the future cancels the handler, and everything that it called,
    /// at its next await point.
    ///
    /// # Errors
    ///
    /// Any protocol error of [`ErrorCode`], or a domain error that the
    /// operation declares.
    pub async fn call(&self, call: Call) -> Result<Reply, CallError> {
        if call.route == [RouteStep::Any] {
            // Boxed: rare, and it would double every call's future.
            return Box::pin(self.call_any(call)).await;
        }
        self.call_one(call).await
    }

    async fn call_one(&self, call: Call) -> Result<Reply, CallError> {
        let call_id = call.id;
        let mut record = Record::begin(self, &call).await?;
        let outcome = self.run_unary(call, &mut record).await;
        if let Ok(output) = &outcome {
            record.sent(output);
        }
        record.end(outcome.as_ref().err());
        outcome.map(|output| Reply { call_id, output })
    }

    async fn run_unary(&self, mut call: Call, record: &mut Record) -> Result<Output, CallError> {
        let mut admitted = self.admit(&mut call, Expect::Unary, record)?;
        let entry = admitted.entry.clone();
        let Handler::Unary(run) = &entry.handler else {
            return Err(wrong_kind(entry.spec()));
        };
        let key = match idempotency::begin(self, &call, &entry, &admitted.input).await? {
            Keyed::Plain => None,
            Keyed::Started(key) => Some(key),
            Keyed::Replay(outcome) => return outcome,
        };
        let cx = self.context(&mut call, &admitted);
        let input = std::mem::take(&mut admitted.input);
        let reply = AssertUnwindSafe(async { run(cx, input).await }).catch_unwind();
        let ended = match admitted.deadline {
            Some(at) => timeout_at(at, reply).await,
            None => Ok(reply.await),
        };
        let outcome = match ended {
            Ok(Ok(outcome)) => self.checked(call.id, &entry, outcome),
            Ok(Err(panic)) => Err(self.panicked(call.id, &entry, &*panic)),
            Err(_) => Err(timeout(entry.spec())),
        };
        if let Some(key) = key {
            idempotency::finish(self, call.id, &entry, key, &outcome).await?;
        }
        outcome
    }

    /// A query that was not answered is asked once more elsewhere; a mutation
    /// never is.
    async fn call_any(&self, call: Call) -> Result<Reply, CallError> {
        let (first, second) = self.attempts(call).await?;
        match (self.call_one(first).await, second) {
            (Err(error), Some(second)) if was_lost(&error) => self.call_one(second).await,
            (outcome, _) => outcome,
        }
    }

    /// Runs many queries and mutations at once, at most 16 at a time; answers
    /// come as they finish, with the position of their call.
    ///
    /// More than the limit of calls are each answered `TOO_LARGE`, and none
    /// runs.
    pub fn batch(
        &self,
        calls: Vec<Call>,
    ) -> impl Stream<Item = (usize, Result<Reply, CallError>)> + Send + 'static {
        let door = self.clone();
        let most = door.limits().batch_in_flight_max;
        let over = calls.len() > door.limits().batch_calls_max;
        futures::stream::iter(calls.into_iter().enumerate())
            .map(move |(at, call)| {
                let door = door.clone();
                async move {
                    if over {
                        let most = door.limits().batch_calls_max;
                        let message = format!("a batch has at most {most} calls");
                        return (at, Err(CallError::new(ErrorCode::TooLarge, message)));
                    }
                    (at, door.call(call).await)
                }
            })
            .buffer_unordered(most)
    }
}
