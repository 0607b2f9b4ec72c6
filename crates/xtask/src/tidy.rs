//! Runs every rule over the tracked tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::finding::Finding;
use crate::links::Tree;
use crate::metadata::Metadata;
use crate::{arrows, decisions, links, manifest, rust, text};

/// The tracked text files, by path relative to the root.
type Files = BTreeMap<String, String>;

/// Checks the crates of the workspace and every tracked file.
pub(crate) fn run() -> Result<Vec<Finding>> {
    let workspace = Metadata::of_workspace()?;
    let mut findings = check_crates(&workspace)?;
    let files = tracked(&workspace.root)?;
    eprintln!("{} crates, {} files", workspace.packages.len(), files.len());
    findings.extend(check_files(&files));
    Ok(findings)
}

fn check_crates(workspace: &Metadata) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        let path = package.manifest_below(&workspace.root);
        let text = std::fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("failed to read `{path}`"))?;
        findings.extend(arrows::check(package, &path, &text));
        findings.extend(manifest::check(package, &path, &text));
    }
    Ok(findings)
}

/// Reads what git tracks; deleted and binary files are left out.
fn tracked(root: &Path) -> Result<Files> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .context("failed to run `git ls-files`")?;
    if !output.status.success() {
        bail!(
            "`git ls-files` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let names = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files = Files::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let Ok(bytes) = std::fs::read(root.join(name)) else {
            continue;
        };
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(name.to_owned(), text);
        }
    }
    Ok(files)
}

fn check_files(files: &Files) -> Vec<Finding> {
    let test_files = test_files(files);
    let mut tree = Tree::new(files.keys().map(String::as_str));
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        tree.add_document(path, text);
    }
    let mut findings = Vec::new();
    for (path, content) in files {
        if path == "Cargo.lock" {
            continue;
        }
        findings.extend(text::machine_paths(path, content));
        match path.rsplit('.').next() {
            Some("rs") => {
                let is_test = test_files.iter().any(|module| is_module(path, module));
                findings.extend(text::white_space(path, content));
                findings.extend(rust::check(path, content, is_test));
            }
            Some("md") => {
                findings.extend(text::white_space(path, content));
                findings.extend(text::markers(path, &links::without_code(content)));
                findings.extend(tree.check(path, content));
            }
            Some("toml") => {
                findings.extend(text::white_space(path, content));
                findings.extend(text::markers(path, content));
            }
            _ if content.starts_with("#!") => {
                findings.extend(text::white_space(path, content));
                findings.extend(text::markers(path, content));
            }
            _ => {}
        }
        if decisions::is_record(path) {
            findings.extend(decisions::check(path, content));
        }
    }
    findings.extend(decisions::check_numbers(files.keys().map(String::as_str)));
    findings
}

/// The modules that their parents declare under `#[cfg(test)]`, without `.rs`.
fn test_files(files: &Files) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (path, source) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let folder = module_folder(path);
        modules.extend(
            rust::test_modules(source)
                .iter()
                .map(|name| format!("{folder}/{name}")),
        );
    }
    modules
}

/// Where the modules that `path` declares are looked for.
fn module_folder(path: &str) -> &str {
    let stem = path.trim_end_matches(".rs");
    match stem.rsplit_once('/') {
        Some((folder, "lib" | "main" | "mod")) => folder,
        _ => stem,
    }
}

/// True for `module.rs` and everything in the folder `module/`.
fn is_module(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], want: &[&str]) {
        let files: Files = files
            .iter()
            .map(|(a, b)| ((*a).into(), (*b).into()))
            .collect();
        let mut found = check_files(&files);
        found.sort();
        let found: Vec<_> = found
            .iter()
            .map(|f| format!("{}:{}: {}", f.path, f.line, f.rule))
            .collect();
        assert_eq!(found, want);
    }

    #[test]
    fn a_tidy_tree_has_no_findings() {
        check(
            &[
                ("README.md", "# alknet\n\n[guide](docs/guide.md#start)\n"),
                ("docs/guide.md", "# Guide\n\n## Start\n"),
                ("crates/alknet-core/src/lib.rs", "//! Core.\n"),
                ("test", "#!/usr/bin/env bash\n"),
            ],
            &[],
        );
    }

    #[test]
    fn each_kind_of_file_has_its_rules() {
        let marker = concat!("# FIX", "ME\n");
        check(
            &[
                ("README.md", "[gone](gone.md)\n"),
                ("a.toml", "a = 1 \n"),
                ("crates/alknet-core/src/lib.rs", "fn a() { b.unwrap() }"),
                ("docs/architecture/decisions/one.md", "# One\n"),
                ("test", &format!("#!/bin/sh\n{marker}")),
            ],
            &[
                "README.md:1: link",
                "a.toml:1: white space",
                "crates/alknet-core/src/lib.rs:1: panic",
                "crates/alknet-core/src/lib.rs:1: white space",
                "docs/architecture/decisions/one.md:1: decision",
                "docs/architecture/decisions/one.md:1: decision",
                "test:2: marker",
            ],
        );
    }

    #[test]
    fn a_test_module_in_its_own_file_is_a_test() {
        let unwrap = "fn a() { b.unwrap() }\n";
        check(
            &[
                (
                    "crates/alknet-core/src/lib.rs",
                    "#[cfg(test)]\nmod fakes;\nmod call;\n",
                ),
                ("crates/alknet-core/src/fakes.rs", unwrap),
                ("crates/alknet-core/src/fakes/clock.rs", unwrap),
                (
                    "crates/alknet-core/src/call.rs",
                    "#[cfg(test)]\nmod tests;\n",
                ),
                ("crates/alknet-core/src/call/tests.rs", unwrap),
                ("crates/alknet-core/src/call/real.rs", unwrap),
            ],
            &["crates/alknet-core/src/call/real.rs:1: panic"],
        );
    }
}
