//! What each crate's manifest must say.

use std::path::Path;

use crate::finding::Finding;
use crate::metadata::Package;

/// Checks one crate's folder, description, licence and lints.
pub(crate) fn check(package: &Package, path: &str, manifest: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut require = |holds: bool, message: String| {
        if !holds {
            findings.push(Finding::error(path, 1, "manifest", message));
        }
    };
    let name = &package.name;
    require(
        Path::new(path) == Path::new("crates").join(name).join("Cargo.toml"),
        format!("crate `{name}` belongs in `crates/{name}`"),
    );
    let is_told = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.trim().is_empty());
    require(
        is_told(&package.description),
        format!("crate `{name}` has no description"),
    );
    require(
        is_told(&package.license),
        format!("crate `{name}` has no license"),
    );
    require(
        has_workspace_lints(manifest),
        format!("crate `{name}` does not use the workspace lints: `[lints] workspace = true`"),
    );
    findings
}

fn has_workspace_lints(manifest: &str) -> bool {
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let compact: String = line.split_whitespace().collect();
        if section == "[lints]" && compact == "workspace=true" || compact == "lints.workspace=true"
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn package() -> Package {
        Package {
            name: "alknet-core".to_owned(),
            version: "0.1.0".to_owned(),
            description: Some("Names.".to_owned()),
            license: Some("MIT".to_owned()),
            manifest_path: PathBuf::new(),
            source: None,
            dependencies: vec![],
        }
    }

    #[track_caller]
    fn check_manifest(package: &Package, path: &str, manifest: &str, want: &[&str]) {
        let found: Vec<_> = check(package, path, manifest)
            .into_iter()
            .map(|found| found.message)
            .collect();
        assert_eq!(found.len(), want.len(), "{found:?}");
        for (found, want) in found.iter().zip(want) {
            assert!(found.contains(want), "`{found}` does not say `{want}`");
        }
    }

    #[test]
    fn a_complete_manifest_passes() {
        check_manifest(&package(), "crates/alknet-core/Cargo.toml", LINTS, &[]);
    }

    #[test]
    fn a_folder_with_another_name_is_found() {
        check_manifest(&package(), "crates/core/Cargo.toml", LINTS, &["belongs in"]);
    }

    #[test]
    fn missing_fields_are_found() {
        let bare = Package {
            description: Some(" ".to_owned()),
            license: None,
            ..package()
        };
        let path = "crates/alknet-core/Cargo.toml";
        check_manifest(&bare, path, LINTS, &["no description", "no license"]);
    }

    #[test]
    fn missing_lints_are_found() {
        let manifest = "[lints.rust]\nunsafe_code = \"deny\"\n[dependencies]\nworkspace = true\n";
        check_manifest(
            &package(),
            "crates/alknet-core/Cargo.toml",
            manifest,
            &["lints"],
        );
    }
}
