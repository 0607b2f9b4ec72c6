//! Paths below a root, with symlinks in all directions.

use super::{MIB, Target};
use crate::{note, source::Source};
use alknet_core::files::FileName;
use alknet_fs::root::{Follow, LINKS_MAX, Root, RootError};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

pub(super) const WALKS: Target = Target {
    name: "walks",
    about: "A walk ends where symlinks lead, as the host has it, or says that they lead out.",
    run: walks,
    seeds: || {
        // What is made, then the path: see `Plan::read`.
        vec![
            vec![1, 0, 0, 0, 2, 0, 0],
            vec![2, 0, 0, 0, 2, 0, 1, 2, 3, 0, 2, 1, 0],
            vec![2, 0, 1, 2, 1, 4, 0, 0, 1, 1],
            vec![3, 0, 0, 0, 1, 1, 0, 2, 2, 1, 2, 3, 3, 2, 0, 1, 3, 0, 1, 0],
            vec![3, 0, 0, 2, 1, 1, 0, 1, 2, 1, 0, 0, 1, 0],
        ]
    },
    tokens: &[&[0, 0, 0], &[0, 1, 2], &[3, 3], &[2, 3], &[4]],
    bytes_max: 100,
    held_max: MIB,
};

/// Entries of one tree.
const ENTRIES_MAX: usize = 10;
/// Names that there are, inside and outside: whatever leads out finds something.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Parts of a symlink's target; the last makes it absolute.
const PARTS: [&str; 7] = ["a", "b", "c", "..", "", ".", "/"];

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Directory,
    File,
    Symlink(String),
}

/// What is below the root, by its path there (`/` for the root, `/a/b`).
type Tree = BTreeMap<String, Node>;

#[derive(Debug)]
struct Plan {
    tree: Tree,
    path: Vec<&'static str>,
}

impl Plan {
    fn read(source: &mut Source<'_>) -> Self {
        let mut tree = Tree::from([(String::new(), Node::Directory)]);
        for _ in 0..source.below(ENTRIES_MAX + 1) {
            let directories = tree.iter().filter(|(_, node)| **node == Node::Directory);
            let directories: Vec<String> = directories.map(|(path, _)| path.clone()).collect();
            let above = &directories[source.below(directories.len())];
            let path = format!("{above}/{}", source.pick(&NAMES));
            let node = match source.below(3) {
                0 => Node::Directory,
                1 => Node::File,
                _ => Node::Symlink(target(source)),
            };
            tree.entry(path).or_insert(node);
        }
        let path = (0..1 + source.below(6)).map(|_| source.pick(&NAMES));
        Self {
            path: path.collect(),
            tree,
        }
    }

    fn make(&self, at: &Path) -> io::Result<()> {
        for (path, node) in &self.tree {
            let path = at.join(path.trim_start_matches('/'));
            match node {
                Node::Directory => fs::create_dir_all(path)?,
                Node::File => fs::write(path, "")?,
                Node::Symlink(target) => symlink(target, path)?,
            }
        }
        Ok(())
    }
}

fn target(source: &mut Source<'_>) -> String {
    let parts = (0..1 + source.below(6)).map(|_| source.pick(&PARTS));
    let parts: Vec<&str> = parts.collect();
    let text = parts.join("/");
    if parts.contains(&"/") {
        return format!("/{}", text.trim_start_matches('/'));
    }
    // What begins with nothing would be absolute without meaning to.
    let text = text.trim_start_matches('/');
    if text.is_empty() {
        ".".into()
    } else {
        text.into()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    At(String),
    NotFound,
    NotADirectory,
    LeadsOut,
    TooManyLinks,
}

/// Rewrites the text of a path until there is no symlink in it.
fn model(tree: &Tree, path: &[&str]) -> End {
    let mut text: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
    let mut links = 0;
    'again: loop {
        let mut real = String::new();
        for (at, part) in text.iter().enumerate() {
            match tree.get(&real) {
                Some(Node::Directory) => {}
                Some(_) => return End::NotADirectory,
                None => return End::NotFound,
            }
            match part.as_str() {
                "" | "." => continue,
                ".." => match real.rfind('/') {
                    Some(slash) => real.truncate(slash),
                    None => return End::LeadsOut,
                },
                name => {
                    let next = format!("{real}/{name}");
                    if let Some(Node::Symlink(target)) = tree.get(&next) {
                        links += 1;
                        if links > LINKS_MAX {
                            return End::TooManyLinks;
                        }
                        if target.starts_with('/') {
                            return End::LeadsOut;
                        }
                        let above = real.split('/').skip(1).map(str::to_owned);
                        let target = target.split('/').map(str::to_owned);
                        let rest = text[at + 1..].iter().cloned();
                        text = above.chain(target).chain(rest).collect();
                        continue 'again;
                    }
                    real = next;
                }
            }
        }
        return End::At(real);
    }
}

fn walked(root: &Root, path: &[&str]) -> End {
    let names = path.iter().map(|name| FileName::parse(name));
    let names: Result<Vec<FileName>, _> = names.collect();
    match root.walk(&names.expect("letters"), Follow::Yes) {
        Ok(walked) => {
            let names = walked.real.iter().map(|name| format!("/{name}"));
            End::At(names.collect())
        }
        Err(ended) => match ended.error {
            RootError::LeadsOut => End::LeadsOut,
            RootError::TooManyLinks => End::TooManyLinks,
            error if error.is_not_found() => End::NotFound,
            error if error.errno() == Some(rustix::io::Errno::NOTDIR.raw_os_error()) => {
                End::NotADirectory
            }
            error => panic!("{error:?}"),
        },
    }
}

fn walks(data: &[u8]) {
    let plan = Plan::read(&mut Source::new(data));
    let place = tempfile::tempdir().expect("a temporary directory");
    // The way out is furnished alike.
    let outside = Plan {
        tree: plan.tree.clone(),
        path: Vec::new(),
    };
    outside.make(place.path()).expect("outside");
    let inside = place.path().join("inside");
    plan.make(&inside).expect("inside");
    let root = Root::open(&inside).expect("just made");
    let want = model(&plan.tree, &plan.path);
    let found = walked(&root, &plan.path);
    assert_eq!(found, want, "{plan:?}");
    // The host goes the same way.
    let by_host = fs::canonicalize(inside.join(plan.path.iter().collect::<PathBuf>()));
    if let (End::At(real), Ok(by_host)) = (&found, by_host) {
        let base = fs::canonicalize(&inside).expect("just made");
        assert_eq!(by_host, base.join(real.trim_start_matches('/')), "{plan:?}");
    }
    let kind = match &found {
        End::At(real) => real.matches('/').count().min(4),
        End::NotFound => 5,
        End::NotADirectory => 6,
        End::LeadsOut => 7,
        End::TooManyLinks => 8,
    };
    note((kind, plan.tree.len()));
}
