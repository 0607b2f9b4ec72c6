//! The written contract names everything that the code has.

use alknet_core::{ErrorCode, Limits, files::FileErrorCode};
use std::path::PathBuf;

fn read(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_error_code_has_a_section_and_a_row() {
    let text = read("docs/errors.md");
    for code in ErrorCode::ALL {
        let code = code.as_str();
        let section = text.split(&format!("\n### `{code}`\n")).nth(1);
        let section =
            section.unwrap_or_else(|| panic!("docs/errors.md has no section for `{code}`"));
        let section = section.split("\n#").next().unwrap();
        for part in ["**Meaning.**", "**Who acts.**", "**Retry?**"] {
            assert!(section.contains(part), "`{code}` does not say {part}");
        }
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{code}` |")));
        let cells = row
            .unwrap_or_else(|| panic!("`{code}` is not in the table"))
            .split('|')
            .count();
        assert_eq!(
            cells, 7,
            "`{code}` has a row with other columns than the table"
        );
    }
    let sections = text
        .lines()
        .filter(|line| line.starts_with("### `"))
        .count();
    assert_eq!(
        sections,
        ErrorCode::ALL.len(),
        "docs/errors.md has a section for what is no code"
    );
}

#[test]
fn retryable_in_the_code_is_yes_on_paper() {
    let text = read("docs/errors.md");
    for code in ErrorCode::ALL {
        let section = text.split(&format!("\n### `{code}`\n")).nth(1).unwrap();
        let said = section.split("**Retry?**").nth(1).unwrap().trim_start();
        let retryable = alknet_core::CallError::new(*code, "x").retryable;
        assert_eq!(said.starts_with("Yes"), retryable, "`{code}`: {said:.60}");
    }
}

#[test]
fn every_code_of_files_has_a_row_with_its_status() {
    let text = read("docs/errors.md");
    for code in FileErrorCode::ALL {
        let begins = format!("| `{}` | `E", code.as_str());
        let row = text.lines().find(|line| line.starts_with(&begins));
        let row = row.unwrap_or_else(|| panic!("docs/errors.md has no row `{begins}`"));
        let status = format!(" | {} | ", code.http_status());
        assert!(row.contains(&status), "{row}");
    }
}

#[test]
fn every_limit_of_the_door_is_in_the_operations_chapter() {
    let text = read("docs/architecture/operations.md");
    let debug = format!("{:?}", Limits::default());
    let fields = debug
        .trim_start_matches("Limits {")
        .split(',')
        .filter_map(|field| field.split(':').next());
    for field in fields.map(str::trim).filter(|field| !field.is_empty()) {
        assert!(
            text.contains(&format!("`{field}`")),
            "`{field}` is not in docs/architecture/operations.md"
        );
    }
}
