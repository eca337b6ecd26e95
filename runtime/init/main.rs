//! `init`: the small static program that builds a sandbox and is the first process in it.
//!
//! Started by the owner (`runtime/src/native/`) as the *monitor*, with a socket as descriptor 0. It
//! carries out a list of steps: its own (cgroups), then, in a child in new namespaces, those of the
//! sandbox. That child stays as PID 1 and runs the task; the monitor waits for it and clears up
//! whatever becomes of the owner. Nothing is decided here: the steps were planned.
//!
//! Started by another engine it is PID 1 at once ([`engine`]), and carries out the steps that the
//! engine has left.
//!
//! No libc and no allocation, so that a start costs a few pages and no dynamic linking.
//! Deliberately absent: policy, parsing of anything that a task or a user wrote, waiting on locks.

#![no_std]
#![no_main]
#![no_builtins]

mod engine;
mod message;
mod monitor;
mod program;
mod protocol;
mod reset;
mod sandbox;
mod steps;
mod supervise;
mod sys;

use core::arch::{asm, naked_asm};
use core::panic::PanicInfo;

/// Where the kernel starts this program: nothing is taken from the stack but its alignment.
#[unsafe(no_mangle)]
#[unsafe(naked)]
extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {start}", start = sym start)
}

extern "C" fn start() -> ! {
    // A monitor is somebody's child. Whoever is first in a pid namespace was put there.
    if sys::getpid() == 1 { engine::run() } else { monitor::run() }
}

/// A broken invariant of this program: ends it, and with it the container.
#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    sys::exit(125)
}

/// Named by the standard library's `core`, which was built to unwind; nothing here does.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// What the compiler calls to copy.
///
/// # Safety
/// As `memcpy(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(target: *mut u8, source: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: both sides have `bytes` bytes, says the caller; the direction flag is clear by the
    // calling convention.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") target => _,
             inout("rsi") source => _, options(nostack, preserves_flags))
    };
    target
}

/// What the compiler calls to move.
///
/// # Safety
/// As `memmove(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(target: *mut u8, source: *const u8, bytes: usize) -> *mut u8 {
    if (target as usize) < source as usize {
        // SAFETY: upwards, each byte is read before it is overwritten.
        return unsafe { memcpy(target, source, bytes) };
    }
    for at in (0..bytes).rev() {
        // SAFETY: downwards, each byte is read before it is overwritten; both sides have `bytes`.
        unsafe { *target.add(at) = *source.add(at) };
    }
    target
}

/// What the compiler calls to fill.
///
/// # Safety
/// As `memset(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(target: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the target has `bytes` bytes, says the caller; the direction flag is clear by the
    // calling convention.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") target => _,
             in("al") byte as u8, options(nostack, preserves_flags))
    };
    target
}

/// What the compiler calls to compare.
///
/// # Safety
/// As `memcmp(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    for at in 0..bytes {
        // SAFETY: both sides have `bytes` bytes, says the caller.
        let (a, b) = unsafe { (*left.add(at), *right.add(at)) };
        if a != b {
            return a as i32 - b as i32;
        }
    }
    0
}

/// What the compiler calls to compare for equality.
///
/// # Safety
/// As `memcmp(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, bytes) }
}

/// What the compiler calls to measure a terminated string.
///
/// # Safety
/// As `strlen(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut bytes = 0;
    // SAFETY: `text` is terminated, says the caller.
    while unsafe { *text.add(bytes) } != 0 {
        bytes += 1;
    }
    bytes
}
