//! Much at once: bytes and items pass unchanged, in bounded memory.

use super::Row;
use crate::e2e::{bulk::there_and_back, harness::Node};
use std::{
    io::{BufRead, BufReader},
    thread,
    time::{Duration, Instant},
};

/// What relaying may take beside what a node needs once.
const GROWTH_KIB_MAX: u64 = 24 * 1024;

/// Sends `bytes` through and back, with the memory of all nodes.
#[track_caller]
fn bytes_pass(bytes: u64) {
    let row = Row::started_and_granted();
    there_and_back(&row.phone, "hub/nas", 64 * 1024);
    let before = row.nodes().map(Node::memory_peak_kib);
    there_and_back(&row.phone, "hub/nas", bytes);
    bounded(&row, before);
}

#[track_caller]
fn bounded(row: &Row, before: [u64; 3]) {
    for (node, before) in row.nodes().into_iter().zip(before) {
        let grown = node.memory_peak_kib() - before;
        assert!(
            grown < GROWTH_KIB_MAX,
            "`{}` grew by {grown} KiB from {before} KiB",
            node.name
        );
    }
}

fn is_full() -> bool {
    std::env::var_os("ALKNET_TEST_FULL").is_some()
}

/// 1 GiB in `./test full`.
#[test]
fn slow_bytes_pass_the_hub_unchanged_both_ways_in_bounded_memory() {
    bytes_pass(if is_full() { 1024 } else { 64 } * 1024 * 1024);
}

#[test]
fn slow_a_slow_reader_of_a_hundred_thousand_items_loses_none_and_holds_the_producer() {
    const ITEMS: usize = 100_000;
    let row = Row::started_and_granted();
    row.call(&["test/lines", "to=1000"]).exits(0);
    let before = row.nodes().map(Node::memory_peak_kib);
    let to = format!("to={ITEMS}");
    let mut command = row
        .phone
        .command(&["call", "test/lines", &to, "--on", "hub/nas"]);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let counts = || {
        row.nas
            .children()
            .iter()
            .any(|(_, line)| line.starts_with("seq "))
    };
    let mut wait = Duration::ZERO;
    for wanted in 1..=ITEMS {
        let line = lines.next().unwrap().unwrap();
        assert_eq!((line.len(), line.parse::<usize>().unwrap()), (200, wanted));
        if wanted % 10_000 == 0 {
            // Slow: whoever is ahead has time to get as far as it may.
            let rests = Instant::now();
            thread::sleep(Duration::from_millis(100));
            wait += rests.elapsed();
        }
        // All windows and pipes on the way hold far less than the other half.
        if wanted == ITEMS / 2 {
            assert!(counts(), "the producer was not held back");
        }
    }
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
    assert!(wait >= Duration::from_secs(1));
    bounded(&row, before);
}
