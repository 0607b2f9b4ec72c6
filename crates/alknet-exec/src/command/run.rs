//! Running a configured command, in the four ways in which it may answer.

use super::{
    COMMAND_FAILED, COMMAND_NOT_STARTED, CommandOutput,
    input::Fields,
    output::{Lines, broken, json_value, text, too_large},
    template::Template,
};
use crate::{
    account::RunAs,
    exec::{Exec, Launch},
    process::{Ended, Process},
    shell::{Opened, cut, forward_input, internal},
    tail::Tail,
};
use alknet_core::{
    ByteSender, CallError, CallId, ChannelEnd, ChannelOpening, Context, Handler, Input, Output,
    PipeClosed,
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

/// A configured command, ready to run.
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) template: Template,
    pub(crate) fields: Fields,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    pub(crate) run_as: RunAs,
    /// Exit code to code and description.
    pub(crate) exits: HashMap<i32, (String, String)>,
    pub(crate) output: CommandOutput,
    /// Lines are JSON each.
    pub(crate) parse_lines: bool,
    pub(crate) exec: Exec,
}

/// Details of a command that failed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Failure {
    /// Its exit code, unless a signal ended it.
    exit_code: Option<i32>,
    /// The signal that ended it, such as `KILL`.
    signal: Option<String>,
    /// The last 4 KiB of its standard error.
    stderr: String,
}

/// The code behind an operation whose output fits its kind.
pub(crate) fn handler(command: Arc<Command>) -> Handler {
    match command.output {
        CommandOutput::Text | CommandOutput::Json => Handler::Unary(Arc::new(move |cx, input| {
            let command = command.clone();
            Box::pin(async move { command.answer(&cx, input).await })
        })),
        CommandOutput::Lines => Handler::Stream(Arc::new(move |cx, input| {
            let command = command.clone();
            Box::pin(async move { command.subscribe(&cx, input).await })
        })),
        CommandOutput::Bytes => Handler::Channel(Arc::new(move |_cx, input, opening| {
            let command = command.clone();
            Box::pin(async move { command.open(input, opening).await })
        })),
    }
}

impl Command {
    /// The input with defaults in place of what is absent.
    fn complete(&self, input: Input) -> Result<Map<String, Value>, CallError> {
        let Value::Object(mut input) = input.into_value()? else {
            return Err(CallError::invalid_field("", "is not an object"));
        };
        for (name, field) in &self.fields {
            if let Some(default) = &field.default
                && !input.contains_key(name)
            {
                input.insert(name.clone(), default.clone());
            }
        }
        Ok(input)
    }

    async fn start(&self, input: &Map<String, Value>) -> Result<Process, CallError> {
        let argv = self
            .template
            .fill(input)
            .map_err(CallError::invalid_input)?;
        let launch = Launch {
            argv,
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            may_start_elsewhere: false,
            run_as: self.run_as.clone(),
            arg0: None,
        };
        self.exec.launch(launch).await.map_err(|error| {
            error.protocol().unwrap_or_else(|| {
                let message = format!("`{}` could not be started: {error}", self.name);
                CallError::domain(COMMAND_NOT_STARTED, message)
            })
        })
    }

    /// Starts it with its input as one line of JSON on standard input.
    async fn start_fed(&self, input: Input) -> Result<Process, CallError> {
        let input = self.complete(input)?;
        let mut process = self.start(&input).await?;
        let mut line = serde_json::to_vec(&input).map_err(|error| internal(&error))?;
        line.push(b'\n');
        process.feed(Bytes::from(line));
        Ok(process)
    }

    async fn answer(&self, cx: &Context, input: Input) -> Result<Output, CallError> {
        let mut process = self.start_fed(input).await?;
        let bytes_max = self.exec.config().output_bytes_max;
        let (mut stdout, mut stderr) = (Vec::new(), Tail::default());
        while let Some(chunk) = process.next_output().await {
            if chunk.aux {
                stderr.push(&chunk.bytes);
            } else if stdout.len() + chunk.bytes.len() > bytes_max {
                return Err(too_large(&self.name, "a reply", bytes_max));
            } else {
                stdout.extend_from_slice(&chunk.bytes);
            }
        }
        self.judge(process.end().await, &stderr)?;
        let value = match self.output {
            CommandOutput::Json => json_value(&stdout),
            _ => text(stdout),
        };
        value
            .map(Output::Value)
            .map_err(|what| broken(cx.call_id(), &self.name, &what))
    }

    async fn subscribe(
        self: Arc<Self>,
        cx: &Context,
        input: Input,
    ) -> Result<BoxStream<'static, Result<Output, CallError>>, CallError> {
        let following = Following {
            process: Some(self.start_fed(input).await?),
            call: cx.call_id(),
            lines: Lines::default(),
            stderr: Tail::default(),
            command: self,
        };
        let items = futures::stream::unfold(following, |mut following| async move {
            let item = following.next().await.transpose()?;
            Some((item, following))
        });
        Ok(items.boxed())
    }

    async fn open(&self, input: Input, opening: ChannelOpening) -> Result<Output, CallError> {
        let input = self.complete(input)?;
        let mut process = self.start(&input).await?;
        let pid = process.leader().pid();
        let ChannelEnd {
            mut tx,
            rx,
            control_tx: _control_tx,
            control_rx: _control_rx,
        } = opening.accept(&Opened { pid })?;
        let feeding = forward_input(rx, process.take_stdin());
        let output = self.forward_output(process, &mut tx);
        tokio::pin!(feeding, output);
        let mut is_fed = false;
        loop {
            tokio::select! {
                biased;
                ended = &mut output => return Output::of(&ended?),
                fed = &mut feeding, if !is_fed => match fed {
                    Ok(()) => is_fed = true,
                    Err(PipeClosed) => return Err(cut()),
                },
            }
        }
    }

    async fn forward_output(
        &self,
        mut process: Process,
        tx: &mut ByteSender,
    ) -> Result<Ended, CallError> {
        let mut stderr = Tail::default();
        while let Some(chunk) = process.next_output().await {
            if chunk.aux {
                stderr.push(&chunk.bytes);
            } else if tx.send_chunk(chunk).await.is_err() {
                process.close_output();
            }
        }
        let ended = self.judge(process.end().await, &stderr);
        tx.end();
        ended
    }

    /// What the end of the process means.
    fn judge(&self, ended: std::io::Result<Ended>, stderr: &Tail) -> Result<Ended, CallError> {
        let ended = ended.map_err(|error| internal(&error))?;
        if ended.is_success() {
            return Ok(ended);
        }
        let declared = ended.exit_code.and_then(|code| self.exits.get(&code));
        let (code, message) = match declared {
            Some((code, description)) => (code.clone(), description.clone()),
            None => (COMMAND_FAILED.into(), self.failed(&ended, stderr)),
        };
        let details = json!(Failure {
            exit_code: ended.exit_code,
            signal: ended.signal,
            stderr: stderr.text(),
        });
        Err(CallError::domain(code, message).with_details(details))
    }

    fn failed(&self, ended: &Ended, stderr: &Tail) -> String {
        let how = match (ended.exit_code, &ended.signal) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".into(),
        };
        match stderr.last_line() {
            Some(line) => format!("`{}` {how}: {line}", self.name),
            None => format!("`{}` {how}", self.name),
        }
    }
}

/// A command whose lines are items.
struct Following {
    command: Arc<Command>,
    call: CallId,
    /// `None` once it has ended.
    process: Option<Process>,
    lines: Lines,
    stderr: Tail,
}

impl Following {
    async fn next(&mut self) -> Result<Option<Output>, CallError> {
        let item = self.line().await;
        if item.is_err() {
            // One error ends a subscription, and the command with it.
            self.process = None;
            self.lines = Lines::default();
        }
        item
    }

    async fn line(&mut self) -> Result<Option<Output>, CallError> {
        let bytes_max = self.command.exec.config().output_bytes_max;
        let too_large = || too_large(&self.command.name, "a line", bytes_max);
        loop {
            if let Some(line) = self.lines.next() {
                if self.is_blank(&line) {
                    continue;
                }
                if line.len() > bytes_max {
                    return Err(too_large());
                }
                return self.item(&line).map(Some);
            }
            if self.lines.waiting() > bytes_max {
                return Err(too_large());
            }
            let Some(process) = &mut self.process else {
                return Ok(None);
            };
            match process.next_output().await {
                Some(chunk) if chunk.aux => self.stderr.push(&chunk.bytes),
                Some(chunk) => self.lines.push(&chunk.bytes),
                None => {
                    if let Some(line) = self.lines.last()
                        && !self.is_blank(&line)
                    {
                        return self.item(&line).map(Some);
                    }
                    if let Some(process) = self.process.take() {
                        self.command.judge(process.end().await, &self.stderr)?;
                    }
                }
            }
        }
    }

    /// Between JSON values blank lines mean nothing; text they are.
    fn is_blank(&self, line: &[u8]) -> bool {
        self.command.parse_lines && line.trim_ascii().is_empty()
    }

    fn item(&self, line: &[u8]) -> Result<Output, CallError> {
        let value = if self.command.parse_lines {
            json_value(line)
        } else {
            text(line.to_vec())
        };
        value.map(Output::Value).map_err(|what| {
            let what = format!("a line with {what}");
            broken(self.call, &self.command.name, &what)
        })
    }
}
