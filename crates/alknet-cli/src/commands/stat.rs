//! `alknet stat`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    files::{
        FilePlace,
        place::PLACES_HELP,
        remote::{Remote, Stat, Tally},
        text::{mode, shown},
    },
    node_access::{CallError, FileKind, FilePath},
    table::pairs,
};
use clap::{Args, ValueEnum, ValueHint};
use serde_json::{Map, Value, json};
use std::{ffi::OsString, time::Duration};

const EXAMPLES: &str = "\
`version` is another text whenever the file, or what is in it, is another.

Examples:
  alknet stat nas:www/index.html
  alknet stat --digest sha256 nas:isos/debian.iso --json";

/// How long digests may take: the longest that a node lets a call take
/// (`[limits] deadline_max`) unless it is configured.
const DIGEST_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{PLACES_HELP}"))]
pub(crate) struct StatArgs {
    /// Files, directories or links
    #[arg(value_name = "PLACE", required = true, value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// What a link leads to, not the link
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Also this digest of the bytes; may be repeated
    #[arg(long, value_name = "ALGORITHM")]
    digest: Vec<DigestName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DigestName {
    Blake3,
    Sha256,
    Md5,
}

impl DigestName {
    fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
        }
    }
}

pub(crate) async fn run(app: &App, args: StatArgs) -> Result<Exit, Failure> {
    let mut tally = Tally::default();
    let mut is_first = true;
    for place in FilePlace::parse_all_remote(&args.places)? {
        let file = place.file()?;
        let remote = Remote::at(app, &place.route).await?;
        let described = describe(&remote, &file, &args).await;
        let (stat, digests) = match described {
            Ok(described) => described,
            Err(error) => {
                let failure = remote.explain(error, Some(&file)).await;
                tally.failed(app, &failure);
                continue;
            }
        };
        tally.done();
        let place = remote.text(&file);
        if app.out.json {
            app.out.json_line(&line(&place, &file, &stat, digests)?)?;
        } else {
            let gap = if is_first { "" } else { "\n" };
            let text = format!("{gap}{}", page(&place, &stat, &digests));
            app.out.text(&text)?;
        }
        is_first = false;
    }
    Ok(tally.exit())
}

async fn describe(
    remote: &Remote<'_>,
    file: &FilePath,
    args: &StatArgs,
) -> Result<(Stat, Map<String, Value>), CallError> {
    let stat = remote.stat(file, args.dereference).await?;
    if args.digest.is_empty() {
        return Ok((stat, Map::new()));
    }
    let mut names: Vec<&str> = args.digest.iter().map(|digest| digest.name()).collect();
    names.sort_unstable();
    names.dedup();
    let input = json!({ "file": file, "algorithms": names });
    let reply = remote.call_within("fs/digest", &input, DIGEST_FOR).await?;
    let digests = reply.get("digests").and_then(Value::as_object);
    Ok((stat, digests.cloned().unwrap_or_default()))
}

fn line(
    place: &str,
    file: &FilePath,
    stat: &Stat,
    digests: Map<String, Value>,
) -> Result<Value, Failure> {
    let mut line = serde_json::to_value(&stat.stat)
        .map_err(|error| Failure::local(format!("failed to write JSON: {error}")))?;
    line["place"] = json!(place);
    line["file"] = json!(file);
    if let Some(target) = &stat.target {
        line["target"] = json!(target);
    }
    if !digests.is_empty() {
        line["digests"] = Value::Object(digests);
    }
    Ok(line)
}

fn page(place: &str, Stat { stat, target }: &Stat, digests: &Map<String, Value>) -> String {
    let kind = match stat.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Other => "pipe, device or socket",
    };
    let mut lines = vec![("place", place.to_owned()), ("kind", kind.to_owned())];
    if stat.kind == FileKind::Symlink {
        let target = target.as_deref().map(shown);
        lines.push(("target", target.unwrap_or_else(|| "?".to_owned())));
    }
    lines.push(("bytes", stat.bytes.to_string()));
    let text = mode(stat.kind, stat.mode);
    lines.push(("mode", format!("{:04o} {text}", stat.mode)));
    lines.push(("owner", format!("{}:{}", stat.uid, stat.gid)));
    lines.push(("links", stat.links.to_string()));
    lines.push(("modified", stat.mtime.to_string()));
    if let Some(atime) = stat.atime {
        lines.push(("read", atime.to_string()));
    }
    lines.push(("version", stat.version.clone()));
    for (name, digest) in digests {
        lines.push((name, digest.as_str().unwrap_or_default().to_owned()));
    }
    pairs(&lines)
}
