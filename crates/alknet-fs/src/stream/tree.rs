//! A tree out of chunks.

use super::{
    EntryPath, EntryRecord, Failure, FileRecord, Lines, Record, StreamError, lines::parsed,
};
use alknet_core::Chunk;
use bytes::Bytes;
use std::collections::VecDeque;

/// What a tree stream says next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeEvent {
    /// A file begins. Its pieces follow, then [`TreeEvent::FileEnd`] or
    /// [`TreeEvent::FileBroken`].
    File(FileRecord),
    /// Bytes of the file; never none.
    Bytes(Bytes),
    /// A hole in the file; never none.
    Hole(u64),
    /// The file is complete.
    FileEnd,
    /// The file comes no further.
    FileBroken(Failure),
    /// An entry that is no file.
    Entry(EntryRecord),
    /// What was asked for cannot be sent.
    Failed {
        /// What.
        path: EntryPath,
        /// Why.
        error: Failure,
    },
}

/// Reads a tree out of chunks. Holds one chunk, and the beginning of a record.
#[derive(Debug, Default)]
pub struct TreeDecoder {
    records: Lines,
    /// What is left of the chunk at hand, if it is of the main stream.
    bytes: Bytes,
    /// The file that is under way, and how many bytes of it are missing.
    file: Option<(EntryPath, u64)>,
    told: VecDeque<TreeEvent>,
}

impl TreeDecoder {
    /// At the beginning of a tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a chunk, after [`TreeDecoder::next_event`] has told all of the
    /// one before.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if bytes come within a record.
    pub fn push(&mut self, chunk: Chunk) -> Result<(), StreamError> {
        if chunk.aux {
            self.records.push(chunk.bytes);
            return Ok(());
        }
        if self.records.is_within() {
            return Err(StreamError::EndsWithin);
        }
        self.bytes = chunk.bytes;
        Ok(())
    }

    /// What comes next in the chunk at hand.
    ///
    /// # Errors
    ///
    /// [`StreamError`]; the stream cannot be gone on with.
    pub fn next_event(&mut self) -> Result<Option<TreeEvent>, StreamError> {
        if let Some(told) = self.told.pop_front() {
            return Ok(Some(told));
        }
        if !self.bytes.is_empty() {
            return self.take_bytes().map(Some);
        }
        match self.records.next_line()? {
            Some(line) => self.take_record(parsed(&line)?).map(Some),
            None => Ok(None),
        }
    }

    /// At the end of the stream.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if it ends within a record or a file.
    pub fn finish(&self) -> Result<(), StreamError> {
        if let Some((path, missing)) = &self.file {
            return Err(StreamError::FileIncomplete {
                path: path.to_string(),
                missing: *missing,
            });
        }
        self.records.finish()
    }

    fn take_bytes(&mut self) -> Result<TreeEvent, StreamError> {
        let Some((_, missing)) = &mut self.file else {
            return Err(StreamError::UnexpectedBytes {
                bytes: self.bytes.len(),
            });
        };
        let most = usize::try_from(*missing).unwrap_or(usize::MAX);
        let taken = self.bytes.split_to(self.bytes.len().min(most));
        *missing -= taken.len() as u64;
        self.end_file();
        Ok(TreeEvent::Bytes(taken))
    }

    /// Tells the end of the file, if nothing of it is missing.
    fn end_file(&mut self) {
        if let Some((_, 0)) = &self.file {
            self.file = None;
            self.told.push_back(TreeEvent::FileEnd);
        }
    }

    fn take_record(&mut self, record: Record) -> Result<TreeEvent, StreamError> {
        match (record, &mut self.file) {
            (Record::Hole(bytes), Some((_, missing))) if bytes > 0 && bytes <= *missing => {
                *missing -= bytes;
                self.end_file();
                Ok(TreeEvent::Hole(bytes))
            }
            (Record::Hole(bytes), _) => Err(StreamError::BadHole { bytes }),
            (Record::Broken(failure), Some(_)) => {
                self.file = None;
                Ok(TreeEvent::FileBroken(failure))
            }
            (Record::Broken(_), None) => Err(StreamError::BadRecord {
                reason: "no file is under way that could break off".into(),
            }),
            (_, Some((path, missing))) => Err(StreamError::FileIncomplete {
                path: path.to_string(),
                missing: *missing,
            }),
            (Record::Failed { path, error }, None) => Ok(TreeEvent::Failed { path, error }),
            (Record::Entry(EntryRecord::File(file)), None) => {
                if file.path.is_empty() {
                    return Err(StreamError::BadRecord {
                        reason: "a file has a name".into(),
                    });
                }
                self.file = Some((file.path.clone(), file.bytes));
                self.end_file();
                Ok(TreeEvent::File(file))
            }
            (Record::Entry(entry), None) => Ok(TreeEvent::Entry(entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn aux(text: &str) -> Chunk {
        Chunk::aux(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn main(text: &str) -> Chunk {
        Chunk::main(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn read(chunks: Vec<Chunk>) -> Result<Vec<TreeEvent>, StreamError> {
        let mut decoder = TreeDecoder::new();
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk)?;
            while let Some(event) = decoder.next_event()? {
                events.push(event);
            }
        }
        decoder.finish()?;
        Ok(events)
    }

    /// Chunks cut into pieces of so many bytes.
    fn cut(chunks: &[Chunk], bytes: usize) -> Vec<Chunk> {
        let pieces = chunks.iter().flat_map(|chunk| {
            chunk.bytes.chunks(bytes).map(|piece| Chunk {
                aux: chunk.aux,
                bytes: Bytes::copy_from_slice(piece),
            })
        });
        pieces.collect()
    }

    fn without_cuts(events: Vec<TreeEvent>) -> Vec<TreeEvent> {
        let mut out: Vec<TreeEvent> = Vec::new();
        for event in events {
            match (out.last_mut(), event) {
                (Some(TreeEvent::Bytes(before)), TreeEvent::Bytes(more)) => {
                    *before = [&before[..], &more[..]].concat().into();
                }
                (_, event) => out.push(event),
            }
        }
        out
    }

    #[test]
    fn a_tree_is_read_however_it_is_cut() {
        let path = |text: &str| EntryPath::parse(text).unwrap();
        let mtime = "2026-11-20T10:00:00.5Z".parse().ok();
        let records = [
            Record::Entry(EntryRecord::Directory {
                path: path("a"),
                mode: Some(0o755),
                mtime: None,
            }),
            Record::file(path("a/empty"), 0, None, None),
            Record::file(path("a/%FF"), 11, Some(0o600), mtime),
        ];
        let mut text = String::new();
        for record in &records {
            text += std::str::from_utf8(&record.encode()).unwrap();
        }
        let failure = Failure {
            code: "IO_ERROR".into(),
            message: "the disk failed".into(),
        };
        let chunks = [
            aux(&text),
            main("hello"),
            aux("{\"hole\":4}\n"),
            main("us"),
            aux("{\"path\":\"b\",\"kind\":\"file\",\"bytes\":2}\n"),
            main("x"),
            aux(std::str::from_utf8(&Record::Broken(failure.clone()).encode()).unwrap()),
            aux("{\"path\":\"l\",\"kind\":\"symlink\",\"target\":\"a/%25\"}\n"),
            aux(
                "{\"path\":\"\",\"kind\":\"directory-times\",\"mtime\":\"2026-11-20T10:00:00Z\"}\n",
            ),
            aux(
                "{\"path\":\"gone\",\"error\":{\"code\":\"IO_ERROR\",\"message\":\"the disk failed\"}}\n",
            ),
        ];
        let whole = read(chunks.to_vec()).unwrap();
        let kinds: Vec<String> = whole
            .iter()
            .map(|event| {
                format!("{event:?}")
                    .split(['(', ' '])
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(
            kinds,
            [
                "Entry",
                "File",
                "FileEnd",
                "File",
                "Bytes",
                "Hole",
                "Bytes",
                "FileEnd",
                "File",
                "Bytes",
                "FileBroken",
                "Entry",
                "Entry",
                "Failed",
            ]
        );
        for bytes in 1..40 {
            assert_eq!(
                without_cuts(read(cut(&chunks, bytes)).unwrap()),
                whole,
                "{bytes}"
            );
        }
    }

    #[track_caller]
    fn refused(chunks: Vec<Chunk>) -> StreamError {
        read(chunks).unwrap_err()
    }

    #[test]
    fn what_leads_out_is_no_record() {
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../b",
            "a//b",
            ".",
            "a%2Fb",
            "x%00",
        ] {
            let text = format!("{{\"path\":{path:?},\"kind\":\"directory\"}}\n");
            let error = refused(vec![aux(&text)]);
            assert!(
                matches!(error, StreamError::BadRecord { .. }),
                "{path}: {error}"
            );
        }
    }

    #[test]
    fn targets_are_as_long_as_hosts_have_them() {
        let link = |target: &str| {
            aux(&format!(
                "{{\"path\":\"l\",\"kind\":\"symlink\",\"target\":\"{target}\"}}\n"
            ))
        };
        let longest = "%01".repeat(4095);
        let read = read(vec![link(&longest)]).unwrap();
        let path = EntryPath::parse("l").unwrap();
        assert_eq!(
            read,
            [TreeEvent::Entry(EntryRecord::Symlink {
                path,
                target: longest.clone()
            })]
        );
        let error = refused(vec![link(&(longest.clone() + "x"))]);
        assert!(matches!(error, StreamError::BadRecord { .. }), "{error}");
        let compared = |target: &str| {
            let line = format!("{{\"path\":\"l\",\"kind\":\"symlink\",\"target\":\"{target}\"}}");
            serde_json::from_str::<crate::stream::Comparison>(&line).map(|line| line.target)
        };
        assert_eq!(compared(&longest).unwrap(), Some(longest.clone()));
        compared(&(longest + "x")).unwrap_err();
    }

    #[test]
    fn numbers_are_what_they_can_be() {
        let file =
            |bytes: &str| format!("{{\"path\":\"a\",\"kind\":\"file\",\"bytes\":{bytes}}}\n");
        for bytes in ["-1", "18446744073709551616", "1.5", "\"1\"", "null"] {
            let error = refused(vec![aux(&file(bytes))]);
            assert!(
                matches!(error, StreamError::BadRecord { .. }),
                "{bytes}: {error}"
            );
        }
        let most = refused(vec![aux(&file("18446744073709551615")), main("x")]);
        assert!(
            matches!(most, StreamError::FileIncomplete { missing, .. } if missing == u64::MAX - 1)
        );
        for (hole, bytes) in [("3", 3), ("18446744073709551615", u64::MAX), ("0", 0)] {
            let chunks = vec![aux(&file("2")), aux(&format!("{{\"hole\":{hole}}}\n"))];
            assert_eq!(refused(chunks), StreamError::BadHole { bytes });
        }
        let alone = refused(vec![aux("{\"hole\":1}\n")]);
        assert_eq!(alone, StreamError::BadHole { bytes: 1 });
    }

    #[test]
    fn bytes_and_records_come_in_their_order() {
        let file = || aux("{\"path\":\"a\",\"kind\":\"file\",\"bytes\":2}\n");
        assert_eq!(
            refused(vec![main("x")]),
            StreamError::UnexpectedBytes { bytes: 1 }
        );
        let more = refused(vec![file(), main("xyz")]);
        assert_eq!(more, StreamError::UnexpectedBytes { bytes: 1 });
        let fewer = |chunks| {
            let missing = 1;
            let path = "a".to_owned();
            assert_eq!(
                refused(chunks),
                StreamError::FileIncomplete { path, missing }
            );
        };
        fewer(vec![file(), main("x"), file()]);
        fewer(vec![file(), main("x")]);
        let within = refused(vec![file(), main("x"), aux("{\"hole\":"), main("y")]);
        assert_eq!(within, StreamError::EndsWithin);
        for bad in [
            "[]\n",
            "{}\n",
            "{\"path\":\"a\",\"kind\":\"device\"}\n",
            "{\"x\":1}\n",
            "\n",
            "{\"path\":\"\",\"kind\":\"file\",\"bytes\":1}\n",
            "{\"broken\":{\"code\":\"X\"}}\n",
        ] {
            let error = refused(vec![aux(bad)]);
            assert!(
                matches!(error, StreamError::BadRecord { .. }),
                "{bad}: {error}"
            );
        }
        let long = refused(vec![aux(&"x".repeat(super::super::RECORD_BYTES_MAX))]);
        assert_eq!(long, StreamError::RecordTooLong);
    }
}
