//! Which files are believed: owners, modes, links, pipes, and what is there at all.
//!
//! What only root can set up shows as ignored in an ordinary user's run, or as failed if `RIC_MUST`
//! names `root`. libtest cannot skip a test while it runs, so this has a `main` of its own.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use ric_policies::{Authority, BUILT_IN, Loaded, Policy};
use tempfile::TempDir;

/// Any uid but root's and the test's own.
const OTHER_UID: u32 = 54_321;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    for (name, run) in ANYONE {
        trials.push(trial(name, *run));
    }
    for (name, run) in AS_ROOT {
        let unmet = !is_root() && !must("root");
        trials.push(trial(name, *run).with_ignored_flag(unmet));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A failed assertion fails the trial.
fn trial(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

/// Whether the tests' caller says that this need is met here.
#[allow(clippy::disallowed_methods, reason = "how to run a test is no input of the program")]
fn must(need: &str) -> bool {
    std::env::var("RIC_MUST").is_ok_and(|needs| needs.split(',').any(|named| named == need))
}

/// Names and bodies of tests, the name being the function's.
macro_rules! tests {
    ($($name:ident)*) => { &[$((stringify!($name), $name)),*] };
}

const ANYONE: &[(&str, fn())] = tests! {
    follows_a_file_of_ones_own
    without_a_site_file_the_built_in_policy_holds
    a_named_file_must_be_there
    refuses_what_others_can_write
    refuses_a_folder
    does_not_wait_for_a_pipe
    refuses_a_device
    refuses_a_file_that_is_too_large
    a_narrowing_file_may_be_reached_by_a_link
    a_mistake_in_any_file_means_no_policy
};

const AS_ROOT: &[(&str, fn())] = tests! {
    a_site_file_that_is_not_roots_is_refused
    root_replaces_the_sites_policy
    nobody_else_replaces_it
    refuses_a_file_of_someone_else
    the_site_file_is_narrowed_by_named_ones_in_turn
    the_way_to_the_site_file_is_roots_alone
    no_link_leads_to_the_site_file
    only_a_missing_site_file_is_no_site_file
};

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o644);
        path
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn narrowed_by(path: &Path) -> Result<Loaded, String> {
    load(Path::new("/no/site/file"), &[path], Authority::Narrow)
}

fn load(site: &Path, named: &[&Path], authority: Authority) -> Result<Loaded, String> {
    let named: Vec<PathBuf> = named.iter().map(|path| path.to_path_buf()).collect();
    Policy::load(site, &named, authority).map_err(|error| {
        let cause = error.source().map_or_else(String::new, ToString::to_string);
        format!("{error}: {cause}; hint: {}", error.hint().unwrap_or_default())
    })
}

/// The control for everything below: such a file is followed.
fn follows_a_file_of_ones_own() {
    let place = Place::new();
    let loaded = narrowed_by(&place.write("p.yaml", "version: 1\nengines: [oci]\n")).unwrap();
    assert_eq!(loaded.policy.engines.value.len(), 1);
    assert_eq!(loaded.policy.files, [PathBuf::from(BUILT_IN), place.path("p.yaml")]);
}

fn without_a_site_file_the_built_in_policy_holds() {
    let loaded = load(Path::new("/no/site/file"), &[], Authority::Narrow).unwrap();
    assert_eq!(loaded.policy, Policy::built_in());
}

fn a_named_file_must_be_there() {
    let error = narrowed_by(Path::new("/no/such/file.yaml")).unwrap_err();
    assert!(error.contains("cannot read policy file /no/such/file.yaml"), "{error}");
}

fn refuses_what_others_can_write() {
    let place = Place::new();
    let path = place.write("p.yaml", "version: 1\n");
    for mode in [0o664, 0o646, 0o666, 0o420, 0o402] {
        set_mode(&path, mode);
        let error = narrowed_by(&path).unwrap_err();
        assert!(error.contains("can be changed by others"), "{mode:o}: {error}");
    }
    set_mode(&path, 0o600);
    narrowed_by(&path).unwrap();
}

fn refuses_a_folder() {
    let place = Place::new();
    let error = narrowed_by(place.folder.path()).unwrap_err();
    assert!(error.contains("is not a regular file"), "{error}");
}

/// Opening a pipe for reading waits for a writer; this one has none.
fn does_not_wait_for_a_pipe() {
    let place = Place::new();
    let path = place.path("pipe");
    let (mode, file_type) = (rustix::fs::Mode::from_raw_mode(0o600), rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, &path, file_type, mode, 0).unwrap();
    let error = narrowed_by(&path).unwrap_err();
    assert!(error.contains("is not a regular file"), "{error}");
}

fn refuses_a_device() {
    let error = narrowed_by(Path::new("/dev/zero")).unwrap_err();
    assert!(error.contains("is not a regular file"), "{error}");
}

fn refuses_a_file_that_is_too_large() {
    let place = Place::new();
    let fitting = format!("version: 1\n{}", "#".repeat(256 * 1024 - 11));
    narrowed_by(&place.write("fits.yaml", &fitting)).unwrap();
    let error = narrowed_by(&place.write("large.yaml", &format!("{fitting}#"))).unwrap_err();
    assert!(error.contains("has more than 262144 bytes"), "{error}");
}

/// It can only take away, and the user chose the name.
fn a_narrowing_file_may_be_reached_by_a_link() {
    let place = Place::new();
    let path = place.write("p.yaml", "version: 1\n");
    symlink(&path, place.path("link.yaml")).unwrap();
    narrowed_by(&place.path("link.yaml")).unwrap();
}

fn a_mistake_in_any_file_means_no_policy() {
    let place = Place::new();
    let good = place.write("good.yaml", "version: 1\n");
    let bad = place.write("bad.yaml", "version: 1\nengine: [oci]\n");
    let error = load(Path::new("/no/site"), &[&good, &bad], Authority::Narrow).unwrap_err();
    assert!(error.contains("bad.yaml:2:1: unknown key `engine`"), "{error}");
}

fn a_site_file_that_is_not_roots_is_refused() {
    let place = Place::new();
    let site = place.write("policy.yaml", "version: 1\n");
    load(&site, &[], Authority::Narrow).unwrap();
    chown(&site, Some(OTHER_UID), None).unwrap();
    let error = load(&site, &[], Authority::Narrow).unwrap_err();
    assert!(error.contains("not to root; hint: chown root"), "{error}");
}

fn root_replaces_the_sites_policy() {
    let place = Place::new();
    let mine = place.write("mine.yaml", "version: 1\nname: mine\nnetwork: [host]\n");
    let loaded = load(Path::new("/no/site"), &[&mine], Authority::Replace).unwrap();
    assert_eq!(loaded.policy.name, "mine");
    assert_eq!(loaded.policy.files, [mine]);
}

/// As a thread of another uid: `seteuid` would be for the whole process.
fn nobody_else_replaces_it() {
    let place = Place::new();
    let mine = place.write("mine.yaml", "version: 1\n");
    let replaced = std::thread::scope(|scope| {
        let as_other = scope.spawn(|| {
            let uid = rustix::thread::Uid::from_raw(OTHER_UID);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            load(Path::new("/no/site"), &[&mine], Authority::Replace)
        });
        as_other.join().unwrap()
    });
    assert!(replaced.unwrap_err().contains("only root may replace"));
}

fn refuses_a_file_of_someone_else() {
    let place = Place::new();
    let path = place.write("p.yaml", "version: 1\n");
    chown(&path, Some(OTHER_UID), None).unwrap();
    let error = narrowed_by(&path).unwrap_err();
    assert!(error.contains("belongs to uid 54321, not to root or to you"), "{error}");
}

fn the_site_file_is_narrowed_by_named_ones_in_turn() {
    let place = Place::new();
    let site = place.write("policy.yaml", "version: 1\nname: s\nengines: [native, oci, docker]\n");
    let one = place.write("one.yaml", "version: 1\nengines: [oci, docker, shifter]\n");
    let two = place.write("two.yaml", "version: 1\nname: t\nengines: [docker]\n");
    let loaded = load(&site, &[&one, &two], Authority::Narrow).unwrap();
    assert_eq!(loaded.policy.name, "s");
    assert_eq!(loaded.policy.engines.origin.to_string(), format!("{}:3", two.display()));
    assert_eq!(loaded.policy.files, [site.clone(), one.clone(), two]);
    assert_eq!(loaded.notes.len(), 1, "{:?}", loaded.notes);
    let replaced = load(&site, &[&one], Authority::Replace).unwrap();
    assert_eq!(replaced.policy.files, [one]);
}

fn the_way_to_the_site_file_is_roots_alone() {
    let place = Place::new();
    let folder = place.path("etc");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o755);
    let site = place.write("etc/policy.yaml", "version: 1\n");
    load(&site, &[], Authority::Narrow).unwrap();

    set_mode(&folder, 0o775);
    let error = load(&site, &[], Authority::Narrow).unwrap_err();
    assert!(error.contains("etc can be changed by others"), "{error}");
    // Whoever can add files there could add the policy, so its absence proves nothing.
    fs::remove_file(&site).unwrap();
    load(&site, &[], Authority::Narrow).unwrap_err();
    place.write("etc/policy.yaml", "version: 1\n");

    set_mode(&folder, 0o1777);
    load(&site, &[], Authority::Narrow).unwrap();

    set_mode(&folder, 0o755);
    chown(&folder, Some(OTHER_UID), None).unwrap();
    let error = load(&site, &[], Authority::Narrow).unwrap_err();
    assert!(error.contains("etc belongs to uid 54321, not to root"), "{error}");
}

fn no_link_leads_to_the_site_file() {
    let place = Place::new();
    let folder = place.path("etc");
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o755);
    let site = place.write("etc/policy.yaml", "version: 1\n");
    symlink(&site, place.path("link.yaml")).unwrap();
    symlink(&folder, place.path("elsewhere")).unwrap();
    symlink("/nowhere", place.path("dangling.yaml")).unwrap();
    for name in ["link.yaml", "elsewhere/policy.yaml", "dangling.yaml"] {
        let error = load(&place.path(name), &[], Authority::Narrow).unwrap_err();
        assert!(error.contains("is a symbolic link"), "{name}: {error}");
    }
}

/// A folder in the place of the file, or of its folder, does not mean that there are no rules.
fn only_a_missing_site_file_is_no_site_file() {
    let place = Place::new();
    let file = place.write("file", "");
    assert!(load(place.folder.path(), &[], Authority::Narrow).is_err());
    assert!(load(&file.join("policy.yaml"), &[], Authority::Narrow).is_err());
    assert!(load(&place.path("none/policy.yaml"), &[], Authority::Narrow).is_ok());
    let empty = load(&file, &[], Authority::Narrow).unwrap_err();
    assert!(empty.contains("begins with `version: 1`"), "{empty}");
}
