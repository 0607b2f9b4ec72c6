//! Ways from the root down to a directory and a name in it.

use super::{Directory, FileId, Meta, Root, RootError, WalkError, directory::usable};
use alknet_core::files::{FileKind, FileName};
use rustix::{fs::readlinkat, io::Errno};

/// Symlinks that one path may pass; as many as Linux passes.
pub const LINKS_MAX: usize = 40;

/// Directories on the way that are held open at once; those above are opened
/// anew should a symlink lead back to them.
const HELD_MAX: usize = 64;

/// Names that a path may have when its symlinks are resolved.
const DEPTH_MAX: usize = 4_096;

/// Whether a symlink at the end of a path is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It is: the walk ends at what it leads to.
    Yes,
    /// It is not: the walk ends at the symlink.
    No,
}

/// Where a walk ended.
#[derive(Clone, Debug)]
pub struct Walked {
    /// The directory in which [`Walked::name`] is; the root itself for the root.
    pub directory: Directory,
    /// The name in that directory, of something or of nothing yet; `None` for the
    /// root, which has no name.
    pub name: Option<FileName>,
    /// The names from the root on, with every symlink resolved. This is what
    /// access is to be decided about.
    pub real: Vec<FileName>,
}

impl Walked {
    /// The name in [`Walked::directory`].
    ///
    /// # Errors
    ///
    /// [`RootError::IsRoot`].
    pub fn name(&self) -> Result<&FileName, RootError> {
        self.name.as_ref().ok_or(RootError::IsRoot)
    }

    /// What is known about the entry; of a symlink, its own.
    ///
    /// # Errors
    ///
    /// What the host answers, above all that nothing is there.
    pub fn meta(&self) -> Result<Meta, RootError> {
        match &self.name {
            Some(name) => self.directory.meta_of(name),
            None => self.directory.meta(),
        }
    }

    /// Opens the entry as a directory.
    ///
    /// # Errors
    ///
    /// As [`Directory::enter`].
    pub fn enter(&self) -> Result<Directory, RootError> {
        match &self.name {
            Some(name) => self.directory.enter(name),
            None => Ok(self.directory.clone()),
        }
    }
}

impl Root {
    /// Walks `path` name by name.
    ///
    /// What the last name stands for need not exist; all before it must be
    /// directories, or symlinks to some. A name after a FIFO, device or file is
    /// `ENOTDIR`.
    ///
    /// # Errors
    ///
    /// What the host answers, [`RootError::LeadsOut`], [`RootError::TooManyLinks`],
    /// [`RootError::NameReserved`], and [`RootError::Changed`] if directories were
    /// moved about meanwhile; with how far it came.
    pub fn walk(&self, path: &[FileName], follow: Follow) -> Result<Walked, WalkError> {
        let mut walk = Walk {
            root: &self.top,
            levels: Vec::new(),
            at: None,
            links: 0,
        };
        let said = walk.run(path, follow);
        said.map_err(|error| WalkError {
            error,
            real: walk.names(),
        })
    }
}

/// One step of a path.
enum Step {
    Name(FileName),
    /// `..`
    Up,
    /// `.`, and the nothing after a last `/`: what is before it is a directory.
    Stay,
}

enum Down {
    Entered,
    Link(Vec<u8>),
    /// The last name is no directory and no symlink.
    End,
}

/// Puts the steps of a symlink's target before those that are ahead.
fn push_target(ahead: &mut Vec<Step>, target: &[u8]) -> Result<(), RootError> {
    if target.first() == Some(&b'/') {
        return Err(RootError::LeadsOut);
    }
    for part in target.rsplit(|byte| *byte == b'/') {
        ahead.push(match part {
            b"" | b"." => Step::Stay,
            b".." => Step::Up,
            name => {
                Step::Name(FileName::new(name).map_err(|_| RootError::from(Errno::NAMETOOLONG))?)
            }
        });
    }
    if ahead.len() > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(())
}

/// A directory that was entered.
struct Level {
    name: FileName,
    id: FileId,
    directory: Option<Directory>,
}

struct Walk<'a> {
    root: &'a Directory,
    levels: Vec<Level>,
    /// The name in the last of them that the walk is at.
    at: Option<FileName>,
    links: usize,
}

impl Walk<'_> {
    fn run(&mut self, path: &[FileName], follow: Follow) -> Result<Walked, RootError> {
        let names = path.iter().rev();
        let mut ahead: Vec<Step> = names.map(|name| Step::Name(name.clone())).collect();
        while let Some(step) = ahead.pop() {
            let name = match step {
                Step::Stay => continue,
                Step::Up => {
                    self.up()?;
                    continue;
                }
                Step::Name(name) => name,
            };
            self.at = Some(name.clone());
            if ahead.is_empty() && follow == Follow::No {
                return self.end(name);
            }
            match self.down(&name, ahead.is_empty())? {
                Down::Entered => {}
                Down::Link(target) => push_target(&mut ahead, &target)?,
                Down::End => return self.end(name),
            }
            self.at = None;
        }
        self.end_at_directory()
    }

    fn names(self) -> Vec<FileName> {
        let names = self.levels.into_iter().map(|level| level.name);
        names.chain(self.at).collect()
    }

    fn directory(&self) -> Result<&Directory, RootError> {
        match self.levels.last() {
            Some(level) => level.directory.as_ref().ok_or(RootError::Changed),
            None => Ok(self.root),
        }
    }

    fn down(&mut self, name: &FileName, is_last: bool) -> Result<Down, RootError> {
        let here = self.directory()?;
        let (handle, meta) = match here.step(usable(name)?) {
            Ok(step) => step,
            Err(error) if is_last && error.is_not_found() => return Ok(Down::End),
            // Where a symlink cannot be held, it is read by its name; should another
            // one be there by now, its target is resolved as carefully.
            Err(RootError::Io(error))
                if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) =>
            {
                let target = readlinkat(here, usable(name)?, Vec::new())?;
                return self.link(target.into_bytes());
            }
            Err(error) => return Err(error),
        };
        match meta.kind {
            FileKind::Symlink => {
                let target = target_of(&handle)?;
                self.link(target)
            }
            FileKind::File | FileKind::Other if is_last => Ok(Down::End),
            FileKind::File | FileKind::Other => Err(Errno::NOTDIR.into()),
            FileKind::Directory => {
                let directory = here.entered(handle, &meta)?;
                self.push(name.clone(), directory)?;
                Ok(Down::Entered)
            }
        }
    }

    fn link(&mut self, target: Vec<u8>) -> Result<Down, RootError> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(RootError::TooManyLinks);
        }
        Ok(Down::Link(target))
    }

    fn push(&mut self, name: FileName, directory: Directory) -> Result<(), RootError> {
        if self.levels.len() == DEPTH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        self.levels.push(Level {
            name,
            id: directory.id,
            directory: Some(directory),
        });
        if let Some(last) = self.levels.len().checked_sub(HELD_MAX + 1) {
            self.levels[last].directory = None;
        }
        Ok(())
    }

    /// Back to the directory that was passed before, never to what the host would
    /// call the one above.
    fn up(&mut self) -> Result<(), RootError> {
        self.levels.pop().ok_or(RootError::LeadsOut)?;
        self.hold_last()
    }

    /// Opens the last directory anew if it is not held, and only if it still is
    /// the one that was passed.
    fn hold_last(&mut self) -> Result<(), RootError> {
        if self
            .levels
            .last()
            .is_none_or(|level| level.directory.is_some())
        {
            return Ok(());
        }
        let mut at = self.root.clone();
        for level in &self.levels {
            at = at.enter(&level.name)?;
            if at.id != level.id {
                return Err(RootError::Changed);
            }
        }
        if let Some(level) = self.levels.last_mut() {
            level.directory = Some(at);
        }
        Ok(())
    }

    fn end(&mut self, name: FileName) -> Result<Walked, RootError> {
        usable(&name)?;
        let directory = self.directory()?.clone();
        let above = self.levels.iter().map(|level| level.name.clone());
        Ok(Walked {
            directory,
            real: above.chain([name.clone()]).collect(),
            name: Some(name),
        })
    }

    fn end_at_directory(&mut self) -> Result<Walked, RootError> {
        let Some(last) = self.levels.pop() else {
            return Ok(Walked {
                directory: self.root.clone(),
                name: None,
                real: Vec::new(),
            });
        };
        self.hold_last()?;
        self.end(last.name)
    }
}

/// The target of the symlink that `handle` holds.
fn target_of(handle: &std::fs::File) -> Result<Vec<u8>, RootError> {
    Ok(readlinkat(handle, "", Vec::new())?.into_bytes())
}

/// Whether a symlink with this target, in a directory `depth` names below the root,
/// leads out of it. Judged by its text: a name of a symlink counts as a directory.
pub(super) fn leads_out(target: &[u8], depth: usize) -> bool {
    if target.first() == Some(&b'/') {
        return true;
    }
    let mut depth = depth;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Whether a symlink with this target, in a directory `depth` names below the root,
/// could lead out of it on the host, whatever its names stand for, now or later: a
/// name before a `..` may be a symlink, and what is above that may be anything.
pub(super) fn could_lead_out(target: &[u8], depth: usize) -> bool {
    let steps = target.split(|byte| *byte == b'/');
    let mut steps = steps.filter(|step| !matches!(*step, b"" | b"."));
    let ups = steps.by_ref().take_while(|step| *step == b"..").count();
    target.first() == Some(&b'/') || ups > depth || steps.any(|step| step == b"..")
}
