//! How a relay is named: its URL, the key of its certificate, and where it
//! tells clients their address.

use data_encoding::HEXLOWER_PERMISSIVE;
use iroh::RelayUrl;
use std::{fmt, net::IpAddr, str::FromStr};

/// Longest text of a relay's address, in bytes: a name of 253 bytes, a port, a
/// pin and what else a fragment says.
pub const TEXT_BYTES_MAX: usize = 400;
/// The UDP port at which iroh's relays tell clients their address (QAD).
pub(crate) const QAD_PORT: u16 = 7842;

/// SHA-256 of a certificate's `SubjectPublicKeyInfo`, as RFC 7858 (appendix A)
/// and `curl --pinnedpubkey` use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpkiPin([u8; 32]);

impl SpkiPin {
    /// A pin with this hash.
    #[must_use]
    pub fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// The hash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SpkiPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpkiPin({self})")
    }
}

/// Where a relay tells clients the address under which it sees them (QUIC
/// address discovery).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qad {
    /// UDP 7842.
    #[default]
    Usual,
    /// Another UDP port.
    Port(u16),
    /// Nowhere.
    Off,
}

impl Qad {
    /// The UDP port; `None` if there is none.
    #[must_use]
    pub fn port(self) -> Option<u16> {
        match self {
            Qad::Usual => Some(QAD_PORT),
            Qad::Port(port) => Some(port),
            Qad::Off => None,
        }
    }

    /// What a UDP port, or none, is called.
    #[must_use]
    pub fn at(port: Option<u16>) -> Self {
        match port {
            Some(QAD_PORT) => Qad::Usual,
            Some(port) => Qad::Port(port),
            None => Qad::Off,
        }
    }
}

/// How a relay is named everywhere: in configurations, invites, what peers
/// tell each other, and JSON.
///
/// The text is `https://HOST[:PORT]/`, optionally followed by a fragment of
/// fields joined by `&`: `sha256=` and 64 hexadecimal digits pins the key of
/// the relay's certificate, `qad=` and a UDP port (or `off`) says where address
/// discovery is if not at 7842. A pinned relay is known by its key alone:
/// names, dates and issuers in its certificate are not looked at (as with
/// DANE-EE, RFC 7671, 5.1). Plain `http` is read for loopback and private
/// addresses only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayAddress {
    url: RelayUrl,
    pin: Option<SpkiPin>,
    qad: Qad,
}

/// Why a text is no address of a relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRelayError {
    /// It is no URL with a host.
    #[error("`{0}` is no relay's URL")]
    NotAUrl(String),
    /// It is longer than [`TEXT_BYTES_MAX`].
    #[error("a relay's address has at most {TEXT_BYTES_MAX} bytes, this has {0}")]
    TooLong(usize),
    /// Relays speak HTTPS.
    #[error("relay `{url}` has scheme `{scheme}`; use https")]
    Scheme {
        /// What was given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// Everybody on the way could read who talks to whom.
    #[error("relay `{0}` is plain http on a public address; use https")]
    PlainPublic(String),
    /// A name and password, a path or a query say nothing to a relay.
    #[error("relay `{url}` has a {part}; a relay is named by `https://HOST[:PORT]/`")]
    Excess {
        /// What was given, without a password.
        url: String,
        /// What is too much.
        part: &'static str,
    },
    /// The pin is not 64 hexadecimal digits.
    #[error("relay `{0}`: `sha256` is not 64 hexadecimal digits")]
    BadPin(String),
    /// A pin of a relay that has no certificate.
    #[error("relay `{0}` is plain http: it has no certificate whose key could be pinned")]
    PinWithoutTls(String),
    /// No UDP port.
    #[error("relay `{0}`: `qad` is neither `off` nor a UDP port from 1 to 65535")]
    BadPort(String),
    /// A field of the fragment that nobody knows, or that is there twice.
    #[error(
        "relay `{url}`: `{field}` is unknown or given twice; after `#` come `sha256=` and `qad=`"
    )]
    Field {
        /// The relay.
        url: String,
        /// The field.
        field: String,
    },
}

impl RelayAddress {
    /// A relay with a certificate that public roots vouch for.
    #[must_use]
    pub fn unpinned(url: RelayUrl) -> Self {
        Self {
            url,
            pin: None,
            qad: Qad::default(),
        }
    }

    /// The same relay with this key and address discovery.
    #[must_use]
    pub(crate) fn with(mut self, pin: Option<SpkiPin>, qad: Qad) -> Self {
        (self.pin, self.qad) = (pin, qad);
        self
    }

    /// Its URL as iroh takes it: without pin and port of address discovery.
    #[must_use]
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// The key that its certificate must have; `None` if public roots vouch
    /// for it.
    #[must_use]
    pub fn pin(&self) -> Option<SpkiPin> {
        self.pin
    }

    /// Where it tells clients their address.
    #[must_use]
    pub fn qad(&self) -> Qad {
        self.qad
    }

    /// The host: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        host(&self.url)
    }

    /// The address, if the host is one and no name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok()
    }

    /// Whether it is spoken to in the clear.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The relay as iroh's endpoint takes it.
    #[must_use]
    pub fn config(&self) -> iroh::RelayConfig {
        // Address discovery is QUIC, and QUIC needs the certificate.
        let port = self.qad.port().filter(|_| !self.is_plain());
        let quic = port.map(iroh_relay::RelayQuicConfig::new);
        iroh::RelayConfig::new(self.url.clone(), quic)
    }
}

/// The host of a URL: a name, or an address without brackets.
pub(crate) fn host(url: &RelayUrl) -> &str {
    url.host_str().unwrap_or_default().trim_matches(['[', ']'])
}

impl FromStr for RelayAddress {
    type Err = ParseRelayError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(ParseRelayError::TooLong(text.len()));
        }
        let (base, fragment) = match text.split_once('#') {
            Some((base, fragment)) => (base, Some(fragment)),
            None => (text, None),
        };
        let url = parse_url(base)?;
        let shown = || url.to_string();
        let (mut pin, mut qad) = (None, None);
        for field in fragment.into_iter().flat_map(|fields| fields.split('&')) {
            match field.split_once('=') {
                Some(("sha256", hex)) if pin.is_none() => {
                    pin =
                        Some(SpkiPin::parse(hex).ok_or_else(|| ParseRelayError::BadPin(shown()))?);
                }
                Some(("qad", port)) if qad.is_none() => {
                    qad = Some(parse_qad(port).ok_or_else(|| ParseRelayError::BadPort(shown()))?);
                }
                _ => {
                    return Err(ParseRelayError::Field {
                        url: shown(),
                        field: alknet_core::clean_foreign_text(field, 40),
                    });
                }
            }
        }
        if url.scheme() == "http" && pin.is_some() {
            return Err(ParseRelayError::PinWithoutTls(shown()));
        }
        let address = Self::unpinned(url).with(pin, qad.unwrap_or_default());
        // As it is written it may be longer: names in other scripts are
        // spelt out.
        match address.to_string().len() {
            len if len > TEXT_BYTES_MAX => Err(ParseRelayError::TooLong(len)),
            _ => Ok(address),
        }
    }
}

fn parse_qad(text: &str) -> Option<Qad> {
    if text == "off" {
        return Some(Qad::Off);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = text.parse().ok().filter(|port| digits && *port != 0)?;
    Some(Qad::at(Some(port)))
}

/// Reads what comes before the fragment: `https`, or plain `http` where nobody
/// can listen in on the way (loopback and private addresses).
fn parse_url(text: &str) -> Result<RelayUrl, ParseRelayError> {
    let shown = || alknet_core::clean_foreign_text(text, 100);
    // What a URL parser would silently take away.
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(ParseRelayError::NotAUrl(shown()));
    }
    let url: RelayUrl = text
        .parse()
        .map_err(|_| ParseRelayError::NotAUrl(shown()))?;
    let excess = |part| ParseRelayError::Excess {
        url: format!("{}://{}/", url.scheme(), url.host_str().unwrap_or_default()),
        part,
    };
    match url.scheme() {
        "https" | "http" => {}
        // `relay:443` has a scheme too, as URLs go.
        _ if url.host_str().is_none_or(str::is_empty) => {
            return Err(ParseRelayError::NotAUrl(shown()));
        }
        scheme => {
            return Err(ParseRelayError::Scheme {
                url: shown(),
                scheme: scheme.into(),
            });
        }
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(excess("name or password"));
    }
    if url.path() != "/" {
        return Err(excess("path"));
    }
    if url.query().is_some() {
        return Err(excess("query"));
    }
    if url.scheme() == "http" && !is_near(host(&url)) {
        return Err(ParseRelayError::PlainPublic(shown()));
    }
    Ok(url)
}

/// Whether nobody outside of the own network is on the way to a host.
fn is_near(host: &str) -> bool {
    host == "localhost"
        || host.parse::<IpAddr>().is_ok_and(|ip| match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
        })
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)?;
        let mut mark = '#';
        if let Some(pin) = self.pin {
            write!(f, "{mark}sha256={pin}")?;
            mark = '&';
        }
        match self.qad {
            Qad::Usual => Ok(()),
            Qad::Port(port) => write!(f, "{mark}qad={port}"),
            Qad::Off => write!(f, "{mark}qad=off"),
        }
    }
}

impl fmt::Debug for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PIN: &str = "ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34";

    fn parse(text: &str) -> Result<RelayAddress, ParseRelayError> {
        text.parse()
    }

    #[track_caller]
    fn reads(text: &str, shown: &str) -> RelayAddress {
        let address = parse(text).unwrap();
        assert_eq!(address.to_string(), shown);
        assert_eq!(parse(shown), Ok(address.clone()));
        address
    }

    #[test]
    fn a_plain_url_is_an_unpinned_relay_with_the_usual_port() {
        let address = reads("https://relay.example.org", "https://relay.example.org/");
        assert_eq!((address.pin(), address.qad().port()), (None, Some(7842)));
        assert_eq!(address.config().quic.unwrap().port, 7842);
        assert_eq!(address.host(), "relay.example.org");
        assert_eq!(
            reads("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443/").host(),
            "2001:db8::1"
        );
    }

    #[test]
    fn pin_and_port_of_the_fragment_are_read_in_either_order() {
        let full = format!("https://203.0.113.1/#sha256={PIN}&qad=7000");
        let address = reads(&full, &full);
        assert_eq!(address.pin().unwrap().to_string(), PIN);
        assert_eq!(address.config().quic.unwrap().port, 7000);
        assert_eq!(address.url().to_string(), "https://203.0.113.1/");
        reads(
            &format!(
                "https://203.0.113.1:443#qad=7842&sha256={}",
                PIN.to_uppercase()
            ),
            &format!("https://203.0.113.1/#sha256={PIN}"),
        );
        let off = reads(
            "https://relay.example.org#qad=off",
            "https://relay.example.org/#qad=off",
        );
        assert_eq!(off.config().quic, None);
    }

    #[test]
    fn each_mistake_is_told() {
        use ParseRelayError as E;
        let kind = |text: &str| parse(text).unwrap_err();
        for text in [
            "",
            "relay",
            "relay:443",
            "https://",
            "https:// relay",
            "https://relay\n",
            "none",
        ] {
            assert!(
                matches!(kind(text), E::NotAUrl(_)),
                "{text:?}: {:?}",
                kind(text)
            );
        }
        assert!(matches!(kind("ftp://10.0.0.1"), E::Scheme { .. }));
        assert!(matches!(
            kind("http://relay.example.org"),
            E::PlainPublic(_)
        ));
        assert!(matches!(kind("http://[::ffff:8.8.8.8]"), E::PlainPublic(_)));
        assert!(matches!(
            kind("https://me:word@relay.example.org"),
            E::Excess { .. }
        ));
        assert!(
            !kind("https://me:word@relay.example.org")
                .to_string()
                .contains("word@")
        );
        assert!(matches!(
            kind("https://relay.example.org/x"),
            E::Excess { .. }
        ));
        assert!(matches!(
            kind("https://relay.example.org/?x=1"),
            E::Excess { .. }
        ));
        for pin in [
            "",
            "ab",
            &PIN[1..],
            &format!("{PIN}0"),
            &PIN.replace('a', "g"),
        ] {
            let text = format!("https://relay.example.org/#sha256={pin}");
            assert!(matches!(kind(&text), E::BadPin(_)), "{text}");
        }
        for port in ["", "0", "65536", "+1", "x", "-1"] {
            let text = format!("https://relay.example.org/#qad={port}");
            assert!(matches!(kind(&text), E::BadPort(_)), "{text}");
        }
        for field in [
            "",
            "x=1",
            "qad",
            "qad=1&qad=2",
            "qad=1&",
            "sha512=1",
            "qad=1#qad=1",
        ] {
            let text = format!("https://relay.example.org/#{field}");
            assert!(
                matches!(kind(&text), E::Field { .. } | E::BadPort(_)),
                "{text}"
            );
        }
        assert!(matches!(
            kind(&format!("http://127.0.0.1/#sha256={PIN}")),
            E::PinWithoutTls(_)
        ));
    }

    #[test]
    fn a_text_is_read_at_its_longest_and_not_one_byte_past() {
        let padded = |len: usize| {
            format!(
                "https://{}/#qad=off",
                "a.".repeat((len - 17) / 2) + &"a".repeat((len - 17) % 2)
            )
        };
        assert_eq!(padded(TEXT_BYTES_MAX).len(), TEXT_BYTES_MAX);
        assert!(!matches!(
            parse(&padded(TEXT_BYTES_MAX)),
            Err(ParseRelayError::TooLong(_))
        ));
        assert_eq!(
            parse(&padded(TEXT_BYTES_MAX + 1)),
            Err(ParseRelayError::TooLong(TEXT_BYTES_MAX + 1))
        );
        // Written, it is three bytes longer than read.
        let shorter = padded(TEXT_BYTES_MAX).replace("//", "");
        let longer = shorter.replacen("a.", "aaa.", 1);
        assert!(parse(&shorter).is_ok() && longer.len() <= TEXT_BYTES_MAX);
        assert_eq!(
            parse(&longer),
            Err(ParseRelayError::TooLong(TEXT_BYTES_MAX + 2))
        );
    }
}
