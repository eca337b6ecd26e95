//! Golden cases of the OCI translation: `tests/golden/oci/CASE/sandbox.json` gives `oci.json`, or
//! `error.txt` where the sandbox cannot be said. The system call filter, which is long and the same
//! in each, is left out of them and has a file of its own, `tests/golden/oci-seccomp.json`.
//!
//! `RIC_BLESS=1` rewrites what a case gives; review reads the difference.

// The whole file is a test; the lints look for `mod tests`.
#![allow(clippy::tests_outside_test_module, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use ric_runtime::Sandbox;
use ric_runtime::oci::{self, Bundle};
use ric_runtime::seccomp::Architecture;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/oci")
}

/// What every case's engine knows. The machine is a fixed one, so that each machine gives the same.
fn bundle() -> Bundle {
    Bundle {
        name: "ric-0123456789".to_owned(),
        root: PathBuf::from("/run/run-in-container/root"),
        tools: PathBuf::from("/run/run-in-container/tools"),
        sources: vec![PathBuf::from("/proc/4711/fd/10"), PathBuf::from("/proc/4711/fd/11")],
        arguments: vec!["/.run-in-container/init".to_owned()],
        variables: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        workdir: PathBuf::from("/"),
        architecture: Architecture::X86_64,
    }
}

fn read_sandbox(case: &Path) -> Sandbox {
    let path = case.join("sandbox.json");
    let text = fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The only place that knows the API: what a case gives, and the name of the file that holds it.
fn translate(case: &Path) -> (&'static str, String) {
    match oci::spec(&read_sandbox(case), &bundle()) {
        Ok(mut spec) => {
            spec.linux_mut().as_mut().unwrap().set_seccomp(None);
            let mut value = serde_json::to_value(&spec).unwrap();
            sort_capabilities(&mut value["process"]["capabilities"]);
            ("oci.json", to_text(&value))
        }
        Err(error) => ("error.txt", format!("{error}\n")),
    }
}

/// They are sets without an order.
fn sort_capabilities(sets: &mut serde_json::Value) {
    for set in sets.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
        set.as_array_mut().unwrap().sort_by_key(ToString::to_string);
    }
}

fn to_text(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

/// Compares what a test gives with the file that holds it.
fn check(path: &Path, given: &str) {
    if bless() {
        fs::write(path, given).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == given, "{}: RIC_BLESS=1 shows the difference", path.display());
}

#[allow(clippy::disallowed_methods)] // The switch of a test, not of the program.
fn bless() -> bool {
    std::env::var_os("RIC_BLESS").is_some()
}

#[test]
fn each_sandbox_gives_its_spec() {
    let mut checked = 0;
    for case in fs::read_dir(cases()).unwrap() {
        let case = case.unwrap().path();
        let (name, given) = translate(&case);
        check(&case.join(name), &given);
        let others = fs::read_dir(&case).unwrap().count();
        assert_eq!(others, 2, "{}: a case is one input and one output", case.display());
        checked += 1;
    }
    assert!(checked >= 8, "the cases are in {}", cases().display());
}

#[test]
fn the_filter_is_said_in_the_spec_s_words() {
    let spec = oci::spec(&read_sandbox(&cases().join("no-limits")), &bundle()).unwrap();
    let seccomp = spec.linux().as_ref().unwrap().seccomp();
    check(&cases().with_file_name("oci-seccomp.json"), &to_text(seccomp));
}

/// Nothing comes from the defaults of the crate that we build the spec with: those of Docker.
#[test]
fn nothing_is_filled_in() {
    let sandbox = read_sandbox(&cases().join("no-limits"));
    let spec = oci::spec(&sandbox, &bundle()).unwrap();
    let json = serde_json::to_value(&spec).unwrap();
    let keys = |pointer: &str| {
        let mut keys: Vec<_> =
            json.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
        keys.sort_unstable();
        keys.join(" ")
    };
    assert_eq!(keys(""), "hostname linux mounts ociVersion process root");
    let process = "args capabilities cwd env noNewPrivileges rlimits terminal user";
    assert_eq!(keys("/process"), process);
    let linux = "devices maskedPaths namespaces readonlyPaths resources rootfsPropagation seccomp";
    assert_eq!(keys("/linux"), linux);
    assert_eq!(keys("/linux/resources"), "devices");
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        let capabilities = json.pointer(&format!("/process/capabilities/{set}")).unwrap();
        assert_eq!(capabilities.as_array().unwrap().len(), 0, "{set}");
    }
}
