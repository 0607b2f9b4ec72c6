//! `alknet mkdir`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    files::{
        FilePlace,
        place::PLACES_HELP,
        remote::{Remote, Tally},
    },
    node_access::CallError,
};
use clap::{Args, ValueHint};
use serde_json::{Value, json};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Examples:
  alknet mkdir nas:www/new
  alknet mkdir -p -m 750 nas:www/a/b/c";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{PLACES_HELP}"))]
pub(crate) struct MkdirArgs {
    /// Directories to make
    #[arg(value_name = "PLACE", required = true, value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// Also those above; one that is there already is no failure
    #[arg(short, long)]
    parents: bool,
    /// Permissions in octal digits
    #[arg(short, long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<u32>,
}

/// `755`; the bits that let a program run as somebody else are refused there.
fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
        .ok_or_else(|| "want octal digits, such as 755".to_owned())
}

pub(crate) async fn run(app: &App, args: MkdirArgs) -> Result<Exit, Failure> {
    let mut tally = Tally::default();
    for place in FilePlace::parse_all_remote(&args.places)? {
        let file = place.file()?;
        let remote = Remote::at(app, &place.route).await?;
        let mut input = json!({ "file": file, "parents": args.parents });
        if let Some(mode) = args.mode {
            input["mode"] = json!(mode);
        }
        match remote.call("fs/mkdir", &input).await {
            Ok(mut reply) => {
                tally.done();
                let is_new = reply.get("created").and_then(Value::as_bool);
                if app.out.json {
                    reply["place"] = json!(remote.text(&file));
                    reply["file"] = json!(file);
                    app.out.json_line(&reply)?;
                } else if app.verbose > 0 && is_new == Some(true) {
                    app.out.say(&format!("made `{}`", remote.text(&file)));
                }
            }
            Err(error) => {
                let hint = parents_hint(&error, args.parents);
                let failure = remote.explain(error, Some(&file)).await.hint_if(hint);
                tally.failed(app, &failure);
            }
        }
    }
    Ok(tally.exit())
}

/// What is above it is missing.
fn parents_hint(error: &CallError, has_parents: bool) -> Option<String> {
    let is_missing = &*error.code == "NO_SUCH_FILE" && !has_parents;
    is_missing.then(|| "-p makes the directories above it too".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_misses_a_parent_is_told_of_parents() {
        let missing = CallError::domain("NO_SUCH_FILE", "`media/a`: not there");
        assert!(parents_hint(&missing, false).is_some_and(|hint| hint.starts_with("-p ")));
        assert_eq!(parents_hint(&missing, true), None);
        let exists = CallError::domain("FILE_EXISTS", "`media/a`: it is there");
        assert_eq!(parents_hint(&exists, false), None);
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("755"), Ok(0o755));
        assert_eq!(parse_mode("1777"), Ok(0o1777));
        for bad in ["", "8", "u+x", "+7", "-1", "10000"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }
}
