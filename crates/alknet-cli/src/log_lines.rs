//! One event, one line: what others wrote does not begin a line of the log.

use std::io::{self, Write};

/// Writes each event as one line. A line break in it, which a peer may have
/// sent, would begin a line of the log that the peer wrote: whoever reads the
/// log, fail2ban above all, would take that for the node's word.
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: Write> Write for OneLine<W> {
    /// The subscriber hands over one whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        if line.chars().any(breaks) {
            let escaped: String = line.chars().map(Shown).map(|c| c.to_string()).collect();
            self.0.write_all(format!("{escaped}{end}").as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What ends a line for some reader: the journal also takes NUL, and others
/// what Unicode says (UAX #14). The escape character is the subscriber's own,
/// for colours: it writes those of others as text.
fn breaks(c: char) -> bool {
    (c.is_control() && c != '\t' && c != '\u{1b}') || matches!(c, '\u{2028}' | '\u{2029}')
}

struct Shown(char);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match breaks(self.0) {
            true => write!(f, "{}", self.0.escape_default()),
            false => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::OneLine;
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        const FORGED: &str = "2026-11-20T00:00:00Z  WARN alknet::auth: repeated authentication failures from 198.51.100.7: count=9 last=x";
        let kept = Kept::default();
        let out = kept.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false);
        let lines = lines.with_writer(move || OneLine(out.clone()));
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            for end in ["\n", "\r\n", "\r", "\0", "\u{85}", "\u{2028}", "\u{b}"] {
                let cause = format!("gone{end}{FORGED}{end}");
                tracing::warn!(%cause, "a peer cannot be imported: {cause}");
            }
            tracing::warn!("grüße\tan alle");
        });
        let kept = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = kept
            .split(['\n', '\r', '\0', '\u{85}', '\u{2028}', '\u{b}'])
            .collect();
        assert_eq!(lines.len(), 9, "{kept}");
        assert!(
            lines[..8].iter().all(|line| line.contains("log_lines")),
            "{kept}"
        );
        assert!(lines[7].ends_with("grüße\tan alle"), "{kept}");
        assert!(lines[0].contains("gone\\n2026"), "{kept}");
    }
}
