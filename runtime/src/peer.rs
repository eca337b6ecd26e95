//! Who is at the other end of a Unix socket, as the kernel says.

#![allow(unsafe_code, reason = "no safe wrapper knows SO_PEERGROUPS")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The process that connected, as it was when it did (unix(7), `SO_PEERCRED`). A socket that it
/// passes on stays its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Its process id: a hint, as another process may have it by now.
    pub pid: i32,
}

/// Most supplementary groups of a process (`linux/limits.h`, `NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// Asks the kernel who connected `socket`.
///
/// # Errors
/// What the kernel says: `socket` is no connected Unix socket, or Linux is older than 4.13.
pub fn read_peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = rustix::net::sockopt::socket_peercred(&socket)?;
    let mut groups = read_groups(socket)?;
    groups.sort_unstable();
    groups.dedup();
    Ok(Peer {
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
        groups,
        pid: credentials.pid.as_raw_nonzero().get(),
    })
}

/// `SO_PEERGROUPS` (Linux 4.13, net/core/sock.c): the groups of the process that connected.
fn read_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let room = groups.len() * size_of::<u32>();
        let mut bytes = libc::socklen_t::try_from(room).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: `groups` has the `bytes` bytes of room that the kernel may write, and both live
        // until the call returns.
        let status = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = usize::try_from(bytes).unwrap_or(0) / size_of::<u32>();
        if status == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // ERANGE comes with the number of bytes that it takes.
        if error.raw_os_error() != Some(libc::ERANGE) || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count.max(groups.len() * 2), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_is_who_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = read_peer(&ours).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(peer.pid, rustix::process::getpid().as_raw_nonzero().get());
        let groups = rustix::process::getgroups().unwrap();
        let mut groups: Vec<u32> = groups.into_iter().map(rustix::process::Gid::as_raw).collect();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(peer.groups, groups);
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_peer(&file).is_err());
    }
}
