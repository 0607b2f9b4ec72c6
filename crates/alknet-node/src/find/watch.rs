//! Which direct addresses of peers work.

use super::Finder;
use crate::relay::is_never_contacted;
use alknet_call::quic::QuicConnection;
use futures::StreamExt;
use iroh::{TransportAddr, endpoint::WeakConnectionHandle};
use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a path is selected before it counts: paths come and go while two
/// sides find the best one.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// Follows the selected path of a connection until it closes, which this does
/// not delay; each direct one that settles is kept.
pub(crate) fn watch(
    finder: Arc<Finder>,
    connection: &QuicConnection,
) -> impl Future<Output = ()> + Send + 'static + use<> {
    let inner = connection.inner();
    let key = *inner.remote_id().as_bytes();
    let mut changes = inner.path_events();
    let weak = inner.weak_handle();
    async move {
        let mut noted = None;
        let Some(mut selected) = selected(&weak) else {
            return;
        };
        loop {
            let changed = if selected.is_none() || selected == noted {
                changes.next().await
            } else {
                match timeout(SETTLED_AFTER, changes.next()).await {
                    Ok(changed) => changed,
                    Err(_) => {
                        if let Some(address) = selected {
                            finder.worked(key, address).await;
                        }
                        noted = selected;
                        continue;
                    }
                }
            };
            match (changed, self::selected(&weak)) {
                (Some(_), Some(now)) => selected = now,
                _ => return,
            }
        }
    }
}

/// The selected path, if it is a direct one; `None` if the connection is gone.
fn selected(weak: &WeakConnectionHandle) -> Option<Option<SocketAddr>> {
    let connection = weak.upgrade()?;
    let paths = connection.paths();
    let path = paths.iter().find(|path| path.is_selected());
    Some(path.and_then(|path| direct(path.remote_addr())))
}

fn direct(address: &TransportAddr) -> Option<SocketAddr> {
    match address {
        // One form of each, so that it is kept once. Link-local ones mean
        // nothing without their interface, which has no lasting name.
        TransportAddr::Ip(address) => {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            (!is_never_contacted(address.ip())).then_some(address)
        }
        _ => None,
    }
}
