//! The example that keeps a token: it arrives where it should, and nowhere else.

use super::{Running, example};
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
};

const TOKEN: &str = "canary-0123456789-token";

/// Runs it against a server that is asked so many times; what it printed.
fn runs(place: &std::path::Path, asked: usize, input: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        for _ in 0..asked {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            let request = String::from_utf8(request).unwrap();
            let knocks = request.contains(&format!("Authorization: Bearer {TOKEN}\r\n"));
            let status = if knocks { "200 OK" } else { "401 Unauthorized" };
            write!(stream, "HTTP/1.0 {status}\r\n\r\n").unwrap();
        }
    });
    let mut command = Command::new(example("credential"));
    command
        .args(["./data", &address])
        .current_dir(place)
        .env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    // The second run does not read it.
    let _ = running.0.stdin.take().unwrap().write_all(input.as_bytes());
    let mut printed = String::new();
    let mut stdout = running.0.stdout.take().unwrap();
    stdout.read_to_string(&mut printed).unwrap();
    assert!(running.0.wait().unwrap().success(), "{printed}");
    server.join().unwrap();
    printed
}

#[test]
fn a_token_is_asked_for_once_and_reaches_the_server() {
    let place = tempfile::tempdir().unwrap();
    let first = runs(place.path(), 1, &format!("{TOKEN}\n"));
    let [missing, status] = first.lines().collect::<Vec<_>>()[..] else {
        panic!("{first}");
    };
    assert!(
        missing.contains("alknet credentials put example ada"),
        "{first}"
    );
    assert_eq!(status, "\"HTTP/1.0 200 OK\"");
    let again = runs(place.path(), 2, "");
    assert_eq!(again, "\"HTTP/1.0 200 OK\"\n");
}
