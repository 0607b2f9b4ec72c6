//! Frames: goldens, limits, and what a decoder makes of nonsense.

use crate::support::hello;
use alknet_call::{
    Bearer, CallKind, Credit, Decoder, Frame, FrameError, FrameType, Invoke, fuzz_frames,
};
use alknet_core::{CallError, ErrorCode};
use bytes::Bytes;
use serde_json::json;
use std::{fmt::Write, time::Duration};

const DOC: &str = include_str!("../../../../docs/architecture/call-protocol.md");

fn full_invoke() -> Invoke {
    Invoke {
        call_id: [
            0x01, 0x8f, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x2a,
        ],
        operation: "fs/stat".into(),
        kind: CallKind::Unary,
        budget_ms: Some(30_000),
        route: vec!["nas".into(), "any".into()],
        via: vec![[0x11; 32]],
        originator: Some(("home".into(), "alice".into())),
        idempotency_key: Some("k-1".into()),
        can_answer: true,
        wants_progress: true,
        trace: Some("00-4bf9-00f0-01".into()),
    }
}

fn plain_invoke() -> Invoke {
    Invoke {
        budget_ms: None,
        route: vec![],
        via: vec![],
        originator: None,
        idempotency_key: None,
        can_answer: false,
        wants_progress: false,
        trace: None,
        ..full_invoke()
    }
}

/// One of each, named as in the document.
fn goldens() -> Vec<(&'static str, Frame)> {
    let error = CallError::new(ErrorCode::RateLimited, "slow down")
        .with_retry_after(Duration::from_millis(1500))
        .with_details(json!({ "limit": 50 }));
    vec![
        ("hello", hello(None)),
        ("hello-credential", hello(Some(Bearer::new("alk_example")))),
        (
            "invoke",
            Frame::Invoke(Box::new(plain_invoke()), r#"{"file":"www/motd"}"#.into()),
        ),
        (
            "invoke-full",
            Frame::Invoke(Box::new(full_invoke()), "{}".into()),
        ),
        (
            "chunk",
            Frame::Chunk {
                aux: false,
                bytes: "hi".into(),
            },
        ),
        (
            "chunk-aux",
            Frame::Chunk {
                aux: true,
                bytes: "no".into(),
            },
        ),
        ("end", Frame::End { cut: false }),
        ("end-cut", Frame::End { cut: true }),
        ("control", Frame::Control(r#"{"resize":[80,24]}"#.into())),
        (
            "answer",
            Frame::Answer {
                ask: 7,
                answer: Some("true".into()),
            },
        ),
        (
            "answer-refused",
            Frame::Answer {
                ask: 7,
                answer: None,
            },
        ),
        (
            "credit",
            Frame::Credit(Credit {
                bytes: 262_144,
                items: 32_768,
                controls: 16,
                stop: false,
            }),
        ),
        (
            "credit-stop",
            Frame::Credit(Credit {
                stop: true,
                ..Credit::default()
            }),
        ),
        ("accepted", Frame::Accepted(r#"{"pid":12}"#.into())),
        ("accepted-subscription", Frame::Accepted(Bytes::new())),
        ("item", Frame::Item(r#"{"n":1}"#.into())),
        ("progress", Frame::Progress(r#"{"done":0.5}"#.into())),
        (
            "ask",
            Frame::Ask {
                ask: 7,
                question: r#""overwrite?""#.into(),
            },
        ),
        ("done", Frame::Done("42".into())),
        ("error", Frame::Error(error)),
        (
            "error-domain",
            Frame::Error(CallError::domain("NO_SUCH_FILE", "no file `www/motd`")),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut decoder = Decoder::new(16 * 1024 * 1024, 256 * 1024);
    decoder.feed(bytes);
    decoder.frame()
}

#[test]
fn the_document_shows_every_frame_as_it_is_written() {
    let block = DOC.split("```golden\n").nth(1).expect("a block of goldens");
    let block = block.split("```").next().unwrap();
    let want: String = goldens()
        .iter()
        .fold(String::new(), |mut text, (name, frame)| {
            writeln!(text, "{name} {}", hex(&frame.to_bytes())).unwrap();
            text
        });
    assert_eq!(
        block, want,
        "the wire changed: this needs a new version of the protocol"
    );
    for frame_type in FrameType::ALL {
        assert!(
            goldens()
                .iter()
                .any(|(_, frame)| frame.frame_type() == *frame_type)
        );
    }
}

#[test]
fn every_frame_reads_back_whole_byte_by_byte_and_in_a_row() {
    let mut row = Decoder::new(16 * 1024 * 1024, 256 * 1024);
    for (name, frame) in goldens() {
        let bytes = frame.to_bytes();
        assert_eq!(decode(&bytes), Ok(Some(frame.clone())), "{name}");
        let mut slowly = Decoder::new(16 * 1024 * 1024, 256 * 1024);
        for byte in &bytes[..bytes.len() - 1] {
            slowly.feed(&[*byte]);
            assert_eq!(slowly.frame(), Ok(None), "{name}");
            assert!(!slowly.is_between_frames());
        }
        slowly.feed(&bytes[bytes.len() - 1..]);
        assert_eq!(slowly.frame(), Ok(Some(frame)), "{name}");
        row.feed(&bytes);
    }
    for (name, frame) in goldens() {
        assert_eq!(row.frame(), Ok(Some(frame)), "{name}");
    }
    assert_eq!(row.frame(), Ok(None));
    assert!(row.is_between_frames());
}

fn preamble(code: u8, flags: u8, header: u16, payload: u32) -> Vec<u8> {
    let mut bytes = vec![code, flags];
    bytes.extend(header.to_be_bytes());
    bytes.extend(payload.to_be_bytes());
    bytes
}

#[test]
fn lengths_are_judged_at_their_limit_and_one_past_it() {
    let cases = [
        (FrameType::Hello, 0),
        (FrameType::Invoke, 16 << 20),
        (FrameType::Chunk, 256 << 10),
        (FrameType::End, 0),
        (FrameType::Control, 256 << 10),
        (FrameType::Answer, 256 << 10),
        (FrameType::Credit, 0),
        (FrameType::Accepted, 16 << 20),
        (FrameType::Item, 16 << 20),
        (FrameType::Progress, 256 << 10),
        (FrameType::Ask, 256 << 10),
        (FrameType::Done, 16 << 20),
        (FrameType::Error, 256 << 10),
    ];
    assert_eq!(cases.len(), FrameType::ALL.len());
    for (frame, max) in cases {
        assert_eq!(
            decode(&preamble(frame as u8, 0, 9, max)),
            Ok(None),
            "{frame}"
        );
        let past = decode(&preamble(frame as u8, 0, 9, max + 1));
        assert!(
            matches!(past, Err(FrameError::PayloadTooLong { .. })),
            "{frame}: {past:?}"
        );
        assert_eq!(
            decode(&preamble(frame as u8, 0, 8192, 0)),
            Ok(None),
            "{frame}"
        );
        let past = decode(&preamble(frame as u8, 0, 8193, 0));
        assert_eq!(
            past,
            Err(FrameError::HeaderTooLong { found: 8193 }),
            "{frame}"
        );
        for flag in 0..8 {
            let flagged = decode(&preamble(frame as u8, 1 << flag, 9, 0));
            let allowed = frame == FrameType::Chunk && flag == 0;
            assert_eq!(flagged.is_ok(), allowed, "{frame} {flag}");
        }
    }
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut decoder = Decoder::new(16 << 20, 256 << 10);
    decoder.feed(&preamble(0x10, 0, 40, u32::MAX));
    assert!(decoder.frame().is_err());
    assert!(decoder.bytes_held() < 100);
    let mut decoder = Decoder::new(16 << 20, 256 << 10);
    decoder.feed(&preamble(0x10, 0, 40, 16 << 20));
    assert_eq!(decoder.frame(), Ok(None));
    assert!(decoder.bytes_held() < 100);
    assert_eq!(decoder.payload_expected(), 16 << 20);
}

/// A header as it would be if a length in it were believed.
fn with_header(code: u8, header: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut bytes = preamble(code, 0, u16::try_from(header.len()).unwrap(), 0);
    bytes.extend(header);
    decode(&bytes)
}

#[test]
fn lengths_within_a_header_are_not_believed() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    // The number of added fields, and of versions in a `Hello`.
    for code in [0x01, 0x13, 0x20, 0x21, 0x22, 0x2e] {
        let refused = with_header(code, &huge);
        assert!(
            matches!(refused, Err(FrameError::Header(_))),
            "0x{code:02x} {refused:?}"
        );
    }
    let trailing = with_header(0x2e, &[0, 0]);
    assert_eq!(trailing, Err(FrameError::Header(FrameType::Done)));
    let missing = with_header(0x2e, &[]);
    assert_eq!(missing, Err(FrameError::Header(FrameType::Done)));
    let neither = with_header(0x12, &[2, 0]);
    assert_eq!(
        neither,
        Err(FrameError::Header(FrameType::End)),
        "a flag is 0 or 1"
    );
}

#[test]
fn at_most_sixteen_added_fields_are_read() {
    let fields = |count: u8| {
        let mut header = vec![count];
        for n in 0..count {
            header.extend([2 * n + 1, 1, 0]);
        }
        with_header(0x2e, &header)
    };
    assert_eq!(fields(16), Ok(Some(Frame::Done(Bytes::new()))));
    assert_eq!(fields(17), Err(FrameError::Header(FrameType::Done)));
    let critical = with_header(0x2e, &[2, 1, 0, 0xfe, 0x01, 1, 7]);
    let want = FrameError::Extension {
        frame: FrameType::Done,
        id: 254,
    };
    assert_eq!(critical, Err(want));
}

/// Writes an `Invoke` by hand, for texts that our own writer would cut.
fn invoke_with(
    operation: &str,
    route: usize,
    via: u8,
    key: usize,
    trace: usize,
) -> Result<Option<Frame>, FrameError> {
    let mut header = vec![1; 16];
    let text = |header: &mut Vec<u8>, text: &str| {
        let mut len = text.len();
        while len >= 0x80 {
            header.push(len as u8 | 0x80);
            len >>= 7;
        }
        header.push(len as u8);
        header.extend(text.as_bytes());
    };
    text(&mut header, operation);
    header.extend([0, 0]);
    header.push(route as u8);
    (0..route).for_each(|_| text(&mut header, "nas"));
    header.push(via);
    header.extend(vec![9; 32 * usize::from(via)]);
    header.push(0);
    header.push(1);
    text(&mut header, &"k".repeat(key));
    header.extend([0, 0, 1]);
    text(&mut header, &"t".repeat(trace));
    header.push(0);
    with_header(0x10, &header)
}

#[test]
fn fields_of_a_call_are_judged_at_their_limit_and_one_past_it() {
    let name = "n".repeat(64);
    let fine = invoke_with(&name, 4, 8, 128, 128);
    assert!(matches!(fine, Ok(Some(Frame::Invoke(..)))), "{fine:?}");
    for past in [
        invoke_with(&"n".repeat(65), 4, 8, 128, 128),
        invoke_with(&name, 5, 8, 128, 128),
        invoke_with(&name, 4, 9, 128, 128),
        invoke_with(&name, 4, 8, 129, 128),
        invoke_with(&name, 4, 8, 128, 129),
    ] {
        assert_eq!(past, Err(FrameError::Header(FrameType::Invoke)));
    }
}

#[test]
fn codes_of_the_future_are_kept() {
    let bytes = Frame::Error(CallError {
        code: "FROM_THE_FUTURE".into(),
        ..CallError::new(ErrorCode::Gone, "x")
    })
    .to_bytes();
    let Ok(Some(Frame::Error(error))) = decode(&bytes) else {
        panic!("an error")
    };
    assert_eq!(error.code, "FROM_THE_FUTURE");
    assert_eq!(error.protocol_code(), Some(ErrorCode::Internal));
}

#[test]
fn mutated_frames_neither_panic_nor_swell_nor_change() {
    let rounds = if std::env::var_os("ALKNET_TEST_FULL").is_some() {
        20_000_000
    } else {
        250_000
    };
    let seeds: Vec<Vec<u8>> = goldens()
        .iter()
        .map(|(_, frame)| frame.to_bytes().to_vec())
        .collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds {
        let mut bytes = vec![random.next() as u8];
        for _ in 0..=random.below(3) {
            bytes.extend(&seeds[random.below(seeds.len())]);
        }
        for _ in 0..random.below(5) {
            let at = 1 + random.below(bytes.len() - 1);
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.next() as u8,
                2 => bytes.truncate(at + 1),
                3 => bytes.insert(at, random.next() as u8),
                _ => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
            }
        }
        fuzz_frames(&bytes);
    }
}

/// SplitMix64: the same mutations in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}
