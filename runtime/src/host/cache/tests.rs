//! The cache under friendly and hostile directories. The trial counts how often it is asked.

use std::cell::Cell;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::TrialKind;

fn me() -> Caller {
    let uid = rustix::process::geteuid().as_raw();
    Caller { uid, gid: rustix::process::getegid().as_raw(), groups: Vec::new(), name: None }
}

/// A directory that only we can write, and the cache in it.
fn cache() -> (tempfile::TempDir, HostCache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = HostCache::at(&directory.path().join("cache"), me().uid).unwrap();
    (directory, cache)
}

/// Asks the cache, and tells whether it probed.
fn probes(cache: &HostCache, host_paths: &[PathBuf]) -> bool {
    let asked = Cell::new(0);
    let trial = |_: &[TrialKind]| {
        asked.set(asked.get() + 1);
        Ok(())
    };
    cache.host(&me(), host_paths, &trial).unwrap();
    asked.get() > 0
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("cache")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn second_start_does_not_probe() {
    let (directory, cache) = cache();
    assert!(probes(&cache, &[]));
    assert!(!probes(&cache, &[]));
    assert_eq!(files(directory.path()).len(), 1, "nothing beside the one file");
}

#[test]
fn cached_answers_are_the_probed_ones() {
    let (_directory, cache) = cache();
    let trial = |_: &[TrialKind]| Ok(());
    let probed = cache.host(&me(), &[], &trial).unwrap();
    let cached = cache.host(&me(), &[], &|_: &[TrialKind]| unreachable!("it is cached")).unwrap();
    assert_eq!(probed, cached);
}

#[test]
fn other_circumstances_are_probed_on_their_own() {
    let (_directory, cache) = cache();
    assert!(probes(&cache, &[]));
    assert!(probes(&cache, &[PathBuf::from("/apps")]));
    assert!(!probes(&cache, &[]));
    let mut other = me();
    other.groups = vec![7];
    assert_ne!(circumstances(&me(), &[]).unwrap(), circumstances(&other, &[]).unwrap());
}

#[test]
fn a_file_that_is_copied_and_changes_is_probed_over() {
    let (directory, cache) = cache();
    let file = directory.path().join("nsswitch.conf");
    fs::write(&file, "hosts: files").unwrap();
    let trial = |_: &[TrialKind]| Ok(());
    let probed = cache.host(&me(), &[], &trial).unwrap();
    let host = Host { host_copied: vec![file.clone()], ..probed };
    let circumstances = circumstances(&me(), &[]).unwrap();
    let name = file_name(&circumstances);
    cache.write(&name, Entry { circumstances, copied: copied(&host), host }).unwrap();
    assert!(!probes(&cache, &[]));
    fs::write(&file, "hosts: files dns").unwrap();
    assert!(probes(&cache, &[]));
}

#[test]
fn corrupt_file_is_probed_over() {
    let (directory, cache) = cache();
    assert!(probes(&cache, &[]));
    let file = files(directory.path()).remove(0);
    let whole = fs::read(&file).unwrap();
    for bad in [&b""[..], b"{", b"null", &whole[..whole.len() / 2], &[0xff; 100]] {
        fs::write(&file, bad).unwrap();
        assert!(probes(&cache, &[]));
        assert!(!probes(&cache, &[]));
    }
    let other = String::from_utf8(whole).unwrap().replacen("boot ", "boot x", 1);
    fs::write(&file, other).unwrap();
    assert!(probes(&cache, &[]), "the name is only a hash: the circumstances are compared");
}

#[test]
fn link_and_pipe_in_the_place_of_a_file_are_not_followed() {
    let (directory, cache) = cache();
    assert!(probes(&cache, &[]));
    let file = files(directory.path()).remove(0);
    let away = directory.path().join("away");
    fs::rename(&file, &away).unwrap();
    symlink(&away, &file).unwrap();
    assert!(probes(&cache, &[]));
    fs::remove_file(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, Mode::RWXU).unwrap();
    assert!(probes(&cache, &[]), "nor does it wait for a writer");
}

#[test]
fn no_is_believed_for_a_while_and_yes_for_longer() {
    let (directory, cache) = cache();
    let no = |_: &[TrialKind]| Err("not here".to_owned());
    let probed = cache.host(&me(), &[], &no).unwrap();
    assert!(!probed.seccomp.works);
    assert!(!probes(&cache, &[]));
    let file = File::options().write(true).open(&files(directory.path())[0]).unwrap();
    let old = SystemTime::now() - 2 * CACHE_BELIEVED_MAX;
    file.set_modified(old).unwrap();
    assert!(probes(&cache, &[]));
}

#[test]
fn clear_forgets_and_spares_what_is_not_ours() {
    let (directory, cache) = cache();
    let other = directory.path().join("cache/socket");
    fs::write(&other, "").unwrap();
    assert!(probes(&cache, &[]));
    cache.clear();
    assert!(other.exists());
    assert!(probes(&cache, &[]));
}

#[test]
fn files_do_not_pile_up() {
    let (directory, cache) = cache();
    for count in 0..CACHE_FILES_MAX + 10 {
        fs::write(directory.path().join(format!("cache/{PREFIX}{count}.json")), "").unwrap();
    }
    assert!(probes(&cache, &[]));
    assert_eq!(files(directory.path()).len(), CACHE_FILES_MAX);
}

#[test]
fn directory_that_others_can_write_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o777, 0o720, 0o702] {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        assert!(HostCache::at(directory.path(), me().uid).is_err(), "{mode:o}");
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(HostCache::at(directory.path(), me().uid).is_ok());
}

#[test]
fn directory_of_another_user_a_link_and_a_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(HostCache::at(directory.path(), me().uid + 1).is_err());
    let link = directory.path().join("link");
    symlink(directory.path(), &link).unwrap();
    assert!(HostCache::at(&link, me().uid).is_err());
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(HostCache::at(&file, me().uid).is_err());
    assert!(HostCache::at(&directory.path().join("none/none"), me().uid).is_err());
}
