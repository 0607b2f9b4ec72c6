//! The files of a node: its buckets, and the links over which it fetches from
//! other nodes.

use crate::{builder::StartError, config::Config, data_dir::DataDir, node::Shared};
use alknet_core::{
    Call, CallError, Caller, ChannelCall, Context, ErrorCode, Input, OperationName, PeerId,
    RouteStep, storage::Timestamp,
};
use alknet_fs::{BucketConfig, Buckets, FilesConfig, FilesConfigError, PeerFiles, not_connected};
use async_trait::async_trait;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// The buckets that are configured, and the inbox. One that cannot be used is
/// told, and keeps no node from its start.
pub(crate) async fn open_buckets(
    config: &Config,
    data: &DataDir,
) -> Result<Arc<Buckets>, StartError> {
    let (files, buckets) = (config.files.clone(), config.buckets.clone());
    // As it is, whatever links lead there: what lies in it is hidden from all
    // buckets.
    let own = std::path::absolute(data.path()).unwrap_or_else(|_| data.path().to_owned());
    let opened = tokio::task::spawn_blocking(move || Buckets::new(&files, &buckets, Some(&own)));
    let opened = opened.await.map_err(|_| StartError::Runtime)??;
    warn_of_unavailable(&opened).await;
    Ok(opened)
}

/// Puts other buckets into the place of those in force.
pub(crate) async fn change_buckets(
    buckets: &Arc<Buckets>,
    files: &FilesConfig,
    configured: &[BucketConfig],
) -> Result<(), FilesConfigError> {
    let (changing, files) = (buckets.clone(), files.clone());
    let configured = configured.to_vec();
    let changed = tokio::task::spawn_blocking(move || changing.configure(&files, &configured));
    // Lost only with the runtime, which nobody waits for any more.
    changed.await.unwrap_or(Ok(()))?;
    warn_of_unavailable(buckets).await;
    Ok(())
}

async fn warn_of_unavailable(buckets: &Buckets) {
    for (bucket, why) in buckets.unavailable().await {
        tracing::warn!(bucket, why, "a bucket cannot be used now");
    }
}

/// The way of copies to other nodes.
pub(crate) struct FilesOfPeers(pub(crate) Arc<Shared>);

impl fmt::Debug for FilesOfPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FilesOfPeers").field(&self.0.name()).finish()
    }
}

impl FilesOfPeers {
    /// The peer that is this node, if it is connected.
    fn connected(&self, node: &[u8; 32]) -> Option<PeerId> {
        let peers = &self.0.identities.snapshot().peers;
        let peer = peers.iter().find(|peer| {
            let keys = peer.node_keys.iter();
            keys.clone().any(|held| held.key == *node)
        })?;
        self.0.links().session(&peer.id).ok()?;
        Some(peer.id.clone())
    }
}

#[async_trait]
impl PeerFiles for FilesOfPeers {
    fn node_id(&self) -> [u8; 32] {
        self.0.node_id()
    }

    fn now(&self) -> Timestamp {
        self.0.identities.now()
    }

    async fn open(
        &self,
        cx: &Context,
        node: &[u8; 32],
        operation: &str,
        input: Value,
    ) -> Result<(PeerId, ChannelCall), CallError> {
        let peer = self.connected(node).ok_or_else(|| not_connected(node))?;
        let name = OperationName::parse(operation).map_err(|_| CallError::not_found(operation))?;
        // As this node: what the other one checks is this node's key, and that
        // it was offered to it. What the caller may do here was checked here.
        let mut call = Call::named(name, Caller::host());
        call.parent = Some(cx.call_id());
        call.route = vec![RouteStep::Peer(peer.clone())];
        call.input = Input::Value(input);
        let door = self.0.door();
        let started = || door.originator(cx.principal());
        call.originator = cx.originator().cloned().or_else(|| Some(started()));
        call.trace = cx.trace().cloned();
        call.surface = cx.surface().clone();
        match door.open(call).await {
            Ok(channel) => Ok((peer, channel)),
            // It went in between, or has not told yet what it offers.
            Err(error) if error.is(ErrorCode::Unavailable) || error.is(ErrorCode::NotFound) => {
                tracing::debug!(%peer, cause = %error.message, "not asked for an offer");
                Err(not_connected(node))
            }
            Err(error) => Err(error),
        }
    }
}
