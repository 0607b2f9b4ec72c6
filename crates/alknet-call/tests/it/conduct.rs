//! What the other side does wrong is told to whoever watches.

use crate::support::{Node, say_hello};
use alknet_call::{
    Bearer, Session, SessionConfig, SessionError,
    conduct::{Watch, Watched},
    connection_code,
};
use alknet_core::{
    Caller,
    transport::{Connection, ConnectionInfo},
};
use alknet_testkit::transport::{MemoryConnection, connection_pair};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::io::AsyncWriteExt;

#[derive(Default)]
struct Seen {
    malformed: AtomicUsize,
    wrong: AtomicUsize,
    asked: AtomicUsize,
    wait: Option<Duration>,
}

impl Watch for Seen {
    fn malformed(&self, _connection: &ConnectionInfo) {
        self.malformed.fetch_add(1, Ordering::SeqCst);
    }

    fn must_wait(&self, _connection: &ConnectionInfo) -> Option<Duration> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.wait
    }

    fn presented_wrong(&self, _connection: &ConnectionInfo) {
        self.wrong.fetch_add(1, Ordering::SeqCst);
    }
}

impl Seen {
    fn counts(&self) -> (usize, usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (
            count(&self.malformed),
            count(&self.wrong),
            count(&self.asked),
        )
    }
}

fn watched(seen: &Arc<Seen>) -> SessionConfig {
    SessionConfig {
        watched: Watched::by(seen.clone()),
        ..SessionConfig::default()
    }
}

/// Both sides, of which the second watches the first.
async fn meet(
    node: &Node,
    seen: &Arc<Seen>,
    credential: Option<Bearer>,
) -> (
    Result<Arc<Session>, SessionError>,
    Result<Arc<Session>, SessionError>,
) {
    let (ours, theirs) = connection_pair(Default::default());
    let config = SessionConfig {
        credential,
        ..SessionConfig::default()
    };
    let door = Some(node.door.clone());
    tokio::join!(
        Session::start(ours, None, Caller::anonymous(), config),
        Session::start(theirs, door, node.alice(), watched(seen)),
    )
}

#[tokio::test]
async fn a_wrong_credential_is_told_and_a_right_or_absent_one_is_not() {
    let (node, seen) = (Node::new(vec![]), Arc::new(Seen::default()));
    let (ours, theirs) = meet(&node, &seen, None).await;
    assert!(ours.is_ok() && theirs.is_ok());
    assert_eq!(seen.counts(), (0, 0, 0));
    let (ours, _) = meet(&node, &seen, Some(Bearer::new("alk_none"))).await;
    assert!(matches!(ours, Err(SessionError::Unauthenticated)));
    assert_eq!(seen.counts(), (0, 1, 1));
}

#[tokio::test]
async fn whoever_must_wait_is_closed_before_its_credential_is_looked_at() {
    let node = Node::new(vec![]);
    let seen = Arc::new(Seen {
        wait: Some(Duration::from_secs(7)),
        ..Seen::default()
    });
    let (ours, theirs) = meet(&node, &seen, Some(Bearer::new("alk_none"))).await;
    let Err(SessionError::Closed(closed)) = ours else {
        panic!("{ours:?}");
    };
    assert_eq!(closed.code, Some(connection_code::LIMIT));
    assert!(closed.reason.contains("wait 7 s"), "{closed:?}");
    assert!(matches!(theirs, Err(SessionError::SlowedDown(_))));
    assert_eq!(seen.counts(), (0, 0, 1));
    // Without one there is nothing to wait for.
    let (ours, _theirs) = meet(&node, &seen, None).await;
    ours.unwrap();
}

/// The other side by hand.
fn by_hand(node: &Node, seen: &Arc<Seen>) -> Arc<MemoryConnection> {
    let (ours, theirs) = connection_pair(Default::default());
    let (door, caller, config) = (node.door.clone(), node.alice(), watched(seen));
    tokio::spawn(async move {
        if let Ok(session) = Session::start(theirs, Some(door), caller, config).await {
            session.closed().await;
        }
    });
    ours
}

#[tokio::test]
async fn each_breach_of_the_protocol_is_told() {
    let (node, seen) = (Node::new(vec![]), Arc::new(Seen::default()));
    // First words that make no sense.
    let connection = by_hand(&node, &seen);
    let mut send = connection.open_uni().await.unwrap();
    send.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let closed = connection.closed().await;
    assert_eq!(closed.code, Some(connection_code::BAD_HELLO));
    assert_eq!(seen.counts().0, 1);
    // Then streams: each of the eight that a connection may break.
    let connection = by_hand(&node, &seen);
    say_hello(&*connection).await;
    // Held: dropped before they were read, they would be given up.
    let mut held = Vec::new();
    for _ in 0..8 {
        if let Ok(mut stream) = connection.open_bi().await {
            // The connection may be closed before that.
            let _ = stream.send.write_all(&[0x7f; 8]).await;
            held.push(stream);
        }
    }
    let closed = connection.closed().await;
    assert_eq!(closed.code, Some(connection_code::PROTOCOL_ERRORS));
    assert_eq!(seen.counts().0, 1 + 8);
}
