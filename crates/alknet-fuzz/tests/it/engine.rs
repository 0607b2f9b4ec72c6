//! Mutants: decoders with a planted fault, which the loop must find.

use alknet_fuzz::{FindingKind, Options, Report, TARGETS, Target, fuzz, note, replay};
use std::{path::PathBuf, time::Duration};

/// A sound length-prefixed decoder: a type, a length of two bytes, a payload.
fn payload(data: &[u8]) -> Option<&[u8]> {
    let [0x10, high, low, rest @ ..] = data else {
        return None;
    };
    rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
}

const SOUND: Target = Target {
    name: "mutant",
    about: "Decodes a length-prefixed text.",
    run: |data| note(payload(data).map(<[u8]>::len)),
    seeds: || vec![vec![0x10, 0, 5, b'h', b'e', b'l', b'l', b'o']],
    tokens: &[b"*"],
    bytes_max: 64,
    held_max: 1024 * 1024,
};

fn options(seconds: u64) -> Options {
    Options {
        time: Some(Duration::from_secs(seconds)),
        hang: Duration::from_secs(5),
        corpus: PathBuf::from("/nowhere"),
        ..Options::default()
    }
}

#[track_caller]
fn found(run: fn(&[u8])) -> (Report, FindingKind) {
    let target = Target { run, ..SOUND };
    // Ten times what it takes, and over at the finding.
    let report = fuzz(&target, &options(60)).unwrap();
    let finding = report.finding.clone().expect("the fault is found");
    (report, finding.kind)
}

#[test]
fn a_sound_decoder_has_no_finding() {
    let report = fuzz(
        &SOUND,
        &Options {
            executions: Some(200_000),
            ..options(60)
        },
    )
    .unwrap();
    assert!(report.finding.is_none());
    assert_eq!(report.executions, 200_000);
    assert!(report.corpus.1 > 5, "lengths are new: {:?}", report.corpus);
}

#[test]
fn a_length_that_is_believed_is_found() {
    let (report, kind) = found(|data| {
        if let [0x10, high, low, rest @ ..] = data {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            note(rest[..length].len());
        }
    });
    let FindingKind::Panic(message) = kind else {
        panic!("{kind:?}");
    };
    assert!(message.contains("out of range"), "{message}");
    // Nothing is left of it but what it takes.
    assert!(report.finding.unwrap().input.len() <= 4);
}

#[test]
fn an_off_by_one_behind_two_checks_is_found() {
    let (_, kind) = found(|data| {
        if let Some(payload) = payload(data)
            && let Some(at) = payload.iter().position(|byte| *byte == b'*')
        {
            note(at);
            // The byte after the star, which need not be there.
            note(payload[at + 1]);
        }
    });
    assert!(matches!(kind, FindingKind::Panic(_)), "{kind:?}");
}

#[test]
fn an_allocation_for_a_length_alone_is_found() {
    let (_, kind) = found(|data| {
        if let [0x10, length @ ..] = data
            && let Some(length) = length.first_chunk()
        {
            let length = u32::from_be_bytes(*length) as usize;
            std::hint::black_box(Vec::<u8>::with_capacity(length.min(1 << 24)));
        }
    });
    assert!(
        matches!(kind, FindingKind::Memory { held } if held > SOUND.held_max),
        "{kind:?}"
    );
}

#[test]
fn a_caught_panic_is_found_too() {
    let (_, kind) = found(|data| {
        let caught =
            std::panic::catch_unwind(|| assert!(payload(data).is_none_or(<[u8]>::is_empty)));
        note(caught.is_ok());
    });
    assert!(matches!(kind, FindingKind::Panic(_)), "{kind:?}");
}

#[test]
fn an_input_that_never_ends_is_found() {
    let target = Target {
        run: |data| {
            while payload(data).is_some_and(|payload| payload.len() == 3) {
                std::thread::sleep(Duration::from_millis(1));
            }
        },
        ..SOUND
    };
    let quick = Options {
        hang: Duration::from_millis(500),
        ..options(60)
    };
    let finding = fuzz(&target, &quick).unwrap().finding.unwrap();
    assert_eq!(finding.kind, FindingKind::Hang);
    assert_eq!(payload(&finding.input).unwrap().len(), 3);
}

#[test]
fn a_finding_is_saved_and_replays() {
    let target = Target {
        run: |data| assert!(data.len() < 9, "nine bytes"),
        ..SOUND
    };
    let finding = fuzz(&target, &options(60)).unwrap().finding.unwrap();
    assert_eq!(finding.input.len(), 9, "as small as it gets");
    let folder = tempfile::tempdir().unwrap();
    let path = finding.save(&target, folder.path()).unwrap();
    let saved = std::fs::read(path).unwrap();
    assert_eq!(replay(&target, &saved).unwrap_err().kind, finding.kind);
    assert!(replay(&SOUND, &saved).is_ok());
}

#[test]
fn a_run_repeats_with_its_seed() {
    let run = |seed| {
        let options = Options {
            executions: Some(30_000),
            seed,
            threads: 2,
            ..options(600)
        };
        fuzz(&SOUND, &options).unwrap().corpus
    };
    assert_eq!(run(7), run(7));
}

#[test]
fn a_wrong_rule_for_names_is_found() {
    // The product's own target, with the product's rule broken: an operation
    // of five segments is let through.
    let target = Target {
        run: |data| {
            let text = String::from_utf8_lossy(data);
            let segments = text.split('/').count();
            let known = alknet_core::OperationName::parse(&text).is_ok();
            let broken = known || (segments == 5 && text.len() < 64 && !text.contains("//"));
            assert_eq!(known, broken, "{text:?}");
        },
        ..*TARGETS
            .iter()
            .find(|target| target.name == "names")
            .unwrap()
    };
    let finding = fuzz(&target, &options(60)).unwrap().finding;
    assert!(matches!(finding.unwrap().kind, FindingKind::Panic(_)));
}
