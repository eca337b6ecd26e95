//! The values of flags, and what is said about a malformed one: what is wrong and what is expected.
//!
//! clap puts the flag and the value as typed in front of each message.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ric_images::{
    Compression, Digest, DigestError, EnvironmentName, EnvironmentNameError, Reference,
    ReferenceError, Target, TargetError,
};
use ric_policies::{Access, Cpus, EngineName, Memory, Network, Pids, Time, Unit};
use ric_runtime::{Fresh, UserChoice};
use serde_json::Value;

/// `--mount SRC:DST[:ro|rw]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MountPoint {
    /// Outside.
    pub source: PathBuf,
    /// Inside, absolute.
    pub target: PathBuf,
    /// `None`: nothing was said.
    pub access: Option<Access>,
}

/// `--variable NAME=VALUE`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub name: String,
    pub value: String,
}

/// `--secret id=ID,src=FILE|env=NAME`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BuildSecret {
    pub id: String,
    pub source: BuildSecretSource,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BuildSecretSource {
    File(PathBuf),
    Variable(String),
}

/// `--input PATH[=NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Input {
    /// Outside.
    pub source: PathBuf,
    /// In `/task`.
    pub name: String,
}

/// `--secret NAME[=PATH]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Secret {
    /// In `/run/secrets`.
    pub name: String,
    /// Outside; `None`: the variable of that name.
    pub source: Option<PathBuf>,
}

/// `--output NAME=PATH`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output {
    /// In `/task`.
    pub name: String,
    /// Outside.
    pub target: PathBuf,
}

/// `FILE.py:FUNCTION`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Function {
    pub file: PathBuf,
    pub name: String,
}

/// `--kwarg NAME=VALUE`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Keyword {
    pub name: String,
    pub value: Value,
}

/// What the store may know an image by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kept {
    /// A name.
    Reference(Reference),
    /// The digest of a manifest.
    Digest(Digest),
}

/// Why a value is malformed, as a sentence without a full stop.
type Problem = String;

/// A parser that takes one word of a table; help lists the words.
fn one_of<T: Copy + Send + Sync + 'static>(
    table: &'static [(&'static str, &'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let words = table.iter().map(|(word, help, _)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(words).map(|word| {
        let entry = table.iter().find(|(candidate, _, _)| **candidate == word);
        entry.expect("clap lets only words of the table through").2
    })
}

pub(super) fn parse_environment_name(text: &str) -> Result<EnvironmentName, EnvironmentNameError> {
    text.parse()
}

pub(super) fn engine() -> impl TypedValueParser<Value = EngineName> {
    one_of(&[
        ("native", "this program itself", EngineName::Native),
        ("oci", "an OCI runtime such as runc", EngineName::Oci),
        ("docker", "a Docker or Podman daemon", EngineName::Docker),
        ("apptainer", "Apptainer or Singularity", EngineName::Apptainer),
        ("shifter", "NERSC Shifter", EngineName::Shifter),
    ])
}

pub(super) fn compression() -> impl TypedValueParser<Value = Compression> {
    one_of(&[
        ("zstd", "small and fast to read", Compression::Zstd),
        ("gzip", "read by kernels before 4.14 too", Compression::Gzip),
    ])
}

pub(super) fn network() -> impl TypedValueParser<Value = Network> {
    one_of(&[
        ("loopback", "a network of its own with nothing but loopback", Network::Loopback),
        ("host", "this machine's network", Network::Host),
    ])
}

pub(super) fn user() -> impl TypedValueParser<Value = UserChoice> {
    one_of(&[
        ("caller", "your own uid, gid and groups", UserChoice::Caller),
        ("image", "the user that the image names", UserChoice::Image),
        ("root", "uid 0 of a user namespace", UserChoice::Root),
    ])
}

pub(super) fn fresh() -> impl TypedValueParser<Value = Fresh> {
    one_of(&[
        ("nothing", "the call alone", Fresh::Nothing),
        ("process", "a process", Fresh::Process),
        ("container", "a container", Fresh::Container),
    ])
}

pub(super) fn parse_image(text: &str) -> Result<Reference, Problem> {
    text.parse().map_err(|error: ReferenceError| match error.hint() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    })
}

/// What is built here is called as if it came from this machine, so that no registry has it.
pub(super) fn parse_built(text: &str) -> Result<Reference, Problem> {
    let wrong =
        || "an image that is built here is called NAME[:TAG], without a registry".to_owned();
    let mut reference = parse_image(text)?;
    if matches!(reference, Reference::ShortName { .. }) {
        reference = parse_image(&format!("localhost/{text}"))?;
    }
    let Reference::Registry(name) = &reference else { return Err(wrong()) };
    if name.host != "localhost" || name.digest.is_some() {
        return Err(wrong());
    }
    Ok(reference)
}

/// A digest looks like a short name with a tag, so that it comes first.
pub(super) fn parse_kept(text: &str) -> Result<Kept, Problem> {
    if text.starts_with("sha256:") {
        return text.parse().map(Kept::Digest).map_err(|error: DigestError| error.to_string());
    }
    parse_image(text).map(Kept::Reference)
}

pub(super) fn parse_target(text: &str) -> Result<Target, Problem> {
    text.parse().map_err(|error: TargetError| error.to_string())
}

/// As [`parse_target`]; what has no format is the path of an archive.
pub(super) fn parse_export(text: &str) -> Result<Target, Problem> {
    match text.parse() {
        Err(TargetError::Format { .. }) if text.starts_with(['/', '.']) || !text.contains(':') => {
            parse_target(&format!("oci-archive:{text}"))
        }
        parsed => parsed.map_err(|error: TargetError| error.to_string()),
    }
}

pub(super) fn parse_size(text: &str) -> Result<u64, Problem> {
    amount::<Memory>(text)
}

pub(super) fn parse_cpus(text: &str) -> Result<u64, Problem> {
    amount::<Cpus>(text)
}

pub(super) fn parse_pids(text: &str) -> Result<u64, Problem> {
    amount::<Pids>(text)
}

pub(super) fn parse_time(text: &str) -> Result<Duration, Problem> {
    amount::<Time>(text)
}

/// Amounts are written as in policy files.
fn amount<U: Unit>(text: &str) -> Result<U::Value, Problem> {
    U::parse(text).map_err(|error| format!("expected {}{}", error.expected, error.advice))
}

pub(super) fn parse_mount(text: OsString) -> Result<MountPoint, Problem> {
    const EXPECTED: &str = "expected SRC:DST[:ro|rw], such as /scratch/me:/data:rw";
    let mut parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b':').collect();
    let access = match parts.last() {
        Some(&b"ro") => Some(Access::ReadOnly),
        Some(&b"rw") => Some(Access::ReadWrite),
        Some(_) | None => None,
    };
    if access.is_some() {
        parts.pop();
    }
    let [source, target] = parts[..] else {
        return Err(match parts[..] {
            [_] => format!("it does not say where in the sandbox; {EXPECTED}"),
            [_, _, mode] if access.is_none() => {
                format!("`{}` is neither ro nor rw; {EXPECTED}", String::from_utf8_lossy(mode))
            }
            _ => format!("it has too many colons; {EXPECTED}"),
        });
    };
    if source.is_empty() {
        return Err(format!("it names no source; {EXPECTED}"));
    }
    let target = absolute_inside(Path::new(OsStr::from_bytes(target)))?;
    if target == Path::new("/") {
        return Err("the sandbox's root cannot be mounted over; use `--image dir:PATH`".into());
    }
    Ok(MountPoint { source: PathBuf::from(OsStr::from_bytes(source)), target, access })
}

pub(super) fn parse_workdir(text: OsString) -> Result<PathBuf, Problem> {
    absolute_inside(Path::new(&text))
}

/// A path in the sandbox means one place only: absolute, and without `..`.
fn absolute_inside(path: &Path) -> Result<PathBuf, Problem> {
    if !path.is_absolute() {
        return Err(format!("`{}` in the sandbox must be an absolute path", path.display()));
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(format!("`{}` in the sandbox must not contain `..`", path.display()));
    }
    Ok(path.components().collect())
}

pub(super) fn parse_variable(text: &str) -> Result<Variable, Problem> {
    let (name, value) =
        text.split_once('=').ok_or("expected NAME=VALUE, such as OMP_NUM_THREADS=4")?;
    if name.is_empty() {
        return Err("it has no name; expected NAME=VALUE".into());
    }
    Ok(Variable { name: name.into(), value: value.into() })
}

pub(super) fn parse_build_secret(text: &str) -> Result<BuildSecret, Problem> {
    const EXPECTED: &str = "expected id=ID,src=FILE or id=ID,env=NAME";
    let (mut id, mut source) = (None, None);
    for field in text.split(',') {
        let (name, value) = field.split_once('=').ok_or(EXPECTED)?;
        if value.is_empty() {
            return Err(format!("`{name}` has no value; {EXPECTED}"));
        }
        let is_second = match name {
            "id" => id.replace(value.to_owned()).is_some(),
            "src" | "source" => source.replace(BuildSecretSource::File(value.into())).is_some(),
            "env" => source.replace(BuildSecretSource::Variable(value.into())).is_some(),
            "type" if matches!(value, "file" | "env") => false,
            _ => return Err(format!("`{field}` is not known; {EXPECTED}")),
        };
        if is_second {
            return Err(format!("`{field}` comes after another; {EXPECTED}"));
        }
    }
    let (id, source) = (id.ok_or(EXPECTED)?, source.ok_or(EXPECTED)?);
    Ok(BuildSecret { id, source })
}

pub(super) fn parse_input(text: OsString) -> Result<Input, Problem> {
    let (source, name) = match split_last(text.as_bytes(), b'=') {
        Some((source, name)) => (PathBuf::from(OsStr::from_bytes(source)), file_name(name)?),
        None => {
            let path = PathBuf::from(&text);
            let name = path.file_name().ok_or_else(|| {
                format!("`{}` ends in no file name; expected PATH=NAME", path.display())
            })?;
            let name = file_name(name.as_bytes())?;
            (path, name)
        }
    };
    if source.as_os_str().is_empty() {
        return Err("it names no file; expected PATH[=NAME], such as data.csv=input.csv".into());
    }
    Ok(Input { source, name })
}

pub(super) fn parse_secret(text: OsString) -> Result<Secret, Problem> {
    let bytes = text.as_bytes();
    let (name, source) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], Some(PathBuf::from(OsStr::from_bytes(&bytes[at + 1..])))),
        None => (bytes, None),
    };
    if source.as_ref().is_some_and(|source| source.as_os_str().is_empty()) {
        return Err("it names no file; expected NAME[=PATH], such as token=/root/token".into());
    }
    Ok(Secret { name: file_name(name)?, source })
}

pub(super) fn parse_output(text: OsString) -> Result<Output, Problem> {
    let bytes = text.into_vec();
    let equals = bytes.iter().position(|byte| *byte == b'=').filter(|at| at + 1 < bytes.len());
    let equals = equals.ok_or("expected NAME=PATH, such as result.csv=/tmp/result.csv")?;
    Ok(Output {
        name: file_name(&bytes[..equals])?,
        target: PathBuf::from(OsStr::from_bytes(&bytes[equals + 1..])),
    })
}

/// A name directly in `/task`.
fn file_name(bytes: &[u8]) -> Result<String, Problem> {
    let name = str::from_utf8(bytes).map_err(|_| "a name in /task must be UTF-8")?;
    match name {
        "" => Err("the name in /task is empty".into()),
        "." | ".." => Err(format!("`{name}` is not a file name in /task")),
        _ if name.contains(['/', '\0']) => {
            Err(format!("`{name}` must be a name directly in /task, without `/`"))
        }
        _ => Ok(name.into()),
    }
}

fn split_last(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().rposition(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

pub(super) fn parse_function(text: OsString) -> Result<Function, Problem> {
    const EXPECTED: &str = "expected FILE.py:FUNCTION, such as hello.py:greet";
    let (file, name) = split_last(text.as_bytes(), b':').ok_or(EXPECTED)?;
    if file.is_empty() {
        return Err(format!("it names no file; {EXPECTED}"));
    }
    let name = str::from_utf8(name).unwrap_or_default();
    if !is_identifier(name) {
        return Err(format!("`{name}` is not the name of a Python function; {EXPECTED}"));
    }
    Ok(Function { file: PathBuf::from(OsStr::from_bytes(file)), name: name.into() })
}

/// JSON where it parses as JSON, else the text itself.
pub(super) fn parse_argument(text: &str) -> Result<Value, Problem> {
    let Ok(value) = serde_json::from_str(text) else { return Ok(Value::String(text.into())) };
    match wide_integer(text) {
        None => Ok(value),
        Some(integer) => Err(format!(
            "the integer {integer} has more than 64 bits and would arrive rounded; give it as a \
             string, in double quotes"
        )),
    }
}

/// The first integer of a JSON text that readers of JSON round to a floating-point number.
fn wide_integer(json: &str) -> Option<String> {
    // Numbers are outside of strings, and those are every second piece between unescaped quotes.
    let unescaped = json.replace("\\\\", "").replace("\\\"", "");
    let outside = unescaped.split('"').step_by(2);
    let in_number = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
    let mut words = outside.flat_map(|text| text.split(|letter| !in_number(letter)));
    let wide = words.find(|word| {
        let digits = word.strip_prefix('-').unwrap_or(word);
        let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_integer && word.parse::<i64>().is_err() && word.parse::<u64>().is_err()
    });
    wide.map(str::to_owned)
}

pub(super) fn parse_keyword(text: &str) -> Result<Keyword, Problem> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as degree=2")?;
    if !is_identifier(name) {
        return Err(format!("`{name}` is not the name of a Python argument; expected NAME=VALUE"));
    }
    Ok(Keyword { name: name.into(), value: parse_argument(value)? })
}

/// Whether Python could have this as a name; it has the last word (it also knows its keywords).
fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_argument_is_json_where_it_parses_as_json() {
        let cases = [
            ("world", json!("world")),
            ("\"world\"", json!("world")),
            ("5", json!(5)),
            ("-5", json!(-5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1.5e3", json!(1500.0)),
            ("true", json!(true)),
            ("null", json!(null)),
            ("[1, \"a\"]", json!([1, "a"])),
            ("{\"a\": {}}", json!({"a": {}})),
            ("", json!("")),
            ("NaN", json!("NaN")),
            ("01", json!("01")),
            ("{'a': 1}", json!("{'a': 1}")),
            // Digits in a string are text, whatever quotes are escaped around them.
            (
                r#"["\\", "\"123456789012345678901234567890\""]"#,
                json!(["\\", "\"123456789012345678901234567890\""]),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_argument(text), Ok(expected), "{text}");
        }
    }

    /// serde_json would make 1.2345678901234568e29 of it without a word.
    #[test]
    fn an_integer_that_would_be_rounded_is_a_mistake() {
        for text in ["123456789012345678901234567890", "[1, {\"a\": -9223372036854775809}]"] {
            let problem = parse_argument(text).unwrap_err();
            assert!(problem.contains("more than 64 bits"), "{text}: {problem}");
        }
    }

    #[test]
    fn a_mount_says_source_target_and_access() {
        let mount = |text: &str| parse_mount(text.into()).unwrap();
        let (source, target) = (PathBuf::from("a b"), PathBuf::from("/c"));
        let expected =
            |access| MountPoint { source: source.clone(), target: target.clone(), access };
        assert_eq!(mount("a b:/c"), expected(None));
        assert_eq!(mount("a b:/./c/:ro"), expected(Some(Access::ReadOnly)));
        assert_eq!(mount("a b:/c:rw"), expected(Some(Access::ReadWrite)));
    }

    /// Paths outside are bytes; a name in `/task` travels as text.
    #[test]
    fn a_path_need_not_be_utf8() {
        let path = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        assert_eq!(parse_mount(path(b"/\xff:/c")).unwrap().source.as_os_str(), &path(b"/\xff"));
        assert_eq!(parse_input(path(b"/\xff=x")).unwrap().name, "x");
        assert!(parse_input(path(b"/\xff")).is_err());
        assert_eq!(parse_output(path(b"x=/\xff")).unwrap().target.as_os_str(), &path(b"/\xff"));
    }

    #[test]
    fn the_last_sign_separates_and_the_first_in_an_output() {
        assert_eq!(parse_input("a=b=c".into()).unwrap().source, PathBuf::from("a=b"));
        assert_eq!(parse_output("a=b=c".into()).unwrap().target, PathBuf::from("b=c"));
        assert_eq!(parse_function("a:b.py:f".into()).unwrap().file, PathBuf::from("a:b.py"));
        let variable = parse_variable("A=b=c").unwrap();
        assert_eq!((variable.name.as_str(), variable.value.as_str()), ("A", "b=c"));
    }

    #[test]
    fn python_names_may_have_any_letters() {
        for name in ["f", "_private", "größe", "f2"] {
            assert!(is_identifier(name), "{name}");
        }
        for name in ["", "2f", "a-b", "a.b", "a b"] {
            assert!(!is_identifier(name), "{name}");
        }
    }
}
