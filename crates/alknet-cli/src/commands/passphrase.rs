//! Passphrases: from a file that nobody else may read, or typed unseen.

use crate::{failure::Failure, node_access::Secret};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::{
    fs::File,
    io::{BufRead, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Longest file that is read; longer passphrases open nothing.
const BYTES_MAX: u64 = 4096;

/// Reads a passphrase: the file without the end of its last line.
///
/// # Errors
///
/// If it cannot be read, others may read it, or it holds no passphrase.
pub(crate) fn read_passphrase_file(path: &Path) -> Result<Secret, Failure> {
    let failed = |error: std::io::Error| Failure::io("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let mode = meta.permissions().mode() & 0o777;
    // A pipe (`<(pass show alknet)`) is its makers' alone.
    if meta.is_file() && mode & 0o077 != 0 {
        let message = format!(
            "`{}` can be read by others (mode {mode:03o})",
            path.display()
        );
        return Err(Failure::local(message).hint(format!("chmod go= {}", path.display())));
    }
    // One allocation, so that growing leaves no copies behind.
    let mut bytes = Vec::with_capacity(BYTES_MAX as usize + 1);
    let read = file.take(BYTES_MAX).read_to_end(&mut bytes);
    read.map_err(failed)?;
    while bytes.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        bytes.pop();
    }
    let secret = Secret::new(bytes);
    match secret.expose_text() {
        Some(text) if !text.is_empty() => Ok(secret),
        _ => Err(Failure::local(format!(
            "`{}` holds no passphrase",
            path.display()
        ))),
    }
}

/// Asks for a passphrase on the terminal, without showing it.
///
/// # Errors
///
/// If there is no answer, or the terminal cannot be kept from showing it.
pub(crate) async fn ask(question: &'static str) -> Result<Secret, Failure> {
    let asking = tokio::task::spawn_blocking(move || -> std::io::Result<Secret> {
        let hidden = Hidden::begin()?;
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{question}")?;
        stderr.flush()?;
        let mut line = Vec::with_capacity(BYTES_MAX as usize);
        let read = std::io::stdin().lock().read_until(b'\n', &mut line);
        drop(hidden);
        writeln!(stderr)?;
        if read? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
            line.pop();
        }
        Ok(Secret::new(line))
    });
    let failed = |reason: String| Failure::local(format!("no passphrase could be read: {reason}"));
    match asking.await {
        Ok(Ok(secret)) if secret.expose_text().is_some() => Ok(secret),
        Ok(Ok(_)) => Err(failed("it is no UTF-8 text".into())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The terminal shows nothing that is typed until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing anyway.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, path::PathBuf};

    fn file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("phrase");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_passphrase_is_its_file_without_the_end_of_the_line() {
        for content in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let (_dir, path) = file(content, 0o600);
            let secret = read_passphrase_file(&path).unwrap();
            assert_eq!(secret.expose_text(), Some("correct horse"));
        }
    }

    #[test]
    fn a_file_that_others_may_read_or_that_is_empty_is_refused() {
        for (content, mode) in [
            ("correct horse", 0o640),
            ("correct horse", 0o604),
            ("\n", 0o600),
        ] {
            let (_dir, path) = file(content, mode);
            let failure = read_passphrase_file(&path).unwrap_err();
            assert!(!failure.to_string().contains("horse"), "{failure}");
        }
    }
}
