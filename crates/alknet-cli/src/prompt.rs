//! Questions to a person at a terminal.

use crate::failure::Failure;
use std::io::{BufRead, Write};

/// Shows a question on standard error and reads one line of the answer.
///
/// # Errors
///
/// If standard input ends or cannot be read.
pub(crate) async fn ask(question: String) -> Result<String, Failure> {
    let reading = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{question}")?;
        stderr.flush()?;
        let mut line = String::new();
        match std::io::stdin().lock().read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim().to_owned()),
        }
    });
    let failed = |reason: String| Failure::local(format!("no answer could be read: {reason}"));
    match reading.await {
        Ok(Ok(line)) => Ok(line),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Says why an answer will not do.
pub(crate) fn tell(text: &str) {
    // If standard error is gone, so is whoever would read it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether the answer to a question is yes; anything else is no.
///
/// # Errors
///
/// If there is no answer.
pub(crate) async fn confirm(question: &str) -> Result<bool, Failure> {
    let answer = ask(format!("{question} [y/N] ")).await?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}
