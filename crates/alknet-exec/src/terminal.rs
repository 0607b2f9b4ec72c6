//! `shell/open`: a program, or the account's shell, in a terminal.

use crate::{
    exec::{Exec, Launch, Login},
    process::Ended,
    pty::{BreakEffect, Pty},
    pty_modes::ModeMap,
    shell::{
        ENV_MAX, check_argv, check_env, directory, internal, refused, status, until_ended,
        with_launch_errors,
    },
    signal,
    terminal_process::Terminal,
    terminal_session::Session,
};
use alknet_core::{
    ByteReceiver, ByteSender, CallError, ChannelEnd, ChannelOpening, Context, Control, ErrorCode,
    Operation, PipeClosed, Registration,
};
use rustix::{process::Signal, termios::Winsize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use tokio::{sync::mpsc, time::sleep};

/// Longest name of a kind of terminal.
const TERM_BYTES_MAX: usize = 64;
/// Most modes of one call.
const MODES_MAX: usize = 128;
/// How often, at most and at least, is looked whether a program waits for
/// input that has ended.
const END_LOOK_MIN: Duration = Duration::from_millis(20);
const END_LOOK_MAX: Duration = Duration::from_secs(1);

/// What runs, and in which terminal.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OpenInput {
    /// Program and arguments, as for `shell/exec`. Without them the shell of
    /// the account that processes run as, as a login shell.
    #[serde(default)]
    #[schemars(length(min = 1, max = 1024))]
    argv: Option<Vec<String>>,
    /// Variables to set. Beside `LANG`, `LC_*` and the like they need what
    /// running the program `env` needs: `command:env=exec`.
    #[serde(default)]
    #[schemars(extend("maxProperties" = ENV_MAX))]
    env: BTreeMap<String, String>,
    /// Working directory, absolute. If it is left out: the account's home, or
    /// `/` if the account may not enter that.
    #[serde(default)]
    cwd: Option<String>,
    /// Kind of the caller's terminal, which becomes `TERM`.
    #[serde(default = "default_term")]
    #[schemars(length(min = 1, max = TERM_BYTES_MAX), regex(pattern = "^[A-Za-z0-9._+-]+$"))]
    term: String,
    /// Rows of characters.
    #[serde(default = "default_rows")]
    rows: u16,
    /// Columns of characters.
    #[serde(default = "default_cols")]
    cols: u16,
    /// Width in pixels; 0 if it is not known.
    #[serde(default)]
    width_px: u16,
    /// Height in pixels; 0 if it is not known.
    #[serde(default)]
    height_px: u16,
    /// Modes by the names of RFC 4254, section 8, such as `ECHO`, `VINTR` or
    /// `IUTF8`. Those that are not known are passed over.
    #[serde(default)]
    #[schemars(extend("maxProperties" = MODES_MAX))]
    modes: ModeMap,
}

fn default_term() -> String {
    "xterm-256color".into()
}

fn default_rows() -> u16 {
    24
}

fn default_cols() -> u16 {
    80
}

/// Opening reply of a terminal.
#[derive(Debug, Serialize, JsonSchema)]
struct Opened {
    /// Process id of the session's leader, which is the session's id too.
    pid: u32,
    /// The terminal's device there, such as `/dev/pts/3`.
    tty: String,
}

const DESCRIPTION: &str = "\
A program, or the account's login shell, in a terminal of its own. The bytes sent are \
typed; what it shows comes back. At the end of the bytes sent, the terminal's end-of-file \
character is typed whenever input is waited for. \
Control messages: `{\"resize\": {\"rows\": 24, \"cols\": 80}}`, with `width_px` and \
`height_px` if they are known; `{\"signal\": \"INT\"}` to the foreground process group \
(HUP, INT, QUIT, TERM, KILL, USR1, USR2, WINCH, CONT, STOP or TSTP); `{\"break\": 500}`. \
The result is `{\"exit_code\": 0, \"signal\": null}`; it comes after the last byte. \
Detaching kills: when the call ends, in whatever way, every process of the terminal's \
session is hung up (SIGHUP), and killed 200 ms later, background and stopped jobs and what \
runs under `nohup` included. Only what began a session of its own goes on.";

/// `shell/open`.
pub(crate) fn terminal_operation(exec: &Exec) -> Registration {
    let operation = Operation::channel("shell/open", "Opens a terminal with a shell or a program.")
        .description(DESCRIPTION)
        .requires("shell:open")
        .resource("command", "exec", "/argv/0")
        // A shell runs anything: nothing less than the right to it will do.
        .when_absent(&exec.login().shell)
        .error(status(
            "TERMINAL_NOT_AVAILABLE",
            "No terminal could be made.",
            503,
        ));
    let operation = with_launch_errors(operation);
    let operation = match exec.config().shell_timeout {
        Some(timeout) => operation.timeout(timeout.duration()),
        None => operation,
    };
    let exec = exec.clone();
    operation.channel::<_, Opened, _, _, _>(move |cx, input: OpenInput, opening| {
        let exec = exec.clone();
        async move { open(&exec, &cx, input, opening).await }
    })
}

async fn open(
    exec: &Exec,
    cx: &Context,
    input: OpenInput,
    opening: ChannelOpening,
) -> Result<Ended, CallError> {
    check_argv(input.argv.as_deref().unwrap_or_default())?;
    check_env(cx, &input.env)?;
    check_term(&input.term)?;
    let size = Winsize {
        ws_row: input.rows,
        ws_col: input.cols,
        ws_xpixel: input.width_px,
        ws_ypixel: input.height_px,
    };
    let login = exec.login();
    let mut env = variables(login);
    env.insert("TERM".into(), input.term);
    env.extend(input.env);
    let (argv, arg0) = match input.argv {
        Some(argv) => (argv, None),
        None => (vec![login.shell.clone()], Some(login_name(&login.shell))),
    };
    let launch = Launch {
        argv,
        arg0,
        env,
        may_start_elsewhere: input.cwd.is_none(),
        cwd: match input.cwd {
            None => PathBuf::from(&login.home),
            given => directory(given)?,
        },
        run_as: exec.run_as(None).map_err(|error| internal(&error))?,
    };
    let launched = exec.launch_terminal(launch, size, input.modes).await;
    let terminal = launched.map_err(refused)?;
    let channel = opening.accept(&Opened {
        pid: terminal
            .session()
            .id()
            .as_raw_nonzero()
            .get()
            .unsigned_abs(),
        tty: terminal.path().to_owned(),
    })?;
    serve(terminal, channel).await
}

/// It names a file for the library that draws (`terminfo(5)`).
fn check_term(term: &str) -> Result<(), CallError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    if (1..=TERM_BYTES_MAX).contains(&term.len()) && term.bytes().all(is_plain) {
        return Ok(());
    }
    Err(CallError::invalid_field(
        "/term",
        format!("1 to {TERM_BYTES_MAX} letters, digits, `.`, `_`, `+` and `-`"),
    ))
}

/// What `login(1)` sets.
fn variables(login: &Login) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("HOME".to_owned(), login.home.clone()),
        ("SHELL".to_owned(), login.shell.clone()),
    ]);
    if let Some(name) = &login.name {
        env.insert("USER".into(), name.clone());
        env.insert("LOGNAME".into(), name.clone());
    }
    env
}

/// The name by which a shell knows that it is a login shell: `-bash`.
fn login_name(shell: &str) -> String {
    let name = shell.rsplit('/').next().unwrap_or(shell);
    format!("-{name}")
}

/// Connects a terminal with its caller until its leader has ended.
async fn serve(terminal: Terminal, channel: ChannelEnd) -> Result<Ended, CallError> {
    let ChannelEnd {
        mut tx,
        rx,
        // Kept: to drop it would tell the caller that the channel is gone.
        control_tx: _control_tx,
        control_rx,
    } = channel;
    let (pty, session) = (terminal.pty(), terminal.session());
    let output = show(terminal, &mut tx);
    let input = type_in(rx, &pty);
    until_ended(output, input, obey(control_rx, &pty, &session)).await
}

async fn show(mut terminal: Terminal, tx: &mut ByteSender) -> Result<Ended, CallError> {
    while let Some(bytes) = terminal.next_output().await {
        if tx.send(bytes).await.is_err() {
            return Err(CallError::new(
                ErrorCode::Cancelled,
                "nobody reads what the terminal shows, so it was closed",
            ));
        }
    }
    let ended = terminal.ended().map_err(|error| internal(&error))?;
    tx.end();
    Ok(ended)
}

/// Types what comes in, and that it has ended, again and again: each program
/// that waits for input is told.
async fn type_in(mut rx: ByteReceiver, pty: &Pty) -> Result<(), PipeClosed> {
    while let Some(chunk) = rx.recv().await? {
        if !chunk.aux && pty.write_all(&chunk.bytes).await.is_err() {
            // The terminal is gone: its leader's end follows.
            tracing::debug!("a terminal takes no input any more");
        }
    }
    let mut wait = END_LOOK_MIN;
    loop {
        sleep(wait).await;
        if pty.has_unread() {
            wait = END_LOOK_MIN;
            continue;
        }
        wait = (wait * 2).min(END_LOOK_MAX);
        if let Some(end) = pty.end_character()
            && pty.write_all(&[end]).await.is_err()
        {
            return Ok(());
        }
    }
}

/// A size, as `window-change` of RFC 4254 has it.
#[derive(Deserialize)]
struct Size {
    rows: u16,
    cols: u16,
    #[serde(default)]
    width_px: u16,
    #[serde(default)]
    height_px: u16,
}

/// What a caller may say beside what it types. Other fields mean nothing here.
#[derive(Deserialize)]
struct Said {
    resize: Option<Size>,
    signal: Option<String>,
    /// For how long, in milliseconds: there is no wire that would need it.
    #[serde(rename = "break")]
    line_break: Option<u64>,
}

async fn obey(mut controls: mpsc::Receiver<Control>, pty: &Pty, session: &Session) {
    while let Some(control) = controls.recv().await {
        let Ok(said) = serde_json::from_value::<Said>(control) else {
            tracing::debug!("a control message that no terminal knows");
            continue;
        };
        if let Some(size) = said.resize {
            pty.resize(Winsize {
                ws_row: size.rows,
                ws_col: size.cols,
                ws_xpixel: size.width_px,
                ws_ypixel: size.height_px,
            });
        }
        if let Some(name) = said.signal {
            match signal::sendable(&name) {
                Some(signal) => to_foreground(pty, session, signal),
                None => tracing::debug!(%name, "a caller sent a signal that is not forwarded"),
            }
        }
        if said.line_break.is_some() {
            match pty.break_effect() {
                BreakEffect::Ignored => {}
                BreakEffect::Interrupts => to_foreground(pty, session, Signal::INT),
                // A terminal that takes nothing notices no break either.
                BreakEffect::TypesZero => pty.try_write(&[0]),
            }
        }
    }
}

fn to_foreground(pty: &Pty, session: &Session, signal: Signal) {
    if let Some(group) = pty.foreground() {
        session.signal(group, signal);
    }
}
