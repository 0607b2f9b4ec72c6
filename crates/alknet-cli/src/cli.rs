//! The one definition of the command line. Parsing, help, completions and the
//! reference page all come from it.

use crate::{commands, duration};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Turns a machine into a node whose every ability is an operation, reachable
/// by those who were given access, wherever they are.
#[derive(Debug, Parser)]
#[command(
    name = "alknet",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Start with `alknet up`; then, in a second terminal, `alknet status` and `alknet ops`."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the node keeps its keys, configuration and database; `alknet` in the user's data
    /// directory if not given
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "ALKNET_DATA_DIR",
        hide_env_values = true
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// Acts with the API key in this file instead of as the owner, who may do everything: for
    /// agents and scripts. The file must be readable by its owner alone. Commands that change the
    /// data directory and ask no node refuse it
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "ALKNET_KEY_FILE",
        hide_env_values = true
    )]
    pub(crate) key_file: Option<PathBuf>,
    /// Prints data, and errors, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Says more on standard error: -v lifecycle, -vv calls, -vvv frames,
    /// -vvvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Says nothing on standard error but errors and warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a data directory with new keys, or with those behind words
    Init(commands::init::InitArgs),
    /// Runs the node until a signal
    Up(commands::up::UpArgs),
    /// Runs the node as a relay for the nodes that it knows
    Relay(commands::relay::RelayArgs),
    /// Stops the running node
    Down(commands::down::DownArgs),
    /// Says how the running node is and how it can be reached
    Status,
    /// Prints the version of this program
    Version,
    /// Checks the data directory, the configuration and the running node
    Doctor(commands::doctor::DoctorArgs),
    /// Writes the node to one file
    Backup(commands::backup::BackupArgs),
    /// Makes a data directory of a backup
    Restore(commands::restore::RestoreArgs),
    /// Lets systemd run the node
    Service(commands::service::ServiceArgs),
    /// Makes a ticket with which another node becomes a peer
    Invite(commands::invite::InviteArgs),
    /// Becomes a peer of the node that made the ticket
    Join(commands::join::JoinArgs),
    /// Lists who is shut out, shuts out, and lets in again
    Bans(commands::bans::BansArgs),
    /// Lists and changes peers
    Peers(commands::peers::PeersArgs),
    /// Measures the way to a peer: time, path, relay or direct
    Ping(commands::ping::PingArgs),
    /// Checks what the network lets through, and says what to do
    Netcheck(commands::netcheck::NetcheckArgs),
    /// Makes, lists and takes back API keys, for agents and scripts
    Keys(commands::keys::KeysArgs),
    /// Gives a peer or a group a role, an operation, a scope or a resource
    Grant(commands::grants::GrantArgs),
    /// Takes grants from a peer or a group
    Revoke(commands::grants::GrantArgs),
    /// Lists what a peer or a group was given
    Grants(commands::grants::GrantsArgs),
    /// Lists the roles that can be granted
    Roles,
    /// Lists, finds and describes operations
    Ops(commands::ops::OpsArgs),
    /// Calls an operation
    Call(commands::call::CallArgs),
    /// Makes many calls, one JSON line each
    Batch(commands::batch::BatchArgs),
    /// Runs a program on a peer, without a shell
    Exec(commands::exec::ExecArgs),
    /// Forwards ports to and from a peer
    Forward(commands::forward::ForwardArgs),
    /// Opens a terminal on a peer
    Shell(commands::shell::ShellArgs),
    /// Lists buckets, directories and files
    Ls(commands::ls::LsArgs),
    /// Prints files
    Cat(commands::cat::CatArgs),
    /// Copies files of buckets to this machine
    Get(commands::get::GetArgs),
    /// Copies files of this machine, or standard input, to a bucket
    Put(commands::put::PutArgs),
    /// Copies files between machines, buckets and peers
    Cp(commands::cp::CpArgs),
    /// Removes files and directories
    Rm(commands::rm::RmArgs),
    /// Makes directories
    Mkdir(commands::mkdir::MkdirArgs),
    /// Moves and renames within a bucket
    Mv(commands::mv::MvArgs),
    /// Describes files
    Stat(commands::stat::StatArgs),
    /// Prints the log of the running node
    Logs(commands::logs::LogsArgs),
    /// Prints who called what
    Audit(commands::audit::AuditArgs),
    /// Prints what happened: peers, grants, keys, links and more
    Events(commands::events::EventsArgs),
    /// Stores, lists and removes secrets for the outside
    Credentials(commands::credentials::CredentialsArgs),
    /// Protects, locks and replaces what all keys come from
    Vault(commands::vault::VaultArgs),
    /// Prints completions for a shell
    Completions(commands::completions::CompletionsArgs),
    /// Prints a page of the reference
    #[command(name = "__docs", hide = true)]
    Docs(commands::docs::DocsArgs),
}

impl Command {
    /// Whether secrets pass through this process that others should not find in
    /// its memory. `up` decides by itself.
    pub(crate) fn handles_secrets(&self) -> bool {
        matches!(
            self,
            Command::Init(_)
                | Command::Backup(_)
                | Command::Restore(_)
                | Command::Invite(_)
                | Command::Join(_)
                | Command::Keys(_)
                | Command::Credentials(_)
                | Command::Vault(_)
        )
    }

    /// The command's name, if it works on the data directory and asks no node,
    /// which could look at an API key. `backup` and `vault` know by themselves.
    pub(crate) fn on_files(&self) -> Option<&'static str> {
        Some(match self {
            Command::Init(_) => "init",
            Command::Up(_) => "up",
            Command::Relay(_) => "relay",
            Command::Restore(_) => "restore",
            Command::Service(_) => "service",
            _ => return None,
        })
    }

    /// Whether Ctrl-C simply ends it. The others handle signals themselves.
    pub(crate) fn ends_on_interrupt(&self) -> bool {
        !matches!(
            self,
            Command::Up(_)
                | Command::Relay(_)
                | Command::Exec(_)
                | Command::Shell(_)
                | Command::Ping(_)
                | Command::Restore(_)
        )
    }
}

/// The definition, for help, completions and the reference.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// `15m`, for clap.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for words in [
            ["alknet", "--json", "status", "--data-dir", "/x"],
            ["alknet", "--data-dir", "/x", "--json", "status"],
        ] {
            let cli = Cli::try_parse_from(words).expect("valid");
            assert!(cli.global.json && cli.global.data_dir == Some(PathBuf::from("/x")));
        }
        assert!(Cli::try_parse_from(["alknet", "-q", "-v", "status"]).is_err());
    }
}
