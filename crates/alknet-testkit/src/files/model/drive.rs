//! The same calls on a service and on the model.

use super::{
    super::{
        Ground, Subject,
        ground::{at, path as file_path, small},
    },
    step::{Content, HANDLES, Opening, REPLACEMENTS, Slot, Step},
    tree::{Body, Found, Inode, Outcome, ROOT, Tree},
};
use alknet_core::files::{
    Attributes, CopyOptions, Create, FileError, FileErrorCode as Code, FileKind, FilePath,
    FileStat, FileTime, OpenFile, OpenOptions, RenameOptions, ReplaceOptions, Replacement, SetTime,
    SmallFile,
};
use std::{fmt::Debug, sync::Arc};

/// What a comparison ends with: what is not the same, in words.
type Compared = Result<(), String>;

struct Handle {
    file: Arc<dyn OpenFile>,
    inode: Inode,
    how: Opening,
}

struct Begun {
    replacement: Box<dyn Replacement>,
    place: (Inode, String),
    create: Create,
    bytes: Vec<u8>,
    /// Of the file that was there then.
    mode: Option<u32>,
}

struct Driver {
    ground: Ground,
    tree: Tree,
    handles: [Option<Handle>; HANDLES],
    begun: [Option<Begun>; REPLACEMENTS],
}

/// Runs calls on a fresh service.
pub(super) async fn run(subject: Subject, steps: &[Step]) -> Result<(), String> {
    let mut driver = Driver {
        ground: Ground::new(subject),
        tree: Tree::new(),
        handles: Default::default(),
        begun: Default::default(),
    };
    let byte = |byte| Content { len: 100, byte };
    let before = [
        Step::MakeDirectory("a".into()),
        Step::MakeDirectory("b".into()),
        Step::MakeDirectory("a/b".into()),
        Step::Put("c".into(), Create::New, byte(b'c')),
        Step::Put("a/c".into(), Create::New, byte(b'd')),
        Step::Symlink("b/a".into(), "../a".into()),
    ];
    for (n, step) in before.iter().chain(steps).enumerate() {
        let done = async {
            driver.step(step).await?;
            driver.compare().await
        };
        done.await.map_err(|what| {
            let n = n as i64 - before.len() as i64;
            format!("after call {n}, {step:?}: {what}")
        })?;
    }
    Ok(())
}

/// Both did the same, or both failed for one of the same reasons.
fn agree<T: PartialEq + Debug>(got: Result<T, FileError>, wanted: Outcome<T>) -> Compared {
    match (got, wanted) {
        (Ok(got), Ok(wanted)) if got == wanted => Ok(()),
        (Err(error), Err(codes)) if error.code().is_some_and(|code| codes.contains(&code)) => {
            Ok(())
        }
        (got, wanted) => Err(format!("the service {got:?}, the model {wanted:?}")),
    }
}

/// What of a description is promised: what it is, how long, names.
fn shape(stat: &FileStat) -> (FileKind, Option<u64>, Option<u64>) {
    let is_file = stat.kind == FileKind::File;
    let has_length = stat.kind != FileKind::Directory;
    (
        stat.kind,
        has_length.then_some(stat.bytes),
        is_file.then_some(stat.links),
    )
}

impl Driver {
    async fn step(&mut self, step: &Step) -> Compared {
        match step {
            Step::Stat(..)
            | Step::Get(_)
            | Step::List(_)
            | Step::ReadLink(_)
            | Step::Put(..)
            | Step::Copy(..) => self.content(step).await,
            Step::MakeDirectory(_)
            | Step::Rename(..)
            | Step::Link(..)
            | Step::Symlink(..)
            | Step::Remove(..) => self.names(step).await,
            Step::SetLength(..) | Step::SetMode(..) | Step::SetTime(..) => {
                self.attributes(step).await
            }
            Step::Open(slot, path, how) => self.open(*slot, path, *how).await,
            Step::Close(slot) => {
                self.handles[*slot] = None;
                Ok(())
            }
            Step::ReadAt(slot, ..)
            | Step::WriteAt(slot, ..)
            | Step::SetLengthOf(slot, ..)
            | Step::StatOf(slot) => match self.handles[*slot].take() {
                Some(handle) => {
                    let compared = self.handle(&handle, step).await;
                    self.handles[*slot] = Some(handle);
                    compared
                }
                None => Ok(()),
            },
            Step::Replace(slot, path, create) => self.replace(*slot, path, *create).await,
            Step::Write(slot, _) | Step::Skip(slot, _) | Step::Rewind(slot, _) => {
                match self.begun[*slot].take() {
                    Some(mut begun) => {
                        let compared = self.go_on(&mut begun, step).await;
                        self.begun[*slot] = Some(begun);
                        compared
                    }
                    None => Ok(()),
                }
            }
            Step::Commit(slot) => match self.begun[*slot].take() {
                Some(begun) => self.commit(begun).await,
                None => Ok(()),
            },
            Step::Discard(slot, drops) => {
                match self.begun[*slot].take() {
                    Some(begun) if *drops => drop(begun),
                    Some(begun) => begun.replacement.discard().await,
                    None => {}
                }
                Ok(())
            }
        }
    }

    async fn content(&mut self, step: &Step) -> Compared {
        let (files, all) = (&self.ground.files, &self.ground.all);
        match step {
            Step::Stat(path, follow) => {
                let got = files.stat(all, &at(path), *follow).await;
                let wanted = self.tree.existing(path, *follow);
                let wanted = wanted.map(|inode| self.shape_of(inode));
                agree(got.map(|stat| shape(&stat)), wanted)
            }
            Step::Get(path) => {
                let got = self.ground.get_at(&at(path)).await;
                let wanted = self.tree.file(path);
                agree(got, wanted.map(|inode| self.tree.bytes(inode).to_vec()))
            }
            Step::List(path) => {
                let got = files.list(all, &at(path), None).await.map(drop);
                let wanted =
                    self.tree
                        .existing(path, true)
                        .and_then(|inode| match self.tree.kind(inode) {
                            FileKind::Directory => Ok(()),
                            _ => Err(vec![Code::NotADirectory]),
                        });
                agree(got, wanted)
            }
            Step::ReadLink(path) => {
                let got = files.read_link(all, &at(path)).await;
                let wanted = self.tree.read_link(path);
                agree(got, wanted.map(String::into_bytes))
            }
            Step::Put(path, create, content) => {
                let file = SmallFile {
                    create: *create,
                    ..small(at(path), content.bytes())
                };
                let mut done = files.put_small(all, vec![file]).await;
                let wanted = self.tree.target(path, *create);
                let wanted = wanted.map(|found| self.put(found, content.bytes()));
                agree(done.remove(0).map(|stat| stat.bytes), wanted)
            }
            Step::Copy(from, to, create) => {
                let source = self.tree.file(from);
                let target = self.tree.target(to, *create);
                if let (Ok(source), Ok(found)) = (&source, &target)
                    && found.node == Some(*source)
                {
                    return Ok(()); // Onto itself: see the rules.
                }
                let options = CopyOptions {
                    create: *create,
                    attributes: false,
                };
                let got = files.copy(all, &at(from), &at(to), options).await;
                let wanted = match (source, target) {
                    (Ok(source), Ok(found)) => {
                        let bytes = self.tree.bytes(source).to_vec();
                        Ok(self.put(found, bytes))
                    }
                    (source, target) => {
                        let codes = [source.err(), target.err()];
                        Err(codes.into_iter().flatten().collect::<Vec<_>>().concat())
                    }
                };
                agree(got.map(|stat| stat.bytes), wanted)
            }
            _ => unreachable!("sorted above"),
        }
    }

    /// A new file where one was found, or none; answers with its length.
    fn put(&mut self, found: Found, bytes: Vec<u8>) -> u64 {
        let place = found.place.expect("a file has a name");
        let len = bytes.len() as u64;
        self.tree.put(&place, Body::File(bytes));
        len
    }

    /// Whether a directory that something is being replaced in goes along.
    fn holds_begun(&self, path: &str) -> bool {
        let Ok(inode) = self.tree.existing(path, false) else {
            return false;
        };
        let begun = self.begun.iter().flatten();
        begun
            .map(|begun| begun.place.0)
            .any(|directory| self.tree.is_within(directory, inode))
    }

    async fn names(&mut self, step: &Step) -> Compared {
        let (files, all) = (&self.ground.files, &self.ground.all);
        match step {
            Step::MakeDirectory(path) => {
                let got = files.make_directory(all, &at(path), None).await;
                agree(got.map(drop), self.tree.make_directory(path))
            }
            Step::Rename(from, to, replace) => {
                if self.holds_begun(from) || self.holds_begun(to) {
                    return Ok(());
                }
                let options = RenameOptions { replace: *replace };
                let got = files.rename(all, &at(from), &at(to), options).await;
                agree(got, self.tree.rename(from, to, *replace))
            }
            Step::Link(existing, new) => {
                let got = files.link(all, &at(existing), &at(new)).await;
                agree(got, self.tree.link(existing, new))
            }
            Step::Symlink(path, target) => {
                let got = files.symlink(all, &at(path), target.as_bytes()).await;
                agree(got, self.tree.symlink(path, target))
            }
            Step::Remove(path, how) => {
                if self.holds_begun(path) {
                    return Ok(());
                }
                let got = files.remove(all, &at(path), *how).await;
                agree(got, self.tree.remove(path, *how))
            }
            _ => unreachable!("sorted above"),
        }
    }

    async fn attributes(&mut self, step: &Step) -> Compared {
        let (path, follow, attributes) = match step {
            Step::SetLength(path, bytes) => (path, true, length(*bytes)),
            Step::SetMode(path, mode) => {
                let attributes = Attributes {
                    mode: Some(*mode),
                    ..Attributes::default()
                };
                (path, true, attributes)
            }
            Step::SetTime(path, follow, seconds) => {
                let time = SetTime::To(time(*seconds));
                let attributes = Attributes {
                    mtime: Some(time),
                    ..Attributes::default()
                };
                (path, *follow, attributes)
            }
            _ => unreachable!("sorted above"),
        };
        let (files, all) = (&self.ground.files, &self.ground.all);
        let got = files
            .set_attributes(all, &at(path), follow, attributes)
            .await;
        let wanted = self.tree.existing(path, follow).and_then(|inode| {
            match (step, self.tree.kind(inode)) {
                (Step::SetLength(_, bytes), FileKind::File) => {
                    self.tree.bytes_mut(inode).resize(*bytes as usize, 0);
                }
                (Step::SetLength(..), _) => {
                    return Err(vec![Code::IsADirectory, Code::BadArgument]);
                }
                (Step::SetMode(_, mode), _) => self.tree.set_mode(inode, *mode),
                (Step::SetTime(_, _, seconds), FileKind::File) => {
                    self.tree.set_mtime(inode, time(*seconds));
                }
                _ => {}
            }
            Ok(self.shape_of(inode))
        });
        agree(got.map(|stat| shape(&stat)), wanted)
    }

    async fn open(&mut self, slot: Slot, path: &str, how: Opening) -> Compared {
        let options = OpenOptions {
            read: how.read,
            write: how.write,
            append: how.append,
            create: how.create,
            truncate: how.truncate,
            mode: None,
            follow: how.follow,
        };
        let got = self.ground.open(path, options).await;
        let is_link = self.tree.existing(path, false);
        let is_link = is_link.is_ok_and(|at| self.tree.kind(at) == FileKind::Symlink);
        let wanted = match is_link && !how.follow {
            true if how.create == Create::New => Err(vec![Code::TooManyLinks, Code::FileExists]),
            true => Err(vec![Code::TooManyLinks]),
            false => self.tree.target(path, how.create),
        };
        let wanted = wanted.map(|found| match (found.node, found.place) {
            (Some(inode), _) => {
                if how.truncate {
                    self.tree.bytes_mut(inode).clear();
                }
                inode
            }
            (None, Some(place)) => self.tree.put(&place, Body::File(Vec::new())),
            (None, None) => unreachable!("the root is there"),
        });
        let inode = wanted.as_ref().ok().copied();
        let file = match got {
            Ok(file) => {
                agree(Ok(()), wanted.map(drop))?;
                file
            }
            Err(error) => return agree(Err(error), wanted.map(drop)),
        };
        self.handles[slot] = inode.map(|inode| Handle { file, inode, how });
        Ok(())
    }

    async fn handle(&mut self, handle: &Handle, step: &Step) -> Compared {
        let (file, inode, all) = (&handle.file, handle.inode, &self.ground.all);
        let may = |may: bool| match may {
            true => Ok(()),
            false => Err(vec![Code::BadArgument, Code::HostRefuses]),
        };
        match step {
            Step::ReadAt(_, offset, len) => {
                let got = file.read_at(all, *offset, *len).await;
                let wanted = may(handle.how.read).map(|()| {
                    let bytes = self.tree.bytes(inode);
                    let from = bytes.len().min(*offset as usize);
                    bytes[from..bytes.len().min(from + len)].to_vec()
                });
                agree(got.map(|bytes| bytes.to_vec()), wanted)
            }
            Step::WriteAt(_, offset, content) => {
                let bytes = content.bytes();
                let got = file.write_at(all, *offset, bytes.clone().into()).await;
                let wanted = may(handle.how.write);
                if wanted.is_ok() {
                    let held = self.tree.bytes_mut(inode);
                    let from = match handle.how.append {
                        true => held.len(),
                        false => *offset as usize,
                    };
                    write(held, from, &bytes);
                }
                agree(got, wanted)
            }
            Step::SetLengthOf(_, bytes) => {
                let got = file.set_attributes(all, length(*bytes)).await;
                let wanted = may(handle.how.write);
                if wanted.is_ok() {
                    self.tree.bytes_mut(inode).resize(*bytes as usize, 0);
                }
                let wanted = wanted.map(|()| self.shape_of(inode));
                agree(got.map(|stat| shape(&stat)), wanted)
            }
            Step::StatOf(_) => {
                let got = file.stat(all).await;
                agree(got.map(|stat| shape(&stat)), Ok(self.shape_of(inode)))
            }
            _ => unreachable!("sorted above"),
        }
    }

    async fn replace(&mut self, slot: Slot, path: &str, create: Create) -> Compared {
        let options = ReplaceOptions {
            create,
            ..ReplaceOptions::default()
        };
        let got = self.ground.replace(path, options).await;
        let wanted = self.tree.target(path, create);
        let found = wanted.as_ref().ok().cloned();
        let replacement = match got {
            Ok(replacement) => {
                agree(Ok(()), wanted.map(drop))?;
                replacement
            }
            Err(error) => return agree(Err(error), wanted.map(drop)),
        };
        let found = found.expect("both did it");
        self.begun[slot] = Some(Begun {
            replacement,
            mode: found.node.and_then(|inode| self.tree.node(inode).mode),
            place: found.place.expect("a file has a name"),
            create,
            bytes: Vec::new(),
        });
        Ok(())
    }

    async fn go_on(&mut self, begun: &mut Begun, step: &Step) -> Compared {
        let (held, all) = (&mut begun.bytes, &self.ground.all);
        let replacement = &mut begun.replacement;
        match step {
            Step::Write(_, content) => {
                let bytes = content.bytes();
                agree(replacement.write(all, bytes.clone().into()).await, Ok(()))?;
                held.extend(bytes);
            }
            Step::Skip(_, bytes) => {
                agree(replacement.skip(all, *bytes).await, Ok(()))?;
                held.resize(held.len() + *bytes as usize, 0);
            }
            Step::Rewind(_, bytes) => {
                let got = replacement.rewind(all, *bytes).await;
                let to = *bytes as usize;
                if to > held.len() {
                    agree(got, Err(vec![Code::BadArgument]))?;
                } else {
                    agree(got, Ok(()))?;
                    held.truncate(to);
                }
            }
            _ => unreachable!("sorted above"),
        }
        agree(Ok(replacement.bytes()), Ok(held.len() as u64))
    }

    async fn commit(&mut self, begun: Begun) -> Compared {
        let got = begun.replacement.commit(&self.ground.all).await;
        let (directory, name) = &begun.place;
        let there = self.tree.entries(*directory).get(name).copied();
        let mut wrong = Vec::new();
        if there.is_some() && begun.create == Create::New {
            wrong.push(Code::FileExists);
        }
        if there.is_some_and(|there| self.tree.kind(there) == FileKind::Directory) {
            wrong.push(Code::IsADirectory);
        }
        if there.is_none() && begun.create == Create::Never {
            wrong.push(Code::NoSuchFile);
        }
        let wanted = match wrong.is_empty() {
            true => {
                let len = begun.bytes.len() as u64;
                let inode = self.tree.put(&begun.place, Body::File(begun.bytes));
                self.tree.keep_mode(inode, begun.mode);
                Ok(len)
            }
            false => Err(wrong),
        };
        agree(got.map(|stat| stat.bytes), wanted)
    }

    fn shape_of(&self, inode: Inode) -> (FileKind, Option<u64>, Option<u64>) {
        let links = || Some(self.tree.links(inode));
        match &self.tree.node(inode).body {
            Body::File(bytes) => (FileKind::File, Some(bytes.len() as u64), links()),
            Body::Directory(_) => (FileKind::Directory, None, None),
            Body::Link(target) => (FileKind::Symlink, Some(target.len() as u64), None),
        }
    }

    /// Everything that is there, and everything that is open.
    async fn compare(&self) -> Compared {
        let (mut todo, mut files) = (vec![(file_path("main"), ROOT)], Vec::new());
        while let Some((directory, inode)) = todo.pop() {
            let told = self.ground.entries(&directory).await;
            let names: Vec<_> = told.iter().map(|entry| entry.name.to_string()).collect();
            let entries = self.tree.entries(inode);
            let wanted: Vec<_> = entries.keys().cloned().collect();
            if names != wanted {
                return Err(format!(
                    "{directory} has {names:?}, and should have {wanted:?}"
                ));
            }
            for (entry, at) in told.into_iter().zip(entries.values()) {
                let path = directory.join(entry.name.clone()).unwrap();
                self.compare_entry(&path, inode, &entry, *at)?;
                match entry.stat.kind {
                    FileKind::Directory => todo.push((path, *at)),
                    FileKind::File => files.push((path, *at)),
                    _ => {}
                }
            }
        }
        let paths: Vec<_> = files.iter().map(|(path, _)| path.clone()).collect();
        let got = self.ground.files.get_small(&self.ground.all, &paths).await;
        for ((path, inode), got) in files.iter().zip(got) {
            let (_, bytes) = got.map_err(|error| format!("{path}: {error}"))?;
            same_bytes(&path.to_string(), &bytes, self.tree.bytes(*inode))?;
        }
        for handle in self
            .handles
            .iter()
            .flatten()
            .filter(|handle| handle.how.read)
        {
            let bytes = self.ground.whole(&*handle.file).await;
            let wanted = self.tree.bytes(handle.inode);
            same_bytes(&format!("the open {}", handle.file.path()), &bytes, wanted)?;
        }
        Ok(())
    }

    fn compare_entry(
        &self,
        path: &FilePath,
        directory: Inode,
        entry: &alknet_core::files::ListEntry,
        inode: Inode,
    ) -> Compared {
        let (told, node) = (shape(&entry.stat), self.tree.node(inode));
        let wanted = self.shape_of(inode);
        if told != wanted {
            return Err(format!("{path} is {told:?}, and should be {wanted:?}"));
        }
        if let (true, Some(wanted)) = (self.ground.features.modes, node.mode)
            && wanted != entry.stat.mode
        {
            let mode = entry.stat.mode;
            return Err(format!(
                "{path} has mode {mode:o}, and should have {wanted:o}"
            ));
        }
        if node.mtime.is_some_and(|mtime| mtime != entry.stat.mtime) {
            let (told, wanted) = (entry.stat.mtime, node.mtime);
            return Err(format!("{path} is of {told}, and should be of {wanted:?}"));
        }
        if let Body::Link(target) = &node.body {
            let wanted = self.tree.target_told(directory, target);
            if entry.target != wanted {
                let told = &entry.target;
                return Err(format!(
                    "{path} leads to {told:?}, and should to {wanted:?}"
                ));
            }
        }
        Ok(())
    }
}

fn length(bytes: u64) -> Attributes {
    Attributes {
        bytes: Some(bytes),
        ..Attributes::default()
    }
}

fn time(seconds: i64) -> FileTime {
    FileTime {
        seconds,
        nanoseconds: 5,
    }
}

/// Writes into bytes; what lies between is zeros.
fn write(held: &mut Vec<u8>, from: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = from + bytes.len();
    if held.len() < end {
        held.resize(end, 0);
    }
    held[from..end].copy_from_slice(bytes);
}

/// Tells the first difference, not all the bytes.
fn same_bytes(what: &str, got: &[u8], wanted: &[u8]) -> Compared {
    if got == wanted {
        return Ok(());
    }
    let first = got.iter().zip(wanted).position(|(a, b)| a != b);
    let (len, should) = (got.len(), wanted.len());
    Err(format!(
        "{what} has {len} bytes, and should have {should}; the first that differs: {first:?}"
    ))
}
