//! Workers that lie, and workers that die.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;

use ric_runtime::{
    Answer, Carriage, ERROR_BYTES_MAX, ExchangeError, Header, Kind, NO_TASK, Part, Reason,
    encode_frame,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::ends::{
    BOUNDS, Forged, Worker, call, declined, drive, hello, open_descriptors, result,
    send_with_descriptors, task,
};

#[track_caller]
fn assert_breaks(frame: &[u8], says: &str) {
    let error = Forged::greeted().says(frame).unwrap_err();
    let ExchangeError::Protocol { broke } = &error else { panic!("{error:?}") };
    assert!(broke.contains(says), "{broke}");
}

#[test]
fn no_answer_is_taken_for_another_task() {
    assert_breaks(&result(task(2), b"1"), "another task");
    assert_breaks(&result(NO_TASK, b"1"), "another task");
    let need = encode_frame(Kind::Need, task(2), br#"{"function_sha256":""}"#, b"").unwrap();
    assert_breaks(&need, "another task");
    // The control: the right one is taken.
    let answer = Forged::greeted().says(&result(task(1), b"1")).unwrap();
    assert_eq!(answer, Answer::Json("1".to_owned()));
}

#[test]
fn second_answer_of_a_task_is_not_given_to_the_next() {
    let mut forged = Forged::greeted();
    forged.socket.write_all(&[result(task(1), b"1"), result(task(1), b"2")].concat()).unwrap();
    assert_eq!(drive(&mut forged.exchange).unwrap(), Answer::Json("1".to_owned()));
    forged.exchange.begin(&call("", "f", &[]), task(2), &BOUNDS).unwrap();
    let error = drive(&mut forged.exchange).unwrap_err();
    assert!(matches!(error, ExchangeError::Protocol { .. }), "{error:?}");
    assert!(!forged.exchange.is_idle());
    assert!(forged.exchange.begin(&call("", "f", &[]), task(3), &BOUNDS).is_err());
}

#[test]
fn frames_out_of_place_end_the_exchange() {
    assert_breaks(&hello(), "greeted twice");
    for kind in [Kind::Function, Kind::Call] {
        assert_breaks(&encode_frame(kind, task(1), b"{}", b"").unwrap(), "only its owner");
    }
    let error = Forged::silent().says(&result(task(1), b"1")).unwrap_err();
    assert!(error.to_string().contains("before it greeted"), "{error}");
    let need = |sha256: &str| {
        let metadata = format!(r#"{{"function_sha256":"{sha256}"}}"#);
        encode_frame(Kind::Need, task(1), metadata.as_bytes(), b"").unwrap()
    };
    assert_breaks(&need("00"), "just sent");
    // SHA-256 of the empty file that forged workers are called with; once is fine, twice is not.
    let ours = need("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert!(matches!(Forged::greeted().says(&ours), Err(ExchangeError::Closed)));
    assert_breaks(&[ours.clone(), ours].concat(), "just sent");
}

#[test]
fn metadata_that_says_something_else_ends_the_exchange() {
    let frame = |kind, metadata: &str, payload: &[u8]| {
        encode_frame(kind, task(1), metadata.as_bytes(), payload).unwrap()
    };
    let deep = "[".repeat(30_000);
    for (kind, metadata, payload) in [
        (Kind::Result, "", &b"1"[..]),
        (Kind::Result, "{}", b"1"),
        (Kind::Result, deep.as_str(), b"1"),
        (Kind::Result, r#"{"encoding":"yaml"}"#, b"1"),
        (Kind::Result, r#"{"encoding":"pickle","python":"3.11"}"#, b"N."),
        (Kind::Result, r#"{"encoding":"json"}"#, b"\xff"),
        (Kind::Result, r#"{"encoding":"json"}"#, b"1 2"),
        (Kind::Result, r#"{"encoding":"json"}"#, b"1e999"),
        (Kind::Result, r#"{"encoding":"json"}"#, deep.as_bytes()),
        (Kind::Error, "{}", b"{}"),
        (Kind::Error, "{}", b""),
        (Kind::Declined, "{}", b""),
        (Kind::Corrupt, r#"{"what":"header","expected":"00","got":"11"}"#, b""),
        (Kind::Corrupt, r#"{"what":"function","expected":"\u001b[2J","got":"11"}"#, b""),
    ] {
        let error = Forged::greeted().says(&frame(kind, metadata, payload)).unwrap_err();
        assert!(matches!(error, ExchangeError::Protocol { .. }), "{metadata:.80}: {error:?}");
        assert!(error.to_string().len() < 600, "{error}");
    }
}

#[test]
fn text_of_a_worker_cannot_command_the_terminal() {
    let metadata = "{\"encoding\":\"\\u001b[2Jx\"}";
    let frame = encode_frame(Kind::Result, task(1), metadata.as_bytes(), b"1").unwrap();
    let error = Forged::greeted().says(&frame).unwrap_err().to_string();
    assert!(error.contains("[2Jx") && !error.contains('\x1b'), "{error:?}");
}

#[test]
fn lengths_beyond_the_bounds_are_refused_before_a_byte_is_read() {
    for (kind, bytes, bytes_max, what) in [
        (Kind::Result, BOUNDS.result_bytes_max + 1, BOUNDS.result_bytes_max, Part::Result),
        (Kind::Error, ERROR_BYTES_MAX + 1, ERROR_BYTES_MAX, Part::Error),
        (Kind::Declined, 1, 0, Part::Payload),
    ] {
        let payload = vec![0; usize::try_from(bytes).unwrap()];
        let header = Header::new(kind, task(1), Carriage::Inline, b"", &payload).unwrap();
        let error = Forged::greeted().says(&header.encode()).unwrap_err();
        let ExchangeError::TooLarge { what: large, bytes: said, bytes_max: most } = error else {
            panic!("{error:?}");
        };
        assert_eq!((large, said, most), (what, bytes, bytes_max));
    }
}

#[test]
fn versions_that_do_not_overlap_are_named() {
    let metadata =
        br#"{"version_lowest":2,"version_highest":9,"python":"3.20.0","executable":"","pid":1}"#;
    let newer = encode_frame(Kind::Hello, NO_TASK, metadata, b"").unwrap();
    let error = Forged::silent().says(&newer).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the worker speaks versions 2 to 9 of the protocol, and this program 1 to 1"
    );
}

#[test]
fn unknown_reason_of_a_later_worker_is_still_an_answer() {
    let metadata = br#"{"reason":"tuesday","message":"m","hint":"h","new":1}"#;
    let frame = encode_frame(Kind::Declined, task(1), metadata, b"").unwrap();
    let Ok(Answer::Declined(declined)) = Forged::greeted().says(&frame) else {
        panic!("no answer")
    };
    assert_eq!((declined.reason, declined.message.as_str()), (Reason::Unknown, "m"));
}

fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
    let memory = memfd_create(c"forged", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memory);
    file.write_all(content).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

/// Sends a RESULT whose payload is promised beside it, with the descriptors given.
fn passes(payload: &[u8], descriptors: &[OwnedFd]) -> Result<Answer, ExchangeError> {
    let metadata = br#"{"encoding":"json"}"#;
    let header =
        Header::new(Kind::Result, task(1), Carriage::Descriptor, metadata, payload).unwrap();
    let mut forged = Forged::greeted();
    forged.socket.write_all(&[&header.encode()[..], metadata].concat()).unwrap();
    send_with_descriptors(&forged.socket, 0, descriptors);
    drive(&mut forged.exchange)
}

#[test]
fn only_sealed_memory_of_the_promised_size_and_digest_is_read() {
    let sealed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    let before = open_descriptors();
    let good = passes(b"123", &[memory(b"123", sealed)]).unwrap();
    assert_eq!(good, Answer::Json("123".to_owned()));
    for seals in [SealFlags::empty(), SealFlags::WRITE, SealFlags::SHRINK | SealFlags::GROW] {
        let error = passes(b"123", &[memory(b"123", seals)]).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
    }
    let error = passes(b"123", &[memory(b"12", sealed)]).unwrap_err();
    assert!(error.to_string().contains("another size"), "{error}");
    let error = passes(b"123", &[memory(b"124", sealed)]).unwrap_err();
    assert!(matches!(error, ExchangeError::Corrupt { what: Part::Result, .. }), "{error:?}");
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let error = passes(b"123", &[pipe]).unwrap_err();
    assert!(error.to_string().contains("no memfd"), "{error}");
    drop(_writer);
    assert_eq!(open_descriptors(), before);
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    let sealed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    let before = open_descriptors();
    let many: Vec<OwnedFd> = (0..16).map(|_| memory(b"123", sealed)).collect();
    passes(b"123", &many).unwrap();
    // In the middle of bytes that carry none.
    let mut forged = Forged::greeted();
    let frame = result(task(1), b"1");
    send_with_descriptors(&forged.socket, frame[0], &many);
    forged.socket.write_all(&frame[1..]).unwrap();
    assert_eq!(drive(&mut forged.exchange).unwrap(), Answer::Json("1".to_owned()));
    drop((forged, many));
    assert_eq!(open_descriptors(), before);
    // And promised ones that do not come.
    let metadata = br#"{"encoding":"json"}"#;
    let header = Header::new(Kind::Result, task(1), Carriage::Descriptor, metadata, b"1").unwrap();
    assert_breaks(&[&header.encode()[..], metadata, &[0]].concat(), "passed none");
}

/// However a worker dies, the owner learns that it did and how, and a new worker serves.
#[test]
fn dying_workers_are_told_from_answering_ones() {
    let source = "import os, signal\n\
                  def segfault():\n    os.kill(os.getpid(), signal.SIGSEGV)\n\
                  def kill():\n    os.kill(os.getpid(), signal.SIGKILL)\n\
                  def abort():\n    os.abort()\n\
                  def quit():\n    os._exit(0)\n\
                  def close():\n    os.closerange(3, 2000)\n\
                  def replace():\n    os.closerange(3, 2000)\n    \
                  os.dup2(os.open('/dev/null', os.O_RDWR), 1000)\n\
                  def thread():\n    import threading\n    \
                  threading.Thread(target=os._exit, args=(5,)).start()\n    signal.pause()\n\
                  def fine():\n    return 'fine'\n";
    for (function, code, signal) in [
        ("segfault", None, Some(11)),
        ("kill", None, Some(9)),
        ("abort", None, Some(6)),
        ("quit", Some(0), None),
        ("close", Some(70), None),
        ("replace", Some(70), None),
        ("thread", Some(5), None),
    ] {
        let mut worker = Worker::start();
        assert_eq!(worker.value(source, "fine"), "fine");
        let error = worker.call(&call(source, function, &[])).unwrap_err();
        assert!(matches!(error, ExchangeError::Closed), "{function}: {error:?}");
        assert!(!worker.exchange().is_idle());
        let (status, ..) = worker.end();
        assert_eq!((status.code(), status.signal()), (code, signal), "{function}");
    }
}

/// A function that writes to the connection itself can spoil its own call only.
#[test]
fn garbage_on_the_connection_is_no_answer() {
    let source = "import os\ndef garbage():\n    os.write(1000, b'garbage' * 100)\n\
                  def forge():\n    os.write(1000, bytes.fromhex('FRAME'))\n";
    let forged: String = result(task(99), b"1").iter().map(|byte| format!("{byte:02x}")).collect();
    let source = source.replace("FRAME", &forged);
    let error = Worker::start().call(&call(&source, "garbage", &[])).unwrap_err();
    assert!(matches!(error, ExchangeError::Corrupt { what: Part::Header, .. }), "{error:?}");
    let error = Worker::start().call(&call(&source, "forge", &[])).unwrap_err();
    assert!(error.to_string().contains("another task"), "{error}");
}

/// A forked child that returns into the worker's code ends there.
#[test]
fn forked_children_do_not_answer() {
    let mut worker = Worker::start();
    let source = "import os\n\
                  def both():\n    child = os.fork()\n    if child:\n        \
                  return os.waitpid(child, 0)[1]\n    return 'child'\n\
                  def fails():\n    child = os.fork()\n    if child:\n        \
                  return os.waitpid(child, 0)[1] >> 8\n    raise OSError('child')\n";
    assert_eq!(worker.value(source, "both"), 0);
    assert_eq!(worker.value(source, "fails"), 1);
    let (status, _, stderr) = worker.end();
    assert!(status.success() && stderr.contains("OSError: child"), "{stderr}");
}

/// A child that stays behind does not keep the connection open.
#[test]
fn worker_that_dies_is_noticed_though_its_child_lives() {
    // The child stays until nobody reads its output any more, which is when the test is over.
    let source = "import os, select\ndef f():\n    if os.fork():\n        os._exit(3)\n    \
                  output = select.poll()\n    output.register(1, 0)\n    output.poll()\n";
    let mut worker = Worker::start();
    let error = worker.call(&call(source, "f", &[])).unwrap_err();
    assert!(matches!(error, ExchangeError::Closed), "{error:?}");
}

#[test]
fn results_beyond_the_bound_are_declined_by_the_worker() {
    let large = declined("def f():\n    return 'x' * (33 << 20)\n", "f");
    assert_eq!(large.reason, Reason::ResultTooLarge);
    assert!(large.message.contains("at most 33554432"), "{}", large.message);
}

/// A function that leaves nothing to work with still gets its exception reported.
#[test]
fn exhausted_descriptors_do_not_silence_an_exception() {
    let source = "import os\ndef f():\n    import resource\n    \
                  resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1100))\n    \
                  while True:\n        os.dup(0)\n";
    let mut worker = Worker::start();
    let answer = worker.call(&call(source, "f", &[])).unwrap();
    let Answer::Raised(raised) = answer else { panic!("{answer:?}") };
    assert_eq!(raised.exception, "OSError");
}
