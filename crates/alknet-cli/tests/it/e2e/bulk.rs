//! Many bytes through a channel.

use super::harness::{Node, Pair, exec_config};
use std::{
    io::{Read, Write},
    process::Stdio,
    thread,
};

/// What a node may grow by while bytes pass: windows and buffers, but not the
/// bytes.
const GROWTH_KIB_MAX: u64 = 40 * 1024;

/// Bytes without a pattern that a compressor, or a repetition, would get
/// through (xorshift64*).
struct Noise {
    state: u64,
    left: u64,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for chunk in buffer[..len].chunks_mut(8) {
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let word = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        self.left -= len as u64;
        Ok(len)
    }
}

/// Sends bytes to `cat` on a peer while it sends them back, and compares hashes
/// of what went and what came.
#[track_caller]
pub(crate) fn there_and_back(caller: &Node, on: &str, bytes: u64) {
    let mut command = caller.command(&["exec", on, "--", "cat"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sending = thread::spawn(move || {
        let mut noise = Noise {
            state: 0x9e37_79b9_7f4a_7c15,
            left: bytes,
        };
        let mut hash = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let len = noise.read(&mut buffer).unwrap();
            if len == 0 {
                return hash.finalize();
            }
            hash.update(&buffer[..len]);
            stdin.write_all(&buffer[..len]).unwrap();
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut came = 0;
    loop {
        let len = stdout.read(&mut buffer).unwrap();
        if len == 0 {
            break;
        }
        came += len as u64;
        hash.update(&buffer[..len]);
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(came, bytes);
    assert_eq!(hash.finalize(), sending.join().unwrap());
}

/// Each way, with the memory of both nodes.
#[track_caller]
fn check(bytes: u64) {
    let pair = Pair::start(exec_config());
    pair.grant(&["operator"]);
    // Whatever the first channel needs once is no growth.
    for (caller, called) in pair.ways() {
        there_and_back(caller, &called.name, 64 * 1024);
    }
    let before = pair.ways().map(|(node, _)| node.memory_peak_kib());
    for (caller, called) in pair.ways() {
        there_and_back(caller, &called.name, bytes);
    }
    for ((node, _), before) in pair.ways().into_iter().zip(before) {
        let grown = node.memory_peak_kib() - before;
        assert!(
            grown < GROWTH_KIB_MAX,
            "`{}` grew by {grown} KiB from {before} KiB",
            node.name
        );
    }
}

#[test]
fn bytes_pass_unchanged_each_way_in_bounded_memory() {
    check(64 * 1024 * 1024);
}

/// 1 GiB in `./test full`.
#[test]
fn slow_many_bytes_pass_unchanged_each_way_in_bounded_memory() {
    let is_full = std::env::var_os("ALKNET_TEST_FULL").is_some();
    check(if is_full { 1024 } else { 128 } * 1024 * 1024);
}
