//! `RUN`: the command, its here-documents, and what it sees.

use super::copy::csv_fields;
use super::lines::{Instruction, is_heredoc};
use super::steps::Here;
use crate::recipe::error::{Place, RecipeError};
use crate::recipe::{Mount, Network, Origin, Run, RunFile, SCRIPTS, Sharing};

/// What runs a line of text, unless `SHELL` says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

pub(super) fn run(here: &Here<'_>, instruction: &Instruction) -> Result<Run, RecipeError> {
    let place = &instruction.place;
    let mut run = Run {
        variables: here.variables.clone(),
        machine: here.machine(),
        workdir: here.config.workdir.clone().unwrap_or_else(|| "/".to_owned()),
        user: here.config.user.clone(),
        ..Run::default()
    };
    for flag in &instruction.flags {
        let value = flag.value.as_deref().unwrap_or_default();
        match (flag.name.as_str(), value) {
            ("mount", _) => run.mounts.push(mount(here, value, place)?),
            ("network", "none") => run.network = Network::Loopback,
            ("network", "default") | ("security", "sandbox") => {}
            ("network", _) => {
                let what = format!("`--network={value}`");
                return Err(place.not_supported(what, "policy says what builds may talk to"));
            }
            ("security" | "device", _) => {
                let what = format!("`--{}={value}`", flag.name);
                return Err(place.not_supported(what, "builds have no more rights than tasks"));
            }
            (name, _) => return Err(place.wrong(format!("RUN has no flag `--{name}`"))),
        }
    }
    (run.command, run.files) = command(here, instruction)?;
    Ok(run)
}

/// The command of a shell or exec form, and the script that it is.
fn command(
    here: &Here<'_>,
    instruction: &Instruction,
) -> Result<(Vec<String>, Vec<RunFile>), RecipeError> {
    let place = &instruction.place;
    if let Some(words) = exec_form(&instruction.rest, place)? {
        if words.is_empty() {
            return Err(place.wrong("the command is empty"));
        }
        return Ok((words, Vec::new()));
    }
    if instruction.rest.is_empty() {
        return Err(place.wrong("expected a command"));
    }
    let line = match instruction.heredocs.as_slice() {
        [script] if is_heredoc(&instruction.rest) => {
            if script.content.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", script.name);
                let content = script.content.clone();
                let file = RunFile { path: path.clone(), content, mode: 0o755 };
                return Ok((vec![path], vec![file]));
            }
            script.content.clone()
        }
        heredocs => {
            let mut line = instruction.rest.clone();
            for heredoc in heredocs {
                line.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            line
        }
    };
    Ok((shell_form(here, line), Vec::new()))
}

/// A line as an argument of the shell.
pub(super) fn shell_form(here: &Here<'_>, line: String) -> Vec<String> {
    let shell = &here.config.shell;
    let mut words =
        if shell.is_empty() { SHELL.map(str::to_owned).to_vec() } else { shell.clone() };
    words.push(line);
    words
}

/// The words of `["…", "…"]`; none if it is no such list, as which a shell then reads it.
pub(super) fn exec_form(rest: &str, place: &Place) -> Result<Option<Vec<String>>, RecipeError> {
    if !rest.starts_with('[') {
        return Ok(None);
    }
    let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(rest) else { return Ok(None) };
    let words = list.into_iter().map(|word| match word.as_str() {
        Some(text) if !text.contains('\0') => Ok(text.to_owned()),
        Some(_) | None => {
            Err(place.wrong(format!("`{word}` in the list is no text in double quotes")))
        }
    });
    words.collect::<Result<_, _>>().map(Some)
}

/// Stages and images that `--mount` names.
pub(super) fn from_options(instruction: &Instruction) -> Vec<String> {
    let mounts = instruction.flags.iter().filter(|flag| flag.name == "mount");
    let fields = mounts.flat_map(|flag| csv_fields(flag.value.as_deref().unwrap_or_default()));
    let named =
        fields.filter_map(|field| field.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned())));
    named.filter(|(name, _)| name.eq_ignore_ascii_case("from")).map(|(_, from)| from).collect()
}

/// What `--mount` says, before it is known which kind it is of.
#[derive(Default)]
struct Options {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    sharing: Option<String>,
    variable: Option<String>,
    is_required: bool,
    is_read_only: Option<bool>,
    bytes_max: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

fn mount(here: &Here<'_>, text: &str, place: &Place) -> Result<Mount, RecipeError> {
    let mut options = Options::default();
    for field in csv_fields(text) {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name, Some(here.word(value, place)?)),
            None => (field.as_str(), None),
        };
        set_option(&mut options, &name.to_ascii_lowercase(), value, place)?;
    }
    let target = options.target.as_deref().map(|target| trimmed(&here.absolute(target)));
    let needed = || target.clone().ok_or_else(|| place.wrong("`--mount` needs a target"));
    let kind = options.kind.clone().unwrap_or_else(|| "bind".to_owned());
    match kind.as_str() {
        "bind" => {
            let from = match &options.from {
                Some(from) => here.file.origin(from, here.stage, place)?,
                None => Origin::Context,
            };
            let source = options.source.clone().unwrap_or_else(|| "/".to_owned());
            let is_writable = options.is_read_only == Some(false);
            Ok(Mount::Bind { from, source, target: needed()?, is_writable })
        }
        "cache" => cache(options, needed()?, place),
        "tmpfs" => Ok(Mount::Tmpfs { target: needed()?, bytes_max: options.bytes_max }),
        "secret" => secret(options, target, place),
        "ssh" => {
            let why = "no agent is passed into builds; give the key as a secret";
            Err(place.not_supported("`--mount=type=ssh`", why))
        }
        _ => Err(place.wrong(format!("`{kind}` is no type of mount: bind, cache, secret, tmpfs"))),
    }
}

fn cache(options: Options, target: String, place: &Place) -> Result<Mount, RecipeError> {
    if options.from.is_some() || options.source.is_some() {
        let why = "a cache begins empty; leave `from` and `source` away";
        return Err(place.not_supported("a cache that begins with files", why));
    }
    let sharing = match options.sharing.as_deref() {
        None | Some("shared") => Sharing::Shared,
        Some("private") => Sharing::Private,
        Some("locked") => Sharing::Locked,
        Some(_) => return Err(place.wrong("`sharing` is shared, private or locked")),
    };
    Ok(Mount::Cache {
        id: options.id.unwrap_or_else(|| target.clone()),
        target,
        sharing,
        mode: options.mode.unwrap_or(0o755),
        uid: options.uid.unwrap_or(0),
        gid: options.gid.unwrap_or(0),
        is_read_only: options.is_read_only == Some(true),
    })
}

fn secret(options: Options, target: Option<String>, place: &Place) -> Result<Mount, RecipeError> {
    let base = target.as_deref().and_then(|target| target.rsplit('/').next()).map(str::to_owned);
    let Some(id) = options.id.or(options.source).or(base) else {
        return Err(place.wrong("a secret needs an `id`"));
    };
    let is_file = target.is_some() || options.variable.is_none();
    let default = || format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or_default());
    Ok(Mount::Secret {
        target: is_file.then(|| target.unwrap_or_else(default)),
        id,
        variable: options.variable,
        is_required: options.is_required,
        mode: options.mode.unwrap_or(0o400),
        uid: options.uid.unwrap_or(0),
        gid: options.gid.unwrap_or(0),
    })
}

fn set_option(
    options: &mut Options,
    name: &str,
    value: Option<String>,
    place: &Place,
) -> Result<(), RecipeError> {
    let wrong = |value: &str| place.wrong(format!("`{value}` is no value for `{name}`"));
    let flag = |value: &Option<String>| match value.as_deref() {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(wrong(other)),
    };
    let text = || value.clone().ok_or_else(|| place.wrong(format!("`{name}` needs a value")));
    let number = |radix| {
        let text = text()?;
        u32::from_str_radix(&text, radix).map_err(|_| wrong(&text))
    };
    match name {
        "type" => options.kind = Some(text()?.to_ascii_lowercase()),
        "from" => options.from = Some(text()?),
        "source" | "src" => options.source = Some(text()?),
        "target" | "dst" | "destination" => options.target = Some(text()?),
        "id" => options.id = Some(text()?),
        "sharing" => options.sharing = Some(text()?.to_ascii_lowercase()),
        "env" => options.variable = Some(text()?),
        "required" => options.is_required = flag(&value)?,
        "readonly" | "ro" => options.is_read_only = Some(flag(&value)?),
        "readwrite" | "rw" => options.is_read_only = Some(!flag(&value)?),
        "mode" => options.mode = Some(number(8)? & 0o7777),
        "uid" => options.uid = Some(number(10)?),
        "gid" => options.gid = Some(number(10)?),
        "size" => {
            let text = text()?;
            options.bytes_max = Some(bytes(&text).ok_or_else(|| wrong(&text))?);
        }
        _ => return Err(place.wrong(format!("`--mount` has no option `{name}`"))),
    }
    Ok(())
}

/// A size as Docker writes it: `64m` and `64MiB` are 64 · 2²⁰.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn trimmed(path: &str) -> String {
    if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { path.to_owned() }
}
