//! The effect: hands steps and descriptors to a new monitor, and talks to it and to its init.
//!
//! The monitor is a process of a small static program that this one carries in itself and starts
//! from a sealed memory file: nothing inside a sandbox can reach a file that runs outside.

use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::protocol as p;

/// The program `init`, built by `build.rs`.
pub(crate) static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// A message from the monitor or from init.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u64,
    pub(crate) numbers: [u64; p::MESSAGE_WORDS - 1],
    pub(crate) text: Vec<u8>,
    pub(crate) fd: Option<OwnedFd>,
}

/// The program as a sealed, executable memory file; made once.
fn program() -> io::Result<&'static OwnedFd> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC, Linux 6.3: asks for what older kernels always give.
    let with_exec = flags | MemfdFlags::from_bits_retain(0x10);
    let memory = rustix::fs::memfd_create("run-in-container-init", with_exec)
        .or_else(|_| rustix::fs::memfd_create("run-in-container-init", flags))?;
    File::from(memory.try_clone()?).write_all(INIT)?;
    seal(&memory)?;
    Ok(PROGRAM.get_or_init(|| memory))
}

fn seal(memory: &OwnedFd) -> io::Result<()> {
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    Ok(rustix::fs::fcntl_add_seals(memory, all)?)
}

/// Bytes as a memory file, to travel beside a message that they would not fit in.
pub(crate) fn as_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create("run-in-container", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// A pair of connected sockets that keep messages apart and end when either side does.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// A monitor: the process that outlives its owner for as long as it takes to clear up. Dropping it
/// ends its container and waits until nothing of it is left.
#[derive(Debug)]
pub(crate) struct Monitor {
    process: Child,
    /// Its end is the end of the container.
    channel: Option<OwnedFd>,
    /// What it is to remove. If it is killed, its owner does.
    cgroups: Vec<PathBuf>,
}

/// How long the processes of a container whose monitor was killed may take to be gone: the kernel
/// ends them at once, and on a busy machine that takes its time.
const ORPHANS_END_MAX: Duration = Duration::from_secs(20);

impl Monitor {
    /// Starts a monitor, which waits for steps.
    #[expect(clippy::disallowed_methods, reason = "this is the module that starts monitors")]
    pub(crate) fn spawn() -> io::Result<Monitor> {
        let (ours, theirs) = socket_pair()?;
        // Resolved in the child, which has a copy of every descriptor until it executes.
        let path = format!("/proc/self/fd/{}", program()?.as_raw_fd());
        let process = Command::new(path)
            .arg0("run-in-container-init")
            .env_clear()
            .stdout(Stdio::from(theirs.try_clone()?))
            .stderr(Stdio::from(theirs.try_clone()?))
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Monitor { process, channel: Some(ours), cgroups: Vec::new() })
    }

    /// The socket to it.
    pub(crate) fn channel(&self) -> &OwnedFd {
        self.channel.as_ref().expect("only `drop` takes it")
    }

    /// Hands it the steps, init's end of the control socket, and the descriptors that steps name.
    pub(crate) fn start(
        &self,
        steps: &[u8],
        control: OwnedFd,
        named: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let memory = as_memory(steps)?;
        let mut fds = vec![memory.as_fd(), control.as_fd()];
        fds.extend_from_slice(named);
        send(self.channel(), p::START, steps.len() as u64, &[], &fds)
    }

    /// Says which cgroup directories it is about to make.
    pub(crate) fn answers_for(&mut self, cgroups: Vec<PathBuf>) {
        self.cgroups = cgroups;
    }

    /// Has it end the container, clear up and end itself, and does not wait.
    pub(crate) fn end(&self) {
        // Fails only where it is at its end already.
        let _ = rustix::net::shutdown(self.channel(), rustix::net::Shutdown::Both);
    }

    /// A descriptor that is readable when it has ended.
    pub(crate) fn pidfd(&self) -> io::Result<OwnedFd> {
        let pid = rustix::process::Pid::from_child(&self.process);
        Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
    }

    /// Whether it has ended after it had cleared up, so that dropping it waits for nothing.
    pub(crate) fn has_cleared_up(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(status)) if status.success())
    }

    /// Sends it a message that is nothing but its kind.
    pub(crate) fn send(&self, kind: u64) -> io::Result<()> {
        send(self.channel(), kind, 0, &[], &[])
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.channel = None;
        // It is this process's child: nothing but it being reaped elsewhere can fail.
        let is_over = self.process.wait().is_ok_and(|status| status.success());
        if !is_over {
            remove_cgroups(&self.cgroups);
        }
    }
}

/// Removes what a monitor that was killed has left. The kernel ends its container with it, which
/// takes a moment.
fn remove_cgroups(cgroups: &[PathBuf]) {
    let since = Instant::now();
    for directory in cgroups {
        while let Err(error) = std::fs::remove_dir(directory)
            && error.kind() == io::ErrorKind::ResourceBusy
            && since.elapsed() < ORPHANS_END_MAX
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Sends a message with descriptors beside it.
pub(crate) fn send(
    socket: &OwnedFd,
    kind: u64,
    number: u64,
    text: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut bytes = [0; p::MESSAGE_BYTES];
    bytes[..8].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(p::DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let parts = [io::IoSlice::new(&bytes), io::IoSlice::new(text)];
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &parts, &mut beside, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Waits for a message. `None`: the other side is gone.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    receive_with(socket, RecvFlags::empty())
}

/// As [`receive`], and fails with [`io::ErrorKind::WouldBlock`] where there is nothing yet.
pub(crate) fn try_receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    receive_with(socket, RecvFlags::DONTWAIT)
}

fn receive_with(socket: &OwnedFd, flags: RecvFlags) -> io::Result<Option<Message>> {
    let length = find_message(socket, flags)?.min(p::MESSAGE_BYTES + p::TEXT_BYTES_MAX);
    if length < p::MESSAGE_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    hear_out(|| {
        let mut parts = [io::IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(socket, &mut parts, &mut beside, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let fd = beside.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None }
    });
    let text = bytes.split_off(p::MESSAGE_BYTES);
    let mut words = bytes.chunks_exact(8).map(|eight| {
        let mut word = [0; 8];
        word.copy_from_slice(eight);
        u64::from_le_bytes(word)
    });
    let kind = words.next().unwrap_or_default();
    let mut numbers = [0; p::MESSAGE_WORDS - 1];
    numbers.fill_with(|| words.next().unwrap_or_default());
    Ok(Some(Message { kind, numbers, text, fd }))
}

/// Finds out that there is a message, without taking it: its bytes. 0: the other side is gone.
///
/// Asked for first, because the longest message is a thousand times the usual one.
fn find_message(socket: &OwnedFd, flags: RecvFlags) -> io::Result<usize> {
    let flags = flags | RecvFlags::PEEK | RecvFlags::TRUNC;
    hear_out(|| rustix::net::recv(socket, &mut [0_u8; 0], flags).map(|(_, length)| length))
}

/// Receives past an interruption, and past `ECONNRESET`: it says, once and before what had been
/// sent, that the other side has ended without reading all that it was told (`unix_release_sock` of
/// Linux 6.1; unix(7) is silent).
fn hear_out<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            received => return Ok(received?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was said before an end is heard, also if the one who said it had not read everything.
    #[test]
    fn last_message_is_not_lost_with_what_its_sender_did_not_read() {
        let (ours, theirs) = socket_pair().unwrap();
        send(&ours, p::SIGNAL, 9, &[], &[]).unwrap();
        send(&theirs, p::EXITED, 7, &[], &[]).unwrap();
        drop(theirs);
        let message = receive(&ours).unwrap().expect("it was said");
        assert_eq!((message.kind, message.numbers[0]), (p::EXITED, 7));
        assert!(receive(&ours).unwrap().is_none());
    }
}
