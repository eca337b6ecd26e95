//! The mode of what is copied.

use crate::CopyMode;

/// `mode` applied to a source's own, `old`. The letters are those of chmod(1); what they say about
/// nobody in particular, they say about all.
pub(super) fn applied(mode: &CopyMode, old: u32, is_directory: bool) -> u32 {
    match mode {
        CopyMode::Bits(bits) => *bits,
        CopyMode::Symbolic(text) => {
            text.split(',').fold(old, |mode, clause| changed(clause, mode, is_directory))
        }
    }
}

fn changed(clause: &str, old: u32, is_directory: bool) -> u32 {
    let Some(at) = clause.find(['+', '-', '=']) else { return old };
    let (who, rest) = clause.split_at(at);
    let all = who.is_empty() || who.contains('a');
    let (mut bits, mut reach) = (0, 0);
    for (letter, shift, special) in [('u', 6, 0o4000), ('g', 3, 0o2000), ('o', 0, 0o1000)] {
        if !(all || who.contains(letter)) {
            continue;
        }
        // Of a directory, chmod(1) takes these two away only where they are named.
        let kept = is_directory && letter != 'o';
        reach |= 0o7 << shift | if kept { 0 } else { special };
        for permission in rest[1..].chars() {
            bits |= match permission {
                'r' => 4 << shift,
                'w' => 2 << shift,
                'x' => 1 << shift,
                'X' if is_directory || old & 0o111 != 0 => 1 << shift,
                's' if letter != 'o' => special,
                't' if letter == 'o' => special,
                _ => 0,
            };
        }
    }
    match rest.as_bytes()[0] {
        b'+' => old | bits,
        b'-' => old & !bits,
        _ => old & !reach | bits,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// chmod(1) itself says what its letters mean.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "chmod(1) is asked")]
    fn letters_mean_what_chmod_makes_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let texts =
            ["u=rwX,go=rX", "a+x", "go-w", "o=", "u+s,g=rx", "a=rw", "a+X", "u=r,o+t", "ug-rx"];
        for is_directory in [false, true] {
            let path = folder.path().join(if is_directory { "directory" } else { "file" });
            match is_directory {
                true => fs::create_dir(&path).unwrap(),
                false => fs::write(&path, "").unwrap(),
            }
            for (text, old) in texts.iter().flat_map(|t| [(t, 0o640), (t, 0o755), (t, 0o4711)]) {
                fs::set_permissions(&path, PermissionsExt::from_mode(old)).unwrap();
                let mut command = std::process::Command::new("/bin/chmod");
                assert!(command.arg(text).arg(&path).status().unwrap().success());
                let expected = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                let ours = applied(&CopyMode::Symbolic((*text).to_owned()), old, is_directory);
                assert_eq!(format!("{ours:o}"), format!("{expected:o}"), "{text} of {old:o}");
            }
        }
    }
}
