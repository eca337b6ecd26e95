//! The meta file of an image in a Shifter image directory: `<id>.meta` beside `<id>.squashfs`.
//!
//! One `KEY: VALUE` a line, as NERSC's Shifter 22.02 reads it (`src/ImageData.c`, `src/utility.c`)
//! and its image gateway writes it (`converters.py`). Pure: text in, value out, and back.
//!
//! The format has no escapes, and Shifter guesses: it trims values, glues a line that ends in `\`
//! to the next, and takes every pair of single quotes for a word. Here nothing is guessed. What
//! Shifter would read as something else than was meant is refused by name, when it is read and when
//! it is written.

mod write;

use crate::shown::shown;
pub use write::UnwritableMeta;

/// Most bytes of a meta file. Real ones have a few hundred.
pub const META_BYTES_MAX: u64 = 1 << 20;

/// Most ids in an access list; Shifter gives up above it (`_convert_to_list`).
const IDS_MAX: usize = 1000;

/// What is known of an image in a Shifter image directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShifterMeta {
    /// What the file beside it is.
    pub format: ShifterFormat,
    /// `ENTRY`: what `shifter --entrypoint` runs.
    pub entrypoint: Vec<String>,
    /// `CMD`: its arguments where none are given.
    pub command: Vec<String>,
    /// `WORKDIR`: where `shifter --workdir` starts.
    pub workdir: Option<String>,
    /// `USERACL`: users who may run it.
    pub users: Vec<u32>,
    /// `GROUPACL`: groups whose members may run it.
    pub groups: Vec<u32>,
    /// `ENV`, in order. Shifter itself does not set a variable whose value is empty.
    pub variables: Vec<(String, String)>,
}

/// What an image directory holds an image as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShifterFormat {
    /// `<id>.squashfs`.
    Squashfs,
    /// `<id>.xfs`, which only the kernel could mount.
    Xfs,
    /// `<id>.ext4`, which Shifter knows and does not mount.
    Ext4,
    /// `<id>.cramfs`, likewise.
    Cramfs,
    /// The directory `<id>.`; also where a meta file names no format.
    #[default]
    Vfs,
}

/// Formats by the words that stand for them.
const FORMATS: [(&str, ShifterFormat); 5] = [
    ("squashfs", ShifterFormat::Squashfs),
    ("xfs", ShifterFormat::Xfs),
    ("ext4", ShifterFormat::Ext4),
    ("cramfs", ShifterFormat::Cramfs),
    ("VFS", ShifterFormat::Vfs),
];

impl ShifterFormat {
    /// The word that stands for it, which is also how the file's name ends, but for `VFS`.
    pub fn as_str(self) -> &'static str {
        let word = FORMATS.iter().find(|(_, format)| *format == self).map(|(word, _)| *word);
        word.expect("every format has a word")
    }
}

/// Why a meta file is not read. Whoever keeps the image directory must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// It is longer than anybody writes.
    #[error("the meta file has {bytes} bytes, at most {META_BYTES_MAX} are read")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It is no text.
    #[error("the meta file is not UTF-8 text at byte {offset}")]
    NotText {
        /// Of the first byte that is wrong.
        offset: usize,
    },
    /// A line means nothing, or to Shifter something else than it seems to.
    #[error("line {line} of the meta file, `{}`, {wrong}", shown(text))]
    Line {
        /// From 1.
        line: usize,
        /// The line.
        text: String,
        /// What is wrong with it.
        wrong: String,
    },
}

impl ShifterMeta {
    /// Reads a meta file.
    ///
    /// Keys that say nothing about how the image runs are checked and skipped: `USER` is who
    /// imported it, and of `VOLUME` Shifter makes nothing.
    ///
    /// # Errors
    /// As in [`MetaError`]: the first line that is not plain.
    pub fn parse(bytes: &[u8]) -> Result<ShifterMeta, MetaError> {
        if bytes.len() as u64 > META_BYTES_MAX {
            return Err(MetaError::TooLarge { bytes: bytes.len() as u64 });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| MetaError::NotText { offset: error.valid_up_to() })?;
        let mut meta = ShifterMeta::default();
        let mut known = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            meta.read_line(text, &mut known).map_err(|wrong| {
                let (text, wrong) = (text.to_owned(), wrong.into());
                MetaError::Line { line, text, wrong }
            })?;
        }
        Ok(meta)
    }

    /// Whether Shifter lets a user with these ids run the image: if it is nobody's own, or the user
    /// or one of the groups is listed.
    pub fn admits(&self, uid: u32, gids: &[u32]) -> bool {
        let is_open = self.users.is_empty() && self.groups.is_empty();
        is_open || self.users.contains(&uid) || gids.iter().any(|gid| self.groups.contains(gid))
    }

    fn read_line(&mut self, text: &str, known: &mut Vec<String>) -> Result<(), Wrong> {
        if text.starts_with('#') || text.trim_ascii().is_empty() {
            return Ok(());
        }
        if text.contains(char::is_control) {
            return Err("has a control character".into());
        }
        let (key, value) = text.split_once(':').ok_or("is not `KEY: VALUE`")?;
        let (key, value) = (key.trim_ascii(), value.trim_ascii());
        if value.ends_with('\\') {
            return Err(r"ends in `\`, with which Shifter glues the next line to it".into());
        }
        if !matches!(key, "ENV" | "VOLUME") {
            if known.iter().any(|other| other == key) {
                return Err(format!("is the second `{}`", shown(key)).into());
            }
            known.push(key.to_owned());
        }
        match key {
            "FORMAT" => {
                let named = FORMATS.iter().find(|(word, _)| *word == value);
                self.format = named.ok_or("names a format that there is not")?.1;
            }
            "ENTRY" => self.entrypoint = words(value)?,
            "CMD" => self.command = words(value)?,
            "WORKDIR" if value.starts_with('/') => self.workdir = Some(value.to_owned()),
            "WORKDIR" => return Err("is no absolute path".into()),
            "USERACL" => self.users = ids(value)?,
            "GROUPACL" => self.groups = ids(value)?,
            "ENV" => match value.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    self.variables.push((name.to_owned(), value.to_owned()));
                }
                Some(_) | None => return Err("is not `ENV: NAME=VALUE`".into()),
            },
            "USER" | "VOLUME" => {}
            other => return Err(format!("has the unknown key `{}`", shown(other)).into()),
        }
        Ok(())
    }
}

/// What is wrong with a line.
type Wrong = std::borrow::Cow<'static, str>;

/// Reads the words of `ENTRY` or `CMD`: `['a', 'b']`, as Python 3 writes a list of texts without a
/// single quote, or `[u'a']` of Python 2, or one word without brackets.
fn words(value: &str) -> Result<Vec<String>, Wrong> {
    if value.is_empty() {
        return Err("has no value".into());
    }
    let Some(inner) = value.strip_prefix('[') else { return Ok(vec![value.to_owned()]) };
    let wrong = "is no list of words in single quotes, which is all that Shifter reads as one";
    let mut rest = inner;
    let mut words = Vec::new();
    loop {
        let quoted = rest.strip_prefix('u').unwrap_or(rest).strip_prefix('\'').ok_or(wrong)?;
        let (word, after) = quoted.split_once('\'').ok_or(wrong)?;
        words.push(word.to_owned());
        if after == "]" {
            return Ok(words);
        }
        rest = after.strip_prefix(',').ok_or(wrong)?.trim_start();
    }
}

/// Reads the ids of `USERACL` or `GROUPACL`. None at all is an image for everybody, as the gateway
/// writes it.
fn ids(value: &str) -> Result<Vec<u32>, Wrong> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let id = |word: &str| word.trim().parse().map_err(|_| "is no list of ids".into());
    let ids: Vec<u32> = value.split(',').map(id).collect::<Result<_, Wrong>>()?;
    if ids.len() > IDS_MAX {
        return Err(format!("has {} ids, at most {IDS_MAX} are read", ids.len()).into());
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ShifterMeta, MetaError> {
        ShifterMeta::parse(text.as_bytes())
    }

    /// As `writemeta` of the gateway writes it, for a private image that was imported.
    #[test]
    fn reads_what_the_gateway_writes() {
        let meta = parse(
            "FORMAT: squashfs\nENTRY: ['/bin/sh', '-c', '', '\\\\']\nCMD: [u'echo', u'a b']\n\
             WORKDIR: /srv\nUSERACL: 500,1000\nGROUPACL: 7\nENV: PATH=/usr/bin:/bin\nENV: A=b=c\n\
             ENV: E=\nUSER: someone\n",
        )
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(meta.format, ShifterFormat::Squashfs);
        assert_eq!(meta.entrypoint, ["/bin/sh", "-c", "", r"\\"], "Shifter knows no escapes");
        assert_eq!(meta.command, ["echo", "a b"]);
        assert_eq!(meta.workdir.as_deref(), Some("/srv"));
        assert_eq!((meta.users, meta.groups), (vec![500, 1000], vec![7]));
        let variables = [pair("PATH", "/usr/bin:/bin"), pair("A", "b=c"), pair("E", "")];
        assert_eq!(meta.variables, variables);
    }

    #[test]
    fn reads_what_people_write() {
        let meta = parse("# ours\n\nENTRY: /bin/date\n").unwrap();
        assert_eq!((meta.format, meta.entrypoint), (ShifterFormat::Vfs, vec!["/bin/date".into()]));
    }

    #[test]
    fn refuses_what_shifter_reads_as_something_else() {
        for text in [
            "ENTRY: [\"a\", \"b\"]", // one word
            "ENTRY: ['a', \"b'c\"]", // "Malformed JSON"
            "ENTRY: ['a' 'b']",
            "ENTRY: ['a', 'b'",
            "ENTRY: []",
            "ENTRY:",
            "ENV: A=one\\",
            "ENV: A=one\rB",
            "ENV: A",
            "ENV: =b",
            "FORMAT: tar",
            "FORMAT: squashfs\nFORMAT: squashfs",
            "USERACL: 1\nUSERACL: 2",
            "USERACL: 1,x",
            "USERACL: -1",
            "WORKDIR: srv",
            "SHELL: /bin/sh",
            "nothing",
        ] {
            let last = text.lines().count();
            match parse(text) {
                Err(MetaError::Line { line, .. }) => assert_eq!(line, last, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let many = format!("USERACL: {}\n", vec!["1"; IDS_MAX + 1].join(","));
        assert!(matches!(parse(&many), Err(MetaError::Line { .. })));
        assert!(matches!(ShifterMeta::parse(b"\xff"), Err(MetaError::NotText { offset: 0 })));
        let large = vec![b'#'; usize::try_from(META_BYTES_MAX).unwrap() + 1];
        assert!(matches!(ShifterMeta::parse(&large), Err(MetaError::TooLarge { .. })));
    }

    #[test]
    fn lists_of_ids_bound_who_may_run_an_image() {
        let meta = parse("USERACL: 5\nGROUPACL: 7\n").unwrap();
        assert!(meta.admits(5, &[1]) && meta.admits(6, &[1, 7]));
        assert!(!meta.admits(6, &[5]) && !meta.admits(7, &[1]));
        assert!(parse("USERACL: \n").unwrap().admits(6, &[6]), "as Shifter reads it");
    }
}
