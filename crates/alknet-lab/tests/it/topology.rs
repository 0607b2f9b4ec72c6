//! Who reaches whom, from which address, and what is left afterwards.

use alknet_lab::{Lab, Nat, Protocol, measure, namespaces};
use std::{
    net::{IpAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

#[test]
fn every_kind_of_site_maps_and_filters_as_its_name_says() {
    let Some(lab) = Lab::open("every_kind_of_site_maps_and_filters_as_its_name_says") else {
        return;
    };
    let (relay, other) = (lab.host("relay").unwrap(), lab.host("other").unwrap());
    for nat in Nat::ALL {
        let site = lab.site(nat.name(), nat).unwrap();
        let seen = measure::mapping(&site, &[&relay, &other]).unwrap();
        for address in &seen {
            assert_eq!(address.ip(), IpAddr::from(site.public_v4()), "{nat:?}");
        }
        let same = seen[0] == seen[1];
        assert_eq!(same, nat != Nat::Symmetric, "{nat:?}: {seen:?}");
        let open = measure::lets_in(&site, &relay, &other).unwrap();
        assert_eq!(open, nat == Nat::Open, "{nat:?}");
        assert!(measure::tcp_passes(&site, &relay).unwrap(), "{nat:?}");
    }
}

#[test]
fn two_cones_meet_when_both_send_and_a_symmetric_one_does_not() {
    let Some(lab) = Lab::open("two_cones_meet_when_both_send_and_a_symmetric_one_does_not") else {
        return;
    };
    let relay = lab.host("relay").unwrap();
    let cone = lab.site("cone", Nat::Cone).unwrap();
    for (name, nat, meets) in [
        ("cone2", Nat::Cone, true),
        ("carrier", Nat::CarrierGrade, true),
        ("symmetric", Nat::Symmetric, false),
    ] {
        let site = lab.site(name, nat).unwrap();
        let socket = |host: &alknet_lab::Host| {
            let socket = host
                .enter(|| UdpSocket::bind("0.0.0.0:0"))
                .unwrap()
                .unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            socket
        };
        let (one, two, middle) = (socket(&cone), socket(&site), socket(&relay));
        let mut buffer = [0; 16];
        // Each tells the middle where it is, and then sends to where the other
        // was seen, twice: the first opens its own NAT.
        let at = (relay.v4(), middle.local_addr().unwrap().port());
        one.send_to(b"here", at).unwrap();
        let one_seen = middle.recv_from(&mut buffer).unwrap().1;
        two.send_to(b"here", at).unwrap();
        let two_seen = middle.recv_from(&mut buffer).unwrap().1;
        for _ in 0..2 {
            one.send_to(b"punch", two_seen).unwrap();
            two.send_to(b"punch", one_seen).unwrap();
        }
        let met = one.recv_from(&mut buffer).is_ok() || two.recv_from(&mut buffer).is_ok();
        assert_eq!(met, meets, "{name}");
    }
}

#[test]
fn nothing_is_left_of_a_lab_and_what_ran_in_it_is_killed() {
    let Some(lab) = Lab::open("nothing_is_left_of_a_lab_and_what_ran_in_it_is_killed") else {
        return;
    };
    let home = lab.site("home", Nat::Cone).unwrap();
    home.delay(Duration::from_millis(1)).unwrap();
    let mine = |name: &String| name.starts_with(&format!("alklab.{}.", std::process::id()));
    let ours = || namespaces().into_iter().filter(mine).count();
    assert_eq!(ours(), 3);
    let mut sleeper = home.command("sleep").arg("1000").spawn().unwrap();
    let files = std::path::Path::new("/etc/netns").join(home.namespace());
    assert!(files.exists());
    drop(lab);
    assert_eq!(ours(), 0);
    assert!(!files.exists());
    assert!(!sleeper.wait().unwrap().success());
    assert!(home.capture().is_err());
}

/// Set in the process that is killed with a lab in its hands.
const VICTIM: &str = "ALKNET_LAB_VICTIM";

/// Not a test of its own: started again by the test below.
#[test]
fn victim_process() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let lab = Lab::new().unwrap();
    let home = lab.host("home").unwrap();
    let mut sleeper = home.command("sleep").arg("1000").spawn().unwrap();
    #[allow(clippy::print_stdout)]
    {
        println!("{} {}", home.namespace(), sleeper.id());
    }
    sleeper.wait().unwrap();
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_lab() {
    let Some(probe) = Lab::open("what_a_killed_process_left_is_removed_by_the_next_lab") else {
        return;
    };
    drop(probe);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "topology::victim_process", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().unwrap()));
    // The harness of the tests prints before, on the same line even.
    let (namespace, sleeper) = lines
        .find_map(|line| {
            let line = line.unwrap();
            let start = line.find("alklab.")?;
            let (name, pid) = line[start..].split_once(' ')?;
            Some((name.to_owned(), pid.to_owned()))
        })
        .unwrap();
    let runs = || {
        std::fs::read_to_string(format!("/proc/{sleeper}/cmdline"))
            .is_ok_and(|line| line.starts_with("sleep"))
    };
    // While it lives nobody removes it, however many labs are opened.
    drop(Lab::new().unwrap());
    assert!(runs() && namespaces().contains(&namespace));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let next = Lab::new().unwrap();
    assert!(!namespaces().contains(&namespace));
    // Killed: somebody takes the zombie away in a moment.
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !runs()
    });
    assert!(gone);
    drop(next);
}

#[test]
fn two_machines_of_a_site_share_a_link_with_multicast() {
    let Some(lab) = Lab::open("two_machines_of_a_site_share_a_link_with_multicast") else {
        return;
    };
    let home = lab.site("home", Nat::Symmetric).unwrap();
    let tv = home.add_host("tv").unwrap();
    let group: std::net::Ipv4Addr = "224.0.0.251".parse().unwrap();
    let heard = tv
        .enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:5353").unwrap();
            socket.join_multicast_v4(&group, &tv.v4()).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        })
        .unwrap();
    home.enter(|| {
        let socket = UdpSocket::bind((home.v4(), 0)).unwrap();
        socket.send_to(b"anybody?", (group, 5353)).unwrap();
    })
    .unwrap();
    let mut buffer = [0; 16];
    let (_, from) = heard.recv_from(&mut buffer).unwrap();
    assert_eq!(from.ip(), home.v4());
}

#[test]
fn what_goes_to_nobody_arrives_at_the_sink_and_is_refused() {
    let Some(lab) = Lab::open("what_goes_to_nobody_arrives_at_the_sink_and_is_refused") else {
        return;
    };
    let (sink, home) = (lab.sink().unwrap(), lab.site("home", Nat::Cone).unwrap());
    home.gain_ipv6().unwrap();
    let capture = sink.capture().unwrap();
    for foreign in ["192.0.2.77:443", "[2001:db8:ffff::77]:443"] {
        let foreign: std::net::SocketAddr = foreign.parse().unwrap();
        let refused = home
            .enter(|| std::net::TcpStream::connect_timeout(&foreign, Duration::from_secs(5)))
            .unwrap()
            .unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    let captured = capture.stop().unwrap();
    assert_eq!(captured.missed, 0);
    for foreign in ["192.0.2.77", "2001:db8:ffff::77"] {
        let foreign: IpAddr = foreign.parse().unwrap();
        let to = |packet: &&alknet_lab::Packet| packet.destination == Some(foreign);
        let first = captured.packets.iter().find(to).unwrap();
        assert_eq!(
            (first.protocol, first.destination_port),
            (Protocol::Tcp, Some(443))
        );
    }
}

#[test]
fn names_are_asked_of_the_dns_server_of_the_lab() {
    let Some(lab) = Lab::open("names_are_asked_of_the_dns_server_of_the_lab") else {
        return;
    };
    let (dns, home) = (lab.dns().unwrap(), lab.site("home", Nat::Cone).unwrap());
    let capture = dns.capture().unwrap();
    let found = home
        .command("getent")
        .args(["ahostsv4", "relay.example"])
        .output()
        .unwrap();
    // What `getent` says when there is no such name.
    assert_eq!(found.status.code(), Some(2));
    let questions = capture.stop().unwrap().packets;
    let asked = questions
        .iter()
        .filter(|packet| packet.destination_port == Some(53))
        .count();
    assert!(asked >= 1);
}

#[test]
fn slow_a_capture_misses_nothing_of_ten_thousand_packets() {
    let Some(lab) = Lab::open("slow_a_capture_misses_nothing_of_ten_thousand_packets") else {
        return;
    };
    let (one, two) = (lab.host("one").unwrap(), lab.host("two").unwrap());
    let capture = one.capture().unwrap();
    let lost = measure::loss(&one, &two, 10_000).unwrap();
    assert_eq!((lost.up, lost.down), (0.0, 0.0));
    let captured = capture.stop().unwrap();
    assert_eq!(captured.missed, 0);
    let udp = |source: IpAddr| {
        let from = |packet: &&alknet_lab::Packet| {
            packet.protocol == Protocol::Udp && packet.source == Some(source)
        };
        captured.packets.iter().filter(from).count()
    };
    // One more to meet, each way.
    assert_eq!(
        (udp(one.v4().into()), udp(two.v4().into())),
        (10_001, 10_001)
    );
}

#[test]
fn a_public_host_and_a_nat_can_move_to_other_addresses() {
    let Some(lab) = Lab::open("a_public_host_and_a_nat_can_move_to_other_addresses") else {
        return;
    };
    let (relay, home) = (
        lab.host("relay").unwrap(),
        lab.site("home", Nat::Cone).unwrap(),
    );
    let (before, seen) = (relay.v4(), home.public_v4());
    lab.renumber(&relay).unwrap();
    home.renumber().unwrap();
    assert!(relay.v4() != before && home.public_v4() != seen);
    let now = measure::mapping(&home, &[&relay]).unwrap()[0];
    assert_eq!(now.ip(), IpAddr::from(home.public_v4()));
    assert!(lab.renumber(&home).is_err());
    let open = lab.site("open", Nat::Open).unwrap();
    assert!(open.renumber().is_err() && open.rebind().is_err());
}

#[test]
fn a_name_is_given_once() {
    let Some(lab) = Lab::open("a_name_is_given_once") else {
        return;
    };
    lab.host("home").unwrap();
    let again = lab.site("home", Nat::Open).unwrap_err().to_string();
    assert_eq!(again, "name `home` is taken");
}

#[test]
fn an_open_site_hears_ipv6_before_it_has_said_anything() {
    let Some(lab) = Lab::open("an_open_site_hears_ipv6_before_it_has_said_anything") else {
        return;
    };
    let (far, home) = (
        lab.host("far").unwrap(),
        lab.site("home", Nat::Open).unwrap(),
    );
    home.gain_ipv6().unwrap();
    let bind = || UdpSocket::bind("[::]:0").unwrap();
    let (speaks, hears) = (far.enter(bind).unwrap(), home.enter(bind).unwrap());
    hears
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let to = (home.v6(), hears.local_addr().unwrap().port());
    speaks.send_to(b"hello", to).unwrap();
    let (_, from) = hears.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from.ip(), IpAddr::from(far.v6()));
}
