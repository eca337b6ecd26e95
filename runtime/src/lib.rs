//! Task + Policy + Manifest + Host in, Outcome out: decides, starts sandboxes, runs work in them.
//!
//! The line of a task: [`admit`] says whether its image may be looked at; [`plan`] turns a
//! [`Task`], the image's manifest, the site's policy and a [`Host`] into a [`Sandbox`] and its
//! [`Work`], or a [`Refusal`]. Both are pure. [`know_host`] is what probes the machine, and
//! [`doctor`] tells about it.

mod task;
mod host;
mod admit;
mod plan;
mod refusal;
mod sandbox;
mod work;
pub mod oci;
pub mod seccomp;
mod loops;
mod native;
mod docker;
mod container;
mod exchange;
mod frame;
pub mod wire;
mod client;
mod usage;
mod outcome;
mod peer;
mod doctor;

pub use admit::{Admitted, admit};
pub use client::{
    CallEnd, CallFacts, Client, ClientError, Ended, Heard, OpenedFacts, Pool, PoolBounds, RanFacts,
};
pub use container::{
    Container, Ending, Event, Exited, Leftover, NotStarted, Residue, RunError, Signals, StartError,
    Stream, Streams, Terminal, UserNamespace, Worker, enforced,
};
pub use docker::api::DaemonError;
pub use doctor::{Finding, doctor};

pub use exchange::{
    Answer, Assembler, Declined, ERROR_BYTES_MAX, Exchange, ExchangeError, Interpreter, Raised,
    Reason, Received, Side, WORKER, WORKER_FD, WORKER_FLAGS, WORKER_RARE, WORKER_WARM, Wanted,
    copy_sealed, digest_of_sealed, memory_file, seal, seal_memory,
};
pub use frame::{
    Carriage, DESCRIPTOR_BYTES_MIN, FrameError, HEADER_BYTES, Header, Kind, MAGIC,
    METADATA_BYTES_MAX, NO_TASK, PAYLOAD_BYTES_MAX, Part, Party, Sha256Digest, TaskId,
    VERSION_HIGHEST, VERSION_LOWEST, encode_frame, hex,
};
pub use host::{
    CACHE_BELIEVED_MAX, CgroupHost, CgroupVersion, Controller, ControllerPlace, DockerHost, Host,
    HostCache, Probe, ProbeError, SubordinateIds, Trial, TrialKind, cgroups_are_there, know_host,
    no_docker, probe_cgroups, probe_docker, probe_host,
};
pub use native::trial::trial;
pub use outcome::{ContainerFacts, Enforced, Outcome, PayloadDigests, Status, Usage};
pub use peer::{Peer, read_peer};
pub use plan::{
    BuildStep, Plan, StepMount, StepMountKind, StepSettings, admit_base, admit_built,
    build_identities, engine_of, plan, plan_build,
};
pub use refusal::{Actor, Demand, EngineLack, REFUSED_EXIT_CODE, Refusal, Rule};
pub use ric_images::LimitWishes;
pub use ric_policies::Fresh;
pub use sandbox::{
    CgroupPlacement, Daemon, IdMap, Identities, Limits, Mount, MountKind, Namespaces,
    OWN_DIRECTORY, RootSource, Sandbox,
};
pub use task::{
    Argument, Arguments, Caller, FunctionAsk, InputAsk, MountAsk, OutputAsk, PathFacts, PathKind,
    Preload, SECRET_BYTES_MAX, SecretAsk, Task, UserChoice, WorkAsk,
};
pub use usage::{CgroupLoad, CgroupUsage};
pub use work::{Bounds, Call, Program, Work};
