//! Patterns of names, as a shell has them (POSIX.1-2024, XCU 2.14): `*`, `?`
//! and `[...]`. Names are bytes: one that is no UTF-8 counts as a character of
//! its own.

/// A pattern of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Token>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    One,
    /// `*`
    Many,
    /// `[a-z]`, `[!a-z]`: pairs of the first and the last character.
    Class {
        is_negated: bool,
        ranges: Vec<(u32, u32)>,
    },
}

/// Above all characters: bytes that are none.
const NO_CHARACTER: u32 = 0x0011_0000;

impl Pattern {
    /// Reads a pattern in which `%XX` stands for a byte as it is; none if
    /// nothing in it is special, or an escape is bad.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.contains(['*', '?', '[']) {
            return None;
        }
        let mut tokens = Vec::new();
        let mut is_pattern = false;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let mut taken = c.len_utf8();
            match c {
                '*' => tokens.push(Token::Many),
                '?' => tokens.push(Token::One),
                '[' => match class(rest) {
                    Some((token, len)) => {
                        taken = len;
                        tokens.push(token);
                    }
                    None => tokens.push(Token::Byte(b'[')),
                },
                '%' => {
                    tokens.push(Token::Byte(escape(rest)?));
                    taken = 3;
                }
                _ => tokens.extend(
                    rest.as_bytes()[..taken]
                        .iter()
                        .map(|byte| Token::Byte(*byte)),
                ),
            }
            is_pattern |= !matches!(tokens.last(), Some(Token::Byte(_)));
            rest = &rest[taken..];
        }
        is_pattern.then_some(Self(tokens))
    }

    /// Whether a name is meant. One that begins with a dot is only if the
    /// pattern does too.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        if name.first() == Some(&b'.') && self.0.first() != Some(&Token::Byte(b'.')) {
            return false;
        }
        let (mut token, mut at) = (0, 0);
        // Where to go on when a `*` takes one character more.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match self.0.get(token) {
                Some(Token::Many) => {
                    star = Some((token + 1, at));
                    token += 1;
                    continue;
                }
                Some(one) => one.takes(&name[at..]),
                None if at == name.len() => return true,
                None => None,
            };
            match (step, star) {
                (Some(len), _) => (token, at) = (token + 1, at + len),
                (None, Some((after, from))) if from < name.len() => {
                    let next = from + unit(&name[from..]).1;
                    star = Some((after, next));
                    (token, at) = (after, next);
                }
                (None, _) => return false,
            }
        }
    }
}

impl Token {
    /// How many bytes of what is left it takes, if it does.
    fn takes(&self, rest: &[u8]) -> Option<usize> {
        let first = *rest.first()?;
        match self {
            Token::Byte(byte) => (*byte == first).then_some(1),
            Token::One => Some(unit(rest).1),
            Token::Many => Some(0),
            Token::Class { is_negated, ranges } => {
                let (character, len) = unit(rest);
                let is_in = ranges
                    .iter()
                    .any(|(from, to)| (*from..=*to).contains(&character));
                (is_in != *is_negated).then_some(len)
            }
        }
    }
}

/// The first character of these bytes, which are some, and its length.
fn unit(bytes: &[u8]) -> (u32, usize) {
    let start = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default(),
    };
    match (valid.chars().next(), bytes.first()) {
        (Some(c), _) => (u32::from(c), c.len_utf8()),
        (None, Some(byte)) => (NO_CHARACTER + u32::from(*byte), 1),
        (None, None) => (NO_CHARACTER, 0),
    }
}

/// The byte of `%XX` at the beginning.
fn escape(text: &str) -> Option<u8> {
    let digits = text.get(1..3)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)
}

/// `[...]` at the beginning, and its length; nothing if it has no end.
fn class(text: &str) -> Option<(Token, usize)> {
    let mut rest = text.strip_prefix('[')?;
    let is_negated = rest.starts_with(['!', '^']);
    rest = &rest[usize::from(is_negated)..];
    let mut ranges = Vec::new();
    let mut is_first = true;
    loop {
        let c = rest.chars().next()?;
        if c == ']' && !is_first {
            break;
        }
        is_first = false;
        let (from, len) = class_character(rest)?;
        rest = &rest[len..];
        let range = rest.strip_prefix('-').filter(|end| !end.starts_with(']'));
        let to = match range {
            Some(end) => {
                let (to, len) = class_character(end)?;
                rest = &end[len..];
                to
            }
            None => from,
        };
        ranges.push((from, to));
    }
    let token = Token::Class { is_negated, ranges };
    Some((token, text.len() - rest.len() + 1))
}

/// A character of a class, which may be escaped byte by byte.
fn class_character(text: &str) -> Option<(u32, usize)> {
    if !text.starts_with('%') {
        let c = text.chars().next()?;
        return Some((u32::from(c), c.len_utf8()));
    }
    let mut bytes = Vec::new();
    let mut rest = text;
    while rest.starts_with('%') && bytes.len() < 4 {
        bytes.push(escape(rest)?);
        rest = &rest[3..];
    }
    let (character, len) = unit(&bytes);
    Some((character, len * 3))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&[u8]], no: &[&[u8]]) {
        let parsed = Pattern::parse(pattern).unwrap();
        for name in yes {
            assert!(parsed.matches(name), "{pattern} {name:?}");
        }
        for name in no {
            assert!(!parsed.matches(name), "{pattern} {name:?}");
        }
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        check(
            "*.txt",
            &[b"a.txt", b"\xff.txt"],
            &[b".txt", b"a.txt2", b"a"],
        );
        check("*", &[b"a", b"\n", b"a.b"], &[b".a"]);
        check(".*", &[b".a"], &[b"a"]);
        check("a*b*c", &[b"abc", b"aXbbYcc"], &[b"ab", b"acb", b"abcd"]);
        check(
            "?",
            &["é".as_bytes(), b"\xff", b"a"],
            &[b"ab", "éé".as_bytes()],
        );
        check("[a-cx]1", &[b"a1", b"x1"], &[b"d1", b"1", b"-1"]);
        check("[!a-c]", &[b"d", "é".as_bytes()], &[b"a", b"dd"]);
        check("*[!é]", &[b"a"], &["é".as_bytes()]);
        check("[]a-]", &[b"]", b"a", b"-"], &[b"b"]);
        check("[à-ü]", &["é".as_bytes()], &[b"e"]);
    }

    #[test]
    fn what_is_escaped_means_itself() {
        check("%2A*", &[b"*", b"*a"], &[b"a*"]);
        check("[%5D%C3%A9]", &[b"]", "é".as_bytes()], &[b"%", b"5"]);
        check("%FF?", &[b"\xffa"], &[b"\xfea"]);
        for plain in ["a", "a%2A", "[a", "a]", "[", "100%25"] {
            assert_eq!(Pattern::parse(plain), None, "{plain}");
        }
        assert_eq!(Pattern::parse("*%"), None);
        assert_eq!(Pattern::parse("*%+1"), None);
    }

    /// Backtracking is linear in each star.
    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::parse(&format!("{}b", "a*".repeat(100))).unwrap();
        assert!(!pattern.matches(&[b'a'; 255]));
    }

    proptest! {
        /// As a regular expression would: by trying every split.
        #[test]
        fn it_matches_what_trying_everything_matches(
            pattern in "[ab*?]{0,6}",
            name in "[ab]{1,6}",
        ) {
            fn tried(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| tried(rest, &name[at..])),
                    ([b'?', rest @ ..], [_, others @ ..]) => tried(rest, others),
                    ([byte, rest @ ..], [first, others @ ..]) => byte == first && tried(rest, others),
                    _ => false,
                }
            }
            if let Some(parsed) = Pattern::parse(&pattern) {
                prop_assert_eq!(parsed.matches(name.as_bytes()), tried(pattern.as_bytes(), name.as_bytes()));
            }
        }

        #[test]
        fn any_text_is_a_pattern_or_none(
            pattern in "(\\[|\\]|!|-|%|[0-9A-F]|é|\\*|\\?|a){0,12}",
            name in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            if let Some(parsed) = Pattern::parse(&pattern) {
                parsed.matches(&name);
            }
        }
    }
}
