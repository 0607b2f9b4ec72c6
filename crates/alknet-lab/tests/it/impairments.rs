//! What is impaired is impaired, and by as much as was said.

use alknet_lab::{Host, Lab, Nat, Site, measure};
use std::{net::UdpSocket, time::Duration};

const MS: Duration = Duration::from_millis(1);

/// A public host, and a site behind a cone.
fn open(test: &str) -> Option<(Lab, Host, Site)> {
    let lab = Lab::open(test)?;
    let relay = lab.host("relay").unwrap();
    let home = lab.site("home", Nat::Cone).unwrap();
    Some((lab, relay, home))
}

#[test]
fn slow_a_delay_is_there_live_each_way_and_leaves_without_a_trace() {
    let Some((_lab, relay, home)) =
        open("slow_a_delay_is_there_live_each_way_and_leaves_without_a_trace")
    else {
        return;
    };
    let before = measure::round_trip(&home, &relay).unwrap();
    assert!(before < 40 * MS, "{before:?}");
    let seen = measure::mapping(&home, &[&relay]).unwrap()[0];
    for delay in [25 * MS, 100 * MS] {
        home.delay(delay).unwrap();
        let now = measure::round_trip(&home, &relay).unwrap();
        assert!(now >= delay * 2, "{now:?}");
        assert!(now < delay * 2 + 250 * MS, "{now:?}");
    }
    home.delay(Duration::ZERO).unwrap();
    let after = measure::round_trip(&home, &relay).unwrap();
    assert!(after < 40 * MS, "{after:?}");
    // The NAT saw no change of its own line.
    let later = measure::mapping(&home, &[&relay]).unwrap()[0];
    assert_eq!(later.ip(), seen.ip());
    assert!(home.delay(Duration::from_secs(11)).is_err());
}

#[test]
fn what_was_open_stays_open_when_a_delay_comes() {
    let Some((_lab, relay, home)) = open("what_was_open_stays_open_when_a_delay_comes") else {
        return;
    };
    let socket = |host: &Host| {
        let socket = host
            .enter(|| UdpSocket::bind("0.0.0.0:0"))
            .unwrap()
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    };
    let (near, far) = (socket(&home), socket(&relay));
    let mut buffer = [0; 16];
    near.send_to(b"hello", (relay.v4(), far.local_addr().unwrap().port()))
        .unwrap();
    let (_, seen) = far.recv_from(&mut buffer).unwrap();
    home.delay(20 * MS).unwrap();
    far.send_to(b"slow", seen).unwrap();
    assert_eq!(near.recv_from(&mut buffer).unwrap().0, 4);
    home.delay(Duration::ZERO).unwrap();
    far.send_to(b"quick", seen).unwrap();
    assert_eq!(near.recv_from(&mut buffer).unwrap().0, 5);
}

#[test]
fn jitter_lets_packets_overtake_each_other() {
    let Some((_lab, relay, home)) = open("jitter_lets_packets_overtake_each_other") else {
        return;
    };
    // Nothing may find a way around the wire.
    home.delay_with_jitter(5 * MS, 50 * MS).unwrap();
    let far = relay
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let at = (relay.v4(), far.local_addr().unwrap().port());
    let near = home
        .enter(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap()
        .unwrap();
    for number in 0..100_u8 {
        near.send_to(&[number], at).unwrap();
    }
    let mut buffer = [0; 1];
    let order: Vec<u8> = (0..100)
        .map(|_| far.recv_from(&mut buffer).map(|_| buffer[0]).unwrap())
        .collect();
    assert!(!order.is_sorted(), "{order:?}");
}

#[test]
fn slow_a_rate_bounds_both_directions_and_goes_away() {
    let Some((_lab, relay, home)) = open("slow_a_rate_bounds_both_directions_and_goes_away") else {
        return;
    };
    home.rate("20mbit").unwrap();
    let bound = measure::throughput(&home, &relay, Duration::from_secs(1)).unwrap();
    for bits in [bound.up, bound.down] {
        // What TCP carries of it: a bit less, and at first the bucket.
        assert!((10_000_000..24_000_000).contains(&bits), "{bound:?}");
    }
    home.unlimit().unwrap();
    let free = measure::throughput(&home, &relay, Duration::from_millis(300)).unwrap();
    assert!(free.up > 100_000_000 && free.down > 100_000_000, "{free:?}");
}

#[test]
fn slow_packets_are_lost_by_chance_each_way() {
    let Some((_lab, relay, home)) = open("slow_packets_are_lost_by_chance_each_way") else {
        return;
    };
    home.loss(10).unwrap();
    // 4,000 draws: six standard deviations are 2.8 of 100.
    let lost = measure::loss(&home, &relay, 4_000).unwrap();
    for share in [lost.up, lost.down] {
        assert!((0.07..0.13).contains(&share), "{lost:?}");
    }
    home.loss(0).unwrap();
    let lost = measure::loss(&home, &relay, 1_000).unwrap();
    assert_eq!((lost.up, lost.down), (0.0, 0.0));
    assert!(home.loss(101).is_err());
}

#[test]
fn large_writes_are_lost_packet_by_packet() {
    let Some((_lab, relay, home)) = open("large_writes_are_lost_packet_by_packet") else {
        return;
    };
    home.loss(1).unwrap();
    let captured = {
        let capture = relay.capture().unwrap();
        measure::throughput(&home, &relay, Duration::from_millis(200)).unwrap();
        capture.stop().unwrap()
    };
    let largest = |source: std::net::IpAddr| {
        let of = |packet: &&alknet_lab::Packet| packet.source == Some(source);
        let bytes = captured
            .packets
            .iter()
            .filter(of)
            .map(|packet| packet.bytes);
        bytes.max().unwrap()
    };
    // What arrives was never larger than the wire allows.
    assert!(largest(home.public_v4().into()) <= 1514);
}

#[test]
fn slow_packets_larger_than_the_mtu_do_not_pass_whole() {
    let Some((_lab, relay, home)) = open("slow_packets_larger_than_the_mtu_do_not_pass_whole")
    else {
        return;
    };
    for mtu in [1300, 1500] {
        home.mtu(mtu).unwrap();
        let measured = measure::path_mtu(&home, &relay).unwrap();
        assert_eq!((measured.up, measured.down), (mtu, mtu));
        let bits = measure::throughput(&home, &relay, Duration::from_millis(200)).unwrap();
        assert!(bits.up > 1_000_000 && bits.down > 1_000_000, "{bits:?}");
    }
    assert!(home.mtu(1279).is_err() && home.mtu(1501).is_err());
}

#[test]
fn blocked_udp_leaves_tcp_alone() {
    let Some((_lab, relay, home)) = open("blocked_udp_leaves_tcp_alone") else {
        return;
    };
    assert!(measure::udp_passes(&home, &relay).unwrap());
    home.block_udp().unwrap();
    assert!(!measure::udp_passes(&home, &relay).unwrap());
    assert!(measure::tcp_passes(&home, &relay).unwrap());
    home.allow_udp().unwrap();
    assert!(measure::udp_passes(&home, &relay).unwrap());
}

#[test]
fn an_outage_and_a_dead_interface_stop_everything_until_they_end() {
    let Some((_lab, relay, home)) =
        open("an_outage_and_a_dead_interface_stop_everything_until_they_end")
    else {
        return;
    };
    let passes = || measure::tcp_passes(&home, &relay).unwrap();
    home.outage().unwrap();
    assert!(!passes());
    home.restore().unwrap();
    assert!(passes());
    home.link_down().unwrap();
    assert!(!passes());
    home.link_up().unwrap();
    assert!(passes());
    relay.link_down().unwrap();
    assert!(!passes());
    relay.link_up().unwrap();
    assert!(passes());
}

#[test]
fn slow_a_rebound_nat_maps_to_other_ports_and_knows_no_old_ones() {
    let Some(lab) = Lab::open("slow_a_rebound_nat_maps_to_other_ports_and_knows_no_old_ones")
    else {
        return;
    };
    let (relay, other) = (lab.host("relay").unwrap(), lab.host("other").unwrap());
    for nat in [Nat::Cone, Nat::CarrierGrade, Nat::Symmetric] {
        let site = lab.site(nat.name(), nat).unwrap();
        let socket = |host: &Host| {
            let socket = host
                .enter(|| UdpSocket::bind("0.0.0.0:0"))
                .unwrap()
                .unwrap();
            socket.set_read_timeout(Some(500 * MS)).unwrap();
            socket
        };
        let (near, far, second) = (socket(&site), socket(&relay), socket(&other));
        let at = |host: &Host, socket: &UdpSocket| (host.v4(), socket.local_addr().unwrap().port());
        let mut buffer = [0; 16];
        let seen = || {
            near.send_to(b"hello", at(&relay, &far)).unwrap();
            let first = far.recv_from(&mut [0; 16]).unwrap().1;
            near.send_to(b"hello", at(&other, &second)).unwrap();
            (first, second.recv_from(&mut [0; 16]).unwrap().1)
        };
        let mut before = seen();
        for _ in 0..3 {
            site.rebind().unwrap();
            far.send_to(b"old", before.0).unwrap();
            assert!(near.recv_from(&mut buffer).is_err(), "{nat:?}");
            let now = seen();
            assert_ne!(now.0, before.0, "{nat:?}");
            // What kind it is has not changed.
            assert_eq!(now.0 == now.1, nat != Nat::Symmetric, "{nat:?}");
            before = now;
        }
    }
}

#[test]
fn slow_silence_longer_than_the_timeout_closes_the_nat() {
    let Some((_lab, relay, home)) = open("slow_silence_longer_than_the_timeout_closes_the_nat")
    else {
        return;
    };
    let silence = Duration::from_secs(3);
    assert!(measure::is_open_after(&home, &relay, silence).unwrap());
    home.udp_timeout(1).unwrap();
    assert!(!measure::is_open_after(&home, &relay, silence).unwrap());
    assert!(home.udp_timeout(0).is_err());
}

#[test]
fn a_host_changes_from_ipv4_to_ipv6_and_back() {
    let Some((_lab, relay, home)) = open("a_host_changes_from_ipv4_to_ipv6_and_back") else {
        return;
    };
    let reaches = |to: std::net::IpAddr| {
        let listener = relay
            .enter(|| std::net::TcpListener::bind((to, 0)))
            .unwrap()
            .unwrap();
        let at = listener.local_addr().unwrap();
        home.enter(|| std::net::TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok())
            .unwrap()
    };
    let (v4, v6) = (relay.v4().into(), relay.v6().into());
    assert!(reaches(v4) && !reaches(v6));
    home.gain_ipv6().unwrap();
    assert!(reaches(v4) && reaches(v6));
    home.lose_ipv4().unwrap();
    assert!(!reaches(v4) && reaches(v6));
    home.link_down().unwrap();
    home.link_up().unwrap();
    assert!(!reaches(v4) && reaches(v6));
    home.gain_ipv4().unwrap();
    home.lose_ipv6().unwrap();
    assert!(reaches(v4) && !reaches(v6));
}
