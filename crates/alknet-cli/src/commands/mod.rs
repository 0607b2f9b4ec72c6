//! One file per group of commands.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bans;
pub(crate) mod batch;
pub(crate) mod call;
pub(crate) mod cat;
pub(crate) mod completions;
pub(crate) mod cp;
pub(crate) mod credentials;
pub(crate) mod describe;
pub(crate) mod detach;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod forward;
pub(crate) mod get;
pub(crate) mod grants;
pub(crate) mod greeting;
pub(crate) mod init;
pub(crate) mod interact;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod keys;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod mkdir;
pub(crate) mod mv;
pub(crate) mod netcheck;
pub(crate) mod notify;
pub(crate) mod ops;
pub(crate) mod passphrase;
pub(crate) mod peers;
pub(crate) mod ping;
pub(crate) mod progress;
pub(crate) mod put;
pub(crate) mod relay;
pub(crate) mod restore;
pub(crate) mod rm;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod shell;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod vault;

use crate::{
    app::App,
    cli::Command,
    failure::{Exit, Failure},
    hardening,
    log_lines::OneLine,
};
use serde_json::json;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// The release of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn run(app: &App, command: Command) -> Result<Exit, Failure> {
    if command.handles_secrets() {
        hardening::keep_memory_private();
    }
    if let Some(name) = command.on_files() {
        app.takes_no_key(name)?;
    }
    match command {
        Command::Init(args) => init::run(app, args).await?,
        Command::Up(args) => return up::run(app, args).await,
        Command::Relay(args) => return relay::run(app, args).await,
        Command::Down(args) => down::run(app, &args).await?,
        Command::Status => status::run(app).await?,
        Command::Version => version(app)?,
        Command::Doctor(args) => return doctor::run(app, &args).await,
        Command::Backup(args) => backup::run(app, args).await?,
        Command::Restore(args) => return restore::run(app, args).await,
        Command::Service(args) => return service::run(app, args).await,
        Command::Invite(args) => return invite::run(app, args).await,
        Command::Join(args) => join::run(app, args).await?,
        Command::Peers(args) => peers::run(app, args).await?,
        Command::Ping(args) => return ping::run(app, args).await,
        Command::Netcheck(args) => return netcheck::run(app, args).await,
        Command::Grant(args) => grants::change(app, &args, true).await?,
        Command::Revoke(args) => grants::change(app, &args, false).await?,
        Command::Grants(args) => grants::list(app, &args).await?,
        Command::Roles => grants::roles(app).await?,
        Command::Keys(args) => keys::run(app, args).await?,
        Command::Ops(args) => ops::run(app, args).await?,
        Command::Call(args) => call::run(app, args).await?,
        Command::Batch(args) => return batch::run(app, args).await,
        Command::Exec(args) => return exec::run(app, args).await,
        Command::Forward(args) => return forward::run(app, args).await,
        Command::Shell(args) => return shell::run(app, args).await,
        Command::Ls(args) => return ls::run(app, args).await,
        Command::Get(args) => return get::run(app, args).await,
        Command::Put(args) => return put::run(app, args).await,
        Command::Cp(args) => return cp::run(app, args).await,
        Command::Cat(args) => return cat::run(app, args).await,
        Command::Rm(args) => return rm::run(app, args).await,
        Command::Mkdir(args) => return mkdir::run(app, args).await,
        Command::Mv(args) => return mv::run(app, args).await,
        Command::Stat(args) => return stat::run(app, args).await,
        Command::Logs(args) => logs::run(app, &args).await?,
        Command::Bans(args) => bans::run(app, args).await?,
        Command::Audit(args) => audit::run(app, &args).await?,
        Command::Events(args) => events::run(app, &args).await?,
        Command::Credentials(args) => credentials::run(app, args).await?,
        Command::Vault(args) => vault::run(app, args).await?,
        Command::Completions(args) => completions::run(app, &args)?,
        Command::Docs(args) => docs::run(app, &args)?,
    }
    Ok(Exit::FINE)
}

fn version(app: &App) -> Result<(), Failure> {
    match app.out.json {
        true => app.out.json_line(&json!({ "version": VERSION })),
        false => app.out.text(&format!("alknet {VERSION}")),
    }
}

/// The relay's library says of each client that was turned away, and of each
/// that hung up, what the node says once.
pub(crate) const QUIET: &str = "iroh_relay::server=off";

/// What `-v` lets through. Errors of the libraries show only in the node:
/// a command says by itself what failed.
fn filter(verbose: u8, least: &str) -> EnvFilter {
    EnvFilter::new(match verbose {
        0 => return EnvFilter::new(format!("{least},{QUIET}")),
        1 => "warn,alknet=info,alknet_node=info,alknet_call=info,alknet_core=info",
        2 => {
            "info,alknet=debug,alknet_node=debug,alknet_call=debug,alknet_core=debug,alknet_exec=debug"
        }
        3 => {
            "debug,alknet=trace,alknet_node=trace,alknet_call=trace,alknet_core=trace,alknet_exec=trace"
        }
        _ => "trace",
    })
}

/// Log lines on standard error, for commands that are no node.
pub(crate) fn log_to_stderr(app: &App) {
    if app.verbose > 0 {
        let lines = tracing_subscriber::fmt::layer().with_writer(|| OneLine(std::io::stderr()));
        let lines = lines.with_filter(filter(app.verbose, "off"));
        // Only fails when an embedding program has installed one: keep that.
        let _ = tracing_subscriber::registry().with(lines).try_init();
    }
}
