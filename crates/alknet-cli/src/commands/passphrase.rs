//! Passphrases and other secrets: from a file, from standard input, or typed
//! unseen; never from the command line.

use crate::{failure::Failure, node_access::Secret};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::{
    fs::File,
    io::{BufRead, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Longest passphrase file that is read; longer passphrases open nothing.
const BYTES_MAX: u64 = 4096;
/// Longest secret that is read: more than any operation takes.
const SECRET_BYTES_MAX: u64 = 128 * 1024;

/// Reads the passphrase that `--passphrase-file` names: a file, or standard
/// input for `-`.
///
/// # Errors
///
/// As [`read_passphrase_file`].
pub(crate) async fn read_given(path: &Path) -> Result<Secret, Failure> {
    match path == Path::new("-") {
        true => read_stdin().await,
        false => read_passphrase_file(path),
    }
}

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
    if meta.is_file() && mode & others_bits(path) != 0 {
        let message = format!(
            "`{}` can be read by others (mode {mode:03o})",
            path.display()
        );
        return Err(Failure::local(message).hint(format!("chmod go= {}", path.display())));
    }
    read(file, BYTES_MAX, &format!("`{}`", path.display()))
}

/// Reads a secret from a file, without the end of its last line. Who else may
/// read it is not asked: it may be anything.
///
/// # Errors
///
/// If it cannot be read, is too long, or holds no text.
pub(crate) fn read_secret(path: &Path) -> Result<Secret, Failure> {
    let file = File::open(path).map_err(|error| Failure::io("read", path, &error))?;
    read(file, SECRET_BYTES_MAX, &format!("`{}`", path.display()))
}

/// The same from standard input.
///
/// # Errors
///
/// If it cannot be read, is too long, or holds no text.
pub(crate) async fn read_stdin() -> Result<Secret, Failure> {
    let reading = || read(std::io::stdin().lock(), SECRET_BYTES_MAX, "standard input");
    let read = tokio::task::spawn_blocking(reading).await;
    read.map_err(|error| Failure::local(format!("failed to read standard input: {error}")))?
}

/// What is said to whoever wrote the words into a command.
pub(crate) fn words_in_command(hint: &str) -> Failure {
    let message = "the words are not taken from the command line, where other users see them";
    Failure::usage(message).hint(format!("{hint} reads them from standard input"))
}

/// Modes with which a file is not its owner's alone. What systemd hands to a
/// service (`LoadCredential=`) is readable by the service's user through an
/// access control list, whose mask shows as the group's bits.
fn others_bits(path: &Path) -> u32 {
    let handed = std::env::var_os("CREDENTIALS_DIRECTORY");
    match handed.is_some_and(|directory| path.parent() == Some(Path::new(&directory))) {
        true => 0o007,
        false => 0o077,
    }
}

fn read(from: impl Read, bytes_max: u64, name: &str) -> Result<Secret, Failure> {
    // One allocation, so that growing leaves no copies behind.
    let mut bytes = Vec::with_capacity(bytes_max as usize + 1);
    let read = from.take(bytes_max + 1).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() as u64 > bytes_max {
        let why = match read {
            Err(error) => error.to_string(),
            Ok(_) => format!("it has more than {bytes_max} bytes"),
        };
        drop(Secret::new(bytes));
        return Err(Failure::local(format!("failed to read {name}: {why}")));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let secret = Secret::new(bytes);
    match secret.expose_text() {
        Some(text) if !text.is_empty() => Ok(secret),
        Some(_) => Err(Failure::local(format!("{name} is empty"))),
        None => Err(Failure::local(format!("{name} holds no text (UTF-8)"))),
    }
}

/// Asks for a secret on the terminal, without showing it.
///
/// # Errors
///
/// If there is no answer, or the terminal cannot be kept from showing it.
pub(crate) async fn ask(question: &'static str) -> Result<Secret, Failure> {
    let failed = |reason: String| Failure::local(format!("nothing could be read: {reason}"));
    // Held here and not by the thread that reads: whoever presses Ctrl-C gets
    // the terminal back as it was.
    let hidden = Hidden::begin().map_err(|error| failed(error.to_string()))?;
    let asking = tokio::task::spawn_blocking(move || -> std::io::Result<Secret> {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{question}")?;
        stderr.flush()?;
        let mut line = Vec::with_capacity(BYTES_MAX as usize);
        let read = std::io::stdin().lock().read_until(b'\n', &mut line);
        writeln!(stderr)?;
        if read? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
            line.pop();
        }
        Ok(Secret::new(line))
    });
    let asked = asking.await;
    drop(hidden);
    match asked {
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
