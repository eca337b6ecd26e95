//! Bits that change, streams that end, frames that come twice or in the wrong order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use ric_runtime::{
    Answer, Exchange, ExchangeError, HEADER_BYTES, Kind, NO_TASK, Part, Side, TaskId, encode_frame,
};
use serde_json::{Value, json};

use crate::ends::{BOUNDS, Forged, Worker, call, drive, hello, result, task};

const COUNTER: &str =
    "count = 0\ndef f(x=None):\n    global count\n    count += 1\n    return count\n";

fn flip(frame: &[u8], bit: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[bit / 8] ^= 1 << (bit % 8);
    frame
}

/// Every bit of a result of 4 KiB, its metadata and header: found before anything is decoded, and
/// the same connection serves the next call, except where nobody knows where the next frame begins.
#[test]
fn owner_finds_every_flipped_bit() {
    let json = format!("\"{}\"", "r".repeat(4094)).into_bytes();
    let bits = result(task(1), &json).len() * 8;
    let (mut forged, mut number) = (Forged::greeted(), 1);
    for bit in 0..bits {
        let frame = flip(&result(forged.task, &json), bit);
        forged.socket.write_all(&frame).unwrap();
        let error = drive(&mut forged.exchange).unwrap_err();
        let ExchangeError::Corrupt { what, noticed_by: Side::Owner, .. } = error else {
            panic!("bit {bit} gave {error:?}");
        };
        let expected = match bit / 8 {
            0..72 => Part::Header,
            72..95 => Part::Metadata,
            _ => Part::Result,
        };
        assert_eq!(what, expected, "bit {bit}");
        assert_eq!(forged.exchange.is_idle(), what != Part::Header, "bit {bit}");
        number += 1;
        if what == Part::Header {
            forged = Forged::greeted();
        } else {
            forged.task = task(number);
            forged.exchange.begin(&call("", "f", &[]), forged.task, &BOUNDS).unwrap();
            // What the owner wrote is read, so that its next frames have room.
            forged.socket.set_nonblocking(true).unwrap();
            while forged.socket.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
            forged.socket.set_nonblocking(false).unwrap();
        }
    }
    forged.socket.write_all(&result(forged.task, b"1")).unwrap();
    assert_eq!(drive(&mut forged.exchange).unwrap(), Answer::Json("1".to_owned()));
}

/// Speaks for the owner, so that frames can be damaged on their way to a real worker.
struct Owner {
    socket: UnixStream,
    function_sha256: String,
}

impl Owner {
    fn of(worker: Worker, source: &str) -> (Owner, std::process::Child) {
        let (mut socket, process) = worker.into_socket();
        let (kind, _, _) = read_frame(&mut socket).unwrap();
        assert_eq!(kind, Kind::Hello as u8);
        let digest =
            Exchange::new(UnixStream::pair().unwrap().0, &call(source, "f", &[]), task(1), &BOUNDS)
                .unwrap()
                .digests()
                .function_sha256
                .clone();
        (Owner { socket, function_sha256: digest.unwrap() }, process)
    }

    fn function(task: TaskId, source: &str) -> Vec<u8> {
        encode_frame(Kind::Function, task, br#"{"file_name":"t.py"}"#, source.as_bytes()).unwrap()
    }

    fn call(&self, task: TaskId, payload: &[u8]) -> Vec<u8> {
        let metadata = json!({
            "function": "f", "function_sha256": self.function_sha256, "encoding": "json",
            "accepts": ["json"], "result_bytes_max": 1 << 20,
        });
        encode_frame(Kind::Call, task, metadata.to_string().as_bytes(), payload).unwrap()
    }

    /// Returns kind, task, and the JSON that it brought.
    fn ask(&mut self, bytes: &[u8]) -> (u8, TaskId, Value) {
        self.socket.write_all(bytes).unwrap();
        read_frame(&mut self.socket).unwrap()
    }
}

fn read_frame(socket: &mut UnixStream) -> Option<(u8, TaskId, Value)> {
    let mut header = [0; HEADER_BYTES];
    socket.read_exact(&mut header).ok()?;
    let length =
        |at: usize| usize::try_from(u32::from_be_bytes(header[at..at + 4].try_into().unwrap()));
    let (metadata_bytes, payload_bytes) = (length(24).unwrap(), length(32).unwrap());
    let mut body = vec![0; metadata_bytes + payload_bytes];
    socket.read_exact(&mut body).unwrap();
    let json = if payload_bytes > 0 { &body[metadata_bytes..] } else { &body };
    Some((header[6], header[8..24].try_into().unwrap(), serde_json::from_slice(json).unwrap()))
}

const NO_ARGUMENTS: &[u8] = br#"{"positional":[],"named":{}}"#;

/// Every bit of arguments of 4 KiB and of their metadata, on the way to a real worker: it runs
/// nothing, says what changed, and goes on.
#[test]
fn worker_finds_every_flipped_bit_and_goes_on() {
    let (mut owner, mut process) = Owner::of(Worker::start(), COUNTER);
    let long = format!(r#"{{"positional":["{}"],"named":{{}}}}"#, "a".repeat(4066));
    assert_eq!(long.len(), 4096);
    owner.socket.write_all(&Owner::function(task(0), COUNTER)).unwrap();
    let bits = owner.call(task(1), long.as_bytes()).len() * 8;
    for bit in 72 * 8..bits {
        let task = task(u32::try_from(bit).unwrap());
        let frame = flip(&owner.call(task, long.as_bytes()), bit);
        let (kind, about, said) = owner.ask(&frame);
        assert_eq!((kind, about), (Kind::Corrupt as u8, task), "bit {bit}");
        let what = if bit / 8 < frame.len() - 4096 { "metadata" } else { "arguments" };
        assert_eq!(said["what"], what, "bit {bit}");
        assert_ne!(said["expected"], said["got"]);
    }
    let (kind, _, count) = owner.ask(&owner.call(task(7), long.as_bytes()));
    assert_eq!((kind, count), (Kind::Result as u8, json!(1)));
    drop(owner);
    assert!(process.wait().unwrap().success());
}

/// The worker cannot know whose a damaged header was, nor where the next frame begins: it says so
/// and ends. Every bit is covered by `test_frames.py`; here one of each field with real processes.
#[test]
fn worker_ends_on_a_damaged_header() {
    for byte in [0, 4, 6, 7, 8, 24, 27, 28, 35, 36, 68] {
        let (mut owner, mut process) = Owner::of(Worker::start(), COUNTER);
        owner.socket.write_all(&Owner::function(task(1), COUNTER)).unwrap();
        let frame = flip(&owner.call(task(1), NO_ARGUMENTS), byte * 8 + 3);
        let (kind, about, said) = owner.ask(&frame);
        assert_eq!((kind, about), (Kind::Corrupt as u8, NO_TASK), "byte {byte}");
        assert_eq!(said["what"], "header");
        assert!(read_frame(&mut owner.socket).is_none());
        assert_eq!(process.wait().unwrap().code(), Some(70));
    }
}

/// A function that changed on the way is not run, and gets one answer: the CALL behind it, sent
/// before anyone could know, gets none of its own.
#[test]
fn damaged_function_is_answered_once() {
    let (mut owner, mut process) = Owner::of(Worker::start(), COUNTER);
    let function = Owner::function(task(1), COUNTER);
    let damaged = flip(&function, function.len() * 8 - 1);
    let both = [damaged, owner.call(task(1), NO_ARGUMENTS)].concat();
    let (kind, about, said) = owner.ask(&both);
    assert_eq!((kind, about, &said["what"]), (Kind::Corrupt as u8, task(1), &json!("function")));
    let next = [Owner::function(task(2), COUNTER), owner.call(task(2), NO_ARGUMENTS)].concat();
    assert_eq!(owner.ask(&next), (Kind::Result as u8, task(2), json!(1)));
    drop(owner);
    assert!(process.wait().unwrap().success());
}

#[test]
fn frames_that_come_twice_run_once() {
    let (mut owner, mut process) = Owner::of(Worker::start(), COUNTER);
    let function = Owner::function(task(1), COUNTER);
    let call = owner.call(task(1), NO_ARGUMENTS);
    let twice = [&function[..], &function, &call, &call].concat();
    assert_eq!(owner.ask(&twice), (Kind::Result as u8, task(1), json!(1)));
    // A replay much later is dropped too; the next answer is the next task's.
    let replay = [call, owner.call(task(2), NO_ARGUMENTS)].concat();
    assert_eq!(owner.ask(&replay), (Kind::Result as u8, task(2), json!(2)));
    drop(owner);
    assert!(process.wait().unwrap().success());
}

#[test]
fn call_before_its_function_is_asked_for_and_not_run() {
    let (mut owner, mut process) = Owner::of(Worker::start(), COUNTER);
    let call = owner.call(task(1), NO_ARGUMENTS);
    let (kind, about, said) = owner.ask(&call);
    assert_eq!((kind, about), (Kind::Need as u8, task(1)));
    assert_eq!(said["function_sha256"], *owner.function_sha256);
    let both = [Owner::function(task(1), COUNTER), call].concat();
    assert_eq!(owner.ask(&both), (Kind::Result as u8, task(1), json!(1)));
    drop(owner);
    assert!(process.wait().unwrap().success());
}

/// A worker's stream that ends anywhere ends the call; only a whole answer is one.
#[test]
fn owner_stands_a_stream_cut_anywhere() {
    let stream = [hello(), result(task(1), b"\"whole\"")].concat();
    for end in 0..=stream.len() {
        let ended = Forged::silent().says(&stream[..end]);
        if end == stream.len() {
            assert_eq!(ended.unwrap(), Answer::Json("\"whole\"".to_owned()));
        } else {
            assert!(matches!(ended, Err(ExchangeError::Closed)), "cut at {end}: {ended:?}");
        }
    }
}

/// The owner is never blocked by a worker that does not read, and finishes when it does.
#[test]
fn owner_does_not_wait_for_a_worker_that_does_not_read() {
    let (owner, mut socket) = UnixStream::pair().unwrap();
    let source = format!("# {}\n", "x".repeat(900_000));
    let mut exchange = Exchange::new(owner, &call(&source, "f", &[]), task(1), &BOUNDS).unwrap();
    assert_eq!(exchange.advance().unwrap(), None);
    assert!(exchange.wants_write());
    let mut have = 0;
    while exchange.wants_write() {
        have += socket.read(&mut [0; 65_536]).unwrap();
        assert_eq!(exchange.advance().unwrap(), None);
    }
    socket.write_all(&[hello(), result(task(1), b"1")].concat()).unwrap();
    assert!(drive(&mut exchange).is_ok());
    drop(exchange);
    let mut rest = Vec::new();
    socket.shutdown(Shutdown::Write).unwrap();
    have += socket.read_to_end(&mut rest).unwrap();
    assert!(have > 900_000);
}
