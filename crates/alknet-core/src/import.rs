//! The one seam for foreign operations.

use crate::{error::CallError, operation::Registration};
use async_trait::async_trait;

/// Why an import failed as a whole. What is wrong with single operations is
/// reported by the registry, by name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The source could not be reached.
    #[error("failed to reach the import's source")]
    Unreachable(#[source] CallError),
    /// The source offers more than an import may.
    #[error("the import offers {found} {what}, at most {max} are taken")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much was found.
        found: usize,
        /// How much is taken.
        max: usize,
    },
    /// The same name twice from one source.
    #[error("the import offers `{name}` twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// The source's document is not understood.
    #[error("the import is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

/// Operations an import may have.
pub const IMPORT_OPERATIONS_MAX: usize = 50_000;
/// Bytes of schema text of one import.
pub const IMPORT_SCHEMA_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Turns foreign operations into registrations.
///
/// Imports are leaves: they compose nothing, are internal until someone here
/// exposes them, and carry the access rule that the importer assigns.
#[async_trait]
pub trait OperationAdapter: Send + Sync {
    /// Reads the source.
    ///
    /// # Errors
    ///
    /// [`ImportError`] if it cannot be reached or understood.
    async fn import(&self) -> Result<Vec<Registration>, ImportError>;
}

/// Makes a foreign text safe to print: characters that control a terminal or
/// turn the direction of writing go, and it is cut at `chars_max` characters.
#[must_use]
pub fn clean_foreign_text(text: &str, chars_max: usize) -> String {
    let visible = |c: &char| (!c.is_control() || *c == '\n') && !turns_direction(*c);
    let mut kept = text.chars().filter(visible);
    let mut out: String = kept.by_ref().take(chars_max).collect();
    if kept.next().is_some() {
        out.push('…');
    }
    out
}

/// Marks, embeddings, overrides and isolates of the Unicode bidirectional
/// algorithm (UAX #9).
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::clean_foreign_text;

    #[test]
    fn foreign_text_cannot_control_a_terminal() {
        let clean = |text| clean_foreign_text(text, 80);
        assert_eq!(clean("a\u{1b}[2Jb\r\u{9b}1m\nc\0"), "a[2Jb1m\nc");
        assert_eq!(clean("safe\u{202e}gpj.exe"), "safegpj.exe");
        assert_eq!(clean("Grüße"), "Grüße");
    }

    #[test]
    fn foreign_text_is_cut_between_characters() {
        assert_eq!(clean_foreign_text("ääää", 4), "ääää");
        assert_eq!(clean_foreign_text("äääää", 4), "ääää…");
    }
}
