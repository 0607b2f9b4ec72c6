//! What is sent: JSON of 64 bytes and of 4 KiB, and the operations that
//! answer with it.

use alknet_core::{Context, Operation, Registration};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Bytes of one write to a stream or a channel.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of the large document.
const DOCUMENT_BYTES: usize = 4096;
/// Bytes of the small one.
const TEXT_BYTES: usize = 64;

/// Which JSON is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Payload {
    /// One text, 64 bytes in all.
    Small,
    /// A list of 20 files with their hashes, 4 KiB in all: 103 values.
    Listing,
    /// A list of 32 records, one of whose four fields is a list of two, 4 KiB
    /// in all: 227 values.
    Large,
}

impl Payload {
    /// Every one.
    pub(crate) const ALL: [Self; 3] = [Payload::Small, Payload::Listing, Payload::Large];

    /// The operation that sends it back.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Payload::Small => "bench/text",
            Payload::Listing => "bench/listing",
            Payload::Large => "bench/document",
        }
    }

    /// The last part of the operation's name.
    pub(crate) fn method(self) -> &'static str {
        let name = self.operation();
        name.split_once('/').map_or(name, |(_, method)| method)
    }

    /// Reads text as its type and writes that as text: what a typed handler
    /// does where no schema is checked.
    pub(crate) fn rewritten(self, text: &[u8]) -> serde_json::Result<Vec<u8>> {
        match self {
            Payload::Small => serde_json::to_vec(&serde_json::from_slice::<Text>(text)?),
            Payload::Listing => serde_json::to_vec(&serde_json::from_slice::<Listing>(text)?),
            Payload::Large => serde_json::to_vec(&serde_json::from_slice::<Document>(text)?),
        }
    }

    /// Reads it as its type and writes that: what a typed handler does.
    pub(crate) fn round_trip(self, value: Value) -> serde_json::Result<Value> {
        match self {
            Payload::Small => serde_json::to_value(serde_json::from_value::<Text>(value)?),
            Payload::Listing => serde_json::to_value(serde_json::from_value::<Listing>(value)?),
            Payload::Large => serde_json::to_value(serde_json::from_value::<Document>(value)?),
        }
    }

    /// The JSON text. Fields are in the order in which any serialiser puts
    /// them, so that it comes back byte for byte.
    pub(crate) fn json(self) -> Bytes {
        match self {
            Payload::Small => padded(TEXT_BYTES, |text| format!(r#"{{"text":"{text}"}}"#)),
            Payload::Listing => padded(DOCUMENT_BYTES, |note| {
                let files = (0..20).map(file).collect();
                let note = note.to_owned();
                serde_json::to_string(&Listing { files, note }).unwrap_or_default()
            }),
            Payload::Large => padded(DOCUMENT_BYTES, |note| {
                let files = (0..32).map(record).collect();
                let note = note.to_owned();
                serde_json::to_string(&Document { files, note }).unwrap_or_default()
            }),
        }
    }
}

/// Fills a text until the whole has `bytes`.
fn padded(bytes: usize, write: impl Fn(&str) -> String) -> Bytes {
    let missing = bytes.saturating_sub(write("").len());
    write(&"x".repeat(missing)).into()
}

fn record(n: u64) -> Record {
    Record {
        bytes: 1_234_567 + n * 1_009,
        modified: format!("2026-03-{:02}T12:34:56.789Z", n % 28 + 1),
        name: format!("reports/2026/q1/summary-{n:04}.txt"),
        tags: vec!["draft".into(), "shared".into()],
    }
}

fn file(n: u64) -> File {
    let Record {
        bytes,
        modified,
        name,
        ..
    } = record(n);
    let hash = format!("{:064x}", u128::from(n + 1).wrapping_mul(u128::MAX / 7));
    File {
        bytes,
        hash,
        modified,
        name,
    }
}

/// The small document.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Text {
    /// Comes back.
    #[schemars(length(max = 100))]
    text: String,
}

/// The list of files.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// What there is.
    #[schemars(length(max = 100))]
    files: Vec<File>,
    /// What there is to say about it.
    note: String,
}

/// A file of the list.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Size.
    bytes: u64,
    /// Hash of its content.
    #[schemars(length(equal = 64))]
    hash: String,
    /// When it was changed.
    #[schemars(length(max = 32))]
    modified: String,
    /// Path.
    #[schemars(length(min = 1, max = 255))]
    name: String,
}

/// The large document.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Document {
    /// What there is.
    #[schemars(length(max = 100))]
    files: Vec<Record>,
    /// What there is to say about it.
    note: String,
}

/// A part of the large document.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Size.
    bytes: u64,
    /// When it was changed.
    #[schemars(length(max = 32))]
    modified: String,
    /// Path.
    #[schemars(length(min = 1, max = 255))]
    name: String,
    /// Labels.
    tags: Vec<String>,
}

/// What a server of another protocol answers: for a method that is named as an
/// operation, the document read and written again; for any other the same
/// bytes, unread.
pub(crate) fn answer(method: &str, request: Bytes) -> serde_json::Result<Bytes> {
    let typed = Payload::ALL.into_iter().find(|of| of.method() == method);
    match typed {
        Some(payload) => payload.rewritten(&request).map(Bytes::from),
        None => Ok(request),
    }
}

/// Bytes to send, or to count.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Amount {
    /// How many.
    pub(crate) count: u64,
}

/// The operations, on the paved path: typed, with schemas for what goes in and
/// what comes out.
pub(crate) fn operations() -> Vec<Registration> {
    vec![
        Operation::query(Payload::Small.operation(), "Sends a text back.")
            .requires("bench:use")
            .handler(|_cx: Context, text: Text| async move { Ok(text) }),
        Operation::query(Payload::Listing.operation(), "Sends a listing back.")
            .requires("bench:use")
            .handler(|_cx: Context, listing: Listing| async move { Ok(listing) }),
        Operation::query(Payload::Large.operation(), "Sends a document back.")
            .requires("bench:use")
            .handler(|_cx: Context, document: Document| async move { Ok(document) }),
        Operation::subscription("bench/items", "Sends texts.")
            .requires("bench:use")
            .stream(|_cx: Context, amount: Amount| async move {
                let text = || Text {
                    text: "x".repeat(TEXT_BYTES - r#"{"text":""}"#.len()),
                };
                let items = (0..amount.count).map(move |_| Ok(text()));
                Ok(futures::stream::iter(items))
            }),
        Operation::channel("bench/sink", "Takes bytes and counts them.")
            .requires("bench:use")
            .channel::<Amount, Amount, _, _, _>(|_cx, amount, opening| async move {
                let mut channel = opening.accept(&amount)?;
                let mut count = 0;
                while let Ok(Some(chunk)) = channel.rx.recv().await {
                    count += chunk.bytes.len() as u64;
                }
                Ok(Amount { count })
            }),
        Operation::channel("bench/source", "Sends bytes.")
            .requires("bench:use")
            .channel::<Amount, Amount, _, _, _>(|_cx, amount, opening| async move {
                let mut channel = opening.accept(&amount)?;
                for chunk in chunks(amount.count) {
                    if channel.tx.send(chunk).await.is_err() {
                        break;
                    }
                }
                channel.tx.end();
                Ok(amount)
            }),
    ]
}

/// `count` bytes in pieces that share one allocation.
pub(crate) fn chunks(count: u64) -> impl Iterator<Item = Bytes> + Send {
    let whole: Arc<[u8]> = vec![0x5a; CHUNK_BYTES].into();
    let whole = Bytes::from_owner(whole);
    let size = CHUNK_BYTES as u64;
    (0..count.div_ceil(size)).map(move |at| {
        let left = usize::try_from(count - at * size).unwrap_or(CHUNK_BYTES);
        whole.slice(..left.min(CHUNK_BYTES))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alknet_core::{Call, Caller, Dispatcher, Registry};

    #[tokio::test]
    async fn documents_have_their_size_and_come_back_byte_for_byte() {
        let registry = Registry::new();
        registry.register(operations()).unwrap();
        let door = Dispatcher::builder(registry).build();
        for (payload, bytes) in Payload::ALL.into_iter().zip([64, 4096, 4096]) {
            let json = payload.json();
            assert_eq!(json.len(), bytes);
            let call = Call::new(payload.operation(), Caller::host()).unwrap();
            let reply = door.call(call.input_json(json.clone())).await.unwrap();
            assert_eq!(reply.bytes(), json);
        }
    }

    #[test]
    fn other_servers_answer_byte_for_byte_and_only_what_fits() {
        for payload in Payload::ALL {
            let json = payload.json();
            assert_eq!(answer(payload.method(), json.clone()).unwrap(), json);
            assert_eq!(answer("echo", json.clone()).unwrap(), json);
        }
        assert!(answer(Payload::Small.method(), Payload::Large.json()).is_err());
    }

    #[test]
    fn chunks_add_up() {
        for count in [0, 1, 65_536, 65_537, 1_000_000] {
            let sum: usize = chunks(count).map(|chunk| chunk.len()).sum();
            assert_eq!(sum as u64, count);
        }
    }
}
