//! Numbers that the owner of a container and its `init` agree on; compiled into both.
//!
//! Both sides are always of one build: the owner carries `init` in itself. So there is no version
//! here, and nothing outside this crate may rely on it.

/// Where `init` finds the socket to its owner in a container that another engine has made.
pub const CONTROL_PATH: &core::ffi::CStr = c"/run-in-container/control";

/// Words of a message: its kind, then six numbers. Text may follow, descriptors may travel beside.
pub const MESSAGE_WORDS: usize = 7;
/// Bytes of the words of a message.
pub const MESSAGE_BYTES: usize = MESSAGE_WORDS * 8;
/// Most bytes of text behind the words (`/proc/self/{status,limits,mountinfo}` in [`READY`]).
pub const TEXT_BYTES_MAX: usize = 96 * 1024;
/// Most descriptors beside a message (the kernel's `SCM_MAX_FD` is 253).
pub const DESCRIPTORS_MAX: usize = 200;

/// Owner to monitor: `[steps bytes]`, descriptors: steps, control socket, then those that steps
/// name. To an init that another engine started: descriptors: steps alone.
pub const START: u64 = 1;
/// Owner to monitor: the maps of the user namespace are written.
pub const MAPPED: u64 = 2;
/// Owner to monitor: end the container now.
pub const KILL: u64 = 3;
/// Owner to init: `[run bytes]`, descriptors: run, standard input, output, error, worker socket if
/// [`RUN_WORKER`], then one pipe per input, then one memory file per secret.
pub const RUN: u64 = 4;
/// Owner to init: `[signal]` for the process group of the task.
pub const SIGNAL: u64 = 5;
/// Owner to init: text is the name of a file in `/task`; answered by [`FILE`].
pub const FETCH: u64 = 6;
/// Owner to init: as [`RUN`], and end when [`EXITED`] has been sent.
pub const RUN_LAST: u64 = 7;
/// Owner to init: end and remove all that tasks have left, but for the program that [`RUN`] started
/// last, if it still runs; answered by [`RESET_DONE`].
pub const RESET: u64 = 8;

/// Monitor to owner: `[pid]`; the maps of its user namespace are wanted if the steps say so.
pub const CLONED: u64 = 16;
/// Monitor or init to owner: `[step, errno]`; text is what was read back, if it was not what was
/// set.
pub const FAILED: u64 = 17;
/// Monitor to owner: `[si_code, si_status]` of init.
pub const ENDED: u64 = 18;
/// Init to owner: the sandbox stands; text is what the kernel says of it.
pub const READY: u64 = 19;
/// Init to owner: a descriptor of the task's terminal, the controlling side.
pub const TERMINAL: u64 = 20;
/// Init to owner: `[stage, errno, exists]`: the task could not be started.
pub const NOT_STARTED: u64 = 21;
/// Init to owner: `[wait status, cpu µs, largest process's KiB]`: the task and all it left have
/// ended.
pub const EXITED: u64 = 22;
/// Init to owner: `[errno]` and, if it is 0, a descriptor of the file that was asked for.
pub const FILE: u64 = 23;
/// Init to owner: `[what is left]`: [`LEFT_NOTHING`], or the container is not to be used again.
pub const RESET_DONE: u64 = 24;

/// [`RESET_DONE`]: nothing.
pub const LEFT_NOTHING: u64 = 0;
/// [`RESET_DONE`]: processes.
pub const LEFT_PROCESSES: u64 = 1;
/// [`RESET_DONE`]: files.
pub const LEFT_FILES: u64 = 2;
/// [`RESET_DONE`]: shared memory, semaphores or queues of System V.
pub const LEFT_SYSTEM_V: u64 = 3;

/// [`NOT_STARTED`]: copying an input; the number after `exists` is which.
pub const STAGE_INPUT: u64 = 1;
/// [`NOT_STARTED`]: copying a secret; the number after `exists` is which.
pub const STAGE_SECRET: u64 = 6;
/// [`NOT_STARTED`]: making the terminal.
pub const STAGE_TERMINAL: u64 = 2;
/// [`NOT_STARTED`]: entering the working directory.
pub const STAGE_WORKDIR: u64 = 3;
/// [`NOT_STARTED`]: `execve(2)`.
pub const STAGE_EXEC: u64 = 4;
/// [`NOT_STARTED`]: `fork(2)`.
pub const STAGE_FORK: u64 = 5;

/// The run's flag: the task gets a terminal of its own.
pub const RUN_TERMINAL: u32 = 1;
/// The run's flag: a worker socket is among the descriptors.
pub const RUN_WORKER: u32 = 2;

/// Words (u32) at the head of a run: flags, programs, arguments, variables, inputs, secrets, rows,
/// columns, bytes before the pointer area.
pub const RUN_HEAD_WORDS: usize = 9;

/// Words (u64) at the head of a step: operation, bytes of the whole step, four numbers, and the
/// byte counts of its three texts, which follow, each ended by a zero byte that is counted.
pub const STEP_HEAD_WORDS: usize = 9;

/// Monitor: make the cgroup directory `text 0`; removed at the end.
pub const STEP_CGROUP_MAKE: u64 = 1;
/// Monitor: write `text 1` to the file `text 0`; if `number 0` is 1 it must read back the same; if
/// `number 1` is 1 nothing is done where the file is not there or not this user's.
pub const STEP_CGROUP_SET: u64 = 2;
/// Between monitor and init: write `0` to the `tasks` file `text 0`.
pub const STEP_CGROUP_JOIN: u64 = 3;
/// Monitor: `open_tree(2)` a clone of descriptor `number 0`, which takes its place.
pub const STEP_TREE: u64 = 4;
/// Start init with namespaces `number 0`, in the version 2 cgroup `text 0` if it is not empty;
/// `number 1` is 1 if the owner writes the maps of the user namespace.
pub const STEP_CLONE: u64 = 5;
/// Write `text 1` to the file `text 0`.
pub const STEP_WRITE: u64 = 6;
/// Make every mount private.
pub const STEP_PRIVATE: u64 = 7;
/// The root is the directory `text 0`.
pub const STEP_ROOT_BIND: u64 = 8;
/// The root is an overlay, made on `text 0`, with options `text 1`, from the directory `text 2`,
/// with mount flags `number 0`; if `number 1` is 1, as uid 0 of the user namespace.
pub const STEP_ROOT_OVERLAY: u64 = 9;
/// Bind `text 0` at `text 1` with attributes `number 0`; `number 1`: 0, [`BIND_DEVICE`] or
/// [`BIND_INODE`];
/// `number 2`, `number 3`: device and inode, or the device's own number.
pub const STEP_BIND: u64 = 10;
/// Attach the tree that is descriptor `number 1` at `text 1` with attributes `number 0`.
pub const STEP_ATTACH: u64 = 11;
/// Mount a new `text 0` at `text 1` with options `text 2` (`name=value` or `name`, by commas) and
/// attributes `number 0`.
pub const STEP_MOUNT: u64 = 12;
/// Hide `text 0`, if it exists, behind `/dev/null` or the empty directory `text 1`.
pub const STEP_MASK: u64 = 13;
/// Make `text 0`, if it exists, read-only with all below it.
pub const STEP_READONLY: u64 = 14;
/// Give the root the attributes `number 0`.
pub const STEP_ROOT_ATTRIBUTES: u64 = 15;
/// Make the root the root, and begin to let go of the old one.
pub const STEP_PIVOT: u64 = 16;
/// Set the host name to `text 0`.
pub const STEP_HOSTNAME: u64 = 17;
/// Bring the loopback interface up.
pub const STEP_LOOPBACK: u64 = 18;
/// Set resource limit `number 0` to soft `number 1` and hard `number 2`.
pub const STEP_RLIMIT: u64 = 19;
/// Lock the secure bits and drop the bounding set, but for the capabilities whose bits are set in
/// `number 0`.
pub const STEP_BOUND: u64 = 20;
/// Become uid `number 0`, gid `number 1`; `text 0` holds the groups as u32s if `number 2` is 1.
pub const STEP_IDS: u64 = 21;
/// Drop all capabilities but those in `number 0`, forbid new privileges, and, unless `number 1` is
/// 1, end with the monitor.
pub const STEP_DROP: u64 = 22;
/// Make the directory `text 0` with mode `number 0`.
pub const STEP_MKDIR: u64 = 23;
/// Install the filter that `text 0` is.
pub const STEP_SECCOMP: u64 = 24;
/// Send [`READY`]. The last step.
pub const STEP_READY: u64 = 25;

/// [`STEP_BIND`]: the source must be this character device.
pub const BIND_DEVICE: u64 = 1;
/// [`STEP_BIND`]: the source must be this inode.
pub const BIND_INODE: u64 = 2;

/// Hold on to the POSIX message queues, which are mounted at `text 0`, or, if that is empty,
/// nowhere.
pub const STEP_QUEUES: u64 = 30;

/// Monitor: attach the BPF program `text 1` to the devices of the version 2 cgroup `text 0`.
pub const STEP_CGROUP_DEVICES: u64 = 26;
/// Wait until the old root has been let go of.
pub const STEP_DETACHED: u64 = 27;
/// Monitor, once the maps of the user namespace are written: the tree that is descriptor
/// `number 0` shows the ids of the machine as those of the same number in there.
pub const STEP_IDMAP: u64 = 28;
/// Attach the tree that is descriptor `number 0` on the machine's directory `text 0`.
pub const STEP_COVER: u64 = 29;
/// What is found at `text 0` must be on device `number 0` and have inode `number 1`.
pub const STEP_EXPECT: u64 = 31;
