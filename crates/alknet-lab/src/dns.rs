//! A DNS server that knows no name.

use crate::{Host, LabError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::{
    net::{Ipv4Addr, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
};

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Dns {
    waker: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    /// Answers on UDP port 53 of every IPv4 address of a host.
    pub(crate) fn start(host: &Host) -> Result<Self, LabError> {
        let namespace = host.own_namespace();
        let failed = |source| namespace.io("start the DNS server", source);
        let socket = namespace
            .enter(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53))?;
                socket.set_nonblocking(true).map(|()| socket)
            })?
            .map_err(failed)?;
        let waker = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let waker = Arc::new(waker);
        let ended = Arc::clone(&waker);
        let thread = thread::Builder::new()
            .name("dns".into())
            .spawn(move || serve(&socket, &ended))
            .map_err(failed)?;
        Ok(Self {
            waker,
            thread: Some(thread),
        })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // It fails only if it is full of earlier wake-ups.
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, ended: &OwnedFd) {
    let mut buffer = [0; 1500];
    loop {
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        // Interrupted, it looks again.
        let _ = poll(&mut fds, None);
        if fds[1].revents().contains(PollFlags::IN) {
            return;
        }
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length]) {
                // Who asked may be gone.
                let _ = socket.send_to(&answer, from);
            }
        }
    }
}

/// What RFC 1035, section 4.1, calls a name error: the question with the bits
/// of an answer and code 3, and without further sections.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let is_question = question.len() > 12 && question[2] & 0xF8 == 0 && question[4..6] == [0, 1];
    if !is_question {
        return None;
    }
    // The name: labels with their length before them, an empty one last.
    let mut end = 12;
    while *question.get(end)? != 0 {
        end += usize::from(question[end]) + 1;
    }
    // Type and class.
    end += 5;
    let mut answer = question.get(..end)?.to_vec();
    // It is an answer, and authoritative; recursion is wanted as before.
    answer[2] = 0x84 | (question[2] & 1);
    answer[3] = 0x83;
    answer[6..12].fill(0);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The question for the address of `a.b`, with an option after it.
    const QUESTION: &[u8] = b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x01a\x01b\0\0\x01\0\x01\0\0\x29";

    #[test]
    fn no_name_exists() {
        let answer = answer(QUESTION).unwrap();
        assert_eq!(
            answer,
            b"\x12\x34\x85\x83\0\x01\0\0\0\0\0\0\x01a\x01b\0\0\x01\0\x01"
        );
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let mut reply = QUESTION.to_vec();
        reply[2] |= 0x80;
        assert_eq!(answer(&reply), None);
        for length in 0..21 {
            assert_eq!(answer(&QUESTION[..length]), None, "{length}");
        }
    }
}
