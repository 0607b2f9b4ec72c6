//! Calls, as they are made up.

use alknet_core::files::{Create, Removal};
use proptest::prelude::*;

/// A handle or a replacement: which of the open ones.
pub(super) type Slot = usize;

/// Handles that may be open at once.
pub(super) const HANDLES: usize = 4;
/// Replacements that may be open at once.
pub(super) const REPLACEMENTS: usize = 3;

/// One call. Contents are told by length and a byte that all of them are.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Stat(String, bool),
    Get(String),
    Put(String, Create, Content),
    MakeDirectory(String),
    Rename(String, String, bool),
    Link(String, String),
    Symlink(String, String),
    ReadLink(String),
    Remove(String, Removal),
    Copy(String, String, Create),
    SetLength(String, u64),
    SetMode(String, u32),
    SetTime(String, bool, i64),
    List(String),
    Open(Slot, String, Opening),
    Close(Slot),
    ReadAt(Slot, u64, usize),
    WriteAt(Slot, u64, Content),
    SetLengthOf(Slot, u64),
    StatOf(Slot),
    Replace(Slot, String, Create),
    Write(Slot, Content),
    Skip(Slot, u64),
    Rewind(Slot, u64),
    Commit(Slot),
    Discard(Slot, bool),
}

/// So many bytes, all the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) len: usize,
    pub(super) byte: u8,
}

impl Content {
    pub(super) fn bytes(self) -> Vec<u8> {
        vec![self.byte; self.len]
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    pub(super) truncate: bool,
    pub(super) create: Create,
    pub(super) follow: bool,
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
}

/// A path below the bucket; now and then the bucket itself.
fn path() -> impl Strategy<Value = String> {
    let depth = prop_oneof![1 => Just(0), 20 => Just(1), 20 => Just(2), 10 => Just(3)];
    let names = depth.prop_flat_map(|depth| proptest::collection::vec(name(), depth));
    names.prop_map(|names| names.join("/"))
}

/// Where a link leads: up, down, here, out.
fn target() -> impl Strategy<Value = String> {
    let part = prop_oneof![3 => Just(".."), 1 => Just("."), 8 => name()];
    let parts = proptest::collection::vec(part, 1..=3);
    parts.prop_map(|parts| parts.join("/"))
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..200_u64, 2 => 0..20_000_u64, 1 => Just(4_096)]
}

fn content() -> impl Strategy<Value = Content> {
    let len = prop_oneof![1 => Just(0), 6 => 1..200_usize, 3 => 1..9_000_usize];
    (len, any::<u8>()).prop_map(|(len, byte)| Content { len, byte })
}

fn create() -> impl Strategy<Value = Create> {
    prop_oneof![
        3 => Just(Create::IfMissing),
        1 => Just(Create::New),
        1 => Just(Create::Never),
    ]
}

fn removal() -> impl Strategy<Value = Removal> {
    prop_oneof![
        2 => Just(Removal::File),
        2 => Just(Removal::Directory),
        1 => Just(Removal::Tree),
    ]
}

fn opening() -> impl Strategy<Value = Opening> {
    let kind = prop_oneof![
        2 => Just((true, false, false)),
        4 => Just((true, true, false)),
        1 => Just((false, true, false)),
        2 => Just((true, true, true)),
    ];
    let flags = (
        prop_oneof![4 => Just(false), 1 => Just(true)],
        prop_oneof![9 => Just(true), 1 => Just(false)],
    );
    (kind, create(), flags).prop_map(|((read, write, append), create, (truncate, follow))| {
        Opening {
            read,
            write,
            append,
            truncate: truncate && write,
            create: if write { create } else { Create::Never },
            follow,
        }
    })
}

/// Any call.
pub(super) fn any_step() -> impl Strategy<Value = Step> {
    use Step::*;
    let handle = || 0..HANDLES;
    let begun = || 0..REPLACEMENTS;
    let mode = prop_oneof![Just(0o600), Just(0o644), Just(0o755), Just(0o700)];
    let by_path = prop_oneof![
        (path(), any::<bool>()).prop_map(|(path, follow)| Stat(path, follow)),
        path().prop_map(Get),
        path().prop_map(List),
        path().prop_map(ReadLink),
        (path(), create(), content())
            .prop_map(|(path, create, content)| Put(path, create, content)),
        (path(), create(), content())
            .prop_map(|(path, create, content)| Put(path, create, content)),
        path().prop_map(MakeDirectory),
        path().prop_map(MakeDirectory),
        (path(), path(), any::<bool>()).prop_map(|(from, to, replace)| Rename(from, to, replace)),
        (path(), path(), any::<bool>()).prop_map(|(from, to, replace)| Rename(from, to, replace)),
        (path(), path()).prop_map(|(from, to)| Link(from, to)),
        (path(), target()).prop_map(|(path, target)| Symlink(path, target)),
        (path(), removal()).prop_map(|(path, how)| Remove(path, how)),
        (path(), path(), create()).prop_map(|(from, to, create)| Copy(from, to, create)),
        (path(), offset()).prop_map(|(path, bytes)| SetLength(path, bytes)),
        (path(), mode).prop_map(|(path, mode)| SetMode(path, mode)),
        (path(), any::<bool>(), 1..2_000_000_000_i64)
            .prop_map(|(path, follow, time)| SetTime(path, follow, time)),
    ];
    let by_handle = prop_oneof![
        3 => (handle(), path(), opening()).prop_map(|(slot, path, how)| Open(slot, path, how)),
        1 => handle().prop_map(Close),
        2 => (handle(), offset(), 0..10_000_usize).prop_map(|(slot, at, len)| ReadAt(slot, at, len)),
        4 => (handle(), offset(), content()).prop_map(|(slot, at, content)| WriteAt(slot, at, content)),
        1 => (handle(), offset()).prop_map(|(slot, bytes)| SetLengthOf(slot, bytes)),
        1 => handle().prop_map(StatOf),
    ];
    let by_replacement = prop_oneof![
        3 => (begun(), path(), create()).prop_map(|(slot, path, create)| Replace(slot, path, create)),
        3 => (begun(), content()).prop_map(|(slot, content)| Write(slot, content)),
        1 => (begun(), offset()).prop_map(|(slot, bytes)| Skip(slot, bytes)),
        1 => (begun(), offset()).prop_map(|(slot, bytes)| Rewind(slot, bytes)),
        3 => begun().prop_map(Commit),
        1 => (begun(), any::<bool>()).prop_map(|(slot, drops)| Discard(slot, drops)),
    ];
    prop_oneof![5 => by_path, 3 => by_handle, 2 => by_replacement]
}
