//! Forwarded ports, with real servers and clients at their ends.

use super::{
    harness::{Node, Pair, Running, eventually},
    netns::skip,
};
use crate::program::PATIENCE;
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

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
        (vec!["home"], 2, "--local"),
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

/// What a process holds, as the system sees it.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    children: usize,
    calls: u64,
}

impl Held {
    fn by(pid: u32) -> Self {
        let count = |path: String| fs::read_dir(path).map_or(0, Iterator::count);
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let children = tasks.filter_map(|task| {
            let list = fs::read_to_string(task.ok()?.path().join("children")).ok()?;
            Some(list.split_whitespace().count())
        });
        Self {
            descriptors: count(format!("/proc/{pid}/fd")),
            children: children.sum(),
            calls: 0,
        }
    }

    /// The calls that run there too, which links have as well.
    fn of(node: &Node) -> Self {
        let info = node.cli(&["call", "node/info", "--json"]).exits(0).json();
        let calls = info["calls_in_flight"].as_u64().unwrap();
        Self {
            calls,
            ..Self::by(node.pid())
        }
    }
}

/// Waits until a node holds no more than it did.
#[track_caller]
fn nothing_is_left(node: &Node, before: &Held) {
    let mut now = Held::of(node);
    let started = Instant::now();
    while now.descriptors > before.descriptors
        || now.children > before.children
        || now.calls > before.calls
    {
        let name = &node.name;
        assert!(
            started.elapsed() < PATIENCE,
            "`{name}`: {now:?}, and before {before:?}"
        );
        thread::sleep(Duration::from_millis(50));
        now = Held::of(node);
    }
}

/// Both nodes as they are when links and their own housekeeping have settled.
fn settled(pair: &Pair) -> [Held; 2] {
    // The first forward has the connection for channels dialled, which stays.
    let target = serve(echo);
    both_ways(pair, target, |_, port| {
        echoes(&mut connect(port), "hello").unwrap();
    });
    [&pair.home, &pair.laptop].map(|node| {
        let mut last = Held::of(node);
        eventually("it holds the same for a while", || {
            thread::sleep(Duration::from_millis(200));
            let now = Held::of(node);
            let is_same = now == last;
            last = now;
            is_same.then_some(())
        });
        last
    })
}

/// Opens so many at once, and uses each of them.
fn many(count: usize, port: SocketAddr) {
    let mut all: Vec<TcpStream> = (0..count).map(|_| connect(port)).collect();
    for (at, stream) in all.iter_mut().enumerate() {
        stream.write_all(format!("{at:05}").as_bytes()).unwrap();
    }
    for (at, stream) in all.iter_mut().enumerate() {
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, format!("{at:05}").as_bytes());
    }
}

#[test]
fn a_thousand_connections_are_open_at_once_and_leave_nothing_behind() {
    let pair = pair("");
    let [home, laptop] = settled(&pair);
    let target = serve(echo);
    for direction in ["-L", "-R"] {
        let spec = format!("0:{target}");
        let forward = Forward::start(&pair.laptop, "home", &[direction, &spec]);
        let before = Held::by(forward.running.child.id());
        many(1000, forward.port());
        eventually("the forward holds what it held", || {
            (Held::by(forward.running.child.id()) == before).then_some(())
        });
        let told = forward.running.told();
        assert_eq!(told.lines().count(), 1, "{direction}: {told}");
    }
    nothing_is_left(&pair.home, &home);
    nothing_is_left(&pair.laptop, &laptop);
}

#[test]
fn a_forward_that_is_killed_leaves_nothing_behind() {
    let pair = pair(QUICK);
    let [home, laptop] = settled(&pair);
    let target = serve(echo);
    for direction in ["-L", "-R"] {
        let spec = format!("0:{target}");
        let mut forward = Forward::start(&pair.laptop, "home", &[direction, &spec]);
        let mut held: Vec<TcpStream> = (0..20).map(|_| connect(forward.port())).collect();
        for stream in &mut held {
            echoes(stream, "hello").unwrap();
        }
        forward.running.child.kill().unwrap();
        forward.running.child.wait().unwrap();
        nothing_is_left(&pair.home, &home);
        nothing_is_left(&pair.laptop, &laptop);
        assert!(TcpStream::connect(forward.port()).is_err(), "{direction}");
    }
}

#[test]
fn slow_a_peer_that_is_killed_under_load_comes_back_and_so_do_the_ports() {
    let mut pair = pair(QUICK);
    let target = serve(echo);
    let both = ["-L", &format!("0:{target}"), "-R", &format!("0:{target}")];
    let forward = Forward::start(&pair.laptop, "home", &both);
    let process = forward.running.child.id();
    let before = Held::by(process);
    let laptop = Held::of(&pair.laptop);
    for _ in 0..2 {
        // Load that goes on until it is cut.
        let loads: Vec<_> = (0..20)
            .map(|at| {
                let mut stream = connect(forward.ports[at % 2]);
                echoes(&mut stream, "hello").unwrap();
                thread::spawn(move || while echoes(&mut stream, "load").is_ok() {})
            })
            .collect();
        pair.home.kill();
        pair.home.restart();
        for load in loads {
            load.join().unwrap();
        }
        for port in &forward.ports {
            eventually("new connections pass", || {
                let mut stream = TcpStream::connect(port).ok()?;
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                echoes(&mut stream, "again").ok()
            });
        }
        forward.said("no longer listens");
        eventually("the forward holds what it held", || {
            (Held::by(process).descriptors <= before.descriptors).then_some(())
        });
    }
    drop(forward);
    nothing_is_left(&pair.laptop, &laptop);
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

/// A web server on a port of its own, with a small page and a large file.
struct Web {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Drop for Web {
    fn drop(&mut self) {
        // In order, so that its workers end too; it may have ended.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            Signal::TERM,
        );
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

impl Web {
    fn start() -> Option<Self> {
        let nginx = program("nginx")?;
        let dir = tempfile::tempdir().unwrap();
        // It takes a number: one that was free a moment ago.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        fs::write(dir.path().join("page"), "x".repeat(1024)).unwrap();
        fs::write(dir.path().join("large"), vec![7; 16 * 1024 * 1024]).unwrap();
        let root = dir.path().display();
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let config = format!(
            "{user} daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;\n\
             fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n\
             keepalive_requests 1000000; sendfile on;\n\
             server {{ listen {address} backlog=4096; root {root}; }} }}"
        );
        let path = dir.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        let child = Command::new(nginx)
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let web = Self {
            child,
            address,
            _dir: dir,
        };
        eventually("the web server listens", || {
            TcpStream::connect(address).ok()
        });
        Some(web)
    }
}

/// What `wrk` measured.
#[derive(Debug)]
struct Measured {
    requests: f64,
    bytes: f64,
}

/// Runs `wrk`, and fails if any request did.
#[track_caller]
fn wrk(connections: usize, seconds: u32, url: &str) -> Measured {
    let said = Command::new(program("wrk").unwrap())
        .args([
            "-t2",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "30s",
            url,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success(), "{text}");
    assert!(
        !text.contains("Socket errors") && !text.contains("Non-2xx"),
        "{text}"
    );
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
    };
    let amount = field("Transfer/sec:");
    let (number, unit) = amount.split_at(amount.len() - 2);
    let worth = match unit {
        "GB" => 1e9,
        "MB" => 1e6,
        "KB" => 1e3,
        _ => panic!("{text}"),
    };
    Measured {
        requests: field("Requests/sec:").parse().unwrap(),
        bytes: number.parse::<f64>().unwrap() * worth,
    }
}

/// A proxy that does nothing else, to compare with.
fn bare_proxy(target: SocketAddr) -> (SocketAddr, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = (from.set_nodelay(true), to.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (address, runtime)
}

#[test]
fn slow_a_web_server_is_served_to_a_thousand_connections_each_way() {
    let Some(web) = Web::start() else {
        return skip("forward to a web server", "nginx is not installed");
    };
    if program("wrk").is_none() {
        return skip("forward to a web server", "wrk is not installed");
    }
    let seconds = if std::env::var_os("ALKNET_TEST_FULL").is_some() {
        10
    } else {
        3
    };
    let pair = pair("");
    let [home, laptop] = settled(&pair);
    let (bare, _runtime) = bare_proxy(web.address);
    let measure = |what: &str, at: SocketAddr| {
        let small = wrk(1000, seconds, &format!("http://{at}/page"));
        let large = wrk(8, seconds, &format!("http://{at}/large"));
        report(&format!(
            "{what}: {:.0} requests a second over 1000 connections, {:.0} MB/s over 8",
            small.requests,
            large.bytes / 1e6
        ));
        (small.requests, large.bytes)
    };
    let of_bare = measure("a bare proxy", bare);
    for direction in ["-L", "-R"] {
        let spec = format!("0:{}", web.address);
        let forward = Forward::start(&pair.laptop, "home", &[direction, &spec]);
        let (requests, bytes) = measure(&format!("forward {direction}"), forward.port());
        report(&format!(
            "forward {direction}: {:.2} of the requests, {:.2} of the bytes of a bare proxy",
            requests / of_bare.0,
            bytes / of_bare.1
        ));
        let told = forward.running.told();
        assert_eq!(told.lines().count(), 1, "{direction}: {told}");
    }
    nothing_is_left(&pair.home, &home);
    nothing_is_left(&pair.laptop, &laptop);
}

#[expect(clippy::print_stderr, reason = "figures for whoever runs the test")]
fn report(line: &str) {
    eprintln!("{line}");
}
