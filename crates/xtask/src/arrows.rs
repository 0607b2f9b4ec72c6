//! Which crate may use which: arrows point down only.

use crate::finding::Finding;
use crate::metadata::{Dependency, DependencyKind, Package};

/// Every crate with the crates it may use, top floor first.
///
/// The table of `docs/architecture` in code: a new arrow is a decision, so it
/// is written here and in a decision record, not only in a manifest.
const ARROWS: &[(&str, &[&str])] = &[
    ("alknet-cli", &["alknet"]),
    (
        "alknet",
        &[
            "alknet-node",
            "alknet-http",
            "alknet-mcp",
            "alknet-ssh",
            "alknet-openapi",
            "alknet-exec",
            "alknet-fs",
            "alknet-call",
            "alknet-store",
            "alknet-vault",
            "alknet-core",
        ],
    ),
    (
        "alknet-node",
        &[
            "alknet-http",
            "alknet-mcp",
            "alknet-ssh",
            "alknet-openapi",
            "alknet-exec",
            "alknet-fs",
            "alknet-call",
            "alknet-store",
            "alknet-vault",
            "alknet-core",
        ],
    ),
    ("alknet-http", &["alknet-core"]),
    ("alknet-mcp", &["alknet-core"]),
    ("alknet-ssh", &["alknet-core"]),
    ("alknet-openapi", &["alknet-core"]),
    ("alknet-exec", &["alknet-core"]),
    ("alknet-fs", &["alknet-core", "alknet-store"]),
    ("alknet-call", &["alknet-core"]),
    ("alknet-store", &["alknet-core"]),
    ("alknet-vault", &[]),
    ("alknet-core", &[]),
    // The shed: never published, so what it uses reaches nobody.
    ("alknet-testkit", &["alknet-core", "alknet-vault"]),
    (
        "alknet-bench",
        &[
            "alknet",
            "alknet-node",
            "alknet-http",
            "alknet-mcp",
            "alknet-ssh",
            "alknet-openapi",
            "alknet-exec",
            "alknet-fs",
            "alknet-call",
            "alknet-store",
            "alknet-vault",
            "alknet-core",
            "alknet-lab",
            "alknet-testkit",
        ],
    ),
    // What it throws input at, down to the words of a command line.
    (
        "alknet-fuzz",
        &[
            "alknet-cli",
            "alknet-node",
            "alknet-exec",
            "alknet-fs",
            "alknet-call",
            "alknet-store",
            "alknet-vault",
            "alknet-core",
            "alknet-testkit",
        ],
    ),
    // Knows nothing of what is tried in it.
    ("alknet-lab", &[]),
    ("xtask", &[]),
];

/// Finds the arrows of `package` that the table does not have.
///
/// `manifest` is the text of its `Cargo.toml`, for the line numbers.
pub(crate) fn check(package: &Package, path: &str, manifest: &str) -> Vec<Finding> {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
        let message = format!(
            "crate `{}` is on no floor: add it to the table",
            package.name
        );
        return vec![Finding::error(path, 1, "arrow", message)];
    };
    let ours = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.is_ours);
    ours.filter(|dependency| !may_use(allowed, dependency))
        .map(|dependency| {
            let message = format!("`{}` may not use `{}`", package.name, dependency.name);
            Finding::error(path, line_of(manifest, &dependency.name), "arrow", message)
        })
        .collect()
}

fn may_use(allowed: &[&str], dependency: &Dependency) -> bool {
    let is_dev = dependency.kind == DependencyKind::Dev;
    let is_for_tests = matches!(dependency.name.as_str(), "alknet-testkit" | "alknet-lab");
    allowed.contains(&dependency.name.as_str()) || (is_dev && is_for_tests)
}

/// The line that declares `name`, or 1.
fn line_of(manifest: &str, name: &str) -> usize {
    let declares = |line: &str| {
        let rest = line.trim_start().strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
    };
    manifest
        .lines()
        .position(declares)
        .map_or(1, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn package(name: &str, dependency: &str, kind: DependencyKind) -> Package {
        let dependency = Dependency {
            name: dependency.to_owned(),
            kind,
            is_ours: true,
        };
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            description: None,
            license: None,
            manifest_path: PathBuf::new(),
            source: None,
            dependencies: vec![dependency],
        }
    }

    #[track_caller]
    fn check_arrow(from: &str, to: &str, kind: DependencyKind, allowed: bool) {
        let findings = check(&package(from, to, kind), "Cargo.toml", "");
        assert_eq!(findings.is_empty(), allowed, "{from} -> {to}: {findings:?}");
    }

    #[test]
    fn arrows_of_the_table_are_allowed() {
        check_arrow("alknet-cli", "alknet", DependencyKind::Normal, true);
        check_arrow("alknet-fs", "alknet-store", DependencyKind::Normal, true);
    }

    #[test]
    fn upward_and_sideways_arrows_are_found() {
        check_arrow("alknet-core", "alknet-call", DependencyKind::Normal, false);
        check_arrow("alknet-ssh", "alknet-fs", DependencyKind::Normal, false);
        check_arrow("alknet-vault", "alknet-core", DependencyKind::Build, false);
    }

    #[test]
    fn the_testkit_is_for_tests_only() {
        check_arrow("alknet-store", "alknet-testkit", DependencyKind::Dev, true);
        check_arrow(
            "alknet-store",
            "alknet-testkit",
            DependencyKind::Normal,
            false,
        );
    }

    #[test]
    fn tests_follow_the_arrows_too() {
        check_arrow("alknet-exec", "alknet-call", DependencyKind::Dev, false);
    }

    #[test]
    fn an_unknown_crate_is_found() {
        check_arrow("alknet-utils", "alknet-core", DependencyKind::Normal, false);
    }

    #[test]
    fn dependencies_of_others_are_not_arrows() {
        let mut package = package("alknet-core", "serde", DependencyKind::Normal);
        package.dependencies[0].is_ours = false;
        assert!(check(&package, "Cargo.toml", "").is_empty());
    }

    #[test]
    fn the_finding_points_at_the_line() {
        let manifest = "[dependencies]\nalknet-core.workspace = true\nalknet.workspace = true\n";
        let found = check(
            &package("xtask", "alknet", DependencyKind::Normal),
            "m",
            manifest,
        );
        assert_eq!(
            found[0].to_string(),
            "m:3: arrow: `xtask` may not use `alknet`"
        );
    }

    #[test]
    fn every_arrow_of_the_table_points_down() {
        let floor = |name: &str| {
            ARROWS
                .iter()
                .position(|(crate_name, _)| *crate_name == name)
        };
        for (name, allowed) in ARROWS.iter().filter(|(name, _)| !is_shed(name)) {
            for below in *allowed {
                assert!(floor(name) < floor(below), "{name} -> {below}");
            }
        }
    }

    fn is_shed(name: &str) -> bool {
        matches!(
            name,
            "alknet-testkit" | "alknet-bench" | "alknet-fuzz" | "alknet-lab" | "xtask"
        )
    }
}
