//! The code behind an operation: one reply, a stream of items, or a channel.

use crate::{
    bytepipe::{ByteReceiver, ByteSender, PIPE_WINDOW_BYTES, byte_pipe},
    call::{Input, Output},
    context::Context,
    error::{CallError, ErrorCode},
    spec::Kind,
};
use futures::{future::BoxFuture, stream::BoxStream};
use serde::Serialize;
use serde_json::Value;
use std::{fmt, sync::Arc};
use tokio::sync::{mpsc, oneshot};

pub(crate) type UnaryFn =
    dyn Fn(Context, Input) -> BoxFuture<'static, Result<Output, CallError>> + Send + Sync;
pub(crate) type ItemStream = BoxStream<'static, Result<Output, CallError>>;
pub(crate) type StreamFn =
    dyn Fn(Context, Input) -> BoxFuture<'static, Result<ItemStream, CallError>> + Send + Sync;
pub(crate) type ChannelFn = dyn Fn(Context, Input, ChannelOpening) -> BoxFuture<'static, Result<Output, CallError>>
    + Send
    + Sync;

/// Code behind an operation; private to the registry once registered.
#[derive(Clone)]
#[non_exhaustive]
pub enum Handler {
    /// Answers once: queries and mutations.
    Unary(Arc<UnaryFn>),
    /// Answers with items: subscriptions.
    Stream(Arc<StreamFn>),
    /// Opens a channel.
    Channel(Arc<ChannelFn>),
}

impl Handler {
    /// Whether it can answer calls of this kind.
    #[must_use]
    pub fn fits(&self, kind: Kind) -> bool {
        match self {
            Handler::Unary(_) => kind.is_unary(),
            Handler::Stream(_) => kind == Kind::Subscription,
            Handler::Channel(_) => kind == Kind::Channel,
        }
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handler::Unary(_) => "Unary",
            Handler::Stream(_) => "Stream",
            Handler::Channel(_) => "Channel",
        })
    }
}

/// A message beside the bytes of a channel, such as `{"resize": …}`.
pub type Control = Value;

/// Control messages that may wait in one direction.
pub(crate) const CONTROLS_MAX: usize = 64;

/// One end of an open channel. Its parts are taken out and used apart.
#[derive(Debug)]
pub struct ChannelEnd {
    /// Bytes to the other end.
    pub tx: ByteSender,
    /// Bytes from the other end.
    pub rx: ByteReceiver,
    /// Control messages to the other end.
    pub control_tx: mpsc::Sender<Control>,
    /// Control messages from the other end.
    pub control_rx: mpsc::Receiver<Control>,
}

/// The end that a handler holds.
pub type Channel = ChannelEnd;

/// Makes the two ends of a channel.
#[must_use]
pub fn channel_pair() -> (ChannelEnd, ChannelEnd) {
    let (tx_a, rx_b) = byte_pipe(PIPE_WINDOW_BYTES);
    let (tx_b, rx_a) = byte_pipe(PIPE_WINDOW_BYTES);
    let (control_tx_a, control_rx_b) = mpsc::channel(CONTROLS_MAX);
    let (control_tx_b, control_rx_a) = mpsc::channel(CONTROLS_MAX);
    (
        ChannelEnd {
            tx: tx_a,
            rx: rx_a,
            control_tx: control_tx_a,
            control_rx: control_rx_a,
        },
        ChannelEnd {
            tx: tx_b,
            rx: rx_b,
            control_tx: control_tx_b,
            control_rx: control_rx_b,
        },
    )
}

/// A channel that was asked for; a handler accepts it, or returns an error.
#[derive(Debug)]
pub struct ChannelOpening {
    pub(crate) accept: oneshot::Sender<Output>,
    pub(crate) channel: ChannelEnd,
}

impl ChannelOpening {
    /// Accepts with the opening reply; bytes flow from here on.
    ///
    /// # Errors
    ///
    /// `INTERNAL` if the reply does not serialise, `CANCELLED` if the caller
    /// is gone.
    pub fn accept(self, reply: &impl Serialize) -> Result<ChannelEnd, CallError> {
        let reply = serde_json::to_value(reply).map_err(|e| {
            CallError::new(
                ErrorCode::Internal,
                format!("the opening reply does not serialise: {e}"),
            )
        })?;
        self.accept_output(Output::Value(reply))
    }

    /// Accepts with a reply that is JSON already.
    ///
    /// # Errors
    ///
    /// `CANCELLED` if the caller is gone.
    pub fn accept_output(self, reply: Output) -> Result<ChannelEnd, CallError> {
        self.accept
            .send(reply)
            .map_err(|_| CallError::new(ErrorCode::Cancelled, "the caller is gone"))?;
        Ok(self.channel)
    }
}
