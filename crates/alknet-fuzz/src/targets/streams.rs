//! Trees and holes as they are sent.

use super::{MIB, Target};
use crate::{note, source::Source};
use alknet_core::Chunk;
use alknet_fs::stream::{
    EntryRecord, HoleDecoder, Piece, Record, StreamError, TreeDecoder, TreeEvent,
};
use bytes::Bytes;
use std::mem::discriminant;

pub(super) const STREAMS: Target = Target {
    name: "streams",
    about: "A tree of files is read the same however it is cut, and no byte of it is lost or made up.",
    run: streams,
    seeds: || {
        let file = br#"{"path":"a/b","kind":"file","bytes":5,"mode":420}"#;
        let mut whole = chunk(true, &[&file[..], b"\n"].concat());
        whole.extend(chunk(false, b"12"));
        whole.extend(chunk(true, b"{\"hole\":1}\n"));
        whole.extend(chunk(false, b"34"));
        whole.extend(chunk(true, b"{\"path\":\"d\",\"kind\":\"directory\"}\n"));
        vec![
            whole,
            chunk(true, b"{\"path\":\"\",\"kind\":\"directory-times\",\"mtime\":\"1970-01-01T00:00:00Z\"}\n"),
            chunk(true, b"{\"path\":\"l\",\"kind\":\"symlink\",\"target\":\"../%FF\"}\n"),
            chunk(true, b"{\"path\":\"x\",\"error\":{\"code\":\"NO_SUCH_FILE\",\"message\":\"\"}}\n"),
            chunk(true, b"{\"path\":\"a\",\"kind\":\"file\",\"bytes\":0}\n{\"broken\":{\"code\":\"X\"}}\n"),
            chunk(true, b"{\"path\":\"a\",\"kind\":\"file\",\"bytes\":18446744073709551615}\n"),
            chunk(true, b"{\"path\":\"../a\",\"kind\":\"directory\"}\n"),
        ]
    },
    tokens: &[
        b"{\"path\":\"",
        b"\",\"kind\":\"file\"",
        b",\"bytes\":",
        b"}\n",
        b"{\"hole\":",
        b"\n",
        b"\"kind\":\"directory\"",
        b"\"symlink\",\"target\":\"",
        b"directory-times",
        b"..",
        b"%2e",
        b"/",
        b"{\"broken\":{\"code\":\"X\",\"message\":\"y\"}}\n",
        b",\"error\":",
        &[0x81],
        &[1],
    ],
    bytes_max: 600,
    held_max: MIB,
};

pub(super) const HOLES: Target = Target {
    name: "holes",
    about: "Bytes and holes of a file are read the same however they are cut.",
    run: holes,
    seeds: || {
        let mut whole = chunk(false, b"head");
        whole.extend(chunk(true, &[0, 0, 0, 0, 0, 1, 0, 0]));
        whole.extend(chunk(false, b"tail"));
        vec![
            whole,
            chunk(true, &[0xFF; 16]),
            chunk(true, &[0; 8]),
            chunk(true, &[1; 9]),
        ]
    },
    tokens: &[&[0, 0, 0, 0, 0, 0, 0, 1], &[0x88], &[8], &[0; 8]],
    bytes_max: 200,
    held_max: MIB,
};

/// A chunk as the targets read it: which stream, how long, what.
fn chunk(aux: bool, bytes: &[u8]) -> Vec<u8> {
    bytes
        .chunks(0x7F)
        .flat_map(|part| {
            let len = u8::try_from(part.len()).unwrap_or(0x7F);
            [&[u8::from(aux) << 7 | len], part].concat()
        })
        .collect()
}

fn chunks(data: &[u8]) -> Vec<Chunk> {
    let (mut source, mut chunks) = (Source::new(data), Vec::new());
    while !source.is_empty() {
        let head = source.byte();
        let bytes: Vec<u8> = (0..head & 0x7F)
            .map_while(|_| (!source.is_empty()).then(|| source.byte()))
            .collect();
        if !bytes.is_empty() {
            chunks.push(Chunk {
                aux: head & 0x80 != 0,
                bytes: bytes.into(),
            });
        }
    }
    chunks
}

/// The same streams in pieces of one byte, and in the largest that there can be.
fn recut(chunks: &[Chunk]) -> (Vec<Chunk>, Vec<Chunk>) {
    let single = chunks.iter().flat_map(|chunk| {
        (0..chunk.bytes.len()).map(|at| Chunk {
            aux: chunk.aux,
            bytes: chunk.bytes.slice(at..=at),
        })
    });
    let mut joined: Vec<Chunk> = Vec::new();
    for chunk in chunks {
        match joined.last_mut() {
            Some(last) if last.aux == chunk.aux => {
                last.bytes = [&last.bytes[..], &chunk.bytes[..]].concat().into();
            }
            _ => joined.push(chunk.clone()),
        }
    }
    (single.collect(), joined)
}

/// What a tree says, up to its end or to what is wrong with it.
fn tree(chunks: &[Chunk]) -> (Vec<TreeEvent>, Result<(), StreamError>) {
    let (mut decoder, mut events) = (TreeDecoder::new(), Vec::<TreeEvent>::new());
    let mut read = || {
        for chunk in chunks {
            decoder.push(chunk.clone())?;
            while let Some(event) = decoder.next_event()? {
                match (events.last_mut(), event) {
                    (Some(TreeEvent::Bytes(before)), TreeEvent::Bytes(more)) => {
                        *before = [&before[..], &more[..]].concat().into();
                    }
                    (_, event) => events.push(event),
                }
            }
        }
        decoder.finish()
    };
    let end = read();
    (events, end)
}

fn streams(data: &[u8]) {
    let whole = chunks(data);
    let (single, joined) = recut(&whole);
    let (events, end) = tree(&whole);
    for other in [single, joined] {
        let (other_events, other_end) = tree(&other);
        assert_eq!(other_events, events);
        assert_eq!(
            other_end.as_ref().err().map(discriminant),
            end.as_ref().err().map(discriminant),
            "{other_end:?}, {end:?}"
        );
    }
    note((events.len().min(8), end.as_ref().err().map(discriminant)));
    check_files(&events);
    let sent: u64 = whole
        .iter()
        .filter(|chunk| !chunk.aux)
        .map(|chunk| chunk.bytes.len() as u64)
        .sum();
    let told = events.iter().map(|event| match event {
        TreeEvent::Bytes(bytes) => bytes.len() as u64,
        _ => 0,
    });
    let told: u64 = told.sum();
    assert!(told <= sent, "bytes are made up");
    if end.is_ok() {
        assert_eq!(told, sent, "bytes are lost");
    }
    events.iter().for_each(check_again);
}

/// Each file has as many bytes as it says, and each path goes down.
fn check_files(events: &[TreeEvent]) {
    let mut missing: Option<u64> = None;
    for event in events {
        match event {
            TreeEvent::File(file) => {
                assert_eq!(missing, None, "a file within a file");
                assert!(!file.path.is_empty());
                missing = Some(file.bytes);
            }
            TreeEvent::Bytes(bytes) => {
                assert!(!bytes.is_empty());
                missing = missing.map(|missing| missing - bytes.len() as u64);
                assert!(missing.is_some(), "bytes of no file");
            }
            TreeEvent::Hole(bytes) => {
                assert!(*bytes > 0);
                missing = missing.map(|missing| missing - bytes);
                assert!(missing.is_some(), "a hole in no file");
            }
            TreeEvent::FileEnd => assert_eq!(missing.take(), Some(0)),
            TreeEvent::FileBroken(_) => assert!(missing.take().is_some()),
            TreeEvent::Entry(entry) => {
                assert_eq!(missing, None, "an entry within a file");
                assert!(!matches!(entry, EntryRecord::File(_)));
            }
            TreeEvent::Failed { .. } => assert_eq!(missing, None),
        }
        let path = match event {
            TreeEvent::File(file) => &file.path,
            TreeEvent::Entry(entry) => entry.path(),
            TreeEvent::Failed { path, .. } => path,
            _ => continue,
        };
        for name in path.names() {
            let bytes = name.as_bytes();
            assert!(!matches!(bytes, b"" | b"." | b".."), "{path:?}");
            assert!(
                !bytes.iter().any(|byte| matches!(byte, 0 | b'/')),
                "{path:?}"
            );
        }
    }
}

/// What was read is written and read again.
fn check_again(event: &TreeEvent) {
    let record = match event {
        TreeEvent::File(file) => Record::Entry(EntryRecord::File(file.clone())),
        TreeEvent::Entry(entry) => Record::Entry(entry.clone()),
        TreeEvent::Failed { path, error } => Record::Failed {
            path: path.clone(),
            error: error.clone(),
        },
        _ => return,
    };
    let mut decoder = TreeDecoder::new();
    let pushed = decoder.push(Chunk::aux(record.encode()));
    assert_eq!(pushed, Ok(()));
    assert_eq!(decoder.next_event().as_ref(), Ok(&Some(event.clone())));
}

/// Bytes and holes, up to the end or to what is wrong.
fn pieces(chunks: &[Chunk]) -> (Vec<Piece>, bool) {
    let (mut decoder, mut all) = (HoleDecoder::new(), Vec::<Piece>::new());
    let mut is_sound = true;
    for chunk in chunks {
        let mut take = |piece| match (all.last_mut(), piece) {
            (Some(Piece::Bytes(before)), Piece::Bytes(more)) => {
                *before = [&before[..], &more[..]].concat().into();
            }
            (_, piece) => all.push(piece),
        };
        // One by one, so that what stood before an error is told.
        match decoder.push(chunk.clone()) {
            Ok(bytes) => bytes.map(Piece::Bytes).into_iter().for_each(&mut take),
            Err(_) => is_sound = false,
        }
        while is_sound {
            match decoder.next_hole() {
                Ok(Some(bytes)) => take(Piece::Hole(bytes)),
                Ok(None) => break,
                Err(_) => is_sound = false,
            }
        }
        if !is_sound {
            return (all, false);
        }
    }
    (all, decoder.finish().is_ok())
}

/// The same, from the definition: lengths of eight bytes, in no other place.
fn naive_pieces(chunks: &[Chunk]) -> (Vec<Piece>, bool) {
    let (mut all, mut length) = (Vec::<Piece>::new(), Vec::new());
    for chunk in chunks {
        for byte in chunk.bytes.iter().copied() {
            if chunk.aux {
                length.push(byte);
                if let Ok(eight) = <[u8; 8]>::try_from(&length[..]) {
                    length.clear();
                    match u64::from_be_bytes(eight) {
                        0 => return (all, false),
                        bytes => all.push(Piece::Hole(bytes)),
                    }
                }
                continue;
            }
            if !length.is_empty() {
                return (all, false);
            }
            match all.last_mut() {
                Some(Piece::Bytes(before)) => *before = [&before[..], &[byte]].concat().into(),
                _ => all.push(Piece::Bytes(Bytes::copy_from_slice(&[byte]))),
            }
        }
    }
    (all, length.is_empty())
}

fn holes(data: &[u8]) {
    let whole = chunks(data);
    let (single, joined) = recut(&whole);
    let wanted = naive_pieces(&whole);
    for cut in [&whole, &single, &joined] {
        assert_eq!(pieces(cut), wanted);
    }
    note((wanted.0.len().min(8), wanted.1));
}
