//! What must not be in the graph, and what must be in it once.

use anyhow::{Context, Result};

use crate::finding::Finding;
use crate::metadata::{Metadata, Package};

/// A second TLS or cryptography stack: C to build, and a second set of holes.
const BANNED: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "native-tls",
    "openssl",
    "openssl-sys",
];

/// Two of these would be two runtimes, two networks or two TLS configurations
/// whose types do not meet.
const SINGLE: &[&str] = &["iroh", "iroh-base", "rustls", "tokio"];

/// Checks the resolved graph and the lock file.
pub(crate) fn run() -> Result<Vec<Finding>> {
    let graph = Metadata::of_graph()?;
    let lock = std::fs::read_to_string(graph.root.join("Cargo.lock"))
        .context("failed to read `Cargo.lock`")?;
    let mut findings = banned(&graph.packages);
    findings.extend(foreign(&graph.packages));
    findings.extend(doubled(&lock));
    Ok(findings)
}

/// Of the graph and not of the lock file, which also lists what no feature
/// of ours turns on.
fn banned(packages: &[Package]) -> Vec<Finding> {
    let found = packages
        .iter()
        .filter(|package| BANNED.contains(&package.name.as_str()));
    found
        .map(|package| {
            let name = &package.name;
            let message = format!("`{name}` is banned: `cargo tree -i {name}` tells who wants it");
            Finding::error("Cargo.lock", 1, "banned", message)
        })
        .collect()
}

/// Everything comes from this repository or from the default registry.
fn foreign(packages: &[Package]) -> Vec<Finding> {
    let is_default = |source: &str| {
        source.starts_with("registry+") && source.ends_with("/rust-lang/crates.io-index")
    };
    let sources = packages
        .iter()
        .filter_map(|package| package.source.as_ref().map(|from| (package, from)));
    sources
        .filter(|(_, source)| !is_default(source))
        .map(|(package, source)| {
            let message = format!("`{}` comes from `{source}`", package.name);
            Finding::error("Cargo.lock", 1, "source", message)
        })
        .collect()
}

fn doubled(lock: &str) -> Vec<Finding> {
    let wanted = SINGLE.iter().map(|name| (name, lines_of(lock, name)));
    wanted
        .filter(|(_, lines)| lines.len() != 1)
        .map(|(name, lines)| {
            let message = format!("`{name}` is locked {} times, want one version", lines.len());
            Finding::error(
                "Cargo.lock",
                lines.last().map_or(1, |line| *line),
                "doubled",
                message,
            )
        })
        .collect()
}

/// The lines of the lock file where a package of this name begins.
fn lines_of(lock: &str, name: &str) -> Vec<usize> {
    let entry = format!("name = \"{name}\"");
    let lines = lock.lines().enumerate().filter(|(_, line)| *line == entry);
    lines.map(|(index, _)| index + 1).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn package(name: &str, source: Option<&str>) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            description: None,
            license: None,
            manifest_path: PathBuf::new(),
            source: source.map(str::to_owned),
            dependencies: vec![],
        }
    }

    fn lock(names: &[&str]) -> String {
        names
            .iter()
            .map(|name| format!("[[package]]\nname = \"{name}\"\n\n"))
            .collect()
    }

    #[test]
    fn banned_packages_are_found() {
        assert_eq!(
            banned(&[package("openssl-sys", None), package("ring", None)]).len(),
            1
        );
        assert!(banned(&[package("openssl-probe", None)]).is_empty());
    }

    #[test]
    fn other_sources_are_found() {
        let registry = "registry+https://example.org/rust-lang/crates.io-index";
        let packages = [package("a", None), package("b", Some(registry))];
        assert!(foreign(&packages).is_empty());
        assert_eq!(
            foreign(&[package("c", Some("git+https://example.org/c"))]).len(),
            1
        );
        assert_eq!(
            foreign(&[package("d", Some("registry+https://example.org/d"))]).len(),
            1
        );
    }

    #[test]
    fn each_single_package_is_locked_once() {
        assert!(doubled(&lock(SINGLE)).is_empty());
        let twice = [SINGLE, &["tokio", "tokio-util"]].concat();
        assert_eq!(doubled(&lock(&twice)).len(), 1);
        assert_eq!(doubled(&lock(&SINGLE[1..])).len(), 1);
    }
}
