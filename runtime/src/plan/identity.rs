//! Whose ids a task runs with, inside and outside.
//!
//! | who | inside, for root | inside, for others | outside, for others |
//! | --- | --- | --- | --- |
//! | `caller` | `root_runs_as` | the caller | the caller |
//! | `image` | the image's numbers | the image's numbers | the caller |
//! | `root` | 0 | 0 | the caller |
//!
//! Outside, tasks of root have the same numbers as inside, and subordinate ids in the place of 0.
//!
//! **Invariant:** uid 0 inside never is uid 0 outside.

use std::path::PathBuf;

use ric_images::Manifest;
use ric_policies::{Policy, RunAs};

use crate::{
    Actor, Caller, Host, IdMap, Identities, Refusal, Rule, SubordinateIds, Task, UserChoice,
};

/// Largest id that is accepted (containerd, CVE-2024-40635: larger ones wrap to 0 in some tools).
const ID_MAX: u32 = 0x7fff_ffff;

/// Login name of the uid that root's tasks run with, where the policy leaves it at the usual one.
const NOBODY: (u32, &str) = (65534, "nobody");

/// Name of a uid that has none which may stand in `passwd(5)`.
const NAMELESS: &str = "user";

/// Most characters of a login name (`useradd(8)`).
const NAME_CHARS_MAX: usize = 32;

/// First and count of the ids that root's build steps have outside. No distribution gives out ids
/// between 1879048192 and 2147352575 (systemd, "Users, Groups, UIDs and GIDs on systemd Systems").
const IDS_OF_ROOTS_BUILDS: (u32, u32) = (0x7000_0000, 65_536);

/// A uid and a gid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ids {
    uid: u32,
    gid: u32,
}

/// Decides the ids of a task.
pub(super) fn identities(
    task: &Task,
    manifest: &Manifest,
    policy: &Policy,
    host: &Host,
) -> Result<Identities, Refusal> {
    let choice = task.user.unwrap_or(match policy.run_as.value {
        RunAs::Caller => UserChoice::Caller,
        RunAs::Image => UserChoice::Image,
    });
    match choice {
        UserChoice::Caller => as_caller(&task.caller, policy, host),
        UserChoice::Root => as_root(Ids { uid: 0, gid: 0 }, &task.caller, host, "`--user root`"),
        UserChoice::Image => {
            refuse_image_user(policy)?;
            match manifest.config.user.as_deref().filter(|user| !user.is_empty()) {
                // An image that names nobody would mean uid 0; the caller is the lesser choice.
                None => as_caller(&task.caller, policy, host),
                Some(user) => as_image(user, &task.caller, host),
            }
        }
    }
}

fn refuse_image_user(policy: &Policy) -> Result<(), Refusal> {
    match policy.run_as.value {
        RunAs::Image => Ok(()),
        RunAs::Caller => Err(Refusal::User {
            asked: "the image's user".to_owned(),
            why: format!(
                "{} says `run_as: caller`",
                Rule::at(policy, "run_as", &policy.run_as.origin)
            ),
            remedy: "drop `--user image`, or ask your site for `run_as: image`".to_owned(),
            actor: Actor::User,
        }),
    }
}

fn as_caller(caller: &Caller, policy: &Policy, host: &Host) -> Result<Identities, Refusal> {
    if caller.uid != 0 {
        let ids = Ids { uid: caller.uid, gid: caller.gid };
        let name = login_name(caller.name.as_deref());
        if !host.privileged.works {
            return Ok(mapped_alone(ids, ids, name));
        }
        // The gid is a group too: a file that its group may not read must stay unreadable.
        let mut groups = caller.groups.clone();
        groups.push(caller.gid);
        groups.sort_unstable();
        groups.dedup();
        return Ok(as_they_are(ids, groups, name));
    }
    let id = policy.root_runs_as.value;
    if id == 0 || id > ID_MAX {
        return Err(Refusal::User {
            asked: format!("uid {id}"),
            why: format!(
                "{} says so, and root's tasks never run as root",
                Rule::at(policy, "root_runs_as", &policy.root_runs_as.origin)
            ),
            remedy: format!("set `root_runs_as:` to 1 to {ID_MAX}, or use `--user root`"),
            actor: Actor::Site,
        });
    }
    let name = if id == NOBODY.0 { NOBODY.1 } else { NAMELESS };
    Ok(unprivileged(Ids { uid: id, gid: id }, name, host))
}

/// The image's `User`: numbers only. Names stand in the image's `passwd`, which is not read for
/// this: an all-digit name looked up there has made root of a number (containerd, CVE-2026-46680).
fn as_image(user: &str, caller: &Caller, host: &Host) -> Result<Identities, Refusal> {
    let ids = parse_image_user(user).map_err(|why| Refusal::User {
        asked: format!("the image's user {user:?}"),
        why,
        remedy: "build the image with numbers, as in `USER 1000:1000`, or use `--user caller`"
            .to_owned(),
        actor: Actor::User,
    })?;
    // Group 0 of the machine is no more for a task of root than its uid 0 is.
    if ids.uid == 0 || (caller.uid == 0 && ids.gid == 0) {
        return as_root(ids, caller, host, "the image's user 0");
    }
    if caller.uid == 0 {
        return Ok(unprivileged(ids, NAMELESS, host));
    }
    let outside = Ids { uid: caller.uid, gid: caller.gid };
    Ok(mapped_alone(ids, outside, NAMELESS.to_owned()))
}

/// Uid 0, or group 0, of a user namespace.
fn as_root(ids: Ids, caller: &Caller, host: &Host, asked: &str) -> Result<Identities, Refusal> {
    let refuse = |why: String, remedy: String| Refusal::User {
        asked: asked.to_owned(),
        why,
        remedy,
        actor: Actor::Host,
    };
    if !host.user_namespace.works {
        return Err(refuse(
            format!("uid 0 needs a user namespace: {}", host.user_namespace.detail),
            crate::doctor::USER_NAMESPACE_REMEDY.to_owned(),
        ));
    }
    let name = if ids.uid == 0 { "root" } else { NAMELESS };
    let outside = Ids { uid: caller.uid, gid: caller.gid };
    let map = match &host.subordinate_ids {
        Some(ranges) if caller.uid == 0 => subordinate(ranges),
        Some(ranges) => caller_and_subordinate(outside, ranges),
        None if caller.uid == 0 => {
            return Err(refuse(
                "root has no subordinate ids".to_owned(),
                crate::doctor::SUBORDINATE_REMEDY.to_owned(),
            ));
        }
        None => return Ok(mapped_alone(ids, outside, name.to_owned())),
    };
    if !covers(&map.uids, ids.uid) || !covers(&map.gids, ids.gid) {
        return Err(refuse(
            format!("{}:{} is not in the subordinate ids", ids.uid, ids.gid),
            crate::doctor::SUBORDINATE_REMEDY.to_owned(),
        ));
    }
    Ok(Identities {
        uid: ids.uid,
        gid: ids.gid,
        groups: Some(vec![ids.gid]),
        name: name.to_owned(),
        user_namespace: Some(map),
    })
}

/// Uid 0 of a user namespace, or another id of it, for a build step.
///
/// Subordinate ids of root stand in no file of the store and show nowhere: what such a step reads
/// and writes goes through mounts that map them. So root needs none of `subuid(5)`, and gets those
/// that nobody else is given.
pub(super) fn of_build(
    user: Option<&str>,
    supplementary: &[u32],
    caller: &Caller,
    host: &Host,
) -> Result<Identities, Refusal> {
    let asked = user.unwrap_or("0:0");
    let ids = parse_image_user(asked).map_err(|why| Refusal::User {
        asked: format!("the user {asked:?} of a build step"),
        why,
        remedy: "name it by numbers, as in `USER 1000:1000`".to_owned(),
        actor: Actor::User,
    })?;
    let mut host = host.clone();
    if caller.uid == 0 {
        host.subordinate_ids = Some(SubordinateIds {
            newuidmap: PathBuf::new(),
            newgidmap: PathBuf::new(),
            uids: IDS_OF_ROOTS_BUILDS,
            gids: IDS_OF_ROOTS_BUILDS,
        });
    }
    let mut identities = as_root(ids, caller, &host, "a build step")?;
    if let Some(groups) = &mut identities.groups {
        groups.extend(supplementary);
        groups.sort_unstable();
        groups.dedup();
    }
    let has =
        |gid: &&u32| identities.user_namespace.as_ref().is_none_or(|map| covers(&map.gids, **gid));
    if let Some(gid) = identities.groups.iter().flatten().find(|gid| !has(gid)) {
        return Err(Refusal::User {
            asked: format!("the group {gid} of a build step's user"),
            why: "it is not in the subordinate ids".to_owned(),
            remedy: crate::doctor::SUBORDINATE_REMEDY.to_owned(),
            actor: Actor::Host,
        });
    }
    match &identities.user_namespace {
        // Of one id alone, all files would belong to that user.
        Some(map) if covers(&map.uids, 0) && covers(&map.gids, 0) => Ok(identities),
        Some(_) | None => Err(Refusal::User {
            asked: format!("{}:{}", ids.uid, ids.gid),
            why: "without subordinate ids a build step has no user but root".to_owned(),
            remedy: crate::doctor::SUBORDINATE_REMEDY.to_owned(),
            actor: Actor::Host,
        }),
    }
}

/// Ids that are neither root's nor the caller's: for the tasks of root.
fn unprivileged(ids: Ids, name: &str, host: &Host) -> Identities {
    let mut identities = as_they_are(ids, vec![ids.gid], name.to_owned());
    if !host.privileged.works {
        identities.user_namespace = Some(one_line(ids, ids));
    }
    identities
}

/// The same ids inside and outside, no user namespace.
fn as_they_are(ids: Ids, groups: Vec<u32>, name: String) -> Identities {
    Identities { uid: ids.uid, gid: ids.gid, groups: Some(groups), name, user_namespace: None }
}

/// A user namespace with one line, which its own creator may write (`user_namespaces(7)`); it has
/// to give up `setgroups(2)` for it, so the groups stay the caller's.
fn mapped_alone(inside: Ids, outside: Ids, name: String) -> Identities {
    Identities {
        uid: inside.uid,
        gid: inside.gid,
        groups: None,
        name,
        user_namespace: Some(one_line(inside, outside)),
    }
}

fn one_line(inside: Ids, outside: Ids) -> IdMap {
    IdMap {
        uids: vec![(inside.uid, outside.uid, 1)],
        gids: vec![(inside.gid, outside.gid, 1)],
        by_helper: false,
    }
}

/// All inside ids are subordinate ones: root outside is nobody inside.
fn subordinate(ranges: &SubordinateIds) -> IdMap {
    let line = |(first, count)| vec![(0, first, count)];
    IdMap { uids: line(ranges.uids), gids: line(ranges.gids), by_helper: has_helper(ranges) }
}

/// 0 is the caller, so that files written to mounts belong to the caller; the rest is subordinate.
fn caller_and_subordinate(caller: Ids, ranges: &SubordinateIds) -> IdMap {
    let lines = |own, (first, count)| vec![(0, own, 1), (1, first, count)];
    IdMap {
        uids: lines(caller.uid, ranges.uids),
        gids: lines(caller.gid, ranges.gids),
        by_helper: has_helper(ranges),
    }
}

/// Root writes the maps itself.
fn has_helper(ranges: &SubordinateIds) -> bool {
    !ranges.newuidmap.as_os_str().is_empty()
}

fn covers(lines: &[(u32, u32, u32)], id: u32) -> bool {
    lines.iter().any(|(inside, _, count)| id.checked_sub(*inside).is_some_and(|n| n < *count))
}

/// `UID[:GID]`, both decimal. Without a gid it is the uid's number: never group 0 by omission.
fn parse_image_user(user: &str) -> Result<Ids, String> {
    let (uid, gid) = match user.split_once(':') {
        Some((uid, gid)) => (parse_id(uid)?, parse_id(gid)?),
        None => (parse_id(user)?, parse_id(user)?),
    };
    Ok(Ids { uid, gid })
}

fn parse_id(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Err("an id is missing".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text:?} is a name, and only numbers are followed"));
    }
    let id = text.parse().ok().filter(|id| *id <= ID_MAX);
    id.ok_or_else(|| format!("{text} is not between 0 and {ID_MAX}"))
}

/// A name that can stand in `passwd(5)` without meaning anything else there (T33).
fn login_name(name: Option<&str>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = |name: &&str| {
        let short = !name.is_empty() && name.len() <= NAME_CHARS_MAX;
        short && name.chars().all(plain) && !name.starts_with('-') && *name != "root"
    };
    name.filter(fits).unwrap_or(NAMELESS).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_numbers_or_errors_and_never_names() {
        assert_eq!(parse_image_user("1000"), Ok(Ids { uid: 1000, gid: 1000 }));
        assert_eq!(parse_image_user("1000:5"), Ok(Ids { uid: 1000, gid: 5 }));
        assert_eq!(parse_image_user("0:0"), Ok(Ids { uid: 0, gid: 0 }));
        assert_eq!(parse_image_user("2147483647"), Ok(Ids { uid: ID_MAX, gid: ID_MAX }));
        for wrong in [
            "2147483648",
            "4294967296",
            "99999999999999999999",
            "1000:4294967295",
            "node",
            "-1",
            "+5",
            " 5",
            "0x0",
            "",
            ":",
            "5:",
            ":5",
            "1:2:3",
            "٣",
        ] {
            assert!(parse_image_user(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn login_name_has_nothing_that_passwd_could_misread() {
        assert_eq!(login_name(Some("ada.l-9_x")), "ada.l-9_x");
        for odd in ["", "a:b", "a\nroot:x:0", "-a", "a b", "root", "é"] {
            assert_eq!(login_name(Some(odd)), NAMELESS, "{odd:?}");
        }
    }
}
