//! Assembles configuration, stores, registry, endpoint and links into a
//! running node, which drains gracefully.
//!
//! [`Node::builder`] is the embedding API; the `alknet` crate re-exports it.
//! Not here: the wire (`alknet-call`), the store (`alknet-store`), running
//! programs (`alknet-exec`), printing (`alknet-cli`).
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let node = alknet_node::Node::builder().data_dir("./data").spawn().await?;
//! let ticket = node.invite(&["reader"]).await?;
//! # Ok(())
//! # }
//! ```

mod admission;
pub mod backup;
mod builder;
mod check;
pub mod config;
mod connectivity;
pub mod control;
pub mod data_dir;
mod dialer;
mod endpoint;
mod files;
mod find;
mod inspect;
mod join;
mod logs;
pub mod netcheck;
mod node;
mod operations;
mod ops;
pub mod records;
pub mod relay;
pub mod remote;
mod secrets;
mod setup;
pub mod ticket;
mod unasked;

pub use alknet_store::StoreFacts;

pub use crate::{
    builder::{NodeBuilder, StartError},
    check::{buckets, check_config, check_database, check_keys},
    config::{Config, ConfigError, RelaySetting},
    data_dir::{DataDir, DataDirError, Runtime},
    endpoint::BindError,
    inspect::{check_database_deep, inspect},
    logs::{LINES_KEPT, LogBuffer, LogLine},
    node::{Node, NodeStatus, OWNER, ReloadError, ReloadReport, VERSION},
    operations::OperationsError,
    secrets::{ProtectError, Protection, ReplaceError, Replaced, Replacement, protect, protection},
    setup::{InitError, InitOptions, InitReport, OpenKeysError, init, is_initialised},
};
#[doc(hidden)]
pub use crate::{
    find::{fuzz_exchange, fuzz_record, fuzz_record_seeds},
    join::fuzz_join,
};
