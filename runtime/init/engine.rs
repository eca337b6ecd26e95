//! PID 1 of a container that another engine has made, with all that needs privilege done.
//!
//! The engine has bound the owner's socket into the container. The owner says which steps are left,
//! and from there on this is the same init as everyone's.

use crate::message::Message;
use crate::monitor::Start;
use crate::protocol::{CONTROL_PATH, DESCRIPTORS_MAX, START};
use crate::{sandbox, sys};

pub fn run() -> ! {
    sys::setsid();
    sys::block_signals(true);
    let Some(start) = receive_start() else { sys::exit(1) };
    sandbox::build(&start, 0)
}

fn receive_start() -> Option<Start> {
    let control = sys::connect(CONTROL_PATH).ok()?;
    let message = Message::receive(control)?;
    if message.kind != START || message.fd_count != 1 {
        return None;
    }
    let steps = sys::map(message.fds[0], message.numbers[0] as usize).ok()?;
    let mut fds = [-1; DESCRIPTORS_MAX];
    fds[0] = control;
    Some(Start { steps, fds, mapped: [-1; 2] })
}
