//! Opens what is below a directory, and nothing that is elsewhere.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

/// How often the kernel is asked again. Each time, somebody on this machine has moved or mounted
/// something in the very moment: more than a few in a row is no accident.
const TRIES: usize = 1000;

/// Opens `path` below `directory` (openat2(2), Linux 5.6), close-on-exec. No `..` and no link leads
/// out of it, whoever moves directories meanwhile; `more` narrows that further.
///
/// # Errors
/// [`Errno::XDEV`] for a path that leads out. [`Errno::AGAIN`] only if the machine's names change
/// all the time: then the kernel cannot tell where a `..` leads.
pub(crate) fn open_beneath(
    directory: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    more: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
    let open = || openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    ask_again(open)
}

/// The answer of `ask`, which may have to be asked more than once.
fn ask_again<T>(mut ask: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 1..TRIES {
        match ask() {
            Err(Errno::AGAIN) => {}
            answer => return answer,
        }
    }
    ask()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn asks_again_as_long_as_the_kernel_cannot_tell() {
        let mut asked = 0;
        let mut answer_at = |last: usize| {
            asked = 0;
            ask_again(|| {
                asked += 1;
                if asked < last { Err(Errno::AGAIN) } else { Ok(asked) }
            })
        };
        assert_eq!(answer_at(1), Ok(1));
        assert_eq!(answer_at(TRIES), Ok(TRIES));
        assert_eq!(answer_at(TRIES + 1), Err(Errno::AGAIN));
    }

    #[test]
    fn a_path_that_leads_out_is_found_however_much_is_moved_meanwhile() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        std::fs::create_dir_all(at("in/below")).unwrap();
        std::fs::write(at("in/file"), "").unwrap();
        std::fs::write(at("out"), "").unwrap();
        let directory = std::fs::File::open(at("in")).unwrap();
        let open = |path| open_beneath(&directory, path, OFlags::PATH, ResolveFlags::empty());
        let is_told = || {
            open("below/../file").is_ok()
                && open("below/../../out").is_err_and(|errno| errno == Errno::XDEV)
        };
        let stop = AtomicBool::new(false);
        let told = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::fs::rename(at("out"), at("moved")).unwrap();
                    std::fs::rename(at("moved"), at("out")).unwrap();
                }
            });
            let told = (0..20_000).all(|_| is_told());
            stop.store(true, Ordering::Relaxed);
            told
        });
        assert!(told);
    }
}
