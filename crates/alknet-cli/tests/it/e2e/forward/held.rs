//! What is left behind: nothing, whoever is killed.

use super::{Forward, QUICK, both_ways, connect, echo, echoes, pair, serve};
use crate::{
    e2e::harness::{Node, Pair, eventually},
    program::PATIENCE,
};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// What a process holds, as the system sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
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
pub(super) fn nothing_is_left(node: &Node, before: &Held) {
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
pub(super) fn settled(pair: &Pair) -> [Held; 2] {
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
