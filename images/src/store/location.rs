//! Where the store is unless somebody says otherwise.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::StatFs;

const SITE_ROOT: &str = "/var/lib/run-in-container";
const NAME: &str = "run-in-container";

/// statfs(2) and linux/magic.h; Lustre's, GPFS's and BeeGFS's are in their own sources.
const NETWORKED: [i64; 13] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0bd0_0bd0, // Lustre
    0x4750_4653, // GPFS
    0x1983_0326, // BeeGFS
    0x00c3_6400, // Ceph
    0x0102_1997, // 9P
    0x5346_414f, // AFS
    0x7375_7245, // Coda
    0x2003_0528, // OrangeFS (PVFS2)
    0x6573_5546, // FUSE: sshfs, GlusterFS and others
];

/// The store's directory for user `uid`, whose `XDG_DATA_HOME` and `HOME` are given.
///
/// Root's is `/var/lib/run-in-container`. Others keep it in their XDG data home if `is_local` says
/// so of it; else in `/var/tmp`, because network file systems are slow with small files and
/// overlayfs needs more than they give. [`is_local_filesystem`] is the question to pass.
pub fn default_root(
    uid: u32,
    data_home: Option<&Path>,
    home: Option<&Path>,
    is_local: impl Fn(&Path) -> bool,
) -> PathBuf {
    if uid == 0 {
        return SITE_ROOT.into();
    }
    // Relative paths are to be ignored (XDG base directory specification 0.8).
    let data_home = data_home.filter(|path| path.is_absolute()).map(Path::to_owned);
    let home = home.filter(|path| path.is_absolute()).map(|home| home.join(".local/share"));
    match data_home.or(home) {
        Some(data_home) if is_local(&data_home) => data_home.join(NAME),
        _ => format!("/var/tmp/{NAME}-{uid}").into(),
    }
}

/// Whether `path`, or what of it exists, is on a file system that other machines do not share.
///
/// Unknown kinds are local: new ones come as disks far more often than as networks.
pub fn is_local_filesystem(path: &Path) -> bool {
    let kind = path.ancestors().find_map(|existing| rustix::fs::statfs(existing).ok());
    kind.is_some_and(|kind| is_local(&kind))
}

/// The same, of a file that is open.
pub(super) fn is_kept_here(file: impl AsFd) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|kind| is_local(&kind))
}

fn is_local(kind: &StatFs) -> bool {
    !NETWORKED.contains(&(kind.f_type & 0xffff_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_user_home_and_file_system() {
        let root = |uid, data: Option<&str>, home: Option<&str>, local: bool| {
            default_root(uid, data.map(Path::new), home.map(Path::new), |_| local)
        };
        let cases = [
            (root(0, Some("/d"), Some("/h"), true), "/var/lib/run-in-container"),
            (root(7, Some("/d"), Some("/h"), true), "/d/run-in-container"),
            (root(7, Some("d"), Some("/h"), true), "/h/.local/share/run-in-container"),
            (root(7, None, Some("/h"), true), "/h/.local/share/run-in-container"),
            (root(7, None, Some("/h"), false), "/var/tmp/run-in-container-7"),
            (root(7, None, None, true), "/var/tmp/run-in-container-7"),
        ];
        for (chosen, expected) in cases {
            assert_eq!(chosen, Path::new(expected));
        }
    }

    #[test]
    fn asks_the_nearest_directory_that_exists() {
        assert!(is_local_filesystem(Path::new("/proc/no/such/directory")));
    }
}
