//! What this machine cannot do is told, and counted.

use std::{fs::File, io::Write};

/// Where `./test` collects what was skipped.
const LOG: &str = "ALKNET_SKIP_LOG";

/// Counts a test as skipped: `./test` lists it by name with the reason.
///
/// Without that script around it only standard error says so.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIP: {test}: {}", reason.replace('\n', " "));
    let Some(log) = std::env::var_os(LOG) else {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("{line}");
        }
        return;
    };
    let written = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .and_then(|mut log| writeln!(log, "{line}"));
    // A test that neither runs nor is counted as skipped would count as passed.
    assert!(written.is_ok(), "`{}`: {written:?}", log.to_string_lossy());
}
