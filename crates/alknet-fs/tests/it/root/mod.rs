//! Confined directories.

mod entries;
mod file;
mod list;
mod names;
mod partial;
mod race;
mod remove;
mod walk;

use alknet_core::files::{Create, FileName};
use alknet_fs::root::{Directory, Follow, OpenHow, Root, RootError, Walked};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A root with a directory beside it, which nothing may reach.
pub(crate) struct Ground {
    dir: tempfile::TempDir,
    pub(crate) root: Root,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inside")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/canary"), "alive").unwrap();
        let root = Root::open(&dir.path().join("inside")).unwrap();
        Self { dir, root }
    }

    /// A path of the host, below the root.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("inside").join(path)
    }

    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join("outside").join(path)
    }

    pub(crate) fn dirs(&self, path: &str) -> &Self {
        fs::create_dir_all(self.at(path)).unwrap();
        self
    }

    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.at(path), content).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) -> &Self {
        symlink(target, self.at(path)).unwrap();
        self
    }

    pub(crate) fn walk(&self, path: &str, follow: Follow) -> Result<Walked, RootError> {
        Ok(self.root.walk(&names(path), follow)?)
    }

    pub(crate) fn directory(&self, path: &str) -> Directory {
        self.walk(path, Follow::Yes).unwrap().enter().unwrap()
    }

    pub(crate) fn read(&self, path: &str) -> Result<String, RootError> {
        let end = self.walk(path, Follow::Yes)?;
        let file = end.directory.open(end.name()?, &OpenHow::read())?;
        let mut content = vec![0; 1000];
        let bytes = file.read_at(&mut content, 0)?;
        content.truncate(bytes);
        Ok(String::from_utf8(content).unwrap())
    }

    pub(crate) fn write(&self, path: &str, content: &str) -> Result<(), RootError> {
        let end = self.walk(path, Follow::Yes)?;
        let how = OpenHow::write(Create::IfMissing);
        end.directory
            .open(end.name()?, &how)?
            .write_at(content.as_bytes(), 0)
    }

    /// What is outside is as it was.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        let outside = fs::read_dir(self.outside("")).unwrap();
        let names: Vec<_> = outside.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["canary"]);
        assert_eq!(fs::read_to_string(self.outside("canary")).unwrap(), "alive");
    }
}

pub(crate) fn name(bytes: impl AsRef<[u8]>) -> FileName {
    FileName::new(bytes.as_ref()).unwrap()
}

pub(crate) fn names(path: &str) -> Vec<FileName> {
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(name)
        .collect()
}

/// The names of a walk's end, as text.
pub(crate) fn real(walked: &Walked) -> String {
    let names: Vec<_> = walked.real.iter().map(ToString::to_string).collect();
    names.join("/")
}

#[track_caller]
pub(crate) fn assert_errno<T: std::fmt::Debug>(
    said: Result<T, RootError>,
    errno: rustix::io::Errno,
) {
    assert_eq!(said.unwrap_err().errno(), Some(errno.raw_os_error()));
}
