//! Whom files of an image belong to, by name or number.
//!
//! Names are those of the image's own `passwd` and `group`, found as a sandbox would find them:
//! nothing of this machine is asked.

use std::io::{self, Read};

use super::copy::CopyError;
use super::merged::Merged;

/// Bytes of such a file that are read.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// The ids of `USER[:GROUP]`. A user's number is the group's too, a user's name has the group of
/// its line (Dockerfile reference, "COPY --chown").
///
/// # Errors
/// [`CopyError::Owner`] for a name that the image does not have.
pub(super) fn numbers(owner: &str, image: &Merged) -> Result<(u32, u32), CopyError> {
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (owner, None),
    };
    let (uid, own_gid) = match user.parse() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let missing = || CopyError::Owner { name: user.to_owned(), file: "/etc/passwd" };
            let fields = line("etc/passwd", user, image)?.ok_or_else(missing)?;
            let number = |at: usize| fields.get(at).and_then(|text| text.parse().ok());
            number(2).zip(number(3)).ok_or_else(missing)?
        }
    };
    let gid = match group.map(|group| (group, group.parse())) {
        None => own_gid,
        Some((_, Ok(gid))) => gid,
        Some((group, Err(_))) => {
            let missing = || CopyError::Owner { name: group.to_owned(), file: "/etc/group" };
            let fields = line("etc/group", group, image)?.ok_or_else(missing)?;
            fields.get(2).and_then(|text| text.parse().ok()).ok_or_else(missing)?
        }
    };
    Ok((uid, gid))
}

/// The fields of the first line of `file` that begins with `name`.
fn line(file: &str, name: &str, image: &Merged) -> Result<Option<Vec<String>>, CopyError> {
    let failed = |source| CopyError::Io { path: file.to_owned(), source };
    let opened = match image.real(file.as_bytes()) {
        Ok(Some(real)) => image.file(&real),
        Ok(None) => return Ok(None),
        Err(error) => Err(error),
    };
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?.0,
    };
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(|line| line.split(':').map(str::to_owned));
    Ok(lines.find_map(|fields| {
        let fields: Vec<String> = fields.collect();
        (fields[0] == name).then_some(fields)
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn owners_are_those_of_the_image() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "outsider:x:9:9::/:\n").unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "app:x:5:7::/:\nodd:x:::\n").unwrap();
        fs::write(root.path().join("etc/group"), "staff:x:50:\n").unwrap();
        let of = |owner| numbers(owner, &Merged::open(&[root.path().to_owned()]).unwrap());
        for (owner, expected) in [
            ("3", (3, 3)),
            ("3:4", (3, 4)),
            ("app", (5, 7)),
            ("app:staff", (5, 50)),
            ("app:9", (5, 9)),
            ("3:staff", (3, 50)),
            (":staff", (0, 50)),
            ("app:", (5, 7)),
        ] {
            assert_eq!(of(owner).unwrap(), expected, "{owner}");
        }
        for (owner, named) in [("ada", "/etc/passwd"), ("3:ada", "/etc/group"), ("odd", "`odd`")] {
            assert!(of(owner).unwrap_err().to_string().contains(named), "{owner}");
        }
        // Neither this machine's accounts nor what a link leads out to.
        fs::remove_file(root.path().join("etc/passwd")).unwrap();
        symlink(outside.path(), root.path().join("etc/passwd")).unwrap();
        assert!(of("outsider").is_err());
        assert!(of("root").is_err());
    }
}
