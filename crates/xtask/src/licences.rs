//! Every dependency's licence is one that we may pass on.

use anyhow::Result;

use crate::finding::Finding;
use crate::metadata::{Metadata, Package};

/// SPDX identifiers; `deny.toml` names the same ones.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
const ALLOWED_EXCEPTIONS: &[&str] = &["LLVM-exception"];

/// Checks the whole graph.
pub(crate) fn run() -> Result<Vec<Finding>> {
    let graph = Metadata::of_graph()?;
    eprintln!("{} packages", graph.packages.len());
    Ok(graph.packages.iter().filter_map(check).collect())
}

fn check(package: &Package) -> Option<Finding> {
    let name = format!("`{} {}`", package.name, package.version);
    let problem = match package.license.as_deref().map(parse) {
        None => "names no licence".to_owned(),
        Some(Err(problem)) => problem,
        Some(Ok(licence)) if licence.is_allowed() => return None,
        Some(Ok(_)) => format!("is `{}`", package.license.as_deref().unwrap_or_default()),
    };
    Some(Finding::error(
        "Cargo.lock",
        1,
        "licence",
        format!("{name} {problem}"),
    ))
}

/// An SPDX licence expression (SPDX 2.3, annex D).
#[derive(Debug, PartialEq, Eq)]
enum Licence {
    One {
        id: String,
        exception: Option<String>,
    },
    All(Vec<Licence>),
    Any(Vec<Licence>),
}

impl Licence {
    fn is_allowed(&self) -> bool {
        match self {
            Self::One { id, exception } => {
                let is_known = |exception: &String| ALLOWED_EXCEPTIONS.contains(&&**exception);
                ALLOWED.contains(&&**id) && exception.as_ref().is_none_or(is_known)
            }
            Self::All(parts) => parts.iter().all(Self::is_allowed),
            Self::Any(parts) => parts.iter().any(Self::is_allowed),
        }
    }
}

fn parse(expression: &str) -> Result<Licence, String> {
    // Old manifests write `MIT/Apache-2.0` for a choice.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let licence = parse_any(&mut rest);
    match licence {
        Some(licence) if rest.is_empty() => Ok(licence),
        _ => Err(format!("has the unreadable licence `{expression}`")),
    }
}

/// `OR` binds weakest, then `AND`, then `WITH`.
fn parse_any(words: &mut &[&str]) -> Option<Licence> {
    let mut parts = vec![parse_all(words)?];
    while take(words, "OR") {
        parts.push(parse_all(words)?);
    }
    Some(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Licence::Any(parts)
    })
}

fn parse_all(words: &mut &[&str]) -> Option<Licence> {
    let mut parts = vec![parse_one(words)?];
    while take(words, "AND") {
        parts.push(parse_one(words)?);
    }
    Some(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Licence::All(parts)
    })
}

fn parse_one(words: &mut &[&str]) -> Option<Licence> {
    if take(words, "(") {
        let inner = parse_any(words)?;
        return take(words, ")").then_some(inner);
    }
    let id = take_name(words)?;
    let exception = if take(words, "WITH") {
        Some(take_name(words)?)
    } else {
        None
    };
    Some(Licence::One { id, exception })
}

fn take(words: &mut &[&str], word: &str) -> bool {
    let found = words.first() == Some(&word);
    if found {
        *words = &words[1..];
    }
    found
}

fn take_name(words: &mut &[&str]) -> Option<String> {
    let (first, rest) = words.split_first()?;
    let is_operator = matches!(*first, "OR" | "AND" | "WITH" | "(" | ")");
    *words = rest;
    (!is_operator).then(|| (*first).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_licence(expression: &str, allowed: bool) {
        let licence = parse(expression);
        let found = licence.as_ref().is_ok_and(Licence::is_allowed);
        assert_eq!(found, allowed, "{expression}: {licence:?}");
    }

    #[test]
    fn single_licences() {
        check_licence("MIT", true);
        check_licence("GPL-3.0-only", false);
        check_licence("mit", false);
    }

    #[test]
    fn a_choice_needs_one_allowed() {
        check_licence("MIT OR LGPL-2.1-or-later", true);
        check_licence("MIT/GPL-2.0-only", true);
        check_licence("GPL-2.0-only OR AGPL-3.0-only", false);
    }

    #[test]
    fn a_conjunction_needs_all_allowed() {
        check_licence("Apache-2.0 AND ISC", true);
        check_licence("Apache-2.0 AND OpenSSL", false);
    }

    #[test]
    fn and_binds_tighter_than_or() {
        check_licence("MIT OR GPL-2.0-only AND GPL-3.0-only", true);
        check_licence("(MIT OR GPL-2.0-only) AND GPL-3.0-only", false);
        check_licence("GPL-3.0-only AND MIT OR GPL-2.0-only", false);
        check_licence("(MIT OR Apache-2.0) AND Unicode-3.0", true);
    }

    #[test]
    fn exceptions_are_named() {
        check_licence("Apache-2.0 WITH LLVM-exception", true);
        check_licence("GPL-2.0-only WITH LLVM-exception", false);
        check_licence("Apache-2.0 WITH Classpath-exception-2.0", false);
    }

    #[test]
    fn what_cannot_be_read_is_not_allowed() {
        for broken in [
            "",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "MIT WITH",
            "OR MIT",
        ] {
            check_licence(broken, false);
        }
    }
}
