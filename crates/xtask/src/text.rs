//! Rules over any text: markers of unfinished work, machine paths, white space.

use crate::finding::Finding;

/// Spelt in halves, so that the rule does not find itself.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];

/// Folders that only exist on somebody's own machine.
const MACHINE_FOLDERS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
];

/// Finds words that promise work for later; `tasks/` is where that goes.
pub(crate) fn markers(path: &str, text: &str) -> Vec<Finding> {
    find(text, MARKERS, is_word_at, |line, marker| {
        let message = format!("`{marker}`: do it, or write a file in `tasks/`");
        Finding::error(path, line, "marker", message)
    })
}

/// Finds paths that mean something on one machine only.
pub(crate) fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    find(
        text,
        MACHINE_FOLDERS,
        is_absolute_path_at,
        |line, folder| {
            let message = format!("a path below `{folder}` exists on one machine only");
            Finding::error(path, line, "machine path", message)
        },
    )
}

/// Checks the ends of lines, and of the file.
pub(crate) fn white_space(path: &str, text: &str) -> Vec<Finding> {
    let trailing = text
        .split('\n')
        .enumerate()
        .filter(|(_, line)| line.trim_end() != *line);
    let mut findings: Vec<Finding> = trailing
        .map(|(index, _)| Finding::error(path, index + 1, "white space", "at the end of the line"))
        .collect();
    if !text.is_empty() && !text.ends_with('\n') {
        let line = text.lines().count();
        findings.push(Finding::error(
            path,
            line,
            "white space",
            "no newline at the end",
        ));
    }
    findings
}

fn find(
    text: &str,
    needles: &[&str],
    matches: impl Fn(&str, usize, &str) -> bool,
    finding: impl Fn(usize, &str) -> Finding,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for needle in needles {
            if line
                .match_indices(needle)
                .any(|(at, _)| matches(line, at, needle))
            {
                findings.push(finding(index + 1, needle));
            }
        }
    }
    findings
}

/// True when `needle`, found at `at`, is not the middle of a longer name.
pub(crate) fn is_word_at(text: &str, at: usize, needle: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let starts_inside = needle.starts_with(is_name) && text[..at].ends_with(is_name);
    let ends_inside = needle.ends_with(is_name) && text[at + needle.len()..].starts_with(is_name);
    !starts_inside && !ends_inside
}

fn is_absolute_path_at(line: &str, at: usize, folder: &str) -> bool {
    let is_name = |letter: char| letter.is_alphanumeric() || "._~-:}*".contains(letter);
    let follows_name = line[..at].ends_with(is_name);
    let goes_on = line[at + folder.len()..].starts_with(|letter: char| letter.is_alphanumeric());
    !follows_name && goes_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(findings: &[Finding], want: &[usize]) {
        let lines: Vec<_> = findings.iter().map(|found| found.line).collect();
        assert_eq!(lines, want, "{findings:?}");
    }

    #[test]
    fn markers_are_whole_words() {
        let [later, broken, unclear] = MARKERS else {
            unreachable!("three markers")
        };
        check(
            &markers("a.md", &format!("a\n{later}: b\n({broken})\n{unclear}")),
            &[2, 3, 4],
        );
        check(
            &markers("a.sh", &format!("mktemp {unclear}{unclear} {later}S")),
            &[],
        );
    }

    #[test]
    fn machine_paths_are_found() {
        for folder in MACHINE_FOLDERS {
            check(
                &machine_paths("a.md", &format!("cd {folder}alice\n\"{folder}b\"")),
                &[1, 2],
            );
        }
    }

    #[test]
    fn names_that_end_like_machine_folders_are_fine() {
        for folder in MACHINE_FOLDERS {
            check(
                &machine_paths("a.md", &format!("~{folder}a x{folder}b :{folder}c")),
                &[],
            );
            check(
                &machine_paths("a.md", &format!("`{folder}` and {folder}*")),
                &[],
            );
        }
    }

    #[test]
    fn white_space_is_found_at_the_end_of_lines_and_file() {
        check(&white_space("a.md", "a \nb\t\nc\r\nd\n"), &[1, 2, 3]);
        check(&white_space("a.md", "a\nb"), &[2]);
        check(&white_space("a.md", "a\n\n  b\n"), &[]);
        check(&white_space("a.md", ""), &[]);
    }
}
