//! Who is shut out, by whom and until when; who is slowed down; and who is not,
//! whatever others do.

use crate::support::{
    Offers, Stranger, TestClock, TestNode, builder, close_code, eventually, promptly, soon, start,
    start_configured, start_with,
};
use alknet_call::{
    ALPN, Bearer, Session, SessionConfig, SessionError, connection_code, quic::QuicConnection,
};
use alknet_core::{Caller, ErrorCode};
use alknet_node::ticket::Ticket;
use serde_json::{Value, json};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

const NOT_ADMITTED: Option<u64> = Some(connection_code::NOT_ADMITTED as u64);

/// An address of loopback that is not the one from which a node is commanded.
fn elsewhere(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 7, n)
}

async fn ban(home: &TestNode, target: &str, more: Value) -> Value {
    let mut input = json!({ "target": target });
    for (field, value) in more.as_object().unwrap() {
        input[field] = value.clone();
    }
    home.told("bans/add", input).await
}

async fn refused(home: &TestNode, kind: &str) -> u64 {
    let metrics = home.told("node/metrics", json!({})).await;
    metrics["refused"][kind].as_u64().unwrap()
}

/// Whether a connection of this protocol is closed at once.
async fn is_shut_out(stranger: &Stranger, home: &TestNode) -> bool {
    match stranger.connect(home, ALPN).await {
        Ok(connection) => {
            promptly(connection.closed()).await;
            close_code(&connection) == NOT_ADMITTED
        }
        Err(_) => true,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_peer_is_cut_off_within_a_second_and_stays_out_until_it_is_let_in() {
    let offers = Offers::default();
    let operations = offers.operations();
    let home = start_with("home", |home| home.operations(operations)).await;
    let tablet = Stranger::known_to(&home, "tablet", &["test:*"]).await;
    let phone = Stranger::known_to(&home, "phone", &["test:*"]).await;
    let (client, unharmed) = (tablet.client(&home).await, phone.client(&home).await);
    let held = client.clone();
    let call = tokio::spawn(async move { held.call_json("test/hold", &Value::Null).await });
    soon(offers.held.until(1)).await;

    let reply = ban(
        &home,
        "tablet",
        json!({ "for_ms": 3_600_000, "reason": "lost\n" }),
    )
    .await;
    assert_eq!(
        (&reply["closed"], &reply["kind"]),
        (&json!(1), &json!("peer"))
    );
    let closed = promptly(client.session().unwrap().closed()).await;
    assert_eq!(closed.code, Some(connection_code::NOT_ADMITTED));
    assert!(promptly(call).await.unwrap().is_err());
    assert!(is_shut_out(&tablet, &home).await);
    let echoed = unharmed.call_json("test/echo", &json!(1)).await;
    assert_eq!(echoed.unwrap(), 1);

    let listed = home.told("bans/list", json!({})).await;
    assert_eq!(listed["bans"].as_array().unwrap().len(), 1);
    assert_eq!(listed["bans"][0]["target"], "tablet");
    assert_eq!(listed["bans"][0]["banned_by"], "host");
    let rows = home.audit(json!({ "operation": "bans/add" })).await;
    assert!(
        rows.iter().any(|row| row["resource"] == "tablet"),
        "{rows:?}"
    );

    home.told("bans/remove", json!({ "target": "tablet" }))
        .await;
    let client = tablet.client(&home).await;
    assert_eq!(client.call_json("test/echo", &json!(2)).await.unwrap(), 2);
    let again = home.ask("bans/remove", json!({ "target": "tablet" })).await;
    assert!(again.unwrap_err().is(ErrorCode::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_address_is_cut_off_and_refused_before_its_handshake() {
    let home = start("home").await;
    let tablet = Stranger::at(elsewhere(1)).await;
    let tablet = tablet.becomes(&home, "tablet", &["node/info"]).await;
    let near = Stranger::at(elsewhere(2)).await;
    let near = near.becomes(&home, "near", &["node/info"]).await;
    let (client, unharmed) = (tablet.client(&home).await, near.client(&home).await);
    let reply = ban(&home, "127.0.7.1", json!({})).await;
    assert_eq!(
        (&reply["closed"], &reply["until"]),
        (&json!(1), &Value::Null)
    );
    promptly(client.session().unwrap().closed()).await;
    let before = refused(&home, "banned").await;
    let error = promptly(tablet.connect(&home, ALPN)).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
    assert!(refused(&home, "banned").await > before);
    unharmed.call_json("node/info", &json!({})).await.unwrap();
    // The same of a prefix, which holds both.
    home.told("bans/remove", json!({ "target": "127.0.7.1" }))
        .await;
    tablet.client(&home).await;
    let reply = ban(&home, "127.0.7.9/24", json!({})).await;
    assert_eq!(reply["target"], "127.0.7.0/24");
    promptly(unharmed.session().unwrap().closed()).await;
    promptly(near.connect(&home, ALPN)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_key_is_refused_wherever_it_comes_from_and_whoevers_it_is() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &["node/info"]).await;
    let client = tablet.client(&home).await;
    ban(&home, &tablet.id(), json!({})).await;
    promptly(client.session().unwrap().closed()).await;
    assert!(is_shut_out(&tablet, &home).await);
    let listed = home.told("bans/list", json!({})).await;
    assert_eq!(
        listed["bans"][0]["target"],
        format!("ed25519:{}", tablet.id())
    );
    // A newcomer that is shut out redeems no ticket.
    let ticket = home.ticket(json!({})).await;
    let newcomer = Stranger::new().await;
    ban(&home, &newcomer.id(), json!({})).await;
    newcomer
        .redeem(&home, &ticket, json!({}))
        .await
        .unwrap_err();
    let target = json!({ "target": newcomer.id() });
    home.told("bans/remove", target).await;
    let answer = newcomer.redeem(&home, &ticket, json!({})).await.unwrap();
    assert!(answer.get("joined").is_some(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_ends_by_the_clock_and_survives_a_restart_until_then() {
    let clock = TestClock::default();
    let told = clock.shared();
    let mut home = start_with("home", |home| home.clock(told)).await;
    let tablet = Stranger::known_to(&home, "tablet", &["node/info"]).await;
    ban(&home, "tablet", json!({ "for_ms": 3_600_000 })).await;
    home.stop().await;
    let told = clock.shared();
    home.start_again_with(|home| home.clock(told)).await;
    assert!(is_shut_out(&tablet, &home).await);
    clock.forward(Duration::from_secs(3601));
    let client = tablet.client(&home).await;
    client.call_json("node/info", &json!({})).await.unwrap();
    let listed = home.told("bans/list", json!({})).await;
    assert_eq!(listed["bans"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_in_of_the_owner_cannot_be_shut_out_by_accident() {
    let home = start("home").await;
    let owner = home.peer_shown("owner").await["node_id"].clone();
    for target in [
        "owner",
        owner.as_str().unwrap(),
        &home.status().node_id,
        "127.0.0.1",
        "127.0.0.0/8",
        "0.0.0.0/0",
        "::1",
        "::/0",
        "::ffff:127.0.0.1",
        "10.0.0.0/7",
    ] {
        let error = home.ask("bans/add", json!({ "target": target })).await;
        let error = error.unwrap_err();
        assert!(error.is(ErrorCode::Conflict), "{target}: {error:?}");
    }
    for (input, code) in [
        (json!({ "target": "nobody" }), ErrorCode::NotFound),
        (json!({ "target": "no one" }), ErrorCode::InvalidInput),
        (
            json!({ "target": "10.0.0.1", "for_ms": 0 }),
            ErrorCode::InvalidInput,
        ),
        (
            json!({ "target": "10.0.0.1", "for_ms": u64::MAX }),
            ErrorCode::InvalidInput,
        ),
    ] {
        let error = home.ask("bans/add", input.clone()).await.unwrap_err();
        assert!(error.is(code), "{input}: {error:?}");
    }
    // Nor does whoever may ask for bans shut itself out.
    let tablet = Stranger::known_to(&home, "tablet", &["bans:*"]).await;
    let client = tablet.client(&home).await;
    let own = client
        .call_json("bans/add", &json!({ "target": "tablet" }))
        .await;
    assert!(own.unwrap_err().is(ErrorCode::Conflict));
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["bans"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_slow_their_address_down_and_in_the_end_shut_it_out() {
    let home = start_configured("home", "[bans]\nscore_max = 40\n").await;
    let source = elsewhere(11);
    let knock = async || {
        let stranger = Stranger::at(source).await;
        if let Ok(connection) = stranger.connect(&home, ALPN).await {
            promptly(connection.closed()).await;
        }
    };
    for _ in 0..5 {
        knock().await;
    }
    assert_eq!(refused(&home, "unknown_key").await, 5);
    // A second has not passed: not even a handshake is done.
    knock().await;
    assert!(refused(&home, "slowed_down").await > 0);
    assert_eq!(refused(&home, "unknown_key").await, 5);
    // Whoever keeps on without waiting is shut out.
    eventually("it is shut out", async || {
        knock().await;
        let metrics = home.told("node/metrics", json!({})).await;
        (metrics["bans_automatic"] == 1).then_some(())
    })
    .await;
    let listed = home.told("bans/list", json!({})).await;
    let held = &listed["bans"][0];
    assert_eq!(
        (&held["target"], &held["banned_by"]),
        (&json!("127.0.7.11"), &json!("node"))
    );
    assert!(
        held["reason"].as_str().unwrap().contains("misbehaved"),
        "{held}"
    );
    let before = refused(&home, "banned").await;
    knock().await;
    assert!(refused(&home, "banned").await > before);
    let rows = home
        .audit(json!({ "operation": "bans/add", "caller": "node" }))
        .await;
    assert_eq!(rows[0]["resource"], "127.0.7.11");
    // Others never noticed.
    let tablet = Stranger::at(elsewhere(12)).await;
    let tablet = tablet.becomes(&home, "tablet", &["node/info"]).await;
    promptly(tablet.client(&home)).await;
    // Let in again, it begins anew.
    home.told("bans/remove", json!({ "target": "127.0.7.11" }))
        .await;
    let before = refused(&home, "unknown_key").await;
    knock().await;
    assert_eq!(refused(&home, "unknown_key").await, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_behind_the_address_of_a_known_peer_do_not_shut_it_out() {
    let home = start_configured("home", "[bans]\nscore_max = 20\n").await;
    let shared = elsewhere(21);
    let tablet = Stranger::at(shared).await;
    let tablet = tablet.becomes(&home, "tablet", &["node/info"]).await;
    drop(tablet.client(&home).await);
    for _ in 0..30 {
        let stranger = Stranger::at(shared).await;
        if let Ok(connection) = stranger.connect(&home, ALPN).await {
            promptly(connection.closed()).await;
        }
    }
    let client = promptly(tablet.client(&home)).await;
    client.call_json("node/info", &json!({})).await.unwrap();
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(
        (&metrics["bans"], &metrics["refused"]["banned"]),
        (&json!(0), &json!(0))
    );
    assert!(
        metrics["refused"]["unknown_key"].as_u64().unwrap() >= 20,
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_of_tickets_waits_alone_and_is_shut_out() {
    let config = "[bans]\nscore_max = 35\n[limits]\nfailures_before_delay = 2\n";
    let home = start_configured("home", config).await;
    let ticket = home.ticket(json!({})).await;
    let mut forged = Ticket::parse(&ticket).unwrap();
    forged.secret[0] ^= 1;
    let forged = forged.encode();
    let guesser = Stranger::at(elsewhere(31)).await;
    for _ in 0..2 {
        let answer = guesser.redeem(&home, &forged, json!({})).await.unwrap();
        assert_eq!(answer["refused"]["code"], "TICKET_WRONG");
    }
    // Of several at a time, one waits for its answer; the others are told at
    // once.
    let guesses = (0..3).map(|_| guesser.redeem(&home, &forged, json!({})));
    let answers = futures::future::join_all(guesses).await;
    let codes = |code: &str| {
        let of_code = |answer: &&Result<Value, String>| {
            answer
                .as_ref()
                .is_ok_and(|answer| answer["refused"]["code"] == code)
        };
        answers.iter().filter(of_code).count()
    };
    assert_eq!(
        (codes("TICKET_WRONG"), codes("RATE_LIMITED")),
        (1, 2),
        "{answers:?}"
    );
    let mut last = Ok(Value::Null);
    for _ in 0..4 {
        last = guesser.redeem(&home, &forged, json!({})).await;
        if last.is_err() {
            break;
        }
    }
    eventually("it is shut out", async || {
        let metrics = home.told("node/metrics", json!({})).await;
        (metrics["bans_automatic"] == 1).then_some(())
    })
    .await;
    guesser.redeem(&home, &ticket, json!({})).await.unwrap_err();
    // The ticket is as good as before for whoever else has it.
    let newcomer = Stranger::at(elsewhere(32)).await;
    let answer = newcomer.redeem(&home, &ticket, json!({})).await.unwrap();
    assert!(answer.get("joined").is_some(), "{answer} {last:?}");
}

/// Presents this as an API key on a connection of a known peer.
async fn present(peer: &Stranger, home: &TestNode, text: &str) -> Result<(), SessionError> {
    let connection = peer.connect(home, ALPN).await.unwrap();
    let config = SessionConfig {
        credential: Some(Bearer::new(text)),
        ..SessionConfig::default()
    };
    let connection = Arc::new(QuicConnection::new(connection));
    let started = Session::start(connection, None, Caller::anonymous(), config);
    soon(started).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_api_keys_slow_down_the_peer_that_presents_them_and_nobody_else() {
    let home = start("home").await;
    let tablet = Stranger::known_to(&home, "tablet", &["node/info"]).await;
    let phone = Stranger::known_to(&home, "phone", &["node/info"]).await;
    let wrong = format!("alk_{}", "a".repeat(60));
    for _ in 0..5 {
        let refused = present(&tablet, &home, &wrong).await.unwrap_err();
        assert!(
            matches!(refused, SessionError::Unauthenticated),
            "{refused:?}"
        );
    }
    let refused = present(&tablet, &home, &wrong).await.unwrap_err();
    let SessionError::Closed(closed) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(closed.code, Some(connection_code::LIMIT), "{refused:?}");
    assert!(closed.reason.contains("wait"), "{refused:?}");
    // Without one it comes in as itself; the other's guesses are looked at.
    tablet.client(&home).await;
    let refused = present(&phone, &home, &wrong).await.unwrap_err();
    assert!(
        matches!(refused, SessionError::Unauthenticated),
        "{refused:?}"
    );
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["refused"]["wrong_api_key"], 6);
    assert_eq!(metrics["bans"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_keeps_breaking_the_protocol_is_shut_out_by_its_key() {
    let home = start_configured("home", "[bans]\nscore_max = 30\nban_ms = 60000\n").await;
    let tablet = Stranger::known_to(&home, "tablet", &["node/info"]).await;
    let phone = Stranger::known_to(&home, "phone", &["node/info"]).await;
    // Three points each, of which little is forgiven meanwhile.
    for n in 0..11 {
        let session = tablet.connect(&home, ALPN).await.unwrap();
        let mut first = session.open_uni().await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        promptly(session.closed()).await;
        assert_eq!(
            close_code(&session),
            Some(u64::from(connection_code::BAD_HELLO)),
            "{n}"
        );
    }
    eventually("it is shut out", async || {
        let metrics = home.told("node/metrics", json!({})).await;
        (metrics["bans_automatic"] == 1).then_some(())
    })
    .await;
    assert!(is_shut_out(&tablet, &home).await);
    let listed = home.told("bans/list", json!({})).await;
    let held = &listed["bans"][0];
    assert_eq!(held["target"], format!("ed25519:{}", tablet.id()));
    assert!(
        held["reason"].as_str().unwrap().contains("malformed"),
        "{held}"
    );
    // Its address is that of others.
    let client = promptly(phone.client(&home)).await;
    client.call_json("node/info", &json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_strangers_are_limited_and_leave_room_for_peers() {
    let config = "[limits]\nconnections_of_strangers_max = 4\nconnections_per_address_max = 3\nconnections_per_node_max = 7\n";
    let home = start_configured("home", config).await;
    let tablet = Stranger::known_to(&home, "tablet", &["node/info"]).await;
    home.ticket(json!({})).await;
    let mut held = Vec::new();
    let mut come = async |n: u8| {
        let stranger = Stranger::at(elsewhere(n)).await;
        let connection = stranger.connect(&home, b"alknet/join/1").await.unwrap();
        // Whoever is refused is told at once; the others are listened to.
        let closed = tokio::time::timeout(Duration::from_millis(300), connection.closed());
        let is_open = closed.await.is_err();
        held.push((stranger, connection));
        is_open
    };
    // At the limit of an address, and one past it; then at that of strangers.
    for (n, stays) in [
        (41, true),
        (41, true),
        (41, true),
        (41, false),
        (42, true),
        (42, false),
    ] {
        assert_eq!(come(n).await, stays, "{n}");
    }
    let metrics = home.told("node/metrics", json!({})).await;
    assert_eq!(metrics["refused"]["connections_per_address"], 1);
    assert_eq!(metrics["refused"]["connections_of_strangers"], 1);
    // Three more fit into the node; the owner comes in beyond that.
    let one = tablet.client(&home).await;
    let (two, three) = (tablet.client(&home).await, tablet.client(&home).await);
    let late = Stranger::known_to(&home, "late", &["node/info"]).await;
    let connection = late.connect(&home, ALPN).await.unwrap();
    promptly(connection.closed()).await;
    assert_eq!(
        close_code(&connection),
        Some(u64::from(connection_code::LIMIT))
    );
    assert_eq!(refused(&home, "connections_per_node").await, 1);
    let local = alknet_node::control::connect(home.dir.path())
        .await
        .unwrap();
    let info = local.client.call_json("node/info", &json!({})).await;
    assert_eq!(info.unwrap()["name"], "home");
    local.close().await;
    for client in [one, two, three] {
        client.call_json("node/info", &json!({})).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_bans_are_checked_at_the_start() {
    for (config, field) in [
        ("[bans]\nban_ms = 999\n", "bans.ban_ms"),
        ("[bans]\nscore = 1\n", "score"),
        (
            "[limits]\nfailure_delay_max_ms = 8001\n",
            "limits.failure_delay_max_ms",
        ),
        (
            "[limits]\nconnections_of_strangers_max = 0\n",
            "limits.connections_of_strangers_max",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("alknet.toml"), config).unwrap();
        let error = builder(dir.path(), "home").spawn().await.unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}
