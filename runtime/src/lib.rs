//! Task + Policy + Manifest + Host in, Outcome out: decides, starts sandboxes, runs work in them.

mod host;
mod outcome;
mod sandbox;
mod task;
mod work;

pub use host::{
    CgroupHost, CgroupVersion, Controller, ControllerPlace, Host, Probe, SubordinateIds,
};
pub use outcome::{ContainerFacts, Enforced, Outcome, PayloadDigests, Status, Usage};
pub use sandbox::{
    CgroupPlacement, IdMap, Identities, Limits, Mount, MountKind, Namespaces, RootSource, Sandbox,
};
pub use task::{
    Argument, Arguments, Caller, Fresh, FunctionAsk, InputAsk, LimitWishes, MountAsk, OutputAsk,
    PathFacts, PathKind, Task, UserChoice, WorkAsk,
};
pub use work::{Bounds, Call, Program, Work};
