//! `shell/exec`: a program and its arguments, no shell.

use crate::{
    exec::{Exec, Launch, LaunchError},
    process::{Ended, Leader, Process},
    signal,
    terminal::terminal_operation,
};
use alknet_core::{
    ByteReceiver, ByteSender, CallError, ChannelEnd, ChannelOpening, Context, Control, ErrorCode,
    ErrorSpec, Operation, OperationBuilder, PipeClosed, Registration, ResourceKind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use tokio::{io::AsyncWriteExt, net::unix::pipe, sync::mpsc};

/// Variables that any caller may set: language, terminal, and what git sends
/// over SSH. Any other may make a program run something else.
const ENV_FREE: [&str; 8] = [
    "LANG",
    "LANGUAGE",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "COLUMNS",
    "LINES",
    "GIT_PROTOCOL",
];
/// Most variables of one call.
pub(crate) const ENV_MAX: usize = 1024;

/// What runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExecInput {
    /// Program and arguments, passed on as they are. The program is a name,
    /// looked for in the node's own search path, or an absolute path.
    #[schemars(length(min = 1, max = 1024))]
    argv: Vec<String>,
    /// Variables to set. Beside `LANG`, `LC_*`, `TERM` and the like they need
    /// what running the program `env` needs: `command:env=exec`.
    #[serde(default)]
    #[schemars(extend("maxProperties" = ENV_MAX))]
    env: BTreeMap<String, String>,
    /// Working directory, absolute; `/` if it is left out.
    #[serde(default)]
    cwd: Option<String>,
}

/// Opening reply of a channel to a process.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Opened {
    /// Process id, which is the id of its process group too.
    pub(crate) pid: u32,
}

/// The operations with which callers run what they name: `shell/exec`, and
/// `shell/open` in a terminal.
#[must_use]
pub fn shell_operations(exec: &Exec) -> Vec<Registration> {
    let timeout = exec.config().shell_timeout;
    let exec = exec.clone();
    let operation = Operation::channel("shell/exec", "Runs a program, without a shell.")
        .description(DESCRIPTION)
        .requires("shell:exec")
        .resource("command", "exec", "/argv/0");
    let operation = with_launch_errors(operation);
    let operation = match timeout {
        Some(timeout) => operation.timeout(timeout.duration()),
        None => operation,
    };
    let terminal = terminal_operation(&exec);
    vec![
        operation.channel::<_, Opened, _, _, _>(move |cx, input: ExecInput, opening| {
            let exec = exec.clone();
            async move { run(&exec, &cx, input, opening).await }
        }),
        terminal,
    ]
}

/// Declares what keeps a program from starting.
pub(crate) fn with_launch_errors(operation: OperationBuilder) -> OperationBuilder {
    operation
        .error(status(
            "PROGRAM_NOT_FOUND",
            "There is no such program.",
            404,
        ))
        .error(status(
            "PROGRAM_NOT_RUNNABLE",
            "The file is not executable, or its account may not run it there.",
            422,
        ))
        .error(status(
            "DIRECTORY_NOT_FOUND",
            "The working directory is not a directory.",
            404,
        ))
}

const DESCRIPTION: &str = "\
The bytes sent are the program's standard input; the end of the bytes closes it. \
Standard output comes back as the main stream, standard error as the auxiliary one. \
The control message `{\"signal\": \"INT\"}` sends a signal to the process group: \
HUP, INT, QUIT, TERM, KILL, USR1, USR2, WINCH, CONT, STOP or TSTP. \
The result is `{\"exit_code\": 0, \"signal\": null}`; it comes after the last byte. \
When the call ends, in whatever way, the process group is killed.";

pub(crate) fn status(code: &str, description: &str, http_status: u16) -> ErrorSpec {
    ErrorSpec {
        http_status,
        ..ErrorSpec::new(code, description)
    }
}

async fn run(
    exec: &Exec,
    cx: &Context,
    input: ExecInput,
    opening: ChannelOpening,
) -> Result<Ended, CallError> {
    check_argv(&input.argv)?;
    check_env(cx, &input.env)?;
    let launch = Launch {
        cwd: directory(input.cwd)?,
        may_start_elsewhere: false,
        argv: input.argv,
        arg0: None,
        env: input.env,
        // Only configured commands name their own account.
        run_as: exec.run_as(None).map_err(|error| internal(&error))?,
    };
    let process = exec.launch(launch).await.map_err(refused)?;
    let pid = process.leader().pid();
    let channel = opening.accept(&Opened { pid })?;
    serve(process, channel).await
}

pub(crate) fn check_argv(argv: &[String]) -> Result<(), CallError> {
    match argv.iter().position(|argument| argument.contains('\0')) {
        Some(at) => Err(CallError::invalid_field(
            format!("/argv/{at}"),
            "contains NUL, which no argument can",
        )),
        None => Ok(()),
    }
}

/// To set a variable is what the program `env` does: whoever may run that may
/// set any. To others, whose grant is for one program, `LD_PRELOAD` or
/// `GIT_SSH_COMMAND` would be a way to run any other.
pub(crate) fn check_env(cx: &Context, env: &BTreeMap<String, String>) -> Result<(), CallError> {
    let pointer = |name: &str| format!("/env/{}", name.replace('~', "~0").replace('/', "~1"));
    for (name, value) in env {
        if !is_variable(name) {
            return Err(CallError::invalid_field(
                pointer(name),
                "the name of a variable has letters, digits and `_`, and no digit in front",
            ));
        }
        if value.contains('\0') {
            return Err(CallError::invalid_field(
                pointer(name),
                "contains NUL, which no variable can",
            ));
        }
    }
    let is_free = |name: &str| ENV_FREE.contains(&name) || name.starts_with("LC_");
    let Some(name) = env.keys().find(|name| !is_free(name)) else {
        return Ok(());
    };
    let identity = cx.principal().identity();
    let (kind, action) = (ResourceKind::Command, "exec");
    // A grant of the whole operation is one for every program that is not
    // denied.
    if identity.holds_within(cx.operation(), kind, action, "env") {
        return Ok(());
    }
    let missing = "command:env=exec";
    let mut details = json!({
        "caller": identity.id,
        "operation": cx.operation(),
        "missing": { "resource": missing },
    });
    let mut ceilings = identity.layers().skip(1);
    let of_key = ceilings.any(|held| !held.holds_within(cx.operation(), kind, action, "env"));
    // To a key that is narrower than its peer, no grant of the peer gives it.
    let who = match cx.principal().key().filter(|_| of_key) {
        Some(key) => {
            details["key"] = json!(key);
            format!("key `{key}` of `{}`", identity.id)
        }
        None => {
            details["grant"] = json!(missing);
            format!("`{}`", identity.id)
        }
    };
    let message = format!("{who} may not set the variable `{name}`: missing resource `{missing}`");
    Err(CallError::new(ErrorCode::Forbidden, message).with_details(details))
}

pub(crate) fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(crate) fn directory(cwd: Option<String>) -> Result<PathBuf, CallError> {
    match cwd {
        None => Ok(PathBuf::from("/")),
        Some(cwd) if cwd.starts_with('/') && !cwd.contains('\0') => Ok(PathBuf::from(cwd)),
        Some(_) => Err(CallError::invalid_field(
            "/cwd",
            "the working directory is an absolute path",
        )),
    }
}

pub(crate) fn refused(error: LaunchError) -> CallError {
    if let Some(protocol) = error.protocol() {
        return protocol;
    }
    let code = match &error {
        LaunchError::NotFound(..) => "PROGRAM_NOT_FOUND",
        LaunchError::NoDirectory(_) => "DIRECTORY_NOT_FOUND",
        LaunchError::NoTerminal(_) => "TERMINAL_NOT_AVAILABLE",
        _ => "PROGRAM_NOT_RUNNABLE",
    };
    CallError::domain(code, error.to_string())
}

pub(crate) fn internal(error: &dyn std::fmt::Display) -> CallError {
    CallError::new(ErrorCode::Internal, error.to_string())
}

/// Connects a process with its caller until the process has ended.
async fn serve(mut process: Process, channel: ChannelEnd) -> Result<Ended, CallError> {
    let ChannelEnd {
        mut tx,
        rx,
        // Kept: to drop it would tell the caller that the channel is gone.
        control_tx: _control_tx,
        control_rx,
    } = channel;
    let stdin = process.take_stdin();
    let leader = process.leader();
    let output = forward_output(process, &mut tx);
    let input = forward_input(rx, stdin);
    until_ended(output, input, forward_signals(control_rx, leader)).await
}

/// Runs the three sides of a channel to a process until there is no more
/// output. An input that is cut ends it too.
pub(crate) async fn until_ended(
    output: impl Future<Output = Result<Ended, CallError>>,
    input: impl Future<Output = Result<(), PipeClosed>>,
    controls: impl Future<Output = ()>,
) -> Result<Ended, CallError> {
    tokio::pin!(output, input, controls);
    let (mut is_fed, mut is_controlled) = (false, false);
    loop {
        tokio::select! {
            // An end that is there counts, whatever the caller does then.
            biased;
            ended = &mut output => return ended,
            () = &mut controls, if !is_controlled => is_controlled = true,
            fed = &mut input, if !is_fed => match fed {
                Ok(()) => is_fed = true,
                Err(PipeClosed) => return Err(cut()),
            },
        }
    }
}

/// An input that was cut is not an input that ended: half a script is not run.
pub(crate) fn cut() -> CallError {
    CallError::new(
        ErrorCode::Cancelled,
        "the input was cut before its end, so the program was killed",
    )
}

async fn forward_output(mut process: Process, tx: &mut ByteSender) -> Result<Ended, CallError> {
    while let Some(chunk) = process.next_output().await {
        if tx.send_chunk(chunk).await.is_err() {
            process.close_output();
        }
    }
    let ended = process.end().await.map_err(|error| internal(&error))?;
    tx.end();
    Ok(ended)
}

/// Writes what comes in; what a program does not read any more is thrown away,
/// so that the sender does not wait for it.
pub(crate) async fn forward_input(
    mut rx: ByteReceiver,
    mut stdin: Option<pipe::Sender>,
) -> Result<(), PipeClosed> {
    while let Some(chunk) = rx.recv().await? {
        if let Some(open) = &mut stdin
            && !chunk.aux
            && open.write_all(&chunk.bytes).await.is_err()
        {
            stdin = None;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct SignalControl {
    signal: String,
}

async fn forward_signals(mut controls: mpsc::Receiver<Control>, leader: Arc<Leader>) {
    while let Some(control) = controls.recv().await {
        // Other messages (a new window size) mean nothing to a pipe.
        let Ok(SignalControl { signal: name }) = serde_json::from_value(control) else {
            continue;
        };
        match signal::sendable(&name) {
            Some(signal) => leader.signal(signal),
            None => tracing::debug!(%name, "a caller sent a signal that is not forwarded"),
        }
    }
}
