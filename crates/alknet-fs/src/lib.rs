//! Buckets: existing directories of the host, out of which nothing leads.
//!
//! [`root`] is the ground: an open directory as the only way to what is below
//! it, whatever paths and symlinks are given. It blocks, asks nobody for
//! permission, and is what host buckets and the local side of copies stand on.
//!
//! Not here: who may do what (the door gives permits, the services above ask
//! for them), and sockets.
//!
//! ```
//! use alknet_core::files::FileName;
//! use alknet_fs::root::{Follow, Root};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! std::fs::write(dir.path().join("motd"), "hello")?;
//! std::os::unix::fs::symlink("/etc/passwd", dir.path().join("secrets"))?;
//! let root = Root::open(dir.path())?;
//! let motd = root.walk(&[FileName::parse("motd")?], Follow::Yes)?;
//! assert_eq!(motd.meta()?.bytes, 5);
//! assert!(root.walk(&[FileName::parse("secrets")?], Follow::Yes).is_err());
//! # Ok(())
//! # }
//! ```

mod buckets;
mod config;
mod glob;
mod host;
mod ops;
mod peer;
pub mod root;
mod size;
pub mod stream;
pub mod watch;

pub use self::{
    buckets::Buckets,
    config::{BucketConfig, FilesConfig, FilesConfigError, INBOX},
    glob::{GLOB_BYTES_MAX, Glob, GlobError},
    host::BLOCKING_JOBS_MAX,
    ops::file_operations,
    peer::{
        OFFER_EXPIRES_MAX, OFFER_IDLE_MAX, OFFERS_MAX, OFFERS_PER_CALLER_MAX, PeerFiles,
        not_connected, peer_operations,
    },
    size::{ByteSize, ByteSizeError},
};
