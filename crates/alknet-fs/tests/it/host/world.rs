//! Buckets in a directory of their own, and callers.

use alknet_core::{
    Caller, Credential, Dispatcher, ErrorCode, Handler, Identity, Operation, Output, PeerId,
    Permit, Registration, Registry, StaticIdentities,
    files::{
        Create, FileError, FileErrorCode, FilePath, FileService, FileStat, OpenFile, OpenOptions,
        ReplaceOptions, Replacement, SmallFile,
    },
};
use alknet_fs::{BucketConfig, Buckets, ByteSize, FilesConfig};
use bytes::Bytes;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Operations, and the actions for which a permit of each stands.
const OPERATIONS: &[(&str, &str, &[&str])] = &[
    ("fs/buckets", "fs:list", &[]),
    ("fs/list", "fs:list", &["list"]),
    ("fs/read", "fs:read", &["read"]),
    ("fs/write", "fs:write", &["write"]),
    ("fs/rename", "fs:write", &["read", "write"]),
    ("test/all", "fs:write", &["list", "read", "write", "admin"]),
];

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) all: Permit,
    door: Dispatcher,
    identities: Arc<StaticIdentities>,
}

impl World {
    /// With the bucket `www`.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With the bucket `www`, as `change` has it.
    pub(crate) fn with(change: impl FnOnce(&mut BucketConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("www")).unwrap();
        let mut www = BucketConfig::new("www", dir.path().join("www"));
        change(&mut www);
        Self::over(dir, &[www])
    }

    /// With a quota of bytes and one of entries.
    pub(crate) fn limited(bytes: Option<u64>, entries: Option<u64>) -> Self {
        Self::with(|www| {
            www.quota = bytes.map(ByteSize::new);
            www.quota_entries = entries;
        })
    }

    pub(crate) fn over(dir: tempfile::TempDir, buckets: &[BucketConfig]) -> Self {
        let buckets = Buckets::new(&FilesConfig::default(), buckets, None).unwrap();
        let (registry, identities) = (Registry::new(), Arc::new(StaticIdentities::default()));
        registry
            .register(OPERATIONS.iter().map(registration).collect())
            .unwrap();
        let door = Dispatcher::builder(registry)
            .identities(identities.clone())
            .build();
        Self {
            all: door.authorize(&Caller::host(), "test/all").unwrap(),
            dir,
            buckets,
            door,
            identities,
        }
    }

    /// Where `text`, a path with its bucket, lies on the host.
    pub(crate) fn host(&self, text: &str) -> PathBuf {
        self.dir.path().join(text)
    }

    pub(crate) fn put(&self, text: &str, bytes: impl AsRef<[u8]>) {
        let path = self.host(text);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn get(&self, text: &str) -> String {
        fs::read_to_string(self.host(text)).unwrap()
    }

    /// Grants of a peer; given again, they replace those before.
    pub(crate) fn grant(&self, peer: &str, grants: &[&str]) {
        let id = PeerId::parse(peer).unwrap();
        self.identities
            .put(key(peer), Identity::granted(id, grants).unwrap());
    }

    pub(crate) fn forget(&self, peer: &str) {
        self.identities.remove(&key(peer));
    }

    pub(crate) fn permit(&self, peer: &str, operation: &str) -> Permit {
        let caller = Caller::resolve(&*self.identities, key(peer)).unwrap();
        self.door.authorize(&caller, operation).unwrap()
    }

    pub(crate) async fn open(&self, text: &str, options: OpenOptions) -> Arc<dyn OpenFile> {
        self.buckets
            .open(&self.all, &at(text), options)
            .await
            .unwrap()
    }

    pub(crate) async fn replace(
        &self,
        text: &str,
        options: ReplaceOptions,
    ) -> Result<Box<dyn Replacement>, FileError> {
        self.buckets.replace(&self.all, &at(text), options).await
    }

    /// Puts a file as a whole.
    pub(crate) async fn put_small(
        &self,
        text: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<FileStat, FileError> {
        let files = vec![small(text, bytes)];
        self.buckets.put_small(&self.all, files).await.remove(0)
    }
}

pub(crate) fn at(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

pub(crate) fn small(text: &str, bytes: impl Into<Bytes>) -> SmallFile {
    SmallFile {
        path: at(text),
        bytes: bytes.into(),
        create: Create::IfMissing,
        mode: None,
        mtime: None,
    }
}

/// All names below a directory of the host, sorted; those of partial files too.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut ahead = vec![directory.to_path_buf()];
    while let Some(next) = ahead.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            names.push(path.strip_prefix(directory).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                ahead.push(path);
            }
        }
    }
    names.sort();
    names
}

/// How many names there are below a directory from which others remove.
pub(crate) fn names_so_far(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => 1 + names_so_far(&entry.path()),
        _ => 1,
    };
    entries.filter_map(Result::ok).map(count).sum()
}

/// It failed with this code.
#[track_caller]
pub(crate) fn fails<T>(result: Result<T, FileError>, code: FileErrorCode) -> String {
    match result {
        Ok(_) => panic!("it was done, and should be {code:?}"),
        Err(error) => {
            assert_eq!(error.code(), Some(code), "{error}");
            error.to_string()
        }
    }
}

/// The door refused it.
#[track_caller]
pub(crate) fn refused<T>(result: Result<T, FileError>) -> String {
    match result {
        Err(FileError::Refused(error)) => {
            assert!(error.is(ErrorCode::Forbidden), "{error}");
            error.to_string()
        }
        Err(error) => panic!("{error}, and should be refused"),
        Ok(_) => panic!("it was done, and should be refused"),
    }
}

fn registration((name, scope, actions): &(&str, &str, &[&str])) -> Registration {
    let mut builder = Operation::query(name, "Stands for what a surface does.").requires(scope);
    for action in *actions {
        builder = builder.resource("bucket", action, "/file");
    }
    builder.raw(Handler::Unary(Arc::new(|_, _| {
        Box::pin(async { Ok(Output::Value(serde_json::Value::Null)) })
    })))
}

fn key(peer: &str) -> Credential {
    let mut key = [0; 32];
    key[..peer.len()].copy_from_slice(peer.as_bytes());
    Credential::NodeKey(key)
}
