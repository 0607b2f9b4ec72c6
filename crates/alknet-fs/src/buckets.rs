//! The buckets of a node.

use crate::{
    config::{BucketConfig, FilesConfig, FilesConfigError, INBOX, checked},
    host::{
        bucket::{Bucket, Settings, lock, no_such_bucket, refuse_versions},
        copy,
    },
};
use alknet_core::{
    Permit,
    files::{
        Attributes, BucketInfo, BucketRef, Collected, CopyOptions, DigestRequest, Digests,
        FileError, FileErrorCode, FilePath, FileService, FileStat, Listing, OpenFile, OpenOptions,
        Removal, Removed, RenameOptions, ReplaceOptions, Replacement, SmallFile, Space, Watch,
        WatchOptions,
    },
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex},
};

type ByName = BTreeMap<Box<str>, Arc<Bucket>>;

/// Directories of this machine as buckets: the [`FileService`] of a node.
///
/// Which those are can be configured anew at any time. Who has a file open in a
/// bucket that is not there any more hears `NO_SUCH_BUCKET` at the next step.
///
/// What blocks runs on threads of the current tokio runtime, at most
/// [`BLOCKING_JOBS_MAX`](crate::BLOCKING_JOBS_MAX) of a bucket at a time.
#[derive(Debug)]
pub struct Buckets {
    by_name: ArcSwap<ByName>,
    own_data: Option<Arc<Path>>,
    configuring: Mutex<()>,
}

impl Buckets {
    /// Buckets as configured. What is in `data_directory`, the node's own, exists
    /// through none of them, but for the inbox, which is made in it. A bucket
    /// whose directory is missing is one all the same, that cannot be used
    /// until it is there.
    ///
    /// # Errors
    ///
    /// [`FilesConfigError`].
    pub fn new(
        files: &FilesConfig,
        buckets: &[BucketConfig],
        data_directory: Option<&Path>,
    ) -> Result<Arc<Self>, FilesConfigError> {
        let new = Self {
            by_name: ArcSwap::default(),
            own_data: data_directory.map(Arc::from),
            configuring: Mutex::default(),
        };
        new.configure(files, buckets)?;
        Ok(Arc::new(new))
    }

    /// Checks a configuration, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`FilesConfigError`].
    pub fn check(
        &self,
        files: &FilesConfig,
        buckets: &[BucketConfig],
    ) -> Result<(), FilesConfigError> {
        checked(files, buckets, self.own_data.as_deref()).map(drop)
    }

    /// Takes over another configuration. A bucket that keeps its name and its
    /// directory stays the same one, with what is open in it; with another
    /// directory it is another one.
    ///
    /// # Errors
    ///
    /// [`FilesConfigError`]: then nothing changed.
    pub fn configure(
        &self,
        files: &FilesConfig,
        buckets: &[BucketConfig],
    ) -> Result<(), FilesConfigError> {
        let _one = lock(&self.configuring);
        let wanted = checked(files, buckets, self.own_data.as_deref())?;
        let (old, kept) = (self.by_name.load_full(), files.partials_kept.duration());
        let mut new = ByName::new();
        for config in &wanted {
            self.make_inbox(config)?;
            let same = old.get(config.name.as_str());
            let same = same.filter(|bucket| bucket.host_path() == config.path);
            let bucket = match same {
                Some(bucket) => {
                    bucket.set(Settings::of(config, kept));
                    Arc::clone(bucket)
                }
                None => {
                    let own = self.own_data.clone();
                    Arc::new(Bucket::new(config, kept, own))
                }
            };
            new.insert(config.name.as_str().into(), bucket);
        }
        self.by_name.store(Arc::new(new.clone()));
        for (name, bucket) in old.iter() {
            if !new.get(name).is_some_and(|new| Arc::ptr_eq(new, bucket)) {
                bucket.end();
            }
        }
        Ok(())
    }

    /// Makes the directory of the inbox, for this account only.
    fn make_inbox(&self, config: &BucketConfig) -> Result<(), FilesConfigError> {
        let Some(data) = &self.own_data else {
            return Ok(());
        };
        if config.name != INBOX || config.path != data.join(INBOX) {
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(&config.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(FilesConfigError::Inbox(error))
            }
            _ => Ok(()),
        }
    }

    /// Why buckets cannot be used now, by name: their directories are missing, or
    /// may not be opened, or their disks do not answer (within five seconds).
    pub async fn unavailable(&self) -> Vec<(String, String)> {
        let by_name = self.by_name.load_full();
        let infos = join_all(by_name.values().map(Bucket::look))
            .await
            .into_iter();
        let unavailable = infos.filter_map(|info| Some((info.name, info.unavailable?)));
        unavailable.collect()
    }

    fn bucket(&self, path: &FilePath) -> Result<Arc<Bucket>, FileError> {
        let by_name = self.by_name.load();
        let found = by_name.get(path.bucket()).cloned();
        let found = found.ok_or_else(|| no_such_bucket(path.bucket()))?;
        refuse_versions(path)?;
        Ok(found)
    }

    /// The bucket, once the caller may know whether there is one.
    fn find(
        &self,
        permit: &Permit,
        actions: &[&str],
        path: &FilePath,
    ) -> Result<Arc<Bucket>, FileError> {
        for action in actions {
            permit.check_file(action, path)?;
        }
        self.bucket(path)
    }

    /// The one bucket in which two paths are.
    fn find_both(
        &self,
        permit: &Permit,
        (from, from_actions): (&FilePath, &[&str]),
        (to, to_actions): (&FilePath, &[&str]),
    ) -> Result<Arc<Bucket>, FileError> {
        let bucket = self.find(permit, from_actions, from)?;
        let other = self.find(permit, to_actions, to)?;
        match Arc::ptr_eq(&bucket, &other) {
            true => Ok(bucket),
            false => {
                let message = format!("`{from}` and `{to}` lie in different buckets");
                Err(FileError::new(FileErrorCode::OtherFileSystem, message))
            }
        }
    }
}

#[async_trait]
impl FileService for Buckets {
    async fn buckets(&self, permit: &Permit) -> Result<Vec<BucketInfo>, FileError> {
        permit.caller()?;
        let by_name = self.by_name.load_full();
        let may_list = |bucket: &Arc<Bucket>| {
            let root = BucketRef::parse(bucket.name()).and_then(|root| FilePath::new(root, vec![]));
            root.is_ok_and(|root| permit.may_allow_within("list", &root))
        };
        let told = by_name.values().filter(|bucket| may_list(bucket));
        let told: Vec<_> = told.map(Bucket::look).collect();
        Ok(join_all(told).await)
    }

    async fn stat(
        &self,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
    ) -> Result<FileStat, FileError> {
        self.find(permit, &["read"], path)?
            .stat(permit, path, follow)
            .await
    }

    async fn list(
        &self,
        permit: &Permit,
        path: &FilePath,
        from: Option<&str>,
    ) -> Result<Box<dyn Listing>, FileError> {
        let bucket = self.find(permit, &["list"], path)?;
        bucket.list_directory(permit, path, from).await
    }

    async fn open(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: OpenOptions,
    ) -> Result<Arc<dyn OpenFile>, FileError> {
        let writes = options.write || options.append || options.truncate;
        let action = if writes { "write" } else { "read" };
        self.find(permit, &[action], path)?
            .open_file(permit, path, options)
            .await
    }

    async fn replace(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: ReplaceOptions,
    ) -> Result<Box<dyn Replacement>, FileError> {
        self.find(permit, &["write"], path)?
            .replace_file(permit, path, options)
            .await
    }

    async fn put_small(
        &self,
        permit: &Permit,
        files: Vec<SmallFile>,
    ) -> Vec<Result<FileStat, FileError>> {
        let mut done: Vec<Option<Result<FileStat, FileError>>> = Vec::new();
        let mut groups: BTreeMap<String, Vec<(usize, SmallFile)>> = BTreeMap::new();
        for (at, file) in files.into_iter().enumerate() {
            match self.find(permit, &["write"], &file.path) {
                Ok(bucket) => {
                    done.push(None);
                    groups
                        .entry(bucket.name().into())
                        .or_default()
                        .push((at, file));
                }
                Err(error) => done.push(Some(Err(error))),
            }
        }
        for group in groups.into_values() {
            let (places, files): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let Some(bucket) = files.first().map(|file| self.bucket(&file.path)) else {
                continue;
            };
            match bucket {
                Ok(bucket) => {
                    let said = bucket.put_small(permit, files).await;
                    places
                        .into_iter()
                        .zip(said)
                        .for_each(|(at, said)| done[at] = Some(said));
                }
                Err(_) => {
                    for (at, file) in places.into_iter().zip(files) {
                        done[at] = Some(Err(no_such_bucket(file.path.bucket())));
                    }
                }
            }
        }
        done.into_iter().flatten().collect()
    }

    async fn get_small(
        &self,
        permit: &Permit,
        files: &[FilePath],
    ) -> Vec<Result<(FileStat, Bytes), FileError>> {
        let mut done: Vec<Option<Result<(FileStat, Bytes), FileError>>> = Vec::new();
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, path) in files.iter().enumerate() {
            match self.find(permit, &["read"], path) {
                Ok(_) => {
                    done.push(None);
                    groups.entry(path.bucket()).or_default().push(at);
                }
                Err(error) => done.push(Some(Err(error))),
            }
        }
        for places in groups.into_values() {
            let paths: Vec<_> = places.iter().map(|at| files[*at].clone()).collect();
            let said = match paths.first().map(|path| self.bucket(path)) {
                Some(Ok(bucket)) => bucket.get_small(permit, &paths).await,
                _ => paths
                    .iter()
                    .map(|path| Err(no_such_bucket(path.bucket())))
                    .collect(),
            };
            places
                .into_iter()
                .zip(said)
                .for_each(|(at, said)| done[at] = Some(said));
        }
        done.into_iter().flatten().collect()
    }

    async fn set_attributes(
        &self,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
        attributes: Attributes,
    ) -> Result<FileStat, FileError> {
        let bucket = self.find(permit, &["write"], path)?;
        bucket
            .set_attributes(permit, path, follow, attributes)
            .await
    }

    async fn make_directory(
        &self,
        permit: &Permit,
        path: &FilePath,
        mode: Option<u32>,
    ) -> Result<FileStat, FileError> {
        self.find(permit, &["write"], path)?
            .make_directory(permit, path, mode)
            .await
    }

    async fn rename(
        &self,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: RenameOptions,
    ) -> Result<(), FileError> {
        let bucket = self.find_both(permit, (from, &["read", "write"]), (to, &["write"]))?;
        bucket.rename(permit, from, to, options).await
    }

    async fn link(
        &self,
        permit: &Permit,
        existing: &FilePath,
        new: &FilePath,
    ) -> Result<(), FileError> {
        let bucket = self.find_both(permit, (existing, &["read", "write"]), (new, &["write"]))?;
        bucket.link(permit, existing, new).await
    }

    async fn symlink(
        &self,
        permit: &Permit,
        path: &FilePath,
        target: &[u8],
    ) -> Result<(), FileError> {
        self.find(permit, &["write"], path)?
            .symlink(permit, path, target)
            .await
    }

    async fn read_link(&self, permit: &Permit, path: &FilePath) -> Result<Vec<u8>, FileError> {
        self.find(permit, &["read"], path)?
            .read_link(permit, path)
            .await
    }

    async fn remove(
        &self,
        permit: &Permit,
        path: &FilePath,
        removal: Removal,
    ) -> Result<Removed, FileError> {
        self.find(permit, &["write"], path)?
            .remove(permit, path, removal)
            .await
    }

    async fn copy(
        &self,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: CopyOptions,
    ) -> Result<FileStat, FileError> {
        let source = self.find(permit, &["read"], from)?;
        let target = self.find(permit, &["write"], to)?;
        copy::copy(permit, (&source, from), (&target, to), options).await
    }

    async fn digest(
        &self,
        permit: &Permit,
        path: &FilePath,
        request: DigestRequest,
    ) -> Result<(Digests, FileStat), FileError> {
        self.find(permit, &["read"], path)?
            .digest(permit, path, request)
            .await
    }

    async fn space(&self, permit: &Permit, path: &FilePath) -> Result<Space, FileError> {
        self.find(permit, &["read"], path)?
            .space(permit, path)
            .await
    }

    async fn watch(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: WatchOptions,
    ) -> Result<Box<dyn Watch>, FileError> {
        self.find(permit, &["list"], path)?
            .watch(permit, path, options)
            .await
    }

    async fn collect(&self, permit: &Permit, path: &FilePath) -> Result<Collected, FileError> {
        self.find(permit, &["admin"], path)?
            .collect(permit, path)
            .await
    }
}
