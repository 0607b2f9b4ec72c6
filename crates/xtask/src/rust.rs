//! House rules over Rust source.

use std::ops::Range;

use crate::finding::Finding;
use crate::mask::Mask;
use crate::text::{is_word_at, markers};

/// Past this a file holds more than one topic.
const LINES_MAX: usize = 900;
const LINES_WARN: usize = 700;

/// Crates that talk to people or stand in for the world in tests.
const MAY_PRINT: &[&str] = &[
    "alknet-cli",
    "alknet-bench",
    "alknet-fuzz",
    "alknet-lab",
    "alknet-testkit",
    "xtask",
];
/// Crates whose business is to fail loudly.
const MAY_PANIC: &[&str] = &["alknet-bench", "alknet-fuzz", "alknet-testkit"];

/// What is wrong everywhere, tests included.
const NOWHERE: &[(&str, &str, &str)] = &[
    ("todo!", "unfinished", "finish it, or leave it out"),
    ("unimplemented!", "unfinished", "finish it, or leave it out"),
    ("dbg!", "print", "a leftover of debugging"),
];
const PANICS: &[(&str, &str, &str)] = &[
    (
        ".unwrap()",
        "panic",
        "return an error, or `expect` a fact visible on the same screen",
    ),
    ("panic!", "panic", "libraries return errors"),
];
const PRINTS: &[(&str, &str, &str)] = &[
    ("println!", "print", "libraries never print"),
    ("eprintln!", "print", "libraries never print"),
    ("print!", "print", "libraries never print"),
    ("eprint!", "print", "libraries never print"),
];
const ENVIRONMENT: &[(&str, &str, &str)] = &[
    (
        "std::env",
        "environment",
        "libraries never read the environment",
    ),
    (
        "env::var",
        "environment",
        "libraries never read the environment",
    ),
    (
        "env::var_os",
        "environment",
        "libraries never read the environment",
    ),
    (
        "env::vars",
        "environment",
        "libraries never read the environment",
    ),
    (
        "env::args",
        "environment",
        "libraries never read the command line",
    ),
    (
        "env::home_dir",
        "environment",
        "libraries never read the home directory",
    ),
    (
        "env::current_dir",
        "environment",
        "libraries are told their directory",
    ),
    (
        "dirs::",
        "environment",
        "libraries never read the home directory",
    ),
];

/// Where a file stands, as its path tells.
struct Place<'a> {
    crate_name: &'a str,
    /// In `src/`, so part of what the crate offers.
    is_source: bool,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Self {
        let mut parts = path.split('/');
        let is_crate = parts.next() == Some("crates");
        let crate_name = parts.next().unwrap_or_default();
        Self {
            crate_name,
            is_source: is_crate && parts.next() == Some("src"),
        }
    }
}

/// Checks one file; `is_test` when a parent declares it `#[cfg(test)] mod`.
pub(crate) fn check(path: &str, source: &str, is_test: bool) -> Vec<Finding> {
    let mask = Mask::of(source);
    let place = Place::of(path);
    let mut findings = Vec::new();
    find(&mut findings, path, &mask.code, &[], NOWHERE);
    if place.is_source && !is_test {
        let tests = test_regions(&mask.code);
        if !MAY_PANIC.contains(&place.crate_name) {
            find(&mut findings, path, &mask.code, &tests, PANICS);
        }
        if !MAY_PRINT.contains(&place.crate_name) {
            find(&mut findings, path, &mask.code, &tests, PRINTS);
            find(&mut findings, path, &mask.code, &tests, ENVIRONMENT);
        }
    }
    findings.extend(ignored_tests(path, &mask));
    findings.extend(markers(path, &mask.comments));
    findings.extend(length(path, source));
    findings
}

/// The names of the modules in other files that `source` declares for tests.
pub(crate) fn test_modules(source: &str) -> Vec<String> {
    let code = Mask::of(source).code;
    test_regions(&code)
        .into_iter()
        .filter_map(|region| module_elsewhere(&code[region]))
        .collect()
}

/// `#[cfg(test)] mod name;` declares a file `name.rs`.
fn module_elsewhere(item: &str) -> Option<String> {
    let declaration = item.strip_suffix(';')?;
    let mut words = declaration.split_whitespace().rev();
    let name = words.next()?;
    (words.next() == Some("mod")).then(|| name.to_owned())
}

fn find(
    findings: &mut Vec<Finding>,
    path: &str,
    code: &str,
    exempt: &[Range<usize>],
    rules: &[(&str, &'static str, &str)],
) {
    for (needle, rule, message) in rules {
        for (at, _) in code.match_indices(needle) {
            let is_exempt = exempt.iter().any(|region| region.contains(&at));
            // What the compiler knows of the target is no read of the environment.
            let is_constant = code[at..].starts_with("std::env::consts");
            if !is_exempt && !is_constant && is_word_at(code, at, needle) {
                let message = format!("`{needle}`: {message}");
                findings.push(Finding::error(path, line_at(code, at), rule, message));
            }
        }
    }
}

/// A test that does not run proves nothing, and neither does an example.
fn ignored_tests(path: &str, mask: &Mask) -> Vec<Finding> {
    let attributes = attributes(&mask.code).into_iter().filter(|region| {
        let text = mask.code[region.clone()]
            .trim_start_matches(['#', '['])
            .trim_start();
        let is_ignore = text.starts_with("ignore") && is_word_at(text, 0, "ignore");
        is_ignore || (text.starts_with("cfg_attr") && text.contains("ignore"))
    });
    let attributes = attributes.map(|region| {
        let line = line_at(&mask.code, region.start);
        Finding::error(path, line, "ignored", "run the test, or remove it")
    });
    let lines = mask.comments.lines().enumerate().filter(|(_, line)| {
        let text = line
            .trim_start()
            .trim_start_matches(['/', '!', '*'])
            .trim_start();
        text.strip_prefix("```")
            .is_some_and(|info| info.contains("ignore"))
    });
    let examples = lines.map(|(index, _)| {
        let message = "an example that is not compiled: use `no_run` or `text`";
        Finding::error(path, index + 1, "ignored", message)
    });
    attributes.chain(examples).collect()
}

fn length(path: &str, source: &str) -> Option<Finding> {
    let lines = source.lines().count();
    let message = format!("{lines} lines, at most {LINES_MAX}: one topic a file");
    if lines > LINES_MAX {
        return Some(Finding::error(path, lines, "length", message));
    }
    (lines > LINES_WARN).then(|| Finding::warning(path, lines, "length", message))
}

/// The items under `#[test]` and `#[cfg(test)]`, attributes included.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let marks_test = |region: &Range<usize>| {
        let compact: String = code[region.clone()].split_whitespace().collect();
        let inner = compact.trim_start_matches("#[").trim_end_matches(']');
        let call = inner.split('(').next().unwrap_or_default();
        call == "test"
            || call.ends_with("::test")
            || inner.starts_with("cfg(test")
            || inner.starts_with("cfg(all(test")
    };
    let starts = attributes(code).into_iter().filter(marks_test);
    starts
        .map(|region| region.start..item_end(code, region.end))
        .collect()
}

/// Every outer attribute, `#[` to `]`.
fn attributes(code: &str) -> Vec<Range<usize>> {
    let openings = code.match_indices("#[");
    openings
        .map(|(start, _)| start..closing(code, start + 1, b'[', b']'))
        .collect()
}

/// Where the item that starts at `from` ends, past its own attributes.
fn item_end(code: &str, mut from: usize) -> usize {
    let bytes = code.as_bytes();
    while from < bytes.len() {
        match bytes[from] {
            b'{' => return closing(code, from, b'{', b'}'),
            b';' => return from + 1,
            b'[' => from = closing(code, from, b'[', b']'),
            b'(' => from = closing(code, from, b'(', b')'),
            _ => from += 1,
        }
    }
    bytes.len()
}

/// One past the bracket that closes the one at `from`.
fn closing(code: &str, from: usize, open: u8, close: u8) -> usize {
    let mut depth = 0_usize;
    for (index, byte) in code.bytes().enumerate().skip(from) {
        if byte == open {
            depth += 1;
        } else if byte == close {
            depth -= 1;
            if depth == 0 {
                return index + 1;
            }
        }
    }
    code.len()
}

fn line_at(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: &str = "crates/alknet-core/src/call.rs";

    #[track_caller]
    fn check_source(path: &str, source: &str, want: &[(usize, &str)]) {
        let found = check(path, source, false);
        let places: Vec<_> = found.iter().map(|found| (found.line, found.rule)).collect();
        assert_eq!(places, want, "{found:?}");
    }

    #[test]
    fn unfinished_code_is_found_in_tests_too() {
        let source = "fn a() { todo!() }\n#[test]\nfn b() { unimplemented!() }\n";
        check_source(LIBRARY, source, &[(1, "unfinished"), (3, "unfinished")]);
        check_source(
            "crates/alknet-core/tests/it/main.rs",
            "dbg!(1);",
            &[(1, "print")],
        );
    }

    #[test]
    fn panics_are_found_in_libraries() {
        let source = "fn a() {\n  b.unwrap();\n  panic!(\"no\")\n}";
        check_source(LIBRARY, source, &[(2, "panic"), (3, "panic")]);
    }

    #[test]
    fn what_only_looks_like_a_panic_is_not() {
        let source = "a.unwrap_or(b); c.expect(\"panic!\"); catch_panic!(); // .unwrap()";
        check_source(LIBRARY, source, &[]);
    }

    #[test]
    fn panics_are_fine_in_tests_and_the_testkit() {
        let unwrap = "fn a() { b.unwrap() }";
        check_source("crates/alknet-core/tests/it/main.rs", unwrap, &[]);
        check_source("crates/alknet-core/examples/a.rs", unwrap, &[]);
        check_source("crates/alknet-testkit/src/lib.rs", unwrap, &[]);
        check_source(
            LIBRARY,
            &format!("#[cfg(test)]\nmod tests {{ {unwrap} }}"),
            &[],
        );
        check_source(
            LIBRARY,
            &format!("#[tokio::test(start_paused = true)]\nasync {unwrap}"),
            &[],
        );
    }

    #[test]
    fn code_after_the_tests_is_checked_again() {
        let source = "#[cfg(test)]\nmod tests { fn a() { b.unwrap() } }\nfn c() { d.unwrap() }";
        check_source(LIBRARY, source, &[(3, "panic")]);
        check_source(
            LIBRARY,
            "#[cfg(test)]\nuse a::b;\nfn c() { d.unwrap() }",
            &[(3, "panic")],
        );
    }

    #[test]
    fn code_that_is_not_only_for_tests_is_checked() {
        let source = "#[cfg(not(test))]\nfn a() { b.unwrap() }";
        check_source(LIBRARY, source, &[(2, "panic")]);
    }

    #[test]
    fn prints_are_for_the_program_only() {
        check_source(
            LIBRARY,
            "println!(); eprint!();",
            &[(1, "print"), (1, "print")],
        );
        check_source(
            "crates/alknet-cli/src/lib.rs",
            "println!(); eprintln!();",
            &[],
        );
    }

    #[test]
    fn the_environment_is_for_the_program_only() {
        check_source(LIBRARY, "std::env::var(\"HOME\")", &[(1, "environment"); 2]);
        check_source(LIBRARY, "dirs::data_dir()", &[(1, "environment")]);
        check_source("crates/alknet-cli/src/lib.rs", "std::env::args()", &[]);
    }

    #[test]
    fn what_the_compiler_knows_is_no_environment() {
        check_source(
            LIBRARY,
            "std::env::consts::OS; env!(\"CARGO_PKG_VERSION\")",
            &[],
        );
    }

    #[test]
    fn ignored_tests_are_found() {
        check_source(
            LIBRARY,
            "#[test]\n#[ignore = \"slow\"]\nfn a() {}",
            &[(2, "ignored")],
        );
        check_source(
            LIBRARY,
            "#[cfg_attr(windows, ignore)]\nfn a() {}",
            &[(1, "ignored")],
        );
        check_source(
            LIBRARY,
            "/// ```rust,ignore\n/// a\n/// ```",
            &[(1, "ignored")],
        );
        check_source(LIBRARY, "#[serde(ignored)]\nfn ignore() {}", &[]);
    }

    #[test]
    fn markers_are_found_in_comments_only() {
        let marker = concat!("TO", "DO");
        check_source(
            LIBRARY,
            &format!("a(); // {marker}: later"),
            &[(1, "marker")],
        );
        check_source(LIBRARY, &format!("let a = \"{marker}\";"), &[]);
    }

    #[test]
    fn length_is_found_at_one_past_the_limit() {
        let lines = |count| "a;\n".repeat(count);
        check_source(LIBRARY, &lines(LINES_WARN), &[]);
        check_source(LIBRARY, &lines(LINES_MAX + 1), &[(LINES_MAX + 1, "length")]);
        let warned = check(LIBRARY, &lines(LINES_MAX), false);
        assert_eq!(warned[0].severity, crate::finding::Severity::Warning);
    }

    #[test]
    fn test_modules_in_other_files_are_named() {
        let source = "#[cfg(test)]\nmod vectors;\n#[cfg(test)]\npub(crate) mod fakes;\nmod real;";
        assert_eq!(test_modules(source), ["vectors", "fakes"]);
        assert!(check(LIBRARY, "fn a() { b.unwrap() }", true).is_empty());
    }
}
