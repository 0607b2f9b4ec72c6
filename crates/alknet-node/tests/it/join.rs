//! Invites and joins: who becomes a peer, with what, and what the others are
//! told.

use crate::support::{
    PROMPT, Pair, SOON, Stranger, TestClock, TestNode, close_code, eventually, logs, promptly,
    soon, start, start_with,
};
use alknet_call::connection_code;
use alknet_core::{CallError, ErrorCode};
use alknet_node::ticket::Ticket;
use futures::StreamExt;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

const HOUR: Duration = Duration::from_secs(3600);

async fn join(node: &TestNode, ticket: &str) -> Result<Value, CallError> {
    node.ask("peers/join", json!({ "ticket": ticket })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_told_what_each_gives() {
    let home = start("home").await;
    let laptop = start("laptop").await;
    let ticket = home
        .ticket(json!({ "grants": ["reader", "peers:list"] }))
        .await;
    let input = json!({ "ticket": ticket, "grants": ["node:read"] });
    let joined = laptop.told("peers/join", input).await;
    assert_eq!(joined["peer"], "home");
    assert_eq!(joined["you_are"], "laptop");
    assert_eq!(joined["you_gave"], json!(["node:read"]));
    assert_eq!(joined["they_gave"], json!(["reader", "peers:list"]));
    assert_eq!(joined["node_id"], home.status().node_id.as_str());
    let seen = home.peer_shown("laptop").await;
    assert_eq!(seen["grants"], json!(["reader", "peers:list"]));
    assert_eq!(seen["node_id"], laptop.status().node_id.as_str());
    let seen = laptop.peer_shown("home").await;
    assert_eq!(seen["grants"], json!(["node:read"]));
    let invites = home.told("invites/list", json!({})).await;
    assert_eq!(invites["invites"][0]["state"], "used");
    assert_eq!(invites["invites"][0]["used_by"], "laptop");
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_that_give_a_shell_are_called_so() {
    let home = start("home").await;
    let invite = home
        .told("invites/create", json!({ "grants": ["operator"] }))
        .await;
    let warnings = invite["warnings"].to_string();
    assert!(warnings.contains("may now run programs here"), "{warnings}");
    assert!(warnings.contains("loopback"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_at_the_inviting_node_is_refused_with_a_free_one() {
    let home = start("home").await;
    home.told("peers/add", json!({ "peer": "laptop" })).await;
    let laptop = start("laptop").await;
    let ticket = home.ticket(json!({})).await;
    let error = join(&laptop, &ticket).await.unwrap_err();
    assert!(error.is(ErrorCode::Conflict), "{error:?}");
    assert_eq!(error.details.unwrap()["suggestion"], "laptop-2");
    assert!(error.message.contains("`laptop-2` is free"));
    // The refusal cost the ticket nothing.
    let renamed = home.ticket(json!({ "name": "laptop-2" })).await;
    assert_eq!(
        join(&laptop, &renamed).await.unwrap()["you_are"],
        "laptop-2"
    );
    let error = home
        .ask("invites/create", json!({ "name": "laptop" }))
        .await
        .unwrap_err();
    assert!(error.is(ErrorCode::Conflict), "{error:?}");
    let invites = home.told("invites/list", json!({})).await;
    assert_eq!(invites["invites"][1]["state"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_here_costs_no_ticket() {
    let home = start("home").await;
    let laptop = start("laptop").await;
    laptop.told("peers/add", json!({ "peer": "home" })).await;
    let ticket = home.ticket(json!({})).await;
    let named = json!({ "ticket": ticket, "name": "home" });
    let error = laptop.ask("peers/join", named).await.unwrap_err();
    assert!(error.is(ErrorCode::Conflict), "{error:?}");
    // A name that nobody asked for gives way.
    assert_eq!(join(&laptop, &ticket).await.unwrap()["peer"], "home-2");
    let error = join(&laptop, &ticket).await.unwrap_err();
    assert!(error.is(ErrorCode::Conflict), "{error:?}");
    assert_eq!(error.details.unwrap()["peer"], "home-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_joins_at_once_neither_takes_the_name_of_the_other() {
    let (home, other) = (start("home").await, start("home").await);
    let laptop = start("laptop").await;
    let tickets = [home.ticket(json!({})).await, other.ticket(json!({})).await];
    let (one, two) = tokio::join!(join(&laptop, &tickets[0]), join(&laptop, &tickets[1]));
    let mut names = [one, two].map(|joined| joined.unwrap()["peer"].to_string());
    names.sort();
    assert_eq!(names, ["\"home\"", "\"home-2\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_no_good_says_which() {
    let clock = TestClock::default();
    let home = start_with("home", |home| home.clock(clock.shared())).await;
    let laptop = start("laptop").await;
    let ticket = home.ticket(json!({ "expires_ms": 3_600_000 })).await;
    let code = async |ticket: &str| join(&laptop, ticket).await.unwrap_err().code;

    assert_eq!(code("hello").await, "TICKET_INVALID");
    let cut = join(&laptop, &ticket[..ticket.len() - 9])
        .await
        .unwrap_err();
    assert_eq!(cut.code, "TICKET_INVALID");
    assert!(cut.message.contains("truncated"), "{}", cut.message);
    let mut changed = ticket.clone().into_bytes();
    changed[40] = if changed[40] == b'a' { b'b' } else { b'a' };
    let changed = join(&laptop, std::str::from_utf8(&changed).unwrap()).await;
    let changed = changed.unwrap_err();
    assert_eq!(changed.code, "TICKET_INVALID");
    assert!(changed.message.contains("damaged"), "{}", changed.message);

    let mut forged = Ticket::parse(&ticket).unwrap();
    forged.secret[3] ^= 1;
    assert_eq!(code(&forged.encode()).await, "TICKET_WRONG");

    let revoked = home
        .told("invites/create", json!({ "expires_ms": 3_600_000 }))
        .await;
    home.told("invites/revoke", json!({ "id": revoked["id"] }))
        .await;
    assert_eq!(
        code(revoked["ticket"].as_str().unwrap()).await,
        "TICKET_REVOKED"
    );

    let other = Stranger::new().await;
    other.redeem(&home, &ticket, json!({})).await.unwrap();
    assert_eq!(code(&ticket).await, "TICKET_USED");

    // Expired by its own clock, with another invite that keeps the door open.
    let short = home.ticket(json!({ "expires_ms": 60_000 })).await;
    clock.forward(Duration::from_secs(120));
    assert_eq!(code(&short).await, "TICKET_EXPIRED");
    // So long ago that no clock which is a day off can make it valid.
    let mut old = Ticket::parse(&short).unwrap();
    old.expires_at.0 -= 4 * 24 * 3_600_000;
    assert_eq!(code(&old.encode()).await, "TICKET_EXPIRED");

    assert!(home.status().peers == 1 && laptop.status().peers == 0);
    // All but those that never left the laptop are in the audit log.
    let refused = json!({ "operation": "invites/redeem", "outcome": "refused" });
    let refused = eventually("four refusals", async || {
        let rows = home.audit(refused.clone()).await;
        (rows.len() == 4).then_some(rows)
    })
    .await;
    let outcomes: Vec<_> = refused.iter().map(|row| &row["outcome"]).collect();
    assert_eq!(
        outcomes,
        [
            "TICKET_EXPIRED",
            "TICKET_USED",
            "TICKET_REVOKED",
            "TICKET_WRONG"
        ]
    );
    let id = laptop.status().node_id;
    assert!(refused[0]["caller"].as_str().unwrap().contains(&id[..16]));
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_ticket_is_refused() {
    let home = start("home").await;
    let ticket = home.ticket(json!({})).await;
    let error = join(&home, &ticket).await.unwrap_err();
    assert_eq!(error.code, "TICKET_INVALID");
    assert!(
        error.message.contains("of this node itself"),
        "{}",
        error.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_with_the_same_key_succeeds_until_the_peer_is_removed() {
    let home = start("home").await;
    let ticket = home.ticket(json!({ "grants": ["reader"] })).await;
    let newcomer = Stranger::new().await;
    let first = newcomer.redeem(&home, &ticket, json!({})).await.unwrap();
    let again = newcomer
        .redeem(&home, &ticket, json!({ "name": "another" }))
        .await
        .unwrap();
    assert_eq!(first["joined"]["you_are"], "stranger");
    assert_eq!(again["joined"]["you_are"], "stranger");
    assert_eq!(again["joined"]["gives"], json!(["reader"]));
    assert_eq!(home.status().peers, 1);
    home.told("peers/remove", json!({ "peer": "stranger" }))
        .await;
    let third = newcomer.redeem(&home, &ticket, json!({})).await.unwrap();
    assert_eq!(third["refused"]["code"], "TICKET_USED");
    assert_eq!(home.status().peers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ticket_makes_one_peer_however_many_come_at_once() {
    let home = start("home").await;
    let ticket = home.ticket(json!({})).await;
    let mut newcomers = Vec::new();
    for _ in 0..5 {
        newcomers.push(Stranger::new().await);
    }
    let names: Vec<Value> = (0..5)
        .map(|n| json!({ "name": format!("stranger{n}") }))
        .collect();
    let redeemed = newcomers
        .iter()
        .zip(&names)
        .map(|(newcomer, name)| newcomer.redeem(&home, &ticket, name.clone()));
    let answers = futures::future::join_all(redeemed).await;
    let joined = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().get("joined").is_some())
        .count();
    assert_eq!((joined, home.status().peers), (1, 1), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_five_failures_slow_an_address_down() {
    let home = start("home").await;
    let ticket = home.ticket(json!({})).await;
    let mut forged = Ticket::parse(&ticket).unwrap();
    forged.secret[0] ^= 1;
    let forged = forged.encode();
    let guesser = Stranger::new().await;
    for _ in 0..5 {
        let answer = guesser.redeem(&home, &forged, json!({})).await.unwrap();
        assert_eq!(answer["refused"]["code"], "TICKET_WRONG");
    }
    let began = Instant::now();
    let answer = guesser.redeem(&home, &forged, json!({})).await.unwrap();
    assert_eq!(answer["refused"]["code"], "TICKET_WRONG");
    assert!(began.elapsed() >= Duration::from_secs(1));
    let began = Instant::now();
    // The good one waits too, and longer: the address counts, not the guess.
    let answer = guesser.redeem(&home, &ticket, json!({})).await.unwrap();
    assert!(answer.get("joined").is_some());
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_a_newcomer_are_vetted() {
    let home = start("home").await;
    let ticket = home.ticket(json!({})).await;
    let newcomer = Stranger::new().await;
    let says = json!({ "addresses": {
        "direct": ["169.254.169.254:80", "[fe80::1]:1", "0.0.0.0:9", "224.0.0.1:9", "10.1.2.3:4433", "10.1.2.3:4433"],
        "relays": ["http://relay.example.org", "https://relay.example.org", "file:///etc/passwd", "https://169.254.169.254/", "https://[::ffff:169.254.1.1]/", "https://localhost/", "http://10.0.0.1:3340/"],
    }});
    newcomer.redeem(&home, &ticket, says).await.unwrap();
    let seen = home.peer_shown("stranger").await;
    assert_eq!(seen["addresses"], json!(["10.1.2.3:4433"]));
    assert_eq!(seen["relays"], json!(["https://relay.example.org/"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_grants_fits_into_the_exchange() {
    let (home, laptop) = (start("home").await, start("laptop").await);
    let grants: Vec<String> = (0..300).map(|n| format!("area{n}:read")).collect();
    let ticket = home.ticket(json!({ "grants": grants })).await;
    let input = json!({ "ticket": ticket, "grants": grants });
    let joined = laptop.told("peers/join", input).await;
    let told = joined["they_gave"].as_array().unwrap();
    let rest = told.last().unwrap().as_str().unwrap();
    assert_eq!(rest, format!("and {} more", 301 - told.len()));
    let held = home.peer_shown("laptop").await;
    assert_eq!(held["grants"].as_array().unwrap().len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_join_request_is_closed_and_harms_nobody() {
    let home = start("home").await;
    let ticket = home.ticket(json!({})).await;
    let newcomer = Stranger::new().await;
    for garbage in [&b"hello"[..], &[b'x'; 5000], b"{}", b""] {
        let closed = newcomer.say_to_join(&home, garbage).await.unwrap_err();
        assert!(
            closed.contains(&format!("{:#x}", connection_code::NOT_ADMITTED)),
            "{closed}"
        );
    }
    let hex = newcomer
        .redeem(&home, &ticket, json!({ "secret": "zz" }))
        .await
        .unwrap();
    assert_eq!(hex["refused"]["code"], "TICKET_INVALID");
    let nameless = newcomer
        .redeem(&home, &ticket, json!({ "name": "???" }))
        .await
        .unwrap();
    assert_eq!(nameless["refused"]["code"], "INVALID_INPUT");
    let joined = newcomer.redeem(&home, &ticket, json!({})).await.unwrap();
    assert!(joined.get("joined").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_newcomer_that_says_nothing_is_cut() {
    let home = start("home").await;
    home.ticket(json!({})).await;
    let silent = Stranger::new().await;
    let connection = silent.connect(&home, b"alknet/join/1").await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(b"{").await.unwrap();
    let began = Instant::now();
    soon(connection.closed()).await;
    assert_eq!(
        close_code(&connection),
        Some(u64::from(connection_code::NOT_ADMITTED))
    );
    assert!(began.elapsed() > Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_unexpired_invite_strangers_are_closed_before_a_stream_is_read() {
    let clock = TestClock::default();
    let home = start_with("home", |home| home.clock(clock.shared())).await;
    let stranger = Stranger::new().await;
    let shut = async || {
        let connection = stranger.connect(&home, b"alknet/join/1").await;
        // Nothing is sent: the key alone decides.
        let Ok(connection) = connection else {
            return true;
        };
        let closed = tokio::time::timeout(PROMPT, connection.closed()).await;
        closed.is_ok() && close_code(&connection) == Some(u64::from(connection_code::NOT_ADMITTED))
    };
    assert!(shut().await, "no invite was ever made");
    let ticket = home.ticket(json!({ "expires_ms": 60_000 })).await;
    assert!(!shut().await, "an invite is open");
    clock.forward(HOUR);
    assert!(shut().await, "the invite has expired");
    let laptop = start("laptop").await;
    let error = join(&laptop, &ticket).await.unwrap_err();
    assert_eq!(error.code, "TICKET_WRONG");
    assert!(error.message.contains("no open invite"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_access_ends_live_connections() {
    let clock = TestClock::default();
    let offers = crate::support::Offers::default();
    let operations = offers.operations();
    let home = start_with("home", |home| {
        home.clock(clock.shared()).operations(operations)
    })
    .await;
    let laptop = start("laptop").await;
    let input = json!({ "grants": ["test:*"], "access_for_ms": 3_600_000 });
    let ticket = home.ticket(input).await;
    let joined = join(&laptop, &ticket).await.unwrap();
    assert!(joined["expires_at"].is_string(), "{joined}");
    let pair = Pair { home, laptop };
    pair.linked().await;

    let mut items = soon(pair.at_home().subscribe::<_, u32>("test/hold-items", &()))
        .await
        .unwrap();
    assert_eq!(soon(items.next()).await.unwrap().unwrap(), 1);
    offers.held.until(1).await;
    clock.forward(HOUR + Duration::from_secs(1));
    // The clock is looked at every second, however it was set.
    let ended = tokio::time::timeout(2 * PROMPT, items.next()).await;
    assert!(ended.unwrap().unwrap().is_err());
    promptly(offers.held.until(0)).await;
    eventually("the connection is gone", async || {
        let seen = pair.home.peer_shown("laptop").await;
        (seen["connected"] == false).then_some(())
    })
    .await;
    // The laptop may learn of it with its first call, which is lost then.
    eventually("the laptop knows that the link is gone", async || {
        let error = pair.at_home().call_json("test/echo", &json!(1)).await;
        error.unwrap_err().is(ErrorCode::Unavailable).then_some(())
    })
    .await;
    // The end is lifted: the peer comes back by itself.
    let lifted = json!({ "peer": "laptop", "access_for_ms": 0 });
    pair.home.told("peers/update", lifted).await;
    pair.laptop.connected("home", SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn access_is_counted_in_years_at_most() {
    let home = start("home").await;
    let most = json!({ "peer": "tablet", "access_for_ms": u64::MAX });
    for (operation, input, pointer) in [
        ("peers/add", most.clone(), "/access_for_ms"),
        (
            "peers/update",
            json!({ "peer": "phone", "access_for_ms": u64::MAX }),
            "/access_for_ms",
        ),
        (
            "invites/create",
            json!({ "access_for_ms": u64::MAX }),
            "/access_for_ms",
        ),
        (
            "peers/rotate",
            json!({ "peer": "phone", "node_id": Stranger::new().await.id(), "overlap_ms": u64::MAX }),
            "/overlap_ms",
        ),
    ] {
        if operation == "peers/update" {
            home.told("peers/add", json!({ "peer": "phone" })).await;
        }
        let error = home.ask(operation, input).await.unwrap_err();
        assert!(error.is(ErrorCode::InvalidInput), "{operation}: {error:?}");
        assert!(error.message.contains(pointer), "{operation}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_invite_hears_who_came() {
    let home = start("home").await;
    let laptop = start("laptop").await;
    let invite = home.told("invites/create", json!({})).await;
    let watching = json!({ "id": invite["id"] });
    let mut states = home
        .client()
        .subscribe::<_, Value>("invites/watch", &watching)
        .await
        .unwrap();
    let first = soon(states.next()).await.unwrap().unwrap();
    assert_eq!(first["state"], "open");
    join(&laptop, invite["ticket"].as_str().unwrap())
        .await
        .unwrap();
    let last = soon(states.next()).await.unwrap().unwrap();
    assert_eq!(
        (&last["state"], &last["peer"]),
        (&json!("used"), &json!("laptop"))
    );
    assert!(soon(states.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_of_an_invite_stays_in_its_ticket() {
    let logs = logs();
    let home = start_with("home", |home| home.logs(logs.clone())).await;
    let laptop = start_with("laptop", |laptop| laptop.logs(logs.clone())).await;
    let created = home
        .told("invites/create", json!({ "grants": ["reader"] }))
        .await;
    let ticket = created["ticket"].as_str().unwrap();
    let mut forged = Ticket::parse(ticket).unwrap();
    forged.secret[0] ^= 1;
    let forged = forged.encode();
    join(&laptop, &forged).await.unwrap_err();
    join(&laptop, ticket).await.unwrap();
    let mut canaries = Vec::new();
    for text in [ticket, &forged] {
        let secret = Ticket::parse(text).unwrap().secret;
        canaries.push(text.as_bytes()[20..60].to_vec());
        canaries.push(data_encoding::HEXLOWER.encode(&secret).into_bytes());
        canaries.push(secret.to_vec());
    }
    let mut told = Vec::new();
    for (node, last) in [(&home, "invites/redeem"), (&laptop, "peers/join")] {
        node.audit(json!({ "operation": last, "outcome": "ok" }))
            .await;
        told.push(node.told("audit/list", json!({})).await.to_string());
        told.push(node.told("invites/list", json!({})).await.to_string());
        told.push(node.told("peers/list", json!({})).await.to_string());
        let lines = node
            .client()
            .subscribe::<_, Value>("node/logs", &json!({ "follow": false, "lines": 2000 }))
            .await;
        let lines: Vec<_> = lines.unwrap().collect().await;
        assert!(!lines.is_empty(), "the log was not kept");
        told.push(format!("{lines:?}"));
    }
    let mut stores = told
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect::<Vec<_>>();
    for node in [&home, &laptop] {
        for entry in std::fs::read_dir(node.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                stores.push(std::fs::read(path).unwrap());
            }
        }
    }
    for text in &stores {
        for canary in &canaries {
            let leaks = text.windows(canary.len()).any(|part| part == canary);
            assert!(!leaks, "in {}", String::from_utf8_lossy(text));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_names_the_relay_that_its_node_is_still_on_the_way_to() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", nobody.local_addr().unwrap());
    let home = start_with("home", |home| home.relays([&url])).await;
    let ticket = Ticket::parse(&home.ticket(json!({})).await).unwrap();
    assert_eq!(ticket.relays, [url]);
}

/// A relay answers a key on its newest connection: a joiner with two of them
/// would wait for the answer on the other one.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_at_the_inviters_relay_already_joins_through_it() {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let open = Server::spawn(config).await.unwrap();
    let url = format!("http://{}/", open.http_addr().unwrap());
    let home = start_with("home", |home| home.relays([&url])).await;
    let is_there = || async {
        let used = home.status().relays_in_use;
        used.iter().any(|relay| relay.connected).then_some(())
    };
    eventually("the inviting node is at the relay", is_there).await;
    for n in 1..=4 {
        let mut ticket = Ticket::parse(&home.ticket(json!({})).await).unwrap();
        ticket.addresses.clear();
        let guest = start_with(&format!("guest-{n}"), |guest| guest.relays([&url])).await;
        // At once: it may be on its way to the relay.
        let joined = join(&guest, &ticket.encode()).await.unwrap();
        assert_eq!(joined["peer"], "home");
    }
}
