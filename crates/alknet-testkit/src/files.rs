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
    check_all(make, &all_rules()).await;
}

/// Which of these rules a service breaks: for tests of the rules themselves.
///
/// # Panics
///
/// If there is no rule of such a name.
pub async fn broken_rules(make: impl AsyncFn() -> Subject, names: &[&str]) -> Vec<&'static str> {
    let mut rules = all_rules();
    rules.retain(|(name, _)| names.contains(name));
    assert_eq!(rules.len(), names.len(), "not all of them are rules");
    run(make, &rules).await
}

fn all_rules() -> Vec<Rule> {
    [
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
    ]
    .concat()
}

/// Runs all rules at once, and names those that are broken.
async fn check_all(make: impl AsyncFn() -> Subject, rules: &[Rule]) {
    let broken = run(make, rules).await;
    assert!(
        broken.is_empty(),
        "{} of {} rules are broken: {broken:?}",
        broken.len(),
        rules.len()
    );
}

async fn run(make: impl AsyncFn() -> Subject, rules: &[Rule]) -> Vec<&'static str> {
    let mut running = Vec::new();
    for (name, rule) in rules {
        // In a task, so that one broken rule does not hide the others.
        let ground = Ground::new(make().await);
        running.push((*name, tokio::spawn(rule(ground))));
    }
    let mut broken = Vec::new();
    for (name, rule) in running {
        if rule.await.is_err() {
            broken.push(name);
        }
    }
    broken
}

/// A table of rules from functions, named as they are.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), |ground: Ground| Box::pin($rule(ground)))),*]
    };
}
use rules;

type Rule = (&'static str, fn(Ground) -> BoxFuture<'static, ()>);
