//! Asks a `docker-credential-NAME` program, and waits for it no longer than is said.
//!
//! The protocol is docker-credential-helpers' README, "Development": `get` with the server on
//! standard input, JSON on standard output. It is the user's own program and runs with the user's
//! rights and environment, which it needs to find the user's keyring.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Deserialize;

use super::{Credential, CredentialError};

/// Most bytes of an answer: tokens have a few thousand.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// How an answer begins that says that there is nothing (docker-credential-helpers,
/// `credentials.NewErrCredentialsNotFound`).
const NOT_FOUND: &str = "credentials not found";

/// The user's name in an answer whose secret is an identity token (docker-credential-helpers,
/// README).
const TOKEN_USER: &str = "<token>";

/// Where `docker-credential-NAME` is: in the first of `folders` that has it.
///
/// `None` too for a name that could lead out of them.
pub(super) fn find(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if name.is_empty() || !is_plain {
        return None;
    }
    let program = |folder: &PathBuf| folder.join(format!("docker-credential-{name}"));
    let is_program = |path: &PathBuf| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    folders.iter().filter(|folder| folder.is_absolute()).map(program).find(is_program)
}

/// Asks `program` for what it keeps for `server`; `None` if that is nothing.
pub(super) fn ask(
    program: &Path,
    server: &str,
    timeout: Duration,
) -> Result<Option<Credential>, CredentialError> {
    let run = |source| CredentialError::HelperRun { program: program.to_owned(), source };
    let answer = run_bounded(program, server, Instant::now() + timeout).map_err(run)?;
    let Some((status, output)) = answer else {
        return Err(CredentialError::HelperSilent { program: program.to_owned(), waited: timeout });
    };
    if !status.success() {
        return match String::from_utf8_lossy(&output).trim_start().starts_with(NOT_FOUND) {
            true => Ok(None),
            false => Err(CredentialError::HelperFailed { program: program.to_owned(), status }),
        };
    }
    let wrong = || CredentialError::HelperAnswer { program: program.to_owned() };
    read_answer(&output).ok_or_else(wrong)
}

/// `None` if it is no answer.
fn read_answer(output: &[u8]) -> Option<Option<Credential>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Username")]
        user: String,
        #[serde(rename = "Secret")]
        secret: String,
    }
    let Answer { user, secret } = serde_json::from_slice(output).ok()?;
    Some(match (user.as_str(), secret.as_str()) {
        (_, "") => None,
        (TOKEN_USER, _) => Some(Credential::IdentityToken(secret)),
        (_, _) => Some(Credential::Login { user, password: secret }),
    })
}

/// How the program ended and what it wrote; `None` if it had not ended by `deadline`. It has ended
/// when this returns; what it may have started itself is not waited for.
#[expect(clippy::disallowed_methods, reason = "the one module here that starts a program")]
fn run_bounded(
    program: &Path,
    server: &str,
    deadline: Instant,
) -> io::Result<Option<(ExitStatus, Vec<u8>)>> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(writer).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // Its copy of the pipe's writing end would keep the reader waiting.
    drop(command);
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has its reasons; its answer tells.
        let _ = writeln!(stdin, "{server}");
    }
    let output = read_bounded(reader, deadline);
    let ended = wait_bounded(&child, deadline);
    if !matches!((&output, &ended), (Ok(Some(_)), Ok(true))) {
        // Fails only if it has ended meanwhile.
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(match (output?, ended?) {
        (Some(output), true) => Some((status, output)),
        (Some(_) | None, _) => None,
    })
}

/// Reads to the end, or as much as an answer may have; `None` if the time is over before.
fn read_bounded(mut reader: PipeReader, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut output = Vec::new();
    let mut piece = [0; 4096];
    while is_ready(&reader, deadline)? {
        let count = reader.read(&mut piece)?;
        output.extend_from_slice(&piece[..count]);
        if count == 0 || output.len() as u64 > ANSWER_BYTES_MAX {
            return Ok(Some(output));
        }
    }
    Ok(None)
}

fn wait_bounded(child: &Child, deadline: Instant) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    // Not waited for yet, so the number is still this child's.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    is_ready(&pidfd, deadline)
}

/// Waits until `fd` can be read; `false` if the time is over before.
fn is_ready(fd: &impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Asks a helper that is this shell script.
    fn ask_script(script: &str, timeout: Duration) -> Result<Option<Credential>, CredentialError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        assert_eq!(find("test", &[folder.path().to_owned()]), None, "not executable yet");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let folders = ["relative".into(), "/nonexistent".into(), folder.path().to_owned()];
        let program = find("test", &folders).unwrap();
        // The script's interpreter opens it by name; a concurrent fork may still hold it writable.
        loop {
            match ask(&program, "h:1", timeout) {
                Err(CredentialError::HelperRun { source, .. })
                    if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                result => return result,
            }
        }
    }

    const PATIENT: Duration = Duration::from_secs(60);

    #[test]
    fn reads_what_a_helper_says() {
        let script = r#"read server; test "$1" = get || exit 1
            printf '{"ServerURL": "%s", "Username": "me", "Secret": "for %s"}' x "$server""#;
        let expected = Credential::Login { user: "me".to_owned(), password: "for h:1".to_owned() };
        assert_eq!(ask_script(script, PATIENT).unwrap(), Some(expected));
        let script = r#"echo '{"Username": "<token>", "Secret": "s"}'"#;
        let expected = Credential::IdentityToken("s".to_owned());
        assert_eq!(ask_script(script, PATIENT).unwrap(), Some(expected));
        let script = "echo credentials not found in native keychain; exit 1";
        assert_eq!(ask_script(script, PATIENT).unwrap(), None);
    }

    #[test]
    fn gives_up_on_helpers_that_fail_without_repeating_them() {
        let cases = [
            ("echo secret; exit 3", "exit status: 3"),
            ("echo secret", "no answer that can be read"),
            ("exec cat /dev/zero", "SIGPIPE"),
        ];
        for (script, expected) in cases {
            let error = ask_script(script, PATIENT).unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(error.to_string().contains(expected), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    /// Both one that holds its output open and one that closes it: neither would end by itself.
    #[test]
    fn ends_helpers_that_take_too_long() {
        for script in ["exec sleep 1000", "exec sleep 1000 >&-"] {
            let error = ask_script(script, Duration::from_millis(200)).unwrap_err();
            assert!(matches!(error, CredentialError::HelperSilent { .. }), "{error:?}");
        }
    }

    #[test]
    fn refuses_names_that_lead_elsewhere() {
        for name in ["", "../sh", "a/b", "a\0"] {
            assert_eq!(find(name, &["/bin".into()]), None);
        }
    }
}
