//! A lab that stays while commands come and go.
//!
//! A process in the background keeps it, and listens on a socket whose name is
//! that of the lab.

use crate::Failure;
use alknet_lab::{Host, Lab, LabError, Nat, Site};
use clap::Args;
use std::{
    convert::Infallible,
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    process::{Command, Stdio},
    time::Duration,
};

/// What `set` changes.
pub(crate) const SETTINGS: &str = "\
Changes of a site:
  delay 50ms            each way; 0ms is none
  loss 10               of a hundred packets, each way; 0 is none
  rate 20mbit           each way; `none` ends it
  mtu 1300              from 1280 to 1500
  udp off|on            blocks all UDP at the router
  outage on|off         everything is lost beyond the router
  link down|up          the interface of the host itself
  ipv4 off|on           takes the family away, or gives it
  ipv6 on|off
  udp-timeout 20        seconds until the NAT forgets
  rebind                the NAT forgets at once, and maps to other ports
  renumber              another public address";

/// Which lab is meant.
#[derive(Args, Clone)]
struct Name {
    /// The name of the lab, if there is more than one
    #[arg(long, value_name = "NAME", default_value = "lab")]
    name: String,
}

#[derive(Args)]
pub(crate) struct Up {
    #[command(flatten)]
    name: Name,
    /// What is before the site `left`: open, firewall, cone, symmetric, carrier-grade
    #[arg(long, value_name = "NAT", default_value = "cone", value_parser = nat)]
    left: Nat,
    /// What is before the site `right`
    #[arg(long, value_name = "NAT", default_value = "cone", value_parser = nat)]
    right: Nat,
}

#[derive(Args)]
pub(crate) struct Enter {
    #[command(flatten)]
    name: Name,
    /// `left`, `right`, `relay`, `dns` or `sink`
    host: String,
    /// The command, with its words
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Set {
    #[command(flatten)]
    name: Name,
    /// `left` or `right`
    site: String,
    /// What to change
    what: String,
    /// To what
    value: Option<String>,
}

#[derive(Args)]
pub(crate) struct Down {
    #[command(flatten)]
    name: Name,
}

fn nat(text: &str) -> Result<Nat, String> {
    Nat::parse(text).ok_or_else(|| {
        let names = Nat::ALL.map(Nat::name).join(", ");
        format!("is none of {names}")
    })
}

/// Starts the process that keeps the lab, and says what there is.
pub(crate) fn up(up: &Up, out: &mut dyn Write) -> Result<(), Failure> {
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["hold", "--name", &up.name.name])
        .args(["--left", up.left.name(), "--right", up.right.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Ctrl-C in the terminal is not for it.
        .process_group(0)
        .spawn()?;
    let mut said = String::new();
    if let Some(mut stdout) = holder.stdout.take() {
        stdout.read_to_string(&mut said)?;
    }
    if let Some(reason) = said.strip_prefix("error ") {
        return Err(reason.trim_end().into());
    }
    if said.is_empty() {
        return Err("the process that keeps the lab has ended".into());
    }
    Ok(out.write_all(said.as_bytes())?)
}

/// Keeps a lab until it is told to end.
pub(crate) fn hold(up: &Up, out: &mut dyn Write) -> Result<(), Failure> {
    let begun = Kept::build(up).and_then(|kept| Ok((listen(&up.name.name)?, kept)));
    let (listener, kept) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            writeln!(out, "error {}", crate::chain(&*error))?;
            return Err(error);
        }
    };
    out.write_all(kept.describe(&up.name.name)?.as_bytes())?;
    out.flush()?;
    // Who waits for this to be read to its end goes on.
    rustix::stdio::dup2_stdout(std::fs::File::options().write(true).open("/dev/null")?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        let mut words = String::new();
        BufReader::new(&stream).read_line(&mut words)?;
        let words: Vec<&str> = words.split_whitespace().collect();
        if words == ["down"] {
            drop(kept);
            reply(&stream, "ok")?;
            return Ok(());
        }
        match kept.obey(&words) {
            Ok(said) => reply(&stream, &format!("ok {said}"))?,
            Err(error) => reply(&stream, &format!("error {}", crate::chain(&*error)))?,
        }
    }
    Ok(())
}

fn reply(mut stream: &UnixStream, text: &str) -> io::Result<()> {
    match stream.write_all(text.as_bytes()) {
        // Who asked has gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Becomes a command in a host.
pub(crate) fn enter(enter: &Enter) -> Result<Infallible, Failure> {
    let namespace = ask(&enter.name.name, &format!("where {}", enter.host))?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &namespace]);
    if enter.command.is_empty() {
        command.arg(std::env::var_os("SHELL").unwrap_or_else(|| "bash".into()));
    }
    let failed = command.args(&enter.command).exec();
    Err(format!("`ip netns exec`: {failed}").into())
}

/// Changes a site.
pub(crate) fn set(set: &Set) -> Result<(), Failure> {
    let value = set.value.as_deref().unwrap_or_default();
    ask(
        &set.name.name,
        &format!("set {} {} {value}", set.site, set.what),
    )?;
    Ok(())
}

/// Ends a lab.
pub(crate) fn down(down: &Down) -> Result<(), Failure> {
    ask(&down.name.name, "down")?;
    Ok(())
}

fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("alknet-lab.{name}"))
}

fn listen(name: &str) -> Result<UnixListener, Failure> {
    UnixListener::bind_addr(&address(name)?).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("lab `{name}` is up already").into(),
        _ => error.into(),
    })
}

/// Asks the process that keeps the lab.
fn ask(name: &str, words: &str) -> Result<String, Failure> {
    let mut stream =
        UnixStream::connect_addr(&address(name)?).map_err(|_| format!("lab `{name}` is not up"))?;
    writeln!(stream, "{words}")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    match said.split_once(' ') {
        Some(("error", reason)) => Err(reason.into()),
        Some(("ok", said)) => Ok(said.to_owned()),
        _ if said == "ok" => Ok(String::new()),
        _ => Err("the process that keeps the lab has ended".into()),
    }
}

/// A lab with two sites.
struct Kept {
    left: Site,
    right: Site,
    hosts: [Host; 3],
    // Last: what holds its sockets goes before it.
    _lab: Lab,
}

impl Kept {
    fn build(up: &Up) -> Result<Self, Failure> {
        let lab = Lab::new()?;
        Ok(Self {
            hosts: [lab.host("relay")?, lab.dns()?, lab.sink()?],
            left: lab.site("left", up.left)?,
            right: lab.site("right", up.right)?,
            _lab: lab,
        })
    }

    /// What there is, and how to get in.
    fn describe(&self, name: &str) -> Result<String, Failure> {
        let mut text = String::new();
        let sites = [&self.left, &self.right];
        for host in sites.map(Site::host).into_iter().chain(&self.hosts) {
            let behind = sites
                .into_iter()
                .find(|site| site.name() == host.name())
                .map(|site| format!("{}, seen as {}", site.nat().name(), site.public_v4()));
            writeln!(
                text,
                "{:<6} {:<14} {:<34} {}",
                host.name(),
                host.v4(),
                behind.unwrap_or_else(|| "public".into()),
                host.namespace()
            )?;
        }
        let name = match name {
            "lab" => String::new(),
            name => format!(" --name {name}"),
        };
        writeln!(
            text,
            "\nget in:    ./lab enter{name} left\nchange:    ./lab set{name} left delay 50ms\nremove:    ./lab down{name}"
        )?;
        Ok(text)
    }

    fn obey(&self, words: &[&str]) -> Result<String, Failure> {
        match words {
            ["where", host] => {
                let hosts = [self.left.host(), self.right.host()];
                let host = hosts
                    .into_iter()
                    .chain(&self.hosts)
                    .find(|found| found.name() == *host)
                    .ok_or_else(|| format!("no host `{host}`"))?;
                Ok(host.namespace().to_owned())
            }
            ["set", site, rest @ ..] => {
                let sites = [&self.left, &self.right];
                let site = sites
                    .into_iter()
                    .find(|found| found.name() == *site)
                    .ok_or_else(|| format!("no site `{site}`"))?;
                change(site, rest)?;
                Ok(String::new())
            }
            other => Err(format!("`{}` is no request", other.join(" ")).into()),
        }
    }
}

/// One change of [`SETTINGS`].
fn change(site: &Site, words: &[&str]) -> Result<(), Failure> {
    let done: Result<(), LabError> = match words {
        ["delay", time] => site.delay(milliseconds(time)?),
        ["loss", percent] => site.loss(percent.parse()?),
        ["rate", "none"] => site.unlimit(),
        ["rate", rate] => site.rate(rate),
        ["mtu", bytes] => site.mtu(bytes.parse()?),
        ["udp", "off"] => site.block_udp(),
        ["udp", "on"] => site.allow_udp(),
        ["outage", "on"] => site.outage(),
        ["outage", "off"] => site.restore(),
        ["link", "down"] => site.link_down(),
        ["link", "up"] => site.link_up(),
        ["ipv4", "on"] => site.gain_ipv4(),
        ["ipv4", "off"] => site.lose_ipv4(),
        ["ipv6", "on"] => site.gain_ipv6(),
        ["ipv6", "off"] => site.lose_ipv6(),
        ["udp-timeout", seconds] => site.udp_timeout(seconds.parse()?),
        ["rebind"] => site.rebind(),
        ["renumber"] => site.renumber(),
        other => {
            return Err(format!(
                "`{}` is no change: `./lab set --help` lists them",
                other.join(" ")
            )
            .into());
        }
    };
    Ok(done?)
}

fn milliseconds(text: &str) -> Result<Duration, Failure> {
    let number = text
        .strip_suffix("ms")
        .and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| format!("`{text}` is no time, as `50ms`"))?;
    Ok(Duration::from_millis(number))
}
