//! Operations that run processes and open sockets: `shell/exec`, the commands
//! that an operator configures, and forwarded ports ([`net`]).
//!
//! Processes start with a clean environment, in a process group of their own,
//! as the account that the configuration says, within limits on time, output,
//! memory and number; the group is killed when the call ends, in whatever way.
//! A node that runs as root starts none until its configuration says as whom.
//!
//! Not here: access control (the door asks for scopes and resources before a
//! handler runs). There is never a shell between a caller and a program, unless
//! the caller opens a terminal with one: arguments stay arguments.
//!
//! ```
//! use alknet_core::{Call, Caller, Dispatcher, Registry};
//! use alknet_exec::{CommandConfig, Exec, ExecConfig, command_operations};
//! use serde_json::json;
//! use std::path::Path;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let greet: CommandConfig = serde_json::from_value(json!({
//!     "name": "demo/greet",
//!     "summary": "Greets someone.",
//!     "command": ["printf", "hello %s", "{name}"],
//!     "input": { "name": "string" },
//! }))?;
//! let mut config = ExecConfig::default();
//! # if rustix::process::geteuid().is_root() {
//! config.user = Some("root".into()); // Only where the node itself is root.
//! # }
//! let exec = Exec::new(config)?;
//! let commands = command_operations(&[greet], &exec, Path::new("/etc/alknet"));
//! let registry = Registry::new();
//! registry.register(commands.map_err(|errors| errors[0].clone())?)?;
//! let door = Dispatcher::builder(registry).build();
//! let call = Call::new("demo/greet", Caller::host())?.input(&json!({ "name": "Ann" }));
//! assert_eq!(door.call(call).await?.parse::<String>()?, "hello Ann");
//! # Ok(())
//! # }
//! ```

mod account;
mod child;
mod command;
mod config;
mod exec;
pub mod net;
mod process;
mod program;
mod pty;
mod pty_modes;
mod reaper;
mod shell;
mod signal;
mod tail;
mod terminal;
mod terminal_process;
mod terminal_session;

pub use crate::{
    account::AccountError,
    command::{
        CommandConfig, CommandConfigError, CommandExample, CommandOutput, CommandResource,
        ExitError, SchemaConfig, command_operations, fuzz_arguments,
    },
    config::{ExecConfig, ExecConfigError},
    exec::Exec,
    pty_modes::terminal_modes,
    shell::shell_operations,
};
pub use alknet_core::{TimeSpan, TimeSpanError};
