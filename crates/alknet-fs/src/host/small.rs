//! Many small files in one turn.

use super::{
    bucket::{Bucket, refuse_versions},
    gate::{Gate, Halt, Need, Reached},
    handle::{check_times, follow_to, refuse_no_file},
    replacement::commit_of,
    usage::Freeing,
    writing::{Committing, Writing},
};
use crate::root::{Batch, FileId, Follow, OpenHow, PartialKey, Root};
use alknet_core::{
    Permit,
    files::{
        Attributes, Create, FileError, FileErrorCode, FileKind, FileName, FilePath, FileStat,
        ReplaceOptions, SMALL_FILE_BYTES_MAX, SetTime, SmallFile,
    },
};
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Most files that are open at once, so that one caller does not use up the
/// handles of the node.
const OPEN_MAX: usize = 64;
/// Times that what was walked leads elsewhere than before.
const ROUNDS_MAX: usize = 16;

impl Bucket {
    pub(crate) async fn put_small(
        self: &Arc<Self>,
        permit: &Permit,
        files: Vec<SmallFile>,
    ) -> Vec<Result<FileStat, FileError>> {
        let paths: Vec<_> = files
            .iter()
            .map(|file| (file.path.clone(), follow_to(file.create)))
            .collect();
        let files = Arc::new(files);
        let act = move |bucket: &Arc<Self>, at: Vec<(usize, Reached)>| bucket.put(&files, at);
        self.together(permit, "write", &paths, act).await
    }

    pub(crate) async fn get_small(
        self: &Arc<Self>,
        permit: &Permit,
        paths: &[FilePath],
    ) -> Vec<Result<(FileStat, Bytes), FileError>> {
        let act = |_: &Arc<Self>, at: Vec<(usize, Reached)>| {
            at.into_iter()
                .map(|(at, reached)| (at, get(&reached)))
                .collect()
        };
        let paths: Vec<_> = paths
            .iter()
            .map(|path| (path.clone(), Follow::Yes))
            .collect();
        self.together(permit, "read", &paths, act).await
    }

    /// Walks and checks all paths, then acts on those that may be acted on.
    async fn together<T: Send + 'static>(
        self: &Arc<Self>,
        permit: &Permit,
        action: &'static str,
        paths: &[(FilePath, Follow)],
        act: impl Fn(&Arc<Self>, Vec<(usize, Reached)>) -> Vec<(usize, Result<T, FileError>)>
        + Send
        + Sync
        + 'static,
    ) -> Vec<Result<T, FileError>> {
        let mut done: Vec<Option<Result<T, FileError>>> = paths.iter().map(|_| None).collect();
        let mut gates: HashMap<usize, Gate> = HashMap::new();
        for (at, (path, _)) in paths.iter().enumerate() {
            let checked = refuse_versions(path)
                .and_then(|()| Gate::checked(permit, vec![Need::file(action, path)]));
            match checked {
                Ok(gate) => {
                    gates.insert(at, gate);
                }
                Err(error) => done[at] = Some(Err(error)),
            }
        }
        let act = Arc::new(act);
        for _ in 0..ROUNDS_MAX {
            if gates.is_empty() {
                break;
            }
            let mut waiting: Vec<_> = gates
                .iter()
                .map(|(at, gate)| (*at, paths[*at].clone(), gate.clone()))
                .collect();
            waiting.sort_by_key(|(at, ..)| *at);
            let (bucket, acting) = (Arc::clone(self), Arc::clone(&act));
            let turn = move || bucket.turn(action, waiting, &*acting);
            let (said, asked) = match self.jobs.run(turn).await {
                Ok(turn) => turn,
                Err(error) => {
                    let message = error.to_string();
                    let all = gates.drain().map(|(at, _)| {
                        (
                            at,
                            Err(FileError::new(FileErrorCode::IoError, message.clone())),
                        )
                    });
                    (all.collect(), Vec::new())
                }
            };
            for (at, said) in said {
                gates.remove(&at);
                done[at] = Some(said);
            }
            for (at, need) in asked {
                match (need.check(permit), gates.get_mut(&at)) {
                    (Ok(()), Some(gate)) => gate.pass(need),
                    (Ok(()), None) => {}
                    (Err(error), _) => {
                        gates.remove(&at);
                        done[at] = Some(Err(error));
                    }
                }
            }
        }
        let moved = |(path, _): &(FilePath, Follow)| {
            let message = format!("`{path}`: it is moved about all the time");
            Err(FileError::new(FileErrorCode::FileChanged, message))
        };
        let told = done.into_iter().zip(paths);
        told.map(|(done, path)| done.unwrap_or_else(|| moved(path)))
            .collect()
    }

    /// Acts on what leads to where it was checked, and asks for the others.
    #[allow(clippy::type_complexity)]
    fn turn<T>(
        self: &Arc<Self>,
        action: &'static str,
        waiting: Vec<(usize, (FilePath, Follow), Gate)>,
        act: &impl Fn(&Arc<Self>, Vec<(usize, Reached)>) -> Vec<(usize, Result<T, FileError>)>,
    ) -> (Vec<(usize, Result<T, FileError>)>, Vec<(usize, Need)>) {
        let (mut said, mut asked) = (Vec::new(), Vec::new());
        let mut ready = Vec::new();
        let mut walks = Walks::default();
        for (at, (path, follow), gate) in waiting {
            match self
                .root()
                .map_err(Halt::from)
                .and_then(|root| walks.reach(&root, &gate, action, (&path, follow)))
            {
                Ok(reached) => ready.push((at, reached)),
                Err(Halt::Ask(need)) => asked.push((at, *need)),
                Err(Halt::Failed(error)) => said.push((at, Err(error))),
            }
            if ready.len() == OPEN_MAX {
                said.extend(act(self, std::mem::take(&mut ready)));
            }
        }
        said.extend(act(self, ready));
        (said, asked)
    }

    fn put(
        self: &Arc<Self>,
        files: &[SmallFile],
        at: Vec<(usize, Reached)>,
    ) -> Vec<(usize, Result<FileStat, FileError>)> {
        let (mut said, mut together) = (Vec::new(), Together::default());
        let freeing = self.usage.freeing();
        for (at, reached) in at {
            let file = &files[at];
            let place = (reached.walked.directory.id(), reached.walked.name.clone());
            if !together.places.insert(place.clone()) {
                // The same file once more: as if it had come later.
                said.extend(std::mem::take(&mut together).commit(&freeing));
                together.places.insert(place);
            }
            let options = ReplaceOptions {
                create: file.create,
                mode: file.mode,
                mtime: file.mtime,
                ..ReplaceOptions::default()
            };
            let written = self.write_small(file, &reached);
            match written.and_then(Writing::into_batch) {
                Ok((partial, waits)) => {
                    together.batch.add(partial, commit_of(&options));
                    together.waiting.push((at, waits));
                }
                Err(error) => said.push((at, Err(error))),
            }
        }
        said.extend(together.commit(&freeing));
        said
    }

    fn write_small(
        self: &Arc<Self>,
        file: &SmallFile,
        reached: &Reached,
    ) -> Result<Writing, FileError> {
        self.writable()?;
        if file.bytes.len() > SMALL_FILE_BYTES_MAX {
            return Err(reached.fails(FileErrorCode::FileTooLarge, "it is no small file"));
        }
        let times = Attributes {
            mtime: file.mtime.map(SetTime::To),
            ..Attributes::default()
        };
        check_times(&reached.named, &times)?;
        if file.mode.is_some_and(|mode| mode & !0o777 != 0) {
            let what = "permissions of a file are at most 0777";
            return Err(reached.fails(FileErrorCode::BadArgument, what));
        }
        let found = match reached.walked.meta() {
            Ok(meta) => Some(meta),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(reached.says(error)),
        };
        match (&found, file.create) {
            (Some(_), Create::New) => {
                return Err(reached.fails(FileErrorCode::FileExists, "it exists"));
            }
            (None, Create::Never) => {
                let what = "there is no such file or directory";
                return Err(reached.fails(FileErrorCode::NoSuchFile, what));
            }
            (Some(meta), _) => refuse_no_file(meta.kind, reached)?,
            (None, _) => {}
        }
        if reached.walked.name.is_none() {
            return Err(reached.fails(FileErrorCode::IsADirectory, "it is a directory"));
        }
        let mut writing = Writing::begin(self, reached, found.as_ref(), PartialKey::Once)?;
        writing.write(&file.bytes)?;
        Ok(writing)
    }
}

/// Files that are committed together, each in a place of its own.
#[derive(Default)]
struct Together {
    places: HashSet<(FileId, Option<FileName>)>,
    batch: Batch,
    waiting: Vec<(usize, Committing)>,
}

impl Together {
    fn commit(self, freeing: &Freeing<'_>) -> Vec<(usize, Result<FileStat, FileError>)> {
        let committed = self.batch.commit().into_iter().zip(self.waiting);
        let told = committed.map(|(meta, (at, waits))| (at, waits.done(meta, freeing)));
        told.collect()
    }
}

fn get(reached: &Reached) -> Result<(FileStat, Bytes), FileError> {
    let says = |error| reached.says(error);
    let Some(name) = &reached.walked.name else {
        return Err(reached.fails(FileErrorCode::IsADirectory, "it is a directory"));
    };
    let file = reached
        .walked
        .directory
        .open(name, &OpenHow::read())
        .map_err(says)?;
    let meta = file.meta().map_err(says)?;
    let too_large = || Err(reached.fails(FileErrorCode::FileTooLarge, "it is no small file"));
    let bytes = usize::try_from(meta.bytes).unwrap_or(usize::MAX);
    if bytes > SMALL_FILE_BYTES_MAX {
        return too_large();
    }
    // One more, to see whether it grew.
    let mut buffer = vec![0; bytes + 1];
    let read = file.read_at(&mut buffer, 0).map_err(says)?;
    buffer.truncate(read);
    if read == bytes {
        return Ok((meta.stat(), buffer.into()));
    }
    // It changed while it was read: what is told of it is of the bytes.
    let meta = file.meta().map_err(says)?;
    let bytes = usize::try_from(meta.bytes).unwrap_or(usize::MAX);
    if bytes > SMALL_FILE_BYTES_MAX {
        return too_large();
    }
    buffer = vec![0; bytes];
    let read = file.read_at(&mut buffer, 0).map_err(says)?;
    buffer.truncate(read);
    Ok((meta.stat(), buffer.into()))
}

/// Walks of many files, which share their directories.
#[derive(Default)]
struct Walks(HashMap<FilePath, Reached>);

impl Walks {
    /// As [`Gate::reach`].
    fn reach(
        &mut self,
        root: &Root,
        gate: &Gate,
        action: &'static str,
        (path, follow): (&FilePath, Follow),
    ) -> Result<Reached, Halt> {
        let walk = || gate.reach(root, &[action], path, follow);
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return walk();
        };
        let known = match self.0.get(&parent) {
            Some(known) => known,
            None => {
                let reached = walk()?;
                if let Some(directory) = reached.directory_of(&parent) {
                    self.0.insert(parent, directory);
                }
                return Ok(reached);
            }
        };
        // Anything but a file, or nothing, is walked to with all care.
        let mut walked = known.walked.clone();
        match walked.directory.meta_of(name) {
            Ok(meta) if meta.kind == FileKind::File => {}
            Err(error) if error.is_not_found() => {}
            _ => return walk(),
        }
        walked.name = Some(name.clone());
        walked.real.push(name.clone());
        let real = known.real.join(name.clone());
        let real =
            real.map_err(|error| FileError::new(FileErrorCode::NameTooLong, error.to_string()))?;
        gate.holds(action, &real, path)?;
        Ok(Reached {
            walked,
            real,
            named: path.clone(),
        })
    }
}

impl Reached {
    /// The directory that it lies in, if that is what the caller named, too.
    fn directory_of(&self, parent: &FilePath) -> Option<Self> {
        // A link at the end led elsewhere, perhaps.
        if self.real != self.named {
            return None;
        }
        let mut walked = self.walked.clone();
        walked.name = None;
        walked.real.pop();
        Some(Self {
            walked,
            real: parent.clone(),
            named: parent.clone(),
        })
    }
}
