//! A door with the operations on files, and a bucket in a directory of its own.

use alknet_core::{
    Call, CallError, Caller, ChannelCall, Chunk, Credential, Dispatcher, ErrorCode, Identity,
    PeerId, Registry, StaticIdentities, files::FileService,
};
use alknet_fs::{BucketConfig, Buckets, FilesConfig, file_operations};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use std::{fs, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc, time::Duration};

/// Long enough for anything that works.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) door: Dispatcher,
    identities: Arc<StaticIdentities>,
    caller: Caller,
}

impl World {
    /// With the buckets `www` and `other`, called by the host itself.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let configs = ["www", "other"].map(|name| {
            fs::create_dir(dir.path().join(name)).unwrap();
            BucketConfig::new(name, dir.path().join(name))
        });
        let buckets = Buckets::new(&FilesConfig::default(), &configs, None).unwrap();
        let (registry, identities) = (Registry::new(), Arc::new(StaticIdentities::default()));
        let files: Arc<dyn FileService> = buckets;
        registry.register(file_operations(&files)).unwrap();
        let door = Dispatcher::builder(registry)
            .identities(identities.clone())
            .build();
        Self {
            dir,
            door,
            identities,
            caller: Caller::host(),
        }
    }

    /// Calls from here on come from somebody who holds this.
    pub(crate) fn granted(mut self, grants: &[&str]) -> Self {
        self.grant(grants);
        self.caller = Caller::resolve(&*self.identities, key()).unwrap();
        self
    }

    pub(crate) fn grant(&self, grants: &[&str]) {
        let id = PeerId::parse("bob").unwrap();
        self.identities
            .put(key(), Identity::granted(id, grants).unwrap());
    }

    pub(crate) fn forget(&self) {
        self.identities.remove(&key());
    }

    pub(crate) fn host(&self, text: &str) -> PathBuf {
        self.dir.path().join(text)
    }

    pub(crate) fn put(&self, text: &str, bytes: impl AsRef<[u8]>) {
        let path = self.host(text);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn get(&self, text: &str) -> Vec<u8> {
        fs::read(self.host(text)).unwrap()
    }

    /// Names in a directory of the host, sorted; those of partial files too.
    pub(crate) fn names(&self, text: &str) -> Vec<String> {
        let entries = fs::read_dir(self.host(text)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| String::from_utf8_lossy(entry.unwrap().file_name().as_bytes()).into())
            .collect();
        names.sort();
        names
    }

    fn to(&self, operation: &str, input: &Value) -> Call {
        Call::new(operation, self.caller.clone())
            .unwrap()
            .input(input)
    }

    pub(crate) async fn call(&self, operation: &str, input: Value) -> Result<Value, CallError> {
        let reply = soon(self.door.call(self.to(operation, &input))).await?;
        reply.into_output().into_value()
    }

    pub(crate) async fn did(&self, operation: &str, input: Value) -> Value {
        let done = self.call(operation, input.clone()).await;
        done.unwrap_or_else(|error| panic!("{operation} {input}: {error:?}"))
    }

    /// The call ends with this code.
    pub(crate) async fn fails(&self, operation: &str, input: Value, code: &str) -> CallError {
        let error = match self.call(operation, input.clone()).await {
            Ok(reply) => panic!("{operation} {input} was done: {reply}"),
            Err(error) => error,
        };
        assert_eq!(error.code, code, "{operation} {input}: {error}");
        error
    }

    pub(crate) async fn items(&self, operation: &str, input: Value) -> Vec<Value> {
        let items = soon(self.door.subscribe(self.to(operation, &input)));
        let items = items.await.unwrap();
        let items = soon(items.collect::<Vec<_>>()).await;
        let items = items.into_iter().map(|item| item.unwrap().into_value());
        items.collect::<Result<_, _>>().unwrap()
    }

    pub(crate) async fn open(
        &self,
        operation: &str,
        input: Value,
    ) -> Result<ChannelCall, CallError> {
        soon(self.door.open(self.to(operation, &input))).await
    }

    pub(crate) async fn opened(&self, operation: &str, input: Value) -> Opened {
        let call = self.open(operation, input.clone()).await;
        let call = call.unwrap_or_else(|error| panic!("{operation} {input}: {error:?}"));
        Opened {
            reply: call.reply.clone().into_value().unwrap(),
            call,
        }
    }

    /// The channel is refused with this code.
    pub(crate) async fn refuses(&self, operation: &str, input: Value, code: &str) -> CallError {
        let error = match self.open(operation, input.clone()).await {
            Ok(call) => panic!("{operation} {input} was opened: {:?}", call.reply),
            Err(error) => error,
        };
        assert_eq!(error.code, code, "{operation} {input}: {error}");
        error
    }

    /// Writes a file in one go.
    pub(crate) async fn write(&self, input: Value, bytes: &[u8]) -> Result<Value, CallError> {
        let opened = self.opened("fs/write", input).await;
        opened
            .send(vec![Chunk::main(Bytes::copy_from_slice(bytes))])
            .await
    }

    pub(crate) async fn read(&self, input: Value) -> Received {
        self.opened("fs/read", input).await.receive().await.unwrap()
    }
}

fn key() -> Credential {
    Credential::NodeKey([7; 32])
}

pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap()
}

/// A channel that was accepted.
pub(crate) struct Opened {
    pub(crate) reply: Value,
    pub(crate) call: ChannelCall,
}

/// What came out of a channel.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) reply: Value,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) result: Value,
}

impl Received {
    pub(crate) fn main(&self) -> Vec<u8> {
        self.stream(false)
    }

    pub(crate) fn aux(&self) -> Vec<u8> {
        self.stream(true)
    }

    fn stream(&self, aux: bool) -> Vec<u8> {
        let chunks = self.chunks.iter().filter(|chunk| chunk.aux == aux);
        chunks.flat_map(|chunk| chunk.bytes.to_vec()).collect()
    }

    /// Lines of JSON on the main stream.
    pub(crate) fn lines(&self) -> Vec<Value> {
        json_lines(&self.main())
    }
}

pub(crate) fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(bytes).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

impl Opened {
    /// Sends all, ends, and reads to the end at the same time.
    pub(crate) async fn exchange(self, chunks: Vec<Chunk>) -> Result<Received, CallError> {
        let ChannelCall { channel, done, .. } = self.call;
        let (mut tx, mut rx) = (channel.tx, channel.rx);
        let sending = async {
            for chunk in chunks {
                // Who refuses the stream takes no more of it.
                if tx.send_chunk(chunk).await.is_err() {
                    break;
                }
            }
            tx.end();
        };
        let receiving = async {
            let mut received = Vec::new();
            while let Ok(Some(chunk)) = rx.recv().await {
                received.push(chunk);
            }
            received
        };
        let (_, chunks) = soon(async { futures::join!(sending, receiving) }).await;
        let result = soon(done).await?.into_value()?;
        Ok(Received {
            reply: self.reply,
            chunks,
            result,
        })
    }

    pub(crate) async fn receive(self) -> Result<Received, CallError> {
        self.exchange(Vec::new()).await
    }

    pub(crate) async fn send(self, chunks: Vec<Chunk>) -> Result<Value, CallError> {
        self.exchange(chunks).await.map(|received| received.result)
    }

    /// Sends and goes away without an end; waits until the call is over.
    pub(crate) async fn cut(mut self, chunks: Vec<Chunk>) -> CallError {
        for chunk in chunks {
            self.call.channel.tx.send_chunk(chunk).await.unwrap();
        }
        drop(self.call.channel);
        let error = soon(self.call.done).await.unwrap_err();
        assert!(error.is(ErrorCode::Cancelled), "{error}");
        error
    }
}

pub(crate) fn main(bytes: impl AsRef<[u8]>) -> Chunk {
    Chunk::main(Bytes::copy_from_slice(bytes.as_ref()))
}

pub(crate) fn aux(bytes: impl AsRef<[u8]>) -> Chunk {
    Chunk::aux(Bytes::copy_from_slice(bytes.as_ref()))
}

/// Bytes that are not all the same.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// The code in an answer to one entry.
pub(crate) fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("")
}

pub(crate) fn ok(path: &str) -> Value {
    json!({ "path": path, "ok": true })
}
