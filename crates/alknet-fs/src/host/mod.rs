//! Directories of the host as buckets.
//!
//! What a caller names is walked by [`crate::root`]; access is decided about what
//! was named and about where it leads ([`gate`]); what blocks runs on threads of
//! its own, a bounded number at a time ([`jobs`]).

pub(crate) mod bucket;
pub(crate) mod copy;
pub(crate) mod gate;
mod handle;
pub(crate) mod jobs;
mod listing;
mod names;
mod replacement;
mod small;
mod usage;
mod watching;
mod writing;

pub use self::jobs::BLOCKING_JOBS_MAX;
