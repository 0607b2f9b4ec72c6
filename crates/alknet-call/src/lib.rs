//! The native call protocol: frames, client, server, links and the import of a peer's operations.
