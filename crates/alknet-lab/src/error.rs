//! What can go wrong while a lab is made or changed.

use std::io;

/// A lab could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program that sets up the network said no.
    #[error("`{command}`: {said}")]
    Command {
        /// The program and its words.
        command: String,
        /// What it wrote to standard error.
        said: String,
    },
    /// The kernel said no.
    #[error("failed to {act} in `{namespace}`")]
    Io {
        /// What was tried.
        act: String,
        /// The namespace in which.
        namespace: String,
        /// The reason.
        source: io::Error,
    },
    /// A name that is not 1 to 32 of `a` to `z`, `0` to `9` and `-`, or that
    /// is taken.
    #[error("name `{name}` {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value that the lab cannot apply.
    #[error("{what} `{value}` {reason}")]
    Value {
        /// What was to be set.
        what: &'static str,
        /// To what.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A measurement got no answer.
    #[error("nothing from `{from}` reached `{to}`")]
    Silent {
        /// Who sent.
        from: String,
        /// Who waited.
        to: String,
    },
    /// The lab has no more addresses.
    #[error("the lab has no more {what}")]
    Full {
        /// What ran out.
        what: &'static str,
    },
    /// Not with this kind of site.
    #[error("`{site}` has no NAT")]
    NoNat {
        /// The site.
        site: String,
    },
}
