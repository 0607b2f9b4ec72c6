//! How files are copied, as asked for.

use crate::failure::Failure;
use clap::Args;

/// What `get`, `put` and `cp` have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct CopyArgs {
    /// Copies directories with all that is in them
    #[arg(short, long)]
    pub(super) recursive: bool,
    /// Copies what links lead to; without it, links in directories stay links
    #[arg(short = 'L', long, conflicts_with = "no_dereference")]
    pub(super) dereference: bool,
    /// Copies links as links, also those that are named
    #[arg(short = 'P', long)]
    pub(super) no_dereference: bool,
    /// Leaves alone what is there already, whatever it is
    #[arg(short, long)]
    pub(super) no_clobber: bool,
    /// Copies also files of the same size and time
    #[arg(short = 'I', long, conflicts_with = "no_clobber")]
    pub(super) ignore_times: bool,
    /// Compares files of the same size by BLAKE3 instead of by their time
    #[arg(short, long, conflicts_with_all = ["ignore_times", "no_clobber"])]
    pub(super) checksum: bool,
    /// Leaves permissions and times to the destination
    #[arg(long)]
    pub(super) no_preserve: bool,
    /// Files at the same time
    #[arg(short = 'j', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) parallel: u8,
    /// Begins large files anew instead of going on where an earlier attempt was cut
    #[arg(long)]
    pub(super) restart: bool,
    /// Makes the directories above the destination
    #[arg(long)]
    pub(super) parents: bool,
    /// Takes the destination as the copy's own name, also if it is a directory
    #[arg(short = 'T', long)]
    pub(super) no_target_directory: bool,
    /// Only prints what would be copied
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Tells how far it is, also where standard error is no terminal
    #[arg(long)]
    pub(super) progress: bool,
}

impl CopyArgs {
    /// Whether an equal size and time say that a file is there already.
    pub(super) fn trusts_times(&self) -> bool {
        !self.ignore_times && !self.no_preserve
    }

    /// Whether a link that is named is copied as a link.
    pub(super) fn keeps_named_links(&self) -> bool {
        self.no_dereference || (self.recursive && !self.dereference)
    }

    pub(super) fn lanes(&self) -> usize {
        usize::from(self.parallel)
    }

    /// Refuses what makes no sense for one stream of bytes.
    pub(crate) fn for_stream(&self) -> Result<(), Failure> {
        match self.recursive || self.dry_run {
            true => Err(Failure::usage(
                "`-` is one stream of bytes: neither a directory nor a trial",
            )),
            false => Ok(()),
        }
    }
}

/// What the help of these commands ends with.
pub(crate) const COPY_HELP: &str = "\
A file that is there with the same size and time is not copied again: after a
cut, the same command goes on where it stopped (with -T, if one directory was
copied under a new name: without it the copy goes into what is there by then).
Files appear under their names
when they are whole. Permissions (without set-user-id and set-group-id) and times
go along; owners do not. Links in directories stay links, names that share one
file become files of their own, and pipes, devices and sockets are left out with
a warning. A lost connection is tried again for a minute.

With --json, standard output has a line for each entry that was copied or failed
and one with the sums. The exit code is 1 if anything failed.";
