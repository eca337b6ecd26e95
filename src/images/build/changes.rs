//! What a build step has changed: read and removed as the step's own uid 0 would.
//!
//! Files may belong to subordinate ids, which only a process in the step's user namespace may
//! handle. That process is this program again, with one thread, by a verb that no manual shows. It
//! enters nothing but the user namespace, so its paths are this machine's.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ric_images::{Owned, Pack, give_away, pack_tree, remove_tree};
use ric_runtime::{Actor, UserNamespace};
use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use crate::Answer;
use crate::args::ChangesArgs;
use crate::failure::Failure;

/// Writes the changes below `upper` to `tar`.
pub(super) fn pack(
    upper: &Path,
    how: &Pack,
    namespace: Option<&UserNamespace>,
    tar: &mut dyn Write,
) -> io::Result<()> {
    let Some(namespace) = namespace else {
        return pack_tree(open(upper)?.as_fd(), how, tar).map(drop);
    };
    let mut command = helper(namespace, upper);
    command.arg("--pack");
    for path in &how.left_out {
        command.arg("--leave-out").arg(OsStr::from_bytes(path));
    }
    if let Some(mtime_max) = how.mtime_max {
        command.arg(format!("--mtime-max={mtime_max}"));
    }
    run(command, tar)
}

/// Removes `room`, with all that was changed.
pub(super) fn remove(room: &Path, namespace: Option<&UserNamespace>) -> io::Result<()> {
    match namespace {
        None => remove_all(room),
        Some(namespace) => run(helper(namespace, room), &mut io::sink()),
    }
}

/// Gives what is below `path`, or `path` itself, to ids of the namespace.
pub(super) fn own(path: &Path, owned: &[Owned], namespace: &UserNamespace) -> io::Result<()> {
    let mut command = helper(namespace, path);
    command.arg("--own").stdin(Stdio::piped());
    let mut list = Vec::new();
    owned.iter().for_each(|owned| owned.append_to(&mut list));
    run_with(command, &list, &mut io::sink())
}

fn helper(namespace: &UserNamespace, directory: &Path) -> Command {
    // This very program, whatever has happened to its file since.
    let mut command = Command::new("/proc/self/exe");
    command.arg("changes").arg("--userns").arg(namespace.path()).arg(directory);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(command: Command, out: &mut dyn Write) -> io::Result<()> {
    run_with(command, b"", out)
}

#[expect(clippy::disallowed_methods, reason = "this is the module that starts helpers")]
fn run_with(mut command: Command, input: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input) {
            // It says itself why it did not read on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let copied = match child.stdout.take() {
        Some(mut stdout) => io::copy(&mut stdout, out).map(drop),
        None => Ok(()),
    };
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // It says a few lines at most, and only after it has written all it had to.
        stderr.take(64 << 10).read_to_string(&mut said)?;
    }
    let status = child.wait()?;
    copied?;
    if status.success() { Ok(()) } else { Err(io::Error::other(said.trim().to_owned())) }
}

/// The verb that no manual shows.
pub(crate) fn changes(args: &ChangesArgs) -> Result<Answer, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Actor::Us, format!("cannot handle {}", args.directory.display()))
            .because(&error)
    };
    let namespace = File::open(&args.userns).map_err(failed)?;
    let kind = Some(LinkNameSpaceType::User);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
        .map_err(|errno| failed(errno.into()))?;
    if args.own {
        let mut list = Vec::new();
        io::stdin().lock().read_to_end(&mut list).map_err(failed)?;
        let owned =
            Owned::parse_list(&list).ok_or_else(|| failed(ErrorKind::InvalidData.into()))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&args.directory, flags, Mode::empty());
        let root = root.map_err(|errno| failed(errno.into()))?;
        give_away(root.as_fd(), &owned).map_err(failed)?;
    } else if args.pack {
        let directory = open(&args.directory).map_err(failed)?;
        let left_out = args.leave_out.iter().map(|path| path.as_bytes().to_vec()).collect();
        let how = Pack { mtime_max: args.mtime_max, left_out, is_image: false };
        let mut stdout = io::BufWriter::with_capacity(1 << 17, io::stdout().lock());
        let packed = pack_tree(directory.as_fd(), &how, &mut stdout);
        packed.and_then(|_| stdout.flush()).map_err(failed)?;
    } else {
        remove_all(&args.directory).map_err(failed)?;
    }
    Ok(Answer::text(""))
}

fn remove_all(room: &Path) -> io::Result<()> {
    let (parent, name) = (room.parent().unwrap_or(room), room.file_name().unwrap_or_default());
    let name = CString::new(name.as_bytes())?;
    Ok(remove_tree(open(parent)?.as_fd(), &name)?)
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}
