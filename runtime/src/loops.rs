//! Has the kernel read a squashfs that is in a file: a loop device, found or made, and a mount that
//! is nowhere yet.
//!
//! One file has one loop device and so one superblock, however many containers are made of it: its
//! pages are in memory once. Nothing has to be cleared up: the mount ends with the container's
//! mount namespace, the device with the last mount (`LO_FLAGS_AUTOCLEAR`).

#![allow(unsafe_code, reason = "no safe wrapper knows the calls of loop devices")]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::Probe;

/// Calls and flags of `linux/loop.h`; `LOOP_CONFIGURE` since Linux 5.8.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const READ_ONLY_AND_AUTOCLEAR: u32 = 0x1 | 0x4;

const CONTROL: &str = "/dev/loop-control";

/// How often another program may take the device that was free a moment ago.
const TRIES: usize = 100;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304, "linux/loop.h");

const NOTHING: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// Mounts the squashfs `file`, read-only and without set-user-id programs and devices. The mount is
/// attached nowhere, and gone when the last descriptor of it is.
pub(crate) fn mount_squashfs(file: &File) -> io::Result<OwnedFd> {
    let control = open_control()?;
    // Until the mount holds the device: two who want the same file shall not make two.
    rustix::fs::flock(&control, FlockOperation::LockExclusive)?;
    let (_device, path) = match find(file)? {
        Some(found) => found,
        None => make(&control, file)?,
    };
    let fs = rustix::mount::fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(fs.as_fd(), "source", path.as_os_str())?;
    rustix::mount::fsconfig_set_flag(fs.as_fd(), "ro")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Whether this kernel mounts a squashfs in a file: it is asked for both halves, and nothing is
/// mounted.
pub(crate) fn probe_squashfs() -> Probe {
    let what = "a squashfs on a loop device";
    let asked = open_control().and_then(|control| {
        open_device(get_free(&control)?)?;
        rustix::mount::fsopen("squashfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        Ok(())
    });
    match asked {
        Ok(()) => Probe { works: true, detail: what.to_owned() },
        Err(error) => Probe { works: false, detail: format!("{what}: {error}") },
    }
}

fn open_control() -> io::Result<File> {
    File::options().read(true).write(true).open(CONTROL)
}

/// Opened for reading: what it is made of can then not be written through it.
fn open_device(number: i32) -> io::Result<(File, PathBuf)> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    Ok((File::open(&path)?, path))
}

/// The device that reads all of `file` already, if there is one. It stays as long as it is open.
fn find(file: &File) -> io::Result<Option<(File, PathBuf)>> {
    let wanted = file.metadata()?;
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        let Some(number) = number.filter(|_| entry.path().join("loop").exists()) else { continue };
        let Ok((device, path)) = open_device(number) else { continue };
        // Only now, that it cannot become another's meanwhile.
        let is_it = status(&device).is_ok_and(|info| {
            (info.device, info.inode) == (wanted.dev(), wanted.ino())
                && info.flags & READ_ONLY_AND_AUTOCLEAR == READ_ONLY_AND_AUTOCLEAR
                && (info.offset, info.size_limit) == (0, 0)
        });
        if is_it {
            return Ok(Some((device, path)));
        }
    }
    Ok(None)
}

/// Makes a device of `file`.
fn make(control: &File, file: &File) -> io::Result<(File, PathBuf)> {
    for _ in 1..TRIES {
        match configure(get_free(control)?, file.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            made => return made,
        }
    }
    configure(get_free(control)?, file.as_fd())
}

fn configure(number: i32, file: BorrowedFd<'_>) -> io::Result<(File, PathBuf)> {
    let (device, path) = open_device(number)?;
    let fd = u32::try_from(file.as_raw_fd()).expect("descriptors are not negative");
    let info = Info { flags: READ_ONLY_AND_AUTOCLEAR, ..NOTHING };
    let config = Config { fd, block_size: 0, info, reserved: [0; 8] };
    // SAFETY: the kernel reads a `struct loop_config`, whose layout `Config` has, and which lives
    // until the call returns.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if status == 0 { Ok((device, path)) } else { Err(io::Error::last_os_error()) }
}

fn status(device: &File) -> io::Result<Info> {
    let mut info = NOTHING;
    // SAFETY: the kernel writes a `struct loop_info64`, whose layout `Info` has, and which lives
    // until the call returns.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    if status == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

fn get_free(control: &File) -> io::Result<i32> {
    // SAFETY: this call takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    if number >= 0 { Ok(number) } else { Err(io::Error::last_os_error()) }
}
