//! What frames say, and who may send which: the table "Kinds" of `docs/protocol.md`.

use super::Part;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Which versions the sender speaks, and who it is.
    Hello = 1,
    /// A file of functions, or a pickled one, for later calls.
    Function = 2,
    /// Call one function.
    Call = 3,
    /// What the function returned.
    Result = 4,
    /// An exception left the function.
    Error = 5,
    /// The worker will not or cannot make the call.
    Declined = 6,
    /// Something did not match its digest and was not used.
    Corrupt = 7,
    /// The function of a call is not here (any more): send it, and the call again.
    Need = 8,
    /// Source of Python modules that undo the client's pickles.
    Modules = 9,
    /// A call would be made at once.
    Ready = 10,
    /// Fork the process of the next call.
    Again = 11,
    /// How the process of a call ended.
    Child = 12,
    /// What many calls need.
    Open = 16,
    /// The decision about an [`Kind::Open`].
    Opened = 17,
    /// What a call printed.
    Output = 18,
    /// End a task.
    Cancel = 19,
    /// How a task ended without an answer of its own.
    Ended = 20,
    /// A call is on disk, and outlives its client and its daemon.
    Submitted = 21,
    /// Wait for the answer of a submitted call.
    Fetch = 22,
    /// A question about the daemon and its containers.
    Ask = 23,
    /// The answer to [`Kind::Ask`].
    Answer = 24,
}

/// One of the two ends of a connection: an owner's other end is a worker, a client's a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// Starts a worker and sends it calls.
    Owner,
    /// Runs functions in a sandbox. Nothing it says is believed.
    Worker,
    /// Asks a daemon for calls.
    Client,
    /// Answers clients, and owns workers.
    Daemon,
}

/// Every kind, who sends it, and what its payload is. Nothing else lists them.
const KINDS: [(Kind, &[Party], Part); 21] = {
    use Party::{Client, Daemon, Owner, Worker};
    const CALL: &[Party] = &[Owner, Client];
    const ANSWER: &[Party] = &[Worker, Daemon];
    [
        (Kind::Hello, &[Owner, Worker, Client, Daemon], Part::Payload),
        (Kind::Function, CALL, Part::Function),
        (Kind::Call, CALL, Part::Arguments),
        (Kind::Result, ANSWER, Part::Result),
        (Kind::Error, ANSWER, Part::Error),
        (Kind::Declined, ANSWER, Part::Payload),
        (Kind::Corrupt, ANSWER, Part::Payload),
        (Kind::Need, ANSWER, Part::Payload),
        (Kind::Modules, &[Owner], Part::Payload),
        (Kind::Ready, &[Worker], Part::Payload),
        (Kind::Again, &[Owner], Part::Payload),
        (Kind::Child, &[Worker], Part::Payload),
        (Kind::Open, &[Client], Part::Payload),
        (Kind::Opened, &[Daemon], Part::Payload),
        (Kind::Output, &[Daemon], Part::Payload),
        (Kind::Cancel, &[Client], Part::Payload),
        (Kind::Ended, &[Daemon], Part::Payload),
        (Kind::Submitted, &[Daemon], Part::Payload),
        (Kind::Fetch, &[Client], Part::Payload),
        (Kind::Ask, &[Client], Part::Payload),
        (Kind::Answer, &[Daemon], Part::Payload),
    ]
};

impl Kind {
    /// Every kind, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Kind> {
        KINDS.iter().map(|(kind, ..)| *kind)
    }

    /// Whether a frame of this kind may come from `party`.
    #[must_use]
    pub fn is_sent_by(self, party: Party) -> bool {
        self.row().is_some_and(|(_, senders, _)| senders.contains(&party))
    }

    pub(super) fn payload(self) -> Part {
        self.row().map_or(Part::Payload, |(.., payload)| *payload)
    }

    fn row(self) -> Option<&'static (Kind, &'static [Party], Part)> {
        KINDS.iter().find(|(kind, ..)| *kind == self)
    }

    /// The kind with this number, if there is one.
    #[must_use]
    pub fn from_wire(number: u8) -> Option<Kind> {
        Kind::all().find(|kind| *kind as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_a_worker_and_of_its_owner_are_not_mistaken_for_each_other() {
        for kind in Kind::all().filter(|kind| *kind != Kind::Hello) {
            assert!(!(kind.is_sent_by(Party::Owner) && kind.is_sent_by(Party::Worker)), "{kind:?}");
            assert!(
                !(kind.is_sent_by(Party::Client) && kind.is_sent_by(Party::Daemon)),
                "{kind:?}"
            );
        }
        assert!(Kind::Result.is_sent_by(Party::Worker) && Kind::Result.is_sent_by(Party::Daemon));
        assert!(Kind::Call.is_sent_by(Party::Owner) && Kind::Call.is_sent_by(Party::Client));
    }

    #[test]
    fn every_number_means_one_kind() {
        let known: Vec<u8> = (0..=u8::MAX).filter(|it| Kind::from_wire(*it).is_some()).collect();
        let listed: Vec<u8> = Kind::all().map(|kind| kind as u8).collect();
        assert_eq!(known, listed);
        assert_eq!(
            listed,
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 21, 22, 23, 24]
        );
    }
}
