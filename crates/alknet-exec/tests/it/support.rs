//! A door with programs behind it, and what tests ask of it.

use alknet_core::{
    ByteReceiver, Call, CallError, Caller, ChannelCall, Dispatcher, Output, Registration, Registry,
};
use alknet_exec::{
    CommandConfig, CommandConfigError, Exec, ExecConfig, command_operations, shell_operations,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Long enough for anything that works.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Runs programs as whoever runs the tests, root included.
pub(crate) fn exec() -> Exec {
    exec_with(ExecConfig::default())
}

pub(crate) fn exec_with(config: ExecConfig) -> Exec {
    // Not as root, as far as the configuration is concerned.
    Exec::with_euid(config, 1000).unwrap()
}

pub(crate) fn door(registrations: Vec<Registration>) -> Dispatcher {
    let registry = Registry::new();
    registry.register(registrations).unwrap();
    Dispatcher::builder(registry).build()
}

pub(crate) fn shell_door() -> Dispatcher {
    door(shell_operations(&exec()))
}

#[derive(Deserialize)]
struct File {
    operation: Vec<CommandConfig>,
}

/// The operations of a configuration file.
pub(crate) fn parse(text: &str) -> Vec<CommandConfig> {
    toml::from_str::<File>(text).unwrap().operation
}

pub(crate) fn commands(
    text: &str,
    exec: &Exec,
) -> Result<Vec<Registration>, Vec<CommandConfigError>> {
    command_operations(&parse(text), exec, Path::new("/etc/alknet"))
}

/// A door with the operations of a configuration file.
pub(crate) fn command_door(text: &str) -> Dispatcher {
    door(commands(text, &exec()).unwrap())
}

/// A door with the one operation `test/run`.
pub(crate) fn run_door(fields: &str) -> Dispatcher {
    command_door(&format!(
        "[[operation]]\nname = \"test/run\"\nsummary = \"A test.\"\n{fields}"
    ))
}

pub(crate) fn to(operation: &str, input: &Value) -> Call {
    Call::new(operation, Caller::host()).unwrap().input(input)
}

pub(crate) async fn run(door: &Dispatcher, input: &Value) -> Result<Value, CallError> {
    let reply = tokio::time::timeout(SOON, door.call(to("test/run", input))).await;
    reply.unwrap()?.into_output().into_value()
}

pub(crate) async fn open(door: &Dispatcher, input: &Value) -> ChannelCall {
    door.open(to("shell/exec", input)).await.unwrap()
}

/// What a program said and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) result: Value,
}

impl Outcome {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// Ends the input, reads everything, waits for the result.
pub(crate) async fn finish(mut call: ChannelCall) -> Result<Outcome, CallError> {
    call.channel.tx.end();
    drain(call).await
}

pub(crate) async fn drain(mut call: ChannelCall) -> Result<Outcome, CallError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let reading = async {
        while let Ok(Some(chunk)) = call.channel.rx.recv().await {
            let to = if chunk.aux { &mut stderr } else { &mut stdout };
            to.extend_from_slice(&chunk.bytes);
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
    let result = tokio::time::timeout(SOON, call.done).await.unwrap()?;
    Ok(Outcome {
        stdout,
        stderr,
        result: result.into_value()?,
    })
}

/// Runs a program with an empty input.
pub(crate) async fn exec_argv(door: &Dispatcher, argv: &[&str]) -> Outcome {
    finish(open(door, &json!({ "argv": argv })).await)
        .await
        .unwrap()
}

/// The error of a call that is refused before it is accepted.
pub(crate) async fn refused(door: &Dispatcher, input: &Value) -> CallError {
    door.open(to("shell/exec", input)).await.unwrap_err()
}

pub(crate) fn pid(reply: &Output) -> u32 {
    let reply = reply.clone().into_value().unwrap();
    u32::try_from(reply["pid"].as_u64().unwrap()).unwrap()
}

/// Reads until `count` lines have come.
pub(crate) async fn read_lines(rx: &mut ByteReceiver, count: usize) -> Vec<String> {
    let mut text = String::new();
    let reading = async {
        while text.lines().count() < count || !text.ends_with('\n') {
            let chunk = rx.recv().await.unwrap().unwrap();
            text += std::str::from_utf8(&chunk.bytes).unwrap();
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
    text.lines().map(str::to_owned).collect()
}

/// State and parent of a process: `Z` is a zombie.
pub(crate) fn state(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, spaces too.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Waits until `what` holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let started = std::time::Instant::now();
        while !holds() {
            assert!(started.elapsed() < SOON, "{caller}: not so: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Whether tests run as root; if not, notes by name what is left out.
pub(crate) fn is_root(test: &str) -> bool {
    use std::io::Write;
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let line = format!("SKIP: {test}: needs root\n");
        #[expect(clippy::print_stderr, reason = "a skip is never silent")]
        {
            eprint!("{line}");
        }
        if let Some(log) = std::env::var_os("ALKNET_SKIP_LOG") {
            let file = std::fs::OpenOptions::new().append(true).open(log);
            file.unwrap().write_all(line.as_bytes()).unwrap();
        }
    }
    is_root
}

/// Whether the long proofs run.
pub(crate) fn is_full() -> bool {
    std::env::var_os("ALKNET_TEST_FULL").is_some()
}
