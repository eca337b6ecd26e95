//! The Docker engine: a [`Sandbox`](crate::Sandbox) in, a container of a Docker or Podman out.
//!
//! Two halves, as for every engine. [`request`] turns the sandbox into what `POST
//! /containers/create` takes, purely; [`api`] asks the daemon. The daemon does what needs
//! privilege: namespaces, cgroups, mounts, ids, capabilities. Our own init, which it starts, does
//! the rest by the same steps as everywhere, and what the kernel then says is compared with what
//! was planned ([`readback`]).
//!
//! What Docker cannot do, `plan` refuses by name ([`seen`]). See `docs/decisions/docker-engine.md`.

pub(crate) mod api;
pub(crate) mod readback;
pub(crate) mod request;
pub(crate) mod seen;
