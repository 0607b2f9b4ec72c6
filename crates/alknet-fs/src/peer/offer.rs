//! `fs/offer`: makes an offer. `fs/offered`: what another node then fetches.

use super::{
    offers::{
        OFFER_EXPIRES_MAX, OFFERS_MAX, OFFERS_PER_CALLER_MAX, Offer, Offers, PeerFiles, Use,
        no_such_offer, no_such_offer_spec,
    },
    serve::{Served, serve},
};
use crate::ops::with_errors;
use alknet_core::{
    CallError, ChannelOpening, Context, Credential, ErrorCode, Operation, Registration,
    files::{FileError, FileErrorCode, FileKind, FilePath, FileService, FileStat},
    storage::hex32,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfferInput {
    /// What is offered.
    file: FilePath,
    /// The node that may fetch it: its public key, 64 hexadecimal digits.
    to_node: String,
    /// A directory, with everything in it that the caller may list and read.
    #[serde(default)]
    recursive: bool,
    /// How long it may be taken; an hour at most, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    expires_ms: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Offered {
    /// The secret that `fs/pull` takes at the other node.
    offer: String,
    /// This node's public key.
    node: String,
    /// What is offered.
    kind: FileKind,
    /// Length of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// From when on it cannot be taken.
    expires_at: String,
}

pub(super) fn offer(
    files: &Arc<dyn FileService>,
    offers: &Arc<Offers>,
    peers: &Arc<dyn PeerFiles>,
) -> Registration {
    let (files, offers, peers) = (files.clone(), offers.clone(), peers.clone());
    let operation = Operation::mutation("fs/offer", "Lets another node fetch a file or a tree.")
        .description(format!(
            "The caller takes the offer to the other node, where `fs/pull` fetches it: the bytes \
             go between the two nodes alone. What the caller may read is asked at every step, by \
             the other node's key: nobody else can use the offer. It is for one copy, for an \
             hour at most, and ends when it is not used for ten minutes. A tree takes the right \
             to list it, too. A node keeps {OFFERS_MAX} offers, {OFFERS_PER_CALLER_MAX} of one \
             caller."
        ))
        .requires("fs:read")
        .resource("bucket", "read", "/file")
        .secret_output()
        .example(
            json!({ "file": "www/film.mkv", "to_node": "0a".repeat(32) }),
            json!({ "offer": "5e".repeat(32), "node": "0b".repeat(32), "kind": "file", "bytes": 5, "expires_at": "2026-11-20T11:00:00.000Z" }),
        );
    with_errors(operation).handler(move |cx: Context, input: OfferInput| {
        let (files, offers, peers) = (files.clone(), offers.clone(), peers.clone());
        async move { make(&*files, &offers, &*peers, &cx, input).await }
    })
}

async fn make(
    files: &dyn FileService,
    offers: &Offers,
    peers: &dyn PeerFiles,
    cx: &Context,
    input: OfferInput,
) -> Result<Offered, CallError> {
    let Some(to) = hex32::decode(&input.to_node) else {
        return Err(CallError::invalid_field(
            "/to_node",
            "is no public key: 64 hexadecimal digits",
        ));
    };
    let read = cx.permit();
    let stat = files.stat(&read, &input.file, true).await?;
    let list = match (stat.kind, input.recursive) {
        (FileKind::Directory, false) => {
            let message = format!("`{}` is a directory: offer it with `recursive`", input.file);
            return Err(FileError::new(FileErrorCode::IsADirectory, message).into());
        }
        (FileKind::Directory, true) => {
            let list = cx.permit_for("fs/list")?;
            list.check_file("list", &input.file)?;
            Some(list)
        }
        (FileKind::Other, _) => {
            let message = format!("`{}` is a pipe, a device or a socket", input.file);
            return Err(FileError::new(FileErrorCode::NotAFile, message).into());
        }
        _ => None,
    };
    let lasts = input
        .expires_ms
        .map_or(OFFER_EXPIRES_MAX, Duration::from_millis);
    let now = peers.now();
    let until = now.plus(lasts.min(OFFER_EXPIRES_MAX));
    let maker = cx.principal().id().clone();
    let offer = Offer::new(input.file, (read, list), (maker, to), (now, until));
    Ok(Offered {
        offer: offers.put(offer, now)?,
        node: hex32::encode(&peers.node_id()),
        kind: stat.kind,
        bytes: (stat.kind == FileKind::File).then_some(stat.bytes),
        expires_at: until.to_string(),
    })
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfferedInput {
    /// The secret of the offer.
    offer: String,
}

/// What the fetching node learns first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Opened {
    /// What is offered, as it is now.
    #[serde(flatten)]
    pub(super) stat: FileStat,
}

const OFFERED: &str = "\
For nodes, as `fs/pull` asks them to: the caller must come with the key that the offer is for. \
Requests come on the main stream, one line of JSON each: `{\"list\":{\"path\":\"a\"}}`, \
`{\"read\":{\"path\":\"a/b\"}}`, `\"done\"`. Answers go back in their order, as lines on the \
auxiliary stream and bytes of files on the main one. The result is `{\"files\": 1, \"bytes\": 5}`.";

pub(super) fn offered(
    files: &Arc<dyn FileService>,
    offers: &Arc<Offers>,
    peers: &Arc<dyn PeerFiles>,
) -> Registration {
    let (files, offers, peers) = (files.clone(), offers.clone(), peers.clone());
    let operation = Operation::channel("fs/offered", "Fetches what `fs/offer` made.")
        .description(OFFERED)
        .authenticated()
        .secret_input()
        .error(no_such_offer_spec())
        .example(
            json!({ "offer": "5e".repeat(32) }),
            json!({ "kind": "file", "bytes": 5, "mode": 420, "uid": 0, "gid": 0, "links": 1, "mtime": "2026-11-20T10:00:00Z", "version": "1" }),
        );
    with_errors(operation).channel::<_, Opened, _, _, _>(
        move |cx: Context, input: OfferedInput, opening| {
            let (files, offers, peers) = (files.clone(), offers.clone(), peers.clone());
            async move {
                let key = match cx.principal().credential() {
                    Some(Credential::NodeKey(key)) => *key,
                    _ => return Err(no_such_offer()),
                };
                let taken = offers.take(&input.offer, &key, &peers)?;
                give(&*files, taken, opening).await
            }
        },
    )
}

async fn give(
    files: &dyn FileService,
    taken: Use,
    opening: ChannelOpening,
) -> Result<Served, CallError> {
    let offer = taken.offer().clone();
    let stat = files.stat(&offer.read, &offer.file, true).await?;
    let channel = opening.accept(&Opened { stat })?;
    let lost = offer
        .read
        .lost(|permit| permit.check_file("read", &offer.file));
    let served = tokio::select! {
        served = serve(files, &offer, channel) => served?,
        refused = lost => return Err(refused),
    };
    if served.is_done {
        taken.fetched();
    }
    match served.is_idle {
        true => Err(CallError::new(
            ErrorCode::Timeout,
            "nothing was asked for in a long time",
        )),
        false => Ok(served),
    }
}
