//! `up`, `status`, `down`, and signals.

use crate::program::{Lines, PATIENCE, Place, Up, alknet, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Instant;

#[test]
fn nothing_runs_at_first() {
    let place = Place::new();
    for words in [
        &["status"][..],
        &["call", "node/info"],
        &["down"],
        &["peers", "list"],
    ] {
        let said = place.run(words).exits(3);
        assert!(
            said.stderr.starts_with("error: no node is running "),
            "{said:?}"
        );
        assert!(
            said.stderr.ends_with("\nhint: alknet up\n") && said.stdout.is_empty(),
            "{said:?}"
        );
    }
    let said = place.run(&["exec", ":", "--", "true"]).exits(255);
    assert!(said.stderr.starts_with("error: NOT_RUNNING: "), "{said:?}");
    let said = place.run(&["status", "--json"]).exits(3);
    let error: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
    assert_eq!(error["error"]["code"], "NOT_RUNNING");
    assert_eq!(error["error"]["hint"], "alknet up");
}

#[test]
fn a_node_says_who_it_is() {
    let up = Up::start();
    let status = up.run(&["status", "--json"]).exits(0).json();
    for field in [
        "node_id",
        "name",
        "addresses",
        "http",
        "ssh",
        "relays",
        "peers",
        "version",
        "pid",
    ] {
        assert!(status.get(field).is_some(), "no `{field}` in {status}");
    }
    assert_eq!(status["node_id"], up.status["node_id"]);
    assert_eq!(status["pid"], up.status["pid"]);
    let text = up.run(&["status"]).exits(0).stdout;
    assert!(
        text.contains(&format!(
            "node id:    {}\n",
            status["node_id"].as_str().unwrap()
        )),
        "{text}"
    );
    let doctor = up.run(&["doctor"]).exits(0).stdout;
    assert!(
        doctor.contains("ok    node ") && doctor.contains("ok    database "),
        "{doctor}"
    );
}

#[test]
fn words_of_new_keys_are_not_written_where_no_person_reads() {
    let up = Up::start();
    let told = up.told();
    assert!(
        told.contains("warning: new keys were made and their words are not shown"),
        "{told}"
    );
}

#[test]
fn down_waits_until_the_node_is_gone() {
    let up = Up::start();
    let said = up.run(&["down"]).exits(0);
    assert_eq!(
        (said.stdout.as_str(), said.stderr.as_str()),
        ("", "stopped\n")
    );
    let (status, rest, place) = up.ended();
    assert!(status.success() && rest.is_empty());
    // The directory can be used again at once, by the same node.
    let before = std::fs::read(place.data().join("port")).unwrap();
    let up = Up::start_in(place);
    assert_eq!(std::fs::read(up.place.data().join("port")).unwrap(), before);
}

#[test]
fn a_signal_lets_the_node_end_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let up = Up::start();
        up.signal(signal);
        let (status, _, place) = up.ended();
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(!place.data().join("runtime.json").exists());
    }
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    let up = Up::start();
    let mut call = alknet(up.place.path())
        .args(["call", "demo/count", "to=1000000", "every_ms=10"])
        .spawn()
        .unwrap();
    let lines = Lines::of(call.stdout.take().unwrap());
    assert_eq!(lines.next(), "1");
    up.signal(Signal::TERM);
    // Taken back at the start of the drain, which would last 10 s.
    let started = Instant::now();
    while up.place.data().join("runtime.json").exists() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    up.signal(Signal::TERM);
    let (status, ..) = up.ended();
    assert_eq!(status.code(), Some(143));
    assert_eq!(wait(&mut call).code(), Some(1));
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let up = Up::start();
    up.place
        .configure("[[role]]\nname = \"support\"\nscopes = [\"demo:greet\"]\n");
    up.signal(Signal::HUP);
    let started = Instant::now();
    while !up
        .run(&["roles"])
        .exits(0)
        .stdout
        .contains("support   configuration")
    {
        assert!(started.elapsed() < PATIENCE, "{}", up.told());
    }
    // A file that cannot be used changes nothing, and the log says so.
    up.place.configure("[[rloe]]\n");
    up.signal(Signal::HUP);
    while !up.told().contains("rloe") {
        assert!(started.elapsed() < PATIENCE, "{}", up.told());
        std::thread::yield_now();
    }
    assert!(
        up.run(&["roles"])
            .exits(0)
            .stdout
            .contains("support   configuration")
    );
}

/// A node that nobody waits for: ended when the test fails before `down`.
struct Detached(Pid);

impl Drop for Detached {
    fn drop(&mut self) {
        // A test that went well has ended it, and its id may belong to
        // somebody else by now.
        if std::thread::panicking() {
            let _ = kill_process(self.0, Signal::KILL);
        }
    }
}

#[test]
fn a_detached_node_outlives_the_command() {
    let place = Place::new();
    let words = ["up", "--detach", "--relay", "none", "--bind", "127.0.0.1:0"];
    let said = place.run(&words).exits(0);
    assert!(
        said.stdout
            .contains("Next, in a second terminal:\n  alknet ops --data-dir "),
        "{said:?}"
    );
    let status = place.run(&["status", "--json"]).exits(0).json();
    let _running = Detached(Pid::from_raw(status["pid"].as_i64().unwrap() as i32).unwrap());
    assert!(said.stdout.contains(status["node_id"].as_str().unwrap()));
    let again = place.run(&words).exits(1);
    assert!(again.stderr.contains("is in use by process"), "{again:?}");
    place.run(&["down"]).exits(0);
    place.run(&["status"]).exits(3);
}
