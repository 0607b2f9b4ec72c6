//! What peers tell about where they are, and what newcomers and inviting nodes
//! send each other.

use super::{MIB, Target, texts};
use crate::{note, source::Source};
use alknet_node::{fuzz_exchange, fuzz_join, fuzz_record, fuzz_record_seeds};

pub(super) const RECORDS: Target = Target {
    name: "records",
    about: "An address record counts only as its node signed it, for its network.",
    run: records,
    seeds: || {
        let [sealed, signed, content] = fuzz_record_seeds();
        vec![
            [&[0], &sealed[..]].concat(),
            [&[1], &signed[..]].concat(),
            [&[1], &content[..]].concat(),
            vec![1],
        ]
    },
    tokens: &[
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[1, 4, 127, 0, 0, 1, 80],
        &[0, 192, 0, 2, 1, 80],
        b"https://",
    ],
    bytes_max: 4_200,
    held_max: 4 * MIB,
};

fn records(data: &[u8]) {
    let mut source = Source::new(data);
    let kind = source.byte();
    let sealed = kind & 1 == 0;
    let now = match kind >> 1 & 3 {
        0 => 1_790_000_000_000,
        1 => 0,
        2 => i64::MAX,
        _ => i64::MIN,
    };
    let bytes = source.rest();
    let read = fuzz_record(bytes, sealed, now);
    // Nobody signs but the seeds' own key: nothing else may be accepted.
    assert!(read.is_none() || fuzz_record_seeds()[..2].iter().any(|seed| seed == bytes) || sealed);
    note((sealed, read));
}

pub(super) const EXCHANGES: Target = Target {
    name: "exchanges",
    about: "Asks and offers of records are read within their limits.",
    run: exchanges,
    seeds: || {
        let ask = [
            &[0, 1][..],
            &[7; 16],
            &[2],
            &[9; 16],
            &[5],
            &[8; 16],
            &[0xff, 1],
            &[0],
        ]
        .concat();
        let offer = [&[1, 1][..], &[7; 16], &[3, 1, 2, 3], &[0]].concat();
        vec![ask, offer, vec![0, 0, 0], vec![1, 0, 0]]
    },
    tokens: &[&[0xff, 0xff, 0xff, 0xff, 0x0f], &[7; 16], &[0x80, 0x20]],
    bytes_max: 4_096,
    held_max: 4 * MIB,
};

fn exchanges(data: &[u8]) {
    let mut source = Source::new(data);
    let is_ask = !source.flag();
    note((is_ask, fuzz_exchange(source.rest(), is_ask)));
}

pub(super) const JOINS: Target = Target {
    name: "joins",
    about: "Nothing that a newcomer or an inviting node says leads this machine to itself.",
    run: joins,
    seeds: || {
        let requests = texts(&[
            r#"{"secret":"00112233445566778899aabbccddeeff","name":"laptop","addresses":{"direct":["192.0.2.1:1","127.0.0.1:1"],"relays":["https://relay.example.org/"]},"gives":["reader"]}"#,
            r#"{"secret":"","name":""}"#,
        ]);
        let answers = texts(&[
            r#"{"joined":{"name":"home","you_are":"laptop","gives":[],"addresses":{"direct":["[::ffff:127.0.0.1]:1"],"relays":["https://localhost/"]},"network":"0000000000000000000000000000000000000000000000000000000000000000"}}"#,
            r#"{"refused":{"code":"TICKET_WRONG","message":"no"}}"#,
        ]);
        let with = |first: u8, all: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
            all.iter()
                .map(|text| [&[first], &text[..]].concat())
                .collect()
        };
        [with(0, requests), with(1, answers)].concat()
    },
    tokens: &[
        b"\"addresses\"",
        b"\"direct\"",
        b"\"relays\"",
        b"\"network\"",
        b"127.0.0.1:1",
        b"[::1]:1",
        b"169.254.169.254:80",
        b"https://localhost/",
        b"\\u0000",
    ],
    bytes_max: 4_096,
    held_max: 8 * MIB,
};

fn joins(data: &[u8]) {
    let mut source = Source::new(data);
    let is_request = !source.flag();
    note((is_request, fuzz_join(source.rest(), is_request)));
}
