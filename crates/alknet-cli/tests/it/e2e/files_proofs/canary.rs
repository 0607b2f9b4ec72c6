//! A tree outside of every bucket, that tells whether anybody was there.

use super::world::{World, holds};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What its files hold, and nothing else.
pub(super) const SECRET: &str = "canary-5d1c9e";
/// The name of a file in it that nobody asks for.
const UNASKED: &str = "unasked-8b27f0";
/// Its own name, that nobody asks for either: only links hold it.
const TOP: &str = "hidden-3fa6c4";

/// Everything there, as it was when it was planted.
pub(super) struct Canary {
    top: PathBuf,
    /// What `lstat` tells: kind and mode, links, size, and the times of the last
    /// reading, writing and change.
    known: BTreeMap<PathBuf, [i64; 9]>,
}

impl Canary {
    /// Beside the bucket, and once more under a name that may be asked for.
    pub(super) fn plant(world: &World) -> Self {
        let top = world.make(TOP);
        std::os::unix::fs::symlink(TOP, world.path("outside")).unwrap();
        for directory in ["", "s", "s/s"] {
            let directory = top.join(directory);
            fs::create_dir_all(&directory).unwrap();
            for name in ["c", "e", "f", UNASKED] {
                fs::write(directory.join(name), SECRET).unwrap();
            }
        }
        let paths = below(&top);
        // So long ago that the next reading is noted.
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for path in &paths {
            let times = fs::FileTimes::new().set_accessed(long_ago);
            fs::File::open(path).unwrap().set_times(times).unwrap();
        }
        let known = paths.into_iter().map(|path| (path.clone(), told(&path)));
        Self {
            known: known.collect(),
            top,
        }
    }

    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// Nothing was read, where that is noted, nor changed, nor made.
    #[track_caller]
    pub(super) fn assert_untouched(&self) {
        for (path, known) in &self.known {
            assert_eq!(told(path), *known, "{path:?}");
        }
        let now = below(&self.top);
        assert!(now.iter().eq(self.known.keys()), "{now:?}");
        for path in now.iter().filter(|path| path.is_file()) {
            assert_eq!(fs::read(path).unwrap(), SECRET.as_bytes(), "{path:?}");
        }
    }

    /// No answer names anything there.
    #[track_caller]
    pub(super) fn assert_unnamed(&self, answer: &[u8]) {
        for name in [SECRET, UNASKED, TOP] {
            let text = String::from_utf8_lossy(answer);
            assert!(!holds(answer, name), "{name} is in {text}");
        }
    }

    /// Nothing of it was copied here.
    #[track_caller]
    pub(super) fn assert_not_below(&self, top: &Path) {
        for path in below(top) {
            self.assert_unnamed(path.file_name().unwrap().as_encoded_bytes());
            if path.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                self.assert_unnamed(target.as_os_str().as_encoded_bytes());
            } else if path.is_file() {
                self.assert_unnamed(&fs::read(&path).unwrap());
            }
        }
    }
}

fn told(path: &Path) -> [i64; 9] {
    let meta = fs::symlink_metadata(path).unwrap();
    let number = |number: u64| i64::try_from(number).unwrap();
    [
        i64::from(meta.mode()),
        number(meta.nlink()),
        number(meta.len()),
        meta.atime(),
        meta.atime_nsec(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ]
}

/// A directory and all below it, in order.
fn below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(path) = ahead.pop() {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        if is_directory {
            let entries = fs::read_dir(&path).unwrap();
            ahead.extend(entries.map(|entry| entry.unwrap().path()));
        }
        found.push(path);
    }
    found.sort();
    found
}
