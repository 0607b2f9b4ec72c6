//! What may happen to a network while something runs over it.

use super::{ScenarioError, stage::Stage, workload::Workload};
use std::{
    fmt, thread,
    time::{Duration, Instant},
};

/// What happens while the workloads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// All relays are killed, and come back after this time.
    RelaysRestart(Duration),
    /// The relay that the link uses, or would use, is killed for good.
    RelayDies,
    /// The laptop's cable is out for this time.
    LinkFlap(Duration),
    /// Packets beyond the laptop's router vanish for this time.
    Outage(Duration),
    /// The laptop's router forgets its mappings, and makes new ones.
    Rebind,
    /// Nothing is sent by anybody for this time, then all at once.
    Idle(Duration),
    /// The laptop's router lets no UDP through any more.
    UdpBlocked,
    /// The laptop's router lets UDP through again.
    UdpAllowed,
    /// The laptop loses IPv4 and gets IPv6.
    Ipv4ToIpv6,
    /// The laptop's clock is set right.
    ClockSetRight,
    /// So many of 100 packets of the laptop vanish, each way.
    Loss(u32),
    /// The laptop's packets take so much longer, each way.
    Delay(Duration),
    /// The laptop's link carries so many Mbit/s.
    Rate(u32),
    /// Larger packets than this no longer pass the laptop's router.
    Mtu(u32),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RelaysRestart(time) => write!(f, "relay down for {} s", time.as_secs()),
            Self::RelayDies => write!(f, "the relay in use dies"),
            Self::LinkFlap(time) => write!(f, "link down for {} s", time.as_secs()),
            Self::Outage(time) => write!(f, "silence for {} s", time.as_secs()),
            Self::Rebind => write!(f, "NAT rebinding"),
            Self::Idle(time) => write!(f, "nothing sent for {} s", time.as_secs()),
            Self::UdpBlocked => write!(f, "UDP becomes blocked"),
            Self::UdpAllowed => write!(f, "UDP becomes allowed"),
            Self::Ipv4ToIpv6 => write!(f, "IPv4 to IPv6"),
            Self::ClockSetRight => write!(f, "clock set right"),
            Self::Loss(percent) => write!(f, "{percent} % loss each way"),
            Self::Delay(time) => write!(f, "{} ms delay each way", time.as_millis()),
            Self::Rate(mbit) => write!(f, "{mbit} Mbit/s"),
            Self::Mtu(bytes) => write!(f, "MTU {bytes}"),
        }
    }
}

/// When a change began and when it was over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) began: Instant,
    pub(super) over: Instant,
}

impl Change {
    /// Makes it happen, and waits until it is over.
    pub(super) fn happen(
        self,
        stage: &mut Stage,
        workloads: &[Workload],
    ) -> Result<Changed, ScenarioError> {
        let began = Instant::now();
        match self {
            Self::RelaysRestart(time) => {
                stage.kill_relays();
                thread::sleep(time);
                stage.start_relays()?;
            }
            Self::RelayDies => stage.kill_relay_in_use()?,
            Self::LinkFlap(time) => {
                stage.laptop.link_down()?;
                thread::sleep(time);
                stage.laptop.link_up()?;
            }
            Self::Outage(time) => {
                stage.laptop.outage()?;
                thread::sleep(time);
                stage.laptop.restore()?;
            }
            Self::Rebind => stage.laptop.rebind()?,
            Self::Idle(time) => {
                for workload in workloads {
                    workload.pause(true)?;
                }
                thread::sleep(time);
                for workload in workloads {
                    workload.pause(false)?;
                }
            }
            Self::UdpBlocked => stage.laptop.block_udp()?,
            Self::UdpAllowed => stage.laptop.allow_udp()?,
            Self::Ipv4ToIpv6 => {
                stage.laptop.lose_ipv4()?;
                stage.laptop.gain_ipv6()?;
            }
            Self::ClockSetRight => stage.set_clock(0)?,
            Self::Loss(percent) => stage.laptop.loss(percent)?,
            Self::Delay(time) => stage.laptop.delay(time)?,
            Self::Rate(mbit) => stage.laptop.rate(&format!("{mbit}mbit"))?,
            Self::Mtu(bytes) => stage.laptop.mtu(bytes)?,
        }
        Ok(Changed {
            began,
            over: Instant::now(),
        })
    }

    /// Whether nobody sends anything meanwhile, so that a long time without
    /// answers is no gap.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Self::Idle(_))
    }
}
