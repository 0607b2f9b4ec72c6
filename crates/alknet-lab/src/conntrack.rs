//! Makes a router forget its conversations.

use crate::{LabError, netns::Namespace};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
        socket_with,
    },
};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = (1 << 8) | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 0x1 | 0x4;
/// `NLMSG_ERROR`, which also says that all went well.
const ANSWER: u16 = 2;

/// Deletes all entries of connection tracking in a namespace: what
/// `conntrack -F` does (`linux/netfilter/nfnetlink_conntrack.h`).
pub(crate) fn flush(namespace: &Namespace) -> Result<(), LabError> {
    namespace
        .enter(delete_all)?
        .map_err(|source| namespace.io("forget its conversations", source.into()))
}

/// In the namespace of this thread.
fn delete_all() -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    // `struct nlmsghdr`: length, type, flags, sequence, sender; then `struct
    // nfgenmsg`: any family, version 0, resource 0. No attribute means all.
    let mut message = Vec::with_capacity(20);
    message.extend_from_slice(&20_u32.to_ne_bytes());
    message.extend_from_slice(&DELETE.to_ne_bytes());
    message.extend_from_slice(&FLAGS.to_ne_bytes());
    message.extend_from_slice(&[0; 12]);
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    sendto(&socket, &message, SendFlags::empty(), &kernel)?;
    let mut answer = [0; 64];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let word = |at: usize| {
        answer
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
    };
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    match word(16).map(i32::from_ne_bytes) {
        Some(0) if length >= 20 && kind == ANSWER => Ok(()),
        Some(code) if length >= 20 && kind == ANSWER => Err(Errno::from_raw_os_error(-code)),
        _ => Err(Errno::PROTO),
    }
}
