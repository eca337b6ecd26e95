//! Packages of environments: resolved, locked, built in sandboxes, the same wherever they are.

use std::fs;
use std::path::Path;

use libtest_mimic::Failed;
use serde_json::Value;

use crate::case::{BOTH, Case};
use crate::commands::Answer;
use crate::images::python_archive;
use crate::index::{Index, source_package, wheel};
use crate::launch::{Cli, Ran, Stage, claim};
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let needs = &[Need::Python3, Need::Pip];
    vec![
        Case::new("environment_has_its_python_packages", has_packages).needs(needs).people(BOTH),
        Case::new("same_lock_gives_the_same_image_in_another_store", same_image).needs(needs),
        Case::new("lock_holds_until_what_was_asked_changes", lock_holds).needs(needs),
        Case::new("environments_with_the_same_packages_share_a_layer", share_a_layer).needs(needs),
        Case::new("index_that_gives_other_files_than_it_says_is_refused", index_lies).needs(needs),
        Case::new("package_that_is_not_there_is_named_with_its_line", names_line).needs(needs),
        Case::new("source_package_is_built_in_the_sandbox", builds_source).needs(needs),
        Case::new("policy_bounds_what_packages_may_do", policy_bounds)
            .needs(needs)
            .people(&[Person::Root]),
    ]
}

/// The packages that most cases use: `colours` 1.0 and 2.0, of which the latter needs `shapes`.
fn index() -> Result<Index, Failed> {
    let index = Index::start()?;
    for (name, version, text, requires) in [
        ("colours", "1.0", "RED = 'red'\n", &[][..]),
        ("colours", "2.0", "RED = 'crimson'\n", &["shapes>=1"]),
        ("shapes", "1.5", "SIDES = 4\n", &[]),
    ] {
        let (file, content) = wheel(name, version, text, requires);
        index.publish(name, &file, content);
    }
    Ok(index)
}

/// Writes an environment upon the machine's Python, and returns its directory.
fn environment(stage: &Stage, name: &str, text: &str) -> Result<String, Failed> {
    let folder = stage.directory("environments")?;
    let base = python_archive(&stage.world)?;
    let text = format!("name: {name}\nimage: docker-archive:{}\n{text}", base.display());
    let file = Path::new(&folder).join(format!("{name}.yaml"));
    fs::write(&file, text)?;
    stage.world.give(&file, stage.person)?;
    Ok(folder)
}

/// A command line that is told of the index and of nothing else of this machine.
fn with_index<'a>(stage: &'a Stage, index: &Index, words: &[&str]) -> Cli<'a> {
    let cli = stage.cli(words).variable("PIP_INDEX_URL", &index.url());
    cli.variable("PIP_CONFIG_FILE", "/dev/null").variable("PIP_RETRIES", "0")
}

fn build(
    stage: &Stage,
    index: &Index,
    (folder, name): (&str, &str),
    flags: &[&str],
) -> Result<Ran, Failed> {
    let store = stage.store().to_string_lossy().into_owned();
    let store = if flags.contains(&"--store") { vec![] } else { vec!["--store", store.as_str()] };
    let words = ["environments", "build", name, "--env-path", folder];
    with_index(stage, index, &[&words[..], &store, flags].concat()).output()
}

const LOOK: &str = "\
import os, sys

def look():
    import colours
    return [colours.RED, colours.__file__, os.environ.get('WORD'), sys.prefix]
";

fn look(stage: &Stage, index: &Index, (folder, name): (&str, &str)) -> Result<Ran, Failed> {
    let target = format!("{}:look", stage.file("look.py", LOOK)?);
    let words = ["call", "--json", "--env", name, "--env-path", folder, &target];
    with_index(stage, index, &words).output()
}

fn has_packages(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let folder = environment(stage, "paint", "python: [colours>=1]\nvariables: {WORD: said}\n")?;
    let paint = (folder.as_str(), "paint");
    let plan = ["plan", "--env", "paint", "--env-path", &folder, "--", "/bin/true"];
    let unbuilt = with_index(stage, &index, &plan).output()?.expect_code(125)?.answer;
    claim!(unbuilt.stderr.contains("it is not built: there is no"), "{}", unbuilt.told());
    claim!(unbuilt.stderr.contains("environments build paint"), "{}", unbuilt.told());
    let ran = look(stage, &index, paint)?.expect_status("ok")?;
    let result = &ran.outcome["result"];
    claim!(result[0] == "crimson" && result[2] == "said", "{result}");
    claim!(result[3] == "/opt/environment", "{result}");
    claim!(ran.answer.stderr.contains("building environment `paint`"), "{}", ran.answer.told());
    let lock = fs::read_to_string(Path::new(&folder).join("paint.lock"))?;
    let locked: Vec<&str> = lock.lines().filter(|line| line.contains("sha256:")).collect();
    let has = |text: &str| locked.iter().any(|line| line.contains(text));
    claim!(has("\"colours==2.0 sha256:") && has("\"shapes==1.5 sha256:"), "{lock}");
    // Built once: the index is asked no more.
    let asked = index.asked();
    let again = look(stage, &index, paint)?.expect_status("ok")?;
    claim!(!again.answer.stderr.contains("building"), "{}", again.answer.told());
    claim!(index.asked() == asked, "the index was asked again");
    let store = stage.store().to_string_lossy().into_owned();
    let list = ["environments", "list", "--json", "--env-path", &folder, "--store", &store];
    let list = stage.cli(&list).output()?.expect_code(0)?.outcome;
    claim!(list[0]["built"] == true, "{list}");
    let show = ["environments", "show", "paint", "--json", "--env-path", &folder, "--store"];
    let show = |store: &str| {
        let shown = stage.cli(&[&show[..], &[store]].concat()).output()?.expect_code(0)?;
        Ok::<Value, Failed>(shown.outcome)
    };
    let built = show(&store)?["built"].to_string();
    claim!(built.contains("localhost/environment:paint-"), "{built}");
    let other = stage.directory("other")?;
    claim!(show(&other)?["built"].is_null(), "another store has it too");
    claim!(show(&other)?["not_built"].is_string(), "it is not said why");
    super::builds::no_work_left(stage)
}

fn digest(answer: &Answer) -> &str {
    answer.stdout.split(' ').next().unwrap_or_default()
}

fn same_image(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let folder = environment(stage, "paint", "python: [colours]\n")?;
    let paint = (folder.as_str(), "paint");
    let first = build(stage, &index, paint, &[])?.expect_code(0)?.answer;
    claim!(digest(&first).starts_with("sha256:"), "{}", first.told());
    // As on another machine on another day: nothing but the two files, and newer packages.
    let (file, content) = wheel("colours", "3.0", "RED = 'scarlet'\n", &[]);
    index.publish("colours", &file, content);
    let other = stage.directory("other-store")?;
    let words = ["--store", other.as_str(), "--locked"];
    let second = build(stage, &index, paint, &words)?.expect_code(0)?.answer;
    claim!(second.stderr.contains("  made "), "it was not built: {}", second.told());
    claim!(digest(&second) == digest(&first), "{} {}", first.told(), second.told());
    // The twin: resolved anew, it is another.
    let third = build(stage, &index, paint, &["--upgrade"])?.expect_code(0)?.answer;
    claim!(digest(&third) != digest(&first), "{} {}", first.told(), third.told());
    let lock = fs::read_to_string(Path::new(&folder).join("paint.lock"))?;
    claim!(lock.contains("colours==3.0"), "{lock}");
    Ok(())
}

fn lock_holds(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let folder = environment(stage, "paint", "python: [colours==1.0]\n")?;
    let paint = (folder.as_str(), "paint");
    let refused = build(stage, &index, paint, &["--locked"])?.expect_code(125)?.answer;
    claim!(refused.stderr.contains("there is no"), "{}", refused.told());
    build(stage, &index, paint, &[])?.expect_code(0)?;
    let lock = Path::new(&folder).join("paint.lock");
    let written = fs::read_to_string(&lock)?;
    build(stage, &index, paint, &["--locked"])?.expect_code(0)?;
    claim!(fs::read_to_string(&lock)? == written, "the lock was written anew");
    environment(stage, "paint", "python: [colours==2.0]\n")?;
    let refused = build(stage, &index, paint, &["--locked"])?.expect_code(125)?.answer;
    let why = "`python:` has colours==2.0 now, not colours==1.0";
    claim!(refused.stderr.contains(why), "{}", refused.told());
    claim!(fs::read_to_string(&lock)? == written, "a refused build wrote the lock");
    let ran = look(stage, &index, paint)?.expect_status("ok")?;
    claim!(ran.answer.stderr.contains(why), "{}", ran.answer.told());
    claim!(ran.outcome["result"][0] == "crimson", "{}", ran.outcome);
    // A lock that nobody could have written is not followed.
    fs::write(&lock, written.replace("colours==1.0 sha", "-r/etc/passwd==1.0 sha"))?;
    let refused = build(stage, &index, paint, &[])?.expect_code(125)?.answer;
    claim!(refused.stderr.contains("paint.lock:10:"), "{}", refused.told());
    Ok(())
}

fn share_a_layer(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let folder = environment(stage, "one", "python: [colours==2.0]\nvariables: {A: one}\n")?;
    environment(stage, "two", "python: [colours==2.0]\nvariables: {A: two}\n")?;
    let one = build(stage, &index, (&folder, "one"), &[])?.expect_code(0)?.answer;
    let two = build(stage, &index, (&folder, "two"), &[])?.expect_code(0)?.answer;
    claim!(one.stderr.contains("  made "), "{}", one.told());
    claim!(
        !two.stderr.contains("  made ") && two.stderr.contains("as built before"),
        "{}",
        two.told()
    );
    // The twin: other packages are another layer.
    environment(stage, "two", "python: [colours==1.0]\n")?;
    let two = build(stage, &index, (&folder, "two"), &[])?.expect_code(0)?.answer;
    claim!(two.stderr.contains("  made "), "{}", two.told());
    Ok(())
}

fn index_lies(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let (file, content) = wheel("forged", "1.0", "X = 1\n", &[]);
    index.publish_as("forged", &file, content.clone(), &"0".repeat(64));
    let cut = content[..content.len() / 2].to_vec();
    index.publish("cut", "cut-1.0-py3-none-any.whl", cut);
    for (name, said) in [("forged", "DO NOT MATCH THE HASHES"), ("cut", "cut")] {
        let folder = environment(stage, name, &format!("python: [{name}]\n"))?;
        let failed = build(stage, &index, (&folder, name), &[])?.answer;
        claim!(failed.code != Some(0) && failed.stderr.contains(said), "{}", failed.told());
        let lock = Path::new(&folder).join(format!("{name}.lock"));
        claim!(!lock.exists(), "{name} was locked");
    }
    // What was locked and has become another since.
    let folder = environment(stage, "paint", "python: [shapes]\n")?;
    build(stage, &index, (&folder, "paint"), &[])?.expect_code(0)?;
    let (file, content) = wheel("shapes", "1.5", "SIDES = 5\n", &[]);
    index.put("/simple/shapes/", "");
    index.publish("shapes", &file, content);
    let other = stage.directory("other-store")?;
    let failed = build(stage, &index, (&folder, "paint"), &["--store", &other])?.answer;
    claim!(failed.code != Some(0), "{}", failed.told());
    claim!(failed.stderr.contains("DO NOT MATCH THE HASHES"), "{}", failed.told());
    claim!(failed.stderr.contains("paint.yaml:3: `python:` lists shapes"), "{}", failed.told());
    super::builds::no_work_left(stage)
}

fn names_line(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let folder = environment(stage, "paint", "python:\n- colours\n- nowhere>=2\n")?;
    let failed = build(stage, &index, (&folder, "paint"), &[])?.expect_code(1)?.answer;
    let line = format!("{folder}/paint.yaml:5: `python:` lists nowhere>=2");
    claim!(failed.stderr.contains(&line), "{}", failed.told());
    claim!(!failed.stderr.contains("lists colours"), "{}", failed.told());
    let folder = environment(stage, "other", "conda: [numpy]\n")?;
    let failed = build(stage, &index, (&folder, "other"), &[])?.expect_code(125)?.answer;
    let line = "other.yaml:3: this version adds no conda packages";
    claim!(failed.stderr.contains(line), "{}", failed.told());
    super::builds::no_work_left(stage)
}

/// What the build of a source package does: looks around, and makes its wheel.
const BACKEND: &str = "\
import os, shutil, sys

def look():
    print('uid', os.getuid(), 'shadow', os.path.exists('/etc/shadow'), file=sys.stderr)
    try:
        open('{PROBE}', 'w').close()
    except OSError as error:
        print('outside:', error.strerror, file=sys.stderr)

def build_wheel(directory, settings=None, metadata=None):
    look()
    import base64
    with open(directory + '/{FILE}', 'wb') as wheel:
        wheel.write(base64.b64decode('{WHEEL}'))
    return '{FILE}'
";

fn builds_source(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let (file, content) = wheel("homemade", "1.0", "X = 1\n", &[]);
    let encoded = base64(&content);
    // A directory that everybody outside can write to.
    let probe = stage.world.base.with_file_name("ric-packages-probe");
    let backend = BACKEND.replace("{FILE}", &file).replace("{WHEEL}", &encoded);
    let backend = backend.replace("{PROBE}", &probe.to_string_lossy());
    let (file, content) = source_package("homemade", "1.0", &backend)?;
    index.publish("homemade", &file, content);
    let folder = environment(stage, "home", "python: [homemade]\n")?;
    let built = build(stage, &index, (&folder, "home"), &[])?.expect_code(0)?.answer;
    claim!(!probe.exists(), "the build wrote outside: {}", built.told());
    let words = ["run", "--env", "home", "--env-path", &folder, "--", "python3", "-c"];
    let ran = stage.cli(&[&words[..], &["import homemade; print(homemade.X)"]].concat());
    let ran = ran.output()?.expect_code(0)?.answer;
    claim!(ran.stdout == "1\n", "{}", ran.told());
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let chunk = |chunk: &[u8]| {
        let number = chunk.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let number = number << (8 * (3 - chunk.len()));
        let letter = |at: usize| match at <= chunk.len() {
            true => char::from(LETTERS[(number >> (18 - 6 * at)) as usize & 63]),
            false => '=',
        };
        [letter(0), letter(1), letter(2), letter(3)].iter().collect::<String>()
    };
    bytes.chunks(3).map(chunk).collect()
}

fn policy_bounds(stage: &Stage) -> Result<(), Failed> {
    let index = index()?;
    let folder = environment(stage, "paint", "python: [colours]\n")?;
    let store = stage.store().to_string_lossy().into_owned();
    let words = ["environments", "build", "paint", "--env-path", &folder, "--store", &store];
    let under = |policy: &str| {
        let policy = format!("version: 1\nname: bounded\n{policy}");
        with_index(stage, &index, &words).site_policy(&policy)?.output()
    };
    for (policy, said) in [
        ("build: {network: [loopback]}\n", "gives build steps no network"),
        ("build: {allow: false}\n", "does not allow building images"),
        ("build: {bases: [\"docker://r.example/*\"]}\n", "does not allow image `docker-archive:"),
        ("images: {allow: [\"docker-archive:*\"]}\n", "does not allow image `docker://localhost/"),
    ] {
        let refused = under(policy)?.expect_code(122)?.answer;
        claim!(refused.stderr.contains(said), "{policy}: {}", refused.told());
        claim!(refused.stderr.contains("policy `bounded`"), "{policy}: {}", refused.told());
    }
    claim!(index.asked() == 0, "a refused build asked the index");
    for (policy, said) in [
        ("build: {time: {default: 1ms}}\n", "time"),
        ("build: {layer: {default: 4KiB}}\n", "the layer has more than 4096 bytes"),
    ] {
        let failed = under(policy)?.answer;
        claim!(
            failed.code != Some(0) && failed.stderr.contains(said),
            "{policy}: {}",
            failed.told()
        );
    }
    // The twin: nothing of this stands in the way of a site that allows it.
    under("images: {allow: [\"docker-archive:*\", \"docker://localhost/*\"]}\n")?.expect_code(0)?;
    super::builds::no_work_left(stage)
}
