//! The other side of a connection, which does what an input says.

use super::samples;
use crate::{source::Source, targets::frames::invoke};
use alknet_call::{CallKind, Credit, Decoder, Frame};
use alknet_core::transport::BiStream;
use bytes::Bytes;
use futures::FutureExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Operations that are called, most of them there.
const NAMES: &[&str] = &[
    "demo/echo",
    "demo/sleep",
    "demo/fail",
    "demo/ask",
    "demo/upto",
    "demo/text",
    "demo/curious",
    "demo/pipe",
    "demo/controls",
    "demo/private",
    "demo/nosuch",
    "no name",
];
const TEXTS: &[&str] = &[
    "{}",
    "3",
    "null",
    "\"stop\"",
    "[1,{\"a\":2}]",
    "{",
    "",
    "60000",
    "\"x\"",
];
const TIMES: &[u64] = &[0, 1, 100, 2_500, 11_000, 31_000, 700_000];

/// Bytes in which the first frame is looked for.
const SAID_MAX: usize = 2048;

/// A stream, and what was read from it so far.
pub(super) struct Side {
    stream: BiStream,
    /// The beginning of what was written.
    said: Vec<u8>,
    pub(super) heard: Vec<u8>,
    pub(super) end: Option<End>,
    pub(super) is_finished: bool,
    /// Whether the other side can know of the stream: in memory it is seen
    /// with its first byte.
    pub(super) is_seen: bool,
}

/// How the other side's half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Finished,
    Reset,
}

impl Side {
    pub(super) fn new(stream: BiStream) -> Self {
        Self {
            stream,
            said: Vec::new(),
            heard: Vec::new(),
            end: None,
            is_finished: false,
            is_seen: false,
        }
    }

    /// Writes what fits without waiting.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty()
            && let Some(Ok(count)) = self.stream.send.write(bytes).now_or_never()
            && count > 0
        {
            if self.said.len() < SAID_MAX {
                self.said.extend_from_slice(&bytes[..count]);
            }
            bytes = &bytes[count..];
            self.is_seen = true;
        }
    }

    /// Whether the call may wait for ever: for credit, or for a channel's other
    /// end. Queries and mutations have a deadline.
    pub(super) fn may_wait(&self) -> bool {
        let mut decoder = Decoder::new(16 * 1024 * 1024, 256 * 1024);
        decoder.feed(&self.said);
        match decoder.frame() {
            Ok(Some(Frame::Invoke(invoke, _))) => invoke.kind != CallKind::Unary,
            _ => false,
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finished = true;
        self.stream.send.finish();
    }

    fn reset(&mut self, code: u32) {
        self.is_finished = true;
        self.stream.send.reset(code);
    }

    fn stop(&mut self, code: u32) {
        self.stream.recv.stop(code);
        // Nothing more is heard, so nothing more is judged.
        self.end = Some(End::Reset);
    }

    /// Reads what is there, at most so many bytes.
    pub(super) fn read(&mut self, most: usize) {
        let mut left = most;
        let mut buffer = [0; 4096];
        while left > 0 && self.end.is_none() {
            let room = buffer.len().min(left);
            match self.stream.recv.read(&mut buffer[..room]).now_or_never() {
                None => return,
                Some(Ok(0)) => self.end = Some(End::Finished),
                Some(Ok(count)) => {
                    self.heard.extend_from_slice(&buffer[..count]);
                    left -= count;
                }
                Some(Err(_)) => self.end = Some(End::Reset),
            }
        }
    }

    /// Reads to the end, or gives up after `most` bytes.
    pub(super) async fn read_to_end(&mut self, most: usize) {
        let mut buffer = [0; 4096];
        while self.end.is_none() {
            if self.heard.len() > most {
                return self.stop(0);
            }
            match self.stream.recv.read(&mut buffer).await {
                Ok(0) => self.end = Some(End::Finished),
                Ok(count) => self.heard.extend_from_slice(&buffer[..count]),
                Err(_) => self.end = Some(End::Reset),
            }
        }
    }
}

/// A call, as the input says.
pub(super) fn call(source: &mut Source<'_>) -> Frame {
    let name = source.pick(NAMES);
    let natural = match name {
        "demo/upto" | "demo/text" | "demo/curious" => CallKind::Subscription,
        "demo/pipe" | "demo/controls" => CallKind::Channel,
        _ => CallKind::Unary,
    };
    let flags = source.byte();
    let mut header = invoke(name, natural);
    header.can_answer = flags & 1 != 0;
    header.wants_progress = flags & 2 != 0;
    if flags & 0x1c == 0x1c {
        header.kind = source.pick(&[CallKind::Unary, CallKind::Subscription, CallKind::Channel]);
    }
    if flags & 0x60 == 0x60 {
        header.budget_ms = Some(u64::from(source.u16()));
    }
    if flags & 0x80 != 0 {
        header.call_id = source.array();
        header.route = (0..source.below(3))
            .map(|_| source.pick(&["any", "nas", "No"]).into())
            .collect();
        header.via = vec![[source.byte(); 32]];
        header.idempotency_key = source.flag().then(|| source.text(4));
    }
    Frame::Invoke(Box::new(header), text(source))
}

fn text(source: &mut Source<'_>) -> Bytes {
    Bytes::from_static(source.pick(TEXTS).as_bytes())
}

/// Any frame, most often one that belongs into a call.
fn frame(source: &mut Source<'_>) -> Frame {
    match source.below(14) {
        0 => Frame::Chunk {
            aux: source.flag(),
            bytes: vec![b'c'; 1 + usize::from(source.u16())].into(),
        },
        1 => Frame::End { cut: source.flag() },
        2 => Frame::Control(text(source)),
        3 => Frame::Answer {
            ask: source.below(4) as u32,
            answer: source.flag().then(|| text(source)),
        },
        4 => Frame::Credit(Credit {
            bytes: u32::from(source.u16()),
            ..Credit::default()
        }),
        5 => Frame::Credit(Credit {
            items: u32::from(source.u16()),
            ..Credit::default()
        }),
        6 => Frame::Credit(Credit {
            bytes: source.u32(),
            items: source.u32(),
            controls: source.u16(),
            stop: source.flag(),
        }),
        7 => Frame::Accepted(text(source)),
        8 => Frame::Item(text(source)),
        9 => Frame::Progress(text(source)),
        10 => Frame::Ask {
            ask: source.below(4) as u32,
            question: text(source),
        },
        11 => Frame::Done(text(source)),
        12 => call(source),
        _ => {
            let all = samples();
            all[source.below(all.len())].clone()
        }
    }
}

/// Does one thing on a stream, or waits.
pub(super) async fn step(source: &mut Source<'_>, side: &mut Side) {
    match source.below(16) {
        0..=5 => {
            let frame = frame(source).to_bytes();
            side.write(&frame);
        }
        6 => {
            // Many of one kind, as a flood has them.
            let (frame, count) = (frame(source).to_bytes(), source.byte());
            (0..count).for_each(|_| side.write(&frame));
        }
        7 => {
            let frame = frame(source).to_bytes();
            let most = source.below(frame.len().min(256));
            side.write(&frame[..most]);
        }
        8 => side.write(source.bytes(16)),
        9 => side.finish(),
        10 => side.reset(u32::from(source.byte())),
        11 => side.stop(u32::from(source.byte())),
        12 => side.read(1 + usize::from(source.u16())),
        13 => tokio::time::sleep(Duration::from_millis(source.pick(TIMES))).await,
        _ => tokio::task::yield_now().await,
    }
}
