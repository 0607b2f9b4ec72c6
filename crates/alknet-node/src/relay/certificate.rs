//! The relay's certificate: its owner's, or one that it makes for itself.

use super::{SpkiPin, pins::pin_of};
use crate::data_dir::{DataDir, DataDirError};
use alknet_core::storage::Timestamp;
use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Largest file of a certificate or key that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others could take the relay's place.
    #[error("`{}` can be read by others (mode {mode:03o})", path.display())]
    Exposed {
        /// The key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No certificate, or no key, in PEM.
    #[error("`{}` holds no {what} in PEM", path.display())]
    NotPem {
        /// Which file.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// Its time is over.
    #[error("the certificate in `{}` expired at {at}", path.display())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When.
        at: Timestamp,
    },
    /// Its time has not come.
    #[error("the certificate in `{}` is not valid before {at}", path.display())]
    NotYetValid {
        /// Which file.
        path: PathBuf,
        /// From when.
        at: Timestamp,
    },
    /// The key is that of another certificate.
    #[error("`{}` is not the key of the certificate in `{}`", key.display(), cert.display())]
    OtherKey {
        /// The key.
        key: PathBuf,
        /// The certificate.
        cert: PathBuf,
    },
    /// The certificate's key is not the one that others are told.
    #[error("`url` pins sha256={told}, the certificate has sha256={found}")]
    OtherPin {
        /// In the URL.
        told: SpkiPin,
        /// In the certificate.
        found: SpkiPin,
    },
    /// It is of a kind that cannot be used.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// One of its own cannot be kept.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
}

impl CertificateError {
    /// The sentence that helps.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            CertificateError::Exposed { path, .. } => Some(format!("chmod go= {}", path.display())),
            CertificateError::Expired { .. } => {
                Some("renew it; a node that runs reads it again on a reload (SIGHUP)".into())
            }
            CertificateError::NotYetValid { .. } => Some("check this machine's clock".into()),
            _ => None,
        }
    }
}

/// A certificate in use.
#[derive(Debug)]
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    /// Of its key.
    pub(crate) pin: SpkiPin,
    /// The first name in it, or else the first IPv4 address.
    pub(crate) name: Option<String>,
    /// Whether its own key vouches for it, and nobody else.
    pub(crate) is_self_signed: bool,
}

impl Certificate {
    /// Reads a chain and its key, and judges both.
    pub(crate) fn load(
        cert: &Path,
        key: &Path,
        now: Timestamp,
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let mode = mode(key)?;
        if mode & 0o077 != 0 {
            return Err(CertificateError::Exposed {
                path: key.into(),
                mode,
            });
        }
        Self::read(cert, key, now, provider)
    }

    /// The one that the relay made for itself, made now if it is missing.
    pub(crate) fn own(
        data: &DataDir,
        now: Timestamp,
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let (cert, key) = (data.relay_certificate(), data.relay_key());
        if !key.exists() {
            let unusable = |error: rcgen::Error| CertificateError::Unusable {
                path: key.clone(),
                reason: error.to_string(),
            };
            // Valid from 1975 to 4096: clients look at the key alone, and a
            // clock that is off must not matter.
            let made = rcgen::generate_simple_self_signed(vec!["relay.alknet.invalid".into()])
                .map_err(unusable)?;
            // The key last: with it, both are there.
            data.write_relay(&cert, &made.cert.pem())?;
            data.write_relay(&key, &made.signing_key.serialize_pem())?;
        }
        let mut own = Self::load(&cert, &key, now, provider)?;
        own.name = None;
        Ok(own)
    }

    fn read(
        cert: &Path,
        key: &Path,
        now: Timestamp,
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let not_pem = |path: &Path, what| CertificateError::NotPem {
            path: path.into(),
            what,
        };
        let text = read(cert)?;
        let chain: Result<Vec<CertificateDer<'static>>, _> =
            CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|_| not_pem(cert, "certificate"))?;
        let first = chain.first().ok_or_else(|| not_pem(cert, "certificate"))?;
        let (name, is_self_signed) = judge(cert, first, now)?;
        let unusable = |path: &Path, reason: &dyn std::fmt::Display| CertificateError::Unusable {
            path: path.into(),
            reason: reason.to_string(),
        };
        let pin = pin_of(first).map_err(|error| unusable(cert, &error))?;
        let secret =
            PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| not_pem(key, "private key"))?;
        let secret = provider
            .key_provider
            .load_private_key(secret)
            .map_err(|error| unusable(key, &error))?;
        let certified = CertifiedKey::new(chain, secret);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(CertificateError::OtherKey {
                    key: key.into(),
                    cert: cert.into(),
                });
            }
            Err(error) => return Err(unusable(cert, &error)),
        }
        Ok(Self {
            key: Arc::new(certified),
            pin,
            name,
            is_self_signed,
        })
    }
}

/// Judges a certificate's time, and finds its first name and whether it is its
/// own issuer.
fn judge(
    path: &Path,
    certificate: &CertificateDer<'_>,
    now: Timestamp,
) -> Result<(Option<String>, bool), CertificateError> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| {
        CertificateError::Unusable {
            path: path.into(),
            reason: error.to_string(),
        }
    })?;
    let validity = parsed.validity();
    let at = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1000));
    let (from, until) = (at(validity.not_before), at(validity.not_after));
    if until <= now {
        return Err(CertificateError::Expired {
            path: path.into(),
            at: until,
        });
    }
    if now < from {
        return Err(CertificateError::NotYetValid {
            path: path.into(),
            at: from,
        });
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let name = names.clone().find_map(|name| match name {
        GeneralName::DNSName(name) if !name.contains('*') => Some((*name).to_owned()),
        _ => None,
    });
    // Clients take no IPv6 address for the name in TLS.
    let address = names.clone().find_map(|name| match name {
        GeneralName::IPAddress(bytes) => {
            let octets: [u8; 4] = (*bytes).try_into().ok()?;
            Some(Ipv4Addr::from(octets).to_string())
        }
        _ => None,
    });
    let is_self_signed = parsed.subject().as_raw() == parsed.issuer().as_raw();
    Ok((name.or(address), is_self_signed))
}

fn mode(path: &Path) -> Result<u32, CertificateError> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path).map_err(|source| CertificateError::Read {
        path: path.into(),
        source,
    })?;
    Ok(found.permissions().mode() & 0o777)
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| CertificateError::Read {
            path: path.into(),
            source,
        })?;
    Ok(bytes)
}

/// Serves whatever certificate is in use now.
#[derive(Debug)]
pub(crate) struct InUse(ArcSwap<CertifiedKey>);

impl InUse {
    pub(crate) fn new(certificate: &Certificate) -> Arc<Self> {
        Arc::new(Self(ArcSwap::new(certificate.key.clone())))
    }

    pub(crate) fn replace(&self, certificate: &Certificate) {
        self.0.store(certificate.key.clone());
    }

    /// TLS for the relay, with this certificate and its successors.
    pub(crate) fn server_config(
        self: &Arc<Self>,
        provider: Arc<CryptoProvider>,
    ) -> Result<ServerConfig, rustls::Error> {
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone()))
    }
}

impl ResolvesServerCert for InUse {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        /// A certificate for these years, with its key.
        fn new(years: (i32, i32)) -> Self {
            let mut params = rcgen::CertificateParams::new(vec![
                "*.example.org".into(),
                "relay.example.org".into(),
            ])
            .unwrap();
            params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
            params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let files = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            fs::write(files.cert(), params.self_signed(&key).unwrap().pem()).unwrap();
            files.put_key(&key.serialize_pem());
            files
        }

        fn cert(&self) -> PathBuf {
            self.dir.path().join("cert.pem")
        }

        fn key(&self) -> PathBuf {
            self.dir.path().join("key.pem")
        }

        fn put_key(&self, text: &str) {
            fs::write(self.key(), text).unwrap();
            fs::set_permissions(self.key(), fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn load(&self) -> Result<Certificate, CertificateError> {
            let provider = rustls::crypto::ring::default_provider();
            Certificate::load(&self.cert(), &self.key(), NOW, &provider)
        }
    }

    #[test]
    fn a_good_pair_is_used_and_named_by_its_first_whole_name() {
        let loaded = Files::new((2020, 2090)).load().unwrap();
        assert_eq!(loaded.name.as_deref(), Some("relay.example.org"));
        assert!(loaded.is_self_signed);
    }

    #[test]
    fn a_certificate_for_an_address_names_it_and_its_issuer_may_be_another() {
        let files = Files::new((2020, 2090));
        let (ca_key, key) = (
            rcgen::KeyPair::generate().unwrap(),
            rcgen::KeyPair::generate().unwrap(),
        );
        let mut ca = rcgen::CertificateParams::default();
        ca.distinguished_name = rcgen::DistinguishedName::new();
        ca.distinguished_name
            .push(rcgen::DnType::CommonName, "an authority of one's own");
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let names = ["2001:db8::1".into(), "203.0.113.7".into()];
        let params = rcgen::CertificateParams::new(names).unwrap();
        let signed = params.signed_by(&key, &issuer).unwrap();
        fs::write(files.cert(), signed.pem()).unwrap();
        files.put_key(&key.serialize_pem());
        let loaded = files.load().unwrap();
        assert_eq!(loaded.name.as_deref(), Some("203.0.113.7"));
        assert!(!loaded.is_self_signed);
    }

    #[test]
    fn each_fault_is_told() {
        use CertificateError as E;
        let kind = |files: &Files| files.load().unwrap_err();
        assert!(matches!(kind(&Files::new((2000, 2001))), E::Expired { .. }));
        assert!(matches!(
            kind(&Files::new((2089, 2090))),
            E::NotYetValid { .. }
        ));
        let files = Files::new((2020, 2090));
        files.put_key(&rcgen::KeyPair::generate().unwrap().serialize_pem());
        assert!(matches!(kind(&files), E::OtherKey { .. }));
        files.put_key("no key");
        assert!(matches!(
            kind(&files),
            E::NotPem {
                what: "private key",
                ..
            }
        ));
        fs::set_permissions(files.key(), fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = kind(&files);
        assert!(matches!(exposed, E::Exposed { mode: 0o640, .. }));
        assert!(exposed.hint().unwrap().starts_with("chmod go= "));
        fs::remove_file(files.key()).unwrap();
        assert!(matches!(kind(&files), E::Read { .. }));
        let files = Files::new((2020, 2090));
        fs::write(files.cert(), "").unwrap();
        assert!(matches!(
            kind(&files),
            E::NotPem {
                what: "certificate",
                ..
            }
        ));
    }

    #[test]
    fn one_of_its_own_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::new(dir.path());
        let provider = rustls::crypto::ring::default_provider();
        let own = |now| Certificate::own(&data, now, &provider).unwrap().pin;
        let pin = own(NOW);
        assert_eq!(own(NOW), pin);
        // A clock that is off by thirty years, either way, does not matter.
        let years = 30 * 365 * 86_400_000;
        assert_eq!(own(Timestamp(NOW.0 + years)), pin);
        assert_eq!(own(Timestamp(NOW.0 - years)), pin);
        assert_eq!(mode(&data.relay_key()).unwrap(), 0o600);
    }
}
