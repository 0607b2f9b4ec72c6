//! Operations that run processes: configured commands and shell/exec.
