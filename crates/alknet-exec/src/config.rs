//! How this machine lets others run programs.

use crate::account::AccountError;
use alknet_core::TimeSpan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Configuration of processes: as whom they run, and how much they may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ExecConfig {
    /// Account that processes run as. Default: the node's own; a node that
    /// runs as root then refuses to run anything. `"root"` must be written
    /// out. Only a node that runs as root can name another account than its
    /// own.
    pub user: Option<String>,
    /// Directories in which programs are looked for, absolute, joined by `:`;
    /// also the `PATH` that programs see. Default
    /// `/usr/local/bin:/usr/bin:/bin`.
    pub path: String,
    /// Most time that a command operation may take that answers once, unless
    /// it states its own. Default `30s`.
    pub timeout: TimeSpan,
    /// Most time that one `shell/exec` may take, and one terminal of
    /// `shell/open` may stay open. Default: as long as its caller stays.
    pub shell_timeout: Option<TimeSpan>,
    /// Most bytes that a command operation may print as one reply, or as one
    /// line of a subscription, up to 16 MiB. Default 4 MiB.
    pub output_bytes_max: usize,
    /// Most bytes of private memory of each process (`RLIMIT_DATA`), at least
    /// 16 MiB. Default 4 GiB.
    pub memory_bytes_max: u64,
    /// Most programs that run at a time, over all callers. Default 64.
    pub processes_max: usize,
    /// Whether programs can gain no rights through setuid files, `sudo`
    /// included (`PR_SET_NO_NEW_PRIVS`, Linux). Default `false`.
    pub no_new_privileges: bool,
}

/// Largest output as one reply.
const OUTPUT_BYTES_CEILING: usize = 16 * 1024 * 1024;
/// Least memory with which a program starts.
const MEMORY_BYTES_FLOOR: u64 = 16 * 1024 * 1024;

impl Default for ExecConfig {
    fn default() -> Self {
        Self {
            user: None,
            path: "/usr/local/bin:/usr/bin:/bin".into(),
            timeout: TimeSpan::seconds(30),
            shell_timeout: None,
            output_bytes_max: 4 * 1024 * 1024,
            memory_bytes_max: 4 * 1024 * 1024 * 1024,
            processes_max: 64,
            no_new_privileges: false,
        }
    }
}

/// Why the configuration of processes cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecConfigError {
    /// `user` cannot be run as.
    #[error("`[exec] user` cannot be used")]
    User(#[source] AccountError),
    /// `path` is empty, or has a relative directory.
    #[error("`[exec] path` has `{directory}`, which is no absolute directory")]
    Path {
        /// The part that is wrong.
        directory: String,
    },
    /// A limit outside its range.
    #[error("`[exec] {field}` is {value}: it must be between {least} and {most}")]
    Limit {
        /// The field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// The thread that reaps processes does not start.
    #[error("failed to start a thread")]
    Thread(#[source] std::io::Error),
}

impl ExecConfig {
    /// The directories of `path`, checked like everything else here.
    pub(crate) fn check(&self) -> Result<Vec<PathBuf>, ExecConfigError> {
        let limit = |field, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(ExecConfigError::Limit {
                    field,
                    value,
                    least,
                    most,
                })
            }
        };
        limit(
            "output_bytes_max",
            self.output_bytes_max as u64,
            1,
            OUTPUT_BYTES_CEILING as u64,
        )?;
        limit(
            "memory_bytes_max",
            self.memory_bytes_max,
            MEMORY_BYTES_FLOOR,
            i64::MAX.unsigned_abs(),
        )?;
        limit("processes_max", self.processes_max as u64, 1, 100_000)?;
        self.path
            .split(':')
            .map(|directory| {
                if directory.starts_with('/') && !directory.contains('\0') {
                    Ok(PathBuf::from(directory))
                } else {
                    Err(ExecConfigError::Path {
                        directory: directory.into(),
                    })
                }
            })
            .collect()
    }
}
