//! `serve`: the daemon. Warm containers for whoever may connect to its socket.
//!
//! One thread waits for everything and owns everything ([`daemon`]); what takes long is done on
//! threads of its own ([`hands`]). It passes calls on to workers and their answers back, and looks
//! at no payload ([`ric_runtime::wire`]). `docs/decisions/daemon.md` tells why it is built so.

mod events;
mod hands;

mod client;
mod open;
mod reopen;
mod task;
mod answer;
mod pool;
mod member;

mod daemon;
mod lead;
mod call;
mod dispatch;
mod attend;
mod journal;
mod kept;
mod fetch;
mod resume;
mod ask;
mod see;
mod logs;
mod life;

mod audit;
mod metrics;
mod rules;
mod site;
mod watch;
pub(crate) mod socket;

use std::io;
use std::path::Path;

use ric_runtime::Actor;

use crate::Answer;
use crate::args::ServeArgs;
use crate::failure::Failure;
use crate::{places, progress, session, signals, task as caller};
use audit::Audit;
use daemon::Daemon;
use journal::{Journal, JournalError};
use site::Site;
use socket::Socket;

pub(crate) fn serve(args: ServeArgs) -> Result<Answer, Failure> {
    if args.json {
        progress::tell_as_json();
    }
    let policy = session::load_policy(&args.policy)?;
    let own = caller::read_caller()?;
    let uid = own.uid;
    let socket = match Socket::inherited()? {
        Some(socket) => socket,
        None => Socket::listen(&places::serve_socket(args.socket.as_deref(), uid)?, uid)?,
    };
    let audit = match &args.audit {
        Some(path) => Audit::open(path).map_err(|error| {
            Failure::new(Actor::User, format!("cannot open {}", path.display())).because(&error)
        })?,
        None => Audit::default(),
    };
    raise_descriptors();
    let site = Site::new(policy, own, args.store.clone());
    let rules = rules::Rules::of(&site.policy);
    // Before anyone connects: what is wrong with store or machine is told to who starts it.
    site.session()?;
    let fault =
        |error: io::Error| Failure::new(Actor::Host, "cannot wait for events").because(&error);
    let state = match &args.state {
        Some(path) => std::path::absolute(path).map_err(fault)?,
        None => places::task_state(uid),
    };
    let journal = Journal::open(&state).map_err(|error| unusable(&state, &error))?;
    let listener = socket.listener.try_clone().map_err(fault)?;
    let orders = signals::watch().map_err(fault)?;
    let mut daemon =
        Daemon::new(listener, site, rules, audit, orders, args.policy, journal).map_err(fault)?;
    daemon.resume();
    // A service manager that does not listen has not asked.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    progress::tell("serving");
    while !daemon.is_over() {
        daemon.turn().map_err(fault)?;
    }
    daemon.end();
    drop(socket);
    Ok(Answer::text(""))
}

/// What to do about a journal that cannot be used.
fn unusable(state: &Path, error: &JournalError) -> Failure {
    let hint = match error {
        JournalError::Folder(_) => "`--state DIR` names another place, in a directory of your own",
        JournalError::Log(_) => {
            "nothing was changed; move the directory away to begin with none, or name another \
             with `--state DIR`"
        }
    };
    let attempt = format!("cannot keep submitted tasks in {}", state.display());
    Failure::new(Actor::Host, attempt).because(error).hint(hint)
}

/// A warm container takes five descriptors. The soft limit is low for programs that cannot deal
/// with large numbers, getrlimit(2); this one can.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused, it stays as it is, and fewer containers fit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
