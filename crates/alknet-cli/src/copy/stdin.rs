//! Standard input as a file of a bucket.

use super::{CopyArgs, plan, trouble::Trouble};
use crate::{
    app::App,
    failure::{Exit, Failure},
    files::RemotePlace,
    node_access::{ChannelCall, FileKind},
};
use serde_json::json;
use tokio::io::AsyncReadExt;

/// Bytes read at a time.
const READ_BYTES: usize = 256 * 1024;

const PARENTS_HINT: &str = "--parents makes the directories of the destination";

/// Writes standard input to its end; the file changes as a whole.
pub(crate) async fn put(app: &App, place: &RemotePlace, args: &CopyArgs) -> Result<Exit, Failure> {
    args.for_stream()?;
    let file = place.file()?;
    let remote = plan::remote(app, &place.route).await?;
    if place.is_directory || file.names().is_empty() {
        let message = format!("`{place}` is a directory: standard input needs a name");
        return Err(Failure::usage(message));
    }
    if let Ok(known) = remote.stat(&file, true).await
        && known.stat.kind == FileKind::Directory
    {
        let message = format!("`{place}` is a directory: standard input needs a name");
        return Err(Failure::usage(message));
    }
    let create = if args.no_clobber { "new" } else { "if-missing" };
    let input = json!({ "file": file.to_string(), "create": create, "parents": args.parents });
    let failed = |error| match remote.of_all(error) {
        Trouble::Stop(failure) => {
            let is_missing = failure.code == "NO_SUCH_FILE" && !args.parents;
            failure.hint_if(is_missing.then(|| PARENTS_HINT.to_owned()))
        }
        Trouble::Lost(error) => super::told(&error),
        _ => Failure::local("the file was not written"),
    };
    let call = remote.open("fs/write", &input).await.map_err(failed)?;
    let ChannelCall { channel, done, .. } = call;
    let mut tx = channel.tx;
    let mut stdin = tokio::io::stdin();
    loop {
        let mut buffer = bytes::BytesMut::with_capacity(READ_BYTES);
        match stdin.read_buf(&mut buffer).await {
            Ok(0) => break,
            // Dropped without an end, nothing of it is kept.
            Err(error) => {
                return Err(Failure::local(format!(
                    "failed to read standard input: {error}"
                )));
            }
            // The result says why nobody takes it.
            Ok(_) => {
                if tx.send(buffer.freeze()).await.is_err() {
                    break;
                }
            }
        }
    }
    tx.end();
    let result = done
        .await
        .and_then(|output| output.into_value())
        .map_err(failed)?;
    if app.out.json {
        app.out.json_line(&result)?;
    }
    Ok(Exit::FINE)
}
