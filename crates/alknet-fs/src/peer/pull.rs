//! `fs/pull`: fetches what another node offers.

use super::{
    offer::Opened,
    offers::{PeerFiles, no_such_offer_spec, not_connected_spec},
    place::Place,
    receive::Receiving,
    tell::{Pulled, Teller},
    wire::Answers,
};
use crate::ops::{CreateInput, with_errors, yes};
use alknet_core::{
    CallError, ChannelEnd, ChannelOpening, Context, ErrorCode, Operation, Registration,
    files::{FileErrorCode, FileKind, FilePath, FileService, FileStat},
    storage::hex32,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Time for the other node to answer at all.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Time for it to take note that everything arrived.
const END_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PullInput {
    /// The name that the file, or the root of the tree, has here then.
    file: FilePath,
    /// The node that offers it: its public key, 64 hexadecimal digits.
    from_node: String,
    /// The secret of its offer.
    offer: String,
    /// If a file is there, or is not.
    #[serde(default)]
    create: CreateInput,
    /// Makes missing directories on the way to `file`.
    #[serde(default)]
    parents: bool,
    /// Keeps permissions and the time of the last change.
    #[serde(default = "yes")]
    attributes: bool,
    /// Fetches files also if they are there with the same length and time.
    #[serde(default)]
    ignore_times: bool,
    /// Begins large files anew, whatever was kept of an earlier attempt.
    #[serde(default)]
    restart: bool,
    /// Tells each entry.
    #[serde(default)]
    each: bool,
}

/// What will be fetched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Pulling {
    /// What is offered.
    kind: FileKind,
    /// Length of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The name that the other node has here.
    from: String,
}

const DESCRIPTION: &str = "\
The offer was made by `fs/offer` at the other node, for this one. While it runs, lines of JSON \
come on the main stream: `{\"progress\":{\"files\":1,\"bytes\":5,\"skipped\":0}}` a few times a \
second; `{\"path\":\"a\",\"error\":{\"code\":\"…\",\"message\":\"…\"}}` for each entry that was \
not copied, with `path` relative to `file`; with `each`, `{\"path\":\"a\",\"kind\":\"file\",\
\"bytes\":5}` for the others. Each file appears under its name when it is whole. What has the \
same length and time already is skipped if the caller may read it, and large files that were cut \
are gone on with: the same call again completes a copy. Links are copied as links; pipes, devices \
and sockets are not. A file that cannot be copied is the error of the call; in a tree it is \
counted, and the others go on. The result is `{\"files\": 1, \"directories\": 0, \"links\": 0, \
\"bytes\": 5, \"skipped\": 0, \"others\": 0, \"failed\": 0}`.";

pub(super) fn pull(files: &Arc<dyn FileService>, peers: &Arc<dyn PeerFiles>) -> Registration {
    let (files, peers) = (files.clone(), peers.clone());
    let operation = Operation::channel(
        "fs/pull",
        "Fetches a file or a tree from another node.",
    )
    .description(DESCRIPTION)
    .requires("fs:write")
    .resource("bucket", "write", "/file")
    .secret_input()
    .error(not_connected_spec())
    .error(no_such_offer_spec())
    .example(
        json!({ "file": "media/film.mkv", "from_node": "0b".repeat(32), "offer": "5e".repeat(32) }),
        json!({ "kind": "file", "bytes": 5, "from": "nas" }),
    );
    with_errors(operation).channel::<_, Pulling, _, _, _>(
        move |cx: Context, input: PullInput, opening| {
            let (files, peers) = (files.clone(), peers.clone());
            async move { fetch(&*files, &*peers, &cx, input, opening).await }
        },
    )
}

async fn fetch(
    files: &dyn FileService,
    peers: &dyn PeerFiles,
    cx: &Context,
    input: PullInput,
    opening: ChannelOpening,
) -> Result<Pulled, CallError> {
    let Some(node) = hex32::decode(&input.from_node) else {
        return Err(CallError::invalid_field(
            "/from_node",
            "is no public key: 64 hexadecimal digits",
        ));
    };
    let write = cx.permit();
    write.check_file("write", &input.file)?;
    let asked = json!({ "offer": input.offer });
    let opened = timeout(OPEN_MAX, peers.open(cx, &node, "fs/offered", asked)).await;
    let (peer, far) = opened.unwrap_or_else(|_| {
        let message = "the node that offers did not answer in time";
        Err(CallError::new(ErrorCode::Unavailable, message))
    })?;
    let stat = far.reply.parse::<Opened>()?.stat;
    let pulling = Pulling {
        kind: stat.kind,
        bytes: (stat.kind == FileKind::File).then_some(stat.bytes),
        from: peer.to_string(),
    };
    let near = opening.accept(&pulling)?;
    let receiving = receive(files, cx, &input, (&node, &stat), (near, far.channel));
    let lost = write.lost(|permit| permit.check_file("write", &input.file));
    let received = tokio::select! {
        received = receiving => received,
        refused = lost => return Err(refused),
    };
    match received {
        Ok(Some(pulled)) => {
            // So that the offer is used up when the call ends. Everything is
            // here, whatever comes of that.
            let _ = timeout(END_MAX, far.done).await;
            Ok(pulled)
        }
        // The other node says why it said no more.
        Ok(None) => Err(match far.done.await {
            Err(error) => from_peer(&peer, error),
            Ok(_) => CallError::new(
                ErrorCode::Unavailable,
                format!("`{peer}` ended the copy before it was complete"),
            ),
        }),
        Err(error) => Err(error),
    }
}

/// Whoever reads it should not look for the reason here.
fn from_peer(peer: &alknet_core::PeerId, mut error: CallError) -> CallError {
    error.message = format!("`{peer}`, which offers it: {}", error.message);
    error
}

/// `None` if the other node said no more before everything was there.
async fn receive(
    files: &dyn FileService,
    cx: &Context,
    input: &PullInput,
    (node, stat): (&[u8; 32], &FileStat),
    (near, far): (ChannelEnd, ChannelEnd),
) -> Result<Option<Pulled>, CallError> {
    let place = Place {
        files,
        root: input.file.clone(),
        write: cx.permit(),
        // Whoever may write and not read learns nothing of what is there: all
        // of it is fetched.
        look: cx.permit_for("fs/stat").ok(),
        create: input.create.into(),
        attributes: input.attributes,
        ignore_times: input.ignore_times,
        resume: (!input.restart).then(|| hex32::encode(node)),
    };
    if input.parents
        && let Some(parent) = input.file.parent()
    {
        make_parents(&place, &parent).await?;
    }
    // Kept: to drop it would tell the caller that the channel is gone.
    let _near = (near.rx, near.control_tx, near.control_rx);
    let mut receiving = Receiving::new(
        place,
        Teller::new(near.tx, input.each),
        (Answers::new(far.rx), far.tx, far.control_tx),
    );
    let _far = far.control_rx;
    match receiving.run(stat).await? {
        true => Ok(Some(receiving.end())),
        false => Ok(None),
    }
}

/// Makes a directory, and before it those that it lies in.
async fn make_parents(place: &Place<'_>, directory: &FilePath) -> Result<(), CallError> {
    let mut missing = vec![directory.clone()];
    // Up to the first one that is there, and down again. Not for ever: a link
    // that leads nowhere is there and is not.
    for _ in 0..=2 * directory.names().len() {
        let Some(path) = missing.last() else { break };
        match place.files.make_directory(&place.write, path, None).await {
            Ok(_) => drop(missing.pop()),
            Err(error) => match (error.code(), path.parent()) {
                (Some(FileErrorCode::FileExists), _) => drop(missing.pop()),
                (Some(FileErrorCode::NoSuchFile), Some(parent)) => missing.push(parent),
                _ => return Err(error.into()),
            },
        }
    }
    Ok(())
}
