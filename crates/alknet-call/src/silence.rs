//! Ends connections over which nothing arrives any more.

use crate::{limits::connection_code, quic::QuicConnection};
use iroh::endpoint::WeakConnectionHandle;
use std::{future::Future, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// How often a connection is looked at while it may be silent.
const LOOKS: u32 = 15;

impl QuicConnection {
    /// Closes the connection once nothing has arrived for `idle`, or up to a
    /// fifteenth of it later; returns when the connection has ended, by
    /// whatever cause. It does not keep the connection open.
    ///
    /// The transport has such a time of its own, but starts it anew with the
    /// first packet on every path that it tries (noq 1.4.0; RFC 9000, 10.1 has
    /// one path in mind). With a hole punched again every few seconds into a
    /// network that lets nothing through, it would never end, and calls would
    /// wait. Both sides send a keep-alive every few seconds: whoever hears
    /// nothing is alone.
    pub fn end_when_silent(
        &self,
        idle: Duration,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let weak = self.inner().weak_handle();
        async move {
            tokio::select! {
                _ = weak.closed() => {}
                () = watch(&weak, idle) => {}
            }
        }
    }
}

/// Returns when it has closed the connection, or there is none any more.
async fn watch(weak: &WeakConnectionHandle, idle: Duration) {
    let mut looks = interval((idle / LOOKS).max(Duration::from_millis(1)));
    // Looks are counted, not seconds: a process that was stopped for a minute
    // has heard nothing, and is not alone.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut arrived, mut silent) = (None, 0);
    loop {
        looks.tick().await;
        let Some(connection) = weak.upgrade() else {
            return;
        };
        let now = connection.stats().udp_rx.datagrams;
        if arrived.replace(now) != Some(now) {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent >= LOOKS {
            let id = connection.stable_id();
            tracing::debug!(connection = id, "nothing arrives any more");
            return connection.close(connection_code::DONE.into(), b"silent");
        }
    }
}
