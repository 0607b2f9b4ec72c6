//! What two nodes say to each other about an offer: requests one way, answers
//! the other way in the same order.
//!
//! The node that fetches sends requests on the main stream, one line of JSON
//! each. The node that offers answers with lines on the auxiliary stream, and
//! with bytes of files on the main one.

use crate::stream::{Lines, line};
use alknet_core::{
    ByteReceiver, ByteSender, CallError, Chunk, ErrorCode,
    files::{FileName, FilePath, FileTime, ListEntry},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Requests that may wait for their answers. Together they fit into the window
/// of a channel, so whoever sends one never waits for who waits for it.
pub(super) const REQUESTS_MAX: usize = 24;
/// Entries of one page.
pub(super) const PAGE_ENTRIES: usize = 256;

/// What the fetching node wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Request {
    /// A page of a directory: [`Answer::Entry`] each, then [`Answer::Page`].
    List {
        /// Below what is offered.
        path: String,
        /// Where to go on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
    },
    /// A file: [`Answer::Content`], bytes and [`Answer::Hole`], then
    /// [`Answer::End`].
    Read {
        /// Below what is offered; empty for itself.
        path: String,
        /// What was kept of an earlier attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept: Option<Kept>,
    },
    /// Everything arrived: the offer may be forgotten. Not answered.
    Done,
}

/// The beginning of a file, which arrived before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// How long it is.
    pub(super) bytes: u64,
    /// Its BLAKE3.
    pub(super) blake3: String,
}

/// What the offering node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// An entry of the directory.
    Entry(Box<ListEntry>),
    /// The page is complete.
    Page {
        /// Where the next one begins; none if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// A file follows.
    Content {
        /// How long it is.
        bytes: u64,
        /// From where on: 0, or all that was kept.
        offset: u64,
        /// Its permissions.
        mode: u32,
        /// When it changed last.
        mtime: FileTime,
    },
    /// So many zeros, which take no room.
    Hole(u64),
    /// The file is complete.
    End,
    /// The request failed; what came of the file is not all of it.
    Error(Failed),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failed {
    /// As in an error of a call.
    pub(super) code: String,
    /// The same as a sentence.
    pub(super) message: String,
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self {
            code: error.code.to_string(),
            message: error.message,
        }
    }
}

/// The other node does not speak as agreed.
pub(super) fn broken(what: impl std::fmt::Display) -> CallError {
    CallError::new(
        ErrorCode::Internal,
        format!("the other node does not keep to the protocol: {what}"),
    )
}

/// Sends an answer.
pub(super) async fn answer(tx: &mut ByteSender, answer: &Answer) -> Result<(), CallError> {
    let sent = tx.send_chunk(Chunk::aux(line(answer))).await;
    sent.map_err(|_| gone())
}

pub(super) fn gone() -> CallError {
    CallError::new(ErrorCode::Cancelled, "the other node is gone")
}

/// Requests, as they come in.
#[derive(Debug)]
pub(super) struct Requests {
    rx: ByteReceiver,
    lines: Lines,
}

impl Requests {
    pub(super) fn new(rx: ByteReceiver) -> Self {
        Self {
            rx,
            lines: Lines::new(),
        }
    }

    /// The next one; none at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Request>, CallError> {
        loop {
            if let Some(request) = self.lines.next_value().map_err(broken)? {
                return Ok(Some(request));
            }
            match self.rx.recv().await {
                Ok(Some(chunk)) => self.lines.push(chunk.bytes),
                Ok(None) if self.lines.is_within() => return Err(broken("a line is cut")),
                Ok(None) => return Ok(None),
                Err(_) => return Err(gone()),
            }
        }
    }
}

/// What comes back.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A line.
    Answer(Answer),
    /// Bytes of a file.
    Bytes(Bytes),
}

/// Answers, as they come in.
#[derive(Debug)]
pub(super) struct Answers {
    rx: ByteReceiver,
    lines: Lines,
}

impl Answers {
    pub(super) fn new(rx: ByteReceiver) -> Self {
        Self {
            rx,
            lines: Lines::new(),
        }
    }

    /// The next line, or bytes; none if the other side said no more.
    pub(super) async fn next(&mut self) -> Result<Option<Incoming>, CallError> {
        loop {
            if let Some(answer) = self.lines.next_value().map_err(broken)? {
                return Ok(Some(Incoming::Answer(answer)));
            }
            let Ok(Some(chunk)) = self.rx.recv().await else {
                return Ok(None);
            };
            match chunk.aux {
                true => self.lines.push(chunk.bytes),
                false if self.lines.is_within() => return Err(broken("a line is cut")),
                false => return Ok(Some(Incoming::Bytes(chunk.bytes))),
            }
        }
    }
}

/// Names below what is offered, as they are written in a request.
pub(super) fn relative(names: &[FileName]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join("/")
}

/// The file that a request means.
pub(super) fn below(root: &FilePath, path: &str) -> Result<FilePath, CallError> {
    let bad =
        |error: alknet_core::files::PathError| CallError::invalid_field("/path", error.to_string());
    let names = path.split('/').filter(|name| !name.is_empty());
    let names: Result<Vec<FileName>, _> = names.map(FileName::parse).collect();
    root.join_all(names.map_err(bad)?).map_err(bad)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alknet_core::PIPE_WINDOW_BYTES;

    #[test]
    fn requests_that_wait_fit_into_the_window() {
        // The longest path that there is, of what JSON makes longest.
        let names = vec![FileName::new(vec![1; 255]).unwrap(); 16];
        let request = Request::List {
            path: relative(&names),
            from: Some("f".repeat(64)),
        };
        let line = line(&request).len();
        assert!(line > 6 * 4080, "{line}");
        assert!(line * (REQUESTS_MAX + 1) < PIPE_WINDOW_BYTES);
    }

    #[test]
    fn nothing_above_what_is_offered_can_be_meant() {
        let root: FilePath = "www/a".parse().unwrap();
        assert_eq!(below(&root, "b/c").unwrap().to_string(), "www/a/b/c");
        assert_eq!(below(&root, "").unwrap(), root);
        for bad in ["..", "b/../..", "%2e%2e", "b/.", "%2fetc", "%00"] {
            assert!(below(&root, bad).is_err(), "{bad}");
        }
    }
}
