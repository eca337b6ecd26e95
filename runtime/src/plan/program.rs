//! What runs in the sandbox: command or call, directory, files, bounds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ric_images::Manifest;

use super::is_host_image;
use super::mounts::TASK_DIRECTORY;
use super::target::{parse_name, parse_target};
use super::variables::{STRING_BYTES_MAX, variables};
use crate::{
    Bounds, Call, FunctionAsk, Host, InputAsk, OutputAsk, PathKind, Program, Refusal, Task, Work,
    WorkAsk,
};

/// Interpreters of an image, looked up in its `PATH`; `host:` names its own by path.
const IMAGE_INTERPRETERS: [&str; 2] = ["python3", "python"];

/// Most files in each direction: each costs a descriptor, of which 1024 is a usual limit.
const FILES_MAX: usize = 256;

/// Most bytes of what comes out of a sandbox. Captured output and results are held in memory on
/// this side, outside the task's limit; an output file goes to disk.
pub(super) const BOUNDS: Bounds = Bounds {
    stdout_bytes_max: 16 << 20,
    stderr_bytes_max: 16 << 20,
    result_bytes_max: 256 << 20,
    output_bytes_max: 64 << 30,
};

/// Decides the work of one task.
pub(super) fn work(
    task: &Task,
    manifest: &Manifest,
    host: &Host,
    login_name: &str,
    deadline: Option<Duration>,
) -> Result<Work, Refusal> {
    refuse_inputs(&task.inputs)?;
    refuse_outputs(&task.outputs)?;
    refuse_names("secret", task.secrets.iter().map(|secret| secret.name.as_str()))?;
    Ok(Work {
        program: program(&task.work, manifest, host)?,
        variables: variables(task, manifest, login_name)?,
        workdir: workdir(task, manifest)?,
        deadline,
        inputs: task.inputs.clone(),
        secrets: task.secrets.clone(),
        outputs: task.outputs.clone(),
        terminal: task.terminal,
        bounds: BOUNDS,
    })
}

fn program(ask: &WorkAsk, manifest: &Manifest, host: &Host) -> Result<Program, Refusal> {
    match ask {
        WorkAsk::Command(asked) => command(asked, manifest).map(Program::Command),
        WorkAsk::Call(function) => call(function, manifest, host).map(Program::Call),
    }
}

/// The command asked for, whole; else the image's entry point and command.
pub(super) fn command(asked: &[String], manifest: &Manifest) -> Result<Vec<String>, Refusal> {
    let config = &manifest.config;
    let argv = match asked {
        [] => [config.entrypoint.as_slice(), config.command.as_slice()].concat(),
        _ => asked.to_vec(),
    };
    let malformed = |value: &str, why: String| {
        Err(Refusal::Malformed { what: "command", value: value.to_owned(), why })
    };
    if argv.first().is_none_or(String::is_empty) {
        let why = if asked.is_empty() {
            "none is given, and the image names none"
        } else {
            "it is empty"
        };
        return malformed("", why.to_owned());
    }
    for argument in &argv {
        if argument.contains('\0') {
            return malformed(argument, "it contains a zero byte".to_owned());
        }
        if argument.len() >= STRING_BYTES_MAX {
            let why = format!("an argument of it is longer than {STRING_BYTES_MAX} bytes");
            return malformed(&argv[0], why);
        }
    }
    Ok(argv)
}

fn call(function: &FunctionAsk, manifest: &Manifest, host: &Host) -> Result<Call, Refusal> {
    let interpreters: Vec<String> = if let Some(interpreter) = &function.interpreter {
        vec![interpreter.clone()]
    } else if is_host_image(manifest) {
        host.pythons.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    } else {
        IMAGE_INTERPRETERS.map(str::to_owned).to_vec()
    };
    if interpreters.is_empty() {
        return Err(Refusal::Interpreter { looked_in: "/usr/bin and `host_paths:`".to_owned() });
    }
    let modules = function.preload.modules.iter().map(|module| ("module to preload", module));
    let interpreter = function.interpreter.iter().map(|path| ("interpreter", path));
    let words = [("file name", &function.file_name), ("function", &function.function)];
    for (what, value) in words.into_iter().chain(interpreter).chain(modules) {
        if value.is_empty() || value.chars().any(char::is_control) {
            return Err(Refusal::Malformed {
                what,
                value: value.clone(),
                why: "it is empty or has control characters".to_owned(),
            });
        }
    }
    Ok(Call {
        interpreters,
        file_name: function.file_name.clone(),
        source: function.source.clone(),
        function: function.function.clone(),
        arguments: function.arguments.clone(),
        preload: function.preload.clone(),
    })
}

/// The directory asked for, else the image's, else `/task`.
pub(super) fn workdir(task: &Task, manifest: &Manifest) -> Result<String, Refusal> {
    let of_image = manifest.config.workdir.as_deref().filter(|path| !path.is_empty());
    let (what, path) = match (&task.workdir, of_image) {
        (Some(asked), _) => ("working directory", asked.clone()),
        (None, Some(path)) => ("working directory of the image", PathBuf::from(path)),
        (None, None) => return Ok(TASK_DIRECTORY.to_owned()),
    };
    let parsed = parse_target(&path).and_then(|normal| {
        // `/proc/self/fd/N` and `/proc/PID/cwd` can lead out of the root (CVE-2024-21626).
        let in_proc = normal.starts_with(Path::new("/proc"));
        if in_proc { Err("it is in /proc".to_owned()) } else { Ok(normal) }
    });
    let text = parsed.and_then(|normal| {
        normal.into_os_string().into_string().map_err(|_| "it is not UTF-8".to_owned())
    });
    text.map_err(|why| Refusal::Malformed { what, value: path.to_string_lossy().into_owned(), why })
}

fn refuse_inputs(inputs: &[InputAsk]) -> Result<(), Refusal> {
    refuse_names("input", inputs.iter().map(|input| input.name.as_str()))?;
    let odd = inputs.iter().find(|input| input.source.kind != PathKind::File);
    odd.map_or(Ok(()), |input| {
        Err(Refusal::Malformed {
            what: "input",
            value: input.source.asked.to_string_lossy().into_owned(),
            why: "only regular files can be inputs; a directory can be mounted".to_owned(),
        })
    })
}

fn refuse_outputs(outputs: &[OutputAsk]) -> Result<(), Refusal> {
    refuse_names("output", outputs.iter().map(|output| output.name.as_str()))
}

fn refuse_names<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for name in names {
        let why = match parse_name(name) {
            Ok(()) if seen.len() >= FILES_MAX => format!("at most {FILES_MAX} can be given"),
            Ok(()) if !seen.insert(name) => "the name is given twice".to_owned(),
            Ok(()) => continue,
            Err(why) => why,
        };
        return Err(Refusal::Malformed { what, value: name.to_owned(), why });
    }
    Ok(())
}
