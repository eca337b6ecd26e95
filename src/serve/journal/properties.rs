//! What holds of a journal whatever is pushed, wherever it is cut, whenever the disk is full.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;
use ric_runtime::Status;
use ric_runtime::wire::Payload;
use sha2::{Digest, Sha256};

use super::*;

fn id(number: u8) -> KeptId {
    KeptId([number; 16])
}

fn about(uid: u32) -> About {
    About {
        uid,
        submitted_s: 1,
        rerun: false,
        function: "f".into(),
        function_sha256: String::new(),
        image: "host:".into(),
    }
}

fn part(bytes: &[u8]) -> (Part, Content) {
    let part = Part { bytes: bytes.len() as u64, sha256: Sha256::digest(bytes).into() };
    (part, Content::bytes(bytes))
}

fn submitted(number: u8, payload: &[u8]) -> Entry {
    let record = Record::Submitted { id: id(number), about: about(7) };
    Entry { record, parts: vec![part(b"small"), part(payload)] }
}

fn begun(number: u8) -> Entry {
    Entry { record: Record::Begun { id: id(number) }, parts: vec![] }
}

fn ended(number: u8, payload: &[u8]) -> Entry {
    let end = End { ended_s: 2, status: Status::Ok, kind: 4 };
    Entry { record: Record::Ended { id: id(number), end }, parts: vec![part(payload)] }
}

fn forgotten(number: u8) -> Entry {
    Entry { record: Record::Forgotten { id: id(number) }, parts: vec![] }
}

/// Writes what waits; what came of each entry.
fn commit<T>(journal: &mut Journal<T>) -> Vec<(T, Result<(), Fault>)> {
    let commit = journal.next_commit(Instant::now()).expect("something waits");
    journal.committed(commit.run())
}

fn phases<T>(journal: &Journal<T>) -> BTreeMap<KeptId, Phase> {
    journal.tasks().iter().map(|(id, kept)| (*id, kept.phase.clone())).collect()
}

fn payloads_in(folder: &Path) -> usize {
    fs::read_dir(folder.join("payloads")).unwrap().count()
}

/// The last part of a task's record.
fn last_part<T>(journal: &Journal<T>, number: u8) -> Vec<u8> {
    let (part, payload) = journal.reading(&id(number)).unwrap().read().unwrap().pop().unwrap();
    match payload {
        Payload::Bytes(bytes) => bytes,
        Payload::Memory(memory) => {
            let mut bytes = Vec::new();
            let mut take = |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            let sound = ric_runtime::copy_sealed(memory, part.bytes, 4096, &mut take).unwrap();
            assert_eq!(sound, Ok(()));
            bytes
        }
    }
}

#[test]
fn what_was_written_is_there_in_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tasks");
    let large = vec![7; 3 << 20];
    {
        let mut journal = Journal::open(&place).unwrap();
        for (number, payload) in [(1, &b"arguments"[..]), (2, &large), (3, &large)] {
            assert!(journal.push(submitted(number, payload), ()));
        }
        assert!(commit(&mut journal).iter().all(|(_, result)| result.is_ok()));
        assert!(journal.push(begun(2), ()));
        assert!(journal.push(ended(3, b"result"), ()));
        commit(&mut journal);
        assert!(journal.is_idle());
    }
    let mut journal = Journal::<()>::open(&place).unwrap();
    let end = End { ended_s: 2, status: Status::Ok, kind: 4 };
    let expected = [(id(1), Phase::Waiting), (id(2), Phase::Begun), (id(3), Phase::Ended(end))];
    assert_eq!(phases(&journal), expected.into());
    assert_eq!(last_part(&journal, 1), b"arguments");
    assert_eq!(last_part(&journal, 2), large);
    assert_eq!(last_part(&journal, 3), b"result");
    let bytes = 2 * 5 + 9 + large.len() as u64 + 6;
    assert_eq!(journal.usage(7), Usage { tasks: 3, bytes });
    // Two tasks shared a payload, of which one needs it still.
    assert_eq!(payloads_in(&place), 1);
    assert!(journal.push(ended(2, b""), ()));
    commit(&mut journal);
    commit(&mut journal);
    assert_eq!(payloads_in(&place), 0);
}

#[test]
fn nothing_follows_an_end_but_its_forgetting() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&folder.path().join("tasks")).unwrap();
    assert!(!journal.push(begun(1), ()), "of a task that was not submitted");
    assert!(journal.push(submitted(1, b""), ()));
    assert!(!journal.push(submitted(1, b""), ()), "twice");
    assert!(!journal.push(forgotten(1), ()), "before it has ended");
    assert!(journal.push(begun(1), ()) && !journal.push(begun(1), ()));
    assert!(journal.push(ended(1, b""), ()) && !journal.push(ended(1, b""), ()));
    assert!(!journal.push(begun(1), ()));
    assert!(journal.push(forgotten(1), ()) && !journal.push(forgotten(1), ()));
    commit(&mut journal);
    assert_eq!(phases(&journal), BTreeMap::new());
    assert_eq!(journal.usage(7), Usage::default());
}

#[test]
fn a_payload_is_what_its_digest_says_or_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tasks");
    let mut journal = Journal::open(&place).unwrap();
    for (number, bytes) in [(1, 10), (2, 1 << 17)] {
        let mut lying = submitted(number, &vec![7; bytes]);
        lying.parts[1].0.sha256[0] ^= 1;
        journal.push(lying, number);
    }
    journal.push(submitted(3, b"honest"), 3);
    let results = commit(&mut journal);
    for (number, result) in results {
        assert_eq!(result.is_ok(), number == 3, "{number}: {result:?}");
    }
    assert_eq!(phases(&journal), [(id(3), Phase::Waiting)].into());
    assert_eq!(payloads_in(&place), 0);
    // The name can be used again, as nobody was told of it.
    assert!(journal.push(submitted(1, b"honest"), 1));
}

#[test]
fn a_second_daemon_is_told_that_the_place_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tasks");
    let _first = Journal::<()>::open(&place).unwrap();
    let error = Journal::<()>::open(&place).unwrap_err();
    assert!(matches!(error, JournalError::Folder(FolderError::Taken)), "{error:?}");
}

#[test]
fn a_place_that_others_can_use_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tasks");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
    let error = Journal::<()>::open(&place).unwrap_err();
    assert!(matches!(error, JournalError::Folder(FolderError::Shared { .. })), "{error:?}");
}

#[test]
fn a_journal_that_is_mostly_dead_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tasks");
    let mut journal = Journal::open(&place).unwrap();
    let payload = vec![7; 60 << 10];
    journal.push(submitted(0, b"kept"), ());
    for number in 1..=100 {
        journal.push(submitted(number, &payload), ());
        journal.push(ended(number, b""), ());
        journal.push(forgotten(number), ());
    }
    commit(&mut journal);
    let before = fs::metadata(place.join("journal")).unwrap().len();
    assert!(before > COMPACT_BYTES, "{before} bytes");
    let held = journal.reading(&id(0)).unwrap();
    journal.push(begun(0), ());
    commit(&mut journal);
    let after = fs::metadata(place.join("journal")).unwrap().len();
    assert!(after < 1000, "{after} bytes");
    assert_eq!(last_part(&journal, 0), b"kept");
    // Whoever reads the old one reads on.
    assert_eq!(held.read().unwrap().len(), 2);
    drop((journal, held));
    let journal = Journal::<()>::open(&place).unwrap();
    assert_eq!(phases(&journal), [(id(0), Phase::Begun)].into());
    assert_eq!(last_part(&journal, 0), b"kept");
}

/// A pipe cannot be written at an offset: as good as a full disk.
#[test]
fn what_cannot_be_written_is_refused_if_new_and_else_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("tasks");
    let mut journal = Journal::open(&place).unwrap();
    journal.push(submitted(1, b"first"), "first");
    commit(&mut journal);
    let log = journal.log.as_mut().unwrap();
    let whole = std::mem::replace(&mut log.file, Arc::new(unwritable()));
    journal.push(begun(1), "begun");
    journal.push(submitted(2, b"second"), "second");
    let results = commit(&mut journal);
    let [("second", Err(Fault::Disk(_)))] = &results[..] else { panic!("{results:?}") };
    assert!(journal.next_commit(Instant::now()).is_none(), "it does not rest");
    assert!(!journal.is_idle() && journal.is_settled());
    assert_eq!(journal.usage(7).tasks, 1);
    let log = journal.log.as_mut().unwrap();
    (log.file, log.broken) = (whole, false);
    let later = journal.rests_until().unwrap();
    let again = journal.next_commit(later).unwrap();
    let results = journal.committed(again.run());
    assert_eq!(results, [("begun", Ok(()))]);
    drop(journal);
    let journal = Journal::<()>::open(&place).unwrap();
    assert_eq!(phases(&journal), [(id(1), Phase::Begun)].into());
}

fn unwritable() -> File {
    let (_read, write) = rustix::pipe::pipe().unwrap();
    File::from(write)
}

/// What is done to a journal.
#[derive(Debug, Clone)]
enum Act {
    Submit(u8, u16),
    Begin(u8),
    End(u8, u16),
    Forget(u8),
    Commit,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0..8_u8, any::<u16>()).prop_map(|(number, bytes)| Act::Submit(number, bytes)),
        (0..8_u8).prop_map(Act::Begin),
        (0..8_u8, any::<u16>()).prop_map(|(number, bytes)| Act::End(number, bytes)),
        (0..8_u8).prop_map(Act::Forget),
        Just(Act::Commit),
    ];
    prop::collection::vec(act, 0..60)
}

/// Does it all. Of each commit: the bytes of the file behind it, and how far each task is.
fn play(place: &Path, acts: &[Act]) -> Vec<(u64, BTreeMap<KeptId, Phase>)> {
    let mut journal = Journal::open(place).unwrap();
    let mut commits = vec![(0, BTreeMap::new())];
    let mut done = |journal: &mut Journal<()>| {
        while !journal.is_idle() {
            assert!(commit(journal).iter().all(|(_, result)| result.is_ok()));
        }
        commits.push((journal.log.as_ref().unwrap().bytes, phases(journal)));
    };
    let mut used = std::collections::HashSet::new();
    for act in acts {
        // Above and below the size from which a payload has a file of its own.
        let entry = match act {
            // A name is never used again.
            Act::Submit(number, _) if !used.insert(*number) => continue,
            Act::Submit(number, bytes) => {
                submitted(*number, &vec![*number; 2 * usize::from(*bytes)])
            }
            Act::Begin(number) => begun(*number),
            Act::End(number, bytes) => ended(*number, &vec![*number; 2 * usize::from(*bytes)]),
            Act::Forget(number) => forgotten(*number),
            Act::Commit => {
                done(&mut journal);
                continue;
            }
        };
        // What cannot follow is not taken, and changes nothing.
        journal.push(entry, ());
    }
    done(&mut journal);
    commits
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// A crash leaves a prefix of what was written: everything that was acknowledged by then is
    /// there, and of what was being written each task is as some record has left it.
    #[test]
    fn every_prefix_is_a_state_that_there_was(
        acts in acts(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("tasks");
        let commits = play(&place, &acts);
        let journal = fs::read(place.join("journal")).unwrap();
        for cut in cuts {
            let cut = cut.index(journal.len() + 1);
            fs::write(place.join("journal"), &journal[..cut]).unwrap();
            let recovered = Journal::<()>::open(&place);
            let recovered = recovered.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
            let phases = phases(&recovered);
            let before = commits.iter().rfind(|(bytes, _)| *bytes <= cut as u64).unwrap();
            let after = commits.iter().find(|(bytes, _)| *bytes >= cut as u64).unwrap();
            if before.0 == cut as u64 {
                prop_assert_eq!(&phases, &before.1);
            }
            // Nothing that was acknowledged is gone but what was being forgotten.
            for (id, phase) in &before.1 {
                let is_as_far = phases.get(id).is_some_and(|now| rank(now) >= rank(phase));
                prop_assert!(is_as_far || !after.1.contains_key(id));
            }
            let counted: usize = recovered.usage(7).tasks;
            prop_assert_eq!(counted, phases.len());
        }
    }

    /// Payloads are there as long as a task needs them, and no longer.
    #[test]
    fn every_payload_is_needed(acts in acts()) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("tasks");
        play(&place, &acts);
        let journal = Journal::<()>::open(&place).unwrap();
        let mut needed = HashMap::new();
        for (id, kept) in journal.tasks() {
            for (part, _) in journal.reading(id).unwrap().read().unwrap() {
                if part.is_file() {
                    needed.insert(part.sha256, ());
                }
            }
            prop_assert!(kept.bytes() > 0 || kept.end().is_some());
        }
        prop_assert_eq!(payloads_in(&place), needed.len());
    }
}

fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Waiting => 0,
        Phase::Begun => 1,
        Phase::Ended(_) => 2,
    }
}
