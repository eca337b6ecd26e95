//! What steps of a build mount: caches that stay, secrets that do not, files of elsewhere, memory.

use std::fs;

use libtest_mimic::Failed;
use rustix::process::Signal;
use serde_json::json;

use super::builds::{build, no_work_left, recipe, run_tool};
use crate::case::Case;
use crate::commands::Answer;
use crate::images::{Entry, Image};
use crate::launch::{Stage, claim};
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let all = vec![
        Case::new("cache_of_a_build_stays_and_is_in_no_layer", cache_stays),
        Case::new("cache_of_a_build_belongs_to_whom_it_says", cache_has_an_owner),
        Case::new("secret_of_a_build_is_seen_by_its_step_alone", secret_is_seen),
        Case::new("secret_that_is_missing_is_an_error_only_if_required", secret_is_missing),
        Case::new("killed_build_leaves_no_secret_to_find", no_secret_left),
        Case::new("bound_files_are_seen_and_in_no_layer", bound_files),
        Case::new("bound_files_make_a_step_anew_only_if_they_change", bound_files_count),
        Case::new("memory_of_a_build_step_is_gone_after_it", memory_is_gone),
        Case::new("copies_files_of_an_image", copies_of_image),
        Case::new("policy_bounds_images_that_files_are_copied_of", policy_bounds_images)
            .people(&[Person::Root]),
    ];
    all.into_iter().map(|case| case.needs(&[Need::Busybox])).collect()
}

fn says(told: &Answer, line: &str) -> bool {
    told.stderr.lines().any(|said| said == line)
}

/// What is in no image, by the image's own `ls`.
fn is_not_there(stage: &Stage, path: &str) -> Result<(), Failed> {
    let words = ["run", "--image", "tool", "--", "/bin/ls", path];
    let told = stage.cli(&words).output()?.answer;
    claim!(told.stderr.contains("No such file"), "{path} is in the image: {}", told.told());
    Ok(())
}

fn cache_stays(stage: &Stage) -> Result<(), Failed> {
    // The directory above keeps its mode, though the step writes beside the cache.
    let step = |word: &str| {
        format!(
            "RUN busybox mkdir -m 751 /kept-in\n\
             RUN --mount=type=cache,target=/kept-in/.cache echo {word} >>/kept-in/.cache/log && \
             cat /kept-in/.cache/log && echo beside >/kept-in/beside"
        )
    };
    let folder = recipe(stage, &step("one"))?;
    let first = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(says(&first, "one"), "{}", first.told());
    let again = build(stage, &[], &folder)?.expect_code(0)?.answer;
    claim!(again.stdout == first.stdout && !says(&again, "one"), "{}", again.told());
    let second = build(stage, &[], &recipe(stage, &step("two"))?)?.expect_code(0)?.answer;
    claim!(says(&second, "one") && says(&second, "two"), "{}", second.told());
    let seen = run_tool(
        stage,
        &[
            "--",
            "/bin/sh",
            "-c",
            "stat -c %a /kept-in; ls -A /kept-in/beside /kept-in/.cache; true",
        ],
    )?;
    claim!(seen == "751\n/kept-in/beside\n", "{seen}");
    // The twin: another name is another cache.
    let other = step("three").replace("target=", "id=other,target=");
    let third = build(stage, &[], &recipe(stage, &other)?)?.expect_code(0)?.answer;
    claim!(says(&third, "three") && !says(&third, "two"), "{}", third.told());
    let store = stage.store().to_string_lossy().into_owned();
    let gc = |words: &[&str]| -> Result<serde_json::Value, Failed> {
        let all = [&["images", "gc", "--json", "--store", &store], words].concat();
        Ok(stage.cli(&all).output()?.expect_code(0)?.outcome)
    };
    claim!(gc(&[])?["caches"] == 0, "a cache went that nobody minded");
    claim!(gc(&["--max-size", "1KiB"])?["caches"] == 2, "caches are counted");
    let fourth = build(stage, &["--no-cache"], &recipe(stage, &step("four"))?)?.expect_code(0)?;
    claim!(!says(&fourth.answer, "one"), "the cache is still there: {}", fourth.answer.told());
    no_work_left(stage)
}

fn cache_has_an_owner(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN --mount=type=cache,target=/c,uid=5,gid=7,mode=0750 stat -c '%u %g %a' /c\n\
                USER 5:7\n\
                RUN --mount=type=cache,target=/c,uid=5,gid=7,mode=0750 \
                echo mine >/c/a && cat /c/a\n\
                RUN --mount=type=cache,target=/c,ro echo no >/c/b || echo read-only";
    let folder = recipe(stage, text)?;
    let told = build(stage, &[], &folder)?.expect_code(0)?.answer;
    for line in ["5 7 750", "mine", "read-only"] {
        claim!(says(&told, line), "`{line}` is missing: {}", told.told());
    }
    no_work_left(stage)
}

/// Fails if a text is anywhere in the store: in a layer as it is packed it could not be seen, so
/// nothing packed may hold it either, which the step's own output says.
fn is_nowhere(stage: &Stage, text: &str) -> Result<(), Failed> {
    let store = stage.store().to_string_lossy().into_owned();
    let found = crate::commands::Command::new(&["grep", "-rlF", text, &store]).output()?;
    claim!(found.code == Some(1), "{text} is in the store: {}", found.told());
    let shared = fs::read_dir("/dev/shm")?.flatten().map(|entry| entry.file_name());
    let ours: Vec<_> =
        shared.filter(|name| name.to_string_lossy().starts_with("run-in-container")).collect();
    let base = |name: &std::ffi::OsString| {
        let at = std::path::Path::new("/dev/shm").join(name);
        fs::read_to_string(at).is_ok_and(|held| held.contains(text))
    };
    claim!(!ours.iter().any(base), "{ours:?} hold {text}");
    Ok(())
}

fn secret_is_seen(stage: &Stage) -> Result<(), Failed> {
    // Another run of the tests may be at the same.
    let secret = format!("hunter2-{}-{}", stage.person.name(), std::process::id());
    let text = "RUN --mount=type=secret,id=key --mount=type=secret,id=word,env=WORD,target=/w \
                wc -c </run/secrets/key; stat -c '%a %u' /run/secrets/key; \
                stat -f -c %T /run/secrets/key; test \"$WORD\" = \"$(cat /w)\" && echo same; \
                echo x >/run/secrets/key || echo read-only; echo kept >/kept";
    let folder = recipe(stage, text)?;
    let file = stage.file("key", &secret)?;
    let from = format!("id=key,src={file}");
    let words = ["--secret", &from, "--secret", "id=word,env=SECRET_WORD"];
    let store = stage.store().to_string_lossy().into_owned();
    let all = [&["images", "build", "-t", "tool", "--store", &store], &words[..], &[&folder]];
    let word = format!("{secret}-word");
    let run = || stage.cli(&all.concat()).variable("SECRET_WORD", &word).output();
    let told = run()?.expect_code(0)?.answer;
    for line in [&secret.len().to_string(), "400 0", "tmpfs", "same", "read-only"] {
        claim!(says(&told, line), "`{line}` is missing: {}", told.told());
    }
    claim!(!told.told().contains(&secret), "the secret is told: {}", told.told());
    is_nowhere(stage, &secret)?;
    let image = format!("docker-archive:{}", stage.home.join("out.tar").display());
    let words = ["images", "convert", "--store", &store, "tool", &image];
    stage.cli(&words).output()?.expect_code(0)?;
    let packed = fs::read(stage.home.join("out.tar"))?;
    claim!(!String::from_utf8_lossy(&packed).contains(&secret), "the secret is in the image");
    is_not_there(stage, "/run/secrets")?;
    is_not_there(stage, "/w")?;
    // Another secret makes nothing anew.
    fs::write(&file, "another")?;
    let again = run()?.expect_code(0)?.answer;
    claim!(again.stdout == told.stdout && !says(&again, "same"), "{}", again.told());
    no_work_left(stage)
}

fn secret_is_missing(stage: &Stage) -> Result<(), Failed> {
    let step = "RUN --mount=type=secret,id=key ls /run/secrets/key || echo absent";
    let told = build(stage, &[], &recipe(stage, step)?)?.expect_code(0)?.answer;
    claim!(says(&told, "absent"), "{}", told.told());
    let folder = recipe(stage, &step.replace("id=key", "id=key,required=true"))?;
    let refused = build(stage, &[], &folder)?.expect_code(125)?.answer;
    for part in ["Dockerfile:2", "the secret `key` is required", "--secret id=key,src=FILE"] {
        claim!(refused.stderr.contains(part), "`{part}` is missing: {}", refused.told());
    }
    let words = ["--secret", "id=key,src=/nowhere/key"];
    let refused = build(stage, &words, &folder)?.expect_code(125)?.answer;
    claim!(refused.stderr.contains("cannot read the secret `key`"), "{}", refused.told());
    claim!(refused.stderr.contains("/nowhere/key"), "{}", refused.told());
    no_work_left(stage)
}

fn no_secret_left(stage: &Stage) -> Result<(), Failed> {
    let step = "RUN --mount=type=secret,id=key echo ready >&2 && sleep 600";
    let folder = recipe(stage, step)?;
    let secret = format!("left-{}", stage.world.fresh_name());
    let from = format!("id=key,src={}", stage.file("key", &secret)?);
    let store = stage.store().to_string_lossy().into_owned();
    let words = ["images", "build", "-t", "tool", "--json", "--store", &store];
    let words = [&words[..], &["--secret", &from, &folder]].concat();
    let mut running = stage.cli(&words).start()?;
    running.wait_for_output("\"text\":\"ready\\n\"")?;
    is_nowhere(stage, &secret)?;
    running.signal(Signal::KILL);
    running.wait()?;
    is_nowhere(stage, &secret)
}

fn bound_files(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN busybox mkdir -p /src /made && echo image >/src/hidden && echo made >/made/a\n\
                FROM again\n\
                RUN busybox mkdir /src && echo image >/src/hidden\n\
                RUN --mount=type=bind,source=files,target=/src \
                --mount=from=first,source=/made,target=/m \
                busybox find /src /m && cat /src/one /m/a && stat -c %u /src/one; \
                echo no >/src/new || echo read-only\n\
                RUN --mount=target=/all,rw \
                echo yes >/all/files/new && cat /all/files/new && ls /all";
    let folder = recipe(stage, text)?;
    let file = format!("{folder}/Dockerfile");
    let read = fs::read_to_string(&file)?;
    let base = read.lines().next().unwrap_or_default().to_owned();
    let read = read.replacen(&base, &format!("{base} AS first"), 1).replace("FROM again", &base);
    fs::write(&file, read)?;
    fs::create_dir_all(format!("{folder}/files"))?;
    fs::write(format!("{folder}/files/one"), "of the context\n")?;
    fs::write(format!("{folder}/files/ignored"), "x")?;
    fs::write(format!("{folder}/.dockerignore"), "files/ignored\n")?;
    let told = build(stage, &[], &folder)?.expect_code(0)?.answer;
    let lines = ["/src", "/src/one", "of the context", "/m/a", "made", "0", "read-only", "yes"];
    for line in lines {
        claim!(says(&told, line), "`{line}` is missing: {}", told.told());
    }
    for line in ["/src/hidden", "/src/ignored"] {
        claim!(!says(&told, line), "`{line}` is seen: {}", told.told());
    }
    let seen = run_tool(stage, &["--", "/bin/busybox", "find", "/src"])?;
    claim!(seen == "/src\n/src/hidden\n", "{seen}");
    is_not_there(stage, "/m")?;
    is_not_there(stage, "/all")?;
    claim!(!fs::exists(format!("{folder}/files/new"))?, "the step wrote into the context");
    no_work_left(stage)
}

fn bound_files_count(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN --mount=source=files,target=/src cat /src/one";
    let folder = recipe(stage, text)?;
    fs::create_dir_all(format!("{folder}/files"))?;
    fs::write(format!("{folder}/files/one"), "first\n")?;
    fs::write(format!("{folder}/other"), "x")?;
    let build = || build(stage, &[], &folder);
    claim!(says(&build()?.expect_code(0)?.answer, "first"), "it did not run");
    fs::write(format!("{folder}/other"), "y")?;
    fs::write(format!("{folder}/files/one"), "first\n")?;
    let again = build()?.expect_code(0)?.answer;
    claim!(!says(&again, "first"), "{}", again.told());
    fs::write(format!("{folder}/files/one"), "second\n")?;
    let changed = build()?.expect_code(0)?.answer;
    claim!(says(&changed, "second"), "{}", changed.told());
    fs::remove_dir_all(format!("{folder}/files"))?;
    let failed = build()?.expect_code(125)?.answer;
    claim!(failed.stderr.contains("files"), "{}", failed.told());
    claim!(failed.stderr.contains("Dockerfile:2"), "{}", failed.told());
    no_work_left(stage)
}

fn memory_is_gone(stage: &Stage) -> Result<(), Failed> {
    let text = "RUN --mount=type=tmpfs,target=/mem,size=1m stat -f -c %T /mem; echo x >/mem/x; \
                busybox dd if=/dev/zero of=/mem/y bs=65536 count=32 || echo full\n\
                RUN ls /mem || echo gone";
    let told = build(stage, &[], &recipe(stage, text)?)?.expect_code(0)?.answer;
    for line in ["tmpfs", "full", "gone"] {
        claim!(says(&told, line), "`{line}` is missing: {}", told.told());
    }
    no_work_left(stage)
}

/// An image with one file besides busybox.
fn other_image(stage: &Stage) -> Result<String, Failed> {
    let mut image = Image::busybox(json!({}))?;
    image.layers.push(vec![Entry::file("data/word", 0o640, "from the image\n")]);
    Ok(format!("docker-archive:{}", stage.file("other.tar", image.docker_archive()?)?))
}

fn copies_of_image(stage: &Stage) -> Result<(), Failed> {
    let other = other_image(stage)?;
    let text = format!(
        "COPY --from={other} /data/word /copied\nRUN cat /copied; stat -c %a /copied\n\
         RUN --mount=from={other},source=/data,target=/d cat /d/word && echo bound"
    );
    let told = build(stage, &[], &recipe(stage, &text)?)?.expect_code(0)?.answer;
    for line in ["from the image", "640", "bound"] {
        claim!(says(&told, line), "`{line}` is missing: {}", told.told());
    }
    let folder = recipe(stage, &text.replace("other.tar", "none.tar"))?;
    let failed = build(stage, &[], &folder)?.expect_code(125)?.answer;
    claim!(failed.stderr.contains("Dockerfile:2"), "{}", failed.told());
    claim!(failed.stderr.contains("none.tar"), "{}", failed.told());
    no_work_left(stage)
}

fn policy_bounds_images(stage: &Stage) -> Result<(), Failed> {
    let other = other_image(stage)?;
    let folder = recipe(stage, &format!("COPY --from={other} /data/word /copied"))?;
    let base = stage.home.join("base.tar").display().to_string();
    let policy = format!("version: 1\nbuild: {{bases: ['docker-archive:{base}']}}\n");
    let policy = stage.file("bases.yaml", policy)?;
    let refused = build(stage, &["--policy", &policy], &folder)?.expect_code(122)?.answer;
    for part in ["other.tar", "Dockerfile:2", "it allows"] {
        claim!(refused.stderr.contains(part), "`{part}` is missing: {}", refused.told());
    }
    // The twin.
    build(stage, &[], &folder)?.expect_code(0)?;
    no_work_left(stage)
}
