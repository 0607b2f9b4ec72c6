//! Names to addresses, addresses to connections. Vetting stands between the
//! two, so they are apart; tests put others in their place.

use futures::future::BoxFuture;
use std::{future::Future, io, net::SocketAddr, time::Duration};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// Names that are looked up at a time: each takes a thread for as long as the
/// system's resolver likes.
const LOOKUPS_MAX: usize = 32;
/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// Resolves names.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of a name, the preferred one first. Asked once for each
    /// connection.
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Connects to addresses.
pub trait Connect: Send + Sync + 'static {
    /// Connects. Only addresses that passed the vetting come here.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// The system's resolver: its hosts file, its search domains, its servers.
pub(super) struct SystemResolver(Semaphore);

impl Default for SystemResolver {
    fn default() -> Self {
        Self(Semaphore::new(LOOKUPS_MAX))
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        name: &'a str,
        port: u16,
    ) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let _place = self.0.acquire().await.map_err(io::Error::other)?;
            Ok(tokio::net::lookup_host((name, port)).await?.collect())
        })
    }
}

pub(super) struct SystemConnector;

impl Connect for SystemConnector {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

/// Families in turn, each once, in the order of the resolver (RFC 8305
/// section 4), with the port that was asked for.
pub(super) fn in_turn(resolved: Vec<SocketAddr>, port: u16) -> Vec<SocketAddr> {
    let mut each: Vec<SocketAddr> = Vec::new();
    for mut address in resolved {
        address.set_port(port);
        if !each.contains(&address) && each.len() < ADDRESSES_MAX {
            each.push(address);
        }
    }
    let first_is_v6 = each.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = each
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => return ordered,
            (one, other) => ordered.extend(one.into_iter().chain(other)),
        }
    }
}

/// Connects to the first address that answers, each getting its share of the
/// time that is left.
pub(super) async fn connect_first<T, F>(
    addresses: &[SocketAddr],
    until: Instant,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(T, SocketAddr), io::Error>
where
    F: Future<Output = io::Result<T>>,
{
    let mut worst: Option<io::Error> = None;
    for (at, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let others = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share: Duration = left / others;
        let connected = timeout_at(Instant::now() + share, connect(*address)).await;
        let failed = match connected {
            Ok(Ok(stream)) => return Ok((stream, *address)),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        // Somebody who refuses says more than nobody who answers.
        let is_first = worst.is_none();
        if is_first || failed.kind() == io::ErrorKind::ConnectionRefused {
            worst = Some(failed);
        }
    }
    Err(worst.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_no_address_comes_twice() {
        let resolved = addresses(&[
            "1.1.1.1:9",
            "1.1.1.1:8",
            "1.1.1.2:9",
            "[2::1]:9",
            "[2::2]:9",
        ]);
        let want = addresses(&["1.1.1.1:80", "[2::1]:80", "1.1.1.2:80", "[2::2]:80"]);
        assert_eq!(in_turn(resolved, 80), want);
        assert!(in_turn(Vec::new(), 80).is_empty());
    }

    #[test]
    fn sixteen_addresses_of_a_name_are_looked_at() {
        let many = |count: u8| (1..=count).map(|n| ([1, 1, 1, n], 80).into()).collect();
        assert_eq!(in_turn(many(16), 80).len(), 16);
        assert_eq!(in_turn(many(17), 80), many(16));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_never_answers_leaves_time_for_the_others() {
        let all = addresses(&["1.1.1.1:9", "1.1.1.2:9", "1.1.1.3:9"]);
        let connect = |address: SocketAddr| async move {
            match address.to_string().as_str() {
                "1.1.1.1:9" => std::future::pending().await,
                "1.1.1.2:9" => Err(io::ErrorKind::ConnectionRefused.into()),
                other => Ok(other.to_owned()),
            }
        };
        let until = Instant::now() + Duration::from_secs(9);
        let (who, address) = connect_first(&all, until, connect).await.unwrap();
        assert_eq!((who.as_str(), address), ("1.1.1.3:9", all[2]));
        assert_eq!(until - Instant::now(), Duration::from_secs(6));
        let error = connect_first(&all[..2], until, connect).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
