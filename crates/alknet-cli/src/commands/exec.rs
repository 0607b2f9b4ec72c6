//! `alknet exec`.

use crate::{
    app::App,
    channel::{self, Forwarded},
    commands::call::{Failed, parse_on},
    failure::{Exit, Failure},
    hint::Place,
    node_access::{CallOptions, ChannelCall, Home, Route},
};
use clap::Args;
use serde_json::{Map, Value, json};

/// The operation behind it.
const OPERATION: &str = "shell/exec";

#[derive(Debug, Args)]
#[command(after_help = "\
The program runs without a shell, with a clean environment, as the user of the
node there. Standard input, output and error are connected; SIGINT, SIGTERM and
SIGHUP are passed on, and a second Ctrl-C cancels.

Exit status: that of the program, 128+n if signal n killed it, 255 if it could
not be run.

Examples:
  alknet exec nas -- uname -a
  tar c dir | alknet exec nas --cwd /srv -- tar x")]
pub(crate) struct ExecArgs {
    /// Where: a peer, or `:` for this node
    #[arg(value_name = "PEER", value_parser = parse_on)]
    on: Route,
    /// The directory to run in
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A variable for the program; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "ARGV")]
    argv: Vec<String>,
}

pub(crate) fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("want NAME=VALUE".into()),
    }
}

pub(crate) async fn run(app: &App, args: ExecArgs) -> Result<Exit, Failure> {
    super::log_to_stderr(app);
    execute(app, args).await.map_err(Failure::own)
}

async fn execute(app: &App, args: ExecArgs) -> Result<Exit, Failure> {
    let mut forwarded = Forwarded::listen()?;
    let connecting = open(app, &args.on, OPERATION, input(&args));
    let (home, place, opened) = tokio::select! {
        connected = connecting => connected?,
        signal = forwarded.next() => return Ok(killed_by(signal)),
    };
    let ended = match channel::connect(opened, Some(forwarded)).await {
        Ok(ended) => ended,
        Err(failed) => return Err(failed.tell(app, home, &place).await),
    };
    if ended.is_cancelled {
        return Ok(Exit::INTERRUPTED);
    }
    program_exit(&ended.result)
}

/// Opens a channel to a program there; also says where, for what is told later.
pub(crate) async fn open<'a>(
    app: &'a App,
    on: &Route,
    operation: &str,
    input: Value,
) -> Result<(&'a Home, Place, ChannelCall), Failure> {
    let home = app.home().await?;
    let place = Place {
        home: home.name().to_owned(),
        route: on.clone(),
        operation: String::new(),
    };
    let options = CallOptions {
        route: on.clone(),
        ..CallOptions::default()
    };
    match home.open(operation, input, options).await {
        Ok(opened) => Ok((home, place, opened)),
        Err(error) => Err(Failed::Call(error).tell(app, home, &place).await),
    }
}

/// Ours is the exit code of the program.
pub(crate) fn program_exit(result: &Value) -> Result<Exit, Failure> {
    exit(result).ok_or_else(|| {
        let what = format!("`{result}` as the end of a program");
        Failure::call(&channel::unexpected(&what))
    })
}

fn input(args: &ExecArgs) -> Value {
    let mut input = json!({ "argv": args.argv });
    if let Some(cwd) = &args.cwd {
        input["cwd"] = json!(cwd);
    }
    if !args.env.is_empty() {
        let env: Map<String, Value> = args
            .env
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        input["env"] = Value::Object(env);
    }
    input
}

/// The exit code of `{"exit_code": n}` or `{"signal": "TERM"}`.
fn exit(result: &Value) -> Option<Exit> {
    if let Some(signal) = result.get("signal").and_then(Value::as_str) {
        return Some(killed_by(signal));
    }
    let code = result.get("exit_code")?.as_i64()?;
    // What a process returns to its parent has eight bits.
    Some(Exit(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
}

pub(crate) fn killed_by(signal: &str) -> Exit {
    let number = channel::signal_number(signal).unwrap_or_default();
    Exit(u8::try_from(128 + number).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remote_status_is_ours() {
        let check =
            |result: Value, want: Option<u8>| assert_eq!(exit(&result).map(|exit| exit.0), want);
        check(json!({ "exit_code": 0 }), Some(0));
        check(json!({ "exit_code": 3 }), Some(3));
        check(json!({ "signal": "TERM" }), Some(143));
        check(json!({ "signal": "KILL", "exit_code": null }), Some(137));
        check(json!({ "signal": "64" }), Some(192));
        check(json!({}), None);
        check(json!("done"), None);
    }

    #[test]
    fn the_input_holds_what_was_given() {
        let args = ExecArgs {
            on: Route::new(),
            cwd: Some("/srv".into()),
            env: vec![("A".into(), "b=c".into())],
            argv: vec!["ls".into(), "-l".into()],
        };
        assert_eq!(
            input(&args),
            json!({ "argv": ["ls", "-l"], "cwd": "/srv", "env": { "A": "b=c" } })
        );
        assert_eq!(parse_variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_variable("=x").is_err() && parse_variable("x").is_err());
    }
}
