//! The library: embed a node, register typed operations, call remote ones.
