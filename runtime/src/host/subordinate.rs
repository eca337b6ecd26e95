//! Ids that a user may have besides the own one: `subuid(5)`, `newuidmap(1)`.
//!
//! Only the files are read: ranges that a directory service gives (`subid:` in `nsswitch.conf(5)`)
//! are not seen.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use crate::{Caller, SubordinateIds};

/// Where distributions put the two programs. A fixed list: a search path is the caller's.
const PROGRAM_DIRECTORIES: [&str; 3] = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];

/// Finds what `caller` may map; `None`: nothing.
pub(super) fn find(caller: &Caller) -> Option<SubordinateIds> {
    let uids = parse_range(&fs::read_to_string("/etc/subuid").ok()?, caller)?;
    let gids = parse_range(&fs::read_to_string("/etc/subgid").ok()?, caller)?;
    let (newuidmap, newgidmap) = if caller.uid == 0 {
        // Root has the capabilities to write the maps itself.
        (PathBuf::new(), PathBuf::new())
    } else if rustix::thread::no_new_privs().unwrap_or(false) {
        // The programs would start without the rights that they need.
        return None;
    } else {
        (find_program("newuidmap")?, find_program("newgidmap")?)
    };
    Some(SubordinateIds { newuidmap, newgidmap, uids, gids })
}

/// The largest range in lines of `NAME-OR-UID:FIRST:COUNT`.
fn parse_range(text: &str, caller: &Caller) -> Option<(u32, u32)> {
    let uid = caller.uid.to_string();
    let name = if caller.uid == 0 { Some("root") } else { caller.name.as_deref() };
    let ranges = text.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let owner = parts.next()?;
        let (first, count) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        (owner == uid || Some(owner) == name).then_some((first, count))
    });
    // A range that contains the uid of root or passes the end of all ids is a mistake in the file.
    let sound = |(first, count): &(u32, u32)| {
        *first > 0 && *count > 0 && first.checked_add(*count).is_some()
    };
    ranges.filter(sound).max_by_key(|(_, count)| *count)
}

/// A program that root owns and that the kernel gives more rights than its caller has.
fn find_program(name: &str) -> Option<PathBuf> {
    PROGRAM_DIRECTORIES.iter().map(|directory| PathBuf::from(directory).join(name)).find(|path| {
        let Ok(found) = fs::metadata(path) else { return false };
        let setuid = found.permissions().mode() & 0o4000 != 0;
        let mut none = [0_u8; 0];
        let capable = rustix::fs::getxattr(path, "security.capability", &mut none[..])
            .is_ok_and(|bytes| bytes > 0);
        found.is_file() && found.uid() == 0 && (setuid || capable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, name: &str) -> Caller {
        Caller { uid, gid: uid, groups: Vec::new(), name: Some(name.to_owned()) }
    }

    #[test]
    fn range_is_the_callers_largest_sound_one() {
        let text = "ada:100000:65536\nbob:200000:65536\n1001:400000:70000\n\
                    # comment\nada:x:1\nada:7\nada:4294967295:2\nada:0:4000000000\n\n";
        assert_eq!(parse_range(text, &caller(1000, "ada")), Some((100_000, 65536)));
        assert_eq!(parse_range(text, &caller(1001, "bob")), Some((400_000, 70000)));
        assert_eq!(parse_range(text, &caller(1002, "eve")), None);
    }

    #[test]
    fn range_of_root_is_under_its_name_whatever_the_caller_is_called() {
        assert_eq!(parse_range("root:1:2\ntoor:5:9\n", &caller(0, "toor")), Some((1, 2)));
    }
}
