//! Writes a meta file that Shifter reads as what was meant.

use super::{IDS_MAX, ShifterMeta};
use crate::shown::shown;

/// Something that a meta file has no way to say. Shifter would read it as something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{}`, which {why}", shown(value))]
pub struct UnwritableMeta {
    /// What it is of the image, such as `the variable`.
    pub what: &'static str,
    /// The text.
    pub value: String,
    /// Why it cannot be written.
    pub why: &'static str,
}

impl ShifterMeta {
    /// Writes the meta file: `FORMAT` first, as Shifter needs it to find the image.
    ///
    /// What is written is read again by [`ShifterMeta::parse`] as the same value.
    ///
    /// # Errors
    /// [`UnwritableMeta`] for the first text that would be read as another.
    pub fn to_text(&self) -> Result<String, UnwritableMeta> {
        let mut text = format!("FORMAT: {}\n", self.format.as_str());
        let mut line = |what, key, value: &str| -> Result<(), UnwritableMeta> {
            check(what, value)?;
            text += &format!("{key}: {value}\n");
            Ok(())
        };
        if !self.entrypoint.is_empty() {
            let what = "a word of the entry point,";
            line(what, "ENTRY", &list(what, &self.entrypoint)?)?;
        }
        if !self.command.is_empty() {
            let what = "a word of the command,";
            line(what, "CMD", &list(what, &self.command)?)?;
        }
        if let Some(workdir) = &self.workdir {
            let what = "the working directory";
            if !workdir.starts_with('/') {
                return Err(unwritable(what, workdir, "is no absolute path"));
            }
            line(what, "WORKDIR", workdir)?;
        }
        for (what, key, ids) in
            [("the users", "USERACL", &self.users), ("the groups", "GROUPACL", &self.groups)]
        {
            let value = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            if ids.len() > IDS_MAX {
                return Err(unwritable(what, &value, "are too many: Shifter reads 1000"));
            }
            if !ids.is_empty() {
                line(what, key, &value)?;
            }
        }
        for (name, value) in &self.variables {
            let joined = format!("{name}={value}");
            if name.is_empty() || name.contains('=') {
                return Err(unwritable("the variable", &joined, "has no name"));
            }
            line("the variable", "ENV", &joined)?;
        }
        Ok(text)
    }
}

/// Refuses a value that Shifter changes while it reads it.
fn check(what: &'static str, value: &str) -> Result<(), UnwritableMeta> {
    let why = if value.contains(char::is_control) {
        "has a control character"
    } else if value.starts_with(' ') || value.ends_with(' ') {
        "begins or ends with a blank that Shifter takes away"
    } else if value.ends_with('\\') {
        r"ends in `\`, with which Shifter glues the next line to it"
    } else {
        return Ok(());
    };
    Err(unwritable(what, value, why))
}

/// Writes words as Python writes a list of texts.
fn list(what: &'static str, words: &[String]) -> Result<String, UnwritableMeta> {
    for word in words {
        let why = if word.contains('\'') {
            "has a single quote: Shifter knows no escapes"
        } else if word.contains(char::is_control) {
            "has a control character"
        } else {
            continue;
        };
        return Err(unwritable(what, word, why));
    }
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    Ok(format!("[{}]", quoted.join(", ")))
}

fn unwritable(what: &'static str, value: &str, why: &'static str) -> UnwritableMeta {
    UnwritableMeta { what, value: value.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ShifterFormat;

    #[test]
    fn writes_what_the_gateway_would() {
        let text = str::to_owned;
        let meta = ShifterMeta {
            format: ShifterFormat::Squashfs,
            entrypoint: vec![text("/bin/sh"), text("-c")],
            command: vec![text("echo \"$A\" \\")],
            workdir: Some(text("/srv/a b")),
            users: vec![500, 1000],
            groups: Vec::new(),
            variables: vec![(text("A"), text("b\"c'd$e\\f")), (text("E"), text(""))],
        };
        let expected = "FORMAT: squashfs\nENTRY: ['/bin/sh', '-c']\nCMD: ['echo \"$A\" \\']\n\
                        WORKDIR: /srv/a b\nUSERACL: 500,1000\nENV: A=b\"c'd$e\\f\nENV: E=\n";
        assert_eq!(meta.to_text().unwrap(), expected);
    }

    #[test]
    fn refuses_what_shifter_would_read_as_something_else() {
        let entry = |word: &str| ShifterMeta {
            entrypoint: vec![word.to_owned()],
            ..ShifterMeta::default()
        };
        let variable = |name: &str, value: &str| ShifterMeta {
            variables: vec![(name.to_owned(), value.to_owned())],
            ..ShifterMeta::default()
        };
        let workdir =
            |path: &str| ShifterMeta { workdir: Some(path.to_owned()), ..ShifterMeta::default() };
        let ids = ShifterMeta { users: vec![1; IDS_MAX + 1], ..ShifterMeta::default() };
        for meta in [
            entry("it's"),
            entry("a\nb"),
            entry("a\tb"),
            variable("A", "b "),
            variable(" A", "b"),
            variable("A", "b\\"),
            variable("A", "b\nFORMAT: xfs"),
            variable("", "b"),
            workdir("/srv "),
            workdir("srv"),
            ids,
        ] {
            assert!(meta.to_text().is_err(), "{meta:?}");
        }
        let error = variable("A", "b\\").to_text().unwrap_err().to_string();
        assert!(error.starts_with(r"the variable `A=b\`, which ends in"), "{error}");
    }

    proptest! {
        /// Whatever is in an image: it is read again as it was, or it is refused.
        #[test]
        fn what_is_written_is_read_again(
            entrypoint in prop::collection::vec("\\PC{0,5}|[ '\"\\\\\n\\],u]{0,5}", 0..3),
            command in prop::collection::vec(".{0,5}", 0..3),
            workdir in prop::option::of("/[a \\\\#]{0,3}"),
            users in prop::collection::vec(any::<u32>(), 0..3),
            variables in prop::collection::vec(("[^=]{1,4}", ".{0,6}|[ \\\\]{0,3}"), 0..4),
        ) {
            let format = ShifterFormat::Squashfs;
            let groups = Vec::new();
            let meta = ShifterMeta {
                format, entrypoint, command, workdir, users, groups, variables
            };
            if let Ok(text) = meta.to_text() {
                prop_assert_eq!(ShifterMeta::parse(text.as_bytes()), Ok(meta), "{}", text);
            }
        }
    }
}
