//! How many files and connections this process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes what the system lets it take. Each connection is one, and what a
/// process is given at first (1,024 as a rule) is for programs with few.
pub(crate) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // As many as there may be, then.
    let _ = setrlimit(Resource::Nofile, limit);
}
