//! Images from a real registry, Debian's docker-registry, which wants a password; and a SIF that
//! the real Apptainer has pushed there.

use std::fs;
use std::net::TcpListener;

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::{BOTH, Case};
use crate::commands::{Command, Running};
use crate::images::Image;
use crate::launch::{Cli, Stage, claim};
use crate::needs::Need;
use crate::peers;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("image_of_a_registry_with_a_password_runs", private_image_runs).needs(&[
            Need::Root,
            Need::Busybox,
            Need::Registry,
        ]),
        Case::new("offline_site_runs_what_was_pulled_before", offline_site).needs(&[
            Need::Root,
            Need::Busybox,
            Need::Registry,
        ]),
        Case::new("images_of_the_site_serve_who_has_none", site_has_them).people(BOTH).needs(&[
            Need::Root,
            Need::Busybox,
            Need::Registry,
        ]),
        Case::new("sif_that_apptainer_pushed_runs", pushed_sif_runs).needs(&[
            Need::Root,
            Need::Busybox,
            Need::Registry,
            Need::Apptainer,
        ]),
    ]
}

/// `me:secret` as htpasswd(1) -B writes it, at the least cost that bcrypt has.
const PASSWORDS: &str = "me:$2b$04$DVE.at.TzTmNKFH31hTKCeowpk6tRb5DPqhug72W2ZEYsHiY0xVv2\n";

/// The same in base64, as `docker login` writes it.
const LOGIN: &str = "bWU6c2VjcmV0";

/// A running registry; it ends with this.
struct Registry {
    _running: Running,
    host: String,
}

/// Starts one that lets in whoever knows the password, or everybody.
fn start(stage: &Stage, with_password: bool) -> Result<Registry, Failed> {
    let host = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let data = stage.directory("registry")?;
    let auth = match with_password {
        true => {
            let file = stage.file("htpasswd", PASSWORDS)?;
            format!("auth: {{htpasswd: {{realm: test, path: {file}}}}}\n")
        }
        false => String::new(),
    };
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {data}}}}}\n\
         http: {{addr: '{host}'}}\n{auth}"
    );
    let config = stage.file("registry.yaml", config)?;
    let words = ["sh", "-c", "exec docker-registry serve \"$0\" 2>&1", &config];
    let mut running = Command::new(&words).start()?;
    running.wait_for_output("listening on")?;
    Ok(Registry { _running: running, host })
}

/// Pushes an image of busybox with a file that says `word`.
fn push(stage: &Stage, registry: &Registry, name: &str, login: &[&str]) -> Result<(), Failed> {
    let archive = Image::busybox(json!({"Env": ["COLOR=a \"blue"]}))?.docker_archive()?;
    let from = format!("docker-archive:{}", stage.file("pushed.tar", archive)?);
    let to = format!("docker://{}/{name}", registry.host);
    let flags = ["skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false"];
    let answer = Command::new(&[&flags, login, &[&from, &to]].concat()).output()?;
    claim!(answer.code == Some(0), "skopeo copy: {}", answer.told());
    Ok(())
}

fn policy(registry: &Registry, more: &str) -> String {
    format!("version: 1\nname: test\nregistries: {{insecure: ['{}']{more}}}\n", registry.host)
}

/// Shows a variable of the image at a site that speaks plain HTTP with the registry.
fn look<'a>(stage: &'a Stage, registry: &Registry, image: &str) -> Result<Cli<'a>, Failed> {
    let words = ["run", "--image", image, "--", "/bin/sh", "-c", "echo $COLOR"];
    stage.cli(&words).site_policy(&policy(registry, ""))
}

fn private_image_runs(stage: &Stage) -> Result<(), Failed> {
    let registry = start(stage, true)?;
    push(stage, &registry, "group/a:1", &["--dest-creds", "me:secret"])?;
    let image = format!("docker://{}/group/a:1", registry.host);
    let ran = look(stage, &registry, &image)?.output()?.expect_code(125)?;
    let text = &ran.answer.stderr;
    claim!(text.contains("only to those who log in") && text.contains("podman login"), "{text}");

    let auths = json!({"auths": {&registry.host: {"auth": LOGIN}}});
    let file = stage.file("auth.json", auths.to_string())?;
    let look =
        || Ok::<_, Failed>(look(stage, &registry, &image)?.variable("REGISTRY_AUTH_FILE", &file));
    let ran = look()?.output()?.expect_code(0)?;
    claim!(ran.answer.stdout == "a \"blue\n", "{}", ran.answer.told());
    // The twin: a password that is wrong is no better than none.
    let wrong = json!({"auths": {&registry.host: {"auth": "bWU6d3Jvbmc="}}});
    fs::write(&file, wrong.to_string())?;
    let ran = look()?.output()?.expect_code(125)?;
    let text = &ran.answer.stderr;
    claim!(text.contains("does not give") && !text.contains("wrong"), "{text}");
    Ok(())
}

fn offline_site(stage: &Stage) -> Result<(), Failed> {
    let registry = start(stage, false)?;
    push(stage, &registry, "a:1", &[])?;
    let image = format!("docker://{}/a:1", registry.host);
    look(stage, &registry, &image)?.output()?.expect_code(0)?;
    let offline = policy(&registry, ", offline: true");
    let run = |image: &str| {
        let words = ["run", "--image", image, "--", "/bin/echo", "here"];
        stage.cli(&words).site_policy(&offline)?.output()
    };
    let ran = run(&image)?.expect_code(0)?;
    claim!(ran.answer.stdout == "here\n", "{}", ran.answer.told());
    let other = format!("docker://{}/a:2", registry.host);
    let ran = run(&other)?.expect_code(122)?;
    let text = &ran.answer.stderr;
    claim!(text.contains("`registries: offline`") && text.contains("images list"), "{text}");
    Ok(())
}

/// An admin fills a directory, makes it read-only, and names it in the site's policy.
fn site_has_them(stage: &Stage) -> Result<(), Failed> {
    let registry = start(stage, false)?;
    // A layout keeps the digest of a manifest that is OCI's.
    push(stage, &registry, "a:1", &["--format", "oci"])?;
    let image = format!("docker://{}/a:1", registry.host);
    let site = stage.directory("site")?;
    let archive = stage.home.join("site.tar").to_string_lossy().into_owned();
    let admins = stage.home.join("admins").to_string_lossy().into_owned();
    let insecure = policy(&registry, "");
    for words in [&["pull", &image][..], &["export", &image, &archive]] {
        let words = [&["images"], words, &["--store", &admins]].concat();
        stage.cli(&words).site_policy(&insecure)?.output()?.expect_code(0)?;
    }
    for words in [&["tar", "-xf", &archive, "-C", &site][..], &["chmod", "-R", "a-w", &site]] {
        let answer = Command::new(words).output()?;
        claim!(answer.code == Some(0), "{}", answer.told());
    }
    let layout = || Command::new(&["ls", "-lR", "--full-time", &site]).output();
    let before = layout()?.stdout;
    let list = stage.cli(&["images", "list", "--json", "--store", &admins]).output()?;
    let digest = list.outcome[0]["digest"].as_str().unwrap_or_default().to_owned();
    let pinned = format!("docker://{}/a@{digest}", registry.host);
    let host = registry.host.clone();
    drop(registry);
    let gone = |offline: &str, below: &str| {
        format!(
            "version: 1\nname: test\nregistries: {{insecure: ['{host}']{offline}}}\n\
             images: {{below: [{below}]}}\n"
        )
    };
    let run = |image: &str, policy: &str| {
        let store = stage.store();
        drop(fs::remove_dir_all(&store));
        let words = ["run", "--image", image, "--", "/bin/sh", "-c", "echo $COLOR"];
        stage.cli(&words).site_policy(policy)?.output()
    };
    // By digest nobody has to be asked; a tag is the site's to say if nobody may be.
    for (image, offline) in
        [(&pinned, ""), (&pinned, ", offline: true"), (&image, ", offline: true")]
    {
        let ran = run(image, &gone(offline, &site))?.expect_code(0)?;
        claim!(ran.answer.stdout == "a \"blue\n", "{}", ran.answer.told());
        // The twin: the same without the site's directory.
        let code = if offline.is_empty() { 125 } else { 122 };
        run(image, &gone(offline, ""))?.expect_code(code)?;
    }
    run(&image, &gone("", &site))?.expect_code(125)?;
    claim!(layout()?.stdout == before, "something was written there");
    // What is damaged is not used.
    let damage = format!(
        "chmod -R u+w {site}; cd {site}/blobs/sha256; big=$(ls -S | head -n 1); \
         printf x | dd of=$big bs=1 seek=1000 conv=notrunc 2>/dev/null"
    );
    Command::new(&["sh", "-c", &damage]).output()?;
    let ran = run(&pinned, &gone(", offline: true", &site))?.expect_code(122)?;
    claim!(ran.answer.stderr.contains("`registries: offline`"), "{}", ran.answer.told());
    Ok(())
}

fn pushed_sif_runs(stage: &Stage) -> Result<(), Failed> {
    let registry = start(stage, false)?;
    let folder = peers::folder(&stage.home)?;
    let archive = Image::busybox(json!({"Env": ["COLOR=a blue"]}))?.docker_archive()?;
    fs::write(folder.join("image.tar"), archive)?;
    let image = format!("oras://{}/group/a:1", registry.host);
    for words in [
        &["build", "image.sif", "docker-archive:image.tar"][..],
        &["push", "--no-https", "image.sif", &image],
    ] {
        let answer = peers::apptainer(&folder, words).output()?;
        claim!(answer.code == Some(0), "apptainer {}: {}", words[0], answer.told());
    }
    for _ in 0..2 {
        let ran = look(stage, &registry, &image)?.output()?.expect_code(0)?;
        claim!(ran.answer.stdout == "a blue\n", "{}", ran.answer.told());
    }
    // What it is not is said, with what to write instead.
    let docker = format!("docker://{}/group/a:1", registry.host);
    let ran = look(stage, &registry, &docker)?.output()?.expect_code(125)?;
    claim!(ran.answer.stderr.contains("oras://HOST/NAME"), "{}", ran.answer.told());
    Ok(())
}
