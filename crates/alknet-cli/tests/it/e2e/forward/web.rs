//! A web server and its clients, through forwarded ports.

use super::{
    Forward,
    held::{nothing_is_left, settled},
    pair,
};
use crate::e2e::harness::eventually;
use alknet_lab::skip;
use rustix::process::Signal;
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

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
    count: usize,
    requests: f64,
    bytes: f64,
}

/// Loads a page over so many connections until each was served, for at least
/// so many seconds; fails if any request did.
#[track_caller]
fn wrk(connections: usize, seconds: u32, url: &str) -> Measured {
    let mut seconds = seconds;
    loop {
        let measured = wrk_once(connections, seconds, url);
        if measured.count >= connections {
            return measured;
        }
        // A busy machine needs longer.
        seconds *= 2;
        assert!(seconds <= 60, "{measured:?}");
    }
}

#[track_caller]
fn wrk_once(connections: usize, seconds: u32, url: &str) -> Measured {
    let said = Command::new(program("wrk").unwrap())
        .args([
            "-t2",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "--timeout",
            "60s",
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
    let digits = amount.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let worth = match &amount[digits.len()..] {
        "GB" => 1e9,
        "MB" => 1e6,
        "KB" => 1e3,
        _ => 1.0,
    };
    let counted = text.split(" requests in ").next().unwrap_or_default();
    let count = counted.split_whitespace().last().unwrap_or_default();
    Measured {
        count: count.parse().unwrap_or_else(|_| panic!("{text}")),
        requests: field("Requests/sec:").parse().unwrap(),
        bytes: digits.parse::<f64>().unwrap() * worth,
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
        let large = wrk_once(8, seconds, &format!("http://{at}/large"));
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
