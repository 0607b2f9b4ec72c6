//! What every kind of bucket must do, as tests over fresh services: run them
//! from the crate that has the service.
//!
//! [`file_service`] checks one rule after the other, [`model`] compares random
//! sequences of calls with a naive tree of files, and [`races`] lets writers
//! and readers meet. What a kind of bucket may lack is in [`Features`].
//!
//! Not here: disks, and how a service keeps what it is given.
#![expect(clippy::unwrap_used, reason = "a broken rule fails with its line")]

mod access;
mod attributes;
mod content;
mod ground;
mod handles;
mod links;
mod listings;
pub mod model;

mod names;
mod quotas;
pub mod races;
mod watching;

mod removal;
mod renames;
mod replacements;
mod rights;
mod small;

use self::ground::Ground;
pub use self::ground::{Features, Planted, Subject};
use futures::future::BoxFuture;

/// Checks every rule of `FileService`, each on a service of its own, and all
/// of them at once.
///
/// # Panics
///
/// If a rule is broken; the message names all that are.
pub async fn file_service(make: impl AsyncFn() -> Subject) {
    let tables = [
        names::RULES,
        listings::RULES,
        links::RULES,
        renames::RULES,
        removal::RULES,
        attributes::RULES,
        replacements::RULES,
        watching::RULES,
        handles::RULES,
        small::RULES,
        content::RULES,
        quotas::RULES,
        rights::RULES,
    ];
    check_all(make, &tables).await;
}

/// Runs all rules at once, and names those that are broken.
async fn check_all(make: impl AsyncFn() -> Subject, tables: &[&[Rule]]) {
    let mut running = Vec::new();
    for (name, rule) in tables.concat() {
        // In a task, so that one broken rule does not hide the others.
        let ground = Ground::new(make().await);
        running.push((name, tokio::spawn(rule(ground))));
    }
    let (all, mut broken) = (running.len(), Vec::new());
    for (name, rule) in running {
        if rule.await.is_err() {
            broken.push(name);
        }
    }
    assert!(
        broken.is_empty(),
        "{} of {all} rules are broken: {broken:?}",
        broken.len()
    );
}

/// A table of rules from functions, named as they are.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), |ground: Ground| Box::pin($rule(ground)))),*]
    };
}
use rules;

type Rule = (&'static str, fn(Ground) -> BoxFuture<'static, ()>);
