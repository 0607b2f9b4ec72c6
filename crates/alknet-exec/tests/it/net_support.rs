//! A door with the network behind it, whose names and places a test decides.

use crate::support::SOON;
use alknet_core::{
    Call, CallError, Caller, ChannelCall, Credential, Dispatcher, GrantTarget, Grants, Identity,
    PeerId, Registry, RoleSet, StaticIdentities,
};
use alknet_exec::net::{Connect, Net, NetConfig, Resolve, net_operations};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::net::{TcpListener, TcpStream};

/// Answers with one list after the other, and goes on with the last.
#[derive(Clone, Default)]
pub(crate) struct Names {
    answers: Arc<Mutex<Vec<Vec<IpAddr>>>>,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Names {
    pub(crate) fn answering(answers: &[&[&str]]) -> Self {
        let parse = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
        Self {
            answers: Arc::new(Mutex::new(answers.iter().rev().map(parse).collect())),
            asked: Arc::default(),
        }
    }
}

impl Resolve for Names {
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.lock().unwrap().push(name.into());
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.len() {
            0 => Err(io::Error::other("no such name")),
            1 => Ok(answers[0].clone()),
            _ => Ok(answers.pop().unwrap()),
        };
        let answer = answer.map(|ips| ips.into_iter().map(|ip| (ip, port).into()).collect());
        Box::pin(std::future::ready(answer))
    }
}

/// Notes to whom it should connect, and connects to a listener of the test
/// instead; to nobody, for ever, without one.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    to: Option<SocketAddr>,
    pub(crate) seen: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Connect for Wire {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        self.seen.lock().unwrap().push(address);
        Box::pin(async move {
            match self.to {
                Some(to) => TcpStream::connect(to).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// A door, and who may pass it.
pub(crate) struct Gate {
    pub(crate) door: Dispatcher,
    pub(crate) net: Net,
    ids: Arc<StaticIdentities>,
}

impl Gate {
    /// The real network.
    pub(crate) fn system(config: NetConfig) -> Self {
        Self::behind(Net::new(config).unwrap())
    }

    pub(crate) fn behind(net: Net) -> Self {
        let (registry, ids) = (Registry::new(), Arc::new(StaticIdentities::default()));
        registry.register(net_operations(&net)).unwrap();
        let door = Dispatcher::builder(registry).identities(ids.clone());
        Self {
            door: door.build(),
            net,
            ids,
        }
    }

    /// A peer with these grants; again with others, it has those.
    pub(crate) fn caller(&self, id: &str, grants: &[&str]) -> Caller {
        let all: Grants = grants
            .iter()
            .map(|text| GrantTarget::parse(text).unwrap())
            .collect();
        let mut identity = Identity::empty(PeerId::parse(id).unwrap());
        RoleSet::default().add_to(&all, &mut identity);
        let mut key = [0; 32];
        key[..id.len()].copy_from_slice(id.as_bytes());
        self.ids.put(Credential::NodeKey(key), identity);
        Caller::resolve(&*self.ids, Credential::NodeKey(key)).unwrap()
    }

    pub(crate) async fn open(
        &self,
        caller: &Caller,
        operation: &str,
        input: Value,
    ) -> Result<ChannelCall, CallError> {
        let call = Call::new(operation, caller.clone()).unwrap().input(&input);
        tokio::time::timeout(SOON, self.door.open(call))
            .await
            .unwrap()
    }

    pub(crate) async fn dial(
        &self,
        caller: &Caller,
        address: impl ToString,
    ) -> Result<ChannelCall, CallError> {
        let input = json!({ "address": address.to_string() });
        self.open(caller, "net/dial", input).await
    }
}

/// A door to the real network, for whoever embeds the node; and a server.
pub(crate) async fn server() -> (Gate, TcpListener, SocketAddr) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    (Gate::system(NetConfig::default()), server, address)
}

/// What names and places a test has made up; the server that stands for all
/// places.
pub(crate) async fn made_up(names: &Names) -> (Gate, Wire, TcpListener) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wire = Wire {
        to: Some(server.local_addr().unwrap()),
        ..Wire::default()
    };
    let net = Net::with(NetConfig::default(), names.clone(), wire.clone()).unwrap();
    (Gate::behind(net), wire, server)
}

pub(crate) fn reply(call: &ChannelCall) -> Value {
    call.reply.clone().into_value().unwrap()
}

pub(crate) async fn send(call: &mut ChannelCall, text: &str) {
    let bytes = Bytes::copy_from_slice(text.as_bytes());
    call.channel.tx.send(bytes).await.unwrap();
}

/// Everything until the end of the bytes; `Err` if they were cut.
pub(crate) async fn read_to_end(call: &mut ChannelCall) -> Result<String, String> {
    let mut text = String::new();
    let reading = async {
        loop {
            match call.channel.rx.recv().await {
                Ok(Some(chunk)) => text += std::str::from_utf8(&chunk.bytes).unwrap(),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    let ended = tokio::time::timeout(SOON, reading).await.unwrap();
    if ended { Ok(text) } else { Err(text) }
}

pub(crate) async fn result(call: ChannelCall) -> Result<Value, CallError> {
    let done = tokio::time::timeout(SOON, call.done).await.unwrap()?;
    done.into_value()
}

/// Something that a test waits for, but not for ever.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.unwrap()
}
