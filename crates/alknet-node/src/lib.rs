//! Assembles configuration, stores, registry, endpoint and handlers into a running node.
