//! Catalogues of imports.

use super::{Rule, rules};
use alknet_core::storage::ImportStore;
use std::sync::Arc;

pub(super) const RULES: &[Rule<Arc<dyn ImportStore>>] = rules!(Arc<dyn ImportStore>:
    a_catalogue_is_kept_replaced_and_forgotten,
    catalogues_of_imports_are_apart,
);

async fn a_catalogue_is_kept_replaced_and_forgotten(imports: Arc<dyn ImportStore>) {
    assert_eq!(imports.catalogue("nas").await.unwrap(), None);
    for (revision, text) in [("1", b"[]".to_vec()), ("2", vec![0, 255]), ("", Vec::new())] {
        imports
            .put_catalogue("nas", revision, text.clone())
            .await
            .unwrap();
        assert_eq!(
            imports.catalogue("nas").await.unwrap(),
            Some((revision.to_owned(), text))
        );
    }
    // Forgetting twice is no error.
    for _ in 0..2 {
        imports.remove_catalogue("nas").await.unwrap();
        assert_eq!(imports.catalogue("nas").await.unwrap(), None);
    }
}

async fn catalogues_of_imports_are_apart(imports: Arc<dyn ImportStore>) {
    imports
        .put_catalogue("nas", "1", b"a".to_vec())
        .await
        .unwrap();
    imports
        .put_catalogue("NAS", "2", b"b".to_vec())
        .await
        .unwrap();
    imports.remove_catalogue("nas").await.unwrap();
    assert_eq!(
        imports.catalogue("NAS").await.unwrap(),
        Some(("2".to_owned(), b"b".to_vec()))
    );
}
