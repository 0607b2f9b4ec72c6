//! The table of targets, and what they start from.

use alknet_fuzz::{CORPUS, Options, REGRESSIONS, TARGETS, fuzz, replay, starting_corpus};
use std::{collections::BTreeSet, fs, path::Path};

#[test]
fn every_target_survives_what_it_starts_from() {
    for target in TARGETS {
        let inputs = starting_corpus(target, Path::new(CORPUS)).unwrap();
        assert!(!inputs.is_empty(), "{}", target.name);
        for input in inputs {
            if let Err(finding) = replay(target, &input) {
                panic!("{}: {finding}\n{}", target.name, input.escape_ascii());
            }
        }
    }
}

#[test]
fn every_target_notes_more_than_its_seeds_did() {
    // A target whose outcomes are all one tells the loop nothing.
    for target in TARGETS {
        let options = Options {
            executions: Some(1_000),
            time: Some(std::time::Duration::from_secs(60)),
            ..Options::default()
        };
        let report = fuzz(target, &options).unwrap();
        if let Some(finding) = report.finding {
            panic!(
                "{}: {finding}\n{}",
                target.name,
                finding.input.escape_ascii()
            );
        }
        assert!(report.corpus.1 >= 3, "{}: {:?}", target.name, report.corpus);
    }
}

#[test]
fn targets_have_names_of_their_own() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), TARGETS.len());
    assert!(
        names
            .iter()
            .all(|name| name.bytes().all(|b| b.is_ascii_lowercase()))
    );
}

#[test]
fn every_folder_of_inputs_belongs_to_a_target_and_is_small() {
    for folder in [CORPUS, REGRESSIONS] {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_file() {
                continue;
            }
            let target = TARGETS.iter().find(|target| target.name == name);
            let target = target.unwrap_or_else(|| panic!("{name} is no target"));
            let bytes: u64 = fs::read_dir(&path)
                .unwrap()
                .map(|file| file.unwrap().metadata().unwrap().len())
                .sum();
            assert!(bytes < 100_000, "{}: {bytes} bytes", target.name);
        }
    }
}

#[test]
fn cargo_fuzz_has_every_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let file = folder.join(format!("fuzz_targets/{}.rs", target.name));
        let source = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            source.contains(&format!("\"{}\"", target.name)),
            "{}",
            target.name
        );
        assert!(
            manifest.contains(&format!("name = \"{}\"", target.name)),
            "{}",
            target.name
        );
    }
}
