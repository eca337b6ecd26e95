//! Sandboxes that Docker starts: the claims of the embedded engine once more, and those about what
//! lies between.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::json;

use crate::case::Case;
use crate::commands::Input;
use crate::images::Image;
use crate::launch::{Cli, Stage, claim};
use crate::needs::Need;
use crate::person::Person;
use crate::posture::PYTHON;

/// Claims about the embedded engine that must hold here too; those about what a sandbox looks like
/// from inside are beside them (`cases/posture.rs`).
const ALSO: &[&str] = &[
    "cannot_reach_a_process_of_its_own_user",
    "has_no_network_but_loopback",
    "cannot_see_ipc_of_the_machine",
    "inherits_no_descriptor",
    "gives_a_usable_terminal",
    "memory_filesystems_are_bounded",
    "passes_standard_streams_through",
    "too_much_memory_is_told_from_other_kills",
    "fork_bomb_is_contained",
    "kill_by_the_task_itself_is_not_out_of_memory",
    "time_limit_ends_everything",
    "stubborn_task_ends_in_time_too",
    "flood_of_output_is_bounded",
    "children_that_stay_are_ended",
    "zombies_are_reaped",
    "passes_signals_to_the_task",
    "call_returns_its_result_as_json",
    "call_digests_what_travels",
    "call_keeps_prints_apart_from_the_result",
    "call_shows_the_traceback_as_written",
    "call_reports_how_a_function_ended",
];

/// All of them; `embedded` are those about the embedded engine.
pub(crate) fn cases(embedded: &[Case]) -> Vec<Case> {
    let again = ALSO.iter().map(|name| {
        let found = embedded.iter().find(|case| case.name() == *name);
        found.unwrap_or_else(|| panic!("there is no case {name}")).on_docker()
    });
    let heard = Case::new("control_socket_hears_nobody_else", control_socket_hears_nobody_else);
    let again = again.chain([heard.on_docker()]);
    let own = vec![
        Case::new("docker_runs_an_image_of_its_own_without_loading_it", runs_what_docker_has),
        Case::new("docker_is_given_an_image_of_the_store_once", is_given_an_image_once),
        Case::new("docker_container_of_a_dead_owner_ends_and_is_removed", dead_owners),
        Case::new("docker_mounts_what_the_caller_opened", mounts_what_was_opened),
        Case::new("docker_that_mounts_something_else_is_found_out", swapped_mount),
        Case::new("docker_refuses_by_name_what_it_cannot_do", refuses_by_name),
        Case::new("docker_files_go_in_and_out", files_go_in_and_out),
        Case::new("docker_refuses_a_writable_mount_below_a_read_only_one", writable_below)
            .people(&[Person::Root]),
    ];
    let own = own.into_iter().map(|case| case.needs(&[Need::Busybox, Need::Dockerd]));
    again.chain(own).collect()
}

/// A name that no other case and person uses.
fn name_of(stage: &Stage, name: &str) -> String {
    format!("engine-{name}-{}:1", stage.person.name())
}

fn on_docker<'a>(stage: &'a Stage, words: &[&str]) -> Result<Cli<'a>, Failed> {
    let (verb, rest) = words.split_first().ok_or("no words")?;
    let words: Vec<&str> = [*verb, "--engine", "docker"].iter().chain(rest).copied().collect();
    Ok(stage.cli(&words).variable("DOCKER_HOST", &stage.world.docker()?.host()))
}

/// Gives Docker a root of busybox, and returns its reference and its ID.
fn import(stage: &Stage, name: &str) -> Result<(String, String), Failed> {
    let root = stage.home.join(format!("root-{name}"));
    crate::images::fill_root(&root)?;
    std::fs::write(root.join("word"), name)?;
    let name = name_of(stage, name);
    let id = stage.world.docker()?.import(&root, &name, &[])?;
    Ok((format!("docker-daemon:{name}"), id))
}

/// Containers whose label and image are ours, in any state.
fn containers_of(stage: &Stage, image: &str) -> Result<Vec<String>, Failed> {
    let by_image = format!("ancestor={image}");
    let words = ["ps", "-a", "--no-trunc", "-q", "-f", "label=run-in-container", "-f", &by_image];
    Ok(stage.world.docker()?.docker(&words)?.lines().map(str::to_owned).collect())
}

fn runs_what_docker_has(stage: &Stage) -> Result<(), Failed> {
    let docker = stage.world.docker()?;
    let (image, id) = import(stage, "has")?;
    let ran = on_docker(stage, &["run", "--json", "--image", &image, "--", "/bin/cat", "/word"])?;
    let ran = ran.output()?.expect_code(0)?.expect_status("ok")?;
    claim!(ran.outcome["stdout"] == "has", "{}", ran.outcome);
    claim!(ran.outcome["container"]["engine"] == "docker", "{}", ran.outcome);
    claim!(ran.outcome["enforced"]["seccomp"] == "restricted", "{}", ran.outcome);
    let left = containers_of(stage, &id)?;
    claim!(left.is_empty(), "left behind: {left:?}");
    // What is loaded gets a name of ours.
    let tags = docker.docker(&["image", "inspect", "-f", "{{.RepoTags}}", &id])?;
    claim!(!tags.contains("run-in-container:"), "it was loaded again: {tags}");
    Ok(())
}

fn is_given_an_image_once(stage: &Stage) -> Result<(), Failed> {
    let docker = stage.world.docker()?;
    let unique = stage.home.to_string_lossy().into_owned();
    let image = Image::busybox(json!({"Labels": {"for": unique}}))?;
    let archive = stage.file("image.tar", image.docker_archive()?)?;
    let image = format!("docker-archive:{archive}");
    let given = |label: &str| {
        let label = format!("label=for={label}");
        docker.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", "-f", &label])
    };
    claim!(given(&unique)?.is_empty(), "no control: it is there before");
    let run = || -> Result<(), Failed> {
        let words = ["run", "--image", &image, "--", "/bin/true"];
        on_docker(stage, &words)?.output()?.expect_code(0).map(drop)
    };
    run()?;
    let name = given(&unique)?;
    claim!(name.starts_with("run-in-container:"), "it is called {name:?}");
    // A second time nothing is given: where the store has lost a layer, the first could not be.
    for blob in std::fs::read_dir(stage.store().join("blobs/sha256"))?.flatten() {
        if blob.metadata()?.len() > 100_000 {
            std::fs::remove_file(blob.path())?;
        }
    }
    run()?;
    docker.docker(&["rmi", name.trim()])?;
    let words = ["run", "--image", &image, "--", "/bin/true"];
    let ran = on_docker(stage, &words)?.output()?;
    claim!(ran.answer.stderr.contains("cannot give the image"), "no twin: {}", ran.answer.told());
    Ok(())
}

/// A command line that is killed cannot remove its container; the container ends, and whoever
/// starts the next one removes it.
fn dead_owners(stage: &Stage) -> Result<(), Failed> {
    let docker = stage.world.docker()?;
    let (image, id) = import(stage, "dead")?;
    let words = ["run", "--image", &image, "--", "/bin/sh", "-c", "echo begun; sleep 600"];
    let mut running = on_docker(stage, &words)?.start()?;
    running.wait_for_output("begun")?;
    let alive = containers_of(stage, &id)?;
    claim!(alive.len() == 1, "its container: {alive:?}");
    running.signal(Signal::KILL);
    running.wait()?;
    // It ends by itself: `docker wait` returns when it has.
    docker.docker(&["wait", &alive[0]])?;
    claim!(containers_of(stage, &id)?.len() == 1, "no control: somebody has removed it");
    on_docker(stage, &["run", "--image", &image, "--", "/bin/true"])?.output()?.expect_code(0)?;
    let left = containers_of(stage, &id)?;
    claim!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// The site's policy: a user's own could only take away.
fn with_mounts(folder: &str) -> String {
    format!("version: 1\nname: test\nmounts: [{{source: {folder}, access: read-write}}]\n")
}

fn mounts_what_was_opened(stage: &Stage) -> Result<(), Failed> {
    let (image, _) = import(stage, "mounts")?;
    let data = stage.directory("data")?;
    std::fs::write(Path::new(&data).join("in"), "inside")?;
    let policy = with_mounts(&data);
    let run = |access: &str| -> Result<_, Failed> {
        let mount = format!("{data}:/data:{access}");
        let look = "cat /data/in; echo out > /data/out";
        let words = ["run", "--mount", &mount, "--image", &image, "--", "/bin/sh", "-c", look];
        on_docker(stage, &words)?.site_policy(&policy)?.output()
    };
    let read = run("ro")?;
    claim!(read.answer.stdout == "inside", "{}", read.answer.told());
    claim!(read.answer.stderr.contains("Read-only file system"), "{}", read.answer.told());
    if stage.person == Person::Root {
        // Root's task is nobody, who may write there only if root lets it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&data, open)?;
    }
    run("rw")?.expect_code(0)?;
    let written = std::fs::read_to_string(Path::new(&data).join("out"))?;
    claim!(written == "out\n", "{written:?}");
    Ok(())
}

/// Docker follows a path by name. Between the caller's looking and that, another directory is put
/// there, by a go-between on the socket; the task never runs.
fn swapped_mount(stage: &Stage) -> Result<(), Failed> {
    let (image, id) = import(stage, "swaps")?;
    let data = stage.directory("data")?;
    let other = stage.directory("other")?;
    let policy = with_mounts(&data);
    let mount = format!("{data}:/data");
    let words = ["run", "--mount", &mount, "--image", &image, "--", "/bin/true"];
    let host = stage.world.docker()?.host();
    let real = PathBuf::from(host.trim_start_matches("unix://"));
    for (swaps, code) in [(false, 0), (true, 125)] {
        let between = stage.home.join(format!("between-{swaps}.sock"));
        let listener = UnixListener::bind(&between)?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&between, open)?;
        let (from, to) = (PathBuf::from(&data), PathBuf::from(&other));
        let real = real.clone();
        let swap = move || {
            if swaps && to.exists() {
                let aside = from.with_extension("aside");
                let _ = std::fs::rename(&from, aside).and_then(|()| std::fs::rename(&to, &from));
            }
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = pass_on(stream, &real, &swap);
            }
        });
        let host = format!("unix://{}", between.display());
        let words: Vec<&str> =
            ["run", "--engine", "docker"].iter().chain(&words[1..]).copied().collect();
        let ran = stage.cli(&words).variable("DOCKER_HOST", &host).site_policy(&policy)?;
        let ran = ran.output()?.expect_code(code)?;
        let said = ran.answer.stderr.contains("finding what was opened for /data");
        claim!(said == swaps, "{}", ran.answer.told());
        let left = containers_of(stage, &id)?;
        claim!(left.is_empty(), "left behind: {left:?}");
    }
    Ok(())
}

/// Passes one connection on to the daemon; calls `swap` before a container is made.
fn pass_on(
    mut caller: UnixStream,
    daemon: &Path,
    swap: &(impl Fn() + Send),
) -> std::io::Result<()> {
    let mut daemon = UnixStream::connect(daemon)?;
    let (mut answers, mut back) = (daemon.try_clone()?, caller.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
    let mut bytes = vec![0; 64 << 10];
    loop {
        let length = caller.read(&mut bytes)?;
        if length == 0 {
            return daemon.shutdown(std::net::Shutdown::Write);
        }
        if bytes[..length].windows(18).any(|part| part == b"/containers/create") {
            swap();
        }
        daemon.write_all(&bytes[..length])?;
    }
}

/// The socket is there to be seen, and whoever made it has stopped listening.
fn control_socket_hears_nobody_else(stage: &Stage) -> Result<(), Failed> {
    let script = "import socket\n\
        def connect(path):\n\
        \x20   with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:\n\
        \x20       try: s.connect(path); return 'heard'\n\
        \x20       except OSError as error: return error.strerror\n\
        own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        own.bind('/tmp/own'); own.listen()\n\
        print(connect('/tmp/own'), connect('/run-in-container/control'))";
    let ran = stage.cli(&["run", "--", PYTHON, "-c", script]).output()?.expect_code(0)?;
    claim!(ran.answer.stdout == "heard Connection refused\n", "{}", ran.answer.told());
    Ok(())
}

fn refuses_by_name(stage: &Stage) -> Result<(), Failed> {
    let (image, _) = import(stage, "refuses")?;
    let refused = |words: &[&str], expected: &str| -> Result<(), Failed> {
        let ran = on_docker(stage, words)?.output()?.expect_code(122)?;
        claim!(ran.answer.stderr.contains(expected), "{expected}: {}", ran.answer.told());
        Ok(())
    };
    refused(&["run", "--", "/bin/true"], "Docker's containers are made of layers")?;
    let words = ["run", "--user", "root", "--image", &image, "--", "/bin/true"];
    refused(&words, "needs a user namespace of its own")?;
    let policy = stage.file("policy.yaml", "version: 1\nname: test\nengines: [native]\n")?;
    let words = ["run", "--policy", &policy, "--image", &image, "--", "/bin/true"];
    refused(&words, "does not allow engine `docker`")?;
    let nowhere = format!("unix://{}/none.sock", stage.home.display());
    let words = ["run", "--engine", "docker", "--image", "host:", "--", "/bin/true"];
    let ran = stage.cli(&words).variable("DOCKER_HOST", &nowhere).output()?.expect_code(122)?;
    claim!(ran.answer.stderr.contains("no Docker or Podman listens"), "{}", ran.answer.told());
    Ok(())
}

fn files_go_in_and_out(stage: &Stage) -> Result<(), Failed> {
    let (image, _) = import(stage, "files")?;
    let input = stage.file("numbers", "1 2 3\n")?;
    let output = stage.home.join("result").to_string_lossy().into_owned();
    let (input, named) = (format!("{input}=in"), format!("out={output}"));
    let words = ["run", "--input", &input, "--output", &named, "--image", &image, "--"];
    let script = ["/bin/sh", "-c", "cat in > out; echo from >> out"];
    let ran = on_docker(stage, &[&words[..], &script].concat())?.input(Input::Null);
    ran.output()?.expect_code(0)?;
    let written = std::fs::read_to_string(&output)?;
    claim!(written == "1 2 3\nfrom\n", "{written:?}");
    Ok(())
}

/// Docker before version 25 leaves the mounts below a read-only one as they are.
fn writable_below(stage: &Stage) -> Result<(), Failed> {
    let data = stage.directory("data")?;
    let below = stage.directory("data/below")?;
    let policy = with_mounts(&data);
    let mount = format!("{data}:/data");
    let (image, _) = import(stage, "below")?;
    let words = ["run", "--mount", &mount, "--image", &image, "--", "/bin/true"];
    on_docker(stage, &words)?.site_policy(&policy)?.output()?.expect_code(0)?;
    crate::commands::Command::new(&["mount", "-t", "tmpfs", "none", &below]).output()?;
    let ran = on_docker(stage, &words)?.site_policy(&policy)?.output();
    crate::commands::Command::new(&["umount", &below]).output()?;
    let ran = ran?.expect_code(125)?;
    claim!(ran.answer.stderr.contains("mount /data/below"), "{}", ran.answer.told());
    Ok(())
}
