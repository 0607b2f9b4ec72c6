//! Looks for secrets where none may be.
//!
//! A [`Scanner`] knows the secrets of a test, each of which is in the world
//! because the test put it there, and finds them in any bytes: as they are, and
//! in the forms that bytes are written in ([`Form`]). Encodings that take
//! several bytes at once are found at every alignment.
//!
//! Of a long secret three parts are looked for, each of which nobody guesses,
//! so that one that was cut is found too. It finds nothing that was compressed
//! or encrypted, nor a secret that was written a few characters a line.

/// Makes the keys that are looked for, where a test may not use it itself.
pub use alknet_vault as vault;
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

/// Bytes of a secret that are looked for as one; shorter ones are taken whole.
const PART: usize = 12;
/// Fewer bytes than these are found by chance.
const PART_MIN: usize = 8;
/// Words of a mnemonic that are looked for as one.
const WORDS: usize = 4;

/// How a secret was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// As it is.
    Raw,
    /// Hexadecimal, in either case.
    Hex,
    /// Base32 of RFC 4648, in either case.
    Base32,
    /// Base64 of RFC 4648, or its form for URLs.
    Base64,
    /// A list of numbers, as bytes are printed by programmers and by JSON.
    Numbers,
    /// A text in which quotes, backslashes and line ends are escaped.
    Escaped,
    /// A text in which what is no letter and no digit is escaped for URLs.
    Percent,
    /// Four words of a list of words, from its beginning to its end or back.
    Words,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 8] = [
        Form::Raw,
        Form::Hex,
        Form::Base32,
        Form::Base64,
        Form::Numbers,
        Form::Escaped,
        Form::Percent,
        Form::Words,
    ];
}

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Found {
    /// Which one.
    pub secret: String,
    /// How it was written.
    pub form: Form,
    /// Where it begins, or a part of it.
    pub at: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}) at byte {}", self.secret, self.form, self.at)
    }
}

struct Pattern {
    bytes: Vec<u8>,
    secret: usize,
    form: Form,
}

/// Secrets, and what they look like.
#[derive(Default)]
pub struct Scanner {
    secrets: Vec<String>,
    patterns: Vec<Pattern>,
    /// Patterns by their first four bytes.
    by_start: HashMap<u32, Vec<usize>>,
    /// Hashes of the first four bytes: most places are done with after a look
    /// at this.
    starts: Vec<bool>,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.secrets).finish()
    }
}

impl Scanner {
    /// A scanner that knows no secret.
    #[must_use]
    pub fn new() -> Self {
        Self {
            starts: vec![false; 1 << 16],
            ..Self::default()
        }
    }

    /// Looks for this secret from now on.
    ///
    /// # Panics
    ///
    /// If it is so short that it would be found by chance.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= PART_MIN, "`{name}` is too short");
        let of = self.named(name);
        for part in parts(secret) {
            self.put(of, Form::Raw, part.to_vec());
            self.put(of, Form::Hex, HEXLOWER.encode(part).into_bytes());
            self.put(of, Form::Hex, HEXUPPER.encode(part).into_bytes());
            for text in aligned(&BASE32_NOPAD, 5, part) {
                self.put(of, Form::Base32, text.to_ascii_lowercase());
                self.put(of, Form::Base32, text);
            }
            for encoding in [&BASE64_NOPAD, &BASE64URL_NOPAD] {
                for text in aligned(encoding, 6, part) {
                    self.put(of, Form::Base64, text);
                }
            }
            for between in [", ", ","] {
                let numbers: Vec<String> = part.iter().map(u8::to_string).collect();
                // The first may be the end of another number.
                let numbers = numbers[1..].join(between);
                self.put(
                    of,
                    Form::Numbers,
                    format!("{between}{numbers}").into_bytes(),
                );
            }
        }
        // Not of parts: an escape may begin in one and end in the next.
        let Ok(text) = std::str::from_utf8(secret) else {
            return;
        };
        let escaped = [
            serde_json::Value::from(text).to_string(),
            format!("{text:?}"),
        ];
        for escaped in escaped {
            let escaped = &escaped[1..escaped.len() - 1];
            if escaped != text {
                for part in parts(escaped.as_bytes()) {
                    if part.contains(&b'\\') {
                        self.put(of, Form::Escaped, part.to_vec());
                    }
                }
            }
        }
        let percent = percent(secret);
        if percent.as_bytes() != secret {
            for part in parts(percent.as_bytes()) {
                if part.contains(&b'%') {
                    self.put(of, Form::Percent, part.to_vec());
                }
            }
        }
    }

    /// Looks for any four consecutive words of this list from now on.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn add_words(&mut self, name: &str, words: &str) {
        let mut words: Vec<&str> = words.split_whitespace().collect();
        assert!(words.len() >= WORDS, "`{name}` has too few words");
        let of = self.named(name);
        for _ in 0..2 {
            for some in words.windows(WORDS) {
                for between in [" ", "\n", ",", ", ", "\", \"", "\",\"", "-", "\\n", "+"] {
                    self.put(of, Form::Words, some.join(between).into_bytes());
                }
            }
            words.reverse();
        }
    }

    /// Names of the secrets that it knows.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(String::as_str)
    }

    fn named(&mut self, name: &str) -> usize {
        let known = self.secrets.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.secrets.push(name.to_owned());
            self.secrets.len() - 1
        })
    }

    fn put(&mut self, secret: usize, form: Form, bytes: Vec<u8>) {
        let Some(start) = bytes.first_chunk().map(|start| u32::from_le_bytes(*start)) else {
            return;
        };
        self.starts[hash(start)] = true;
        let at = self.patterns.len();
        self.by_start.entry(start).or_default().push(at);
        self.patterns.push(Pattern {
            bytes,
            secret,
            form,
        });
    }

    /// Finds secrets: each form of each once, where it comes first.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Vec<Found> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        let mut start = 0_u32;
        for (at, byte) in bytes.iter().enumerate() {
            start = (start >> 8) | (u32::from(*byte) << 24);
            if at < 3 || !self.starts[hash(start)] {
                continue;
            }
            let Some(candidates) = self.by_start.get(&start) else {
                continue;
            };
            let rest = &bytes[at - 3..];
            for pattern in candidates.iter().map(|at| &self.patterns[*at]) {
                if rest.starts_with(&pattern.bytes) && seen.insert((pattern.secret, pattern.form)) {
                    found.push(Found {
                        secret: self.secrets[pattern.secret].clone(),
                        form: pattern.form,
                        at: at - 3,
                    });
                }
            }
        }
        found
    }
}

fn hash(start: u32) -> usize {
    (start.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

/// What is looked for of a secret: all of it, or its beginning, middle and end.
fn parts(secret: &[u8]) -> Vec<&[u8]> {
    if secret.len() < 2 * PART {
        return vec![secret];
    }
    let middle = (secret.len() - PART) / 2;
    let starts = [0, middle, secret.len() - PART];
    starts.map(|at| &secret[at..at + PART]).to_vec()
}

/// What `part` adds to a text in which every character is so many bits, at
/// each place where it may begin: without what its neighbours have a say in.
fn aligned(encoding: &Encoding, bits: usize, part: &[u8]) -> BTreeSet<Vec<u8>> {
    // 3 bytes are 4 characters, 5 bytes are 8.
    let places = if bits == 6 { 3 } else { 5 };
    let text_at = |place: usize| {
        let padded = [&vec![0; place], part, &[0; 5]].concat();
        let text = encoding.encode(&padded).into_bytes();
        let first = (place * 8).div_ceil(bits);
        let end = (place + part.len()) * 8 / bits;
        text[first..end].to_vec()
    };
    (0..places).map(text_at).collect()
}

fn percent(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(*byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    bytes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &[u8] = b"a \"secret\" that\nis \\ long: 0123456789";
    const WORDS_TOLD: &str = "legal winner thank year wave sausage worth useful";

    fn scanner() -> Scanner {
        let mut scanner = Scanner::new();
        scanner.add("secret", SECRET);
        scanner.add_words("words", WORDS_TOLD);
        scanner
    }

    #[track_caller]
    fn finds(text: impl AsRef<[u8]>, form: Form) {
        let text = [b"before ", text.as_ref(), b" after"].concat();
        let found = scanner().find(&text);
        let told = String::from_utf8_lossy(&text);
        assert!(found.iter().any(|found| found.form == form), "{told}");
        assert!(found.iter().all(|found| found.at >= 7), "{found:?}");
    }

    /// Everything that is looked for, written by others than who looks for it.
    #[test]
    fn every_form_is_found_at_every_alignment() {
        for before in 0..8 {
            for after in 0..8 {
                let text = [&vec![0xa5; before], SECRET, &vec![0x5a; after]].concat();
                finds(&text, Form::Raw);
                finds(HEXLOWER.encode(&text), Form::Hex);
                finds(HEXUPPER.encode(&text), Form::Hex);
                finds(BASE32_NOPAD.encode(&text), Form::Base32);
                finds(BASE32_NOPAD.encode(&text).to_lowercase(), Form::Base32);
                finds(data_encoding::BASE64.encode(&text), Form::Base64);
                finds(BASE64URL_NOPAD.encode(&text), Form::Base64);
                finds(format!("{text:?}"), Form::Numbers);
                finds(serde_json::to_string(&text).unwrap(), Form::Numbers);
            }
        }
        let text = std::str::from_utf8(SECRET).unwrap();
        finds(serde_json::to_string(text).unwrap(), Form::Escaped);
        finds(format!("{text:?}"), Form::Escaped);
        finds("a%20%22secret%22%20that%0Ais%20%5C%20long", Form::Percent);
    }

    #[test]
    fn a_part_of_a_secret_is_found() {
        finds(&SECRET[..PART], Form::Raw);
        finds(&SECRET[SECRET.len() - PART..], Form::Raw);
        finds(HEXLOWER.encode(&SECRET[..20]), Form::Hex);
        finds(BASE64_NOPAD.encode(&SECRET[..20]), Form::Base64);
    }

    #[test]
    fn any_four_words_are_found_also_backwards() {
        for text in [
            "legal winner thank year",
            "wave, sausage, worth, useful",
            "[\"year\",\"wave\",\"sausage\",\"worth\"]",
            "useful worth sausage wave",
            "year\nthank\nwinner\nlegal",
        ] {
            finds(text, Form::Words);
        }
        assert_eq!(scanner().find(b"legal winner thank wave year"), []);
    }

    #[test]
    fn what_is_no_secret_is_none() {
        let told = b"a secret that is short, and 0123456 and a5a5a5a5a5a5a5a5a5a5";
        assert_eq!(scanner().find(told), []);
        assert_eq!(scanner().find(b""), []);
        assert_eq!(scanner().find(&SECRET[1..PART]), []);
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn what_would_be_found_by_chance_is_refused() {
        Scanner::new().add("secret", b"hunter2");
    }
}
