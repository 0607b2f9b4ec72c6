//! Frames of the call protocol: bytes to frames and back.

use super::{MIB, Target};
use crate::{note, source::Source};
use alknet_call::{
    Bearer, CREDENTIAL_BYTES_MAX, CallKind, Credit, Decoder, Frame, FrameError, FrameType,
    HEADER_BYTES_MAX, Hello, Invoke, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PREAMBLE_BYTES, PeerLimits,
    ROUTE_STEPS_MAX, TEXT_BYTES_MAX, VIA_NODES_MAX, fuzz_frames,
};
use alknet_core::{CallError, ErrorCode};
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;

/// As a node takes them from a known peer.
const FRAME_BYTES_MAX: usize = 16 * MIB;
const CHUNK_BYTES_MAX: usize = 256 * 1024;

pub(super) const FRAMES: Target = Target {
    name: "frames",
    about: "However the bytes are cut, the same frames come out of them, and they read back.",
    run: frames,
    seeds: frame_seeds,
    tokens: &[
        &[0x10, 0],
        &[0x2e, 0],
        &[0x2f, 0],
        &[0x11, 1],
        &[0xff, 0xff, 0xff, 0xff],
        b"{}",
        b"demo/echo",
        &[0, 1],
        &[0, 0, 0, 0],
    ],
    bytes_max: 2048,
    // A length alone allocates nothing: the largest is 16 MiB.
    held_max: MIB,
};

pub(super) const HEADERS: Target = Target {
    name: "headers",
    about: "A header of any type is read within its limits or refused, and reads back.",
    run: headers,
    seeds: header_seeds,
    tokens: &[
        b"demo/echo",
        b"any",
        b"INTERNAL",
        b"OUT_OF_INK",
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80],
        &[1, 0],
        &[2, 0, 0],
        b"{\"a\":1}",
    ],
    bytes_max: 1024,
    held_max: MIB,
};

fn decoder() -> Decoder {
    Decoder::new(FRAME_BYTES_MAX, CHUNK_BYTES_MAX)
}

/// All frames of some bytes that arrive in pieces, and how it ended.
fn decode(data: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>, bool) {
    let (mut decoder, mut frames) = (decoder(), Vec::new());
    for part in data.chunks(piece.max(1)) {
        decoder.feed(part);
        loop {
            match decoder.frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error), false),
            }
        }
    }
    let is_between = decoder.is_between_frames();
    (frames, None, is_between)
}

fn frames(data: &[u8]) {
    fuzz_frames(data);
    // The first byte says in which pieces the others arrive.
    let Some((&piece, data)) = data.split_first() else {
        return;
    };
    let whole = decode(data, data.len());
    let cut = decode(data, usize::from(piece));
    assert_eq!(whole, cut, "pieces of {piece} bytes");
    let (frames, error, is_between) = whole;
    let mut rest = data;
    for frame in &frames {
        rest = walk(frame, rest);
    }
    match &error {
        None => assert_eq!(is_between, rest.is_empty(), "what is left over"),
        Some(_) => assert!(!rest.is_empty(), "an error for no bytes"),
    }
    if error.is_none() {
        assert!(is_incomplete(rest), "a whole frame was not read: {rest:?}");
    }
    let types: Vec<u8> = frames
        .iter()
        .take(3)
        .map(|frame| frame.frame_type() as u8)
        .collect();
    note((types, error.as_ref().map(std::mem::discriminant)));
}

/// The lengths of a frame, read by hand.
fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let preamble = bytes.get(..PREAMBLE_BYTES)?;
    let header = usize::from(preamble[2]) << 8 | usize::from(preamble[3]);
    let payload = preamble[4..]
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    Some((header, payload))
}

fn is_incomplete(bytes: &[u8]) -> bool {
    lengths(bytes).is_none_or(|(header, payload)| bytes.len() < PREAMBLE_BYTES + header + payload)
}

/// Checks a frame against the bytes that it came of; gives what follows them.
fn walk<'a>(frame: &Frame, bytes: &'a [u8]) -> &'a [u8] {
    assert_eq!(bytes[0], frame.frame_type() as u8);
    let (header, payload) = lengths(bytes).expect("a frame has a preamble");
    assert!(header <= HEADER_BYTES_MAX && payload <= FRAME_BYTES_MAX);
    let at = PREAMBLE_BYTES + header;
    let text = &bytes[at..at + payload];
    match frame {
        Frame::Invoke(_, found)
        | Frame::Chunk { bytes: found, .. }
        | Frame::Control(found)
        | Frame::Accepted(found)
        | Frame::Item(found)
        | Frame::Progress(found)
        | Frame::Done(found)
        | Frame::Answer {
            answer: Some(found),
            ..
        }
        | Frame::Ask {
            question: found, ..
        } => assert_eq!(found, text),
        Frame::Error(error) => assert_eq!(error.details.is_none(), text.is_empty()),
        Frame::Hello(..) | Frame::End { .. } | Frame::Credit(_) => assert!(text.is_empty()),
        // Beside a refusal to answer, text is ignored.
        Frame::Answer { answer: None, .. } => {}
    }
    if let Frame::Chunk { aux, bytes: found } = frame {
        assert_eq!(*aux, bytes[1] == 1);
        assert!(!found.is_empty() && found.len() <= CHUNK_BYTES_MAX);
    } else {
        assert_eq!(bytes[1], 0, "flags");
    }
    &bytes[at + payload..]
}

/// The first byte picks the type, the second a payload; the rest is header.
fn headers(data: &[u8]) {
    let mut source = Source::new(data);
    let frame = source.pick(FrameType::ALL);
    let payload: &[u8] = source.pick(&[b"", b"{\"a\":[1,2.5]}", b"[", b"\"x\""]);
    let header = source.rest();
    let mut bytes = vec![frame as u8, 0];
    bytes.extend(
        u16::try_from(header.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
    );
    bytes.extend(u32::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    let (found, error, _) = decode(&bytes, bytes.len());
    note((frame as u8, error.as_ref().map(std::mem::discriminant)));
    let [found] = found.as_slice() else {
        assert!(
            found.is_empty() && error.is_some(),
            "neither a frame nor an error"
        );
        return;
    };
    within_limits(found);
    let again = found.to_bytes();
    let (back, error, is_between) = decode(&again, again.len());
    assert!(
        error.is_none() && is_between,
        "does not read back: {error:?}"
    );
    match (&back[..], found) {
        // Numbers in details may be rounded once.
        ([Frame::Error(back)], Frame::Error(found)) => {
            let bare = |error: &CallError| CallError {
                details: None,
                ..error.clone()
            };
            assert_eq!(bare(back), bare(found));
        }
        ([back], found) => assert_eq!(back, found),
        _ => assert_eq!(back.len(), 1),
    }
}

fn within_limits(frame: &Frame) {
    match frame {
        Frame::Hello(hello, credential) => {
            assert!(hello.versions.len() <= 16 && hello.features.len() <= 32);
            assert!(hello.software.len() <= NAME_BYTES_MAX + '…'.len_utf8());
            assert!(hello.node_name.len() <= NAME_BYTES_MAX + '…'.len_utf8());
            is_printable(&hello.software);
            is_printable(&hello.node_name);
            note((
                hello.versions.len(),
                hello.features.len(),
                credential.is_some(),
            ));
        }
        Frame::Invoke(invoke, _) => {
            assert!(invoke.operation.len() <= NAME_BYTES_MAX);
            assert!(invoke.route.len() <= ROUTE_STEPS_MAX && invoke.via.len() <= VIA_NODES_MAX);
            assert!(invoke.route.iter().all(|step| step.len() <= NAME_BYTES_MAX));
            let texts = [&invoke.idempotency_key, &invoke.trace];
            assert!(texts.iter().all(|text| {
                text.as_ref()
                    .is_none_or(|text| text.len() <= TEXT_BYTES_MAX)
            }));
            if let Some((node, label)) = &invoke.originator {
                assert!(node.len() <= NAME_BYTES_MAX && label.len() <= TEXT_BYTES_MAX);
            }
            note((
                invoke.kind as u8,
                invoke.route.len(),
                invoke.via.len(),
                invoke.trace.is_some(),
            ));
        }
        Frame::Error(error) => {
            assert!(!error.code.is_empty() && error.code.len() <= NAME_BYTES_MAX);
            assert!(error.message.len() <= MESSAGE_BYTES_MAX + '…'.len_utf8());
            is_printable(&error.message);
            note((
                ErrorCode::parse(&error.code).is_some(),
                error.retry_after.is_some(),
            ));
        }
        _ => {}
    }
}

fn is_printable(text: &str) {
    assert!(
        text.chars().all(|c| !c.is_control() || c == '\n'),
        "{text:?}"
    );
}

pub(super) fn invoke(operation: &str, kind: CallKind) -> Invoke {
    Invoke {
        call_id: [7; 16],
        operation: operation.into(),
        kind,
        budget_ms: None,
        route: Vec::new(),
        via: Vec::new(),
        originator: None,
        idempotency_key: None,
        can_answer: false,
        wants_progress: false,
        trace: None,
    }
}

/// A `Hello` that is taken.
pub(super) fn hello() -> Hello {
    Hello {
        versions: vec![1],
        software: "fuzz/1".into(),
        node_name: "by-hand".into(),
        limits: PeerLimits {
            frame_bytes_max: 16 * 1024 * 1024,
            chunk_bytes_max: 256 * 1024,
            item_window_bytes: 256 * 1024,
            channel_window_bytes: 1024 * 1024,
        },
        features: vec!["operations".into()],
    }
}

/// One frame of every type, and of every form.
pub(super) fn samples() -> Vec<Frame> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut full = invoke("demo/pipe", CallKind::Channel);
    full.budget_ms = Some(30_000);
    full.route = vec!["nas".into(), "any".into()];
    full.via = vec![[3; 32]];
    full.originator = Some(("home".into(), "alice".into()));
    full.idempotency_key = Some("k-1".into());
    full.can_answer = true;
    full.wants_progress = true;
    full.trace = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into());
    let error = CallError::domain("OUT_OF_INK", "the ink is gone")
        .with_details(json!({ "left": 0 }))
        .with_retry_after(Duration::from_millis(1500));
    vec![
        Frame::Hello(hello(), None),
        Frame::Hello(hello(), Some(Bearer::new("k".repeat(CREDENTIAL_BYTES_MAX)))),
        Frame::Invoke(
            Box::new(invoke("demo/echo", CallKind::Unary)),
            text("{\"a\":1}"),
        ),
        Frame::Invoke(Box::new(full), Bytes::new()),
        Frame::Chunk {
            aux: false,
            bytes: text("bytes"),
        },
        Frame::Chunk {
            aux: true,
            bytes: text("e"),
        },
        Frame::End { cut: false },
        Frame::End { cut: true },
        Frame::Control(text("{\"resize\":[80,24]}")),
        Frame::Answer {
            ask: 0,
            answer: Some(text("true")),
        },
        Frame::Answer {
            ask: 1,
            answer: None,
        },
        Frame::Credit(Credit {
            bytes: 4096,
            items: 0,
            controls: 16,
            stop: false,
        }),
        Frame::Credit(Credit {
            bytes: 0,
            items: 512,
            controls: 0,
            stop: true,
        }),
        Frame::Accepted(Bytes::new()),
        Frame::Item(text("[1,2,3]")),
        Frame::Progress(text("{\"n\":1}")),
        Frame::Ask {
            ask: 0,
            question: text("\"sure?\""),
        },
        Frame::Done(text("null")),
        Frame::Done(Bytes::new()),
        Frame::Error(CallError::new(ErrorCode::NotFound, "no operation `x/y`")),
        Frame::Error(error),
    ]
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = samples()
        .iter()
        .map(|frame| [&[255], &frame.to_bytes()[..]].concat())
        .collect();
    // A call as the callee sees it, and as the caller does.
    let all: Vec<u8> = samples()
        .iter()
        .skip(2)
        .flat_map(|frame| frame.to_bytes())
        .collect();
    seeds.push([&[3], &all[..]].concat());
    seeds.push([&[1], &all[..all.len().min(300)]].concat());
    seeds
}

fn header_seeds() -> Vec<Vec<u8>> {
    let of = |frame: &Frame| {
        let bytes = frame.to_bytes();
        let (header, payload) = lengths(&bytes).expect("a whole frame");
        let index = FrameType::ALL
            .iter()
            .position(|known| *known == frame.frame_type());
        let index = u8::try_from(index.unwrap_or(0)).unwrap_or(0);
        let header = &bytes[PREAMBLE_BYTES..PREAMBLE_BYTES + header];
        [&[index, u8::from(payload > 0)], header].concat()
    };
    samples().iter().map(of).collect()
}
