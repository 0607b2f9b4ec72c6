//! The `alknet` program: parse, call, print.
