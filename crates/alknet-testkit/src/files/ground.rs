//! A fresh service with its callers, and what rules say again and again.

use super::access::Access;
use alknet_core::{
    ErrorCode, Permit,
    files::{
        Create, FileError, FileErrorCode, FileKind, FileName, FilePath, FileService, FileStat,
        OpenFile, OpenOptions, ReplaceOptions, Replacement, SmallFile,
    },
};
use bytes::Bytes;
use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

/// What a kind of bucket has beyond what all have.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Features {
    /// Several names of one file.
    pub hard_links: bool,
    /// Parts of a file that take no room are told as such.
    pub holes: bool,
    /// Changes are told as they happen.
    pub watch: bool,
    /// Modes of nine bits, and the sticky bit of directories, are kept.
    pub modes: bool,
}

impl Features {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self {
            hard_links: true,
            holes: true,
            watch: true,
            modes: true,
        }
    }
}

/// What is put into the bucket `main` behind the service's back, where that is
/// possible.
#[derive(Clone, Copy, Debug)]
pub enum Planted<'a> {
    /// A symbolic link with any target.
    Symlink(&'a [u8]),
    /// A named pipe that nobody has open.
    Pipe,
}

/// Puts something at a path below the bucket `main`.
type Plant = dyn Fn(&str, Planted<'_>) + Send + Sync;

/// A service to be checked.
///
/// It has these buckets, on one file system where there is one:
/// * `main` and `other`: empty, without a quota;
/// * `small`: empty, with the quota [`Subject::SMALL_BYTES`] and
///   [`Subject::SMALL_ENTRIES`];
/// * `fixed`: read-only, with the file `kept` of the content `kept`, the
///   directory `full` with the file `in`, and the empty directory `empty`.
pub struct Subject {
    /// The service.
    pub service: Arc<dyn FileService>,
    /// What its buckets can do.
    pub features: Features,
    /// What lies behind the service, if anything else can reach that.
    pub plant: Option<Arc<Plant>>,
    /// What must live as long as the service.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl Subject {
    /// Bytes that the files in `small` may have.
    pub const SMALL_BYTES: u64 = 100_000;
    /// Entries that `small` may have.
    pub const SMALL_ENTRIES: u64 = 20;
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("service", &self.service)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

/// A subject, and callers.
pub(super) struct Ground {
    pub(super) files: Arc<dyn FileService>,
    pub(super) features: Features,
    pub(super) access: Access,
    /// Covers everything.
    pub(super) all: Permit,
    plant: Option<Arc<Plant>>,
    _keep: Box<dyn Any + Send + Sync>,
}

/// A file, or what lies in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Directory,
    File(Vec<u8>),
    Link(Option<String>),
    Other,
}

/// A path from its text.
pub(super) fn path(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

/// A path in `main`.
pub(super) fn at(text: &str) -> FilePath {
    path(&format!("main/{text}"))
}

/// A name from its bytes.
pub(super) fn name(bytes: &[u8]) -> FileName {
    FileName::new(bytes).unwrap()
}

/// An entry of a directory, by its bytes.
pub(super) fn in_(directory: &FilePath, bytes: &[u8]) -> FilePath {
    directory.join(name(bytes)).unwrap()
}

/// A file to put.
pub(super) fn small(path: FilePath, bytes: impl Into<Bytes>) -> SmallFile {
    SmallFile {
        path,
        bytes: bytes.into(),
        create: Create::IfMissing,
        mode: None,
        mtime: None,
    }
}

/// It failed with this code.
#[track_caller]
pub(super) fn fails<T>(result: Result<T, FileError>, code: FileErrorCode) {
    fails_as(result, &[code]);
}

/// It failed with one of these codes.
#[track_caller]
pub(super) fn fails_as<T>(result: Result<T, FileError>, codes: &[FileErrorCode]) {
    match result {
        Ok(_) => panic!("it was done, and should be {codes:?}"),
        Err(error) => match error.code() {
            Some(found) if codes.contains(&found) => {}
            found => panic!("{found:?} ({error}), and should be {codes:?}"),
        },
    }
}

/// The door refused it.
#[track_caller]
pub(super) fn refused<T>(result: Result<T, FileError>) {
    match result {
        Err(FileError::Refused(error)) => assert!(
            error.is(ErrorCode::Forbidden) || error.is(ErrorCode::Unauthenticated),
            "{error}"
        ),
        Err(error) => panic!("{error}, and should be refused"),
        Ok(_) => panic!("it was done, and should be refused"),
    }
}

/// Bytes that are not all the same.
pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let byte = |at: usize| (at % 251) as u8 ^ (at / 251) as u8 ^ seed;
    (0..len).map(byte).collect()
}

impl Ground {
    pub(super) fn new(subject: Subject) -> Self {
        let access = Access::new();
        Self {
            all: access.all(),
            access,
            files: subject.service,
            features: subject.features,
            plant: subject.plant,
            _keep: subject.keep,
        }
    }

    /// Puts something into `main`; `false` if this kind of bucket has no such.
    pub(super) fn plant(&self, path: &str, what: Planted<'_>) -> bool {
        let Some(plant) = &self.plant else {
            return false;
        };
        plant(path, what);
        true
    }

    /// Writes a file of `main`.
    pub(super) async fn put(&self, text: &str, bytes: impl Into<Bytes>) -> FileStat {
        self.put_at(at(text), bytes).await.unwrap()
    }

    pub(super) async fn put_at(
        &self,
        path: FilePath,
        bytes: impl Into<Bytes>,
    ) -> Result<FileStat, FileError> {
        let files = vec![small(path, bytes)];
        let mut done = self.files.put_small(&self.all, files).await;
        assert_eq!(done.len(), 1, "one outcome for one file");
        done.remove(0)
    }

    /// Reads a file of `main`.
    pub(super) async fn get(&self, text: &str) -> Vec<u8> {
        self.get_at(&at(text)).await.unwrap()
    }

    pub(super) async fn get_at(&self, path: &FilePath) -> Result<Vec<u8>, FileError> {
        let paths = std::slice::from_ref(path);
        let mut done = self.files.get_small(&self.all, paths).await;
        assert_eq!(done.len(), 1, "one outcome for one file");
        done.remove(0).map(|(stat, bytes)| {
            assert_eq!(stat.bytes, bytes.len() as u64);
            bytes.to_vec()
        })
    }

    /// Makes a directory of `main`.
    pub(super) async fn mkdir(&self, text: &str) {
        let made = self.files.make_directory(&self.all, &at(text), None).await;
        assert_eq!(made.unwrap().kind, FileKind::Directory);
    }

    /// Makes a link of `main`.
    pub(super) async fn symlink(&self, text: &str, target: &str) {
        let target = target.as_bytes();
        let made = self.files.symlink(&self.all, &at(text), target).await;
        made.unwrap();
    }

    /// What a path of `main` leads to.
    pub(super) async fn stat(&self, text: &str) -> FileStat {
        self.files.stat(&self.all, &at(text), true).await.unwrap()
    }

    /// What is called so in `main`.
    pub(super) async fn lstat(&self, text: &str) -> FileStat {
        self.files.stat(&self.all, &at(text), false).await.unwrap()
    }

    /// Whether something is called so in `main`.
    pub(super) async fn is_there(&self, text: &str) -> bool {
        let found = self.files.stat(&self.all, &at(text), false).await;
        if let Err(error) = &found {
            assert_eq!(error.code(), Some(FileErrorCode::NoSuchFile), "{error}");
        }
        found.is_ok()
    }

    pub(super) async fn open(
        &self,
        text: &str,
        options: OpenOptions,
    ) -> Result<Arc<dyn OpenFile>, FileError> {
        self.files.open(&self.all, &at(text), options).await
    }

    /// Opens a file of `main` to read and to write.
    pub(super) async fn edit(&self, text: &str) -> Arc<dyn OpenFile> {
        self.open(text, read_write(Create::IfMissing))
            .await
            .unwrap()
    }

    /// All of an open file.
    pub(super) async fn whole(&self, file: &dyn OpenFile) -> Vec<u8> {
        let mut whole = Vec::new();
        loop {
            let offset = whole.len() as u64;
            let bytes = file.read_at(&self.all, offset, 1 << 20).await.unwrap();
            if bytes.is_empty() {
                return whole;
            }
            whole.extend_from_slice(&bytes);
        }
    }

    /// Begins to replace a file of `main`.
    pub(super) async fn replace(
        &self,
        text: &str,
        options: ReplaceOptions,
    ) -> Result<Box<dyn Replacement>, FileError> {
        self.files.replace(&self.all, &at(text), options).await
    }

    /// Names in a directory, in order.
    pub(super) async fn names(&self, directory: &FilePath) -> Vec<FileName> {
        let entries = self.entries(directory).await.into_iter();
        entries.map(|entry| entry.name).collect()
    }

    /// Entries of a directory, by name.
    pub(super) async fn entries(&self, directory: &FilePath) -> Vec<alknet_core::files::ListEntry> {
        let listing = self.files.list(&self.all, directory, None).await;
        let mut listing = listing.unwrap();
        let mut entries = Vec::new();
        loop {
            let page = listing.next(&self.all, 1024).await.unwrap();
            if page.is_empty() {
                break;
            }
            entries.extend(page);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Everything below a directory: each entry by the text of its path. Two
    /// of a name are a broken listing.
    pub(super) async fn tree(&self, root: &FilePath) -> BTreeMap<String, Shape> {
        let (mut found, mut todo, mut files) = (BTreeMap::new(), vec![root.clone()], Vec::new());
        while let Some(directory) = todo.pop() {
            for entry in self.entries(&directory).await {
                let path = directory.join(entry.name).unwrap();
                let shape = match entry.stat.kind {
                    FileKind::Directory => {
                        todo.push(path.clone());
                        Shape::Directory
                    }
                    FileKind::File => {
                        files.push(path.clone());
                        continue;
                    }
                    FileKind::Symlink => Shape::Link(entry.target),
                    FileKind::Other => Shape::Other,
                };
                let before = found.insert(path.to_string(), shape);
                assert!(before.is_none(), "{path} is listed twice");
            }
        }
        let contents = self.files.get_small(&self.all, &files).await;
        for (path, content) in files.into_iter().zip(contents) {
            let (_, bytes) = content.unwrap();
            let before = found.insert(path.to_string(), Shape::File(bytes.to_vec()));
            assert!(before.is_none(), "{path} is listed twice");
        }
        found
    }
}

/// To read and to write.
pub(super) fn read_write(create: Create) -> OpenOptions {
    OpenOptions {
        read: true,
        ..OpenOptions::writing(create)
    }
}
