//! Everything that is sealed, sealed anew at once.

use crate::store;
use alknet_core::{
    AuditRow, CredentialName,
    storage::{
        AuditFilter, AuditLog, CredentialStore, EventLog, SealedCredential, StoreError, Timestamp,
    },
};
use alknet_store::{KeptNetwork, OtherVault, Resealed, Resealing, SealedRow, Store};

fn row(operation: &str) -> AuditRow {
    AuditRow::event(Timestamp(1), "owner", operation)
}

async fn put(store: &Store, name: &str, sealed: &[u8]) {
    let credential = SealedCredential {
        name: CredentialName::parse(name).unwrap(),
        key_version: 1,
        sealed: sealed.to_vec(),
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    };
    let put = store.put_credential(credential, row("credentials/put"));
    put.await.unwrap();
}

async fn filled(store: &Store) {
    put(store, "github/ada", b"a").await;
    put(store, "github/eve", b"broken").await;
    let networks = vec![KeptNetwork {
        id: [7; 16],
        key_version: 0,
        sealed: b"n".to_vec(),
    }];
    store.put_networks(networks).await.unwrap();
}

/// Each row as `name version sealed`.
async fn rows(store: &Store) -> Vec<String> {
    let credentials = store.credentials().await.unwrap().into_iter().map(|one| {
        let sealed = String::from_utf8(one.sealed).unwrap();
        format!("{} {} {sealed}", one.name, one.key_version)
    });
    let networks = store.networks().await.unwrap().into_iter().map(|one| {
        let sealed = String::from_utf8(one.sealed).unwrap();
        format!("network {} {sealed}", one.key_version)
    });
    credentials.chain(networks).collect()
}

const OTHER: OtherVault = OtherVault {
    name: [9; 32],
    node: [8; 32],
};

const TO_2: Resealing = Resealing {
    key_version: 2,
    vault: None,
};

#[tokio::test]
async fn everything_is_sealed_anew_with_its_row_and_its_event() {
    let (_dir, store) = store();
    filled(&store).await;
    assert_eq!(store.sealing_key_version().await.unwrap(), 1);
    let done = store.reseal(TO_2, row("vault/rotate"), |row| {
        let (version, sealed) = match row {
            SealedRow::Credential {
                key_version,
                sealed,
                ..
            } => (key_version, sealed),
            SealedRow::Network {
                id,
                key_version,
                sealed,
            } => {
                assert_eq!(id, &[7; 16]);
                (key_version, sealed)
            }
            _ => unreachable!(),
        };
        let opens = sealed != b"broken";
        Ok(opens.then(|| [sealed, format!(" was {version}").as_bytes()].concat()))
    });
    let done = done.await.unwrap();
    assert_eq!(done, Resealed { rows: 2, left: 1 });
    let want = [
        "github/ada 2 a was 1",
        "github/eve 1 broken",
        "network 2 n was 0",
    ];
    assert_eq!(rows(&store).await, want);
    assert_eq!(store.sealing_key_version().await.unwrap(), 2);
    assert_eq!(store.sealed_for_vault().await.unwrap(), None);
    let newest = &store.list(&AuditFilter::default()).await.unwrap()[0].1;
    assert_eq!(newest.operation, "vault/rotate");
    let told = store.read_events(0, "vault/", 10).await.unwrap();
    assert_eq!(told.events.len(), 1);
    // It was not put again.
    assert_eq!(
        store.credentials().await.unwrap()[0].updated_at,
        Timestamp(2)
    );
}

#[tokio::test]
async fn what_fails_in_the_middle_changes_nothing() {
    let (_dir, store) = store();
    filled(&store).await;
    let before = rows(&store).await;
    let logged = store.list(&AuditFilter::default()).await.unwrap();
    let to = Resealing {
        vault: Some(OTHER),
        ..TO_2
    };
    let done = store.reseal(to, row("vault/rotate"), |row| match row {
        SealedRow::Network { .. } => Err(StoreError::backend("no")),
        _ => Ok(Some(b"new".to_vec())),
    });
    assert!(done.await.is_err());
    assert_eq!(rows(&store).await, before);
    assert_eq!(store.sealing_key_version().await.unwrap(), 1);
    assert_eq!(store.sealed_for_vault().await.unwrap(), None);
    assert_eq!(store.list(&AuditFilter::default()).await.unwrap(), logged);
    assert_eq!(store.read_events(0, "vault/", 10).await.unwrap().events, []);
}

#[tokio::test]
async fn another_vault_is_remembered() {
    let (_dir, store) = store();
    let to = Resealing {
        vault: Some(OTHER),
        ..TO_2
    };
    store
        .reseal(to, row("vault/replace"), |_| Ok(None))
        .await
        .unwrap();
    assert_eq!(
        store.sealed_for_vault().await.unwrap(),
        Some("09".repeat(32))
    );
}
