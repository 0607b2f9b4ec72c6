//! What a rule found, and how it is printed.

use std::fmt;

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the root of the repository.
    pub(crate) path: String,
    /// Counted from 1.
    pub(crate) line: usize,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
    pub(crate) severity: Severity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Fails the run.
    Error,
    /// Printed only.
    Warning,
}

impl Finding {
    pub(crate) fn error(
        path: &str,
        line: usize,
        rule: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let severity = Severity::Error;
        let (path, message) = (path.to_owned(), message.into());
        Self {
            path,
            line,
            rule,
            message,
            severity,
        }
    }

    pub(crate) fn warning(
        path: &str,
        line: usize,
        rule: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(path, line, rule, message)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            rule,
            message,
            severity,
        } = self;
        let mark = if *severity == Severity::Warning {
            "warning: "
        } else {
            ""
        };
        write!(f, "{path}:{line}: {rule}: {mark}{message}")
    }
}

/// Prints the findings in order of their place; true when none of them fails.
pub(crate) fn report(findings: &[Finding]) -> bool {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort();
    sorted.dedup();
    for finding in &sorted {
        println!("{finding}");
    }
    let errors = sorted
        .iter()
        .filter(|found| found.severity == Severity::Error)
        .count();
    let warnings = sorted.len() - errors;
    eprintln!("{errors} findings, {warnings} warnings");
    errors == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_path_line_rule_message() {
        let finding = Finding::error("a/b.rs", 7, "print", "libraries never print");
        assert_eq!(
            finding.to_string(),
            "a/b.rs:7: print: libraries never print"
        );
    }

    #[test]
    fn warnings_do_not_fail_and_errors_do() {
        let warning = Finding::warning("a.rs", 1, "length", "long");
        let error = Finding::error("a.rs", 1, "length", "too long");
        assert!(report(std::slice::from_ref(&warning)));
        assert!(!report(&[warning, error]));
    }
}
