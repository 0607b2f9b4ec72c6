//! What the door answers with: a reply, items, an open channel.

use crate::{
    call::{CallId, Output},
    error::{CallError, ErrorCode},
    handler::ChannelEnd,
};
use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;
use std::{
    pin::Pin,
    task::{self, Poll},
};
use tokio_util::task::AbortOnDropHandle;

/// The reply to a query or a mutation.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) call_id: CallId,
    pub(super) output: Output,
}

impl Reply {
    /// The id under which the call is in the audit log.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.call_id
    }

    /// The JSON text.
    #[must_use]
    pub fn bytes(&self) -> bytes::Bytes {
        self.output.bytes()
    }

    /// The output itself.
    #[must_use]
    pub fn into_output(self) -> Output {
        self.output
    }

    /// Reads it as `T`.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if it is something else.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, CallError> {
        self.output.parse()
    }
}

/// Items of a subscription: a [`Stream`] that ends after its last item, or
/// with one error. Dropping it cancels the handler.
pub struct Subscription {
    pub(super) call_id: CallId,
    pub(super) items: BoxStream<'static, Result<Output, CallError>>,
}

impl Subscription {
    /// A subscription served elsewhere.
    #[must_use]
    pub fn from_stream(
        call_id: CallId,
        items: BoxStream<'static, Result<Output, CallError>>,
    ) -> Self {
        // Fused: asking again after the end is answered with the end.
        let items = items.fuse().boxed();
        Self { call_id, items }
    }

    /// The id under which the call is in the audit log.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.call_id
    }
}

impl Stream for Subscription {
    type Item = Result<Output, CallError>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("call_id", &self.call_id)
            .finish_non_exhaustive()
    }
}

/// An open channel: its opening reply, its bytes, its result. Dropping `done`
/// cancels the handler.
#[derive(Debug)]
pub struct ChannelCall {
    /// The id under which the call is in the audit log.
    pub call_id: CallId,
    /// The opening reply.
    pub reply: Output,
    /// Bytes and control messages.
    pub channel: ChannelEnd,
    /// The result, once the handler has ended.
    pub done: ChannelDone,
}

/// Resolves to the result of a channel.
#[derive(Debug)]
pub struct ChannelDone(pub(super) AbortOnDropHandle<Result<Output, CallError>>);

impl ChannelDone {
    /// The result that a task comes to.
    #[must_use]
    pub fn of(task: tokio::task::JoinHandle<Result<Output, CallError>>) -> Self {
        Self(AbortOnDropHandle::new(task))
    }
}

impl Future for ChannelDone {
    type Output = Result<Output, CallError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|joined| {
            joined.unwrap_or_else(|error| {
                Err(CallError::new(
                    ErrorCode::Internal,
                    format!("the channel's task ended: {error}"),
                ))
            })
        })
    }
}
