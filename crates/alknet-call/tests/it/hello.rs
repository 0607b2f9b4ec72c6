//! How a session begins, and how it does not.

use crate::support::{Node, hello, identity, request, say_hello, serve_raw_as};
use alknet_call::{
    Bearer, Frame, Session, SessionConfig, SessionError, connection_code, stream_code,
};
use alknet_core::{
    ApiKey, ApiKeyProof, Caller, Credential, ErrorCode,
    transport::{Connection, ConnectionClosed},
};
use alknet_testkit::transport::{MemoryConnection, connection_pair};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

/// The text of a key, and what is left of it where it is presented.
fn api_key(number: u8) -> (String, Credential) {
    let key = ApiKey::of_random([number; 5], &[number; 32]);
    let proof = ApiKeyProof::parse(key.expose()).unwrap();
    (key.expose().to_owned(), Credential::ApiKey(proof))
}

fn with_key(key: &str) -> SessionConfig {
    SessionConfig {
        credential: Some(Bearer::new(key)),
        ..SessionConfig::default()
    }
}

async fn start(
    node: &Node,
    caller: Caller,
    config: SessionConfig,
) -> (
    Result<Arc<Session>, SessionError>,
    Result<Arc<Session>, SessionError>,
) {
    let (ours, theirs) = connection_pair(Default::default());
    let door = Some(node.door.clone());
    tokio::join!(
        Session::start(ours, None, Caller::anonymous(), config),
        Session::start(theirs, door, caller, SessionConfig::default()),
    )
}

#[tokio::test]
async fn a_credential_makes_the_connection_that_caller() {
    let node = Node::new(vec![]);
    let (text, key) = api_key(1);
    node.identities.put(key, identity("robot", &["demo:who"]));
    let (session, served) = start(&node, node.alice(), with_key(&text)).await;
    let (session, _served) = (session.unwrap(), served.unwrap());
    let who = session
        .call(request("demo/who", &json!(null)))
        .await
        .unwrap();
    assert_eq!(who.into_value().unwrap()["caller"], "robot");
    let error = session
        .call(request("demo/echo", &json!(1)))
        .await
        .unwrap_err();
    assert!(
        error.is(ErrorCode::Forbidden),
        "no wider than the key: {error}"
    );
}

#[tokio::test]
async fn a_bad_credential_is_not_anonymous_and_not_the_connection_s_owner() {
    let node = Node::new(vec![]);
    let (good, key) = api_key(1);
    node.identities.put(key, identity("robot", &["demo:who"]));
    // The id of a known key with another secret, and what is no key at all.
    let guessed = format!("{}{}", &good[..12], &api_key(2).0[12..]);
    let odd = format!("alk_a{}b", "é".repeat(29));
    for bad in ["alk_bad", "", &api_key(3).0, &guessed, &odd] {
        for caller in [node.alice(), Caller::anonymous()] {
            let (session, served) = start(&node, caller, with_key(bad)).await;
            assert!(
                matches!(session, Err(SessionError::Unauthenticated)),
                "{bad}: {session:?}"
            );
            assert!(
                matches!(served, Err(SessionError::Unauthenticated)),
                "{bad}: {served:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_its_key_does() {
    let node = Node::new(vec![]);
    let (text, key) = api_key(1);
    node.identities
        .put(key.clone(), identity("robot", &["demo:who"]));
    let (session, served) = start(&node, node.alice(), with_key(&text)).await;
    let (session, _served) = (session.unwrap(), served.unwrap());
    session
        .call(request("demo/who", &json!(null)))
        .await
        .unwrap();
    // What concerns somebody else changes nothing.
    node.identities
        .put(api_key(2).1, identity("other", &["demo:who"]));
    session
        .call(request("demo/who", &json!(null)))
        .await
        .unwrap();
    node.identities.remove(&key);
    let ended = timeout(Duration::from_secs(1), session.closed()).await;
    assert_eq!(ended.unwrap().code, Some(connection_code::UNAUTHENTICATED));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_becomes_somebody_else_s_ends_the_connection() {
    let node = Node::new(vec![]);
    let (text, key) = api_key(1);
    node.identities
        .put(key.clone(), identity("robot", &["demo:who"]));
    let (session, served) = start(&node, node.alice(), with_key(&text)).await;
    let (session, _served) = (session.unwrap(), served.unwrap());
    node.identities.put(key, identity("other", &["demo:who"]));
    let ended = timeout(Duration::from_secs(1), session.closed()).await;
    assert_eq!(ended.unwrap().code, Some(connection_code::UNAUTHENTICATED));
}

#[test]
fn a_key_never_prints() {
    let config = with_key("alk_canary");
    let frame = hello(config.credential.clone());
    assert!(!format!("{config:?} {frame:?}").contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_says_nothing_is_given_ten_seconds() {
    let node = Node::new(vec![]);
    let (ours, theirs) = connection_pair(Default::default());
    let begun = Instant::now();
    let served = Session::start(
        theirs,
        Some(node.door.clone()),
        node.alice(),
        Default::default(),
    );
    let served = served.await;
    assert!(matches!(served, Err(SessionError::NoHello)), "{served:?}");
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(ours.closed().await.code, Some(connection_code::NO_HELLO));
}

/// Found by the fuzzer: the room for a chunk was reckoned where there is none.
#[tokio::test]
async fn another_frame_that_begins_in_place_of_a_hello_is_refused() {
    let node = Node::new(vec![]);
    for frame in alknet_call::FrameType::ALL {
        let (ours, theirs) = connection_pair(Default::default());
        let door = Some(node.door.clone());
        let mut send = ours.open_uni().await.unwrap();
        let begun = [*frame as u8, 0, 0, 40, 0, 0, 0, 0, 1];
        send.write_all(&begun).await.unwrap();
        send.finish();
        let served = Session::start(theirs, door, node.alice(), SessionConfig::default());
        let served = served.await;
        assert!(
            matches!(served, Err(SessionError::RefusedHello(_))),
            "{frame}: {served:?}"
        );
        assert_eq!(
            ours.closed().await.code,
            Some(connection_code::BAD_HELLO),
            "{frame}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_hello_of_their_side() {
    let node = Node::new(vec![]);
    let (ours, theirs) = connection_pair(Default::default());
    let served = tokio::spawn(Session::start(
        theirs,
        Some(node.door.clone()),
        node.alice(),
        SessionConfig::default(),
    ));
    let mut stream = ours.open_bi().await.unwrap();
    let invoke = invoke("demo/sleep");
    stream.send.write_all(&invoke).await.unwrap();
    stream.send.finish();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.sleeping.count(), 0);
    say_hello(&*ours).await;
    node.sleeping.until(1).await;
    drop(served.await.unwrap().unwrap());
    node.sleeping.until(0).await;
}

fn invoke(operation: &str) -> bytes::Bytes {
    let header = alknet_call::Invoke {
        call_id: [0; 16],
        operation: operation.into(),
        kind: alknet_call::CallKind::Unary,
        budget_ms: None,
        route: vec![],
        via: vec![],
        originator: None,
        idempotency_key: None,
        can_answer: false,
        wants_progress: false,
        trace: None,
    };
    Frame::Invoke(Box::new(header), "null".into()).to_bytes()
}

async fn refused(first: &[u8]) -> (SessionError, ConnectionClosed) {
    let node = Node::new(vec![]);
    let (ours, theirs) = connection_pair(Default::default());
    let mut send = ours.open_uni().await.unwrap();
    send.write_all(first).await.unwrap();
    send.finish();
    let served = Session::start(
        theirs,
        Some(node.door.clone()),
        node.alice(),
        Default::default(),
    );
    (served.await.unwrap_err(), ours.closed().await)
}

#[tokio::test]
async fn what_is_no_hello_closes_the_connection() {
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0x01, 0, 0, 1],
        Frame::Done("1".into()).to_bytes().to_vec(),
        vec![0x01, 0, 0xff, 0xff, 0, 0, 0, 0],
    ] {
        let (error, closed) = refused(&bytes).await;
        assert!(
            matches!(
                error,
                SessionError::BadHello(_) | SessionError::RefusedHello(_)
            ),
            "{error:?}"
        );
        assert_eq!(closed.code, Some(connection_code::BAD_HELLO));
    }
}

#[tokio::test]
async fn another_version_and_senseless_limits_are_refused() {
    let Frame::Hello(fine, _) = hello(None) else {
        unreachable!()
    };
    let mut other = fine.clone();
    other.versions = vec![2, 3];
    let (error, closed) = refused(&Frame::Hello(other, None).to_bytes()).await;
    assert!(
        matches!(error, SessionError::NoCommonVersion { .. }),
        "{error}"
    );
    assert_eq!(closed.code, Some(connection_code::NO_COMMON_VERSION));
    let mut small = fine;
    small.limits.item_window_bytes = 16 * 1024 - 1;
    let (error, _) = refused(&Frame::Hello(small, None).to_bytes()).await;
    assert!(matches!(error, SessionError::RefusedHello(_)), "{error}");
}

#[tokio::test]
async fn unknown_features_and_newer_versions_beside_ours_are_fine() {
    let node = Node::new(vec![]);
    let (connection, served) = serve_raw_as(&node, node.alice()).await;
    assert_eq!(served.remote().features, ["future"]);
    assert_eq!(served.remote().node_name, "by-hand");
    drop::<Arc<MemoryConnection>>(connection);
}

#[tokio::test]
async fn a_second_unidirectional_stream_is_stopped() {
    let node = Node::new(vec![]);
    let (connection, _served) = serve_raw_as(&node, node.alice()).await;
    let mut more = connection.open_uni().await.unwrap();
    more.write_all(b"?").await.unwrap();
    assert_eq!(more.stopped().await, Some(stream_code::UNEXPECTED));
}
