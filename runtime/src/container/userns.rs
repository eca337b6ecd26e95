//! A user namespace with a build step's ids, for the processes that read and remove what it left.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::StartError;
use super::start::{receive, unheard, wait_cloned, write_maps};
use crate::Identities;
use crate::native::blueprint;
use crate::native::monitor::{self, Monitor};
use crate::native::steps::{self, Step};
use crate::native::{protocol, translate};

/// A user namespace, and the process that keeps it. Dropping it ends both.
#[derive(Debug)]
pub struct UserNamespace {
    pid: i32,
    _control: OwnedFd,
    _monitor: Monitor,
}

impl UserNamespace {
    /// Makes a user namespace with the maps of `identities`; `None`: they have none.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left of it.
    pub fn start(identities: &Identities) -> Result<Option<UserNamespace>, StartError> {
        let Some(map) = &identities.user_namespace else { return Ok(None) };
        let by_owner = blueprint::maps_by_owner(identities);
        let mut steps = vec![Step::clone(translate::flags::NEWUSER, None, by_owner.is_some())];
        if by_owner.is_none() {
            steps.extend(translate::own_map_steps(&map.uids, &map.gids));
        }
        steps.push(Step::ready());
        let monitor = Monitor::spawn().map_err(unheard)?;
        let (control, theirs) = monitor::socket_pair().map_err(unheard)?;
        monitor.start(&steps::encode(&steps), theirs, &[]).map_err(unheard)?;
        let pid = wait_cloned(&monitor, &steps)?;
        if let Some(maps) = by_owner {
            write_maps(pid, maps)?;
            monitor.send(protocol::MAPPED).map_err(unheard)?;
        }
        receive(&control, &steps)?;
        Ok(Some(UserNamespace { pid, _control: control, _monitor: monitor }))
    }

    /// What `setns(2)` enters it by, as long as this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/user", self.pid).into()
    }
}
