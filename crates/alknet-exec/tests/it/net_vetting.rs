//! Where `net/dial` goes, and where it does not, before a packet is sent.

use crate::net_support::{Names, made_up, read_to_end, reply, result, soon};
use alknet_core::ErrorCode;

/// Dials as a caller with these grants and `net:dial`; the name resolves to
/// `answers`. `want` is the address that is connected to, or what is missing
/// (or denies) when nobody is.
#[track_caller]
fn check(
    grants: &[&str],
    address: &str,
    answers: &[&str],
    want: Result<&str, &str>,
) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    let grants: Vec<String> = grants.iter().map(|text| (*text).to_owned()).collect();
    let address = address.to_owned();
    let answers: Vec<String> = answers.iter().map(|text| (*text).to_owned()).collect();
    let want = want.map(str::to_owned).map_err(str::to_owned);
    async move {
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let (gate, wire, _server) = made_up(&Names::answering(&[&answers])).await;
        let mut all = vec!["net:dial"];
        all.extend(grants.iter().map(String::as_str));
        let bob = gate.caller("bob", &all);
        let dialled = gate.dial(&bob, &address).await;
        let seen: Vec<String> = wire
            .seen
            .lock()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        match (dialled, want) {
            (Ok(call), Ok(to)) => {
                assert_eq!(reply(&call)["address"], to, "{at}");
                assert_eq!(seen, [to], "{at}");
            }
            (Err(error), Err(missing)) => {
                assert!(error.is(ErrorCode::Forbidden), "{at}: {error}");
                let details = error.details.clone().unwrap();
                let named = details["grant"].as_str().or(details["denied"].as_str());
                assert_eq!(named, Some(missing.as_str()), "{at}: {error}");
                assert!(error.message.contains(&missing), "{at}: {error}");
                assert!(seen.is_empty(), "{at}: {seen:?}");
            }
            (dialled, want) => panic!("{at}: {dialled:?}, not {want:?}"),
        }
    }
}

#[tokio::test]
async fn an_address_is_dialled_only_if_it_is_held() {
    let grants = ["net:10.0.0.0/8:5432=dial", "net:[::1]:22=dial"];
    check(&grants, "10.1.2.3:5432", &[], Ok("10.1.2.3:5432")).await;
    check(&grants, "[::1]:22", &[], Ok("[::1]:22")).await;
    for (address, missing) in [
        ("10.1.2.3:5433", "net:10.1.2.3:5433=dial"),
        ("11.1.2.3:5432", "net:11.1.2.3:5432=dial"),
        ("127.0.0.1:5432", "net:127.0.0.1:5432=dial"),
        ("[::1]:23", "net:[::1]:23=dial"),
        ("[::ffff:127.0.0.1]:22", "net:127.0.0.1:22=dial"),
    ] {
        check(&grants, address, &[], Err(missing)).await;
    }
}

/// Its own rule is satisfied, for the internet.
#[tokio::test]
async fn a_grant_of_the_whole_operation_is_for_public_addresses() {
    let whole = ["net/dial"];
    check(&whole, "8.8.8.8:53", &[], Ok("8.8.8.8:53")).await;
    check(&whole, "example.com:443", &["8.8.8.8"], Ok("8.8.8.8:443")).await;
    for host in [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "240.0.0.1",
        "[::]",
        "[::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[2001:0:808:808::]",
        "[64:ff9b:1::1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::]",
        "[2002:c0a8:1::1]",
        "[::127.0.0.1]",
    ] {
        let ip: std::net::IpAddr = host.trim_matches(['[', ']']).parse().unwrap();
        let plain = match ip {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        };
        let literal = format!("net:{plain}:80=dial");
        check(&whole, &format!("{host}:80"), &[], Err(&literal)).await;
        // The same by a name that somebody points there.
        let text = ip.to_string();
        let judged = match ip {
            std::net::IpAddr::V6(ip) => match ip.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x2002, a, b, ..] => {
                    std::net::Ipv4Addr::from((u32::from(a) << 16) | u32::from(b)).to_string()
                }
                [0, 0, 0, 0, 0, 0, a, b] if a != 0 => {
                    std::net::Ipv4Addr::from((u32::from(a) << 16) | u32::from(b)).to_string()
                }
                _ => plain,
            },
            std::net::IpAddr::V4(_) => plain,
        };
        let missing = format!("net:{judged}:80=dial");
        check(&whole, "evil.example.com:80", &[&text], Err(&missing)).await;
    }
}

#[tokio::test]
async fn a_name_that_is_held_stands_for_what_such_names_stand_for() {
    let public = ["net:example.com:443=dial"];
    check(&public, "example.com:443", &["8.8.8.8"], Ok("8.8.8.8:443")).await;
    let check_public = |ip: &'static str, missing: &'static str| async move {
        check(&public, "example.com:443", &[ip], Err(missing)).await;
    };
    check_public("10.0.0.5", "net:10.0.0.5:443=dial").await;
    check_public("127.0.0.1", "net:127.0.0.1:443=dial").await;
    check_public("::1", "net:[::1]:443=dial").await;
    check_public("169.254.169.254", "net:169.254.169.254:443=dial").await;

    for name in ["db", "db.lan", "x.internal"] {
        let grant = format!("net:{name}:5432=dial");
        let (held, to) = ([grant.as_str()], format!("{name}:5432"));
        check(&held, &to, &["10.0.0.5"], Ok("10.0.0.5:5432")).await;
        check(&held, &to, &["fd12::5"], Ok("[fd12::5]:5432")).await;
        check(&held, &to, &["8.8.8.8"], Ok("8.8.8.8:5432")).await;
        let loopback = Err("net:127.0.0.1:5432=dial");
        check(&held, &to, &["127.0.0.1"], loopback).await;
        let metadata = Err("net:169.254.169.254:5432=dial");
        check(&held, &to, &["169.254.169.254"], metadata).await;
        // By its IPv6 forms too.
        check(&held, &to, &["::ffff:127.0.0.1"], loopback).await;
        check(&held, &to, &["64:ff9b::7f00:1"], loopback).await;
    }

    let local = ["net:localhost:80=dial"];
    check(&local, "localhost:80", &["::1"], Ok("[::1]:80")).await;
    let missing = Err("net:10.0.0.1:80=dial");
    check(&local, "localhost:80", &["10.0.0.1"], missing).await;
}

/// A network is granted, and names of it are found by whoever knows them.
#[tokio::test]
async fn a_range_that_is_held_covers_names_that_lead_into_it() {
    let range = ["net:10.0.0.0/8:5432=dial"];
    let to = "db.example.com:5432";
    check(&range, to, &["10.0.0.5"], Ok("10.0.0.5:5432")).await;
    let public = Err("net:db.example.com:5432=dial");
    check(&range, to, &["8.8.8.8"], public).await;
    let private = Err("net:192.168.0.5:5432=dial");
    check(&range, to, &["192.168.0.5"], private).await;
    // No range for this port, so the name is not even resolved.
    let names = Names::answering(&[&["10.0.0.5"]]);
    let (gate, wire, _server) = made_up(&names).await;
    let bob = gate.caller("bob", &["net:dial", "net:10.0.0.0/8:5432=dial"]);
    let error = gate.dial(&bob, "db.example.com:80").await.unwrap_err();
    let missing = error.details.as_ref().unwrap()["grant"].clone();
    assert_eq!(missing, "net:db.example.com:80=dial");
    assert!(names.asked.lock().unwrap().is_empty() && wire.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn addresses_that_may_not_be_dialled_are_left_out() {
    let held = ["net:example.com:80=dial"];
    let answers = ["127.0.0.1", "10.0.0.1", "8.8.8.8", "169.254.169.254"];
    check(&held, "example.com:80", &answers, Ok("8.8.8.8:80")).await;
}

#[tokio::test]
async fn what_is_denied_is_denied_by_whatever_name_it_has() {
    let all = ["net:*=dial", "!net:10.0.0.0/8=dial", "!net:bad.lan=dial"];
    check(&all, "127.0.0.1:80", &[], Ok("127.0.0.1:80")).await;
    check(&all, "169.254.169.254:80", &[], Ok("169.254.169.254:80")).await;
    for form in [
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::",
    ] {
        let denied = Err("!net:10.0.0.0/8=dial");
        check(&all, "db.lan:80", &[form], denied).await;
    }
    let denied = Err("!net:bad.lan=dial");
    check(&all, "bad.lan:80", &["8.8.8.8"], denied).await;
    // Also when the form itself is denied.
    let forms = ["net:*=dial", "!net:2002::/16=dial"];
    let denied = Err("!net:2002::/16=dial");
    check(&forms, "a.lan:80", &["2002:808:808::"], denied).await;
    let whole = ["net/dial", "!net:8.8.0.0/16=*"];
    let denied = Err("!net:8.8.0.0/16=*");
    check(&whole, "dns.example.com:53", &["8.8.8.8"], denied).await;
}

#[tokio::test]
async fn an_operator_reaches_everything_but_where_clouds_keep_their_secrets() {
    let operator = ["operator"];
    check(&operator, "db.lan:80", &["10.0.0.1"], Ok("10.0.0.1:80")).await;
    check(&operator, "127.0.0.1:80", &[], Ok("127.0.0.1:80")).await;
    for (ip, denied) in [
        ("169.254.169.254", "!net:169.254.0.0/16=*"),
        ("fe80::1", "!net:fe80::/10=*"),
        ("fd00:ec2::254", "!net:fd00:ec2::/32=*"),
        ("100.100.100.200", "!net:100.100.100.200=*"),
        ("::ffff:169.254.169.254", "!net:169.254.0.0/16=*"),
    ] {
        check(&operator, "metadata:80", &[ip], Err(denied)).await;
    }
}

#[tokio::test]
async fn numbers_that_some_take_for_addresses_are_no_hosts() {
    let (gate, wire, _server) = made_up(&Names::answering(&[&["127.0.0.1"]])).await;
    let admin = gate.caller("ada", &["admin"]);
    for address in [
        "2130706433:80",
        "0x7f000001:80",
        "0x7f.1:80",
        "0177.0.0.1:80",
        "127.1:80",
        "127.0.0.1.:80",
        "[fe80::1%eth0]:80",
        "127.0.0.1%lo:80",
        "user@8.8.8.8:80",
        "8.8.8.8",
        "8.8.8.8:+80",
        "8.8.8.8:65536",
        "unix:/run/docker.sock",
    ] {
        let error = gate.dial(&admin, address).await.unwrap_err();
        assert!(error.is(ErrorCode::InvalidInput), "{address}: {error}");
    }
    assert!(wire.seen.lock().unwrap().is_empty());
}

/// DNS rebinding: what was vetted is what is connected to.
#[tokio::test]
async fn a_name_that_changes_its_mind_is_asked_once() {
    let names = Names::answering(&[&["8.8.8.8"], &["127.0.0.1"]]);
    let (gate, wire, _server) = made_up(&names).await;
    let bob = gate.caller("bob", &["net:dial", "net:example.com:80=dial"]);
    let call = gate.dial(&bob, "example.com:80").await.unwrap();
    assert_eq!(reply(&call)["address"], "8.8.8.8:80");
    assert_eq!(*names.asked.lock().unwrap(), ["example.com"]);
    let error = gate.dial(&bob, "example.com:80").await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error}");
    assert_eq!(wire.seen.lock().unwrap().len(), 1);
}

/// A grant is taken away by address, while the name is still held.
#[tokio::test]
async fn a_connection_ends_within_a_second_when_its_address_is_no_longer_held() {
    let (gate, _, server) = made_up(&Names::answering(&[&["10.0.0.5"]])).await;
    let (name, range) = ("net:db.example.com:80=dial", "net:10.0.0.0/8=dial");
    let bob = gate.caller("bob", &["net:dial", name, range]);
    let mut call = gate.dial(&bob, "db.example.com:80").await.unwrap();
    let (mut peer, _) = soon(server.accept()).await.unwrap();
    let revoked = std::time::Instant::now();
    gate.caller("bob", &["net:dial", name]);
    assert!(read_to_end(&mut call).await.is_err());
    let error = result(call).await.unwrap_err();
    assert!(revoked.elapsed().as_millis() < 1000);
    assert!(error.is(ErrorCode::Forbidden), "{error}");
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut rest);
    assert!(soon(read).await.is_err(), "the server sees a reset");
}

#[tokio::test]
async fn a_denial_that_comes_later_ends_a_connection() {
    let (gate, _, _server) = made_up(&Names::answering(&[&["8.8.8.8"]])).await;
    let bob = gate.caller("bob", &["net/dial"]);
    let call = gate.dial(&bob, "example.com:80").await.unwrap();
    gate.caller("bob", &["net/dial", "!net:8.0.0.0/8=dial"]);
    let error = result(call).await.unwrap_err();
    assert!(error.is(ErrorCode::Forbidden), "{error}");
}
