//! Runs the targets of `alknet-fuzz` under libFuzzer, one program for each.

pub use libfuzzer_sys;

/// Runs the target of this name on what libFuzzer makes up.
///
/// # Panics
///
/// If the target breaks its promise, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = alknet_fuzz::TARGETS
        .iter()
        .find(|target| target.name == name);
    let target = target.expect("a target of the table");
    (target.run)(&data[..data.len().min(target.bytes_max)]);
    alknet_fuzz::forget_notes();
}

/// The whole program of one target.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::run($name, data));
    };
}
