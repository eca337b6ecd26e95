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

/// Whom a command runs as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Of the user's line, if there is one.
    pub(super) home: Option<String>,
    /// Those that list the user as a member. None if `USER` names a group: then it is in that alone
    /// (Dockerfile reference, "USER").
    pub(super) groups: Vec<u32>,
}

/// The account that `USER[:GROUP]` means. Without a group it is that of the user's line; root's if
/// a number has no line (Dockerfile reference, "USER").
///
/// # Errors
/// [`CopyError::Owner`] for a name that the image does not have.
pub(super) fn account(user: &str, image: &Merged) -> Result<Account, CopyError> {
    let (name, group) = user.split_once(':').unwrap_or((user, ""));
    let is_asked = |fields: &[String]| match name.parse::<u32>() {
        Ok(_) => fields.get(2).is_some_and(|uid| uid == name),
        Err(_) => fields.first().is_some_and(|first| first == name),
    };
    let fields = find("etc/passwd", is_asked, image)?;
    let home = fields.as_ref().and_then(|fields| fields.get(5)).filter(|home| !home.is_empty());
    let home = home.cloned();
    let has_group = !group.is_empty();
    let groups = match fields.as_ref().and_then(|fields| fields.first()) {
        Some(name) if !has_group => groups_with(name, image)?,
        Some(_) | None => Vec::new(),
    };
    if name.parse::<u32>().is_ok() && !has_group {
        let gid = fields.as_ref().and_then(|fields| fields.get(3)?.parse().ok()).unwrap_or(0);
        return Ok(Account { uid: name.parse().unwrap_or_default(), gid, home, groups });
    }
    let (uid, gid) = numbers(user, image)?;
    Ok(Account { uid, gid, home, groups })
}

/// The groups that list `user` as a member (group(5)).
fn groups_with(user: &str, image: &Merged) -> Result<Vec<u32>, CopyError> {
    let lists = |fields: &Vec<String>| {
        fields.get(3).is_some_and(|members| members.split(',').any(|member| member.trim() == user))
    };
    let lines = lines("etc/group", image)?.into_iter().filter(lists);
    Ok(lines.filter_map(|fields| fields.get(2)?.parse().ok()).collect())
}

/// The fields of the first line of `file` that begins with `name`.
fn line(file: &str, name: &str, image: &Merged) -> Result<Option<Vec<String>>, CopyError> {
    find(file, |fields| fields.first().is_some_and(|first| first == name), image)
}

/// The fields of the first line of `file` that is the right one.
fn find(
    file: &str,
    is_right: impl Fn(&[String]) -> bool,
    image: &Merged,
) -> Result<Option<Vec<String>>, CopyError> {
    Ok(lines(file, image)?.into_iter().find(|fields| is_right(fields)))
}

/// The fields of the lines of `file`; none if it is not there.
fn lines(file: &str, image: &Merged) -> Result<Vec<Vec<String>>, CopyError> {
    let failed = |source| CopyError::Io { path: file.to_owned(), source };
    let opened = match image.real(file.as_bytes()) {
        Ok(Some(real)) => image.file(&real),
        Ok(None) => return Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(failed)?.0,
    };
    let mut bytes = Vec::new();
    file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn commands_run_as_accounts_of_the_image() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/passwd"), "app:x:5:7::/srv:\nbare:x:9:9:::\n").unwrap();
        let groups = "staff:x:50:\nwheel:x:10:bare,app\napps:x:11:application\n";
        fs::write(root.path().join("etc/group"), groups).unwrap();
        let merged = Merged::open(&[root.path().to_owned()]).unwrap();
        for (user, uid, gid, home, groups) in [
            ("app", 5, 7, Some("/srv"), &[10][..]),
            ("5", 5, 7, Some("/srv"), &[10]),
            ("app:staff", 5, 50, Some("/srv"), &[]),
            ("5:8", 5, 8, Some("/srv"), &[]),
            ("bare", 9, 9, None, &[10]),
            ("1000", 1000, 0, None, &[]),
            ("1000:1000", 1000, 1000, None, &[]),
        ] {
            let home = home.map(str::to_owned);
            let expected = Account { uid, gid, home, groups: groups.to_vec() };
            assert_eq!(account(user, &merged).unwrap(), expected, "{user}");
        }
        for (user, named) in [("ada", "/etc/passwd"), ("app:ada", "/etc/group")] {
            assert!(account(user, &merged).unwrap_err().to_string().contains(named), "{user}");
        }
    }

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
