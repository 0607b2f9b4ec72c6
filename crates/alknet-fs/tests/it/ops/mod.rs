//! Operations on files, through a door, over a bucket of the host.

mod entries;
mod many;
mod read;
mod search;
mod tree;
mod world;
mod write;
