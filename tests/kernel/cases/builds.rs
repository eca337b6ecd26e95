//! What is built: without another program's help, by anybody, held like a task, leaving nothing.

use std::fs;

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::json;

use crate::case::{BOTH, Case, EVERYONE};
use crate::images::{Entry, Image};
use crate::launch::{Ran, Stage, claim};
use crate::leftovers::nothing_left;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("builds_what_runs_by_its_name", builds_what_runs).people(EVERYONE),
        Case::new("builds_again_what_has_changed_and_no_more", builds_again).people(BOTH),
        Case::new("build_copies_files_and_again_if_they_change", copies_files).people(BOTH),
        Case::new("build_step_has_owners_of_its_own", has_owners).people(BOTH),
        Case::new("build_step_is_held_like_a_task", is_held).people(EVERYONE),
        Case::new("build_steps_are_told_how_to_reach_packages", are_told).people(BOTH),
        Case::new("failed_build_shows_where_and_opens_a_shell", shows_where),
        Case::new("killed_build_leaves_nothing_to_the_next", leaves_nothing),
        Case::new("interrupted_build_leaves_nothing", interrupted),
        Case::new("builds_and_runs_images_of_many_layers", many_layers),
        Case::new("step_runs_as_an_account_of_the_image", runs_as_account),
        Case::new("accounts_of_the_image_have_what_is_theirs_in_later_steps", have_theirs),
        Case::new("working_directory_that_is_missing_is_made", workdir_is_made),
        Case::new("policy_forbids_building", policy_forbids).people(&[Person::Root]),
        Case::new("policy_bounds_what_a_build_step_takes", policy_bounds).people(&[Person::Root]),
    ]
}

/// A Dockerfile upon busybox, in a directory of its own.
pub(super) fn recipe(stage: &Stage, text: &str) -> Result<String, Failed> {
    let archive = Image::busybox(json!({"Env": ["PATH=/bin"]}))?.docker_archive()?;
    let base = stage.file("base.tar", archive)?;
    let folder = stage.directory("context")?;
    let text = format!("FROM docker-archive:{base}\n{text}\n");
    fs::write(format!("{folder}/Dockerfile"), text)?;
    Ok(folder)
}

pub(super) fn build(stage: &Stage, words: &[&str], folder: &str) -> Result<Ran, Failed> {
    let store = stage.store().to_string_lossy().into_owned();
    let all = [&["images", "build", "-t", "tool", "--store", &store], words, &[folder]].concat();
    stage.cli(&all).output()
}

pub(super) fn run_tool(stage: &Stage, words: &[&str]) -> Result<String, Failed> {
    let all = [&["run", "--image", "tool"], words].concat();
    Ok(stage.cli(&all).output()?.expect_code(0)?.answer.stdout)
}

/// What no build may leave in the store.
pub(super) fn no_work_left(stage: &Stage) -> Result<(), Failed> {
    let left: Vec<_> = fs::read_dir(stage.store().join("tmp"))?.collect::<Result<_, _>>()?;
    let names: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
    let mut whole = names.iter().filter(|name| !name.to_string_lossy().ends_with(".lock"));
    claim!(whole.next().is_none(), "the store has {names:?} in tmp");
    nothing_left(stage)
}

fn builds_what_runs(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN echo one >/made && mkdir -p /tmp/kept\nENV WHO=ada\nWORKDIR /srv/data\n\
                RUN <<EOF\npwd >here\necho $WHO >>here\nbusybox rm /made\nEOF\n\
                CMD [\"sh\", \"-c\", \"cat here; ls -d /tmp/kept /made; env\"]";
    let folder = recipe(stage, text)?;
    let built = build(stage, &[], &folder)?.expect_code(0)?;
    claim!(built.answer.stderr.contains("[1/5] RUN echo one"), "{}", built.answer.told());
    claim!(built.answer.stdout.starts_with("sha256:"), "{}", built.answer.told());
    let ran = stage.cli(&["run", "--image", "tool"]).output()?.answer;
    claim!(ran.stdout.starts_with("/srv/data\nada\n"), "{}", ran.told());
    claim!(ran.stdout.contains("WHO=ada"), "{}", ran.told());
    claim!(ran.stderr.contains("/made: No such file"), "what was removed is there: {}", ran.told());
    let (store, file) = (stage.store(), stage.home.join("tool.squashfs"));
    let file = format!("squashfs:{}", file.display());
    let words = ["images", "convert", "--store", &store.to_string_lossy(), "tool", &file];
    stage.cli(&words).output()?.expect_code(0)?;
    let words = ["run", "--image", &file, "--", "/bin/cat", "/srv/data/here"];
    let ran = stage.cli(&words).output()?.expect_code(0)?.answer;
    claim!(ran.stdout == "/srv/data\nada\n", "the built image as a file: {}", ran.told());
    no_work_left(stage)
}

fn builds_again(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN echo first-step\nRUN echo second-step >&2; echo a >/a";
    let folder = recipe(stage, text)?;
    let first = build(stage, &[], &folder)?.expect_code(0)?.answer;
    let again = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(again.stdout == first.stdout, "{} {}", first.told(), again.told());
    let ran = |answer: &crate::commands::Answer, step: &str| {
        answer.stderr.lines().any(|line| line == step)
    };
    claim!(ran(&first, "first-step") && ran(&first, "second-step"), "{}", first.told());
    claim!(!ran(&again, "first-step") && !ran(&again, "second-step"), "{}", again.told());
    let folder = recipe(stage, &text.replace("echo a", "echo b"))?;
    let changed = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(!ran(&changed, "first-step") && ran(&changed, "second-step"), "{}", changed.told());
    // The twin: without the cache all is made anew.
    let anew = build(stage, &["--no-cache"], &folder)?.expect_code(0)?.answer;
    claim!(ran(&anew, "first-step"), "{}", anew.told());
    no_work_left(stage)
}

fn copies_files(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN busybox mkdir /base && echo made >/base/made\nFROM busybox-again\n\
                WORKDIR /srv\nCOPY app app/\nCOPY --from=first /base/made .\n\
                RUN echo after-copy && cat app/main made";
    let folder = recipe(stage, text)?;
    let file = format!("{folder}/Dockerfile");
    let read = fs::read_to_string(&file)?;
    let base = read.lines().next().unwrap_or_default().to_owned();
    let read = read.replacen(&base, &format!("{base} AS first"), 1);
    fs::write(&file, read.replace("FROM busybox-again", &base))?;
    fs::create_dir_all(format!("{folder}/app/lib"))?;
    fs::write(format!("{folder}/app/main"), "one\n")?;
    fs::write(format!("{folder}/app/lib/secret.log"), "x")?;
    fs::write(format!("{folder}/.dockerignore"), "**/*.log\n")?;
    let says = |told: &crate::commands::Answer, line: &str| told.stderr.lines().any(|l| l == line);
    let first = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(says(&first, "one") && says(&first, "made"), "{}", first.told());
    let shown = run_tool(stage, &["--", "/bin/busybox", "find", "/srv"])?;
    let mut shown: Vec<&str> = shown.lines().collect();
    shown.sort_unstable();
    let expected = ["/srv", "/srv/app", "/srv/app/lib", "/srv/app/main", "/srv/made"];
    claim!(shown == expected, "the image has {shown:?}");
    // Written again with another time, and what is left out changed: nothing to be made.
    fs::write(format!("{folder}/app/lib/secret.log"), "y")?;
    let written = fs::File::create(format!("{folder}/app/main"))?;
    std::io::Write::write_all(&mut &written, b"one\n")?;
    written.set_modified(std::time::UNIX_EPOCH)?;
    let again = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(again.stdout == first.stdout && !says(&again, "after-copy"), "{}", again.told());
    fs::write(format!("{folder}/app/main"), "two\n")?;
    let changed = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(says(&changed, "two"), "{}", changed.told());
    no_work_left(stage)
}

/// Files can belong to any user of the image; a layer of root's store keeps that.
fn has_owners(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN echo x >/x && busybox chown 5:7 /x && stat -c 'owner %u:%g' /x";
    let folder = recipe(stage, text)?;
    let built = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(built.stderr.contains("\nowner 5:7\n"), "{}", built.told());
    if stage.person == Person::Root {
        let shown = run_tool(stage, &["--", "stat", "-c", "%u:%g", "/x"])?;
        claim!(shown == "5:7\n", "the layer says {shown}");
    }
    no_work_left(stage)
}

fn is_held(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN cat /proc/self/uid_map /proc/self/status; \
                mount -t tmpfs none /tmp; busybox mknod /null c 1 3; \
                echo 1 >/proc/sys/kernel/printk; busybox unshare -m true; \
                busybox test -e /etc/shadow || echo no-shadow; busybox ls /dev";
    let folder = recipe(stage, text)?;
    let told = build(stage, &[], &folder)?.answer;
    let lines: Vec<Vec<&str>> =
        told.stderr.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
    let maps_root_to_root = lines.iter().any(|words| words[..] == ["0", "0", "4294967295"]);
    claim!(!maps_root_to_root, "it is root of the machine: {}", told.told());
    let says = |words: &[&str]| lines.iter().any(|line| line[..] == *words);
    claim!(says(&["NoNewPrivs:", "1"]), "{}", told.told());
    claim!(says(&["Seccomp:", "2"]), "{}", told.told());
    claim!(says(&["CapEff:", "00000000800400fb"]), "{}", told.told());
    claim!(says(&["CapBnd:", "00000000800400fb"]), "{}", told.told());
    for denied in ["mount: ", "mknod: ", "unshare: ", "printk: "] {
        let refused = lines.iter().any(|line| line.join(" ").contains(denied));
        claim!(refused, "`{denied}` was not refused: {}", told.told());
    }
    claim!(told.stderr.contains("no-shadow"), "{}", told.told());
    no_work_left(stage)
}

/// What a step is told of the machine, and that nothing of it stays.
fn are_told(stage: &Stage) -> Result<(), Failed> {
    let certificates = stage.file("ca.pem", "the certificates\n")?;
    let folder = recipe(
        stage,
        "ENV NO_PROXY=image\nRUN echo proxy=$HTTPS_PROXY=; echo none=$NO_PROXY=; \
         cat \"$SSL_CERT_FILE\"; echo x >/x; echo y >/dev/machine/y; true\nCMD env",
    )?;
    let store = stage.store().to_string_lossy().into_owned();
    let words = ["images", "build", "-t", "tool", "--store", &store, &folder];
    let build = |proxy: &str, more: &[&str]| {
        let told = stage.cli(&[&words[..], more].concat()).variable("HTTPS_PROXY", proxy);
        let told = told.variable("NO_PROXY", "machine").variable("SSL_CERT_FILE", &certificates);
        Ok::<_, Failed>(told.output()?.expect_code(0)?.answer)
    };
    let first = build("http://ada:pass@p:1", &[])?;
    for line in ["proxy=http://ada:pass@p:1=", "none=image=", "the certificates"] {
        claim!(first.stderr.lines().any(|l| l == line), "`{line}` is missing: {}", first.told());
    }
    let ran = stage.cli(&["run", "--image", "tool"]).output()?.expect_code(0)?.answer;
    claim!(!ran.stdout.contains("p:1") && !ran.stdout.contains("machine"), "{}", ran.told());
    claim!(ran.stdout.contains("NO_PROXY=image"), "{}", ran.told());
    // Another proxy makes nothing anew, and made anew it is the same image.
    let again = build("http://q:2", &[])?;
    claim!(again.stderr.contains("as built before"), "{}", again.told());
    claim!(again.stdout == first.stdout, "{} {}", first.told(), again.told());
    let shown = run_tool(stage, &["--", "/bin/busybox", "ls", "/dev"])?;
    claim!(!shown.contains("machine"), "the image's /dev has {shown}");
    let kept = stage.cli(&["images", "inspect", "--store", &store, "tool"]).output()?;
    claim!(!kept.answer.stdout.contains("pass@"), "{}", kept.answer.told());
    // The twin: what policy does not want steps to know.
    let policy = stage.file("settings.yaml", "version: 1\nbuild: {settings: false}\n")?;
    let untold = build("http://q:2", &["--no-cache", "--policy", &policy])?;
    claim!(untold.stderr.lines().any(|l| l == "proxy=="), "{}", untold.told());
    no_work_left(stage)
}

fn shows_where(stage: &Stage) -> Result<(), Failed> {
    let folder = recipe(stage, "RUN echo left >/left\nRUN echo why >&2; exit 3")?;
    let failed = build(stage, &[], &folder)?.expect_code(3)?.answer;
    for part in ["Dockerfile:3:", "it ended with exit code 3", "  why\n", "localhost/tool-failed"] {
        claim!(failed.stderr.contains(part), "`{part}` is missing: {}", failed.told());
    }
    // The command as it is told, but for the terminal, which a test has not.
    let told = failed.stderr.split("run-in-container run -t ").nth(1).unwrap_or_default();
    let words: Vec<&str> = told.lines().next().unwrap_or_default().split(' ').collect();
    claim!(words.contains(&"--store"), "the store is not named: {}", failed.told());
    let words = [&["run"], &words[..], &["-c", "cat /left"]].concat();
    let shell = stage.cli_alone(&words).output()?.expect_code(0)?;
    claim!(shell.answer.stdout == "left\n", "{}", shell.answer.told());
    no_work_left(stage)
}

/// Changes of other owners, in directories that nobody may enter.
const CLOSED: &str = "RUN mkdir -p /d/e/f && echo x >/d/e/f/g && busybox chown -R 5:7 /d && \
                      busybox chmod 0 /d/e && echo ready >&2 && sleep 600";

fn leaves_nothing(stage: &Stage) -> Result<(), Failed> {
    let folder = recipe(stage, CLOSED)?;
    start_and_signal(stage, &folder, Signal::KILL)?;
    nothing_left(stage)?;
    let folder = recipe(stage, "RUN true")?;
    build(stage, &[], &folder)?.expect_code(0)?;
    no_work_left(stage)
}

fn interrupted(stage: &Stage) -> Result<(), Failed> {
    let folder = recipe(stage, CLOSED)?;
    start_and_signal(stage, &folder, Signal::INT)?;
    no_work_left(stage)
}

fn start_and_signal(stage: &Stage, folder: &str, signal: Signal) -> Result<(), Failed> {
    let store = stage.store().to_string_lossy().into_owned();
    let words = ["images", "build", "-t", "tool", "--json", "--store", &store, folder];
    let mut running = stage.cli(&words).start()?;
    running.wait_for_output("\"text\":\"ready\\n\"")?;
    running.signal(signal);
    let answer = running.wait()?;
    claim!(answer.code != Some(0), "{}", answer.told());
    Ok(())
}

/// More layers than a page of options of mount(2) holds by their paths, one of them twice.
fn many_layers(stage: &Stage) -> Result<(), Failed> {
    let mut image = Image::busybox(json!({"Env": ["PATH=/bin"]}))?;
    let file = |n: usize, text: &str| Entry::file(&format!("data/{n}"), 0o644, text);
    image.layers.extend((0..120).map(|n| vec![file(n, "n"), file(500, &n.to_string())]));
    let again = image.layers[60].clone();
    image.layers.push(again);
    let base = stage.file("many.tar", image.docker_archive()?)?;
    let folder = recipe(stage, "")?;
    let count = "ls /data | wc -l; cat /data/500";
    let text =
        format!("FROM docker-archive:{base}\nRUN {count}\nCMD [\"sh\", \"-c\", \"{count}\"]\n");
    fs::write(format!("{folder}/Dockerfile"), text)?;
    let built = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(built.stderr.contains("121\n59"), "{}", built.told());
    let ran = run_tool(stage, &[])?;
    claim!(ran == "121\n59", "{ran}");
    // Beyond what overlayfs stacks.
    let mut image = Image::busybox(json!({}))?;
    image.layers.extend((0..600).map(|n| vec![file(n, "n")]));
    let many = stage.file("most.tar", image.docker_archive()?)?;
    let words = ["run", "--image", &format!("docker-archive:{many}"), "--", "/bin/true"];
    let refused = stage.cli(&words).output()?.expect_code(125)?.answer;
    claim!(refused.stderr.contains("overlayfs stacks at most 499"), "{}", refused.told());
    no_work_left(stage)
}

fn runs_as_account(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN echo app:x:5:7::/srv:/bin/sh >/etc/passwd; echo staff:x:50: >/etc/group\n\
                USER app\nWORKDIR /w\nRUN echo \"$(id -u) $(id -g) $HOME\"\n\
                USER app:staff\nRUN echo \"$(id -u) $(id -g)\"\n\
                USER 1000\nENV HOME=/own\nRUN echo \"$(id -u) $(id -g) $HOME\"\n\
                USER nobodyhere\nRUN true";
    let folder = recipe(stage, text)?;
    let failed = build(stage, &[], &folder)?.expect_code(125)?.answer;
    for line in ["5 7 /srv", "5 50", "1000 0 /own"] {
        let is_said = failed.stderr.lines().any(|said| said == line);
        claim!(is_said, "`{line}` is missing: {}", failed.told());
    }
    for part in ["Dockerfile:12", "the image's /etc/passwd has no `nobodyhere`"] {
        claim!(failed.stderr.contains(part), "`{part}` is missing: {}", failed.told());
    }
    no_work_left(stage)
}

/// Who builds owns all of the layers on disk, unless that is root; a step sees what they say.
fn have_theirs(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN echo app:x:1000:1000::/srv/app:/bin/sh >/etc/passwd\n\
                RUN printf 'app:x:1000:\\ndata:x:2000:app\\n' >/etc/group\n\
                RUN busybox mkdir -p /srv/app/inner /data /closed && echo old >/srv/app/file && \
                busybox chown -R app:app /srv/app && busybox chmod 700 /srv/app && \
                busybox chown 0:2000 /data && busybox chmod 2775 /data && \
                busybox chmod 600 /srv/app/file && busybox chmod 755 /closed\n\
                USER app\nWORKDIR /srv/app/made\n\
                RUN echo new >../inner/new && echo more >>../file && touch /data/shared\n\
                RUN touch /closed/no 2>/dev/null || echo kept-out\n\
                RUN touch here && echo in-its-own-directory\n\
                USER 0\nRUN touch /srv/app/inner/of-root\n\
                COPY --from=first /srv/app /copied/\n\
                USER app:app\nRUN touch /data/alone 2>/dev/null || echo no-member\n\
                RUN touch /srv/app/inner/last && busybox cat /copied/file && cd / && \
                busybox stat -c 'is %n %u %g %a' srv/app srv/app/file srv/app/inner \
                srv/app/inner/new srv/app/inner/of-root data data/shared copied/file \
                copied/inner";
    let folder = recipe(stage, text)?;
    let file = format!("{folder}/Dockerfile");
    let read = fs::read_to_string(&file)?;
    let (base, steps) = read.split_once('\n').unwrap_or_default();
    let until = steps.find("RUN echo new").unwrap_or_default();
    let first = &steps[..until];
    fs::write(&file, format!("{base} AS first\n{first}\n{base}\n{steps}"))?;
    let told = build(stage, &[], &folder)?.expect_code(0)?.answer;
    for line in [
        "kept-out",
        "in-its-own-directory",
        "no-member",
        "old",
        "is srv/app 1000 1000 700",
        "is srv/app/file 1000 1000 600",
        "is srv/app/inner 1000 1000 755",
        "is srv/app/inner/new 1000 1000 644",
        "is srv/app/inner/of-root 0 0 644",
        "is data 0 2000 2775",
        "is data/shared 1000 2000 644",
        "is copied/file 1000 1000 600",
        "is copied/inner 1000 1000 755",
    ] {
        let is_said = told.stderr.lines().any(|said| said == line);
        claim!(is_said, "`{line}` is missing: {}", told.told());
    }
    no_work_left(stage)
}

/// As Docker does: of the image that is built upon, too.
fn workdir_is_made(stage: &Stage) -> Result<(), Failed> {
    let config = json!({"Env": ["PATH=/bin"], "WorkingDir": "/gone/away"});
    let base = stage.file("gone.tar", Image::busybox(config)?.docker_archive()?)?;
    let folder = recipe(stage, "")?;
    let text =
        format!("FROM docker-archive:{base}\nRUN pwd; echo x >here\nCMD [\"cat\", \"here\"]\n");
    fs::write(format!("{folder}/Dockerfile"), text)?;
    let built = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(built.stderr.lines().any(|line| line == "/gone/away"), "{}", built.told());
    let ran = run_tool(stage, &[])?;
    claim!(ran == "x\n", "{ran}");
    no_work_left(stage)
}

fn policy_forbids(stage: &Stage) -> Result<(), Failed> {
    let folder = recipe(stage, "RUN true")?;
    let policy = stage.file("policy.yaml", "version: 1\nbuild: {allow: false}\n")?;
    let refused = build(stage, &["--policy", &policy], &folder)?.expect_code(122)?.answer;
    claim!(refused.stderr.contains("does not allow building images"), "{}", refused.told());
    let policy = stage.file("bases.yaml", "version: 1\nbuild: {bases: ['docker://r/*']}\n")?;
    let refused = build(stage, &["--policy", &policy], &folder)?.expect_code(122)?.answer;
    claim!(refused.stderr.contains("it allows `docker://r/*`"), "{}", refused.told());
    // The twin.
    build(stage, &[], &folder)?.expect_code(0)?;
    no_work_left(stage)
}

fn policy_bounds(stage: &Stage) -> Result<(), Failed> {
    let folder = recipe(stage, "RUN busybox dd if=/dev/zero of=/large bs=65536 count=64")?;
    let policy = stage.file("policy.yaml", "version: 1\nbuild: {layer: {most: 1MiB}}\n")?;
    let failed = build(stage, &["--policy", &policy], &folder)?.expect_code(125)?.answer;
    claim!(failed.stderr.contains("more than 1048576 bytes"), "{}", failed.told());
    no_work_left(stage)?;
    let slow = recipe(stage, "RUN sleep 600")?;
    let policy = stage.file("time.yaml", "version: 1\nbuild: {time: {most: 1s}}\n")?;
    let failed = build(stage, &["--policy", &policy], &slow)?.expect_code(124)?.answer;
    claim!(failed.stderr.contains("RUN sleep 600"), "{}", failed.told());
    // The twin.
    let folder = recipe(stage, "RUN busybox dd if=/dev/zero of=/large bs=65536 count=64")?;
    build(stage, &[], &folder)?.expect_code(0)?;
    no_work_left(stage)
}
