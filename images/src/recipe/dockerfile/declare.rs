//! Instructions that make no layer: `ENV`, `LABEL`, `CMD` and their like.

use super::lines::{self, Instruction};
use super::run::{exec_form, shell_form};
use super::steps::Here;
use crate::recipe::error::RecipeError;
use crate::recipe::expand::escaped_words;
use crate::recipe::{Change, Healthcheck};

/// What an instruction declares. `ARG` changes what later ones find, and no image.
pub(super) fn changes(
    here: &mut Here<'_>,
    instruction: &Instruction,
) -> Result<Vec<Change>, RecipeError> {
    let (place, rest) = (&instruction.place, instruction.rest.as_str());
    let keyword = instruction.keyword.as_str();
    if keyword == "HEALTHCHECK" {
        return Ok(vec![Change::Healthcheck(healthcheck(instruction)?)]);
    }
    no_flags(instruction)?;
    if rest.is_empty() {
        return Err(place.wrong(format!("{keyword} needs a value")));
    }
    Ok(match keyword {
        "ENV" => pairs(here, instruction)?
            .into_iter()
            .map(|(name, value)| Change::Variable(name, value))
            .collect(),
        "LABEL" => pairs(here, instruction)?
            .into_iter()
            .map(|(name, value)| Change::Label(name, value))
            .collect(),
        "MAINTAINER" => vec![Change::Label("maintainer".to_owned(), rest.to_owned())],
        "ARG" => {
            argument(here, instruction)?;
            Vec::new()
        }
        "CMD" => {
            here.has_command = true;
            vec![Change::Command(command(here, instruction)?)]
        }
        "ENTRYPOINT" => {
            let entrypoint = Change::Entrypoint(command(here, instruction)?);
            // A command was meant for the entry point that it came with.
            match here.has_command {
                true => vec![entrypoint],
                false => vec![entrypoint, Change::Command(Vec::new())],
            }
        }
        "SHELL" => match exec_form(rest, place)? {
            Some(shell) if !shell.is_empty() => vec![Change::Shell(shell)],
            Some(_) | None => return Err(place.wrong("expected `SHELL [\"PROGRAM\", …]`")),
        },
        "USER" => vec![Change::User(here.word(rest, place)?)],
        "STOPSIGNAL" => vec![Change::StopSignal(signal(here, instruction)?)],
        "EXPOSE" => ports(here, instruction)?,
        "VOLUME" => volumes(here, instruction)?,
        "ONBUILD" => vec![Change::OnBuild(trigger(instruction)?)],
        other => return Err(place.wrong(format!("`{other}` is no instruction"))),
    })
}

/// Refuses flags where there are none.
pub(super) fn no_flags(instruction: &Instruction) -> Result<(), RecipeError> {
    match instruction.flags.first() {
        None => Ok(()),
        Some(flag) => {
            let wrong = format!("{} has no flag `--{}`", instruction.keyword, flag.name);
            Err(instruction.place.wrong(wrong))
        }
    }
}

/// `NAME=VALUE …`, or the old `NAME VALUE`, expanded with what was known before.
fn pairs(here: &Here<'_>, instruction: &Instruction) -> Result<Vec<(String, String)>, RecipeError> {
    let place = &instruction.place;
    let words = escaped_words(&instruction.rest, here.file.escape);
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = instruction
            .rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| place.wrong(format!("expected `{} NAME=VALUE`", instruction.keyword)))?;
        return Ok(vec![(here.word(name, place)?, here.word(value.trim_start(), place)?)]);
    }
    let pair = |word: String| {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| place.wrong(format!("`{word}` is no NAME=VALUE")))?;
        let name = here.word(name, place)?;
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(place.wrong(format!("`{word}` has no name")));
        }
        let value = here.word(value, place)?;
        if value.contains('\0') {
            return Err(place.wrong(format!("`{name}` has a zero byte")));
        }
        Ok((name, value))
    };
    words.into_iter().map(pair).collect()
}

/// Names that `ARG` declares, with their defaults, not yet expanded.
pub(super) fn arguments(
    instruction: &Instruction,
    escape: char,
) -> Result<Vec<(String, Option<String>)>, RecipeError> {
    let place = &instruction.place;
    no_flags(instruction)?;
    let words = escaped_words(&instruction.rest, escape);
    if words.is_empty() {
        return Err(place.wrong("expected `ARG NAME[=DEFAULT]`"));
    }
    let read = |word: String| {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (word.as_str(), None),
        };
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            return Err(place.wrong(format!("`{name}` is no name of an argument")));
        }
        Ok((name.to_owned(), default))
    };
    words.into_iter().map(read).collect()
}

/// Makes arguments known to what follows.
pub(super) fn argument(here: &mut Here<'_>, instruction: &Instruction) -> Result<(), RecipeError> {
    let place = &instruction.place;
    for (name, default) in arguments(instruction, here.file.escape)? {
        let given = here.file.argument(&name).map(str::to_owned);
        let global = || {
            let found = here.file.globals.iter().rev().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        let value = match (given, default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => Some(here.word(&default, place)?),
            (None, None) => global(),
        };
        if let Some(value) = value {
            here.set_variable(&name, &value, place)?;
        }
    }
    Ok(())
}

fn command(here: &Here<'_>, instruction: &Instruction) -> Result<Vec<String>, RecipeError> {
    Ok(match exec_form(&instruction.rest, &instruction.place)? {
        Some(words) => words,
        None => shell_form(here, instruction.rest.clone()),
    })
}

/// Names of signals, without `SIG` (signal(7), Linux on every architecture).
const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

fn signal(here: &Here<'_>, instruction: &Instruction) -> Result<String, RecipeError> {
    let signal = here.word(&instruction.rest, &instruction.place)?;
    let name = signal.strip_prefix("SIG").unwrap_or(&signal);
    let is_number = signal.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let is_near = |from: &str, sign: char| {
        let offset = name.strip_prefix(from);
        let number = |text: &str| text.strip_prefix(sign)?.parse().ok();
        offset.is_some_and(|text| text.is_empty() || number(text).is_some_and(|n: u8| n <= 15))
    };
    let is_name = SIGNALS.contains(&name) || is_near("RTMIN", '+') || is_near("RTMAX", '-');
    if !is_number && !is_name {
        return Err(instruction.place.wrong(format!("`{signal}` is no signal")));
    }
    Ok(signal)
}

/// `PORT[-PORT][/PROTOCOL] …`
fn ports(here: &Here<'_>, instruction: &Instruction) -> Result<Vec<Change>, RecipeError> {
    let place = &instruction.place;
    let words = here.expander().words(&instruction.rest).map_err(|wrong| place.wrong(wrong))?;
    let mut changes = Vec::new();
    for word in words {
        let wrong = || place.wrong(format!("`{word}` is no PORT[-PORT][/PROTOCOL]"));
        let (range, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
        let protocol = protocol.to_ascii_lowercase();
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
            return Err(wrong());
        }
        changes.extend((first..=last).map(|port| Change::Port(format!("{port}/{protocol}"))));
    }
    Ok(changes)
}

fn volumes(here: &Here<'_>, instruction: &Instruction) -> Result<Vec<Change>, RecipeError> {
    let place = &instruction.place;
    let words = match exec_form(&instruction.rest, place)? {
        Some(words) => words,
        None => instruction.rest.split_whitespace().map(str::to_owned).collect(),
    };
    let volume = |word: String| match here.word(&word, place)?.as_str() {
        "" => Err(place.wrong("a volume has no path")),
        path => Ok(Change::Volume(path.to_owned())),
    };
    words.into_iter().map(volume).collect()
}

/// The instruction that `ONBUILD` keeps, with its here-documents.
fn trigger(instruction: &Instruction) -> Result<String, RecipeError> {
    let place = &instruction.place;
    let mut text = instruction.rest.clone();
    for heredoc in &instruction.heredocs {
        text.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    for kept in lines::split(&text, place, '\\')?.instructions {
        let keyword = kept.keyword.as_str();
        if ["ONBUILD", "FROM", "MAINTAINER"].contains(&keyword) {
            return Err(place.wrong(format!("ONBUILD cannot keep {keyword}")));
        }
        if !super::KEYWORDS.contains(&keyword) {
            return Err(place.wrong(format!("`{keyword}` is no instruction")));
        }
    }
    Ok(text)
}

fn healthcheck(instruction: &Instruction) -> Result<Healthcheck, RecipeError> {
    let place = &instruction.place;
    let mut check = Healthcheck::default();
    for flag in &instruction.flags {
        let value = flag.value.as_deref().unwrap_or_default();
        let time = || {
            nanoseconds(value)
                .filter(|time| *time == 0 || *time >= 1_000_000)
                .ok_or_else(|| place.wrong(format!("`{value}` is no time: expected 30s or 1m30s")))
        };
        match flag.name.as_str() {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => {
                let retries = value.parse::<u32>();
                let wrong = |_| place.wrong(format!("`{value}` is no number of retries"));
                check.retries = retries.map_err(wrong)?.into();
            }
            name => return Err(place.wrong(format!("HEALTHCHECK has no flag `--{name}`"))),
        }
    }
    let rest = instruction.rest.as_str();
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match (kind.to_ascii_uppercase().as_str(), command) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", "") => return Err(place.wrong("HEALTHCHECK CMD has no command")),
        ("CMD", _) => match exec_form(command, place)? {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err(place.wrong("expected `HEALTHCHECK CMD COMMAND` or `HEALTHCHECK NONE`")),
    };
    Ok(check)
}

/// A time as Go writes it: `1h2m3.5s`, `500ms`.
fn nanoseconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let (number, after) = rest.split_at(rest.len() - digits.len());
        let unit = after.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == 'µ');
        let (unit, after) = after.split_at(after.len() - unit.len());
        let scale: u64 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
        let mut part = 0;
        let mut place = scale;
        for digit in fraction.bytes() {
            place /= 10;
            part += u64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?) * place;
        }
        total = total.checked_add(whole)?.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}
