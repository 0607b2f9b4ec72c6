#![doc = include_str!("../../../README.md")]

pub use alknet_call::{Bearer, Client, Session, SessionConfig, links, quic};
pub use alknet_core::*;
pub use alknet_exec::{net, terminal_modes};
pub use alknet_node::{
    self as node, Config, LogBuffer, Node, NodeBuilder, NodeStatus, StartError,
    remote::{ProgramKey, Remote},
};

/// Files: their names, buckets, and directories out of which nothing leads. What
/// a node has of them is [`Node::files`]; operations reach it as `fs/*`.
pub mod files {
    pub use alknet_core::files::*;
    pub use alknet_fs::{BucketConfig, ByteSize, FilesConfig, Glob, root, stream};
}
