//! A node as one file, and a node from one.
//!
//! A backup holds what another machine needs to be this node: the database,
//! the configuration, the port, and the vault if a passphrase wraps it. It
//! never holds a key that opens something: of a vault with a key file, the
//! words are needed to restore, or a passphrase that the backup was made with.
//!
//! ```text
//! alknet-backup 1\n
//! {"format":1,"node_id":"…","files":[{"name":"alknet.toml","bytes":12},…]}\n
//! the files, one after the other, the database last
//! BLAKE3 of everything before, 64 hexadecimal digits\n
//! ```

mod file;
mod restore;
mod take;

pub(crate) use self::restore::{is_interrupted, sweep};
pub use self::{
    file::{Backup, BackupError, BackupFile, BackupHeader, FORMAT, Needs, fuzz_backup, rewrite},
    restore::{RestoreError, RestoreReport, RestoreSecret, restore},
    take::{
        Prepared, TakeBackupError, has_passphrase, last_backup, note_backup, prepare, wrapped_vault,
    },
};
