//! The line between a site, or a public host, and the internet.

use crate::{
    LabError,
    lab::{GATEWAY_V4, GATEWAY_V6},
    netns::Namespace,
    wire::Wire,
};
use std::{
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The mask of a MAC address that nobody sells: locally administered.
fn mac(kind: u8, index: u8) -> String {
    format!("02:00:5e:00:{kind:02x}:{index:02x}")
}

/// A device `line` of the internet, routed, and behind it a port to the far
/// end; both are bridged, so that a slow wire can be put between them without
/// the far end losing its carrier.
#[derive(Debug)]
pub(crate) struct Line {
    internet: Arc<Namespace>,
    index: u8,
    wire: Mutex<Option<Wire>>,
}

impl Line {
    /// Lays a line to a new device of `far`, which is down yet.
    pub(crate) fn lay(
        internet: &Arc<Namespace>,
        index: u8,
        far: &Namespace,
        device: &str,
    ) -> Result<Self, LabError> {
        let far = far.name();
        internet.ip(&format!(
            "link add line{index} type bridge mcast_snooping 0\n\
             link set line{index} address {mac} addrgenmode none\n\
             link add port{index} type veth peer name {device} netns {far}\n\
             link set port{index} master line{index} addrgenmode none\n\
             addr add {GATEWAY_V4}/32 dev line{index}\n\
             addr add {GATEWAY_V6}/64 dev line{index} nodad\n\
             link set port{index} up\n\
             link set line{index} up\n",
            mac = mac(0, index),
        ))?;
        Ok(Self {
            internet: Arc::clone(internet),
            index,
            wire: Mutex::new(None),
        })
    }

    /// Sends packets to these destinations down this line: prefixes, each
    /// perhaps followed by ` via ROUTER`.
    pub(crate) fn route(&self, destinations: &[String]) -> Result<(), LabError> {
        self.change_routes("replace", destinations)
    }

    /// Takes back what `route` did.
    pub(crate) fn unroute(&self, destinations: &[String]) -> Result<(), LabError> {
        self.change_routes("del", destinations)
    }

    fn change_routes(&self, act: &str, destinations: &[String]) -> Result<(), LabError> {
        let mut lines = String::new();
        for destination in destinations {
            let family = if destination.contains(':') { "-6 " } else { "" };
            let _ = writeln!(
                lines,
                "{family}route {act} {destination} dev line{}",
                self.index
            );
        }
        // `-6` is an option, which a batch does not read.
        let (six, four): (Vec<&str>, Vec<&str>) =
            lines.lines().partition(|line| line.starts_with("-6 "));
        let join = |lines: Vec<&str>| lines.join("\n").replace("-6 ", "") + "\n";
        self.internet.ip(&join(four))?;
        self.internet.ip(&join(six))
    }

    /// Puts the slow wire in, which takes no time yet, or takes it out.
    /// Whether that changed anything; the far end may be deaf for a moment.
    pub(crate) fn slow(&self, slow: bool) -> Result<bool, LabError> {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        if wire.is_some() == slow {
            return Ok(false);
        }
        let index = self.index;
        if slow {
            *wire = Some(self.join()?);
            self.internet
                .ip(&format!("link set port{index} master slow{index}\n"))?;
        } else {
            self.internet.ip(&format!(
                "link set port{index} master line{index}\n\
                 link del neartap{index}\nlink del fartap{index}\nlink del slow{index}\n"
            ))?;
            wire.take();
        }
        Ok(true)
    }

    /// What the slow wire takes from now on, if it is in.
    pub(crate) fn delay(&self, delay: Duration, jitter: Duration) {
        if let Some(wire) = &*self.wire.lock().unwrap_or_else(PoisonError::into_inner) {
            wire.set(delay, jitter);
        }
    }

    fn join(&self) -> Result<Wire, LabError> {
        let index = self.index;
        self.internet.ip(&format!(
            "tuntap add dev neartap{index} mode tap\n\
             tuntap add dev fartap{index} mode tap\n\
             link set neartap{index} master line{index} addrgenmode none\n\
             link add slow{index} type bridge mcast_snooping 0\n\
             link set slow{index} address {mac} addrgenmode none\n\
             link set fartap{index} master slow{index} addrgenmode none\n\
             link set neartap{index} up\nlink set fartap{index} up\nlink set slow{index} up\n",
            mac = mac(2, index),
        ))?;
        let ends = [format!("neartap{index}"), format!("fartap{index}")];
        Wire::join(&self.internet, [&ends[0], &ends[1]])
    }

    /// Takes the slow wire's thread away before the namespace goes.
    pub(crate) fn cut(&self) {
        self.wire
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Bounds what goes down the line to its far end.
    pub(crate) fn rate(&self, rate: Option<Rate>) -> Result<(), LabError> {
        set_rate(&self.internet, &format!("port{}", self.index), rate)
    }

    /// Bounds the size of packets that go down the line; what is larger is
    /// refused as a router does it.
    pub(crate) fn mtu(&self, mtu: u32) -> Result<(), LabError> {
        // The device with the addresses refuses; the port must not drop before.
        self.internet
            .ip(&format!("link set line{} mtu {mtu}\n", self.index))
    }

    /// Sends large packets of one sender down the line one by one, so that each
    /// can get lost by itself.
    pub(crate) fn segment(&self) -> Result<(), LabError> {
        self.internet
            .ip(&format!("link set port{} gso_max_segs 1\n", self.index))
    }
}

/// A rate in bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(u64);

impl Rate {
    /// Reads `50mbit`; the units are `kbit`, `mbit` and `gbit`, by 1000.
    pub(crate) fn parse(text: &str) -> Result<Self, LabError> {
        let wrong = || LabError::Value {
            what: "rate",
            value: text.to_owned(),
            reason: "is no number from 8kbit to 10gbit, as `50mbit`",
        };
        let units = [
            ("kbit", 1_000),
            ("mbit", 1_000_000),
            ("gbit", 1_000_000_000),
        ];
        let (number, unit) = units
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))
            .ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let bits = number.checked_mul(*unit).ok_or_else(wrong)?;
        if (8_000..=10_000_000_000).contains(&bits) {
            Ok(Self(bits))
        } else {
            Err(wrong())
        }
    }

    /// What the bucket holds: two packets at least, and what passes in 4 ms,
    /// for the kernel may look no more often.
    fn burst_bytes(self) -> u64 {
        (self.0 / 8 / 250).max(4_096)
    }
}

/// Sets or removes the bound of what leaves through a device. The queue before
/// it holds what passes in 50 ms.
pub(crate) fn set_rate(
    namespace: &Namespace,
    device: &str,
    rate: Option<Rate>,
) -> Result<(), LabError> {
    // Replacing a bound that is there, or removing none, is no error this way.
    let words = match rate {
        None => "qdisc replace dev DEVICE root noqueue\n".to_owned(),
        Some(rate) => format!(
            "qdisc replace dev DEVICE root tbf rate {}bit burst {} latency 50ms\n",
            rate.0,
            rate.burst_bytes()
        ),
    };
    let lines = words.replace("DEVICE", device);
    namespace.feed(&["tc", "-batch", "-"], &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_unit() {
        for (text, bits) in [
            ("8kbit", 8_000),
            ("50mbit", 50_000_000),
            ("10gbit", 10_000_000_000),
        ] {
            assert_eq!(Rate::parse(text).unwrap(), Rate(bits), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "mbit",
            "50",
            "7kbit",
            "11gbit",
            "-1mbit",
            "50 mbit",
            "99999999999gbit",
        ] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_bucket_holds_a_packet_at_the_lowest_rate() {
        assert!(Rate(8_000).burst_bytes() > 1_514);
        assert_eq!(Rate(1_000_000_000).burst_bytes(), 500_000);
    }
}
