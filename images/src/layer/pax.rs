//! PAX extended headers: records that replace or add to the fields of the next entry.
//!
//! Parsed here and not by the `tar` crate, whose iterator splits records at newlines and so loses
//! binary attribute values.

use super::owner::OWN_PREFIX;

/// What the extended headers before an entry say about it. An empty value withdraws a field (POSIX
/// `pax`, "pax Extended Header").
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Moment>,
    /// Attributes that may be set, by full name. The last record of a name holds.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Attributes that may not be set.
    pub(super) xattrs_ignored: u64,
    /// `security.capability`, counted as ignored: what a tree never gets but a file system made of
    /// the layer may.
    pub(super) capability: Option<Vec<u8>>,
    /// The entry is sparse in one of the PAX encodings.
    pub(super) sparse: bool,
}

/// A point in time, as `timespec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Only these attributes mean the same whoever unpacks, and only those outside overlayfs's own name
/// space cannot forge a whiteout. `security.*` (capabilities, labels), `system.*` (access control
/// lists by uid) and `trusted.*` are never set.
const XATTR_ALLOWED: &[u8] = b"user.";
const XATTR_FORBIDDEN: [&[u8]; 2] = [b"user.overlay.", OWN_PREFIX];

/// Whether an attribute of an archive becomes one of the tree, and one of the tree one of an
/// archive.
pub(super) fn is_kept_xattr(name: &[u8]) -> bool {
    name.starts_with(XATTR_ALLOWED)
        && !XATTR_FORBIDDEN.iter().any(|forbidden| name.starts_with(forbidden))
        && name.len() > XATTR_ALLOWED.len()
}

/// What a program may do though its user may not (capabilities(7), "File capabilities").
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

impl Extended {
    /// Reads the records of one extended header.
    ///
    /// # Errors
    /// What is wrong with the first malformed record.
    pub(super) fn parse(mut data: &[u8]) -> Result<Extended, String> {
        let mut records = Extended::default();
        while !data.is_empty() {
            let (key, value) = take_record(&mut data)?;
            records.set(key, value)?;
        }
        Ok(records)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"path" => self.path = Some(value.to_vec()).filter(|path| !path.is_empty()),
            b"linkpath" => self.link = Some(value.to_vec()).filter(|path| !path.is_empty()),
            b"size" => self.size = number("size", value)?,
            b"uid" => self.uid = number("uid", value)?,
            b"gid" => self.gid = number("gid", value)?,
            b"mtime" => self.mtime = moment(value)?,
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.set_xattr(name, value);
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        if !is_kept_xattr(name) {
            self.xattrs_ignored += 1;
            if name == CAPABILITY {
                self.capability = Some(value.to_vec());
            }
            return;
        }
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
    }
}

/// Refuses a global header that would change what later entries are: readers disagree whether it
/// does.
pub(super) fn check_global(data: &[u8]) -> Result<(), String> {
    let records = Extended::parse(data)?;
    if records.path.is_some()
        || records.link.is_some()
        || records.size.is_some()
        || records.uid.is_some()
        || records.gid.is_some()
        || records.sparse
    {
        return Err("a global extended header changes names, sizes or owners".to_owned());
    }
    Ok(())
}

/// Takes `LENGTH KEY=VALUE\n` off; the length counts the whole record.
fn take_record<'a>(data: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), String> {
    const LENGTH_DIGITS_MAX: usize = 10;
    let malformed = || "malformed extended header record".to_owned();
    let space = data.iter().take(LENGTH_DIGITS_MAX + 1).position(|b| *b == b' ');
    let space = space.ok_or_else(malformed)?;
    let length = number("record length", &data[..space])?.ok_or_else(malformed)?;
    let length = usize::try_from(length).map_err(|_| malformed())?;
    if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
        return Err(malformed());
    }
    let record = &data[space + 1..length - 1];
    let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0);
    let equals = equals.ok_or_else(malformed)?;
    *data = &data[length..];
    Ok((&record[..equals], &record[equals + 1..]))
}

/// A decimal number; none if empty.
fn number(what: &str, text: &[u8]) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_decimal = text.iter().all(u8::is_ascii_digit);
    let parsed = std::str::from_utf8(text).ok().filter(|_| is_decimal).and_then(|t| t.parse().ok());
    parsed.map(Some).ok_or_else(|| format!("{what} of an extended header is not a number"))
}

/// Seconds with a fraction, possibly before 1970; none if empty. More digits than nanoseconds need
/// are dropped.
fn moment(text: &[u8]) -> Result<Option<Moment>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || "mtime of an extended header is not a time".to_owned();
    let is_negative = text[0] == b'-';
    let digits = if is_negative { &text[1..] } else { text };
    let dot = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let whole = number("mtime", &digits[..dot])?.ok_or_else(malformed)?;
    let mut fraction = digits.get(dot + 1..).unwrap_or(b"").to_vec();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    fraction.resize(9, b'0');
    let mut nanoseconds = fraction.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let mut seconds = i64::try_from(whole).unwrap_or(i64::MAX);
    if is_negative {
        seconds = -seconds;
        if nanoseconds > 0 {
            seconds -= 1;
            nanoseconds = 1_000_000_000 - nanoseconds;
        }
    }
    Ok(Some(Moment { seconds, nanoseconds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_newlines_and_equal_signs_in_values() {
        let records = Extended::parse(b"27 SCHILY.xattr.user.a=\n=\n\n").unwrap();
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"\n=\n".to_vec())]);
    }

    #[test]
    fn sets_no_attribute_outside_the_allow_list() {
        for name in
            ["security.capability", "trusted.overlay.opaque", "user.overlay.opaque", "user."]
        {
            let record = format!("SCHILY.xattr.{name}=y\n");
            let length = record.len() + 3;
            let records = Extended::parse(format!("{length} {record}").as_bytes()).unwrap();
            assert_eq!((records.xattrs.len(), records.xattrs_ignored), (0, 1), "{name}");
        }
    }

    #[test]
    fn reads_times_on_both_sides_of_1970() {
        let time = |text: &[u8]| moment(text).unwrap().map(|m| (m.seconds, m.nanoseconds));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-0.1"), Some((-1, 900_000_000)));
        assert_eq!(time(b""), None);
    }

    #[test]
    fn refuses_malformed_records() {
        let cases: [&[u8]; 8] = [
            b"5 a=b",
            b"99 a=b\n",
            b"6 =bb\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b" 6 a=b\n",
            b"11 size=-1\n\n",
            b"99999999999999999999 a=b\n",
        ];
        for case in cases {
            assert!(Extended::parse(case).is_err(), "{}", case.escape_ascii());
        }
    }

    #[test]
    fn refuses_global_headers_that_rename() {
        assert!(check_global(b"10 path=x\n").is_err());
        assert!(check_global(b"11 size=12\n").is_err());
        assert!(check_global(b"16 comment=abcd\n").is_ok());
    }
}
