//! `-L`: listens here, connects from the peer.

use super::{
    carry::{Side, reset},
    spec::ForwardSpec,
};
use crate::{failure::Failure, node_access::bind};
use serde_json::json;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// How long is waited after the system could not hand over a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A port that listens.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) spec: ForwardSpec,
    pub(super) address: SocketAddr,
    socket: TcpListener,
}

impl Local {
    pub(super) fn listen(spec: ForwardSpec) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::local(format!("failed to listen on `{}`: {error}", spec.listen))
        };
        let socket = bind(spec.listen).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self {
            spec,
            address,
            socket,
        })
    }

    /// Serves for ever.
    pub(super) async fn serve(self, side: Arc<Side>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                came = self.socket.accept() => match came {
                    Ok((stream, from)) => {
                        let (side, target) = (side.clone(), self.spec.target.clone());
                        connections.spawn(async move {
                            forward(&side, &target, stream, from).await;
                        });
                    }
                    Err(error) => {
                        side.out.warn(&format!("a connection was not taken: {error}"));
                        sleep(ACCEPT_RETRY).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn forward(side: &Side, target: &str, stream: TcpStream, from: SocketAddr) {
    let what = format!("{from} -> {target} on {}", side.peer);
    let input = json!({ "address": target });
    match side.opener.open("net/dial", &input).await {
        Ok(call) => side.carry(&what, stream, call).await,
        Err(error) => {
            reset(stream);
            side.report(&what, &error);
        }
    }
}
