//! Directories, page by page.

use super::{
    bucket::{Bucket, needs},
    gate::{self, Gate},
    handle::check_both,
};
use crate::root::{Detail, Directory, FileId, Follow, Listing as RootListing, Position};
use alknet_core::{
    Permit,
    files::{
        FileError, FileErrorCode, FileKind, FilePath, LISTING_ENTRIES_MAX, ListEntry, Listing,
        escape_name,
    },
};
use async_trait::async_trait;
use std::sync::Arc;

impl Bucket {
    pub(crate) async fn list_directory(
        self: &Arc<Self>,
        permit: &Permit,
        path: &FilePath,
        from: Option<&str>,
    ) -> Result<Box<dyn Listing>, FileError> {
        let from = match from.map(position) {
            Some(None) => {
                let message = format!("`{path}`: that is no place of a listing");
                return Err(FileError::new(FileErrorCode::BadArgument, message));
            }
            from => from.flatten(),
        };
        let (bucket, named) = (Arc::clone(self), path.clone());
        let act = move |gate: &Gate| {
            let reached = gate.reach(&bucket.root()?, &["list"], &named, Follow::Yes)?;
            let says = |error| reached.says(error);
            let directory = reached.walked.enter().map_err(says)?;
            bucket.sweep_now_and_then(&directory);
            let listing = directory.list(from).map_err(says)?;
            Ok((directory, listing, reached.real.clone()))
        };
        let (directory, listing, real) =
            gate::run(&self.jobs, permit, needs(&["list"], path), act).await?;
        Ok(Box::new(HostListing {
            bucket: Arc::clone(self),
            named: path.clone(),
            real,
            directory,
            position: listing.position(),
            listing: Some(listing),
        }))
    }
}

/// A listing under way.
#[derive(Debug)]
struct HostListing {
    bucket: Arc<Bucket>,
    named: FilePath,
    real: FilePath,
    directory: Directory,
    /// After what was told.
    position: Position,
    /// Away while a page is read; lost if nobody waited for that.
    listing: Option<RootListing>,
}

impl HostListing {
    /// The next entries, whether the caller may list them or not.
    async fn page(&mut self, entries: usize) -> Result<Vec<ListEntry>, FileError> {
        self.bucket.alive()?;
        let (directory, listing) = (self.directory.clone(), self.listing.take());
        let (named, position) = (self.named.clone(), self.position);
        let read = move || {
            let says = |error| gate::says(&named, error);
            let mut listing = match listing {
                Some(listing) => listing,
                None => directory.list(Some(position)).map_err(says)?,
            };
            let page = listing.page(entries, Detail::Meta).map_err(says)?;
            let told = page.into_iter().filter_map(|entry| {
                let meta = entry.meta?;
                let is_link = meta.kind == FileKind::Symlink;
                let target = is_link
                    .then(|| directory.read_link(&entry.name).ok())
                    .flatten();
                Some(ListEntry {
                    target: target.map(|target| escape_name(&target).into_owned()),
                    name: entry.name,
                    stat: meta.stat(),
                })
            });
            Ok::<_, FileError>((told.collect(), listing))
        };
        let (page, listing) = self.bucket.jobs.run(read).await??;
        self.position = listing.position();
        self.listing = Some(listing);
        Ok(page)
    }
}

#[async_trait]
impl Listing for HostListing {
    fn path(&self) -> &FilePath {
        &self.real
    }

    async fn next(&mut self, permit: &Permit, entries: usize) -> Result<Vec<ListEntry>, FileError> {
        loop {
            check_both(permit, "list", &self.named, &self.real)?;
            let mut page = self.page(entries.clamp(1, LISTING_ENTRIES_MAX)).await?;
            if page.is_empty() || permit.allows_tree("list", &self.real) {
                return Ok(page);
            }
            page.retain(|entry| {
                let path = self.real.join(entry.name.clone());
                path.is_ok_and(|path| permit.allows_file("list", &path))
            });
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }

    fn place(&self) -> String {
        let Position { directory, cookie } = self.position;
        format!("{:x}-{:x}-{cookie:x}", directory.device, directory.inode)
    }
}

/// Reads what [`HostListing::place`] wrote.
fn position(place: &str) -> Option<Position> {
    let mut parts = place.split('-').map(|part| u64::from_str_radix(part, 16));
    let (Some(Ok(device)), Some(Ok(inode)), Some(Ok(cookie)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    Some(Position {
        directory: FileId { device, inode },
        cookie,
    })
}
