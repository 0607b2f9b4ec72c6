//! A directory of this machine into which is copied. Nothing that a peer names
//! leads out of it: every step is one name, and no link is followed.

use super::{
    entry::{Differs, Entry, RelPath},
    trouble::{Problem, Trouble},
};
use crate::node_access::{FileAttributes, SetTime};
use crate::node_access::{
    FileKind, FileName,
    root::{Commit, Directory, Meta, Partial, PartialKey, Place, Root, RootError},
    unescape_name,
};

/// How entries are put there.
#[derive(Clone, Copy, Debug)]
pub(super) struct PutOptions {
    /// Permissions and times go along.
    pub(super) preserve: bool,
    /// What is there stays.
    pub(super) no_clobber: bool,
}

/// The directory; remembers the one that was used last. All calls block.
#[derive(Debug)]
pub(super) struct LocalTree {
    root: Root,
    options: PutOptions,
    last: Option<(Vec<FileName>, Directory)>,
}

impl LocalTree {
    pub(super) fn new(root: Root, options: PutOptions) -> Self {
        Self {
            root,
            options,
            last: None,
        }
    }

    /// In what an entry differs from what is there; nothing if in nothing.
    pub(super) fn differs(
        &mut self,
        entry: &Entry,
        trusts_times: bool,
    ) -> Result<Option<Differs>, RootError> {
        let names = entry.path.names();
        let found = match names.split_last() {
            None => self.root.directory().meta(),
            Some((name, above)) => self
                .directory(above, false)
                .and_then(|directory| directory.meta_of(name)),
        };
        let meta = match found {
            Ok(meta) => meta,
            Err(error) if error.is_not_found() => return Ok(Some(Differs::Missing)),
            // A link or a file stands where a directory is needed.
            Err(error) if error.errno() == Some(20) => return Ok(Some(Differs::Missing)),
            Err(error) => return Err(error),
        };
        if meta.kind != entry.kind {
            return Ok(Some(Differs::Kind));
        }
        let has_attributes = !self.options.preserve || meta.mode & 0o777 == entry.copied_mode();
        let has_time = meta.modified == entry.mtime;
        Ok(match entry.kind {
            FileKind::File if meta.bytes != entry.bytes || !trusts_times || !has_time => {
                Some(Differs::Content)
            }
            FileKind::Directory if self.options.preserve && !has_time => Some(Differs::Attributes),
            FileKind::Symlink => {
                let is_same = self
                    .target(&names)
                    .is_ok_and(|target| Some(target) == entry_target(entry));
                (!is_same).then_some(Differs::Content)
            }
            _ if !has_attributes => Some(Differs::Attributes),
            _ => None,
        })
    }

    fn target(&mut self, names: &[FileName]) -> Result<Vec<u8>, RootError> {
        let Some((name, above)) = names.split_last() else {
            return Err(RootError::IsRoot);
        };
        self.directory(above, false)?.read_link(name)
    }

    /// The directory of these names, made if that is wanted.
    pub(super) fn directory(
        &mut self,
        names: &[FileName],
        make: bool,
    ) -> Result<Directory, RootError> {
        if let Some((last, directory)) = &self.last
            && last == names
        {
            return Ok(directory.clone());
        }
        let mut at = self.root.directory();
        for name in names {
            at = match at.enter(name) {
                Err(error) if error.is_not_found() && make => {
                    match at.make_directory(name, 0o777) {
                        // Somebody was faster.
                        Err(error) if error.errno() == Some(17) => {}
                        made => made?,
                    }
                    at.enter(name)?
                }
                entered => entered?,
            };
        }
        self.last = Some((names.to_vec(), at.clone()));
        Ok(at)
    }

    /// The directory that an entry lies in, made if need be, and its name.
    fn above(&mut self, path: &RelPath) -> Result<(Directory, FileName), RootError> {
        let names = path.names();
        let (name, above) = names.split_last().ok_or(RootError::IsRoot)?;
        Ok((self.directory(above, true)?, name.clone()))
    }

    /// Makes a directory; one that is there is fine. Its own permissions and
    /// times come when everything is in it.
    pub(super) fn make_directory(&mut self, entry: &Entry) -> Result<(), RootError> {
        if entry.path.is_top() {
            return Ok(());
        }
        let (directory, name) = self.above(&entry.path)?;
        let mode = match self.options.preserve {
            true => entry.copied_mode() | 0o700,
            false => 0o777,
        };
        match directory.make_directory(&name, mode) {
            Err(error) if error.errno() == Some(17) => directory.enter(&name).map(drop),
            made => made,
        }
    }

    /// Makes a link; another one in its place goes.
    pub(super) fn make_link(&mut self, entry: &Entry) -> Result<(), Problem> {
        let target = entry_target(entry).ok_or_else(|| {
            Problem::new(
                "LEADS_OUTSIDE",
                "the link leads out of the bucket: its target is not told",
            )
        })?;
        let made = (|| {
            let (directory, name) = self.above(&entry.path)?;
            match directory.make_symlink(&name, &target) {
                Err(error) if error.errno() == Some(17) && !self.options.no_clobber => {
                    directory.remove_file(&name)?;
                    directory.make_symlink(&name, &target)?;
                }
                made => made?,
            }
            if self.options.preserve {
                let time = FileAttributes {
                    mtime: Some(SetTime::To(entry.mtime)),
                    ..FileAttributes::default()
                };
                directory.set_attributes_of(&name, &time)?;
            }
            Ok(())
        })();
        made.map_err(|error: RootError| match error {
            RootError::LeadsOut => Problem::new(
                "LEADS_OUTSIDE",
                "the link would lead out of the directory that is copied into",
            ),
            error => Problem::of_root(&error),
        })
    }

    /// Begins a file, or goes on with one.
    pub(super) fn begin(
        &mut self,
        entry: &Entry,
        key: PartialKey<'_>,
    ) -> Result<Partial, RootError> {
        let (directory, name) = self.above(&entry.path)?;
        directory.partial(&name, key)
    }

    /// Gives a file its name.
    pub(super) fn commit(&self, entry: &Entry, partial: &mut Partial) -> Result<Meta, RootError> {
        let place = match self.options.no_clobber {
            true => Place::New,
            false => Place::Replace,
        };
        partial.commit(&Commit {
            durable: false,
            attributes: self.attributes(entry),
            place,
        })
    }

    fn attributes(&self, entry: &Entry) -> FileAttributes {
        match self.options.preserve {
            true => FileAttributes {
                mode: Some(entry.copied_mode()),
                mtime: Some(SetTime::To(entry.mtime)),
                ..FileAttributes::default()
            },
            false => FileAttributes::default(),
        }
    }

    /// Puts a small file.
    pub(super) fn put(
        &mut self,
        entry: &Entry,
        pieces: &[super::piece::Piece],
    ) -> Result<(), RootError> {
        let mut partial = self.begin(entry, PartialKey::Once)?;
        for piece in pieces {
            match piece {
                super::piece::Piece::Data(bytes) => partial.write(bytes)?,
                super::piece::Piece::Hole(bytes) => partial.skip(*bytes)?,
            }
        }
        self.commit(entry, &mut partial).map(drop)
    }

    /// Sets permissions and times of what is there.
    pub(super) fn set_attributes(&mut self, entry: &Entry) -> Result<(), RootError> {
        let attributes = self.attributes(entry);
        let names = entry.path.names();
        match names.split_last() {
            None => self.root.directory().set_attributes(&attributes).map(drop),
            Some((name, above)) => {
                let directory = self.directory(above, false)?;
                // Of what the name stands for now, but never of what a link leads to.
                if directory.meta_of(name)?.kind != entry.kind {
                    return Err(RootError::Changed);
                }
                directory.set_attributes_of(name, &attributes).map(drop)
            }
        }
    }

    /// Takes away what is of another kind.
    pub(super) fn make_way(&mut self, path: &RelPath) -> Result<(), Trouble> {
        let (directory, name) = self.above(path)?;
        match directory.remove_file(&name) {
            Err(error) if error.errno() == Some(21) => Ok(directory.remove_directory(&name)?),
            removed => Ok(removed?),
        }
    }
}

/// The bytes of a link's target.
fn entry_target(entry: &Entry) -> Option<Vec<u8>> {
    let target = unescape_name(entry.target.as_deref()?).ok()?;
    Some(target.into_owned())
}
