//! The destination of what is fetched: what is there, what is in the way, how
//! files begin.

use super::{sink::Sink, wire::Kept};
use alknet_core::{
    CallError, ErrorCode, Permit,
    files::{
        Attributes, Create, FileError, FileErrorCode, FileKind, FilePath, FileService, FileStat,
        FileTime, Removal, ReplaceOptions, Replacement, SMALL_FILE_BYTES_MAX, SetTime,
        unescape_name,
    },
};

/// What is copied of permissions: what a caller fetches never runs as somebody
/// else.
const MODE_BITS: u32 = 0o777;

/// Where it goes, and how.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) files: &'a dyn FileService,
    pub(super) root: FilePath,
    pub(super) write: Permit,
    /// To see what is there; nothing if the caller may not.
    pub(super) look: Option<Permit>,
    pub(super) create: Create,
    pub(super) attributes: bool,
    pub(super) ignore_times: bool,
    /// The other node's key, if large files are gone on with.
    pub(super) resume: Option<String>,
}

/// What comes to the destination.
#[derive(Debug)]
pub(super) struct Entry {
    /// As requests have it.
    pub(super) path: String,
    pub(super) target: FilePath,
    pub(super) stat: Told,
}

/// What the other node says of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) kind: FileKind,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) mtime: FileTime,
}

impl Told {
    pub(super) fn of(stat: &FileStat) -> Self {
        Self {
            kind: stat.kind,
            bytes: stat.bytes,
            mode: stat.mode,
            mtime: stat.mtime,
        }
    }
}

impl Place<'_> {
    /// What has the name here, itself if it is a link.
    pub(super) async fn look(&self, target: &FilePath) -> Result<Option<FileStat>, FileError> {
        let mut found = match &self.look {
            Some(look) => self.files.stat(look, target, false).await,
            None => Err(FileError::Refused(CallError::new(
                ErrorCode::Forbidden,
                "not asked",
            ))),
        };
        if matches!(found, Err(FileError::Refused(_))) {
            // Whoever may write it may replace it, and so learn what it is.
            let nothing = Attributes::default();
            let write = &self.write;
            found = self
                .files
                .set_attributes(write, target, false, nothing)
                .await;
        }
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.code() == Some(FileErrorCode::NoSuchFile) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn directory(&self, entry: &Entry, is_root: bool) -> Result<(), FileError> {
        let write = &self.write;
        let made = self.files.make_directory(write, &entry.target, None).await;
        match made {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(FileErrorCode::FileExists) => {
                match self.look(&entry.target).await?.map(|stat| stat.kind) {
                    Some(FileKind::Directory) => Ok(()),
                    // The caller named it.
                    Some(FileKind::Symlink) if is_root => Ok(()),
                    _ => Err(FileError::new(
                        FileErrorCode::NotADirectory,
                        format!("`{}` is no directory", entry.target),
                    )),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A link that is in the way of a file or a link is removed: what is
    /// written behind it would lie elsewhere.
    pub(super) async fn clear(&self, target: &FilePath) -> Result<Option<FileStat>, FileError> {
        let found = self.look(target).await?;
        match found {
            Some(stat) if stat.kind == FileKind::Symlink => {
                if self.create == Create::New {
                    let message = format!("`{target}` exists");
                    return Err(FileError::new(FileErrorCode::FileExists, message));
                }
                let write = &self.write;
                self.files.remove(write, target, Removal::File).await?;
                Ok(None)
            }
            found => Ok(found),
        }
    }

    pub(super) fn mode(&self, mode: u32) -> Option<u32> {
        self.attributes.then_some(mode & MODE_BITS)
    }

    /// Who may write into it removes only what is theirs: that goes along.
    pub(super) fn directory_mode(&self, mode: u32) -> Option<u32> {
        self.attributes.then_some(mode & (MODE_BITS | 0o1000))
    }

    pub(super) fn mtime(&self, mtime: FileTime) -> Option<FileTime> {
        self.attributes.then_some(mtime)
    }

    pub(super) fn is_same(&self, here: &FileStat, there: &Told) -> bool {
        !self.ignore_times
            && self.look.is_some()
            && self.create != Create::New
            && here.kind == FileKind::File
            && (here.bytes, here.mtime) == (there.bytes, there.mtime)
    }

    /// Begins a large file, or finds what was kept of it.
    pub(super) async fn begin(
        &self,
        entry: &Entry,
    ) -> Result<(Box<dyn Replacement>, Option<Kept>), FileError> {
        let write = &self.write;
        let (mode, mtime) = (entry.stat.mode, entry.stat.mtime);
        let mut begun = self.replace(entry, entry.stat.bytes, (mode, mtime)).await?;
        if begun.bytes() == 0 {
            return Ok((begun, None));
        }
        let kept = Kept {
            bytes: begun.bytes(),
            blake3: begun.digest(write).await?,
        };
        Ok((begun, Some(kept)))
    }

    pub(super) async fn replace(
        &self,
        entry: &Entry,
        bytes: u64,
        (mode, mtime): (u32, FileTime),
    ) -> Result<Box<dyn Replacement>, FileError> {
        // Of that version of that file of that node.
        let resume = self.resume.as_ref().map(|node| {
            let text = format!("{node} {bytes} {mtime} {}", entry.path);
            blake3::hash(text.as_bytes()).to_hex().to_string()
        });
        let options = ReplaceOptions {
            create: self.create,
            mode: self.mode(mode),
            mtime: self.mtime(mtime),
            bytes: Some(bytes),
            sparse: true,
            resume,
            ..ReplaceOptions::default()
        };
        let write = &self.write;
        self.files.replace(write, &entry.target, options).await
    }

    pub(super) async fn sink(
        &self,
        entry: &Entry,
        kept: Option<Box<dyn Replacement>>,
        (bytes, offset): (u64, u64),
        (mode, mtime): (u32, FileTime),
    ) -> Result<Sink, FileError> {
        match kept {
            Some(mut kept) => {
                if (bytes, mtime) != (entry.stat.bytes, entry.stat.mtime) || offset > kept.bytes() {
                    let message = format!("`{}` changed while it was copied", entry.path);
                    return Err(FileError::new(FileErrorCode::FileChanged, message));
                }
                kept.rewind(&self.write, offset).await?;
                Ok(Sink::file(kept))
            }
            None => match usize::try_from(bytes) {
                Ok(len) if len <= SMALL_FILE_BYTES_MAX => Ok(Sink::memory(len)),
                // It has grown since it was listed.
                _ => {
                    let begun = self.replace(entry, bytes, (mode, mtime)).await?;
                    let mut sink = Sink::file(begun);
                    sink.rewind(&self.write).await?;
                    Ok(sink)
                }
            },
        }
    }

    /// Whether it was there already.
    pub(super) async fn make_link(
        &self,
        entry: &Entry,
        link: Option<Box<str>>,
    ) -> Result<bool, FileError> {
        let outside = || {
            let message = format!("`{}` leads out of its bucket", entry.path);
            FileError::new(FileErrorCode::LeadsOutside, message)
        };
        let link = link.ok_or_else(outside)?;
        let link = unescape_name(&link)
            .map_err(|error| FileError::new(FileErrorCode::BadArgument, error.to_string()))?;
        let (write, target) = (&self.write, &entry.target);
        if let Some(look) = &self.look
            && let Ok(here) = self.files.read_link(look, target).await
            && here == *link
        {
            return Ok(true);
        }
        let made = self.files.symlink(write, target, &link).await;
        match made {
            Err(error)
                if error.code() == Some(FileErrorCode::FileExists)
                    && self.create != Create::New =>
            {
                self.files.remove(write, target, Removal::File).await?;
                self.files.symlink(write, target, &link).await?;
            }
            made => made?,
        }
        // It is there with what it says; its time is for people.
        if self.attributes {
            let time = Attributes {
                mtime: Some(SetTime::To(entry.stat.mtime)),
                ..Attributes::default()
            };
            let set = self.files.set_attributes(write, target, false, time);
            set.await.ok();
        }
        Ok(false)
    }
}
