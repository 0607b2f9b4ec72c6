//! The durable storage of a node: SQLite adapters of the storage traits of
//! [`alknet_core::storage`], in one file.
//!
//! [`Store`] is [`IdentityStore`], [`AuditLog`], [`EventLog`],
//! [`IdempotencyStore`] and [`ImportStore`] at once. What it acknowledged is durable: the file is in
//! WAL mode with `synchronous=FULL`, so that a reply follows an fsync. One
//! thread writes; changes that arrive while it waits for the disk share the
//! next transaction, each in a savepoint of its own. A few more connections
//! read, and see every change that was acknowledged before they began.
//!
//! Where peers were found ([`KeptPlace`]), the networks the node belongs to
//! ([`KeptNetwork`]) and the address records of peers ([`KeptRecord`]) lie here
//! too, under plain methods of [`Store`].
//!
//! Other crates put their own rows into the same file, and into the same
//! transaction, with [`Store::write`].
//!
//! Not here: what the rows mean. Access is decided in `alknet-core`; one
//! process per data directory is ensured by whoever owns the directory, with
//! [`InstanceLock`].
//!
//! ```
//! use alknet_core::{AuditRow, storage::{AuditFilter, AuditLog, Timestamp}};
//! use alknet_store::Store;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let store = Store::open(&dir.path().join("alknet.db"))?;
//! store.append(vec![AuditRow::event(Timestamp(0), "host", "node/start")]).await?;
//! let rows = store.list(&AuditFilter::default()).await?;
//! assert_eq!(rows[0].1.operation, "node/start");
//! store.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! [`IdentityStore`]: alknet_core::storage::IdentityStore
//! [`AuditLog`]: alknet_core::storage::AuditLog
//! [`EventLog`]: alknet_core::storage::EventLog
//! [`IdempotencyStore`]: alknet_core::storage::IdempotencyStore
//! [`ImportStore`]: alknet_core::storage::ImportStore

mod audit;
mod backup;
mod bans;
mod credentials;
pub mod events;
mod facts;
mod fault;
mod idempotency;
mod identity;
mod imports;
mod lock;
mod meta;
mod migrate;
mod open;
mod places;
mod readers;
mod store;
mod writer;

pub use crate::{
    backup::{CopyStoreError, Settled, StoreCopy},
    bans::KeptBan,
    credentials::{OtherVault, Resealed, Resealing, SealedRow},
    facts::StoreFacts,
    fault::JobError,
    lock::{InstanceLock, LockError},
    open::OpenStoreError,
    places::{KeptNetwork, KeptPlace, KeptRecord},
    store::{Store, WriteStats},
};
/// The SQLite binding that [`Store::read`] and [`Store::write`] hand out.
pub use rusqlite;

#[doc(hidden)]
pub use crate::open::OpenOptions;
