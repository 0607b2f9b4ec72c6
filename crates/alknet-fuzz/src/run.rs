//! One execution of a target, and the inputs that it starts from.

use crate::{Finding, FindingKind, Target, alloc, notes};
use std::{
    cell::{Cell, RefCell},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Once,
};

/// Inputs that were worth keeping, a folder for each target.
pub const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
/// Inputs that once were findings, a folder for each target; they run first.
pub const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");

thread_local! {
    static IS_FUZZING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes panics of threads that fuzz, and leaves the others to whoever was
/// asked before.
fn hook_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_FUZZING.get() {
                return before(info);
            }
            let text = info.to_string();
            PANIC.with_borrow_mut(|panic| {
                panic.get_or_insert(text);
            });
        }));
    });
}

/// Runs a target once. A panic counts even if the code under test caught it.
pub(crate) fn execute(target: &Target, input: &[u8]) -> Result<(), FindingKind> {
    hook_panics();
    IS_FUZZING.set(true);
    alloc::start();
    let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let held = alloc::most();
    IS_FUZZING.set(false);
    let panic = PANIC.with_borrow_mut(Option::take);
    match (panic, ended) {
        (Some(message), _) => Err(FindingKind::Panic(message)),
        (None, Err(_)) => Err(FindingKind::Panic("a panic without words".into())),
        (None, Ok(())) if held > target.held_max => Err(FindingKind::Memory { held }),
        (None, Ok(())) => Ok(()),
    }
}

/// Runs a target once on what was found before.
///
/// # Errors
///
/// The finding, if it is still there.
pub fn replay(target: &Target, input: &[u8]) -> Result<(), Finding> {
    let ended = execute(target, input);
    notes::take(drop);
    ended.map_err(|kind| Finding {
        kind,
        input: input.to_vec(),
    })
}

/// Writes an input to `folder/target-hash.bin`.
///
/// # Errors
///
/// If the folder or the file cannot be written.
pub fn save_input(target: &Target, input: &[u8], folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let hash = blake3::hash(input).to_hex();
    let path = folder.join(format!("{}-{}.bin", target.name, &hash[..12]));
    fs::write(&path, input)?;
    Ok(path)
}

/// What a target starts from: regressions first, then its seeds, then its
/// corpus in `folder`.
///
/// # Errors
///
/// If a folder cannot be read; one that is not there is empty.
pub fn starting_corpus(target: &Target, folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut inputs = files(&Path::new(REGRESSIONS).join(target.name))?;
    inputs.extend((target.seeds)());
    inputs.extend(files(&folder.join(target.name))?);
    inputs
        .iter_mut()
        .for_each(|input| input.truncate(target.bytes_max));
    Ok(inputs)
}

/// The files of a folder by name, so that runs repeat.
fn files(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}
