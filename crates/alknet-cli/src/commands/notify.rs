//! Tells a service manager how the node is: `sd_notify(3)`.
//!
//! A datagram to the socket that `NOTIFY_SOCKET` names, as systemd hands it to
//! a service of `Type=notify`.

use std::{
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The node serves; `status` is shown to whoever asks for the service.
pub(crate) fn ready(status: &str) {
    // A line each: what is told must not look like another field.
    let status = status.replace('\n', " ");
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// The node is about to end, in order.
pub(crate) fn stopping() {
    tell("STOPPING=1\nSTATUS=calls finish");
}

fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "the service manager was not told how the node is");
    }
}

/// An absolute path, or a name behind `@` in the abstract namespace (unix(7)).
fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let sender = UnixDatagram::unbound()?;
    // Nobody waits for a manager that does not read.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn received(listener: &UnixDatagram, socket: &OsStr) -> String {
        listener
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        send(socket, "READY=1").unwrap();
        let mut text = [0; 64];
        let len = listener.recv(&mut text).unwrap();
        String::from_utf8(text[..len].into()).unwrap()
    }

    #[test]
    fn both_kinds_of_sockets_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        assert_eq!(received(&listener, path.as_os_str()), "READY=1");

        let name = format!("alknet-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let socket = format!("@{name}");
        assert_eq!(received(&listener, OsStr::new(&socket)), "READY=1");
    }

    #[test]
    fn what_is_no_socket_is_an_error_and_no_panic() {
        for socket in ["", "relative", "@", "/nowhere/at/all"] {
            assert!(send(OsStr::new(socket), "READY=1").is_err() || socket == "@");
        }
    }
}
