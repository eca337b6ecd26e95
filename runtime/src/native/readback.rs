//! Compares what the kernel says of the first process with what was planned.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime as oci;

use super::translate::kept_capabilities;

/// Something that is not as it was planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// What was looked at, such as `CapEff` or `mount /tmp`.
    pub(crate) what: String,
    /// What was planned.
    pub(crate) planned: String,
    /// What the kernel says.
    pub(crate) found: String,
}

/// The first difference, if there is one. `text` is `/proc/self/{status,limits,mountinfo}` of the
/// sandbox's first process, one behind the other, read before anything untrusted ran.
pub(crate) fn compare(spec: &oci::Spec, text: &str, groups: Option<&[u32]>) -> Option<Mismatch> {
    compare_beside(spec, text, groups, &["nosuid", "nodev"])
}

/// As [`compare`], where the engine has mounted the root with `root_flags` besides its access.
pub(crate) fn compare_beside(
    spec: &oci::Spec,
    text: &str,
    groups: Option<&[u32]>,
    root_flags: &[&'static str],
) -> Option<Mismatch> {
    let mounts = || mounts(spec, text, root_flags);
    status(spec, text, groups).or_else(|| limits(spec, text)).or_else(mounts)
}

fn differs(what: &str, planned: &str, found: Option<&str>) -> Option<Mismatch> {
    let found = found.unwrap_or("nothing");
    let mismatch =
        || Mismatch { what: what.to_owned(), planned: planned.to_owned(), found: found.to_owned() };
    (planned != found).then(mismatch)
}

/// Lines of proc_pid_status(5).
fn status(spec: &oci::Spec, text: &str, groups: Option<&[u32]>) -> Option<Mismatch> {
    let process = spec.process().as_ref()?;
    let user = process.user();
    let kept = format!("{:016x}", kept_capabilities(process));
    let four = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join(" ");
    let none = "0000000000000000";
    let mut planned = vec![
        ("Uid", four(user.uid())),
        ("Gid", four(user.gid())),
        ("CapInh", none.into()),
        ("CapPrm", kept.clone()),
        ("CapEff", kept.clone()),
        ("CapBnd", kept),
        ("CapAmb", none.into()),
        ("NoNewPrivs", "1".into()),
        ("Seccomp", "2".into()),
    ];
    if let Some(groups) = groups {
        let mut sorted = groups.to_vec();
        sorted.sort_unstable();
        let words: Vec<String> = sorted.iter().map(u32::to_string).collect();
        planned.push(("Groups", words.join(" ")));
    }
    planned.iter().find_map(|(key, value)| differs(key, value, line(text, key).as_deref()))
}

/// The words behind `key:`, with one blank between.
fn line(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().take_while(|line| !line.starts_with("Limit "));
    let rest = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(rest.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// Lines of proc_pid_limits(5).
fn limits(spec: &oci::Spec, text: &str) -> Option<Mismatch> {
    let rlimits = spec.process().as_ref()?.rlimits().as_ref()?;
    rlimits.iter().find_map(|limit| {
        let name = limits_name(limit.typ());
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let found = line.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let word = |value: u64| {
            if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
        };
        let planned = format!("{} {}", word(limit.soft()), word(limit.hard()));
        differs(name, &planned, Some(&found))
    })
}

fn limits_name(kind: oci::PosixRlimitType) -> &'static str {
    use oci::PosixRlimitType as Type;
    match kind {
        Type::RlimitCpu => "Max cpu time",
        Type::RlimitFsize => "Max file size",
        Type::RlimitData => "Max data size",
        Type::RlimitStack => "Max stack size",
        Type::RlimitCore => "Max core file size",
        Type::RlimitRss => "Max resident set",
        Type::RlimitNproc => "Max processes",
        Type::RlimitNofile => "Max open files",
        Type::RlimitMemlock => "Max locked memory",
        Type::RlimitAs => "Max address space",
        Type::RlimitLocks => "Max file locks",
        Type::RlimitSigpending => "Max pending signals",
        Type::RlimitMsgqueue => "Max msgqueue size",
        Type::RlimitNice => "Max nice priority",
        Type::RlimitRtprio => "Max realtime priority",
        Type::RlimitRttime => "Max realtime timeout",
    }
}

/// Lines of proc_pid_mountinfo(5): the last mount on a path is the one that shows.
fn mounts(spec: &oci::Spec, text: &str, root_flags: &[&'static str]) -> Option<Mismatch> {
    let shown: HashMap<Cow<'_, str>, &str> = shown_mounts(text).collect();
    let planned = spec.mounts().iter().flatten();
    let readonly = spec.root().as_ref().is_none_or(|root| root.readonly() != Some(false));
    let access = if readonly { "ro" } else { "rw" };
    let root = (Path::new("/"), [&[access], root_flags].concat());
    let all = planned.map(|mount| (mount.destination().as_path(), flags(mount)));
    let readonly = spec.linux().iter().flat_map(|linux| linux.readonly_paths().iter().flatten());
    let readonly = readonly.map(|path| (Path::new(path), vec!["ro"]));
    let readonly = readonly.filter(|(path, _)| shown.contains_key(&path.to_string_lossy()));
    std::iter::once(root).chain(all).chain(readonly).find_map(|(path, flags)| {
        let name = path.to_string_lossy();
        let (planned, found) = match shown.get(&name) {
            None => ("a mount", "no mount"),
            Some(found) => {
                let missing = |flag: &&&str| !found.split(',').any(|one| one == **flag);
                (*flags.iter().find(missing)?, *found)
            }
        };
        let (planned, found) = (planned.to_owned(), found.to_owned());
        Some(Mismatch { what: format!("mount {name}"), planned, found })
    })
}

/// Each mount in `text`, in the order in which they were made: where, and its options.
pub(crate) fn shown_mounts(text: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let lines = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    lines.filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        Some((unescaped(fields.next()?), fields.next()?))
    })
}

/// Options of the spec that mountinfo shows.
fn flags(mount: &oci::Mount) -> Vec<&'static str> {
    let mut flags = Vec::new();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "ro" | "rro" => flags.push("ro"),
            "nosuid" | "rnosuid" => flags.push("nosuid"),
            "nodev" | "rnodev" => flags.push("nodev"),
            "noexec" | "rnoexec" => flags.push("noexec"),
            _ => {}
        }
    }
    flags
}

/// Blank, tab, newline and backslash are written as three octal digits.
fn unescaped(field: &str) -> Cow<'_, str> {
    if !field.contains('\\') {
        return field.into();
    }
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Name:\tinit
Uid:\t1000\t1000\t1000\t1000
Gid:\t1000\t1000\t1000\t1000
Groups:\t5 1000
CapInh:\t0000000000000000
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
Limit                     Soft Limit           Hard Limit           Units
Max core file size        0                    0                    bytes
Max open files            1024                 4096                 files
64 42 254:0 /top / ro,nosuid,nodev,relatime - ext4 /dev/vda rw
65 64 0:40 / /proc rw,nosuid,nodev,noexec,relatime - proc none rw
66 65 0:40 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc none rw
67 64 254:0 /data /my\\040data ro,nosuid,nodev,relatime - ext4 /dev/vda rw
";

    fn spec() -> oci::Spec {
        let mut user = oci::User::default();
        user.set_uid(1000).set_gid(1000);
        let limit = oci::PosixRlimitBuilder::default()
            .typ(oci::PosixRlimitType::RlimitNofile)
            .soft(1024_u64)
            .hard(4096_u64)
            .build()
            .unwrap();
        let mut process = oci::Process::default();
        process.set_user(user).set_rlimits(Some(vec![limit])).set_capabilities(None);
        let mount = |target: &str, options: &[&str]| {
            let mut mount = oci::Mount::default();
            let options = options.iter().map(|option| (*option).to_owned()).collect();
            mount.set_destination(target.into()).set_options(Some(options));
            mount
        };
        let mut linux = oci::Linux::default();
        linux.set_readonly_paths(Some(vec!["/proc/sys".into(), "/proc/not-here".into()]));
        let mut spec = oci::Spec::default();
        spec.set_process(Some(process)).set_linux(Some(linux)).set_mounts(Some(vec![
            mount("/proc", &["nosuid", "nodev", "noexec"]),
            mount("/my data", &["rbind", "rro", "nosuid", "nodev"]),
        ]));
        spec
    }

    #[test]
    fn accepts_what_was_planned() {
        assert_eq!(compare(&spec(), TEXT, Some(&[1000, 5])), None);
    }

    #[test]
    fn names_each_thing_that_differs() {
        for (from, to, what) in [
            ("Uid:\t1000\t1000", "Uid:\t1000\t0", "Uid"),
            ("Gid:\t1000", "Gid:\t0", "Gid"),
            ("Groups:\t5 ", "Groups:\t", "Groups"),
            ("CapInh:\t0", "CapInh:\t1", "CapInh"),
            ("CapPrm:\t0", "CapPrm:\t1", "CapPrm"),
            ("CapEff:\t0", "CapEff:\t1", "CapEff"),
            ("CapBnd:\t0", "CapBnd:\t1", "CapBnd"),
            ("CapAmb:\t0", "CapAmb:\t1", "CapAmb"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
            ("1024                 4096", "1024                 8192", "Max open files"),
            ("/ ro,nosuid", "/ rw,nosuid", "mount /"),
            ("/proc rw,nosuid,", "/proc rw,", "mount /proc"),
            ("/proc/sys ro,", "/proc/sys rw,", "mount /proc/sys"),
            ("data ro,", "data rw,", "mount /my data"),
            ("67 64", "x", "mount /my data"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT, "{from} is in the text");
            let found = compare(&spec(), &text, Some(&[1000, 5]));
            assert_eq!(found.map(|mismatch| mismatch.what), Some(what.to_owned()), "{to}");
        }
    }
}
