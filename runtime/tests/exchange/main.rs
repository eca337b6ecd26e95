//! The owner's side of the wire, against the real worker and against forged ones.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole binary is tests"
)]

/// Both ends: a real `worker.py`, a forged worker, and the loop that a container would run.
mod ends;

/// What calls give back: results, exceptions, refusals.
mod calls;

/// Bits that change, streams that end, frames that come twice or in the wrong order.
mod damage;

/// Workers that lie, and workers that die.
mod hostile;
