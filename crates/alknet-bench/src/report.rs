//! What the reports of all areas have in common.

use crate::{machine, stats::Estimate};
use std::fmt::{self, Write};

/// The beginning of a report: what it is, what made it, where, and with which
/// versions; `tool` says the version of what the area needs beside the Rust
/// compiler.
pub(crate) fn head(
    out: &mut String,
    title: &str,
    area: &str,
    libraries: &[&str],
    tool: &str,
    load: &(String, String),
) -> fmt::Result {
    let day = time::OffsetDateTime::now_utc().date();
    let profile = if cfg!(debug_assertions) {
        "**debug build: these numbers say nothing**"
    } else {
        "release build"
    };
    let options: Vec<String> = std::env::args().skip(1).collect();
    let versions: Vec<String> = libraries
        .iter()
        .map(|name| format!("{name} {}", machine::version_of(name)))
        .collect();
    writeln!(out, "# {title}\n")?;
    writeln!(
        out,
        "Written by `./bench {area}`; do not edit it, run it again. What is compared,\n\
         and how, is at the end.\n"
    )?;
    writeln!(
        out,
        "- Command: `./bench {}`, {day}, {profile}.",
        options.join(" ")
    )?;
    writeln!(
        out,
        "- Machine: {}. Load average before and after: {} and {}; niceness {}.",
        machine::describe(),
        load.0,
        load.1,
        machine::niceness()
    )?;
    writeln!(
        out,
        "- Versions: alknet {} at commit {}, {}; {tool}; {}.",
        env!("CARGO_PKG_VERSION"),
        env!("ALKNET_COMMIT"),
        versions.join(", "),
        machine::says("rustc", &["--version"])
    )
}

/// A median and the interval that it is in with 95 %.
pub(crate) fn shown(estimate: Estimate, digits: usize) -> String {
    let Estimate { median, low, high } = estimate;
    format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
}
