//! Notes the commit that is built, for the reports.

use std::process::Command;

/// What is measured, besides the harness.
const MEASURED: [&str; 8] = [
    "core", "call", "node", "store", "exec", "vault", "fs", "cli",
];

fn main() {
    println!("cargo::rerun-if-changed=../../.git/logs/HEAD");
    let paths = MEASURED.map(|name| format!("../alknet-{name}"));
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let mut changed = vec!["status", "--porcelain", "--"];
    changed.extend(paths.iter().map(String::as_str));
    let note = match git(&changed).as_deref() {
        Some("") => "",
        _ => ", with changes",
    };
    let commit = commit.unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=ALKNET_COMMIT={commit}{note}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
