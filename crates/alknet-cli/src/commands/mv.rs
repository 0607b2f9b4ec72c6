//! `alknet mv`.

use crate::{
    app::App,
    failure::{Exit, Failure},
    files::{
        FilePlace, RemotePlace,
        expand::Expansion,
        place::PLACES_HELP,
        remote::{Remote, Tally},
        text::shown,
    },
    hint::quote,
    node_access::{CallError, ErrorCode, FileKind, FilePath},
};
use clap::{Args, ValueHint};
use serde_json::json;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Within one bucket; a file that has the new name is replaced. Where DST is a
directory, SRC goes into it.

Examples:
  alknet mv nas:www/draft.html nas:www/index.html
  alknet mv 'nas:inbox/*.jpg' nas:inbox/photos/
  alknet cp -r nas:inbox/x nas:www/ && alknet rm -r nas:inbox/x   between buckets";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{PLACES_HELP}"))]
pub(crate) struct MvArgs {
    /// What to move or rename, and at last where to
    #[arg(value_name = "PLACE", required = true, num_args = 2.., value_hint = ValueHint::AnyPath)]
    places: Vec<OsString>,
    /// Replaces nothing
    #[arg(short, long)]
    no_clobber: bool,
    /// DST is the new name itself, also if it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
}

pub(crate) async fn run(app: &App, args: MvArgs) -> Result<Exit, Failure> {
    let mut places = FilePlace::parse_all_remote(&args.places)?;
    let Some(to) = places.pop() else {
        return Err(Failure::usage("want SRC... DST"));
    };
    let target = to.file()?;
    for from in &places {
        check_place(from, &to, &target, &args.places)?;
    }
    let remote = Remote::at(app, &to.route).await?;
    let is_many = places.len() > 1 || places.iter().any(RemotePlace::is_pattern);
    let is_directory = match args.no_target_directory {
        true if is_many => return Err(Failure::usage("-T takes one SRC, which is no pattern")),
        true => false,
        false => is_directory(&remote, &target, to.is_directory || is_many).await?,
    };
    let mut moving = Moving {
        app,
        remote,
        target,
        is_directory,
        replace: !args.no_clobber,
        tally: Tally::default(),
    };
    for from in &places {
        moving.place(from).await?;
    }
    Ok(moving.tally.exit())
}

fn check_place(
    from: &RemotePlace,
    to: &RemotePlace,
    target: &FilePath,
    given: &[OsString],
) -> Result<(), Failure> {
    let Some(source) = from.literal() else {
        return Err(Failure::usage(format!("`{from}` names no file")));
    };
    if source.names().is_empty() {
        return Err(Failure::usage(format!("`{from}` is a bucket, and stays")));
    }
    if from.route == to.route && source.root() == target.root() {
        return Ok(());
    }
    let words: Vec<String> = given
        .iter()
        .map(|place| quote(&shown(&place.to_string_lossy())))
        .collect();
    let message = "only within one bucket can something be moved";
    let hint = format!("copy and remove: alknet cp -r {}", words.join(" "));
    Err(Failure::usage(message).hint(hint))
}

/// Whether what is moved goes into it.
async fn is_directory(remote: &Remote<'_>, target: &FilePath, must: bool) -> Result<bool, Failure> {
    let error = match remote.stat(target, true).await {
        Ok(stat) if stat.stat.kind == FileKind::Directory => return Ok(true),
        Ok(_) if must => {
            let message = format!("`{target}`: it is no directory");
            CallError::domain("NOT_A_DIRECTORY", message)
        }
        Ok(_) => return Ok(false),
        Err(error) if &*error.code == "NO_SUCH_FILE" && !must => return Ok(false),
        // Who may not read cannot know: the name is taken as it is.
        Err(error) if error.is(ErrorCode::Forbidden) => return Ok(must),
        Err(error) => error,
    };
    Err(remote.explain(error, Some(target)).await)
}

struct Moving<'a> {
    app: &'a App,
    remote: Remote<'a>,
    target: FilePath,
    is_directory: bool,
    replace: bool,
    tally: Tally,
}

impl Moving<'_> {
    async fn place(&mut self, from: &RemotePlace) -> Result<(), Failure> {
        if !from.is_pattern() {
            return self.file(&from.file()?).await;
        }
        let mut expansion = Expansion::of(self.remote.clone(), from);
        // All are found before one is moved: it might be found again.
        let (mut files, mut is_empty) = (Vec::new(), true);
        while let Some(found) = expansion.next().await {
            is_empty = false;
            match found {
                Ok(found) if found.file == self.target => {}
                Ok(found) => files.push(found.file),
                Err(not) => self.failed(not.error, &not.file).await,
            }
        }
        if let (true, Some(file)) = (is_empty, from.literal()) {
            return self.file(&file).await;
        }
        files.sort();
        for file in files {
            self.file(&file).await?;
        }
        Ok(())
    }

    async fn failed(&mut self, error: CallError, file: &FilePath) {
        self.failed_to(error, file, None).await;
    }

    async fn failed_to(&mut self, error: CallError, file: &FilePath, hint: Option<String>) {
        let failure = self.remote.explain(error, Some(file)).await.hint_if(hint);
        self.tally.failed(self.app, &failure);
    }

    async fn file(&mut self, file: &FilePath) -> Result<(), Failure> {
        let to = match file.name().filter(|_| self.is_directory) {
            Some(name) => self.target.join(name.clone()).map_err(|error| {
                Failure::usage(format!("`{}`: {error}", self.remote.text(file)))
            })?,
            None => self.target.clone(),
        };
        let input = json!({ "file": file, "to": to, "replace": self.replace });
        match self.remote.call("fs/rename", &input).await {
            Err(error) => {
                let about = match error.message.contains(&format!("`{to}`")) {
                    true => &to,
                    false => file,
                };
                // The host says only that it will not; a link goes where it leads.
                let into_itself = is_below(&to, file).then(|| {
                    let text = self.remote.text(file);
                    format!("`{text}` cannot go into itself")
                });
                self.failed_to(error, about, into_itself).await;
            }
            Ok(_) => {
                self.tally.done();
                let (from_place, to_place) = (self.remote.text(file), self.remote.text(&to));
                if self.app.out.json {
                    let line = json!({
                        "place": to_place, "file": to, "from": file, "from_place": from_place,
                    });
                    self.app.out.json_line(&line)?;
                } else if self.app.verbose > 0 {
                    self.app
                        .out
                        .say(&format!("moved `{from_place}` to `{to_place}`"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a path leads through the other one.
fn is_below(path: &FilePath, above: &FilePath) -> bool {
    path.root() == above.root()
        && path.names().len() > above.names().len()
        && path.names().starts_with(above.names())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_leads_through_it_is_below() {
        let below = |path, above| {
            let [path, above] = [path, above].map(|text| FilePath::parse(text).unwrap());
            is_below(&path, &above)
        };
        assert!(below("media/t/a", "media/t") && below("media/t/a/b", "media/t"));
        for (path, above) in [
            ("media/t", "media/t"),
            ("media/tt", "media/t"),
            ("media/t", "media/t/a"),
            ("inbox/t/a", "media/t"),
        ] {
            assert!(!below(path, above), "{path} {above}");
        }
    }
}
