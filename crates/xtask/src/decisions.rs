//! The shape of a decision record.

use std::collections::BTreeMap;

use crate::finding::Finding;
use crate::links::without_code;

pub(crate) const FOLDER: &str = "docs/architecture/decisions/";

/// In this order, so that every record reads alike.
const HEADINGS: &[&str] = &["Context", "Choice", "Alternatives", "Consequences"];

/// True for a file that must be a record.
pub(crate) fn is_record(path: &str) -> bool {
    let name = path
        .strip_prefix(FOLDER)
        .filter(|name| name.ends_with(".md"));
    name.is_some_and(|name| name != "README.md")
}

/// Checks one record's name and headings.
pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if number(path).is_none() {
        let message = "name it `NNNN-title-in-words.md`";
        findings.push(Finding::error(path, 1, "decision", message));
    }
    if !text.starts_with("# ") {
        findings.push(Finding::error(
            path,
            1,
            "decision",
            "begin with a title: `# NNNN. Title`",
        ));
    }
    let plain = without_code(text);
    let headings = plain
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(str::trim);
    let found: Vec<&str> = headings
        .filter(|heading| HEADINGS.contains(heading))
        .collect();
    if found != HEADINGS {
        let message = format!("needs the headings {}, in this order", HEADINGS.join(", "));
        findings.push(Finding::error(path, 1, "decision", message));
    }
    findings
}

/// Finds numbers that two records share.
pub(crate) fn check_numbers<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<Finding> {
    let mut first = BTreeMap::new();
    let mut findings = Vec::new();
    for path in paths {
        let Some(number) = number(path) else { continue };
        if let Some(other) = first.insert(number, path) {
            let message = format!("number {number} is taken by `{other}`");
            findings.push(Finding::error(path, 1, "decision", message));
        }
    }
    findings
}

/// The number of a well-named record.
fn number(path: &str) -> Option<&str> {
    let name = path.strip_prefix(FOLDER)?.strip_suffix(".md")?;
    let (number, title) = name.split_once('-')?;
    let is_number = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (is_number && title.split('-').all(is_word)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# 1. One door\n\n## Context\n\n## Choice\n\n## Alternatives\n\n## Consequences\n\n## Later\n";

    #[track_caller]
    fn check_record(name: &str, text: &str, findings: usize) {
        let found = check(&format!("{FOLDER}{name}"), text);
        assert_eq!(found.len(), findings, "{found:?}");
    }

    #[test]
    fn a_good_record_passes() {
        check_record("0001-one-door.md", GOOD, 0);
    }

    #[test]
    fn bad_names_are_found() {
        for name in [
            "1-door.md",
            "0001.md",
            "0001-One.md",
            "0001-a_b.md",
            "0001-a--b.md",
        ] {
            check_record(name, GOOD, 1);
        }
    }

    #[test]
    fn missing_and_disordered_headings_are_found() {
        check_record(
            "0001-a.md",
            &GOOD.replace("## Alternatives", "## Options"),
            1,
        );
        check_record(
            "0001-a.md",
            &GOOD.replace("## Context", "```\n## Context\n```"),
            1,
        );
        let turned = GOOD
            .replace("## Context", "## X")
            .replace("## Choice", "## Context");
        check_record("0001-a.md", &turned.replace("## X", "## Choice"), 1);
        check_record("0001-a.md", GOOD.trim_start_matches("# "), 1);
    }

    #[test]
    fn a_number_is_given_once() {
        let paths = ["0001-a.md", "0002-b.md", "0001-c.md"].map(|name| format!("{FOLDER}{name}"));
        let found = check_numbers(paths.iter().map(String::as_str));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, paths[2]);
    }

    #[test]
    fn the_index_is_no_record() {
        assert!(!is_record("docs/architecture/decisions/README.md"));
        assert!(is_record("docs/architecture/decisions/notes.md"));
        assert!(!is_record("docs/architecture/overview.md"));
    }
}
