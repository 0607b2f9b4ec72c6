//! `alknet batch`.

use crate::{
    app::App,
    cli::parse_duration,
    commands::call::parse_on,
    failure::{Exit, Failure},
    node_access::{CallError, CallOptions, Home, Route},
};
use clap::Args;
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{path::Path, pin::pin, time::Duration};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};

/// Bytes of a line: the largest input a node may be told to take.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
#[command(after_help = "\
Each line in:   {\"operation\": \"fs/stat\", \"input\": {...}, \"on\": \"nas\"}
Each line out:  {\"index\": 0, \"output\": ...} or {\"index\": 0, \"error\": {...}}

`input` is `{}` and `on` this node if not given; indexes count from 0. Only
queries and mutations. The exit code is 1 if any call failed.")]
pub(crate) struct BatchArgs {
    /// A file of calls, or `-` for standard input
    file: String,
    /// Prints replies as they come instead of in order
    #[arg(long)]
    unordered: bool,
    /// Calls at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// How long each call may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    operation: String,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    on: Option<String>,
}

pub(crate) async fn run(app: &App, args: BatchArgs) -> Result<Exit, Failure> {
    let home = app.home().await?;
    let lines: Box<dyn AsyncBufRead + Unpin + Send> = match args.file.as_str() {
        "-" => Box::new(BufReader::new(tokio::io::stdin())),
        name => {
            let file = tokio::fs::File::open(name).await;
            Box::new(BufReader::new(
                file.map_err(|error| Failure::io("read", Path::new(name), &error))?,
            ))
        }
    };
    let calls = lines_of(lines).enumerate().map(|(index, line)| async move {
        match line {
            Ok(line) => Ok((index, answer(home, &line, args.timeout).await)),
            Err(error) => Err(Failure::local(format!("failed to read the calls: {error}"))),
        }
    });
    let jobs = usize::from(args.jobs);
    let failed = match args.unordered {
        true => print(app, calls.buffer_unordered(jobs)).await?,
        false => print(app, calls.buffered(jobs)).await?,
    };
    if failed > 0 {
        app.out.say(&format!("{failed} of the calls failed"));
        return Ok(Exit::FAILED);
    }
    Ok(Exit::FINE)
}

type Answer = (usize, Result<Value, CallError>);

/// A line out.
#[derive(Debug, Serialize)]
struct LineOut<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a CallError>,
}

fn line_out(index: usize, answer: &Result<Value, CallError>) -> String {
    let (output, error) = (answer.as_ref().ok(), answer.as_ref().err());
    let line = LineOut {
        index,
        output,
        error,
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// Prints every answer, and counts those that are errors.
async fn print(
    app: &App,
    answers: impl Stream<Item = Result<Answer, Failure>>,
) -> Result<usize, Failure> {
    let mut answers = pin!(answers);
    let mut failed = 0;
    while let Some(answer) = answers.next().await {
        let (index, answer) = answer?;
        failed += usize::from(answer.is_err());
        app.out.text(&line_out(index, &answer))?;
    }
    Ok(failed)
}

async fn answer(home: &Home, line: &str, timeout: Option<Duration>) -> Result<Value, CallError> {
    let line: Line = serde_json::from_str(line)
        .map_err(|error| CallError::invalid_field("", format!("no call: {error}")))?;
    let route = match &line.on {
        Some(on) => parse_on(on).map_err(|error| CallError::invalid_field("/on", error))?,
        None => Route::new(),
    };
    let options = CallOptions {
        route,
        timeout,
        ..CallOptions::default()
    };
    home.call(
        &line.operation,
        line.input.unwrap_or_else(|| json!({})),
        options,
    )
    .await
}

/// The lines that are not empty, none longer than [`LINE_BYTES_MAX`].
fn lines_of(reader: impl AsyncBufRead + Unpin) -> impl Stream<Item = std::io::Result<String>> {
    stream::try_unfold(reader, |mut reader| async move {
        loop {
            let mut line = String::new();
            if (&mut reader)
                .take(LINE_BYTES_MAX)
                .read_line(&mut line)
                .await?
                == 0
            {
                return Ok(None);
            }
            if line.len() as u64 == LINE_BYTES_MAX {
                let message = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    message,
                ));
            }
            if !line.trim().is_empty() {
                return Ok(Some((line, reader)));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn empty_lines_do_not_count() {
        let lines: Vec<String> = lines_of(&b"{\"a\":1}\n\n  \n{\"b\":2}"[..])
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(lines, ["{\"a\":1}\n", "{\"b\":2}"]);
    }

    #[tokio::test]
    async fn a_line_has_a_limit() {
        let at = vec![b'x'; LINE_BYTES_MAX as usize - 1];
        assert!(pin!(lines_of(at.as_slice())).next().await.unwrap().is_ok());
        let past = vec![b'x'; LINE_BYTES_MAX as usize];
        assert!(
            pin!(lines_of(past.as_slice()))
                .next()
                .await
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn lines_out_are_stable() {
        assert_eq!(
            line_out(0, &Ok(json!(null))),
            r#"{"index":0,"output":null}"#
        );
        assert_eq!(
            line_out(1, &Err(CallError::not_found("a/b"))),
            r#"{"index":1,"error":{"class":"protocol","code":"NOT_FOUND","message":"no operation `a/b`","details":{"operation":"a/b"},"retryable":false}}"#
        );
    }

    #[test]
    fn a_line_is_checked() {
        let line = |text| serde_json::from_str::<Line>(text);
        assert!(line(r#"{"operation":"a/b"}"#).is_ok());
        assert!(line(r#"{"operation":"a/b","inptu":{}}"#).is_err());
        assert!(line(r#"{"input":{}}"#).is_err());
    }
}
