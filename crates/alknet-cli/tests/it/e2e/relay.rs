//! Two nodes without a direct path, through a relay.

use super::{
    bulk,
    harness::{Node, Running, eventually, exec_config},
    netns::{Lab, ip},
};
use crate::program::Lines;
use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use std::{
    net::SocketAddr,
    process::{Child, Stdio},
};

/// Set in the process that is the relay: where it listens.
const RELAY: &str = "ALKNET_E2E_RELAY";
/// An address that both sides reach, at the machine in the middle.
const MIDDLE: &str = "10.99.0.1";
const PORT: u16 = 3340;

/// Not a test of its own: started again by the test below, in the namespace in
/// the middle, it is the relay. Otherwise it does nothing.
#[test]
fn relay_process() {
    let Ok(address) = std::env::var(RELAY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new(address.parse::<SocketAddr>().unwrap()));
        let server = Server::spawn(config).await.unwrap();
        #[allow(clippy::print_stdout)]
        {
            println!("relay at {}", server.http_addr().unwrap());
        }
        // It is killed.
        std::future::pending::<()>().await;
    });
}

/// The relay, killed when dropped.
struct Relay(Child);

impl Relay {
    fn start(machine: &str, address: &str) -> (Self, String) {
        let mut command = ip();
        command
            .args(["netns", "exec", machine])
            .arg(std::env::current_exe().unwrap());
        command.args(["--exact", "e2e::relay::relay_process", "--nocapture"]);
        command
            .env(RELAY, format!("{address}:{PORT}"))
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        let relay = Self(child);
        loop {
            // The harness of the tests prints before, on the same line even.
            let line = lines.next();
            if let Some((_, address)) = line.split_once("relay at ") {
                return (relay, format!("http://{address}"));
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three machines: the middle one forwards nothing.
fn apart(lab: &mut Lab) -> [String; 3] {
    let (middle, one, other) = (lab.machine("r"), lab.machine("a"), lab.machine("b"));
    lab.ip(&middle, &format!("addr add {MIDDLE}/32 dev lo"));
    lab.cable(
        (&middle, "toa", "10.98.1.1/24"),
        (&one, "lan", "10.98.1.2/24"),
    );
    lab.cable(
        (&middle, "tob", "10.98.2.1/24"),
        (&other, "lan", "10.98.2.2/24"),
    );
    lab.ip(&one, "route add default via 10.98.1.1");
    lab.ip(&other, "route add default via 10.98.2.1");
    assert!(lab.succeeds(
        &middle,
        &["sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"]
    ));
    [middle, one, other]
}

#[test]
fn slow_two_nodes_without_a_direct_path_meet_through_a_relay() {
    let Some(mut lab) = Lab::open("slow_two_nodes_without_a_direct_path_meet_through_a_relay")
    else {
        return;
    };
    let [middle, one, other] = apart(&mut lab);
    let (relay, url) = Relay::start(&middle, MIDDLE);
    // The premise, measured: both reach the middle, neither the other.
    let (probe, _) = Relay::start(&other, "10.98.2.2");
    let reaches = |machine: &str, address: &str| {
        let open = format!(": < /dev/tcp/{address}/{PORT}");
        lab.succeeds(machine, &["timeout", "2", "bash", "-c", &open])
    };
    assert!(reaches(&one, MIDDLE) && reaches(&other, MIDDLE) && reaches(&middle, "10.98.2.2"));
    assert!(!reaches(&one, "10.98.2.2"));
    drop(probe);
    let config = format!(
        "{}[[operation]]\nname = \"test/follow\"\nsummary = \"Counts for ever.\"\noutput = \"lines\"\n\
         command = [\"sh\", \"-c\", \"n=0; while n=$((n+1)); do echo $n; sleep 0.05; done\"]\n",
        exec_config()
    );
    let start = |name, machine: &str, address| {
        Node::start_with(
            name,
            &config,
            &["--relay", &url, "--bind", address],
            Some(machine),
        )
    };
    let home = start("home", &one, "10.98.1.2:0");
    let laptop = start("laptop", &other, "10.98.2.2:0");
    eventually("the relay is in use", || {
        let status = home.cli(&["status", "--json"]).exits(0).json();
        (status["relays"][0] == format!("{url}/")).then_some(())
    });
    let ticket = home
        .cli(&["invite", "-q", "--role", "operator"])
        .exits(0)
        .stdout;
    laptop
        .feed(&["join", "-", "--role", "operator"], ticket.as_bytes())
        .exits(0);
    let link = |node: &Node, peer: &str| node.connected(peer)["link"]["path"].clone();
    assert_eq!(link(&laptop, "home"), "relay");
    for (caller, called) in [(&laptop, &home), (&home, &laptop)] {
        let on = called.name.as_str();
        let info = caller
            .cli(&["call", "node/info", "--on", on, "--json"])
            .exits(0)
            .json();
        assert_eq!(info["node_id"], called.id());
        let said = caller
            .feed(
                &[
                    "exec",
                    on,
                    "--",
                    "sh",
                    "-c",
                    "tr a-z A-Z; echo err >&2; exit 7",
                ],
                b"in",
            )
            .exits(7);
        assert_eq!(
            (said.stdout.as_str(), said.stderr.as_str()),
            ("IN", "err\n")
        );
        let counting: Running = caller.spawn(&["call", "test/follow", "--on", on]);
        for n in 1..=5 {
            assert_eq!(counting.lines.next(), n.to_string());
        }
        bulk::there_and_back(caller, on, 4 * 1024 * 1024);
        for _ in 0..5 {
            counting.lines.next();
        }
    }
    // It stayed so: no other path was found meanwhile.
    assert_eq!(
        (link(&laptop, "home"), link(&home, "laptop")),
        ("relay".into(), "relay".into())
    );
    drop(relay);
}
