//! `net/listen`: a listening socket on this node.

use super::{
    Net,
    errors::{self, not_listening},
    owner,
    waiting::{Listener, Waiting},
};
use alknet_core::{
    CallError, ChannelEnd, ChannelOpening, Context, Control, ErrorCode, Operation, Registration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep, sleep_until},
};

/// The action that grants name.
pub(super) const LISTEN: &str = "listen";
/// Connections that the system keeps until they are accepted.
const BACKLOG: u32 = 1024;
/// How long is waited after the system could not hand over a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListenInput {
    /// Where: `127.0.0.1:8080`, `[::1]:0`; an address of this machine. With
    /// port 0 the system picks one.
    address: String,
}

/// Opening reply.
#[derive(Debug, Serialize, JsonSchema)]
struct Listening {
    /// Where it listens.
    address: String,
}

/// Result.
#[derive(Debug, Serialize)]
struct Ended {
    /// Connections that came.
    connections: u64,
}

pub(super) fn operation(net: &Net) -> Registration {
    let net = net.clone();
    Operation::channel("net/listen", "Listens for TCP connections on this node.")
        .description(DESCRIPTION)
        .requires("net:listen")
        .resource("net", LISTEN, "/address")
        .error(errors::spec(errors::ADDRESS_IN_USE))
        .error(errors::spec(errors::ADDRESS_NOT_AVAILABLE))
        .example(
            json!({ "address": "127.0.0.1:0" }),
            json!({ "address": "127.0.0.1:8080" }),
        )
        .channel::<_, Listening, _, _, _>(move |cx, input: ListenInput, opening| {
            let net = net.clone();
            async move { listen(&net, &cx, input, opening).await }
        })
}

const DESCRIPTION: &str = "\
Each connection that comes is announced by a control message, \
`{\"connection\": ID, \"from\": \"ip:port\"}`; the caller takes it with `net/accept`, \
in time, or it is reset. No bytes pass here. \
The end of the bytes ends the listener, and so does the end of the call: the socket \
is closed, and what was not taken is reset; connections that were taken go on. \
The result is `{\"connections\": 0}`.";

async fn listen(
    net: &Net,
    cx: &Context,
    input: ListenInput,
    opening: ChannelOpening,
) -> Result<Ended, CallError> {
    let address: SocketAddr = input.address.parse().map_err(|_| {
        CallError::invalid_field("/address", "a name: to listen takes an IP address")
    })?;
    let most = net.config().listeners_per_caller_max;
    let place = net.0.waiting.enter(owner(cx), most).ok_or_else(|| {
        let id = cx.principal().id();
        CallError::new(
            ErrorCode::RateLimited,
            format!("`{id}` has {most} listeners, which is the limit"),
        )
    })?;
    let refused = |error: io::Error| not_listening(&input.address, &error);
    let socket = bind(address).map_err(refused)?;
    let bound = socket.local_addr().map_err(refused)?;
    let channel = opening.accept(&Listening {
        address: bound.to_string(),
    })?;
    let ChannelEnd {
        // Kept: to drop it would look like a cut.
        tx: mut _tx,
        mut rx,
        control_tx,
        control_rx: _,
    } = channel;
    let mut accepting = Accepting {
        socket,
        announce: control_tx,
        room: Arc::new(Semaphore::new(net.config().waiting_per_listener_max)),
        place,
        // As it was asked for, which is what the grant names.
        asked: input.address.into(),
        permit: Arc::new(cx.permit()),
        timeout: net.config().waiting_timeout.duration(),
        expiring: VecDeque::new(),
    };
    let mut connections = 0;
    loop {
        tokio::select! {
            came = accepting.turn() => match came {
                Some(came) => connections += u64::from(came),
                // Nobody hears what is announced.
                None => break,
            },
            read = rx.recv() => match read {
                // Not meant for anybody.
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Err(CallError::new(
                    ErrorCode::Cancelled,
                    "the channel was cut, so the listener was closed",
                )),
            },
            // It would hold the end of the node up.
            () = cx.draining() => break,
        }
    }
    _tx.end();
    Ok(Ended { connections })
}

/// Listens at an address, with room for a thousand connections that come at
/// once: what a busy moment drops there comes back only after seconds.
///
/// # Errors
///
/// As the system says: the address is in use, or not of this machine.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A port whose last connections are still being closed can be had again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Accepting {
    socket: TcpListener,
    announce: mpsc::Sender<Control>,
    room: Arc<Semaphore>,
    place: Listener,
    asked: Arc<str>,
    permit: Arc<alknet_core::Permit>,
    timeout: Duration,
    /// Those that wait or were taken, by when they may wait no longer.
    expiring: VecDeque<(Instant, String)>,
}

impl Accepting {
    /// Lets the next connection in, or resets one that waited too long; says
    /// whether one came, or `None` if nobody hears of it. Cancel safe.
    async fn turn(&mut self) -> Option<bool> {
        let expiry = self.expiring.front().map(|(at, _)| *at);
        let expired = async {
            match expiry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Further connections stay in the system's queue.
        let next = next(&self.socket, &self.room, &self.announce);
        let came = tokio::select! {
            came = next => came?,
            () = expired => {
                if let Some((_, connection)) = self.expiring.pop_front() {
                    self.place.expire(&connection);
                }
                return Some(false);
            }
        };
        let (place, slot, stream, from) = came;
        let (permit, asked) = (self.permit.clone(), self.asked.clone());
        let waiting = Waiting::new(stream, from, permit, asked, place);
        let connection = self.place.admit(waiting);
        slot.send(json!({ "connection": connection, "from": from.to_string() }));
        self.expiring
            .push_back((Instant::now() + self.timeout, connection));
        Some(true)
    }
}

type Came<'a> = (
    OwnedSemaphorePermit,
    mpsc::Permit<'a, Control>,
    TcpStream,
    SocketAddr,
);

async fn next<'a>(
    socket: &TcpListener,
    room: &Arc<Semaphore>,
    announce: &'a mpsc::Sender<Control>,
) -> Option<Came<'a>> {
    let place = room.clone().acquire_owned().await.ok()?;
    let slot = announce.reserve().await.ok()?;
    loop {
        match socket.accept().await {
            Ok((stream, from)) => return Some((place, slot, stream, from)),
            Err(error) => {
                // One that went away in the queue, or no descriptor: the next
                // one may fare better.
                tracing::debug!(%error, "a connection was not accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}
