//! `-R`: listens on the peer, connects from here.

use super::{carry::Side, spec::ForwardSpec};
use crate::node_access::{CallError, ChannelCall, ErrorCode};
use serde::Deserialize;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long a connection from here may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// First and longest delay between two attempts to listen again.
const REOPEN_MIN: Duration = Duration::from_millis(500);
const REOPEN_MAX: Duration = Duration::from_secs(30);

/// A port of the peer that listens.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) spec: ForwardSpec,
    pub(super) address: String,
    call: ChannelCall,
}

/// A connection that came.
#[derive(Debug, Deserialize)]
struct Announced {
    connection: String,
    from: String,
}

impl Remote {
    pub(super) async fn open(spec: ForwardSpec, side: &Side) -> Result<Self, CallError> {
        let asked = spec.listen.to_string();
        let (call, address) = listen(side, &asked).await?;
        Ok(Self {
            spec,
            address,
            call,
        })
    }

    /// Serves for ever.
    pub(super) async fn serve(self, side: Arc<Side>) {
        let Self {
            spec,
            mut address,
            mut call,
        } = self;
        let mut connections = JoinSet::new();
        loop {
            let why = announcements(&side, &spec, call, &mut connections).await;
            let what = format!("{address} on {} no longer listens", side.peer);
            side.report(&what, &why);
            (call, address) = again(&side, &spec, &address, &mut connections).await;
            let target = &spec.target;
            side.out.say(&format!(
                "forwarding {address} on {} -> {target}",
                side.peer
            ));
        }
    }
}

/// Takes what comes, until the listener ends; says why it did.
async fn announcements(
    side: &Arc<Side>,
    spec: &ForwardSpec,
    call: ChannelCall,
    connections: &mut JoinSet<()>,
) -> CallError {
    let ChannelCall { channel, done, .. } = call;
    // Kept: to end them would end the listener.
    let (_tx, _rx, _control_tx) = (channel.tx, channel.rx, channel.control_tx);
    let mut announced = channel.control_rx;
    tokio::pin!(done);
    loop {
        tokio::select! {
            control = announced.recv() => match control.map(serde_json::from_value) {
                Some(Ok(came)) => {
                    let (side, target) = (side.clone(), spec.target.clone());
                    connections.spawn(async move { forward(&side, &target, came).await });
                }
                // Not for us.
                Some(Err(error)) => tracing::debug!(%error, "an announcement makes no sense"),
                None => return ended(done.await.err()),
            },
            result = &mut done => return ended(result.err()),
            Some(_) = connections.join_next() => {}
        }
    }
}

fn ended(error: Option<CallError>) -> CallError {
    let stops = || CallError::new(ErrorCode::Unavailable, "the peer stops");
    error.unwrap_or_else(stops)
}

async fn listen(side: &Side, address: &str) -> Result<(ChannelCall, String), CallError> {
    let input = json!({ "address": address });
    let call = side.opener.open("net/listen", &input).await?;
    let reply: serde_json::Value = call.reply.clone().into_value()?;
    let bound = reply.get("address").and_then(|bound| bound.as_str());
    let bound = bound.unwrap_or(address).to_owned();
    Ok((call, bound))
}

/// Listens again, at the same address if it can, as often as it takes.
async fn again(
    side: &Side,
    spec: &ForwardSpec,
    before: &str,
    connections: &mut JoinSet<()>,
) -> (ChannelCall, String) {
    let (mut delay, mut told) = (REOPEN_MIN, None);
    loop {
        // What runs goes on meanwhile; what has ended is taken off.
        while connections.try_join_next().is_some() {}
        sleep(delay).await;
        delay = (delay * 2).min(REOPEN_MAX);
        let error = match reopen(side, spec, before).await {
            Ok(opened) => return opened,
            Err(error) => error,
        };
        if told.as_ref() != Some(&error.code) {
            let what = format!("listening at {before} on {} again", side.peer);
            side.report(&what, &error);
            told = Some(error.code);
        }
    }
}

async fn reopen(
    side: &Side,
    spec: &ForwardSpec,
    before: &str,
) -> Result<(ChannelCall, String), CallError> {
    if let Some(linked) = side.link().await {
        linked?;
    }
    match listen(side, before).await {
        // The port that the system picked may not be had by its number.
        Err(error) if spec.listen.port() == 0 && !is_gone(&error) => {
            listen(side, &spec.listen.to_string()).await
        }
        listening => listening,
    }
}

fn is_gone(error: &CallError) -> bool {
    error.is(ErrorCode::Unavailable) || error.is(ErrorCode::Lost)
}

async fn forward(side: &Side, target: &str, came: Announced) {
    let what = format!("{} on {} -> {target}", came.from, side.peer);
    let input = json!({ "connection": came.connection });
    // Both at once: who waits there does not wait for long.
    let taking = side.opener.open("net/accept", &input);
    let connecting = timeout(CONNECT_MAX, TcpStream::connect(target));
    let (taken, connected) = tokio::join!(taking, connecting);
    let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    match (taken, connected) {
        (Ok(call), Ok(stream)) => side.carry(&what, stream, call).await,
        (Err(error), _) => side.report(&what, &error),
        // To drop the call resets the connection there.
        (Ok(_), Err(error)) => side
            .out
            .warn(&format!("{what}: failed to connect from here: {error}")),
    }
}
