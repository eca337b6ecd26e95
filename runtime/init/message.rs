//! Messages between owner, monitor and init: a kind, numbers, text, descriptors.

use crate::protocol::{DESCRIPTORS_MAX, MESSAGE_BYTES, MESSAGE_WORDS};
use crate::sys;

/// A message that was received. Text is a file name at most.
pub struct Message {
    pub kind: u64,
    pub numbers: [u64; MESSAGE_WORDS - 1],
    pub text: [u8; 257],
    pub fds: [i32; DESCRIPTORS_MAX],
    pub fd_count: usize,
}

impl Message {
    /// Waits for the next message. `None`: the other side is gone.
    pub fn receive(socket: i32) -> Option<Message> {
        let mut bytes = [0_u8; MESSAGE_BYTES + 256];
        let mut fds = [-1; DESCRIPTORS_MAX];
        let (length, fd_count) = loop {
            match sys::receive(socket, &mut bytes, &mut fds) {
                Err(sys::EINTR) => {}
                Err(_) | Ok((0, _)) => return None,
                Ok(received) => break received,
            }
        };
        let mut words = [0_u64; MESSAGE_WORDS];
        for (word, eight) in
            words.iter_mut().zip(bytes[..length.min(MESSAGE_BYTES)].chunks_exact(8))
        {
            *word = u64::from_le_bytes([
                eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7],
            ]);
        }
        let mut message = Message {
            kind: words[0],
            numbers: [0; MESSAGE_WORDS - 1],
            text: [0; 257],
            fds,
            fd_count,
        };
        message.numbers.copy_from_slice(&words[1..]);
        message.text[..256].copy_from_slice(&bytes[MESSAGE_BYTES..]);
        Some(message)
    }
}

/// Sends `kind` with up to three numbers. That the other side is gone is seen when it is listened
/// to.
pub fn send(socket: i32, kind: u64, numbers: [u64; 3]) {
    send_with(socket, kind, numbers, &[], None);
}

/// Sends `kind` with numbers, text, and a descriptor.
pub fn send_with(socket: i32, kind: u64, numbers: [u64; 3], text: &[u8], fd: Option<i32>) {
    let mut bytes = [0_u8; MESSAGE_BYTES];
    let words = [kind, numbers[0], numbers[1], numbers[2]];
    for (eight, word) in bytes.chunks_exact_mut(8).zip(words) {
        eight.copy_from_slice(&word.to_le_bytes());
    }
    while sys::send(socket, [&bytes, text], fd) == Err(sys::EINTR) {}
}
