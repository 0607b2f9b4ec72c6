//! Headers in postcard, read without believing any length in them.

use crate::{
    frame::{Bearer, CallKind, Frame, FrameError, FrameType, Hello, Invoke, PeerLimits},
    limits::{
        CREDENTIAL_BYTES_MAX, EXTENSIONS_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, ROUTE_STEPS_MAX,
        SIDE_BYTES_MAX, TEXT_BYTES_MAX, VIA_NODES_MAX,
    },
};
use alknet_core::{CallError, ErrorClass, ErrorCode, NodeId, Output, clean_foreign_text};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;
use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

/// Writes postcard to the end of a buffer.
struct Tail<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Tail<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.put_u8(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

pub(crate) fn put(out: &mut BytesMut, header: &impl Serialize) {
    postcard::serialize_with_flavor(header, Tail(out))
        .expect("headers are plain data, and the buffer grows");
}

/// Reads a header to its last byte.
pub(crate) fn take<'a, T: Deserialize<'a>>(
    frame: FrameType,
    header: &'a [u8],
) -> Result<T, FrameError> {
    match postcard::take_from_bytes(header) {
        Ok((header, [])) => Ok(header),
        _ => Err(FrameError::Header(frame)),
    }
}

pub(crate) fn take_ext(frame: FrameType, header: &[u8]) -> Result<(), FrameError> {
    let (ext,): (Extensions,) = take(frame, header)?;
    ext.check(frame)
}

/// Fields added after this version: odd ids may be ignored, even ones not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extensions {
    critical: Option<u16>,
}

impl Extensions {
    pub(crate) const NONE: Self = Self { critical: None };

    pub(crate) fn check(self, frame: FrameType) -> Result<(), FrameError> {
        match self.critical {
            Some(id) => Err(FrameError::Extension { frame, id }),
            None => Ok(()),
        }
    }
}

impl Serialize for Extensions {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(std::iter::empty::<(u16, &[u8])>())
    }
}

impl<'de> Deserialize<'de> for Extensions {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> de::Visitor<'de> for Fields {
            type Value = Extensions;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("added fields")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Extensions, A::Error> {
                let mut found = Extensions::NONE;
                let mut count = 0;
                while let Some((id, _)) = seq.next_element::<(u16, &'de [u8])>()? {
                    count += 1;
                    if count > EXTENSIONS_MAX {
                        return Err(de::Error::custom("too many added fields"));
                    }
                    if id % 2 == 0 {
                        found.critical.get_or_insert(id);
                    }
                }
                Ok(found)
            }
        }
        d.deserialize_seq(Fields)
    }
}

/// A text of at most `N` bytes: nothing is allocated for a longer one.
#[derive(Clone, Debug, Default)]
struct Text<const N: usize>(String);

impl<const N: usize> Text<N> {
    fn of(text: &str) -> Self {
        Self(cut(text, N).to_owned())
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <&'de str>::deserialize(d)?;
        if text.len() > N {
            return Err(de::Error::custom("a text is too long"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// At most `N` elements: a length is never believed.
#[derive(Clone, Debug)]
struct Few<T, const N: usize>(Vec<T>);

impl<T: Serialize, const N: usize> Serialize for Few<T, N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(&self.0)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Few<T, N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Elements<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> de::Visitor<'de> for Elements<T, N> {
            type Value = Few<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} elements")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Few<T, N>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == N {
                        return Err(de::Error::custom("too many elements"));
                    }
                    elements.push(element);
                }
                Ok(Few(elements))
            }
        }
        d.deserialize_seq(Elements(PhantomData))
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

const VERSIONS_MAX: usize = 16;
const FEATURES_MAX: usize = 32;
const FEATURE_BYTES_MAX: usize = 32;

#[derive(Serialize, Deserialize)]
pub(crate) struct HelloHeader {
    versions: Few<u16, VERSIONS_MAX>,
    software: Text<NAME_BYTES_MAX>,
    node_name: Text<NAME_BYTES_MAX>,
    limits: PeerLimits,
    features: Few<Text<FEATURE_BYTES_MAX>, FEATURES_MAX>,
    credential: Option<Text<CREDENTIAL_BYTES_MAX>>,
    pub(crate) ext: Extensions,
}

impl HelloHeader {
    pub(crate) fn of(hello: &Hello, credential: &Option<Bearer>) -> Self {
        let versions = hello.versions.iter().take(VERSIONS_MAX).copied();
        let features = hello.features.iter().take(FEATURES_MAX);
        Self {
            versions: Few(versions.collect()),
            software: Text::of(&hello.software),
            node_name: Text::of(&hello.node_name),
            limits: hello.limits,
            features: Few(features.map(|feature| Text::of(feature)).collect()),
            credential: credential.as_ref().map(|key| Text::of(key.secret())),
            ext: Extensions::NONE,
        }
    }

    pub(crate) fn into_frame(self) -> Frame {
        let hello = Hello {
            versions: self.versions.0,
            software: clean_foreign_text(&self.software.0, NAME_BYTES_MAX),
            node_name: clean_foreign_text(&self.node_name.0, NAME_BYTES_MAX),
            limits: self.limits,
            features: self.features.0.into_iter().map(|text| text.0).collect(),
        };
        Frame::Hello(hello, self.credential.map(|text| Bearer::new(text.0)))
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct InvokeHeader {
    call_id: [u8; 16],
    operation: Text<NAME_BYTES_MAX>,
    kind: CallKind,
    budget_ms: Option<u64>,
    route: Few<Text<NAME_BYTES_MAX>, ROUTE_STEPS_MAX>,
    via: Few<NodeId, VIA_NODES_MAX>,
    originator: Option<(Text<NAME_BYTES_MAX>, Text<TEXT_BYTES_MAX>)>,
    idempotency_key: Option<Text<TEXT_BYTES_MAX>>,
    can_answer: bool,
    wants_progress: bool,
    trace: Option<Text<TEXT_BYTES_MAX>>,
    pub(crate) ext: Extensions,
}

impl InvokeHeader {
    pub(crate) fn of(invoke: &Invoke) -> Self {
        let route = invoke.route.iter().take(ROUTE_STEPS_MAX);
        Self {
            call_id: invoke.call_id,
            operation: Text::of(&invoke.operation),
            kind: invoke.kind,
            budget_ms: invoke.budget_ms,
            route: Few(route.map(|step| Text::of(step)).collect()),
            via: Few(invoke.via.iter().take(VIA_NODES_MAX).copied().collect()),
            originator: invoke
                .originator
                .as_ref()
                .map(|(node, label)| (Text::of(node), Text::of(label))),
            idempotency_key: invoke.idempotency_key.as_deref().map(Text::of),
            can_answer: invoke.can_answer,
            wants_progress: invoke.wants_progress,
            trace: invoke.trace.as_deref().map(Text::of),
            ext: Extensions::NONE,
        }
    }

    pub(crate) fn into_invoke(self) -> Invoke {
        Invoke {
            call_id: self.call_id,
            operation: self.operation.0,
            kind: self.kind,
            budget_ms: self.budget_ms,
            route: self.route.0.into_iter().map(|step| step.0).collect(),
            via: self.via.0,
            originator: self.originator.map(|(node, label)| (node.0, label.0)),
            idempotency_key: self.idempotency_key.map(|key| key.0),
            can_answer: self.can_answer,
            wants_progress: self.wants_progress,
            trace: self.trace.map(|trace| trace.0),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Class {
    Protocol,
    Domain,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ErrorHeader {
    class: Class,
    code: Text<NAME_BYTES_MAX>,
    message: Text<MESSAGE_BYTES_MAX>,
    retryable: bool,
    retry_after_ms: Option<u64>,
    pub(crate) ext: Extensions,
}

impl ErrorHeader {
    pub(crate) fn of(error: &CallError) -> Self {
        Self {
            class: match error.class {
                ErrorClass::Protocol => Class::Protocol,
                ErrorClass::Domain => Class::Domain,
            },
            code: Text::of(&error.code),
            message: Text::of(&error.message),
            retryable: error.retryable,
            retry_after_ms: error
                .retry_after
                .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            ext: Extensions::NONE,
        }
    }

    pub(crate) fn into_error(self, details: Bytes) -> Result<CallError, FrameError> {
        let malformed = || FrameError::Header(FrameType::Error);
        let is_code = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let code = self.code.0;
        if code.is_empty() || !code.bytes().all(is_code) {
            return Err(malformed());
        }
        let details = match details.is_empty() {
            true => None,
            false => Some(
                Output::Json(details)
                    .into_value()
                    .map_err(|_| malformed())?,
            ),
        };
        Ok(CallError {
            class: match self.class {
                Class::Protocol => ErrorClass::Protocol,
                Class::Domain => ErrorClass::Domain,
            },
            code: match ErrorCode::parse(&code) {
                Some(known) => Cow::Borrowed(known.as_str()),
                None => Cow::Owned(code),
            },
            message: clean_foreign_text(&self.message.0, MESSAGE_BYTES_MAX),
            details: details.map(Box::new),
            retryable: self.retryable,
            retry_after: self.retry_after_ms.map(Duration::from_millis),
        })
    }
}

/// The details as payload; too large ones give way to their size.
pub(crate) fn error_details(error: &CallError) -> Bytes {
    let Some(details) = &error.details else {
        return Bytes::new();
    };
    let text = details.to_string();
    if text.len() <= SIDE_BYTES_MAX {
        return text.into();
    }
    json!({ "details_bytes": text.len() }).to_string().into()
}
