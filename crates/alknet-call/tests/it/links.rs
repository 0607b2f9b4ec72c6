//! When a link is dialled, under a paused clock.

use alknet_call::{
    SessionConfig,
    links::{BACKOFF_MAX, BACKOFF_MIN, DialError, Dialer, LinkState, Links},
    quic::QuicConnection,
};
use alknet_core::{
    Caller, Dispatcher, PeerId, Registry,
    storage::{MemoryImportStore, Timestamp},
};
use async_trait::async_trait;
use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// Reaches nobody, at once or never, and notes when it was asked to.
struct Nowhere {
    hangs: bool,
    dials: Mutex<Vec<Instant>>,
    count: watch::Sender<usize>,
}

#[async_trait]
impl Dialer for Nowhere {
    async fn dial(&self, peer: &PeerId) -> Result<(QuicConnection, Caller), DialError> {
        self.dials.lock().unwrap().push(Instant::now());
        self.count.send_modify(|count| *count += 1);
        if self.hangs {
            pending::<()>().await;
        }
        Err(DialError::Unreached {
            peer: peer.clone(),
            reason: "no network".into(),
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

impl Nowhere {
    fn new(hangs: bool) -> Arc<Self> {
        Arc::new(Self {
            hangs,
            dials: Mutex::default(),
            count: watch::Sender::new(0),
        })
    }

    /// Waits for so many attempts; times between them.
    async fn dialled(&self, count: usize) -> Vec<Duration> {
        let mut seen = self.count.subscribe();
        let reached = seen.wait_for(|seen| *seen >= count);
        // Far more than the longest pauses together.
        timeout(BACKOFF_MAX * 60, reached).await.unwrap().unwrap();
        let dials = self.dials.lock().unwrap();
        dials.windows(2).map(|two| two[1] - two[0]).collect()
    }
}

fn links(dialer: &Arc<Nowhere>) -> (Links, PeerId) {
    let door = Dispatcher::builder(Registry::new()).build();
    let imports = Arc::new(MemoryImportStore::default());
    let links = Links::new(door, dialer.clone(), SessionConfig::default(), imports);
    let peer = PeerId::parse("nas").unwrap();
    links.keep(&peer);
    (links, peer)
}

/// Between half of `delay` and all of it, as the jitter has it.
fn is_about(pause: Duration, delay: Duration) -> bool {
    (delay / 2..=delay + Duration::from_millis(2)).contains(&pause)
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_a_minute_and_begin_anew_when_the_network_changes() {
    let nowhere = Nowhere::new(false);
    let (links, peer) = links(&nowhere);
    let pauses = nowhere.dialled(10).await;
    for (n, pause) in pauses.iter().enumerate() {
        let delay = (BACKOFF_MIN * 2u32.pow(u32::try_from(n).unwrap())).min(BACKOFF_MAX);
        assert!(is_about(*pause, delay), "{n}: {pause:?}");
    }
    let report = links.report(&peer).unwrap();
    assert_eq!(
        report.last_error.as_deref(),
        Some("peer `nas` was not reached: no network")
    );

    // Half a minute is the least that it would wait now.
    let changed = Instant::now();
    links.network_changed();
    let pauses = nowhere.dialled(13).await;
    let [.., second, third] = pauses[..] else {
        unreachable!()
    };
    assert!(
        is_about(second, BACKOFF_MIN) && is_about(third, BACKOFF_MIN * 2),
        "{pauses:?}"
    );
    assert!(changed.elapsed() < Duration::from_secs(5));
    links.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_over_a_network_that_is_gone_is_given_up() {
    let nowhere = Nowhere::new(true);
    let (links, peer) = links(&nowhere);
    nowhere.dialled(1).await;
    assert_eq!(links.report(&peer).unwrap().state, LinkState::Connecting);
    // A young one goes on until it is two seconds old.
    links.network_changed();
    let pauses = nowhere.dialled(2).await;
    assert_eq!(pauses, [Duration::from_secs(2)]);
    // An old one ends at once.
    tokio::time::sleep(Duration::from_secs(7)).await;
    links.network_changed();
    let pauses = nowhere.dialled(3).await;
    assert_eq!(pauses[1], Duration::from_secs(7));
    // Without a change it has as long as the dialer gives it.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(nowhere.dials.lock().unwrap().len(), 3);
    links.shutdown().await;
}
