//! What the network between two machines really does.
//!
//! An impairment that was accepted is not an impairment that happens: kernels
//! without `netem`, for one, let tools report success and delay nothing. A test
//! that rests on an impairment measures it here first.
//!
//! In all of them `from` speaks first and `to` is reachable from it: a public
//! [`Host`], say, from behind a NAT. *Up* is from `from` to `to`.

use crate::{Host, LabError};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// What IPv4 and UDP add to a datagram.
const HEADERS_BYTES: u32 = 28;

/// A measure of each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Each<T> {
    /// From the one who speaks first.
    pub up: T,
    /// To it.
    pub down: T,
}

/// The time of a UDP round trip: the median of 15.
///
/// # Errors
///
/// [`LabError::Silent`] if nothing arrives within 3 s.
pub fn round_trip(from: &Host, to: &Host) -> Result<Duration, LabError> {
    let pair = Pair::open(from, to)?;
    pair.meet()?;
    let mut times = Vec::new();
    for _ in 0..60 {
        let started = Instant::now();
        pair.up(b"ping")?;
        if pair.arrives_up(Duration::from_secs(1)).is_none() {
            continue;
        }
        pair.down(b"pong")?;
        if pair.arrives_down(Duration::from_secs(1)).is_none() {
            continue;
        }
        times.push(started.elapsed());
        if times.len() == 15 {
            times.sort();
            return Ok(times[7]);
        }
    }
    Err(silent(from, to))
}

/// Which share of this many datagrams is lost.
///
/// # Errors
///
/// [`LabError::Silent`] if nothing at all arrives.
pub fn loss(from: &Host, to: &Host, datagrams: u32) -> Result<Each<f64>, LabError> {
    let pair = Pair::open(from, to)?;
    pair.meet()?;
    let share = |arrived: u32| 1.0 - f64::from(arrived) / f64::from(datagrams);
    let up = pair.count(datagrams, Pair::up, Pair::arrives_up)?;
    let down = pair.count(datagrams, Pair::down, Pair::arrives_down)?;
    Ok(Each {
        up: share(up),
        down: share(down),
    })
}

/// Bits a second that one TCP connection carries, each way for this long.
///
/// # Errors
///
/// [`LabError::Io`] if there is no connection.
pub fn throughput(from: &Host, to: &Host, time: Duration) -> Result<Each<u64>, LabError> {
    let failed = |source| from.own_namespace().io("measure the throughput", source);
    let listener = to
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?
        .map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let connect = || -> io::Result<(TcpStream, TcpStream)> {
        let address = SocketAddr::from((to.v4(), port));
        let near = from
            .enter(|| TcpStream::connect_timeout(&address, PATIENCE))
            .map_err(io::Error::other)??;
        Ok((near, listener.accept()?.0))
    };
    let (near, far) = connect().map_err(failed)?;
    let up = stream(&near, &far, time).map_err(failed)?;
    let (near, far) = connect().map_err(failed)?;
    let down = stream(&far, &near, time).map_err(failed)?;
    Ok(Each { up, down })
}

/// The largest UDP packet from 1280 to 1500 bytes, with the IP header, that
/// passes whole.
///
/// # Errors
///
/// [`LabError::Silent`] if not even the smallest does.
pub fn path_mtu(from: &Host, to: &Host) -> Result<Each<u32>, LabError> {
    let pair = Pair::open(from, to)?;
    let failed =
        |source: rustix::io::Errno| from.own_namespace().io("forbid to cut", source.into());
    for socket in [&pair.near, &pair.far] {
        // Whatever the kernel has learnt of the way is not asked.
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE).map_err(failed)?;
    }
    let wait = pair.meet()? * 4 + Duration::from_millis(100);
    let up = largest(|bytes| {
        // The own interface may refuse: that is an answer too.
        pair.up(&vec![0; bytes]).is_ok() && pair.arrives_up(wait) == Some(bytes)
    });
    let down = largest(|bytes| {
        pair.down(&vec![0; bytes]).is_ok() && pair.arrives_down(wait) == Some(bytes)
    });
    match (up, down) {
        (Some(up), Some(down)) => Ok(Each { up, down }),
        _ => Err(silent(from, to)),
    }
}

/// From where one socket of `from` is seen by each of these machines: equal
/// behind a cone, different behind a symmetric NAT.
///
/// # Errors
///
/// [`LabError::Silent`] if nothing arrives within 3 s.
pub fn mapping(from: &Host, to: &[&Host]) -> Result<Vec<SocketAddr>, LabError> {
    let near = udp(from)?;
    to.iter()
        .map(|to| {
            let far = udp(to)?;
            first_contact(from, &near, to, &far)
        })
        .collect()
}

/// Whether a datagram from `stranger` gets in at the address from which
/// `friend` has been spoken to.
///
/// # Errors
///
/// [`LabError::Silent`] if `friend` hears nothing within 3 s.
pub fn lets_in(from: &Host, friend: &Host, stranger: &Host) -> Result<bool, LabError> {
    let pair = Pair::open(from, friend)?;
    let wait = pair.meet()? * 4 + Duration::from_millis(100);
    let other = udp(stranger)?;
    let seen = pair.seen.get().ok_or_else(|| silent(from, friend))?;
    let sent = other.send_to(b"knock", seen);
    sent.map_err(|source| stranger.own_namespace().io("send", source))?;
    Ok(pair.arrives_down(wait).is_some())
}

/// Whether an answer still gets in after both have spoken and then kept silent
/// for this long.
///
/// # Errors
///
/// [`LabError::Silent`] if nothing arrives within 3 s at first.
pub fn is_open_after(from: &Host, to: &Host, silence: Duration) -> Result<bool, LabError> {
    let pair = Pair::open(from, to)?;
    let wait = pair.meet()? * 4 + Duration::from_millis(100);
    thread::sleep(silence);
    pair.down(b"still there?")?;
    Ok(pair.arrives_down(wait).is_some())
}

/// Whether UDP passes both ways.
///
/// # Errors
///
/// [`LabError::Io`] if there is no socket to be had.
pub fn udp_passes(from: &Host, to: &Host) -> Result<bool, LabError> {
    let pair = Pair::open(from, to)?;
    match pair.meet_within(Duration::from_secs(1)) {
        Ok(_) => Ok(true),
        Err(LabError::Silent { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a TCP connection can be made.
///
/// # Errors
///
/// [`LabError::Io`] if there is no socket to be had.
pub fn tcp_passes(from: &Host, to: &Host) -> Result<bool, LabError> {
    let failed = |source| to.own_namespace().io("listen", source);
    let listener = to
        .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?
        .map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let address = SocketAddr::from((to.v4(), port));
    from.enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

/// A socket of each, which one thread uses in turn.
struct Pair<'a> {
    from: &'a Host,
    to: &'a Host,
    near: UdpSocket,
    far: UdpSocket,
    /// From where `near` was seen last.
    seen: std::cell::Cell<Option<SocketAddr>>,
    /// Counts what was sent to meet.
    at: SocketAddr,
}

impl<'a> Pair<'a> {
    fn open(from: &'a Host, to: &'a Host) -> Result<Self, LabError> {
        let (near, far) = (udp(from)?, udp(to)?);
        let at = address_of(to, &far)?;
        Ok(Self {
            from,
            to,
            near,
            far,
            seen: std::cell::Cell::new(None),
            at,
        })
    }

    /// Speaks once each way; how long it took.
    fn meet(&self) -> Result<Duration, LabError> {
        self.meet_within(PATIENCE)
    }

    fn meet_within(&self, patience: Duration) -> Result<Duration, LabError> {
        let begun = Instant::now();
        let mut wait = Duration::from_millis(100);
        while begun.elapsed() < patience {
            let started = Instant::now();
            self.up(b"hello")?;
            if self.arrives_up(wait).is_some() {
                self.down(b"hello")?;
                if self.arrives_down(wait).is_some() {
                    return Ok(started.elapsed());
                }
            }
            // Lost, or far away.
            wait *= 2;
        }
        Err(silent(self.from, self.to))
    }

    fn up(&self, bytes: &[u8]) -> Result<(), LabError> {
        let sent = self.near.send_to(bytes, self.at);
        sent.map(drop)
            .map_err(|source| self.from.own_namespace().io("send", source))
    }

    /// To where `near` was seen last.
    fn down(&self, bytes: &[u8]) -> Result<(), LabError> {
        let seen = self.seen.get().ok_or_else(|| silent(self.from, self.to))?;
        let sent = self.far.send_to(bytes, seen);
        sent.map(drop)
            .map_err(|source| self.to.own_namespace().io("send", source))
    }

    fn arrives_up(&self, wait: Duration) -> Option<usize> {
        let (length, from) = receive(&self.far, wait)?;
        self.seen.set(Some(from));
        Some(length)
    }

    fn arrives_down(&self, wait: Duration) -> Option<usize> {
        receive(&self.near, wait).map(|(length, _)| length)
    }

    /// Sends datagrams one way, a few at a time; how many arrive.
    fn count(
        &self,
        datagrams: u32,
        send: impl Fn(&Self, &[u8]) -> Result<(), LabError>,
        arrives: impl Fn(&Self, Duration) -> Option<usize>,
    ) -> Result<u32, LabError> {
        let mut arrived = 0;
        for sent in 0..datagrams {
            send(self, &[0; 64])?;
            // No queue of the way overflows, and neither does the socket's.
            if sent % 16 == 15 {
                thread::sleep(Duration::from_millis(1));
                while arrives(self, Duration::ZERO).is_some() {
                    arrived += 1;
                }
            }
        }
        while arrives(self, Duration::from_millis(500)).is_some() {
            arrived += 1;
        }
        Ok(arrived)
    }
}

fn udp(host: &Host) -> Result<UdpSocket, LabError> {
    host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?
        .map_err(|source| host.own_namespace().io("open a socket", source))
}

fn address_of(host: &Host, socket: &UdpSocket) -> Result<SocketAddr, LabError> {
    let local = socket.local_addr();
    let local = local.map_err(|source| host.own_namespace().io("read an address", source))?;
    Ok((host.v4(), local.port()).into())
}

fn first_contact(
    from: &Host,
    near: &UdpSocket,
    to: &Host,
    far: &UdpSocket,
) -> Result<SocketAddr, LabError> {
    let at = address_of(to, far)?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        near.send_to(b"hello", at)
            .map_err(|source| from.own_namespace().io("send", source))?;
        if let Some((_, seen)) = receive(far, Duration::from_millis(500)) {
            return Ok(seen);
        }
    }
    Err(silent(from, to))
}

fn silent(from: &Host, to: &Host) -> LabError {
    LabError::Silent {
        from: from.name().to_owned(),
        to: to.name().to_owned(),
    }
}

/// The next datagram within this time; none is lost of the socket's errors,
/// which tell of earlier ones.
fn receive(socket: &UdpSocket, wait: Duration) -> Option<(usize, SocketAddr)> {
    let mut buffer = [0; 2048];
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        let set = if left.is_zero() {
            socket.set_nonblocking(true)
        } else {
            socket
                .set_nonblocking(false)
                .and_then(|()| socket.set_read_timeout(Some(left)))
        };
        set.ok()?;
        match socket.recv_from(&mut buffer) {
            Ok(received) => return Some(received),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return None;
            }
            // An ICMP message of an earlier datagram.
            Err(_) => {}
        }
    }
}

/// The largest packet that passes; what is lost is tried thrice.
fn largest(passes: impl Fn(usize) -> bool) -> Option<u32> {
    let passes = |packet: u32| {
        let bytes = usize::try_from(packet - HEADERS_BYTES).unwrap_or_default();
        (0..3).any(|_| passes(bytes))
    };
    let (mut good, mut bad) = (1280, 1501);
    if !passes(good) {
        return None;
    }
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        if passes(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Some(good)
}

/// Bits a second that arrive while one end writes for this long.
fn stream(mut writer: &TcpStream, mut reader: &TcpStream, time: Duration) -> io::Result<u64> {
    let deadline = Instant::now() + time;
    thread::scope(|scope| {
        scope.spawn(move || {
            let chunk = [0; 64 * 1024];
            while Instant::now() < deadline && writer.write_all(&chunk).is_ok() {}
            // The reader then sees the end; if not, its own time ends it.
            let _ = writer.shutdown(Shutdown::Write);
        });
        reader.set_read_timeout(Some(time + PATIENCE))?;
        let mut buffer = vec![0; 256 * 1024];
        let mut bytes = reader.read(&mut buffer)?;
        let started = Instant::now();
        // What came with the first bytes came in no time.
        let first = bytes;
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            bytes += read;
        }
        let seconds = started.elapsed().as_secs_f64();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        Ok(((bytes - first) as f64 * 8.0 / seconds) as u64)
    })
}
