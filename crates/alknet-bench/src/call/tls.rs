//! A certificate for contenders that speak TLS over TCP.

use anyhow::{Context, Result};

/// What the certificate is for, and where every such server listens.
pub(crate) const HOST: &str = "127.0.0.1";

/// A self-signed certificate and its key, as PEM.
pub(crate) struct SelfSigned {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl SelfSigned {
    /// A new one.
    pub(crate) fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]);
        let made = made.context("no certificate can be made")?;
        Ok(Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        })
    }
}
