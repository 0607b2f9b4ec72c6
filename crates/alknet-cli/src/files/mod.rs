//! Files as the command line names, finds and shows them.

pub(crate) mod expand;
pub(crate) mod pattern;
pub(crate) mod place;
pub(crate) mod remote;
pub(crate) mod rows;
pub(crate) mod text;

pub(crate) use self::place::{FilePlace, RemotePlace};
