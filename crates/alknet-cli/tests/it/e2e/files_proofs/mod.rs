//! What is promised of files, between processes: whole trees and large files
//! through kills, nothing outside a bucket, every name, exact refusals, and
//! several who write at once.

mod canary;
mod confined;
mod names;
mod refused;
mod shared;
mod trees;
mod world;
