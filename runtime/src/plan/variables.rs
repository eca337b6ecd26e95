//! The whole environment of a task. Nothing of it is inherited.
//!
//! Order: the image's variables, then what the sandbox sets, then what the task asks for; a later
//! one replaces an earlier one of the same name in its place. Names that a loader obeys
//! (`LD_PRELOAD`) are not special: they act inside the sandbox only.

use std::path::PathBuf;

use ric_images::Manifest;

use crate::{Refusal, Task};

/// Where programs are looked for if the image does not say (Docker's default for Linux).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A writable home that is the same for every task.
const HOME: &str = "/tmp/home";

/// Longest `NAME=VALUE` with its final zero that `execve(2)` takes (binfmts.h, `MAX_ARG_STRLEN`).
pub(super) const STRING_BYTES_MAX: usize = 128 * 1024;

/// Most variables: with every one at its longest the kernel would refuse them anyway.
const VARIABLES_MAX: usize = 4096;

/// Decides the environment of a task that runs as `login_name`.
pub(super) fn variables(
    task: &Task,
    manifest: &Manifest,
    login_name: &str,
) -> Result<Vec<(String, String)>, Refusal> {
    let mut all = Vec::new();
    for (name, value) in &manifest.config.variables {
        refuse_odd("variable of the image", name, value)?;
        set(&mut all, name, value);
    }
    set_if_missing(&mut all, "PATH", PATH);
    put_first(&mut all, &task.path_first)?;
    set_if_missing(&mut all, "LANG", "C.UTF-8");
    if task.terminal {
        set_if_missing(&mut all, "TERM", "xterm");
    }
    for (name, value) in
        [("HOME", HOME), ("TMPDIR", "/tmp"), ("USER", login_name), ("LOGNAME", login_name)]
    {
        set(&mut all, name, value);
    }
    for (name, value) in &task.variables {
        refuse_odd("variable", name, value)?;
        set(&mut all, name, value);
    }
    refuse_too_many(&all)?;
    Ok(all)
}

/// The environment of a build step: what it asks for, what it is told of the machine, and what
/// nothing runs without.
pub(super) fn of_build(
    task: &Task,
    settings: &[(String, String)],
) -> Result<Vec<(String, String)>, Refusal> {
    let mut all = Vec::new();
    for (name, value) in &task.variables {
        refuse_odd("variable", name, value)?;
        set(&mut all, name, value);
    }
    for (name, value) in settings {
        refuse_odd("variable", name, value)?;
        set_if_missing(&mut all, name, value);
    }
    set_if_missing(&mut all, "PATH", PATH);
    set_if_missing(&mut all, "HOME", "/root");
    refuse_too_many(&all)?;
    Ok(all)
}

fn refuse_too_many(all: &[(String, String)]) -> Result<(), Refusal> {
    if all.len() > VARIABLES_MAX {
        return Err(Refusal::Malformed {
            what: "number of variables",
            value: all.len().to_string(),
            why: format!("at most {VARIABLES_MAX} can be set"),
        });
    }
    Ok(())
}

fn set(all: &mut Vec<(String, String)>, name: &str, value: &str) {
    match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => all.push((name.to_owned(), value.to_owned())),
    }
}

fn set_if_missing(all: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !all.iter().any(|(known, _)| known == name) {
        all.push((name.to_owned(), value.to_owned()));
    }
}

/// Puts directories in front of `PATH`, which is set.
fn put_first(all: &mut [(String, String)], directories: &[PathBuf]) -> Result<(), Refusal> {
    for directory in directories.iter().rev() {
        let text = directory.to_str().filter(|text| !text.contains(':'));
        let text = text.filter(|text| text.starts_with('/')).ok_or_else(|| Refusal::Malformed {
            what: "directory of programs",
            value: directory.to_string_lossy().into_owned(),
            why: "it is not an absolute path in UTF-8 without `:`".to_owned(),
        })?;
        refuse_odd("directory of programs", "PATH", text)?;
        for (_, path) in all.iter_mut().filter(|(name, _)| name == "PATH") {
            *path = format!("{text}:{path}");
        }
    }
    Ok(())
}

/// Refuses what cannot stand in an environment (`environ(7)`).
fn refuse_odd(what: &'static str, name: &str, value: &str) -> Result<(), Refusal> {
    let why = if name.is_empty() {
        "a variable needs a name".to_owned()
    } else if name.contains(['=', '\0']) {
        "its name contains `=` or a zero byte".to_owned()
    } else if value.contains('\0') {
        "its value contains a zero byte".to_owned()
    } else if name.len() + value.len() + 2 > STRING_BYTES_MAX {
        format!("with its value it is longer than {STRING_BYTES_MAX} bytes")
    } else {
        return Ok(());
    };
    Err(Refusal::Malformed { what, value: name.to_owned(), why })
}
