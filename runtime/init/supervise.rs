//! PID 1: starts the task when told, forwards signals, reaps, reports, ends everything.

use core::ffi::CStr;

use crate::message::{Message, send, send_with};
use crate::protocol::*;
use crate::reset::{self, Before};
use crate::{program, sys};

/// Runs until the control socket ends: the end of it is the end of the owner, and of everything.
pub fn run(control: i32) -> ! {
    // Blocked since the monitor; a task gets them unblocked.
    let Ok(children) = sys::child_signals() else { sys::exit(1) };
    let mut task = None;
    let mut last = false;
    let mut before = None;
    loop {
        let mut fds = [
            sys::Poll { fd: control, events: sys::POLLIN, happened: 0 },
            sys::Poll { fd: children, events: sys::POLLIN, happened: 0 },
        ];
        let _ = sys::poll(&mut fds, -1);
        if fds[1].happened != 0 {
            let _ = sys::read(children, &mut [0; 128]);
            let running = task.is_some();
            task = reap(control, task);
            if last && running && task.is_none() {
                sys::exit(0);
            }
        }
        if fds[0].happened == 0 {
            continue;
        }
        match Message::receive(control) {
            Some(message) if matches!(message.kind, RUN | RUN_LAST) && task.is_none() => {
                last = message.kind == RUN_LAST;
                before = before.or_else(|| (!last).then(Before::look));
                task = program::start(control, &message);
            }
            Some(message) if message.kind == SIGNAL => {
                if let Some(pid) = task {
                    let _ = sys::kill(-pid, message.numbers[0] as i32);
                }
            }
            Some(message) if message.kind == FETCH => fetch(control, &message),
            Some(message) if message.kind == RESET => {
                let template = task.unwrap_or(0);
                // Of a container in which nothing has run nothing is known either.
                let left = before.map_or(LEFT_FILES, |before| {
                    reset::reset(template, &before, || task = reap(control, task))
                });
                send(control, RESET_DONE, [left, 0, 0]);
            }
            _ => sys::exit(0),
        }
    }
}

/// Reaps all that have ended. When the task itself has, ends what it left, so that its usage is
/// whole and its files are final, and reports.
fn reap(control: i32, task: Option<i32>) -> Option<i32> {
    let mut status = None;
    while let Ok(Some((pid, ended))) = sys::wait(-1, false) {
        if Some(pid) == task {
            status = Some(ended);
        }
    }
    let Some(status) = status else { return task };
    let _ = sys::kill(-1, sys::SIGKILL);
    while sys::wait(-1, true) != Err(sys::ECHILD) {}
    let (cpu_us, largest_kib) = sys::children_usage();
    send(control, EXITED, [status as u32 as u64, cpu_us, largest_kib]);
    None
}

/// Opens a file of `/task` for the owner, with the task's own rights and through no link.
fn fetch(control: i32, message: &Message) {
    let name = CStr::from_bytes_until_nul(&message.text).unwrap_or(c"");
    let resolve = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS;
    let opened = sys::open(c"/task", sys::O_PATH | sys::O_DIRECTORY).and_then(|task| {
        let flags = sys::O_NOFOLLOW | sys::O_NONBLOCK | sys::O_NOCTTY;
        let file = sys::open_at(task, name, flags, 0, resolve);
        sys::close(task);
        file
    });
    match opened {
        Ok(fd) => {
            send_with(control, FILE, [0; 3], &[], Some(fd));
            sys::close(fd);
        }
        Err(errno) => send(control, FILE, [errno as u64, 0, 0]),
    }
}
