//! Private files: read only if they are, written whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::random;

/// Name of the file that holds the wrapped seed.
pub const VAULT_FILE: &str = "vault.json";

/// Name of the file that holds the wrapping key, unless a passphrase does.
pub const KEY_FILE: &str = "vault.key";

/// Name of the file that holds a successor of the vault until it takes its place.
pub const NEXT_FILE: &str = "vault.next.json";

/// Called after each step of a change on disk. What it fails with ends the
/// change there and then, as a crash would: nothing is tidied up.
pub(crate) type Step<'a> = &'a mut dyn FnMut(&'static str) -> io::Result<()>;

/// Why a private file was not read.
#[derive(Debug)]
pub(crate) enum ReadFileError {
    Missing,
    /// Others than its owner may read or write it.
    Exposed {
        mode: u32,
    },
    TooLong,
    Io(io::Error),
}

/// Reads a file of at most `bytes_max` bytes that its owner alone can reach.
pub(crate) fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, ReadFileError> {
    // Without NONBLOCK, opening a FIFO would wait for somebody to write to it.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Err(ReadFileError::Missing),
        Err(err) => return Err(ReadFileError::Io(err)),
    };
    // Asked of the open file, so that nobody can swap it in between.
    let metadata = file.metadata().map_err(ReadFileError::Io)?;
    if !metadata.is_file() {
        let err = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(ReadFileError::Io(err));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(ReadFileError::Exposed { mode });
    }
    // One allocation: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max + 1));
    let mut bounded = file.take(bytes_max as u64 + 1);
    bounded.read_to_end(&mut bytes).map_err(ReadFileError::Io)?;
    if bytes.len() > bytes_max {
        return Err(ReadFileError::TooLong);
    }
    Ok(bytes)
}

/// Creates `directory/name` with mode 0600 and this content.
///
/// The file appears whole, is on disk when this returns, and replaces nothing:
/// if the name is taken, the error is [`io::ErrorKind::AlreadyExists`].
pub(crate) fn write_new(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(directory, name, bytes)?;
    let placed = rename_new(&temporary, &directory.join(name));
    or_remove(placed, &temporary)?;
    sync_directory(directory)
}

/// The same, in the place of a file that may be there: whoever opens the name,
/// at whatever moment, finds the old content or the new one.
pub(crate) fn replace(
    directory: &Path,
    name: &str,
    bytes: &[u8],
    step: Step<'_>,
) -> io::Result<()> {
    let temporary = write_temporary(directory, name, bytes)?;
    step("written")?;
    or_remove(fs::rename(&temporary, directory.join(name)), &temporary)?;
    step("renamed")?;
    sync_directory(directory)?;
    step("synced")
}

/// Removes a file durably; one that is not there is no error.
pub(crate) fn remove(path: &Path, step: Step<'_>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    step("removed")?;
    sync_directory(&parent(path))?;
    step("removal synced")
}

/// Renames durably inside one directory.
pub(crate) fn rename(directory: &Path, from: &str, to: &str) -> io::Result<()> {
    fs::rename(directory.join(from), directory.join(to))?;
    sync_directory(directory)
}

/// Keeps others from changing the files of `directory` until it is dropped, or
/// says that somebody else does.
pub(crate) fn lock(directory: &Path) -> io::Result<File> {
    let handle = File::open(directory)?;
    rustix::fs::flock(
        &handle,
        rustix::fs::FlockOperation::NonBlockingLockExclusive,
    )?;
    Ok(handle)
}

/// Removes what interrupted changes left behind: each holds a wrapped seed, or
/// a key that wraps nothing. Only for whoever holds the lock.
pub(crate) fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            [VAULT_FILE, KEY_FILE, NEXT_FILE].iter().any(|file| {
                name.strip_prefix(&format!(".{file}."))
                    .is_some_and(|rest| rest.ends_with(".tmp"))
            })
        });
        if is_ours {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

/// Writes and syncs a new file beside `name`.
fn write_temporary(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let suffix: [u8; 8] = random::array().map_err(io::Error::other)?;
    let temporary = directory.join(format!(".{name}.{}.tmp", HEXLOWER.encode(&suffix)));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    or_remove(written, &temporary)?;
    Ok(temporary)
}

fn or_remove(done: io::Result<()>, temporary: &Path) -> io::Result<()> {
    if done.is_err() {
        // The first failure is the one to report.
        let _ = fs::remove_file(temporary);
    }
    done
}

/// Creates `directory` with mode 0700, and what is missing above it.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = parent(directory);
    create_directory(&parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists || !directory.is_dir() => Err(err),
        _ => sync_directory(&parent),
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        Some(_) => ".".into(),
        None => "/".into(),
    }
}

/// Makes names in `directory` durable; syncing a file says nothing about those.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Renames without replacing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems, network ones mostly, do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    // What is left can lose a race between two that create the same vault.
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}
