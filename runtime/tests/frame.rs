//! The wire format: golden frames, properties, damage, arbitrary bytes.
#![allow(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    reason = "the whole file is tests"
)]

#[path = "../../fuzz/bodies/frame.rs"]
mod body;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use ric_runtime::{
    Assembler, Carriage, FrameError, Header, Kind, METADATA_BYTES_MAX, PAYLOAD_BYTES_MAX, Part,
    Received, TaskId, Wanted, encode_frame,
};
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

struct Golden {
    name: String,
    description: Value,
    bytes: Vec<u8>,
}

impl Golden {
    fn all() -> Vec<Golden> {
        let mut all = Vec::new();
        for entry in fs::read_dir(repository().join("tests/protocol")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                all.push(Golden {
                    name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                    description: serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(),
                    bytes: fs::read(path.with_extension("bin")).unwrap(),
                });
            }
        }
        assert!(all.len() >= 28, "golden frames are missing");
        all
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.description[key].as_str()
    }

    fn kind(&self) -> Kind {
        let number = self.description["kind"].as_u64().unwrap();
        Kind::all().find(|kind| u64::from(*kind as u8) == number).unwrap()
    }

    fn task(&self) -> TaskId {
        unhex(self.text("task").unwrap()).try_into().unwrap()
    }

    fn metadata(&self) -> &[u8] {
        self.text("metadata").unwrap().as_bytes()
    }

    fn payload(&self) -> Vec<u8> {
        if let Some(digits) = self.text("payload_hex") {
            return unhex(digits);
        }
        if let Some(text) = self.description["payload_repeated"]["text"].as_str() {
            let times = self.description["payload_repeated"]["times"].as_u64().unwrap();
            return text.repeat(usize::try_from(times).unwrap()).into_bytes();
        }
        self.text("payload").unwrap().as_bytes().to_vec()
    }

    fn travels_inline(&self) -> bool {
        self.text("carriage") == Some("inline")
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Reads one frame of any kind with header checks alone; what an assembler bounds is beside the
/// point here.
fn read(bytes: &[u8]) -> Result<(Header, Vec<u8>, Vec<u8>), FrameError> {
    let header = Header::decode(bytes[..76].try_into().unwrap())?;
    let (metadata, payload) = bytes[76..].split_at(header.metadata_bytes.try_into().unwrap());
    header.check_metadata(metadata)?;
    if header.carriage == Carriage::Inline {
        header.check_payload(sha256(payload))?;
    }
    Ok((header, metadata.to_vec(), payload.to_vec()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let header = Header::new(Kind::Call, [1; 16], Carriage::Inline, b"", bytes).unwrap();
    header.payload_sha256
}

#[test]
fn writes_golden_frames_byte_for_byte() {
    for golden in Golden::all().iter().filter(|golden| golden.text("detected").is_none()) {
        let (metadata, payload) = (golden.metadata(), golden.payload());
        let written = if golden.travels_inline() {
            encode_frame(golden.kind(), golden.task(), metadata, &payload).unwrap()
        } else {
            let kind = golden.kind();
            let header =
                Header::new(kind, golden.task(), Carriage::Descriptor, metadata, &payload).unwrap();
            [&header.encode(), metadata, &[0]].concat()
        };
        assert_eq!(written, golden.bytes, "{}", golden.name);
    }
}

#[test]
fn reads_golden_frames_and_finds_the_damage_in_damaged_ones() {
    for golden in Golden::all() {
        let outcome = read(&golden.bytes);
        let found = match &outcome {
            Ok(_) => None,
            Err(FrameError::Corrupt { what, .. }) => Some(what.to_string()),
            Err(FrameError::Unknown { field, .. }) => Some((*field).to_owned()),
            Err(FrameError::TooLarge { .. }) => panic!("{} is too large", golden.name),
        };
        assert_eq!(found.as_deref(), golden.text("detected"), "{}", golden.name);
        if let Ok((header, metadata, payload)) = outcome {
            assert_eq!((header.kind, header.task), (golden.kind(), golden.task()));
            assert_eq!(metadata, golden.metadata());
            let expected = if golden.travels_inline() { golden.payload() } else { vec![0] };
            assert_eq!(payload, expected, "{}", golden.name);
            header.check_payload(sha256(&golden.payload())).unwrap();
        }
    }
}

/// The worker reads and writes the same golden frames, and holds against damage.
#[test]
fn worker_agrees_about_frames() {
    run_python("test_frames.py");
}

/// Pickles, modules, buffers, exceptions, and a process for each call, with a real worker.
#[test]
fn warm_worker_keeps_the_protocol() {
    run_python("test_warm.py");
}

fn run_python(name: &str) {
    let script = repository().join("tests/protocol").join(name);
    let run = Command::new("/usr/bin/python3").arg("-B").arg(script).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("\nOK"), "{said}");
}

#[test]
fn refuses_to_write_what_is_too_long() {
    let metadata = vec![b' '; METADATA_BYTES_MAX as usize + 1];
    let error = encode_frame(Kind::Call, [1; 16], &metadata, b"").unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { what: Part::Metadata, .. }), "{error}");
    encode_frame(Kind::Call, [1; 16], &metadata[1..], b"").unwrap();
}

/// A length that its maximum forbids is refused even under a right checksum.
#[test]
fn refuses_lengths_beyond_their_maximum() {
    let frame = encode_frame(Kind::Result, [1; 16], b"{}", b"1").unwrap();
    for (at, bytes) in [
        (24, &(METADATA_BYTES_MAX + 1).to_be_bytes()[..]),
        (28, &(PAYLOAD_BYTES_MAX + 1).to_be_bytes()[..]),
    ] {
        let mut header: [u8; 76] = frame[..76].try_into().unwrap();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32fast::hash(&header[..68]);
        header[68..72].copy_from_slice(&crc.to_be_bytes());
        let error = Header::decode(&header).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn reader_buffers_nothing_on_the_word_of_a_header() {
    let mut assembler = Assembler::new(PAYLOAD_BYTES_MAX);
    let header = Header::new(Kind::Result, [1; 16], Carriage::Inline, b"", &[7; 100_000]).unwrap();
    assert_eq!(assembler.push(&header.encode()), Ok(None));
    assert_eq!(assembler.wanted(), Wanted::Bytes(100_000));
    let shown = format!("{assembler:?}");
    assert!(shown.contains("bytes: []"), "{shown}");
}

#[test]
fn corpus_of_the_fuzzer_holds() {
    let corpus = repository().join("fuzz/corpus/frame");
    let inputs: Vec<_> = fs::read_dir(corpus).unwrap().collect();
    assert!(inputs.len() >= 15, "the corpus is missing");
    for input in inputs {
        body::check(&fs::read(input.unwrap().path()).unwrap());
    }
}

fn assemble(assembler: &mut Assembler, mut bytes: &[u8], piece: usize) -> Vec<Received> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let Wanted::Bytes(most) = assembler.wanted() else { panic!("no descriptor was promised") };
        let (now, later) = bytes.split_at(piece.min(most).min(bytes.len()));
        frames.extend(assembler.push(now).unwrap());
        bytes = later;
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        task: [u8; 16],
        metadata in prop::collection::vec(any::<u8>(), 0..300),
        payload in prop::collection::vec(any::<u8>(), 0..3000),
        piece in 1_usize..400,
    ) {
        let frame = encode_frame(Kind::Result, task, &metadata, &payload).unwrap();
        let mut assembler = Assembler::new(4096);
        // Twice, so that a reader that does not return to the beginning is found.
        let frames = assemble(&mut assembler, &[frame.clone(), frame].concat(), piece);
        prop_assert_eq!(frames.len(), 2);
        for received in frames {
            prop_assert_eq!((received.header.kind, received.header.task), (Kind::Result, task));
            prop_assert_eq!((&received.metadata, &received.payload), (&metadata, &payload));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        body::check(&data);
    }

    /// Random bytes end at the first checksum; behind right checksums the other checks begin.
    #[test]
    fn arbitrary_headers_with_right_checksums_never_panic(
        mut header in prop::array::uniform32(any::<u8>()),
        kind in 0_u8..10,
        lengths: [u8; 3],
        body in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        header[..8].copy_from_slice(&[0x89, b'R', b'I', b'C', 0, 1, kind, lengths[0] & 1]);
        let mut frame = [&header[..], &[0; 44]].concat();
        frame[24..36].copy_from_slice(&[0, 0, 0, lengths[1], 0, 0, 0, 0, 0, 0, 0, lengths[2]]);
        let crc = crc32fast::hash(&frame[..68]);
        frame[68..72].copy_from_slice(&crc.to_be_bytes());
        frame.extend(body);
        let metadata_end = (76 + usize::from(lengths[1])).min(frame.len());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&frame[..72]);
        crc.update(&frame[76..metadata_end]);
        frame[72..76].copy_from_slice(&crc.finalize().to_be_bytes());
        frame.insert(0, 50);
        body::check(&frame);
    }
}
