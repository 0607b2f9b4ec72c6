//! Tests of the vault through its public names.
#![allow(clippy::unwrap_used)]

mod bip39_vectors;
mod change;
mod copy;
mod damage;
mod golden;
mod mnemonic;
mod seal;
mod slip10;
mod vault;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// The 24 words of the golden vaults; no node of anybody's has them.
const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon \
                     abandon abandon abandon abandon abandon abandon abandon abandon \
                     abandon abandon abandon abandon abandon abandon abandon art";

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Writes a file with mode 0600, as the vault wants it.
fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    chmod(path, 0o600);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The error with its causes, as the command line prints it.
fn chain(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |cause| cause.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}
