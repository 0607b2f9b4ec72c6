//! The vault: from words on paper to the keys of a node.
//!
//! One [`Mnemonic`] (BIP39, 12 to 24 English words) is all that a person has to
//! keep. Its [`Seed`] is wrapped and stored in a data directory as a [`Vault`],
//! and every key of the node is derived from it (SLIP-0010, Ed25519, hardened
//! only). Whoever restores the words gets the same node id back.
//!
//! | key | path | taken with |
//! | --- | --- | --- |
//! | node identity | `m/74'/0'/0'/0'` | [`Vault::node_key`] |
//! | owner | `m/74'/0'/0'/1'` | [`Vault::owner_key`] |
//! | SSH host | `m/74'/0'/1'/0'` | [`Vault::ssh_host_key`] |
//! | sealing, version v | `m/74'/2'/0'/v'` | [`Vault::sealing_key`] |
//!
//! ```
//! use alknet_vault::{Mnemonic, Vault, Wrap};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let data = tempfile::tempdir()?;
//! // `init`: show these words once, they are the only backup.
//! let words = Mnemonic::generate()?;
//! let vault = Vault::create(data.path(), &words, "", Wrap::KeyFile)?;
//! let node_id = vault.node_key()?.public_key();
//!
//! // Every later start.
//! let vault = Vault::open(data.path())?;
//! assert_eq!(vault.node_key()?.public_key(), node_id);
//!
//! // `init --restore`, on another machine and under a passphrase.
//! # let data = tempfile::tempdir()?;
//! let words = Mnemonic::parse(words.expose())?;
//! Vault::create(data.path(), &words, "", Wrap::Passphrase("correct horse"))?;
//! let mut vault = Vault::open(data.path())?;
//! assert!(vault.node_key().is_err()); // Locked so far.
//! vault.unlock("correct horse")?;
//! assert_eq!(vault.node_key()?.public_key(), node_id);
//! # Ok(())
//! # }
//! ```
//!
//! # At rest
//!
//! A vault is the file [`VAULT_FILE`] and, unless a passphrase wraps the seed,
//! the file [`KEY_FILE`] beside it. Both are created with mode 0600, appear
//! whole or not at all, never replace what is there, and are refused when
//! anybody but their owner may read or write them.
//!
//! `vault.json` is versioned JSON: `format`, `wrap` (`key-file` or
//! `passphrase`), `kdf` (for a passphrase: argon2id with its memory in KiB,
//! passes, lanes and a salt of 16 bytes), `cipher`, `nonce` (24 bytes),
//! `ciphertext` (the seed of 64 bytes and a tag of 16) and `checksum`, all bytes
//! in lower-case hexadecimal. The seed is encrypted with XChaCha20-Poly1305
//! under the 32 bytes that `vault.key` holds in hexadecimal, or that argon2id
//! (version 1.3) makes of the passphrase. The associated data is the text
//! `alknet-vault format=1 wrap=key-file` (or `wrap=passphrase`). The checksum is
//! SHA-256 over the compact JSON of the fields before it, in the order above; it
//! protects nothing, but tells a damaged file from a wrong passphrase.
//!
//! [`Vault::rewrap`] changes what wraps the seed, and [`Vault::prepare_successor`]
//! puts another seed into its place. Both replace whole files, so that whoever
//! opens the directory at any moment, or after a crash at any moment, finds the
//! vault as it was or as it will be.
//!
//! # Sealing
//!
//! A [`Sealer`] seals other secrets for storage under a version of the sealing
//! key, bound to what they are: see [`Sealer::seal`].
//!
//! # What it does not do
//!
//! No network and no operations. It neither prints nor reads the environment,
//! and picks no directory. It does not defend against somebody who can read this
//! process's memory or both files; a vault wrapped by a key file is as private as
//! its directory. Secrets are wiped when dropped, have no `Display`, are not
//! serialisable, and their `Debug` shows nothing but their type; asking for
//! their bytes is always spelt `expose`:
//!
//! ```compile_fail,E0277
//! fn print(secret: impl std::fmt::Display) {}
//! print(alknet_vault::Mnemonic::generate().unwrap());
//! ```
//!
//! Unix only, since file modes are.
mod change;
mod copy;
mod disk;
mod envelope;
mod mnemonic;
mod paths;
mod random;
mod seal;
mod secret;
pub mod slip10;
mod vault;
mod wrap;

pub use crate::{
    change::{ChangeVaultError, Pending, Successor},
    disk::{KEY_FILE, NEXT_FILE, VAULT_FILE},
    envelope::{Damage, FORMAT, fuzz_envelope},
    mnemonic::{EntropyLengthError, Mnemonic, ParseMnemonicError},
    random::NoRandomness,
    seal::{About, OpenSealedError, SEALED_EXTRA_BYTES, Sealer},
    secret::{SecretKey32, Seed},
    vault::{CreateVaultError, KeyError, OpenVaultError, UnlockVaultError, Vault},
    wrap::{Cost, CostError, PASSPHRASE_BYTES_MAX, Wrap, WrapKind},
};
