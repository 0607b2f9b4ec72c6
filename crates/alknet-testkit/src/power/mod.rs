//! What a disk may hold after power was lost.
//!
//! Killing a process keeps what the system has cached, so a program that never
//! waits for its disk passes every test that kills it. Here the process runs
//! under `strace` ([`command`]); what it asked of the file system is read back
//! ([`Trace`]) and played, up to any moment, on a model of a disk ([`Disk`])
//! that keeps only what was synced, or with it a random part of the rest. The
//! result is laid out as files ([`Disk::lay_out`]) and opened by the program
//! under test.
//!
//! The model is stricter than the file systems we know, and follows what POSIX
//! promises of `fsync` and `rename`:
//!
//! * Data is kept once an `fsync` or `fdatasync` of its file, begun after the
//!   write had returned, returned without an error. Before that each sector of
//!   512 bytes is there or not, on its own; bytes beside a write in its sector
//!   are left alone (what SQLite calls "powersafe overwrite").
//! * A name that was made, replaced or removed is kept once the directory was
//!   synced, whatever became of the file. Before that the oldest such changes
//!   may be there, never a newer one without them, since the file systems in
//!   use journal them in order.
//! * After a sync that failed, what it was to write is not written by a later
//!   one: the system has marked it as written. Each such sector may be there
//!   or not.
//!
//! Shared memory of SQLite (`-shm`) is written through a mapping, which no
//! trace shows; it is made anew at every start, so none is laid out.
//! Subdirectories themselves count as durable where something lies in them, as
//! does everything that was there at first.

mod disk;
mod read;

pub use disk::{Disk, Unsynced};
pub use read::{ReadError, Step, Trace, What};

use std::{ffi::OsStr, path::Path, process::Command};

/// Calls that change what a disk holds. Those that the model does not know are
/// traced too, so that [`Trace::read`] refuses them instead of missing them.
const CALLS: &str = "open,openat,openat2,creat,lseek,write,writev,pwrite64,pwritev,pwritev2,\
    ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,syncfs,sync,\
    rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,\
    copy_file_range,sendfile,splice,msync";

/// `strace` that starts `program`, with all its threads and children, and
/// writes what [`Trace::read`] reads to `out`; the arguments of the program
/// follow. `inject` are expressions of strace's `--inject`.
#[must_use]
pub fn command(out: &Path, inject: &[&str], program: &OsStr) -> Command {
    let mut command = Command::new("strace");
    // Texts whole and in hexadecimal, files by name, moments and durations;
    // other calls run at full speed.
    command.args([
        "-f",
        "-y",
        "-xx",
        "-ttt",
        "-T",
        "-s",
        "16777216",
        "--seccomp-bpf",
    ]);
    command.arg("-e").arg(format!("trace={CALLS}"));
    for expression in inject {
        command.arg("-e").arg(format!("inject={expression}"));
    }
    command.arg("-o").arg(out).arg("--").arg(program);
    command
}

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// The next number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// True in one of two cases.
    pub fn coin(&mut self) -> bool {
        self.number() & 1 == 1
    }
}

#[cfg(test)]
mod tests;
