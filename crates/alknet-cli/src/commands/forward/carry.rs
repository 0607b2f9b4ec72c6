//! What all ports of a forward share: the peer, and how connections end.

use crate::{
    failure::Failure,
    hint::{Place, explain},
    node_access::{
        CallError, CallOptions, CarryError, ChannelCall, ErrorCode, Home, Opener, Route, RouteStep,
        carry,
    },
    output::Out,
    table::one_line,
};
use serde_json::json;
use std::time::Duration;
use tokio::{net::TcpStream, sync::Notify, time::sleep};

/// Between two attempts to reach a peer that is gone, beside the node's own.
const LINK_RETRY: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const LINK_WAIT: Duration = Duration::from_secs(30);

/// The other side of all ports.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) out: Out,
    pub(super) opener: Opener,
    /// As it was named.
    pub(super) peer: String,
    place: Place,
    /// The node here, to be asked for the link.
    home: Opener,
    first: Option<String>,
    unlinked: Notify,
}

impl Side {
    pub(super) fn new(out: Out, home: &Home, route: &Route, place: Place, peer: String) -> Self {
        let first = match route.first() {
            Some(RouteStep::Peer(first)) => Some(first.to_string()),
            _ => None,
        };
        Self {
            out,
            opener: home.opener(CallOptions {
                route: route.clone(),
                ..CallOptions::default()
            }),
            peer,
            place,
            home: home.opener(CallOptions::default()),
            first,
            unlinked: Notify::new(),
        }
    }

    /// One line for one connection, or listener.
    pub(super) fn report(&self, what: &str, error: &CallError) {
        if is_unlinked(error) {
            self.unlinked.notify_one();
        }
        let Failure {
            code,
            message,
            hint,
            ..
        } = explain(error, &self.place);
        let hint = hint.map(|hint| format!(" (hint: {hint})"));
        let line = format!("{what}: {code}: {message}{}", hint.unwrap_or_default());
        self.out.warn(&one_line(&line));
    }

    /// Asks the node here for the link; `None` if there is none to ask for.
    pub(super) async fn link(&self) -> Option<Result<(), CallError>> {
        let first = self.first.as_ref()?;
        let wait = u64::try_from(LINK_WAIT.as_millis()).unwrap_or(u64::MAX);
        let input = json!({ "peer": first, "timeout_ms": wait });
        let dialled = self.home.call("peers/dial", &input).await;
        Some(dialled.map(drop))
    }

    /// Has the peer dialled as soon as a connection finds it gone, and says
    /// when it is back.
    pub(super) async fn keep_linked(&self) {
        loop {
            self.unlinked.notified().await;
            let mut is_said = false;
            while let Some(Err(_)) = self.link().await {
                if !std::mem::replace(&mut is_said, true) {
                    let line = format!("{} is not connected: trying again", self.peer);
                    self.out.say(&line);
                }
                sleep(LINK_RETRY).await;
            }
            if is_said {
                self.out.say(&format!("{} is connected again", self.peer));
            }
        }
    }

    /// Carries one connection through an open channel until both have ended.
    pub(super) async fn carry(&self, what: &str, stream: TcpStream, call: ChannelCall) {
        // Only a matter of speed.
        let _ = stream.set_nodelay(true);
        let ChannelCall { channel, done, .. } = call;
        let error = match carry(stream, channel).await {
            // Broken on this side: to drop the call breaks it on the other.
            Err(CarryError::Reset(error)) => {
                return tracing::debug!(%error, "{what}: reset on this side");
            }
            _ => done.await.err(),
        };
        match error {
            None => {}
            // The other side of the connection did that, and this one saw it.
            Some(error) if error.code == "CONNECTION_RESET" => {
                tracing::debug!(%error, "{what}: reset on the other side");
            }
            Some(error) => self.report(what, &error),
        }
    }
}

/// Whether the peer is not there.
fn is_unlinked(error: &CallError) -> bool {
    error.is(ErrorCode::Unavailable) || error.is(ErrorCode::Lost)
}

/// Breaks a connection that goes nowhere, which is no end of its bytes.
pub(super) fn reset(stream: TcpStream) {
    // It may be gone already.
    let _ = stream.set_zero_linger();
}
