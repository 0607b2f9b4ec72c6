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
        let has_attributes =
            !self.options.preserve || entry.copied_bits(meta.mode) == entry.copied_mode();
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

    /// Takes away what is of another kind, but no directory.
    pub(super) fn make_way(&mut self, path: &RelPath) -> Result<(), Trouble> {
        let (directory, name) = self.above(path)?;
        match directory.remove_file(&name) {
            Err(error) if error.errno() == Some(21) => Err(in_the_way().into()),
            removed => Ok(removed?),
        }
    }
}

/// A directory where something else is to be.
pub(super) fn in_the_way() -> Problem {
    Problem::new("IS_A_DIRECTORY", "there is a directory of that name")
}

/// The bytes of a link's target.
fn entry_target(entry: &Entry) -> Option<Vec<u8>> {
    let target = unescape_name(entry.target.as_deref()?).ok()?;
    Some(target.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        copy::{entry::Origin, piece::Piece},
        node_access::FileTime,
    };
    use std::{fs, os::unix::fs::symlink, path::Path};

    fn tree(top: &Path) -> LocalTree {
        let put = PutOptions {
            preserve: true,
            no_clobber: false,
        };
        LocalTree::new(Root::open(top).unwrap(), put)
    }

    /// What a peer tells.
    fn entry(top: &Path, path: &str, kind: FileKind) -> Entry {
        Entry {
            path: RelPath::parse(path).unwrap(),
            kind,
            bytes: 4,
            mode: 0o4755,
            mtime: FileTime::default(),
            target: None,
            origin: Origin::Local {
                directory: Root::open(top).unwrap().directory(),
                name: FileName::new(*b"-").unwrap(),
                has_holes: false,
            },
        }
    }

    fn link(top: &Path, path: &str, target: &str) -> Entry {
        Entry {
            target: Some(target.to_owned()),
            ..entry(top, path, FileKind::Symlink)
        }
    }

    /// A tree to copy into, beside what nobody may touch.
    fn beside() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/mine"), "mine").unwrap();
        let top = dir.path().join("into");
        fs::create_dir(&top).unwrap();
        (dir, top)
    }

    #[track_caller]
    fn assert_untouched(dir: &tempfile::TempDir) {
        let outside = dir.path().join("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read(outside.join("mine")).unwrap(), b"mine");
        let mode = outside.metadata().unwrap().permissions();
        assert_ne!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0);
    }

    /// A link first, then a file through it: what CVE-2019-6111 of scp and
    /// CVE-2022-29154 of rsync let a server do.
    #[test]
    fn nothing_is_written_through_links_that_a_peer_made() {
        let (dir, top) = beside();
        let mut tree = tree(&top);
        for target in ["../outside", "/tmp", "..", "a/../../outside", "../../.."] {
            let problem = tree.make_link(&link(&top, "l", target)).unwrap_err();
            assert_eq!(problem.code, "LEADS_OUTSIDE", "{target}");
        }
        fs::create_dir(top.join("real")).unwrap();
        tree.make_link(&link(&top, "to-real", "real")).unwrap();
        let pieces = [Piece::Data(b"evil"[..].into())];
        // Not even one that stays within.
        let error = tree
            .put(&entry(&top, "to-real/x", FileKind::File), &pieces)
            .unwrap_err();
        assert_eq!(Problem::of_root(&error).code, "NOT_A_DIRECTORY");
        let directory = entry(&top, "to-real", FileKind::Directory);
        assert!(tree.make_directory(&directory).is_err());
        // One that the person has there leads out, and is not followed either.
        symlink(dir.path().join("outside"), top.join("out")).unwrap();
        for path in ["out/mine", "out/new", "out/sub/new"] {
            assert!(
                tree.put(&entry(&top, path, FileKind::File), &pieces)
                    .is_err(),
                "{path}"
            );
        }
        assert!(
            tree.make_directory(&entry(&top, "out/d", FileKind::Directory))
                .is_err()
        );
        assert!(
            tree.set_attributes(&entry(&top, "out", FileKind::Directory))
                .is_err()
        );
        assert!(
            tree.set_attributes(&entry(&top, "out/mine", FileKind::File))
                .is_err()
        );
        assert!(tree.make_way(&RelPath::parse("out/mine").unwrap()).is_err());
        tree.put(&entry(&top, "out", FileKind::File), &pieces)
            .unwrap();
        assert!(!top.join("out").is_symlink());
        assert_untouched(&dir);
    }

    #[test]
    fn what_is_put_never_runs_as_somebody_else() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, top) = beside();
        let mut tree = tree(&top);
        let file = entry(&top, "run", FileKind::File);
        tree.put(&file, &[Piece::Data(b"evil"[..].into())]).unwrap();
        let mode = top.join("run").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn names_of_unfinished_files_are_nobodys() {
        let (_dir, top) = beside();
        let mut tree = tree(&top);
        let name = format!(".alknet-part-{}", "0".repeat(32));
        let error = tree
            .put(&entry(&top, &name, FileKind::File), &[])
            .unwrap_err();
        assert_eq!(Problem::of_root(&error).code, "NAME_REFUSED");
    }

    #[test]
    fn what_is_the_same_is_seen() {
        let (_dir, top) = beside();
        let mut tree = tree(&top);
        let file = entry(&top, "d/file", FileKind::File);
        assert_eq!(tree.differs(&file, true).unwrap(), Some(Differs::Missing));
        tree.put(&file, &[Piece::Data(b"four"[..].into())]).unwrap();
        assert_eq!(tree.differs(&file, true).unwrap(), None);
        assert_eq!(tree.differs(&file, false).unwrap(), Some(Differs::Content));
        let later = Entry {
            mtime: FileTime {
                seconds: 1,
                nanoseconds: 0,
            },
            ..file.clone()
        };
        assert_eq!(tree.differs(&later, true).unwrap(), Some(Differs::Content));
        let other_mode = Entry {
            mode: 0o600,
            ..file.clone()
        };
        assert_eq!(
            tree.differs(&other_mode, true).unwrap(),
            Some(Differs::Attributes)
        );
        let directory = entry(&top, "d/file", FileKind::Directory);
        assert_eq!(tree.differs(&directory, true).unwrap(), Some(Differs::Kind));
        let one = link(&top, "l", "d/file");
        tree.make_link(&one).unwrap();
        assert_eq!(tree.differs(&one, true).unwrap(), None);
        let other = link(&top, "l", "d");
        assert_eq!(tree.differs(&other, true).unwrap(), Some(Differs::Content));
        tree.make_link(&other).unwrap();
        assert_eq!(fs::read_link(top.join("l")).unwrap(), Path::new("d"));
    }
}
