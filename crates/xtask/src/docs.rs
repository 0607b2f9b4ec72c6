//! Writes the reference pages that the program describes itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::metadata::Metadata;

/// Each page with the hidden command that prints it.
const PAGES: &[(&str, &str)] = &[
    ("docs/reference/cli.md", "cli"),
    ("docs/reference/configuration.md", "config"),
];

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Compares instead of writing.
    check: bool,
    /// The program to ask; built when none is given.
    bin: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        match words {
            [] => Ok(Self::default()),
            ["--check", rest @ ..] => Ok(Self {
                check: true,
                ..Self::parse(rest)?
            }),
            ["--bin", path, rest @ ..] => Ok(Self {
                bin: Some(PathBuf::from(path)),
                ..Self::parse(rest)?
            }),
            [other, ..] => bail!("unknown option `{other}` of `docs`"),
        }
    }
}

/// Writes or checks every page; false when a page is stale.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let workspace = Metadata::of_workspace()?;
    let bin = match &options.bin {
        Some(bin) => bin.clone(),
        None => build(&workspace)?,
    };
    let mut is_current = true;
    for (path, topic) in PAGES {
        let page = ask(&bin, topic)?;
        let file = workspace.root.join(path);
        if options.check {
            is_current &= is_page_current(path, &file, &page);
        } else {
            write(&file, &page)?;
            eprintln!("wrote {path}");
        }
    }
    Ok(is_current)
}

fn build(workspace: &Metadata) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--package",
            "alknet-cli",
            "--bin",
            "alknet",
        ])
        .current_dir(&workspace.root)
        .status()
        .context("failed to run `cargo build`")?;
    if !status.success() {
        bail!("`alknet` did not build");
    }
    Ok(workspace.target_directory.join("debug/alknet"))
}

/// Runs the hidden command, free of the settings of whoever runs us.
fn ask(bin: &Path, topic: &str) -> Result<String> {
    let output = Command::new(bin)
        .args(["__docs", topic])
        .env_clear()
        .output()
        .with_context(|| format!("failed to run `{}`", bin.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`alknet __docs {topic}` failed ({}): {stderr}",
            output.status
        );
    }
    let page = String::from_utf8(output.stdout).context("the page is not UTF-8")?;
    if page.trim().is_empty() {
        bail!("`alknet __docs {topic}` printed nothing");
    }
    Ok(page)
}

fn write(file: &Path, page: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(file, page).with_context(|| format!("failed to write `{}`", file.display()))
}

fn is_page_current(path: &str, file: &Path, page: &str) -> bool {
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    let Some(line) = first_difference(&committed, page) else {
        return true;
    };
    println!("{path}:{line}: docs: stale, run `cargo xtask docs`");
    false
}

/// The first line, from 1, in which two texts differ.
fn first_difference(left: &str, right: &str) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left
        .split('\n')
        .zip(right.split('\n'))
        .take_while(|(a, b)| a == b)
        .count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_in_any_order() {
        let want = Options {
            check: true,
            bin: Some(PathBuf::from("x")),
        };
        assert_eq!(
            Options::parse(&["--bin", "x", "--check"]).expect("known options"),
            want
        );
        assert!(Options::parse(&["--chek"]).is_err());
        assert!(Options::parse(&["--bin"]).is_err());
    }

    #[test]
    fn the_first_difference_is_a_line() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(first_difference("a", "a\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
    }
}
