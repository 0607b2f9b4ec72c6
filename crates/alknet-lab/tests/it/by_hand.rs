//! The lab as a program.

use alknet_lab::{Lab, namespaces};
use std::{
    io::Read,
    net::{TcpStream, ToSocketAddrs},
    process::{Command, Output},
};

/// A lab with a name of its own, down at the end whatever happens.
struct Up(String);

impl Up {
    fn run(&self, words: &[&str], rest: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_alknet-lab"))
            .args(&words[..1])
            .args(["--name", &self.0])
            .args(&words[1..])
            .args(rest)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn says(&self, words: &[&str], rest: &[&str]) -> String {
        let said = self.run(words, rest);
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // It may be down.
        let _ = self.run(&["down"], &[]);
    }
}

#[test]
fn a_lab_stays_up_is_changed_and_goes_down_with_what_runs_in_it() {
    let Some(probe) = Lab::open("a_lab_stays_up_is_changed_and_goes_down_with_what_runs_in_it")
    else {
        return;
    };
    drop(probe);
    let up = Up(format!("test-{}", std::process::id()));
    let told = up.says(&["up"], &["--left", "symmetric", "--right", "open"]);
    assert!(told.contains("symmetric, seen as 203.0.113."), "{told}");
    let again = up.run(&["up"], &[]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is up already"));
    let enter = |host: &str, command: &[&str]| up.says(&["enter", host, "--"], command);
    let address = |host: &str| enter(host, &["ip", "-4", "-o", "addr", "show", "eth0"]);
    assert!(address("left").contains(" 192.168."));
    assert!(address("right").contains(" 198.51.100."));
    up.says(&["set", "left", "ipv4", "off"], &[]);
    assert_eq!(address("left"), "");
    let wrong = up.run(&["set", "left", "mtu", "20"], &[]);
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(said, "error: mtu `20` is not from 1280 to 1500\n");
    let mut sleeper = Command::new(env!("CARGO_BIN_EXE_alknet-lab"))
        .args(["enter", "--name", &up.0, "relay", "--", "sleep", "1000"])
        .spawn()
        .unwrap();
    let ours = told
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .last()
        .unwrap();
    assert!(namespaces().iter().any(|name| name == ours));
    // It has become `sleep` once it is in the namespace.
    let command = format!("/proc/{}/comm", sleeper.id());
    while std::fs::read_to_string(&command).unwrap() != "sleep\n" {
        std::thread::yield_now();
    }
    up.says(&["down"], &[]);
    assert!(!sleeper.wait().unwrap().success());
    assert!(namespaces().iter().all(|name| name != ours));
}

#[test]
fn a_lab_that_is_not_up_is_told() {
    let up = Up(format!("none-{}", std::process::id()));
    let said = up.run(&["down"], &[]);
    let want = format!("error: lab `{}` is not up\n", up.0);
    assert_eq!(String::from_utf8_lossy(&said.stderr), want);
}

#[test]
fn the_machine_itself_is_not_in_the_lab() {
    let Some(lab) = Lab::open("the_machine_itself_is_not_in_the_lab") else {
        return;
    };
    let server = lab.host("server").unwrap();
    let listener = server
        .enter(|| std::net::TcpListener::bind((server.v4(), 0)))
        .unwrap()
        .unwrap();
    let at = listener.local_addr().unwrap();
    let at = at.to_socket_addrs().unwrap().next().unwrap();
    let wait = std::time::Duration::from_millis(300);
    assert!(TcpStream::connect_timeout(&at, wait).is_err());
    let mut routes = String::new();
    let mut table = std::fs::File::open("/proc/net/route").unwrap();
    table.read_to_string(&mut routes).unwrap();
    // 203.0.113.x, as the table writes it.
    assert!(!routes.contains("7100CB"), "{routes}");
}
