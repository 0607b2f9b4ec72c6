//! Sealed credentials.

use super::{Credentials, Rule, row, rules};
use alknet_core::{
    CredentialName,
    storage::{AuditFilter, CREDENTIALS_MAX, SealedCredential, StoreError, Timestamp},
};

pub(super) const RULES: &[Rule<Credentials>] = rules!(Credentials:
    a_credential_is_kept_replaced_and_removed,
    a_replaced_credential_keeps_its_birth,
    accounts_and_providers_are_apart,
    what_is_not_there_cannot_be_removed,
    every_change_has_its_audit_row_and_its_event,
    there_are_only_so_many,
);

fn name(text: &str) -> CredentialName {
    CredentialName::parse(text).unwrap()
}

fn sealed(text: &str, at: i64, byte: u8) -> SealedCredential {
    SealedCredential {
        name: name(text),
        key_version: u32::from(byte),
        sealed: vec![byte; 41],
        created_at: Timestamp(at),
        updated_at: Timestamp(at),
    }
}

async fn put(stores: &Credentials, credential: &SealedCredential) {
    let put = stores
        .store
        .put_credential(credential.clone(), row("credentials/put"));
    put.await.unwrap();
}

async fn a_credential_is_kept_replaced_and_removed(stores: Credentials) {
    let store = &stores.store;
    assert_eq!(
        store.sealed_credential(&name("github/ada")).await.unwrap(),
        None
    );
    let first = sealed("github/ada", 10, 1);
    put(&stores, &first).await;
    let found = store.sealed_credential(&name("github/ada")).await.unwrap();
    assert_eq!(found, Some(first.clone()));
    assert_eq!(store.credentials().await.unwrap(), [first]);
    put(&stores, &sealed("github/ada", 20, 2)).await;
    let found = store
        .sealed_credential(&name("github/ada"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.key_version, found.sealed), (2, vec![2; 41]));
    store
        .remove_credential(&name("github/ada"), row("credentials/remove"))
        .await
        .unwrap();
    assert_eq!(store.credentials().await.unwrap(), []);
}

async fn a_replaced_credential_keeps_its_birth(stores: Credentials) {
    put(&stores, &sealed("github/ada", 10, 1)).await;
    put(&stores, &sealed("github/ada", 20, 1)).await;
    let found = stores
        .store
        .sealed_credential(&name("github/ada"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (found.created_at, found.updated_at),
        (Timestamp(10), Timestamp(20))
    );
}

async fn accounts_and_providers_are_apart(stores: Credentials) {
    for (at, text) in (1..).zip(["b/a", "a/b", "a/a", "a/A"]) {
        put(&stores, &sealed(text, at, 1)).await;
    }
    let names = |all: Vec<SealedCredential>| -> Vec<String> {
        all.iter().map(|one| one.name.to_string()).collect()
    };
    let all = stores.store.credentials().await.unwrap();
    assert_eq!(names(all), ["a/A", "a/a", "a/b", "b/a"]);
    stores
        .store
        .remove_credential(&name("a/a"), row("credentials/remove"))
        .await
        .unwrap();
    let all = stores.store.credentials().await.unwrap();
    assert_eq!(names(all), ["a/A", "a/b", "b/a"]);
}

async fn what_is_not_there_cannot_be_removed(stores: Credentials) {
    let store = &stores.store;
    let error = store
        .remove_credential(&name("a/a"), row("credentials/remove"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::NoCredential(name) if name == "a/a"),
        "{error:?}"
    );
    let rows = stores.audit.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows, []);
}

async fn every_change_has_its_audit_row_and_its_event(stores: Credentials) {
    put(&stores, &sealed("github/ada", 10, 1)).await;
    stores
        .store
        .remove_credential(&name("github/ada"), row("credentials/remove"))
        .await
        .unwrap();
    let rows = stores.audit.list(&AuditFilter::default()).await.unwrap();
    let operations: Vec<&str> = rows.iter().map(|(_, row)| row.operation.as_str()).collect();
    assert_eq!(operations, ["credentials/remove", "credentials/put"]);
    let page = stores
        .events
        .read_events(0, "credential/", 10)
        .await
        .unwrap();
    let told: Vec<(&str, &str)> = page
        .events
        .iter()
        .map(|event| (event.event.kind.as_str(), event.event.about.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("credential/put", "github/ada"),
            ("credential/removed", "github/ada")
        ]
    );
}

async fn there_are_only_so_many(stores: Credentials) {
    // At once: they share their waits for the disk.
    let all: Vec<_> = (0..CREDENTIALS_MAX)
        .map(|at| sealed(&format!("p/{at}"), 1, 1))
        .collect();
    futures::future::join_all(all.iter().map(|one| put(&stores, one))).await;
    // One more is refused, one in the place of another is not.
    let more = stores
        .store
        .put_credential(sealed("q/a", 1, 1), row("credentials/put"));
    let error = more.await.unwrap_err();
    assert!(matches!(error, StoreError::TooManyCredentials), "{error:?}");
    put(&stores, &sealed("p/7", 2, 2)).await;
    assert_eq!(
        stores.store.credentials().await.unwrap().len(),
        CREDENTIALS_MAX
    );
}
