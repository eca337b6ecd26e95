//! Every system call of Linux 6.17 and what `restricted` does with it. Longer than other files, as
//! a table of all of them is.
//!
//! The base is Docker's default profile without capabilities (moby/profiles, cd3bed8 of
//! 2026-06-30), less what functions do without. Numbers are those of
//! `arch/x86/entry/syscalls/syscall_64.tbl` and
//! `scripts/syscall.tbl`. A number that is not here is newer than this table, or nothing at all,
//! and gets [`Rule::Missing`].

use super::rule::{Case, Match, Rule};

/// System calls that are treated alike, and why.
pub(super) struct Group {
    /// Why, for readers and reports.
    pub(super) why: &'static str,
    /// What happens to them.
    pub(super) rule: Rule,
    /// Name, number on x86_64, number on aarch64.
    pub(super) calls: &'static [(&'static str, u16, u16)],
}

/// Stands for the number of a call that a machine does not have.
pub(super) const NONE: u16 = u16::MAX;

/// `CLONE_NEWTIME` is not among them: clone(2) cannot make time namespaces (its bit, 0x80, belongs
/// to the exit signal).
const CLONE_NEW_ANY: u32 = 0x7e02_0000;
const CLONE: Rule = Rule::AllowWhen(&[&[Match::none_of(0, CLONE_NEW_ANY)]]);

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
const SOCKET: Rule = Rule::AllowWhen(&[
    &[Match::equal(0, AF_UNIX)],
    &[Match::equal(0, AF_INET)],
    &[Match::equal(0, AF_INET6)],
    &[Match::equal(0, AF_NETLINK), Match::equal(2, NETLINK_ROUTE)],
]);
const SOCKETPAIR: Rule = Rule::AllowWhen(&[&[Match::equal(0, AF_UNIX)]]);

/// Types a character into a terminal, as if its owner had (asm-generic/ioctls.h).
const TIOCSTI: u32 = 0x5412;
/// Pastes the selection into a virtual console, among others (asm-generic/ioctls.h).
const TIOCLINUX: u32 = 0x541c;
const IOCTL: Rule = Rule::AllowUnless { argument: 1, values: &[TIOCSTI, TIOCLINUX] };

/// linux/prctl.h.
const PR_SET_MM: u32 = 35;
const PRCTL: Rule = Rule::AllowUnless { argument: 0, values: &[PR_SET_MM] };

/// linux/seccomp.h, since 5.0.
const SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 1 << 3;
const SECCOMP: Rule = Rule::AllowWhen(&[&[Match::none_of(1, SECCOMP_FILTER_FLAG_NEW_LISTENER)]]);

/// The type of a node in its mode (linux/stat.h).
const S_IFMT: u32 = 0o170_000;
const S_IFIFO: u32 = 0o010_000;
const MKNOD: Rule = Rule::AllowWhen(&[&[Match { argument: 1, mask: S_IFMT, value: S_IFIFO }]]);
const MKNODAT: Rule = Rule::AllowWhen(&[&[Match { argument: 2, mask: S_IFMT, value: S_IFIFO }]]);

/// personality(2): as programs start, and the question what it is.
const PERSONALITY_AS_STARTED: Case = &[Match::equal(0, 0)];
const PERSONALITY_ASK: Case = &[Match::equal(0, u32::MAX)];
/// linux/personality.h; a debugger sets it so that addresses are the same in each run.
const ADDR_NO_RANDOMIZE: Case = &[Match::equal(0, 0x0004_0000)];

/// Extra rules for build steps, whose uid 0 has capabilities in a user namespace of its own.
/// Package managers change the root to the one that they install into (apk, rpm), and shadow's
/// tools give up where they may not even open the audit log, to which nothing of a user namespace
/// gets anyway (`audit_netlink_ok`, kernel/audit.c).
pub const ALLOW_BUILD: &[(&str, Rule)] = &[("chroot", Rule::Allow), ("socket", SOCKET_OF_BUILDS)];
const NETLINK_AUDIT: u32 = 9;
const SOCKET_OF_BUILDS: Rule = Rule::AllowWhen(&[
    &[Match::equal(0, AF_UNIX)],
    &[Match::equal(0, AF_INET)],
    &[Match::equal(0, AF_INET6)],
    &[Match::equal(0, AF_NETLINK), Match::equal(2, NETLINK_ROUTE)],
    &[Match::equal(0, AF_NETLINK), Match::equal(2, NETLINK_AUDIT)],
]);

/// Extra rules for MPI ranks that copy from each other's memory (cross memory attach).
pub const ALLOW_CMA: &[(&str, Rule)] =
    &[("process_vm_readv", Rule::Allow), ("process_vm_writev", Rule::Allow)];

/// Extra rules for programs that place their memory on NUMA nodes.
pub const ALLOW_NUMA: &[(&str, Rule)] = &[
    ("get_mempolicy", Rule::Allow),
    ("mbind", Rule::Allow),
    ("move_pages", Rule::Allow),
    ("set_mempolicy", Rule::Allow),
];

/// Extra rules for debuggers of the sandbox's own processes.
pub const ALLOW_DEBUG: &[(&str, Rule)] = &[
    ("ptrace", Rule::Allow),
    ("personality", Rule::AllowWhen(&[PERSONALITY_AS_STARTED, PERSONALITY_ASK, ADDR_NO_RANDOMIZE])),
];

/// All of them, allowed ones first.
pub(super) const GROUPS: &[Group] = &[
    Group {
        why: "what programs need; Docker's default profile allows the same without capabilities",
        rule: Rule::Allow,
        calls: &[
            ("accept", 43, 202),
            ("accept4", 288, 242),
            ("access", 21, NONE),
            ("alarm", 37, NONE),
            ("arch_prctl", 158, NONE),
            ("bind", 49, 200),
            ("brk", 12, 214),
            ("cachestat", 451, 451),
            ("capget", 125, 90),
            ("capset", 126, 91),
            ("chdir", 80, 49),
            ("chmod", 90, NONE),
            ("chown", 92, NONE),
            ("clock_getres", 229, 114),
            ("clock_gettime", 228, 113),
            ("clock_nanosleep", 230, 115),
            ("close", 3, 57),
            ("close_range", 436, 436),
            ("connect", 42, 203),
            ("copy_file_range", 326, 285),
            ("creat", 85, NONE),
            ("dup", 32, 23),
            ("dup2", 33, NONE),
            ("dup3", 292, 24),
            ("epoll_create", 213, NONE),
            ("epoll_create1", 291, 20),
            ("epoll_ctl", 233, 21),
            ("epoll_ctl_old", 214, NONE),
            ("epoll_pwait", 281, 22),
            ("epoll_pwait2", 441, 441),
            ("epoll_wait", 232, NONE),
            ("epoll_wait_old", 215, NONE),
            ("eventfd", 284, NONE),
            ("eventfd2", 290, 19),
            ("execve", 59, 221),
            ("execveat", 322, 281),
            ("exit", 60, 93),
            ("exit_group", 231, 94),
            ("faccessat", 269, 48),
            ("faccessat2", 439, 439),
            ("fadvise64", 221, 223),
            ("fallocate", 285, 47),
            ("fchdir", 81, 50),
            ("fchmod", 91, 52),
            ("fchmodat", 268, 53),
            ("fchmodat2", 452, 452),
            ("fchown", 93, 55),
            ("fchownat", 260, 54),
            ("fcntl", 72, 25),
            ("fdatasync", 75, 83),
            ("fgetxattr", 193, 10),
            ("flistxattr", 196, 13),
            ("flock", 73, 32),
            ("fork", 57, NONE),
            ("fremovexattr", 199, 16),
            ("fsetxattr", 190, 7),
            ("fstat", 5, 80),
            ("fstatfs", 138, 44),
            ("fsync", 74, 82),
            ("ftruncate", 77, 46),
            ("futex", 202, 98),
            ("futex_requeue", 456, 456),
            ("futex_wait", 455, 455),
            ("futex_waitv", 449, 449),
            ("futex_wake", 454, 454),
            ("futimesat", 261, NONE),
            ("get_robust_list", 274, 100),
            ("get_thread_area", 211, NONE),
            ("getcpu", 309, 168),
            ("getcwd", 79, 17),
            ("getdents", 78, NONE),
            ("getdents64", 217, 61),
            ("getegid", 108, 177),
            ("geteuid", 107, 175),
            ("getgid", 104, 176),
            ("getgroups", 115, 158),
            ("getitimer", 36, 102),
            ("getpeername", 52, 205),
            ("getpgid", 121, 155),
            ("getpgrp", 111, NONE),
            ("getpid", 39, 172),
            ("getppid", 110, 173),
            ("getpriority", 140, 141),
            ("getrandom", 318, 278),
            ("getresgid", 120, 150),
            ("getresuid", 118, 148),
            ("getrlimit", 97, 163),
            ("getrusage", 98, 165),
            ("getsid", 124, 156),
            ("getsockname", 51, 204),
            ("getsockopt", 55, 209),
            ("gettid", 186, 178),
            ("gettimeofday", 96, 169),
            ("getuid", 102, 174),
            ("getxattr", 191, 8),
            ("getxattrat", 464, 464),
            ("inotify_add_watch", 254, 27),
            ("inotify_init", 253, NONE),
            ("inotify_init1", 294, 26),
            ("inotify_rm_watch", 255, 28),
            ("io_cancel", 210, 3),
            ("io_destroy", 207, 1),
            ("io_getevents", 208, 4),
            ("io_pgetevents", 333, 292),
            ("io_setup", 206, 0),
            ("io_submit", 209, 2),
            ("ioprio_get", 252, 31),
            ("ioprio_set", 251, 30),
            ("kill", 62, 129),
            ("landlock_add_rule", 445, 445),
            ("landlock_create_ruleset", 444, 444),
            ("landlock_restrict_self", 446, 446),
            ("lchown", 94, NONE),
            ("lgetxattr", 192, 9),
            ("link", 86, NONE),
            ("linkat", 265, 37),
            ("listen", 50, 201),
            ("listxattr", 194, 11),
            ("listxattrat", 465, 465),
            ("llistxattr", 195, 12),
            ("lremovexattr", 198, 15),
            ("lseek", 8, 62),
            ("lsetxattr", 189, 6),
            ("lstat", 6, NONE),
            ("madvise", 28, 233),
            ("map_shadow_stack", 453, 453),
            ("membarrier", 324, 283),
            ("memfd_create", 319, 279),
            ("mincore", 27, 232),
            ("mkdir", 83, NONE),
            ("mkdirat", 258, 34),
            ("mlock", 149, 228),
            ("mlock2", 325, 284),
            ("mlockall", 151, 230),
            ("mmap", 9, 222),
            ("mprotect", 10, 226),
            ("mq_getsetattr", 245, 185),
            ("mq_notify", 244, 184),
            ("mq_open", 240, 180),
            ("mq_timedreceive", 243, 183),
            ("mq_timedsend", 242, 182),
            ("mq_unlink", 241, 181),
            ("mremap", 25, 216),
            ("mseal", 462, 462),
            ("msgctl", 71, 187),
            ("msgget", 68, 186),
            ("msgrcv", 70, 188),
            ("msgsnd", 69, 189),
            ("msync", 26, 227),
            ("munlock", 150, 229),
            ("munlockall", 152, 231),
            ("munmap", 11, 215),
            ("nanosleep", 35, 101),
            ("newfstatat", 262, 79),
            ("open", 2, NONE),
            ("openat", 257, 56),
            ("openat2", 437, 437),
            ("pause", 34, NONE),
            ("pidfd_open", 434, 434),
            ("pidfd_send_signal", 424, 424),
            ("pipe", 22, NONE),
            ("pipe2", 293, 59),
            ("pkey_alloc", 330, 289),
            ("pkey_free", 331, 290),
            ("pkey_mprotect", 329, 288),
            ("poll", 7, NONE),
            ("ppoll", 271, 73),
            ("pread64", 17, 67),
            ("preadv", 295, 69),
            ("preadv2", 327, 286),
            ("prlimit64", 302, 261),
            ("pselect6", 270, 72),
            ("pwrite64", 18, 68),
            ("pwritev", 296, 70),
            ("pwritev2", 328, 287),
            ("read", 0, 63),
            ("readahead", 187, 213),
            ("readlink", 89, NONE),
            ("readlinkat", 267, 78),
            ("readv", 19, 65),
            ("recvfrom", 45, 207),
            ("recvmmsg", 299, 243),
            ("recvmsg", 47, 212),
            ("remap_file_pages", 216, 234),
            ("removexattr", 197, 14),
            ("removexattrat", 466, 466),
            ("rename", 82, NONE),
            ("renameat", 264, 38),
            ("renameat2", 316, 276),
            ("restart_syscall", 219, 128),
            ("rmdir", 84, NONE),
            ("rseq", 334, 293),
            ("rt_sigaction", 13, 134),
            ("rt_sigpending", 127, 136),
            ("rt_sigprocmask", 14, 135),
            ("rt_sigqueueinfo", 129, 138),
            ("rt_sigreturn", 15, 139),
            ("rt_sigsuspend", 130, 133),
            ("rt_sigtimedwait", 128, 137),
            ("rt_tgsigqueueinfo", 297, 240),
            ("sched_get_priority_max", 146, 125),
            ("sched_get_priority_min", 147, 126),
            ("sched_getaffinity", 204, 123),
            ("sched_getattr", 315, 275),
            ("sched_getparam", 143, 121),
            ("sched_getscheduler", 145, 120),
            ("sched_rr_get_interval", 148, 127),
            ("sched_setaffinity", 203, 122),
            ("sched_setparam", 142, 118),
            ("sched_yield", 24, 124),
            ("select", 23, NONE),
            ("semctl", 66, 191),
            ("semget", 64, 190),
            ("semop", 65, 193),
            ("semtimedop", 220, 192),
            ("sendfile", 40, 71),
            ("sendmmsg", 307, 269),
            ("sendmsg", 46, 211),
            ("sendto", 44, 206),
            ("set_robust_list", 273, 99),
            ("set_thread_area", 205, NONE),
            ("set_tid_address", 218, 96),
            ("setfsgid", 123, 152),
            ("setfsuid", 122, 151),
            ("setgid", 106, 144),
            ("setgroups", 116, 159),
            ("setitimer", 38, 103),
            ("setpgid", 109, 154),
            ("setpriority", 141, 140),
            ("setregid", 114, 143),
            ("setresgid", 119, 149),
            ("setresuid", 117, 147),
            ("setreuid", 113, 145),
            ("setrlimit", 160, 164),
            ("setsid", 112, 157),
            ("setsockopt", 54, 208),
            ("setuid", 105, 146),
            ("setxattr", 188, 5),
            ("setxattrat", 463, 463),
            ("shmat", 30, 196),
            ("shmctl", 31, 195),
            ("shmdt", 67, 197),
            ("shmget", 29, 194),
            ("shutdown", 48, 210),
            ("sigaltstack", 131, 132),
            ("signalfd", 282, NONE),
            ("signalfd4", 289, 74),
            ("splice", 275, 76),
            ("stat", 4, NONE),
            ("statfs", 137, 43),
            ("statx", 332, 291),
            ("symlink", 88, NONE),
            ("symlinkat", 266, 36),
            ("sync", 162, 81),
            ("sync_file_range", 277, 84),
            ("syncfs", 306, 267),
            ("sysinfo", 99, 179),
            ("tee", 276, 77),
            ("tgkill", 234, 131),
            ("time", 201, NONE),
            ("timer_create", 222, 107),
            ("timer_delete", 226, 111),
            ("timer_getoverrun", 225, 109),
            ("timer_gettime", 224, 108),
            ("timer_settime", 223, 110),
            ("timerfd_create", 283, 85),
            ("timerfd_gettime", 287, 87),
            ("timerfd_settime", 286, 86),
            ("times", 100, 153),
            ("tkill", 200, 130),
            ("truncate", 76, 45),
            ("umask", 95, 166),
            ("uname", 63, 160),
            ("unlink", 87, NONE),
            ("unlinkat", 263, 35),
            ("uretprobe", 335, NONE),
            ("utime", 132, NONE),
            ("utimensat", 280, 88),
            ("utimes", 235, NONE),
            ("vfork", 58, NONE),
            ("wait4", 61, 260),
            ("waitid", 247, 95),
            ("write", 1, 64),
            ("writev", 20, 66),
        ],
    },
    Group {
        why: "threads and processes, but no new namespace",
        rule: CLONE,
        calls: &[("clone", 56, 220)],
    },
    Group {
        why: "libc falls back to clone(2); its flags are in memory, where no filter sees them",
        rule: Rule::Missing,
        calls: &[("clone3", 435, 435)],
    },
    Group {
        why: "Unix, IPv4 and IPv6 sockets, and routing messages, which getifaddrs(3) needs; no \
              crypto, vsock, packet or XDP sockets",
        rule: SOCKET,
        calls: &[("socket", 41, 198)],
    },
    Group {
        why: "no kernel makes pairs of another family; said for completeness",
        rule: SOCKETPAIR,
        calls: &[("socketpair", 53, 199)],
    },
    Group {
        why: "every device request but those that type into a terminal",
        rule: IOCTL,
        calls: &[("ioctl", 16, 29)],
    },
    Group {
        why: "everything but rewriting the process's own memory map",
        rule: PRCTL,
        calls: &[("prctl", 157, 167)],
    },
    Group {
        why: "a task may narrow itself further, but not answer system calls in the kernel's place",
        rule: SECCOMP,
        calls: &[("seccomp", 317, 277)],
    },
    Group {
        why: "named pipes; no device nodes, sockets or empty files",
        rule: MKNOD,
        calls: &[("mknod", 133, NONE)],
    },
    Group {
        why: "as mknod(2), with the mode one argument later",
        rule: MKNODAT,
        calls: &[("mknodat", 259, 33)],
    },
    Group {
        why: "other processes' memory, registers, descriptors and advice",
        rule: Rule::Deny,
        calls: &[
            ("kcmp", 312, 272),
            ("pidfd_getfd", 438, 438),
            ("process_madvise", 440, 440),
            ("process_mrelease", 448, 448),
            ("process_vm_readv", 310, 270),
            ("process_vm_writev", 311, 271),
            ("ptrace", 101, 117),
        ],
    },
    Group {
        why: "the mount table, namespaces and roots",
        rule: Rule::Deny,
        calls: &[
            ("chroot", 161, 51),
            ("fsconfig", 431, 431),
            ("fsmount", 432, 432),
            ("fsopen", 430, 430),
            ("fspick", 433, 433),
            ("listmount", 458, 458),
            ("mount", 165, 40),
            ("mount_setattr", 442, 442),
            ("move_mount", 429, 429),
            ("open_tree", 428, 428),
            ("open_tree_attr", 467, 467),
            ("pivot_root", 155, 41),
            ("setns", 308, 268),
            ("statmount", 457, 457),
            ("umount2", 166, 39),
            ("unshare", 272, 97),
        ],
    },
    Group {
        why: "files by handle pass every directory's permissions; watches over whole filesystems",
        rule: Rule::Deny,
        calls: &[
            ("fanotify_init", 300, 262),
            ("fanotify_mark", 301, 263),
            ("name_to_handle_at", 303, 264),
            ("open_by_handle_at", 304, 265),
        ],
    },
    Group {
        why: "the machine's clock; reading it needs clock_gettime(2) only",
        rule: Rule::Deny,
        calls: &[
            ("adjtimex", 159, 171),
            ("clock_adjtime", 305, 266),
            ("clock_settime", 227, 112),
            ("settimeofday", 164, 170),
        ],
    },
    Group {
        why: "the machine itself: modules, kernels, swap, quotas, names, ports, log, accounting",
        rule: Rule::Deny,
        calls: &[
            ("acct", 163, 89),
            ("delete_module", 176, 106),
            ("finit_module", 313, 273),
            ("init_module", 175, 105),
            ("ioperm", 173, NONE),
            ("iopl", 172, NONE),
            ("kexec_file_load", 320, 294),
            ("kexec_load", 246, 104),
            ("quotactl", 179, 60),
            ("quotactl_fd", 443, 443),
            ("reboot", 169, 142),
            ("setdomainname", 171, 162),
            ("sethostname", 170, 161),
            ("swapoff", 168, 225),
            ("swapon", 167, 224),
            ("syslog", 103, 116),
            ("vhangup", 153, 58),
        ],
    },
    Group {
        why: "kernel keys belong to the user, not to the sandbox",
        rule: Rule::Deny,
        calls: &[("add_key", 248, 217), ("keyctl", 250, 219), ("request_key", 249, 218)],
    },
    Group {
        why: "large attack surfaces that functions do without: programs in the kernel, rings, \
              faults handled by user space, pages gifted to pipes, hidden memory, segment tables",
        rule: Rule::Deny,
        calls: &[
            ("bpf", 321, 280),
            ("io_uring_enter", 426, 426),
            ("io_uring_register", 427, 427),
            ("io_uring_setup", 425, 425),
            ("lookup_dcookie", 212, 18),
            ("lsm_get_self_attr", 459, 459),
            ("lsm_list_modules", 461, 461),
            ("lsm_set_self_attr", 460, 460),
            ("memfd_secret", 447, 447),
            ("modify_ldt", 154, NONE),
            ("perf_event_open", 298, 241),
            ("personality", 135, 92),
            ("userfaultfd", 323, 282),
            ("vmsplice", 278, 75),
        ],
    },
    Group {
        why: "real-time scheduling takes a processor from others",
        rule: Rule::Deny,
        calls: &[("sched_setattr", 314, 274), ("sched_setscheduler", 144, 119)],
    },
    Group {
        why: "placement of memory on NUMA nodes",
        rule: Rule::Deny,
        calls: &[
            ("get_mempolicy", 239, 236),
            ("mbind", 237, 235),
            ("migrate_pages", 256, 238),
            ("move_pages", 279, 239),
            ("set_mempolicy", 238, 237),
            ("set_mempolicy_home_node", 450, 450),
        ],
    },
    Group {
        why: "newer than the profile that Docker ships; callers fall back to ioctl(2)",
        rule: Rule::Missing,
        calls: &[("file_getattr", 468, 468), ("file_setattr", 469, 469)],
    },
    Group {
        why: "no kernel of today has them",
        rule: Rule::Deny,
        calls: &[
            ("_sysctl", 156, NONE),
            ("afs_syscall", 183, NONE),
            ("create_module", 174, NONE),
            ("get_kernel_syms", 177, NONE),
            ("getpmsg", 181, NONE),
            ("nfsservctl", 180, 42),
            ("putpmsg", 182, NONE),
            ("query_module", 178, NONE),
            ("security", 185, NONE),
            ("tuxcall", 184, NONE),
            ("vserver", 236, NONE),
        ],
    },
    Group {
        why: "superseded long ago",
        rule: Rule::Deny,
        calls: &[("sysfs", 139, NONE), ("uselib", 134, NONE), ("ustat", 136, NONE)],
    },
];
