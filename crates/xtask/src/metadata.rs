//! The parts of `cargo metadata` that the rules read.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One package, ours or a dependency.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: Option<String>,
    /// An SPDX expression.
    pub(crate) license: Option<String>,
    pub(crate) manifest_path: PathBuf,
    /// Where it comes from; none for a path in this repository.
    pub(crate) source: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: DependencyKind,
    /// True when it is a path dependency, so one of our crates.
    pub(crate) is_ours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DependencyKind {
    Normal,
    Build,
    Dev,
}

#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) root: PathBuf,
    pub(crate) target_directory: PathBuf,
    pub(crate) packages: Vec<Package>,
}

impl Metadata {
    /// Reads the crates of the workspace only.
    pub(crate) fn of_workspace() -> Result<Self> {
        Self::read(&["--no-deps"])
    }

    /// Reads the whole graph: every target platform, every feature of ours.
    pub(crate) fn of_graph() -> Result<Self> {
        Self::read(&["--all-features"])
    }

    fn read(options: &[&str]) -> Result<Self> {
        // Set by cargo when it runs us, so that the same toolchain answers.
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1"])
            .args(options)
            .output()
            .context("failed to run `cargo metadata`")?;
        if !output.status.success() {
            bail!(
                "`cargo metadata` failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let value = serde_json::from_slice(&output.stdout)
            .context("`cargo metadata` did not print JSON")?;
        Self::parse(&value)
    }

    pub(crate) fn parse(value: &Value) -> Result<Self> {
        Ok(Self {
            root: PathBuf::from(text(value, "workspace_root")?),
            target_directory: PathBuf::from(text(value, "target_directory")?),
            packages: array(value, "packages")?
                .iter()
                .map(parse_package)
                .collect::<Result<_>>()?,
        })
    }
}

impl Package {
    /// The manifest's path as a reader of the repository would write it.
    pub(crate) fn manifest_below(&self, root: &Path) -> String {
        let path = self
            .manifest_path
            .strip_prefix(root)
            .unwrap_or(&self.manifest_path);
        path.to_string_lossy().into_owned()
    }
}

fn parse_package(value: &Value) -> Result<Package> {
    Ok(Package {
        name: text(value, "name")?,
        version: text(value, "version")?,
        description: text(value, "description").ok(),
        license: text(value, "license").ok(),
        manifest_path: PathBuf::from(text(value, "manifest_path")?),
        source: text(value, "source").ok(),
        dependencies: array(value, "dependencies")?
            .iter()
            .map(parse_dependency)
            .collect::<Result<_>>()?,
    })
}

fn parse_dependency(value: &Value) -> Result<Dependency> {
    let kind = match value["kind"].as_str() {
        None => DependencyKind::Normal,
        Some("build") => DependencyKind::Build,
        Some("dev") => DependencyKind::Dev,
        Some(other) => bail!("unknown dependency kind `{other}`"),
    };
    let is_ours = value["path"].is_string();
    Ok(Dependency {
        name: text(value, "name")?,
        kind,
        is_ours,
    })
}

fn text(value: &Value, field: &str) -> Result<String> {
    let found = value[field].as_str();
    found
        .map(str::to_owned)
        .with_context(|| format!("metadata has no text field `{field}`"))
}

fn array<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field]
        .as_array()
        .with_context(|| format!("metadata has no list `{field}`"))
}
