//! Every relative link in a tracked document leads somewhere tracked.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;

/// The tracked tree, as far as links care.
pub(crate) struct Tree {
    /// Files and the folders above them, relative to the root.
    paths: BTreeSet<String>,
    /// The heading anchors of each document.
    anchors: BTreeMap<String, BTreeSet<String>>,
}

impl Tree {
    pub(crate) fn new<'a>(files: impl IntoIterator<Item = &'a str>) -> Self {
        let mut paths = BTreeSet::from([String::new()]);
        for file in files {
            let folders = file.match_indices('/').map(|(at, _)| file[..at].to_owned());
            paths.extend(folders);
            paths.insert(file.to_owned());
        }
        Self {
            paths,
            anchors: BTreeMap::new(),
        }
    }

    /// Remembers the headings of one document.
    pub(crate) fn add_document(&mut self, path: &str, text: &str) {
        self.anchors.insert(path.to_owned(), anchors(text));
    }

    /// Checks the links of one document.
    pub(crate) fn check(&self, path: &str, text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (index, line) in without_code(text).lines().enumerate() {
            for target in targets(line) {
                if let Some(problem) = self.problem(path, target) {
                    findings.push(Finding::error(path, index + 1, "link", problem));
                }
            }
        }
        findings
    }

    fn problem(&self, from: &str, target: &str) -> Option<String> {
        if target.starts_with("//") || has_scheme(target) {
            return None;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path = if file.is_empty() {
            Some(from.to_owned())
        } else {
            resolve(from, file)
        };
        let Some(path) = path.filter(|path| self.paths.contains(path)) else {
            return Some(format!("`{target}` is no tracked file or folder"));
        };
        let headings = self.anchors.get(&path);
        let is_missing = headings.is_some_and(|headings| !headings.contains(anchor));
        (!anchor.is_empty() && is_missing).then(|| format!("`{path}` has no heading `#{anchor}`"))
    }
}

/// Blanks fenced blocks and inline code, keeping the lines.
pub(crate) fn without_code(text: &str) -> String {
    let mut fence: Option<&str> = None;
    let mut kept = String::with_capacity(text.len());
    for line in text.lines() {
        let start = line.trim_start();
        let run = &start[..start.len() - start.trim_start_matches(['`', '~']).len()];
        match fence {
            Some(open) if run.starts_with(open) && start.trim_end() == run => fence = None,
            Some(_) => {}
            None if run.len() >= 3 && !start[run.len()..].contains('`') => fence = Some(run),
            None => kept.push_str(&without_spans(line)),
        }
        kept.push('\n');
    }
    kept
}

/// Blanks `` `code` `` in one line; an unpaired backtick is text.
fn without_spans(line: &str) -> String {
    let (mut kept, mut rest) = (String::new(), line);
    while let Some(at) = rest.find('`') {
        let width = rest[at..].len() - rest[at..].trim_start_matches('`').len();
        let (before, opened) = rest.split_at(at);
        let (ticks, inside) = opened.split_at(width);
        kept.push_str(before);
        match inside.find(ticks) {
            Some(end) => rest = &inside[end + width..],
            None => {
                kept.push_str(ticks);
                rest = inside;
            }
        }
        kept.push(' ');
    }
    kept + rest
}

/// The targets of `[text](target)` and `[name]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline = line
        .match_indices("](")
        .filter_map(|(at, _)| target_of(&line[at + 2..]));
    let start = line.trim_start();
    let definition = start
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "));
    let definition = definition.filter(|(name, _)| !name.contains(']') && !name.starts_with('^'));
    inline
        .chain(definition.and_then(|(_, rest)| target_of(rest)))
        .collect()
}

/// Reads a target up to its title, or to the parenthesis that closes it.
fn target_of(rest: &str) -> Option<&str> {
    let rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('<') {
        return inside.split_once('>').map(|(target, _)| target);
    }
    let mut depth = 0;
    let end = rest.find(|letter: char| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        depth < 0 || letter.is_whitespace()
    });
    Some(&rest[..end.unwrap_or(rest.len())]).filter(|target| !target.is_empty())
}

fn has_scheme(target: &str) -> bool {
    let Some((scheme, _)) = target.split_once(':') else {
        return false;
    };
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "+.-".contains(letter);
    !scheme.is_empty() && scheme.chars().all(is_letter)
}

/// Follows `file` from the folder of the document `from`; none above the root.
fn resolve(from: &str, file: &str) -> Option<String> {
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    if file.starts_with('/') {
        parts.clear();
    }
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/").replace("%20", " "))
}

/// The anchors that a forge makes of a document's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    // Blanked code has the same lines; a `#` in a fence is no heading.
    let plain = without_code(text);
    let mut found = BTreeSet::new();
    for (line, plain) in text.lines().zip(plain.lines()) {
        let title = plain.trim_start_matches('#');
        let level = plain.len() - title.len();
        if !(1..=6).contains(&level) || !(title.is_empty() || title.starts_with(' ')) {
            continue;
        }
        let slug = slug(line.trim_start_matches('#').trim());
        let numbered = (1..).map(|count| format!("{slug}-{count}"));
        let mut names = std::iter::once(slug.clone()).chain(numbered);
        found.extend(names.find(|name| !found.contains(name)));
    }
    found
}

fn slug(heading: &str) -> String {
    let mut text = heading.to_lowercase();
    // A link in a heading counts with its text only.
    while let Some((before, after)) = text.split_once("](") {
        let after = after.split_once(')').map_or("", |(_, after)| after);
        text = format!("{before}{after}");
    }
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new(["README.md", "docs/a.md", "docs/deep/b.md", "run"]);
        tree.add_document(
            "docs/a.md",
            "# One `door`!\n## Two\n## Two\n```sh\n# no\n```\n",
        );
        tree
    }

    #[track_caller]
    fn check(from: &str, text: &str, want: &[&str]) {
        let found: Vec<_> = tree()
            .check(from, text)
            .into_iter()
            .map(|f| f.message)
            .collect();
        assert_eq!(found.len(), want.len(), "{found:?}");
        for (found, want) in found.iter().zip(want) {
            assert!(found.contains(want), "`{found}` does not say `{want}`");
        }
    }

    #[test]
    fn links_to_files_and_folders_resolve() {
        check(
            "README.md",
            "[a](docs/a.md) [b](./docs/deep) [c](run) [d](docs/)",
            &[],
        );
        check(
            "docs/deep/b.md",
            "[a](../a.md \"title\") [b](../../run) [c](<../a.md>)",
            &[],
        );
        check(
            "docs/a.md",
            "[root](/run) ![image](deep/b.md)\n\n[name]: ../README.md",
            &[],
        );
    }

    #[test]
    fn broken_links_are_found() {
        check(
            "README.md",
            "[a](a.md) and [b](docs/b.md)",
            &["a.md", "docs/b.md"],
        );
        check(
            "docs/a.md",
            "[up](../../x)\n[def]: gone.md",
            &["../../x", "gone.md"],
        );
    }

    #[test]
    fn links_elsewhere_are_not_followed() {
        check(
            "README.md",
            "[a](https://example.org/x) [b](mailto:a@example.org)",
            &[],
        );
    }

    #[test]
    fn anchors_are_checked() {
        check(
            "README.md",
            "[a](docs/a.md#one-door) [b](docs/a.md#two-1)",
            &[],
        );
        check(
            "README.md",
            "[a](docs/a.md#three) [b](docs/a.md#no)",
            &["#three", "#no"],
        );
        check("docs/a.md", "[a](#two) [b](#four)", &["#four"]);
    }

    #[test]
    fn code_holds_no_links() {
        check(
            "README.md",
            "`[a](gone.md)`\n```text\n[b](gone.md)\n```\n``a`[c](gone.md)``",
            &[],
        );
        check(
            "README.md",
            "```rs\n```\n[b](gone.md) [`c`](gone.md)",
            &["gone", "gone"],
        );
    }

    #[test]
    fn a_fence_ends_only_at_its_own_kind() {
        check(
            "README.md",
            "````md\n```\n[a](gone.md)\n```\n````\n[b](gone.md)",
            &["gone"],
        );
    }
}
