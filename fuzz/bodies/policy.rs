//! What must hold for every text that a policy file may contain. Shared by the fuzz target and the
//! test that replays its corpus.

use std::path::Path;

use ric_policies::{Draft, Policy};

/// Reads the bytes as a site's policy.
///
/// No panic; what is accepted shows as a policy that means the same, and narrowing it by itself
/// takes nothing away; what is refused is refused in a message of bounded length that cannot steer
/// a terminal.
pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let name = Path::new("policy.yaml");
    match Draft::parse(name, &text) {
        Ok(draft) => {
            let policy = Policy::of_site(&draft);
            let shown = Draft::parse(name, &policy.show()).expect("what is shown is a policy");
            assert_eq!(Policy::of_site(&shown).digest, policy.digest);
            let narrowed = policy.narrow(&draft).expect("a policy allows what it allows");
            assert_eq!(narrowed.policy.digest, policy.digest);
        }
        Err(mistake) => {
            let message = mistake.to_string();
            assert!(message.len() < 64 << 10, "{} bytes", message.len());
            assert!(!message.contains(|c: char| c.is_control() && c != '\n'));
        }
    }
}
