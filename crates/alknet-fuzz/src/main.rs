//! `alknet-fuzz [TARGET...]` fuzzes these targets, or all of them in turn, and
//! says how many executions each had. The environment says how:
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `ALKNET_FUZZ_SECONDS` | seconds for each target | 1, unless executions are given |
//! | `ALKNET_FUZZ_EXECUTIONS` | executions of each target | no bound |
//! | `ALKNET_FUZZ_SEED` | another seed makes other inputs | 1 |
//! | `ALKNET_FUZZ_THREADS` | threads for each target | the processors |
//! | `ALKNET_FUZZ_REPLAY` | runs the target on this file alone | |
//! | `ALKNET_FUZZ_SEEDS` | writes what targets start from to folders in this one, and ends | |
//! | `ALKNET_FUZZ_RECORD` | writes each input to this file before it is run | |
//!
//! A finding is written to `target/fuzz/TARGET-HASH.bin`, and the exit code
//! is 1.
#![expect(clippy::print_stderr, reason = "a program for people")]

use alknet_fuzz::{
    CORPUS, Finding, Options, Report, TARGETS, Target, fuzz, save_input, starting_corpus,
};
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        say(&help());
        return Ok(true);
    }
    if let Some(file) = std::env::var_os("ALKNET_FUZZ_REPLAY") {
        return replay(Path::new(&file), &words).map(|()| true);
    }
    let targets = chosen(&words)?;
    if let Some(folder) = std::env::var_os("ALKNET_FUZZ_SEEDS") {
        return write_seeds(&targets, Path::new(&folder)).map(|()| true);
    }
    let options = options()?;
    let (mut executions, mut is_clean) = (0, true);
    for target in &targets {
        let report = fuzz(target, &options).context("failed to read the corpus")?;
        executions += report.executions;
        say(&line(target, &report));
        if let Some(finding) = &report.finding {
            is_clean = false;
            say(&told(target, finding)?);
        }
    }
    let clean = if is_clean { "no finding" } else { "FINDINGS" };
    say(&format!(
        "{} targets, {} executions, {clean}\n",
        targets.len(),
        thousands(executions)
    ));
    Ok(is_clean)
}

fn say(text: &str) {
    // Whoever read this has left.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn help() -> String {
    let mut text = String::from(
        "usage: alknet-fuzz [TARGET...]\n\n\
         Environment: ALKNET_FUZZ_SECONDS, ALKNET_FUZZ_EXECUTIONS, ALKNET_FUZZ_SEED,\n\
         ALKNET_FUZZ_THREADS, ALKNET_FUZZ_REPLAY=FILE, ALKNET_FUZZ_SEEDS=FOLDER,\n\
         ALKNET_FUZZ_RECORD=FILE\n\nTargets:\n",
    );
    for target in TARGETS {
        let _ = writeln!(text, "  {:10} {}", target.name, target.about);
    }
    text
}

fn chosen(words: &[String]) -> Result<Vec<&'static Target>> {
    if words.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    words.iter().map(|word| named(word)).collect()
}

fn named(name: &str) -> Result<&'static Target> {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.with_context(|| format!("no target `{name}`: see --help"))
}

/// What a variable says, if it is set.
fn variable<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Some(text) = std::env::var_os(name) else {
        return Ok(None);
    };
    let value = text.to_str().and_then(|text| text.parse().ok());
    let value = value.with_context(|| format!("`{name}` is `{}`, no number", text.display()))?;
    Ok(Some(value))
}

fn options() -> Result<Options> {
    let default = Options::default();
    let seconds: Option<f64> = variable("ALKNET_FUZZ_SECONDS")?;
    let time = seconds.map(Duration::try_from_secs_f64).transpose();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Options {
        time: time.context("`ALKNET_FUZZ_SECONDS` is no length of time")?,
        executions: variable("ALKNET_FUZZ_EXECUTIONS")?,
        seed: variable("ALKNET_FUZZ_SEED")?.unwrap_or(default.seed),
        threads: variable("ALKNET_FUZZ_THREADS")?.unwrap_or(processors),
        record: std::env::var_os("ALKNET_FUZZ_RECORD").map(PathBuf::from),
        ..default
    })
}

/// Runs a target on one file, without catching anything.
fn replay(file: &Path, words: &[String]) -> Result<()> {
    let name = match words {
        [name] => name.as_str(),
        [] => {
            let stem = file
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            stem.split('-').next().unwrap_or_default()
        }
        _ => bail!("one file is replayed with one target"),
    };
    let target = named(name)?;
    let input =
        std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))?;
    (target.run)(&input);
    say(&format!("{name}: {} bytes, fine\n", input.len()));
    Ok(())
}

/// Writes the starting corpus of each target, as `cargo fuzz` takes it.
fn write_seeds(targets: &[&Target], folder: &Path) -> Result<()> {
    for target in targets {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder).context("failed to make a folder for seeds")?;
        for input in
            starting_corpus(target, Path::new(CORPUS)).context("failed to read the corpus")?
        {
            save_input(target, &input, &folder).context("failed to write a seed")?;
        }
    }
    Ok(())
}

fn line(target: &Target, report: &Report) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let rate = report.executions as f64 / seconds.max(1e-9);
    let (given, kept) = report.corpus;
    format!(
        "{:10} {:>13} executions {seconds:>8.2} s {:>9}/s  slowest {:>7.1} ms  corpus {given}+{kept}\n",
        target.name,
        thousands(report.executions),
        thousands(rate as u64),
        report.slowest.as_secs_f64() * 1e3,
    )
}

fn told(target: &Target, finding: &Finding) -> Result<String> {
    let folder = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    };
    let path = finding
        .save(target, &folder.join("fuzz"))
        .context("failed to write the finding")?;
    let path = path.canonicalize().unwrap_or(path);
    Ok(format!(
        "FINDING in {}: {finding}\n  input:  {}\n  replay: ALKNET_FUZZ_REPLAY={} cargo run -p alknet-fuzz {}\n",
        target.name,
        finding.input.escape_ascii(),
        path.display(),
        target.name,
    ))
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
