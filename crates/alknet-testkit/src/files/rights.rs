//! Every method asks the permit, and what is refused is not done.

use super::{
    Ground, Rule,
    ground::{at, fails, in_, path, refused, small},
    rules,
};
use alknet_core::{
    Permit,
    files::{
        Algorithm, Attributes, CopyOptions, Create, DigestRequest, FileError,
        FileErrorCode as Code, FilePath, FileService, OpenOptions, Removal, RenameOptions,
        ReplaceOptions, WatchOptions,
    },
};
use futures::future::BoxFuture;

pub(super) const RULES: &[Rule] = rules![
    who_holds_it_may,
    who_holds_nothing_of_it_may_not,
    who_holds_something_else_may_not,
    who_is_denied_it_may_not,
    who_held_it_may_no_longer,
    a_permit_of_another_operation_does_not_do,
    the_reason_tells_nothing_of_what_is_there,
];

type Attempt = for<'a> fn(
    &'a dyn FileService,
    &'a Permit,
    &'a FilePath,
) -> BoxFuture<'a, Result<(), FileError>>;

/// A method on what [`grow`] made below a directory.
struct Method {
    name: &'static str,
    /// Whose permit it takes.
    operation: &'static str,
    /// What is read, listed or changed by it.
    action: &'static str,
    attempt: Attempt,
}

macro_rules! method {
    ($name:literal, $operation:literal, $action:literal, |$files:ident, $permit:ident, $d:ident| $body:expr) => {
        Method {
            name: $name,
            operation: $operation,
            action: $action,
            attempt: |$files, $permit, $d| Box::pin(async move { $body }),
        }
    };
}

fn below(directory: &FilePath, text: &str) -> FilePath {
    let mut path = directory.clone();
    for part in text.split('/') {
        path = in_(&path, part.as_bytes());
    }
    path
}

fn mode() -> Attributes {
    Attributes {
        mode: Some(0o600),
        ..Attributes::default()
    }
}

const METHODS: &[Method] = &[
    method!("stat", "fs/read", "read", |files, permit, d| {
        files.stat(permit, &below(d, "f"), true).await.map(drop)
    }),
    method!("stat of a link", "fs/read", "read", |files, permit, d| {
        files.stat(permit, &below(d, "l"), false).await.map(drop)
    }),
    method!("list", "fs/list", "list", |files, permit, d| {
        files.list(permit, &below(d, "e"), None).await.map(drop)
    }),
    method!("open to read", "fs/read", "read", |files, permit, d| {
        let options = OpenOptions::reading();
        files.open(permit, &below(d, "f"), options).await.map(drop)
    }),
    method!("open to write", "fs/write", "write", |files, permit, d| {
        let options = OpenOptions {
            truncate: true,
            ..OpenOptions::writing(Create::Never)
        };
        files.open(permit, &below(d, "f"), options).await.map(drop)
    }),
    method!("open to make", "fs/write", "write", |files, permit, d| {
        let options = OpenOptions::writing(Create::New);
        files
            .open(permit, &below(d, "new"), options)
            .await
            .map(drop)
    }),
    method!("replace", "fs/write", "write", |files, permit, d| {
        let options = ReplaceOptions::default();
        let begun = files.replace(permit, &below(d, "f"), options).await?;
        begun.commit(permit).await.map(drop)
    }),
    method!("put_small", "fs/write", "write", |files, permit, d| {
        let put = vec![small(below(d, "new"), "x")];
        let mut done = files.put_small(permit, put).await;
        done.remove(0).map(drop)
    }),
    method!("get_small", "fs/read", "read", |files, permit, d| {
        let mut got = files.get_small(permit, &[below(d, "f")]).await;
        got.remove(0).map(drop)
    }),
    method!("set_attributes", "fs/write", "write", |files, permit, d| {
        let set = files
            .set_attributes(permit, &below(d, "f"), true, mode())
            .await;
        set.map(drop)
    }),
    method!("make_directory", "fs/write", "write", |files, permit, d| {
        files
            .make_directory(permit, &below(d, "new"), None)
            .await
            .map(drop)
    }),
    method!("rename away", "fs/rename", "write", |files, permit, d| {
        let options = RenameOptions::default();
        let to = below(d, "new");
        files.rename(permit, &below(d, "f"), &to, options).await
    }),
    method!(
        "rename of a directory",
        "fs/rename",
        "write",
        |files, permit, d| {
            let options = RenameOptions::default();
            let to = below(d, "new");
            files.rename(permit, &below(d, "e"), &to, options).await
        }
    ),
    method!(
        "rename of what is read",
        "fs/rename",
        "read",
        |files, permit, d| {
            let options = RenameOptions::default();
            let to = below(d, "new");
            files.rename(permit, &below(d, "f"), &to, options).await
        }
    ),
    method!("link", "fs/rename", "write", |files, permit, d| {
        files.link(permit, &below(d, "f"), &below(d, "new")).await
    }),
    method!(
        "link of what is read",
        "fs/rename",
        "read",
        |files, permit, d| {
            let to = below(d, "new");
            files.link(permit, &below(d, "f"), &to).await
        }
    ),
    method!("symlink", "fs/write", "write", |files, permit, d| {
        files.symlink(permit, &below(d, "new"), b"f").await
    }),
    method!("read_link", "fs/read", "read", |files, permit, d| {
        files.read_link(permit, &below(d, "l")).await.map(drop)
    }),
    method!("remove", "fs/write", "write", |files, permit, d| {
        let removed = files.remove(permit, &below(d, "f"), Removal::File).await;
        removed.map(drop)
    }),
    method!(
        "remove of a tree",
        "fs/write",
        "write",
        |files, permit, d| {
            let removed = files.remove(permit, &below(d, "e"), Removal::Tree).await;
            removed.map(drop)
        }
    ),
    method!("copy from", "fs/copy", "read", |files, permit, d| {
        let to = below(d, "new");
        let copied = files
            .copy(permit, &below(d, "f"), &to, CopyOptions::default())
            .await;
        copied.map(drop)
    }),
    method!("copy to", "fs/copy", "write", |files, permit, d| {
        let to = below(d, "new");
        let copied = files
            .copy(permit, &below(d, "f"), &to, CopyOptions::default())
            .await;
        copied.map(drop)
    }),
    method!("digest", "fs/read", "read", |files, permit, d| {
        let request = DigestRequest {
            algorithms: vec![Algorithm::Blake3],
            ..DigestRequest::default()
        };
        files
            .digest(permit, &below(d, "f"), request)
            .await
            .map(drop)
    }),
    method!("space", "fs/read", "read", |files, permit, d| {
        files.space(permit, &below(d, "f")).await.map(drop)
    }),
    method!("watch", "fs/watch", "list", |files, permit, d| {
        let options = WatchOptions::default();
        match files.watch(permit, &below(d, "e"), options).await {
            Err(error) if error.code() == Some(Code::Unsupported) => Ok(()),
            watch => watch.map(drop),
        }
    }),
    method!("collect", "fs/gc", "admin", |files, permit, d| {
        files.collect(permit, &below(d, "e")).await.map(drop)
    }),
];

fn methods(ground: &Ground) -> impl Iterator<Item = &'static Method> {
    let has_links = ground.features.hard_links;
    METHODS
        .iter()
        .filter(move |method| has_links || !method.name.starts_with("link"))
}

/// What the methods need.
async fn grow(ground: &Ground, directory: &str) {
    ground.mkdir(directory).await;
    ground.mkdir(&format!("{directory}/e")).await;
    ground.put(&format!("{directory}/f"), "content").await;
    ground.put(&format!("{directory}/e/in"), "in").await;
    ground.symlink(&format!("{directory}/l"), "f").await;
}

/// Runs a method as one who holds only these, with a permit for its operation
/// that was given for something else.
async fn attempt(ground: &Ground, method: &Method, grants: &[String]) -> Result<(), FileError> {
    let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
    ground.access.grant("ada", &grants);
    let permit = ground.access.permit("ada", method.operation);
    (method.attempt)(&*ground.files, &permit, &at("d")).await
}

/// All scopes, everything elsewhere, and these.
fn holding(grants: &[String]) -> Vec<String> {
    let all = ["fs:*", "bucket:other/**=*", "bucket:main/x/**=*"].map(String::from);
    all.into_iter().chain(grants.iter().cloned()).collect()
}

#[track_caller]
fn is_refused(method: &Method, outcome: Result<(), FileError>) {
    match outcome {
        Err(FileError::Refused(_)) => refused(outcome),
        outcome => panic!("{}: {outcome:?}, and should be refused", method.name),
    }
}

async fn who_holds_it_may(ground: Ground) {
    for (n, method) in methods(&ground).enumerate() {
        let directory = format!("d{n}");
        grow(&ground, &directory).await;
        let all = ["fs:*".to_owned(), format!("bucket:main/{directory}/**=*")];
        ground
            .access
            .grant("ada", &all.each_ref().map(String::as_str));
        let permit = ground.access.permit("ada", method.operation);
        let done = (method.attempt)(&*ground.files, &permit, &at(&directory)).await;
        assert!(done.is_ok(), "{}: {done:?}", method.name);
    }
}

async fn who_holds_nothing_of_it_may_not(ground: Ground) {
    grow(&ground, "d").await;
    let before = ground.tree(&path("main")).await;
    for method in methods(&ground) {
        is_refused(method, attempt(&ground, method, &holding(&[])).await);
    }
    assert_eq!(ground.tree(&path("main")).await, before);
}

async fn who_holds_something_else_may_not(ground: Ground) {
    grow(&ground, "d").await;
    let before = ground.tree(&path("main")).await;
    for method in methods(&ground) {
        // Every other action on it; it with its siblings' names; its directory
        // alone.
        let others = ["list", "read", "write", "admin"];
        let others = others.iter().filter(|action| **action != method.action);
        let others: Vec<_> = others.copied().collect();
        for grants in [
            format!("bucket:main/d/**={}", others.join(",")),
            "bucket:main/d=*".into(),
            "bucket:main/*=*".into(),
            "bucket:main/d/ff=*".into(),
            "bucket:main/d/f/x=*".into(),
            "bucket:main/D/**=*".into(),
        ] {
            let outcome = attempt(&ground, method, &holding(&[grants])).await;
            is_refused(method, outcome);
        }
    }
    assert_eq!(ground.tree(&path("main")).await, before);
}

async fn who_is_denied_it_may_not(ground: Ground) {
    grow(&ground, "d").await;
    let before = ground.tree(&path("main")).await;
    for method in methods(&ground) {
        for denied in ["main/d/**", "main/*/**", "main/d/*"] {
            let grants = [
                "bucket:main/**=*".to_owned(),
                format!("!bucket:{denied}={}", method.action),
            ];
            let outcome = attempt(&ground, method, &holding(&grants)).await;
            is_refused(method, outcome);
        }
    }
    assert_eq!(ground.tree(&path("main")).await, before);
}

async fn who_held_it_may_no_longer(ground: Ground) {
    grow(&ground, "d").await;
    let before = ground.tree(&path("main")).await;
    for method in methods(&ground) {
        let all = ["fs:*", "bucket:**=*"];
        ground.access.grant("ada", &all);
        let permit = ground.access.permit("ada", method.operation);
        // Less, no scope at all, and nobody.
        let less = ["fs:*", "bucket:other/**=*"];
        let no_scope = ["bucket:**=*"];
        for left in [Some(&less[..]), Some(&no_scope[..]), None] {
            match left {
                Some(left) => ground.access.grant("ada", left),
                None => ground.access.forget("ada"),
            }
            let outcome = (method.attempt)(&*ground.files, &permit, &at("d")).await;
            is_refused(method, outcome);
        }
    }
    assert_eq!(ground.tree(&path("main")).await, before);
}

async fn a_permit_of_another_operation_does_not_do(ground: Ground) {
    grow(&ground, "d").await;
    let before = ground.tree(&path("main")).await;
    ground.access.grant("ada", &["fs:*", "bucket:**=*"]);
    for method in methods(&ground) {
        let operation = match method.action {
            "read" => "fs/list",
            _ => "fs/read",
        };
        let permit = ground.access.permit("ada", operation);
        let outcome = (method.attempt)(&*ground.files, &permit, &at("d")).await;
        is_refused(method, outcome);
    }
    assert_eq!(ground.tree(&path("main")).await, before);
}

async fn the_reason_tells_nothing_of_what_is_there(ground: Ground) {
    grow(&ground, "d").await;
    ground.symlink("x", "d/f").await;
    ground.access.grant("ada", &["fs:*", "bucket:other/**=*"]);
    let permit = ground.access.permit("ada", "fs/read");
    let files = &ground.files;
    // What is there, what is not, what lies below a file: it is all the same.
    for text in ["d/f", "d/none", "d/f/below", "none/at/all", "d", "x", "x/y"] {
        let asked = at(text);
        let told = files.stat(&permit, &asked, true).await;
        let Err(FileError::Refused(error)) = told else {
            panic!("{text}: {told:?}");
        };
        let expected =
            format!("`ada` may not read `main/{text}`: missing resource `bucket:main/{text}=read`");
        assert_eq!(error.message, expected);
    }
    // Through a link that may be read itself as well.
    ground.mkdir("p").await;
    ground.symlink("p/there", "../d/f").await;
    ground.symlink("p/not", "../d/none").await;
    ground.symlink("p/under", "../d/f/below").await;
    ground
        .access
        .grant("ada", &["fs:*", "bucket:main/p/**=read"]);
    let mut told = Vec::new();
    for link in ["p/there", "p/not", "p/under"] {
        let stat = files.stat(&permit, &at(link), true).await;
        match stat {
            Err(FileError::Refused(_)) => told.push("refused".to_owned()),
            other => told.push(format!("{other:?}")),
        }
    }
    assert_eq!(told, ["refused"; 3], "links say what is behind them");
    let bad = files.stat(&permit, &path("nowhere/f"), true).await;
    match bad {
        Err(FileError::Refused(_)) => {}
        other => fails(other, Code::NoSuchBucket),
    }
}
