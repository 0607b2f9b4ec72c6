//! A node that is a relay: whom it lets in, how much passes, what it counts.

use crate::support::{TestClock, TestNode, builder, eventually, promptly, soon, start_with};
use alknet_core::storage::hex32;
use alknet_node::{
    relay::{RelayAddress, RelayServerConfig, relay_token},
    ticket::Ticket,
};
use alknet_testkit::relay::trust_anybody;
use futures::{SinkExt, StreamExt};
use iroh::{EndpointId, SecretKey, dns::DnsResolver};
use iroh_relay::{
    client::{Client, ClientBuilder},
    protos::relay::{ClientToRelayMsg, RelayToClientMsg},
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::json;
use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn tls() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    trust_anybody().client_config(provider).unwrap()
}

/// On loopback, at free ports.
fn nearby(config: &mut RelayServerConfig) {
    config.enabled = true;
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.qad = "0".parse().unwrap();
}

async fn relay_with(change: impl Fn(&mut RelayServerConfig) + Send + Sync + 'static) -> TestNode {
    start_with("relay", |relay| {
        relay.relay(move |config| {
            nearby(config);
            change(config);
        })
    })
    .await
}

fn own(node: &TestNode) -> alknet_node::relay::RelayServerStatus {
    node.status().relay.unwrap()
}

fn address(node: &TestNode) -> RelayAddress {
    own(node).url.parse().unwrap()
}

/// Adds a key to the peers of a node.
async fn know(node: &TestNode, name: &str, key: &SecretKey) {
    let key = hex32::encode(key.public().as_bytes());
    node.told("peers/add", json!({ "peer": name, "node_id": key }))
        .await;
}

/// Connects as this key; or what the relay said.
async fn connect(node: &TestNode, key: &SecretKey, token: Option<&str>) -> Result<Client, String> {
    let url = address(node).url().clone();
    let mut builder =
        ClientBuilder::new(url, key.clone(), DnsResolver::new()).tls_client_config(tls());
    if let Some(token) = token {
        builder = builder.auth_token(token);
    }
    let connected = soon(builder.connect()).await;
    connected.map_err(|error| format!("{error:#}"))
}

/// Waits until the relay has ended a connection.
async fn ended(mut client: Client) {
    promptly(async { while let Some(Ok(_)) = client.next().await {} }).await;
}

/// The first relay in use of a node, once it is as wanted.
async fn in_use(node: &TestNode, wanted: impl Fn(&alknet_node::relay::RelayUse) -> bool) {
    eventually("the relay is used as it should", async || {
        let used = node.status().relays_in_use;
        wanted(used.first()?).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_a_removed_peer_is_cut_off() {
    let relay = relay_with(|_| {}).await;
    let key = SecretKey::generate();
    let refused = connect(&relay, &key, None).await.unwrap_err();
    assert!(refused.contains("join with an invite"), "{refused}");
    know(&relay, "laptop", &key).await;
    let client = connect(&relay, &key, None).await.unwrap();
    assert_eq!(own(&relay).clients, 1);
    relay
        .told("peers/remove", json!({ "peer": "laptop" }))
        .await;
    ended(client).await;
    eventually("it is counted out", async || {
        (own(&relay).clients == 0).then_some(())
    })
    .await;
    connect(&relay, &key, None).await.unwrap_err();
    // Disabling does the same.
    know(&relay, "laptop", &key).await;
    let client = connect(&relay, &key, None).await.unwrap();
    relay
        .told(
            "peers/update",
            json!({ "peer": "laptop", "enabled": false }),
        )
        .await;
    ended(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_banned_from_the_node_is_cut_off_its_relay_until_it_is_let_in() {
    let relay = relay_with(|_| {}).await;
    let key = SecretKey::generate();
    know(&relay, "laptop", &key).await;
    for target in ["laptop".to_owned(), key.public().to_string()] {
        let client = connect(&relay, &key, None).await.unwrap();
        let input = json!({ "target": target });
        relay.told("bans/add", input.clone()).await;
        ended(client).await;
        connect(&relay, &key, None).await.unwrap_err();
        relay.told("bans/remove", input).await;
        drop(connect(&relay, &key, None).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_has_one_row_of_a_client_and_not_one_a_retry() {
    let relay = relay_with(|_| {}).await;
    let key = SecretKey::generate();
    for _ in 0..5 {
        connect(&relay, &key, None).await.unwrap_err();
    }
    know(&relay, "laptop", &key).await;
    for _ in 0..5 {
        connect(&relay, &key, None).await.unwrap();
    }
    let rows = eventually("both are in the log", async || {
        let rows = relay.audit(json!({ "operation": "relay/connect" })).await;
        (rows.len() >= 2).then_some(rows)
    })
    .await;
    let told: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| {
            (
                row["caller"].as_str().unwrap(),
                row["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let stranger = format!("key:{}", &hex32::encode(key.public().as_bytes())[..16]);
    assert_eq!(told, [("laptop", "ok"), (stranger.as_str(), "FORBIDDEN")]);
    assert_eq!(own(&relay).refused, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_an_open_invite_admits_until_it_is_taken_back() {
    let relay = relay_with(|_| {}).await;
    let (newcomer, other) = (SecretKey::generate(), SecretKey::generate());
    let ticket = relay.ticket(json!({})).await;
    let hash = Ticket::parse(&ticket).unwrap().secret_hash();
    let token = relay_token(&hash);
    for wrong in [
        None,
        Some(""),
        Some("x"),
        Some(&hex32::encode(&hash)),
        Some(&token[1..]),
    ] {
        connect(&relay, &newcomer, wrong).await.unwrap_err();
    }
    let client = connect(&relay, &newcomer, Some(&token)).await.unwrap();
    assert_eq!(own(&relay).clients, 1);
    let invites = relay.told("invites/list", json!({})).await;
    let id = invites["invites"][0]["id"].as_str().unwrap();
    relay.told("invites/revoke", json!({ "id": id })).await;
    ended(client).await;
    connect(&relay, &other, Some(&token)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_that_has_joined_comes_back_as_a_peer_and_loses_nothing() {
    let relay = relay_with(|_| {}).await;
    let key = SecretKey::generate();
    let ticket = relay.ticket(json!({})).await;
    let token = relay_token(&Ticket::parse(&ticket).unwrap().secret_hash());
    let mut guest = connect(&relay, &key, Some(&token)).await.unwrap();
    know(&relay, "laptop", &key).await;
    // The answer to the join may be on its way.
    let early = connect(&relay, &key, None).await.unwrap_err();
    assert!(early.contains("connected already"), "{early}");
    let peer = eventually("it comes back", async || {
        connect(&relay, &key, None).await.ok()
    })
    .await;
    // What it came by is told, and not ended.
    let told = promptly(guest.next()).await.unwrap().unwrap();
    assert!(matches!(told, RelayToClientMsg::Status(_)), "{told:?}");
    assert_eq!(own(&relay).clients, 1);
    relay
        .told("peers/remove", json!({ "peer": "laptop" }))
        .await;
    ended(guest).await;
    ended(peer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_that_expires_ends_what_came_in_by_it() {
    let clock = TestClock::default();
    let shared = clock.shared();
    let relay = start_with("relay", |relay| relay.relay(nearby).clock(shared)).await;
    let ticket = relay.ticket(json!({ "expires_ms": 600_000 })).await;
    let token = relay_token(&Ticket::parse(&ticket).unwrap().secret_hash());
    let key = SecretKey::generate();
    let mut client = connect(&relay, &key, Some(&token)).await.unwrap();
    clock.forward(Duration::from_secs(599));
    assert!(
        connect(&relay, &SecretKey::generate(), Some(&token))
            .await
            .is_ok()
    );
    clock.forward(Duration::from_secs(1));
    assert!(connect(&relay, &key, Some(&token)).await.is_err());
    soon(async { while let Some(Ok(_)) = client.next().await {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_lets_four_newcomers_in_at_a_time() {
    let relay = relay_with(|_| {}).await;
    let ticket = relay.ticket(json!({})).await;
    let token = relay_token(&Ticket::parse(&ticket).unwrap().secret_hash());
    let mut inside = Vec::new();
    for _ in 0..4 {
        inside.push(
            connect(&relay, &SecretKey::generate(), Some(&token))
                .await
                .unwrap(),
        );
    }
    let fifth = connect(&relay, &SecretKey::generate(), Some(&token))
        .await
        .unwrap_err();
    assert!(fifth.contains("too many newcomers"), "{fifth}");
    drop(inside.pop());
    eventually("one has left", async || {
        (own(&relay).clients == 3).then_some(())
    })
    .await;
    connect(&relay, &SecretKey::generate(), Some(&token))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_let_in_up_to_the_limit_and_not_one_past_it() {
    let relay = relay_with(|config| config.clients_max = 2).await;
    let keys: Vec<SecretKey> = (0..3).map(|_| SecretKey::generate()).collect();
    for (n, key) in keys.iter().enumerate() {
        know(&relay, &format!("peer-{n}"), key).await;
    }
    // The relay's own node does not count.
    in_use(&relay, |used| used.connected).await;
    let _first = connect(&relay, &keys[0], None).await.unwrap();
    let second = connect(&relay, &keys[1], None).await.unwrap();
    let refused = connect(&relay, &keys[2], None).await.unwrap_err();
    assert!(refused.contains("as many clients as it may"), "{refused}");
    drop(second);
    eventually("one has left", async || {
        (own(&relay).clients == 1).then_some(())
    })
    .await;
    connect(&relay, &keys[2], None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_connection_and_the_newest_stays() {
    let relay = relay_with(|_| {}).await;
    let key = SecretKey::generate();
    know(&relay, "laptop", &key).await;
    let first = connect(&relay, &key, None).await.unwrap();
    let _second = connect(&relay, &key, None).await.unwrap();
    ended(first).await;
    assert_eq!(own(&relay).clients, 1);
    // Whoever came as a newcomer does not push out what it is since.
    let twice = connect(&relay, &key, Some("any")).await.unwrap_err();
    assert!(twice.contains("connected already"), "{twice}");
}

/// Sends so many bytes through the relay; how long it took until all arrived.
async fn carried(relay: &TestNode, bytes: usize) -> Duration {
    const PART: usize = 16 * 1024;
    let (from, to) = (SecretKey::generate(), SecretKey::generate());
    know(relay, "from", &from).await;
    know(relay, "to", &to).await;
    let mut receiver = connect(relay, &to, None).await.unwrap();
    let sender = connect(relay, &from, None).await.unwrap();
    let (_answers, mut sender) = sender.split();
    let began = Instant::now();
    let dst: EndpointId = to.public();
    let sending = tokio::spawn(async move {
        for _ in 0..bytes / PART {
            let datagrams = vec![7u8; PART].into();
            let message = ClientToRelayMsg::Datagrams {
                dst_endpoint_id: dst,
                datagrams,
            };
            sender.send(message).await.unwrap();
        }
        sender
    });
    let mut arrived = 0;
    soon(async {
        while arrived < bytes {
            if let RelayToClientMsg::Datagrams { datagrams, .. } =
                receiver.next().await.unwrap().unwrap()
            {
                arrived += datagrams.contents.len();
            }
        }
    })
    .await;
    let took = began.elapsed();
    drop(sending.await.unwrap());
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_peer_cannot_use_more_than_its_rate() {
    const BYTES: usize = 512 * 1024;
    let limited = relay_with(|config| (config.rate, config.burst) = (256 * 1024, 128 * 1024)).await;
    let took = carried(&limited, BYTES).await;
    // What exceeds the burst takes its time: (512 - 128) / 256 seconds.
    assert!(took >= Duration::from_millis(1400), "{took:?}");
    // And that was the rate: without it the same is there at once.
    let open = relay_with(|config| config.rate = 0).await;
    let at_once = carried(&open, BYTES).await;
    assert!(
        at_once < took / 2,
        "{at_once:?} without a rate, {took:?} with it"
    );
    let through = own(&limited);
    assert!(
        through.bytes_in >= BYTES as u64 && through.bytes_out >= BYTES as u64,
        "{through:?}"
    );
}

/// A page over plain HTTP.
async fn page(at: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let asked = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_who_came_and_what_passed() {
    let relay = relay_with(|config| config.metrics = Some("127.0.0.1:0".parse().unwrap())).await;
    let at: SocketAddr = own(&relay).metrics.unwrap().parse().unwrap();
    let count = async |name: &str| -> u64 {
        let text = page(at, "/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .trim()
            .parse()
            .unwrap()
    };
    in_use(&relay, |used| used.connected).await;
    let before = count("alknet_relay_admitted_total").await;
    assert_eq!(count("alknet_relay_refused_total").await, 0);
    connect(&relay, &SecretKey::generate(), None)
        .await
        .unwrap_err();
    carried(&relay, 64 * 1024).await;
    assert_eq!(count("alknet_relay_refused_total").await, 1);
    assert_eq!(count("alknet_relay_admitted_total").await, before + 2);
    assert!(count("relayserver_bytes_recv_total").await >= 64 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_why_a_relay_does_not_let_it_in_and_that_it_does_again() {
    let relay = relay_with(|_| {}).await;
    let url = own(&relay).url;
    let laptop = start_with("laptop", |laptop| laptop.relays([url.clone()])).await;
    in_use(&laptop, |used| {
        used.problem.as_deref() == Some("NOT_ACCEPTED") && !used.connected
    })
    .await;
    let notes = laptop.status().notes.join("\n");
    assert!(
        notes.contains("join with an invite") && notes.contains("alknet join"),
        "{notes}"
    );
    let joined = laptop
        .join(&relay.invite(&[]).await.unwrap(), &[])
        .await
        .unwrap();
    assert_eq!(joined, "relay");
    in_use(&laptop, |used| used.connected && used.problem.is_none()).await;
    assert_eq!(laptop.status().relays, [url]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_relay_is_said() {
    let relay = relay_with(|_| {}).await;
    let right = address(&relay);
    let nobody = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    // Something that answers, and is no relay.
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo_at = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // It may hang up.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let other = format!("{}#sha256={}", right.url(), "0".repeat(64));
    for (url, code) in [
        (other, "CERTIFICATE"),
        (right.url().to_string(), "CERTIFICATE_UNKNOWN"),
        (format!("https://{nobody}/"), "REFUSED"),
        (format!("https://{echo_at}/"), "NOT_TLS"),
        (format!("http://{echo_at}/"), "NOT_A_RELAY"),
    ] {
        let laptop = start_with("laptop", |laptop| laptop.relays([url.clone()])).await;
        in_use(&laptop, |used| used.problem.as_deref() == Some(code)).await;
        let used = laptop.status().relays_in_use.remove(0);
        assert!(used.message.is_some() && used.hint.is_some(), "{used:?}");
        assert!(!used.connected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_may_take_the_inviters_relays_for_its_own() {
    let relay = relay_with(|_| {}).await;
    let url = own(&relay).url;
    let ticket = async || {
        // The relay is in tickets once the node is connected to it.
        in_use(&relay, |used| used.connected).await;
        relay.ticket(json!({})).await
    };
    let plain = start_with("plain", |plain| plain).await;
    let joined = plain
        .told("peers/join", json!({ "ticket": ticket().await }))
        .await;
    assert_eq!(
        (&joined["relays"], &joined["own_relays"]),
        (&json!([url]), &json!([]))
    );
    assert_eq!(plain.status().relays_in_use, []);
    let adopting = start_with("adopting", |adopting| adopting).await;
    let input = json!({ "ticket": ticket().await, "use_relays": true });
    let joined = adopting.told("peers/join", input).await;
    assert_eq!(joined["own_relays"], json!([url]));
    in_use(&adopting, |used| used.connected && used.url == url).await;
}

/// Writes a certificate of some authority for these years, with its key.
fn certify(dir: &Path, years: (i32, i32)) {
    let mut authority = rcgen::CertificateParams::default();
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, "an authority");
    authority.distinguished_name = name;
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::Issuer::from_params(&authority, &authority_key);
    let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.signed_by(&key, &authority).unwrap();
    keep(dir, &made, &key);
}

fn keep(dir: &Path, made: &rcgen::Certificate, key: &rcgen::KeyPair) {
    fs::write(dir.join("cert.pem"), made.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// As `openssl req -x509` makes them: without names that count, and fit to
/// sign others.
#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_of_the_owners_is_told_with_its_key() {
    let files = tempfile::TempDir::with_prefix("alknet-").unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pin = {
        use sha2::Digest;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        hex32::encode(&sha2::Sha256::digest(spki).into())
    };
    keep(files.path(), &params.self_signed(&key).unwrap(), &key);
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let relay = relay_with(move |config| {
        (config.cert, config.key) = (Some(cert.clone()), Some(key.clone()));
    })
    .await;
    assert_eq!(own(&relay).certificate, "own");
    assert_eq!(address(&relay).pin().unwrap().to_string(), pin);
    in_use(&relay, |used| used.connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_relay_that_nobody_trusts_is_told_how_others_can() {
    let files = tempfile::TempDir::with_prefix("alknet-").unwrap();
    certify(files.path(), (2020, 2090));
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let relay = relay_with(move |config| {
        (config.cert, config.key) = (Some(cert.clone()), Some(key.clone()));
    })
    .await;
    in_use(&relay, |used| used.problem.is_some()).await;
    let status = relay.status();
    let used = &status.relays_in_use[0];
    assert_eq!(used.problem.as_deref(), Some("CERTIFICATE_UNKNOWN"));
    let hint = used.hint.as_ref().unwrap();
    assert!(
        hint.contains("--url 'https://localhost:") && hint.contains("#sha256="),
        "{hint}"
    );
    let notes = status.notes.join("\n");
    assert!(
        notes.contains("this node cannot use its own relay") && notes.contains(hint),
        "{notes}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_a_refused_token_is_named_and_does_not_hold_up_a_good_one() {
    let relay = relay_with(|_| {}).await;
    in_use(&relay, |used| used.connected).await;
    let mut ticket = Ticket::parse(&relay.ticket(json!({})).await).unwrap();
    // No other way than the relay: nobody answers here.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    ticket.addresses = vec![silent.local_addr().unwrap()];
    let good = ticket.encode();
    ticket.secret[0] ^= 1;
    let laptop = start_with("laptop", |laptop| laptop.relays(Vec::<String>::new())).await;
    let refused = laptop.join(&ticket.encode(), &[]).await.unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.contains(&format!("its relay {}", address(&relay).url()))
            && refused.contains("does not let this node in"),
        "{refused}"
    );
    assert_eq!(soon(laptop.join(&good, &[])).await.unwrap(), "relay");
}

/// The certificate that a relay shows.
async fn shown(node: &TestNode) -> CertificateDer<'static> {
    let listen: SocketAddr = own(node).listen.parse().unwrap();
    let stream = tokio::net::TcpStream::connect(listen).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls()));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = soon(connector.connect(name, stream)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_used_after_a_reload_and_an_expired_one_is_refused() {
    let files = tempfile::TempDir::with_prefix("alknet-").unwrap();
    certify(files.path(), (2020, 2090));
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let relay = relay_with(move |config| {
        (config.cert, config.key) = (Some(cert.clone()), Some(key.clone()));
    })
    .await;
    assert_eq!(own(&relay).certificate, "own");
    assert!(
        own(&relay).url.starts_with("https://localhost:"),
        "{}",
        own(&relay).url
    );
    let before = shown(&relay).await;
    certify(files.path(), (2020, 2089));
    relay.reload().await.unwrap();
    let renewed = shown(&relay).await;
    assert_ne!(renewed, before);
    certify(files.path(), (2000, 2001));
    let refused = relay.reload().await.unwrap_err().full_text();
    assert!(refused.contains("expired at 2001-01-01"), "{refused}");
    assert_eq!(shown(&relay).await, renewed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_cannot_start_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let files = tempfile::TempDir::with_prefix("alknet-").unwrap();
    certify(files.path(), (2000, 2001));
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    type Change = Box<dyn Fn(&mut RelayServerConfig) + Send + Sync>;
    let cases: [(Change, &str); 4] = [
        (
            Box::new(move |config| config.listen = at),
            "is taken on 127.0.0.1",
        ),
        (
            Box::new(move |config| {
                (config.cert, config.key) = (Some(cert.clone()), Some(key.clone()));
            }),
            "expired at 2001-01-01",
        ),
        (
            Box::new(|config| config.url = Some("http://127.0.0.1".into())),
            "use https",
        ),
        (
            Box::new(|config| {
                config.url = Some(format!("https://127.0.0.1/#sha256={}", "0".repeat(64)));
            }),
            "`url` pins sha256=00",
        ),
    ];
    for (change, wanted) in cases {
        let dir = tempfile::TempDir::with_prefix("alknet-").unwrap();
        let described = builder(dir.path(), "relay").relay(move |config| {
            nearby(config);
            change(config);
        });
        let error = described.spawn().await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_relay_is_the_same_after_a_restart() {
    let mut relay = relay_with(|_| {}).await;
    let pin = address(&relay).pin().unwrap();
    relay.stop().await;
    relay.start_again_with(|relay| relay.relay(nearby)).await;
    assert_eq!(address(&relay).pin(), Some(pin));
    let modes: Vec<u32> = ["relay-key.pem", "relay-cert.pem"]
        .iter()
        .map(|name| {
            fs::metadata(relay.dir.path().join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        })
        .collect();
    assert_eq!(modes, [0o600, 0o600]);
}
