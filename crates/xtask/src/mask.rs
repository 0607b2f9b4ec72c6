//! Splits Rust source into code and comments, without parsing it.

/// One source in two layers of the same shape.
///
/// Each layer has the lines of the source; what belongs to another layer is
/// blank, so that a word in a string is never taken for code.
pub(crate) struct Mask {
    /// Without comments and without the contents of string and char literals.
    pub(crate) code: String,
    /// Only the comments.
    pub(crate) comments: String,
}

impl Mask {
    pub(crate) fn of(source: &str) -> Self {
        let mut layers = Layers {
            source: source.as_bytes(),
            at: 0,
            code: Vec::with_capacity(source.len()),
            comments: Vec::with_capacity(source.len()),
        };
        while layers.at < layers.source.len() {
            layers.step();
        }
        Self {
            code: String::from_utf8_lossy(&layers.code).into_owned(),
            comments: String::from_utf8_lossy(&layers.comments).into_owned(),
        }
    }
}

#[derive(Clone, Copy)]
enum Layer {
    Code,
    Comment,
    Literal,
}

struct Layers<'a> {
    source: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Layers<'_> {
    /// Moves over one token, or one byte of code.
    fn step(&mut self) {
        let rest = &self.source[self.at..];
        if rest.starts_with(b"//") {
            let len = rest
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len());
            self.take(len, Layer::Comment);
        } else if rest.starts_with(b"/*") {
            self.take(block_comment_len(rest), Layer::Comment);
        } else if let Some(opening) = self.raw_string_opening() {
            self.take_raw_string(opening);
        } else if rest[0] == b'"' {
            self.take_quoted(b'"');
        } else if is_char_literal(rest) {
            self.take_quoted(b'\'');
        } else {
            self.take(1, Layer::Code);
        }
    }

    fn take(&mut self, len: usize, layer: Layer) {
        let end = (self.at + len).min(self.source.len());
        for byte in &self.source[self.at..end] {
            let blank = if *byte == b'\n' { b'\n' } else { b' ' };
            let keep = |wanted: bool| if wanted { *byte } else { blank };
            self.code.push(keep(matches!(layer, Layer::Code)));
            self.comments.push(keep(matches!(layer, Layer::Comment)));
        }
        self.at = end;
    }

    /// Takes a literal with backslash escapes, quotes included.
    fn take_quoted(&mut self, quote: u8) {
        self.take(1, Layer::Code);
        let rest = &self.source[self.at..];
        let mut len = 0;
        while len < rest.len() && rest[len] != quote {
            len += if rest[len] == b'\\' { 2 } else { 1 };
        }
        self.take(len, Layer::Literal);
        self.take(1, Layer::Code);
    }

    /// How many bytes open a raw string here: `r"`, `br##"` and the like.
    fn raw_string_opening(&self) -> Option<usize> {
        let follows_name = self.at > 0 && is_name_byte(self.source[self.at - 1]);
        let rest = &self.source[self.at..];
        let prefix = if rest.starts_with(b"br") || rest.starts_with(b"cr") {
            2
        } else {
            1
        };
        if follows_name || rest.get(prefix - 1) != Some(&b'r') {
            return None;
        }
        let hashes = rest[prefix..]
            .iter()
            .take_while(|byte| **byte == b'#')
            .count();
        (rest.get(prefix + hashes) == Some(&b'"')).then_some(prefix + hashes + 1)
    }

    fn take_raw_string(&mut self, opening: usize) {
        let hashes = self.source[self.at..self.at + opening]
            .iter()
            .filter(|byte| **byte == b'#')
            .count();
        let closing = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
        self.take(opening, Layer::Code);
        let rest = &self.source[self.at..];
        let len = rest
            .windows(closing.len())
            .position(|window| window == closing);
        self.take(len.unwrap_or(rest.len()), Layer::Literal);
        self.take(closing.len(), Layer::Code);
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_char_literal(rest: &[u8]) -> bool {
    let [b'\'', first, after @ ..] = rest else {
        return false;
    };
    let width = match first {
        b'\\' => return true,
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    after.get(width - 1) == Some(&b'\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, code: &str, comments: &str) {
        let mask = Mask::of(source);
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&mask.code), code);
        assert_eq!(squeeze(&mask.comments), comments);
        assert_eq!(mask.code.lines().count(), source.lines().count());
    }

    #[test]
    fn line_comments_are_not_code() {
        check("let a = 1; // why\nlet b;", "let a = 1; let b;", "// why");
    }

    #[test]
    fn block_comments_nest() {
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
    }

    #[test]
    fn strings_are_blank_and_hide_comments() {
        check(r#"say("// not", b"x\"y", 1)"#, r#"say(" ", b" ", 1)"#, "");
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        check("a(r##\"b\"# c\"##, d)", "a(r##\" \"##, d)", "");
    }

    #[test]
    fn raw_identifiers_are_code() {
        check("r#type + for_r\"x\"", "r#type + for_r\" \"", "");
    }

    #[test]
    fn chars_are_blank_and_lifetimes_are_not() {
        check(
            "f::<'a>('\"', '\\'', 'é', x) // end",
            "f::<'a>(' ', ' ', ' ', x)",
            "// end",
        );
    }
}
