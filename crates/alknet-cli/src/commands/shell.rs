//! `alknet shell`.

use crate::{
    app::App,
    channel::{self, Forwarded},
    commands::{
        call::{Failed, parse_on},
        exec::{self, killed_by, parse_variable, program_exit},
    },
    escapes::{Escapes, HELP, Key},
    failure::{Exit, Failure},
    hint::Place,
    node_access::{ByteSender, ChannelCall, Home, Route, terminal_modes},
    raw_terminal::{self, RawTerminal},
    signals,
};
use clap::Args;
use rustix::termios::Winsize;
use serde_json::{Map, Value, json};
use std::{
    convert::Infallible,
    io::{IsTerminal, Write, stdin},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    signal::unix::{Signal, SignalKind},
    sync::mpsc,
};

/// The operation behind it.
const OPERATION: &str = "shell/open";
/// Bytes read from the keyboard at a time.
const READ_BYTES: usize = 64 * 1024;
/// What became of the other end.
const ENDED: &str = "the shell there was ended";

#[derive(Debug, Args)]
#[command(after_help = "\
Without ARGV it is the login shell of the user that the node there runs programs
as. TERM, COLORTERM, LANG, LANGUAGE and LC_* go along, and so does the size of
the terminal, also when it changes. Every key goes to the program there, Ctrl-C
too. As the first key of a line, `~` escapes:
  ~.  leaves, which ends the shell there
  ~~  types one ~
  ~?  lists these

Leaving ends the shell: when this command or the connection ends, in whatever
way, or when the right to it is taken, everything in the terminal is hung up and
a moment later killed, jobs in the background, stopped ones and those under
`nohup` included. What is to stay belongs into `tmux` or `screen`, which begin a
session of their own.

If standard input is no terminal, it is typed, and ends with an end of file.

Exit status: that of the program, 128+n if signal n killed it, 255 if it could
not be run or was ended from outside.

Examples:
  alknet shell nas
  alknet shell hub/nas -- top
  alknet shell nas -- tmux new-session -A -s work")]
pub(crate) struct ShellArgs {
    /// Where: a peer, a route `PEER/PEER`, or `:` for this node
    #[arg(value_name = "PEER", value_parser = parse_on)]
    on: Route,
    /// Sends every key, `~` too
    #[arg(long)]
    no_escape: bool,
    /// The directory to run in; the home directory there if not given
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// A variable for the program; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// A program and its arguments, instead of the login shell
    #[arg(last = true, value_name = "ARGV")]
    argv: Vec<String>,
}

pub(crate) async fn run(app: &App, args: ShellArgs) -> Result<Exit, Failure> {
    super::log_to_stderr(app);
    open(app, args).await.map_err(Failure::own)
}

async fn open(app: &App, args: ShellArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    let is_attended = stdin().is_terminal();
    let connecting = exec::open(app, &args.on, OPERATION, input(&args, is_attended));
    let (home, place, opened) = tokio::select! {
        connected = connecting => connected?,
        signal = signals.next() => return Ok(killed_by(signal)),
    };
    let closing = if is_attended {
        attend(opened, signals, !args.no_escape).await
    } else {
        let ended = channel::connect(opened, Some(signals.forwarded)).await;
        ended.map(|ended| match ended.is_cancelled {
            true => Closing::Signal("INT"),
            false => Closing::Result(ended.result),
        })
    };
    if is_attended && !matches!(closing, Ok(Closing::Result(_))) {
        // The cursor is wherever the program there left it.
        app.out.say("");
    }
    match closing {
        Ok(Closing::Result(result)) => program_exit(&result),
        // As wanted: no error, and the exit code that ssh(1) has for it.
        Ok(Closing::Left) => {
            app.out.say(&format!("left with `~.`; {ENDED}"));
            Ok(Exit::OWN)
        }
        Ok(Closing::Signal(signal)) => {
            app.out.say(ENDED);
            Ok(killed_by(signal))
        }
        Err(failed) => Err(lost(app, home, &place, failed).await),
    }
}

/// Why it ended, and what that did.
async fn lost(app: &App, home: &Home, place: &Place, failed: Failed) -> Failure {
    let mut failure = failed.tell(app, home, place).await;
    failure.message = format!("{}; {ENDED}", failure.message);
    failure
}

/// How the terminal was closed.
enum Closing {
    /// By the program there.
    Result(Value),
    /// By the person here.
    Left,
    /// By a signal to us.
    Signal(&'static str),
}

/// Signals that would end us with the terminal in raw mode.
struct Signals {
    forwarded: Forwarded,
    quit: Signal,
    resized: Signal,
    continued: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let continued = rustix::process::Signal::CONT.as_raw();
        Ok(Self {
            forwarded: Forwarded::listen()?,
            quit: signals::listen(SignalKind::quit())?,
            resized: signals::listen(SignalKind::window_change())?,
            continued: signals::listen(SignalKind::from_raw(continued))?,
        })
    }

    async fn next(&mut self) -> &'static str {
        next(&mut self.forwarded, &mut self.quit).await
    }
}

async fn next(forwarded: &mut Forwarded, quit: &mut Signal) -> &'static str {
    tokio::select! {
        signal = forwarded.next() => signal,
        _ = quit.recv() => "QUIT",
    }
}

/// Connects the terminal that a person sits at.
async fn attend(
    opened: ChannelCall,
    mut signals: Signals,
    has_escapes: bool,
) -> Result<Closing, Failed> {
    let ChannelCall { channel, done, .. } = opened;
    let raw = RawTerminal::enter(stdin())
        .map_err(|error| Failure::local(format!("failed to set up the terminal: {error}")))?;
    let showing = async {
        channel::receive(channel.rx).await?;
        Ok::<Value, Failed>(done.await?.into_value()?)
    };
    let sizing = tell_sizes(
        channel.control_tx,
        &raw,
        &mut signals.resized,
        &mut signals.continued,
    );
    tokio::select! {
        // An end that is there counts, whatever is typed then.
        biased;
        result = showing => Ok(Closing::Result(result?)),
        closing = type_keys(channel.tx, Escapes::new(has_escapes)) => Ok(closing),
        signal = next(&mut signals.forwarded, &mut signals.quit) => Ok(Closing::Signal(signal)),
        never = sizing => match never {},
    }
}

/// Sends what is typed until the person leaves.
async fn type_keys(mut tx: ByteSender, mut escapes: Escapes) -> Closing {
    let mut keyboard = tokio::io::stdin();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let typed = match keyboard.read(&mut buffer).await {
            // The terminal is gone; the signal that says so may still come.
            Ok(0) | Err(_) => return Closing::Signal("HUP"),
            Ok(len) => &buffer[..len],
        };
        for key in escapes.sort(typed) {
            match key {
                Key::Leave => return Closing::Left,
                Key::Help => tell(HELP),
                Key::Send(bytes) => {
                    if tx.write_all(&bytes).await.is_err() {
                        // It takes no more; its result still comes.
                        return std::future::pending().await;
                    }
                }
            }
        }
    }
}

/// Lines for the person, in a terminal that does not return the carriage.
fn tell(text: &str) {
    let lines = text.replace('\n', "\r\n");
    // If standard error is gone there is nobody left to tell.
    let _ = write!(std::io::stderr(), "\r\n{lines}\r\n");
}

async fn tell_sizes<T: std::os::fd::AsFd>(
    control: mpsc::Sender<Value>,
    raw: &RawTerminal<T>,
    resized: &mut Signal,
    continued: &mut Signal,
) -> Infallible {
    loop {
        tokio::select! {
            _ = resized.recv() => {}
            _ = continued.recv() => {
                // One that is gone says so when it is read.
                let _ = raw.renew();
            }
        }
        if let Some(size) = raw_terminal::size() {
            // Closed: the result is on its way.
            let _ = control.send(json!({ "resize": fields(size) })).await;
        }
    }
}

fn fields(size: Winsize) -> Value {
    json!({
        "rows": size.ws_row,
        "cols": size.ws_col,
        "width_px": size.ws_xpixel,
        "height_px": size.ws_ypixel,
    })
}

fn input(args: &ShellArgs, is_attended: bool) -> Value {
    let mut input = raw_terminal::size().map_or_else(|| json!({}), fields);
    if !args.argv.is_empty() {
        input["argv"] = json!(args.argv);
    }
    if let Some(cwd) = &args.cwd {
        input["cwd"] = json!(cwd);
    }
    if let Ok(term) = std::env::var("TERM")
        && !term.is_empty()
    {
        input["term"] = json!(term);
    }
    let mut env: Map<String, Value> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| goes_along(name))
        .map(|(name, value)| (name, json!(value)))
        .collect();
    for (name, value) in &args.env {
        env.insert(name.clone(), json!(value));
    }
    if !env.is_empty() {
        input["env"] = Value::Object(env);
    }
    if let Some(modes) = terminal_modes(stdin()).ok().filter(|_| is_attended) {
        input["modes"] = json!(modes);
    }
    input
}

/// Variables that say how a person reads and sees.
fn goes_along(name: &str) -> bool {
    ["LANG", "LANGUAGE", "COLORTERM"].contains(&name) || name.starts_with("LC_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_holds_what_was_given() {
        let args = ShellArgs {
            on: Route::new(),
            no_escape: false,
            cwd: Some("/srv".into()),
            env: vec![("A".into(), "b=c".into())],
            argv: vec!["top".into(), "-b".into()],
        };
        let input = input(&args, false);
        assert_eq!(input["argv"], json!(["top", "-b"]));
        assert_eq!(
            (&input["cwd"], &input["env"]["A"]),
            (&json!("/srv"), &json!("b=c"))
        );
        let shell = ShellArgs {
            argv: vec![],
            ..args
        };
        assert_eq!(super::input(&shell, false).get("argv"), None);
    }

    #[test]
    fn the_language_goes_along_and_nothing_else() {
        for name in ["LANG", "LC_ALL", "LC_TIME", "COLORTERM"] {
            assert!(goes_along(name), "{name}");
        }
        for name in [
            "LD_PRELOAD",
            "PATH",
            "HOME",
            "LANGX",
            "TERM",
            "SSH_AUTH_SOCK",
        ] {
            assert!(!goes_along(name), "{name}");
        }
    }
}
