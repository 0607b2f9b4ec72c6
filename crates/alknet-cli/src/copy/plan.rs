//! What goes where, by the rules of cp(1): into a directory that is there,
//! under another name otherwise.

use super::{
    entry::RelPath,
    local_tree::PutOptions,
    local_walk,
    options::CopyArgs,
    remote::{Remote, RemoteSource},
    report::Report,
    stage::{Copy, Source, Stop, Target, blocking},
    trouble::{Problem, Trouble},
};
use crate::{
    app::App,
    failure::Failure,
    files::{
        FilePlace, RemotePlace,
        expand::Expansion,
        text::{place_text, shown},
    },
    node_access::{CallOptions, FileKind, FileName, FilePath, Route, root::Root},
};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) sources: Vec<FilePlace>,
    pub(crate) destination: FilePlace,
    pub(crate) args: CopyArgs,
}

/// Whether the destination is the directory that is copied into, or the name
/// of the copy. Decided once: the first attempt may make it a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Into,
    As,
}

/// What the destination is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Directory,
    Other,
    Nothing,
    /// It may not be looked at.
    Unknown,
}

/// A way to the node at the end of a route.
pub(super) async fn remote(app: &App, route: &Route) -> Result<Remote, Failure> {
    let home = app.home().await?;
    let options = CallOptions {
        route: route.clone(),
        ..CallOptions::default()
    };
    Ok(Remote {
        opener: home.opener(options),
        route: route.clone(),
        home: home.name().into(),
    })
}

/// Finds out what is there.
pub(super) async fn plan(
    app: &App,
    request: &Request,
    report: &Arc<Report>,
    shape: &mut Option<Shape>,
) -> Result<Copy, Trouble> {
    let args = &request.args;
    let destination = Destination::find(app, &request.destination).await?;
    let named = expand(app, request, report).await?;
    let shape = match *shape {
        Some(shape) => shape,
        None => *shape.insert(destination.shape(args, named.len())?),
    };
    let mut seen = HashSet::new();
    let mut sources = Vec::new();
    for one in named {
        let text = one.to_string();
        let prefix = match shape {
            Shape::As => destination
                .name
                .clone()
                .map_or(RelPath::top(), |name| RelPath::of(&[name])),
            Shape::Into => own_name(&one)?,
        };
        if shape == Shape::Into && !prefix.is_top() && !seen.insert(prefix.clone()) {
            let message = format!(
                "`{text}`: another source has the name `{}` too",
                shown(prefix.as_str())
            );
            return Err(Failure::usage(message).into());
        }
        match find(app, one, prefix, args).await {
            Ok(source) if source.kind() == FileKind::Directory && !args.recursive => {
                let problem = Problem::new("IS_A_DIRECTORY", "it is a directory, which takes -r");
                report.failed_at(&text, &problem, 0);
            }
            // Left out of trees; but this one was asked for.
            Ok(source) if source.kind() == FileKind::Other => {
                let problem = Problem::new("NOT_A_FILE", "it is a pipe, a device or a socket");
                report.failed_at(&text, &problem, 0);
            }
            Ok(source) => sources.push(source),
            Err(Trouble::Entry(problem)) => report.failed_at(&text, &problem, 0),
            Err(other) => return Err(other),
        }
    }
    let is_single = matches!(sources.as_slice(), [only] if only.kind() == FileKind::File);
    let (target, is_new) = match sources.is_empty() {
        // Nothing is made for nothing.
        true => (None, true),
        false => destination.open(app, args, shape, is_single).await?,
    };
    let Some(target) = target else {
        return Ok(Copy {
            args: args.clone(),
            report: report.clone(),
            sources: Vec::new(),
            target: Target::Local {
                root: Root::open(Path::new("."))?,
                put: put_options(args),
            },
            is_single: false,
            is_new: true,
            stop: Stop::default(),
        });
    };
    Ok(Copy {
        args: args.clone(),
        report: report.clone(),
        sources,
        target,
        is_single,
        is_new,
        stop: Stop::default(),
    })
}

impl Source {
    pub(super) fn kind(&self) -> FileKind {
        match self {
            Self::Local(source) => source.meta.kind,
            Self::Remote(source) => source.known.stat.kind,
        }
    }
}

fn put_options(args: &CopyArgs) -> PutOptions {
    PutOptions {
        preserve: !args.no_preserve,
        no_clobber: args.no_clobber,
    }
}

/// The destination as it is now.
struct Destination {
    place: FilePlace,
    there: There,
    is_directory: bool,
    /// Its last name; none for a root.
    name: Option<FileName>,
}

impl Destination {
    async fn find(app: &App, place: &FilePlace) -> Result<Self, Trouble> {
        match place {
            FilePlace::Local(path) => {
                let is_directory = path.as_os_str().as_bytes().ends_with(b"/");
                let given = path.clone();
                let looked = blocking(move || look(&given)).await?;
                let (path, there) = looked.map_err(|error| Failure::io("find", path, &error))?;
                let name = path.file_name().map(|name| FileName::new(name.as_bytes()));
                Ok(Self {
                    name: name.transpose().map_err(|error| Problem::of_path(&error))?,
                    place: FilePlace::Local(path),
                    there,
                    is_directory,
                })
            }
            FilePlace::Remote(place) => {
                let file = place.file()?;
                let there = match file.names() {
                    [] => There::Directory,
                    _ => match remote(app, &place.route).await?.stat(&file, true).await {
                        Ok(known) if known.stat.kind == FileKind::Directory => There::Directory,
                        Ok(_) => There::Other,
                        Err(Trouble::Entry(problem)) if problem.code == "NO_SUCH_FILE" => {
                            There::Nothing
                        }
                        Err(Trouble::Entry(problem)) if problem.code == "FORBIDDEN" => {
                            There::Unknown
                        }
                        Err(Trouble::Entry(problem)) => {
                            return Err(failure(&place_text(&place.route, &file), &problem).into());
                        }
                        Err(other) => return Err(other),
                    },
                };
                Ok(Self {
                    name: file.name().cloned(),
                    there,
                    is_directory: place.is_directory,
                    place: FilePlace::Remote(place.clone()),
                })
            }
        }
    }

    fn shape(&self, args: &CopyArgs, sources: usize) -> Result<Shape, Trouble> {
        let wants_directory = sources > 1 || self.is_directory;
        if args.no_target_directory {
            return match sources > 1 {
                true => Err(Failure::usage(
                    "-T takes one source: the destination is the name of its copy",
                )
                .into()),
                false => Ok(Shape::As),
            };
        }
        let refuse = |what: &str| {
            let failure = Failure::usage(format!("`{}` {what}", self.place));
            Err(failure
                .hint("--parents makes the directories of the destination")
                .into())
        };
        match self.there {
            There::Directory => Ok(Shape::Into),
            There::Other if wants_directory => {
                Err(Failure::usage(format!("`{}` is no directory", self.place)).into())
            }
            There::Nothing if wants_directory && !args.parents => refuse("is not there"),
            There::Nothing | There::Unknown if wants_directory => Ok(Shape::Into),
            _ => Ok(Shape::As),
        }
    }

    /// The directory that is copied into, and whether it is still to be made.
    async fn open(
        &self,
        app: &App,
        args: &CopyArgs,
        shape: Shape,
        is_single: bool,
    ) -> Result<(Option<Target>, bool), Trouble> {
        match &self.place {
            FilePlace::Local(path) => {
                let directory = match (shape, &self.name) {
                    (Shape::As, Some(_)) => path.parent().unwrap_or(Path::new("/")).to_path_buf(),
                    _ => path.clone(),
                };
                let makes = args.parents && !args.dry_run;
                let opened = blocking(move || {
                    if makes {
                        std::fs::create_dir_all(&directory)
                            .map_err(|error| Failure::io("make", &directory, &error))?;
                    }
                    match Root::open(&directory) {
                        Ok(root) => Ok(root),
                        Err(error) => {
                            let problem = Problem::of_root(&error);
                            Err(failure(&shown(&directory.to_string_lossy()), &problem))
                        }
                    }
                });
                let root = opened.await??;
                let put = put_options(args);
                Ok((Some(Target::Local { root, put }), false))
            }
            FilePlace::Remote(place) => {
                let remote = remote(app, &place.route).await?;
                let file = place.file()?;
                let directory = match shape {
                    Shape::As => file.parent().unwrap_or(file),
                    Shape::Into => file,
                };
                let is_missing = shape == Shape::Into && self.there == There::Nothing;
                let may_miss = args.parents && !directory.names().is_empty();
                let is_new = (is_missing || shape == Shape::As) && may_miss && args.dry_run;
                if may_miss && !args.dry_run && !is_single {
                    let input = json!({ "file": directory.to_string(), "parents": true });
                    match remote.call::<Value>("fs/mkdir", &input).await {
                        Ok(_) => {}
                        Err(Trouble::Entry(problem)) => {
                            return Err(
                                failure(&place_text(&place.route, &directory), &problem).into()
                            );
                        }
                        Err(other) => return Err(other),
                    }
                }
                Ok((Some(Target::Remote { remote, directory }), is_new))
            }
        }
    }
}

/// A path of this machine and what is there; links to it are resolved, so that
/// what they lead to is replaced and not they.
fn look(path: &Path) -> std::io::Result<(PathBuf, There)> {
    let resolved = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((std::path::absolute(path)?, There::Nothing));
        }
        Err(error) => return Err(error),
    };
    let there = match resolved.is_dir() {
        true => There::Directory,
        false => There::Other,
    };
    Ok((resolved, there))
}

fn failure(what: &str, problem: &Problem) -> Failure {
    let error = crate::node_access::CallError::domain(
        problem.code.clone(),
        format!("`{what}`: {}", problem.message),
    );
    Failure::call(&error).naming_domain_code()
}

/// The name under which a source goes into a directory.
fn own_name(place: &FilePlace) -> Result<RelPath, Failure> {
    let name = match place {
        FilePlace::Remote(place) => {
            let file = place.file()?;
            match file.name() {
                Some(name) => Some(name.clone()),
                None => FileName::new(file.bucket().as_bytes()).ok(),
            }
        }
        FilePlace::Local(path) => {
            let bytes = path.as_os_str().as_bytes();
            let is_content =
                matches!(bytes, b"." | b"..") || bytes.ends_with(b"/.") || bytes.ends_with(b"/..");
            match path.file_name() {
                Some(name) if !is_content => FileName::new(name.as_bytes()).ok(),
                _ => None,
            }
        }
    };
    Ok(name.map_or(RelPath::top(), |name| RelPath::of(&[name])))
}

/// The sources, patterns replaced by what they mean.
async fn expand(
    app: &App,
    request: &Request,
    report: &Arc<Report>,
) -> Result<Vec<FilePlace>, Trouble> {
    let mut named = Vec::new();
    for source in &request.sources {
        let FilePlace::Remote(place) = source else {
            named.push(source.clone());
            continue;
        };
        if !place.is_pattern() {
            place.file()?;
            named.push(source.clone());
            continue;
        }
        let remote = crate::files::remote::Remote::at(app, &place.route).await?;
        let mut expansion = Expansion::of(remote, place);
        let mut files: Vec<FilePath> = Vec::new();
        while let Some(found) = expansion.next().await {
            match found {
                Ok(found) => files.push(found.file),
                Err(not) if super::trouble::is_passing(&not.error) => {
                    return Err(Trouble::Lost(not.error));
                }
                Err(not) => {
                    let problem = Problem::new(&not.error.code, not.error.message);
                    report.failed_at(&place_text(&place.route, &not.file), &problem, 0);
                }
            }
        }
        files.sort();
        files.dedup();
        match (files.is_empty(), place.literal()) {
            // A name that only looks like a pattern, or nothing.
            (true, Some(file)) => named.push(FilePlace::Remote(RemotePlace::of(
                place.route.clone(),
                &file,
            ))),
            _ => {
                let places = files
                    .iter()
                    .map(|file| RemotePlace::of(place.route.clone(), file));
                named.extend(places.map(FilePlace::Remote));
            }
        }
    }
    Ok(named)
}

async fn find(
    app: &App,
    place: FilePlace,
    prefix: RelPath,
    args: &CopyArgs,
) -> Result<Source, Trouble> {
    match place {
        FilePlace::Local(path) => {
            let follow = !args.keeps_named_links();
            let found = blocking(move || local_walk::find(&path, prefix, follow)).await?;
            found
                .map(Source::Local)
                .map_err(|error| Problem::of_root(&error).into())
        }
        FilePlace::Remote(place) => {
            let remote = remote(app, &place.route).await?;
            let file = place.file()?;
            let follow = !args.keeps_named_links() || place.is_directory;
            let known = remote.stat(&file, follow).await?;
            Ok(Source::Remote(RemoteSource {
                remote,
                file,
                prefix,
                known,
            }))
        }
    }
}
