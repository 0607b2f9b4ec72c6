//! Forwarded ports, with real servers and clients at their ends.

mod held;
mod web;

use super::harness::{Node, Pair, Running, eventually};
use crate::program::PATIENCE;
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// What both directions take, on loopback.
const GRANTS: [&str; 4] = [
    "net:dial",
    "net:127.0.0.1=dial",
    "net:listen",
    "net:127.0.0.1=listen",
];

/// Processes that are killed are noticed soon.
const QUICK: &str = "[limits]\nidle_ms = 3000\n";

/// A forward that runs, and its ports in the order in which they were named.
struct Forward {
    running: Running,
    ports: Vec<SocketAddr>,
    lines: Vec<Value>,
}

impl Forward {
    /// Starts it, and waits until its ports are ready.
    #[track_caller]
    fn start(node: &Node, peer: &str, ports: &[&str]) -> Self {
        let running = node.spawn(&[&["forward", peer, "--json"], ports].concat());
        let lines: Vec<Value> = (0..ports.len() / 2)
            .map(|_| serde_json::from_str(&running.lines.next()).unwrap())
            .collect();
        let ports = lines
            .iter()
            .map(|line| line["listen"].as_str().unwrap().parse().unwrap())
            .collect();
        Self {
            running,
            ports,
            lines,
        }
    }

    /// One port here to `target` from the peer.
    #[track_caller]
    fn local(node: &Node, peer: &str, target: SocketAddr) -> Self {
        Self::start(node, peer, &["-L", &format!("0:{target}")])
    }

    /// One port at the peer to `target` from here.
    #[track_caller]
    fn remote(node: &Node, peer: &str, target: SocketAddr) -> Self {
        Self::start(node, peer, &["-R", &format!("0:{target}")])
    }

    fn port(&self) -> SocketAddr {
        self.ports[0]
    }

    /// What it said until it says something with this in it.
    #[track_caller]
    fn said(&self, what: &str) -> String {
        eventually(&format!("it says `{what}`"), || {
            let told = self.running.told();
            told.contains(what).then_some(told)
        })
    }
}

/// A pair of nodes, of which `home` lets `laptop` forward on loopback.
fn pair(config: &str) -> Pair {
    let pair = Pair::start(config);
    let grant = [&["grant", "laptop"], &GRANTS[..]].concat();
    pair.home.cli(&grant).exits(0);
    pair
}

/// Each way, with the port at which `target` is then reached.
fn both_ways(pair: &Pair, target: SocketAddr, check: impl Fn(&str, SocketAddr)) {
    for direction in ["-L", "-R"] {
        let spec = format!("0:{target}");
        let forward = Forward::start(&pair.laptop, "home", &[direction, &spec]);
        check(direction, forward.port());
    }
}

/// Serves each connection on a thread of its own, for as long as the process
/// lives.
fn serve(each: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, each) = (stream.unwrap(), each.clone());
            thread::Builder::new()
                .stack_size(64 * 1024)
                .spawn(move || each(stream))
                .unwrap();
        }
    });
    address
}

/// Sends every byte back, as it comes.
fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(len) = stream.read(&mut buffer) {
        if len == 0 || stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

#[track_caller]
fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Whether what is sent comes back.
fn echoes(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes())?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, text.as_bytes());
    Ok(())
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// Breaks a connection, which is not how one ends.
fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn read_all(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

#[test]
fn ports_are_told_and_the_end_is_by_signal() {
    let pair = pair("");
    let target = serve(echo);
    let both = [
        "-L".to_owned(),
        format!("0:{target}"),
        "-R".to_owned(),
        format!("localhost:0:{target}"),
    ];
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut forward = Forward::start(&pair.laptop, "home", &both);
        let (local, remote) = (forward.ports[0], forward.ports[1]);
        let target = target.to_string();
        assert_eq!(
            forward.lines,
            [
                serde_json::json!({ "direction": "local", "listen": local.to_string(), "target": target, "peer": "home" }),
                serde_json::json!({ "direction": "remote", "listen": remote.to_string(), "target": target, "peer": "home" }),
            ]
        );
        let told = forward.running.told();
        assert_eq!(
            told,
            format!(
                "forwarding {local} -> {target} on home\nforwarding {remote} on home -> {target}\n"
            )
        );
        let mut held: Vec<TcpStream> = forward.ports.iter().map(|port| connect(*port)).collect();
        for stream in &mut held {
            echoes(stream, "hello").unwrap();
        }
        crate::program::signal(&forward.running.child, signal);
        assert_eq!(forward.running.code().code, Some(code));
        for stream in &mut held {
            assert!(is_reset(&read_all(stream).unwrap_err()));
        }
        eventually("nothing listens", || {
            let gone = [local, remote].map(|port| TcpStream::connect(port).is_err());
            gone.iter().all(|gone| *gone).then_some(())
        });
    }
}

#[test]
fn ends_stay_ends_and_breaks_stay_breaks_each_way() {
    let pair = pair("");
    // Reads to the end, then answers.
    let answering = serve(|mut stream| {
        let text = read_all(&mut stream).unwrap_or_default();
        let _ = stream.write_all(text.to_uppercase().as_bytes());
    });
    both_ways(&pair, answering, |direction, port| {
        let mut stream = connect(port);
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut stream).unwrap(), "QUESTION", "{direction}");
    });
    // Says everything, then listens.
    let (heard, hears) = std::sync::mpsc::channel();
    let listening = serve(move |mut stream| {
        stream.write_all(b"all").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        heard.send(read_all(&mut stream).unwrap()).unwrap();
    });
    both_ways(&pair, listening, |direction, port| {
        let mut stream = connect(port);
        assert_eq!(read_all(&mut stream).unwrap(), "all", "{direction}");
        stream.write_all(b"late").unwrap();
        drop(stream);
        assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), "late", "{direction}");
    });
    // Breaks the connection once it was spoken to.
    let breaking = serve(|mut stream| {
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        if &word == b"break" {
            reset(stream);
        } else {
            echo(stream);
        }
    });
    both_ways(&pair, breaking, |direction, port| {
        let mut other = connect(port);
        other.write_all(b"other").unwrap();
        let mut stream = connect(port);
        stream.write_all(b"break").unwrap();
        let error = read_all(&mut stream).unwrap_err();
        assert!(is_reset(&error), "{direction}: {error}");
        echoes(&mut other, "still here").unwrap();
    });
    // And the client breaks it.
    let (broken, breaks) = std::sync::mpsc::channel();
    let watching = serve(move |mut stream| {
        let mut word = [0; 5];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(b"ready").unwrap();
        broken.send(read_all(&mut stream).is_err()).unwrap();
    });
    both_ways(&pair, watching, |direction, port| {
        let mut stream = connect(port);
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        reset(stream);
        assert!(breaks.recv_timeout(PATIENCE).unwrap(), "{direction}");
    });
}

#[test]
fn a_stalled_connection_delays_no_other() {
    let pair = pair("");
    // Floods whoever asks for it.
    let flooded = Arc::new(AtomicU64::new(0));
    let written = flooded.clone();
    let target = serve(move |mut stream| {
        let mut word = [0; 5];
        if stream.read_exact(&mut word).is_err() {
            return;
        }
        if &word != b"flood" {
            return echo(stream);
        }
        while let Ok(len) = stream.write(&[7; 16384]) {
            written.fetch_add(len as u64, Ordering::Relaxed);
        }
    });
    both_ways(&pair, target, |direction, port| {
        let mut stalled: Vec<TcpStream> = (0..4).map(|_| connect(port)).collect();
        for stream in &mut stalled {
            stream.write_all(b"flood").unwrap();
            // It flows, and then nobody reads.
            stream.read_exact(&mut [0; 5]).unwrap();
        }
        // Every window on the way is full.
        eventually("nothing flows any more", || {
            let before = flooded.load(Ordering::Relaxed);
            thread::sleep(Duration::from_millis(500));
            (flooded.load(Ordering::Relaxed) == before).then_some(())
        });
        let mut other = connect(port);
        other.write_all(b"other").unwrap();
        let mut slowest = Duration::ZERO;
        for _ in 0..100 {
            let began = Instant::now();
            echoes(&mut other, "ping").unwrap();
            slowest = slowest.max(began.elapsed());
        }
        assert!(slowest < Duration::from_secs(2), "{direction}: {slowest:?}");
    });
}

#[test]
fn what_is_not_granted_is_said_at_the_start_with_what_to_grant() {
    let pair = Pair::start("");
    let target = serve(echo);
    let cases = [
        (
            ["-L".to_owned(), format!("0:{target}")],
            "net:dial".to_owned(),
            format!("net:{target}=dial"),
        ),
        (
            ["-R".to_owned(), format!("0:{target}")],
            "net:listen".to_owned(),
            "net:127.0.0.1:0=listen".to_owned(),
        ),
    ];
    for (words, scope, resource) in cases {
        let words = ["forward", "home", &words[0], &words[1]];
        let said = pair.laptop.cli(&words).exits(4);
        assert!(
            said.stderr
                .contains(&format!("on `home`: missing scope `{scope}`")),
            "{said:?}"
        );
        assert!(
            said.stderr.contains("hint: on `home`: alknet grant laptop"),
            "{said:?}"
        );
        pair.home.cli(&["grant", "laptop", &scope]).exits(0);
        let said = pair.laptop.cli(&words).exits(4);
        let hint = format!("hint: on `home`: alknet grant laptop {resource}\n");
        assert!(said.stderr.ends_with(&hint), "{said:?}");
        pair.home.cli(&["grant", "laptop", &resource]).exits(0);
        let forward = Forward::start(&pair.laptop, "home", &words[2..]);
        echoes(&mut connect(forward.port()), "hello").unwrap();
    }
}

#[test]
fn a_forward_that_cannot_start_says_why() {
    let pair = pair("");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let here = format!("{taken}:127.0.0.1:9");
    let cases = [
        (vec!["home"], 2, "give a port with -L"),
        (vec!["home", "-L", "80:host"], 2, "[BIND:]PORT:HOST:PORT"),
        (vec!["home", "-L", &here], 1, "failed to listen"),
        (vec!["home", "-R", &here], 1, "cannot listen at"),
        (
            vec!["hoem", "-L", "0:127.0.0.1:9"],
            1,
            "did you mean `home`?",
        ),
    ];
    for (words, code, says) in cases {
        let said = pair.laptop.cli(&[&["forward"], &words[..]].concat());
        let said = said.exits(code);
        assert!(said.stderr.contains(says), "{words:?}: {said:?}");
    }
}

/// A socket that takes whatever is sent to this machine, and must see nothing.
#[test]
fn targets_outside_the_grant_are_refused_before_a_packet_is_sent() {
    let pair = Pair::start("");
    // The whole operation, which is for the internet; names and a network that
    // this machine is not in.
    let grants = [
        "net/dial",
        "net:10.0.0.0/8=dial",
        "net:db.lan=dial",
        "net:*.example.com=dial",
    ];
    pair.home
        .cli(&[&["grant", "laptop"], &grants[..]].concat())
        .exits(0);
    let bait = TcpListener::bind("[::]:0").unwrap();
    let port = bait.local_addr().unwrap().port();
    bait.set_nonblocking(true).unwrap();
    for host in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "192.168.0.1",
        "172.16.0.1",
        "[fe80::1]",
        "[fc00::1]",
    ] {
        let input = format!("address={host}:{port}");
        let words = ["call", "net/dial", &input, "--on", "home", "--json"];
        let said = pair.laptop.cli(&words).exits(4);
        let code = super::harness::error_code(&said.stderr);
        assert_eq!(code, "FORBIDDEN", "{host}");
    }
    for host in ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"] {
        let input = format!("address={host}:{port}");
        let words = ["call", "net/dial", &input, "--on", "home", "--json"];
        let said = pair.laptop.cli(&words).exits(1);
        let code = super::harness::error_code(&said.stderr);
        assert_eq!(code, "INVALID_INPUT", "{host}");
    }
    let seen = bait.accept();
    assert_eq!(seen.unwrap_err().kind(), ErrorKind::WouldBlock);
    // It would have seen them.
    let grant = format!("net:localhost:{port}=dial");
    pair.home.cli(&["grant", "laptop", &grant]).exits(0);
    let forward = Forward::start(
        &pair.laptop,
        "home",
        &["-L", &format!("0:localhost:{port}")],
    );
    let _stream = connect(forward.port());
    eventually("the allowed connection comes", || bait.accept().ok());
}

#[test]
fn a_right_that_is_taken_ends_connections_and_the_forward_goes_on() {
    let pair = pair("");
    let target = serve(echo);
    let forward = Forward::local(&pair.laptop, "home", target);
    let mut stream = connect(forward.port());
    echoes(&mut stream, "hello").unwrap();
    // By its address: the scope stays.
    let taken = ["revoke", "laptop", "net:127.0.0.1=dial"];
    pair.home.cli(&taken).exits(0);
    let revoked = Instant::now();
    assert!(is_reset(&read_all(&mut stream).unwrap_err()));
    assert!(revoked.elapsed() < Duration::from_secs(1));
    let error = read_all(&mut connect(forward.port())).unwrap_err();
    assert!(is_reset(&error));
    let hint = format!("hint: on `home`: alknet grant laptop net:{target}=dial");
    assert!(forward.said(&hint).contains("FORBIDDEN"));
    pair.home
        .cli(&["grant", "laptop", "net:127.0.0.1=dial"])
        .exits(0);
    echoes(&mut connect(forward.port()), "hello").unwrap();
}

#[test]
fn a_connection_that_fails_is_one_line_with_its_code() {
    let pair = pair("");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = nobody.local_addr().unwrap();
    drop(nobody);
    let forward = Forward::local(&pair.laptop, "home", target);
    assert!(is_reset(
        &read_all(&mut connect(forward.port())).unwrap_err()
    ));
    let what = format!("-> {target} on home: CONNECTION_REFUSED: nobody listens");
    forward.said(&what);
    let forward = Forward::remote(&pair.laptop, "home", target);
    assert!(is_reset(
        &read_all(&mut connect(forward.port())).unwrap_err()
    ));
    forward.said(&format!("-> {target}: failed to connect from here"));
}

/// The hub lets `laptop` through to `nas`, and `nas` decides about the hub.
#[test]
fn ports_of_a_node_behind_another_are_forwarded_too() {
    let pair = Pair::start("");
    let nas = Node::start("nas", "");
    let ticket = nas.cli(&["invite", "-q"]).exits(0).stdout;
    pair.home.feed(&["join", "-"], ticket.as_bytes()).exits(0);
    pair.home.connected("nas");
    let target = serve(echo);
    let port = format!("0:{target}");
    let refused = ["forward", "home/nas", "-L", &port];
    let said = pair.laptop.cli(&refused).exits(4);
    let hint = "hint: on `home`: alknet grant laptop peer:nas=net/dial\n";
    assert!(said.stderr.ends_with(hint), "{said:?}");
    pair.home
        .cli(&["grant", "laptop", "peer:nas=net/*"])
        .exits(0);
    let said = pair.laptop.cli(&refused).exits(4);
    assert!(
        said.stderr.contains("hint: on `nas`: alknet grant home"),
        "{said:?}"
    );
    nas.cli(&[&["grant", "home"], &GRANTS[..]].concat())
        .exits(0);
    for direction in ["-L", "-R"] {
        let forward = Forward::start(&pair.laptop, "home/nas", &[direction, &port]);
        assert_eq!(forward.lines[0]["peer"], "home/nas");
        let mut stream = connect(forward.port());
        echoes(&mut stream, "hello").unwrap();
    }
}

#[test]
fn a_peer_is_dialled_now_or_it_is_said_why_not() {
    let mut pair = Pair::start("");
    let dial = [
        "call",
        "peers/dial",
        "peer=home",
        "timeout_ms=500",
        "--json",
    ];
    let linked = pair.laptop.cli(&dial).exits(0).json();
    assert_eq!(linked["state"], "connected");
    pair.home.stop();
    eventually("the link is gone", || {
        (pair.laptop.peer("home")["connected"] == false).then_some(())
    });
    let said = pair.laptop.cli(&dial).exits(3);
    assert!(
        said.stderr.contains("peer `home` is not connected: "),
        "{said:?}"
    );
    pair.home.restart();
    let patient = [
        "call",
        "peers/dial",
        "peer=home",
        "timeout_ms=60000",
        "--json",
    ];
    let linked = pair.laptop.cli(&patient).exits(0).json();
    assert_eq!(linked["state"], "connected");
    let unknown = ["call", "peers/dial", "peer=hoem"];
    let said = pair.laptop.cli(&unknown).exits(1);
    assert!(said.stderr.contains("did you mean `home`?"), "{said:?}");
}

/// The node of this machine is what a forward cannot be without.
#[test]
fn a_forward_ends_when_the_node_here_stops() {
    let mut pair = pair("");
    let mut forward = Forward::local(&pair.laptop, "home", serve(echo));
    pair.laptop.stop();
    let ended = forward.running.code().exits(3);
    assert!(ended.stderr.contains("NOT_RUNNING"), "{ended:?}");
}
