//! Paths inside a sandbox as callers and images write them: what they must look like.

use std::path::{Component, Path, PathBuf};

/// Longest path that the kernel takes, with its final zero (`PATH_MAX`, limits.h).
const PATH_BYTES_MAX: usize = 4096;

/// An absolute path without `.`, `..` and doubled slashes; `Err`: what is wrong with it.
///
/// `..` is refused and not resolved: what it means depends on symbolic links that nobody has
/// looked at yet.
pub(super) fn parse_target(path: &Path) -> Result<PathBuf, String> {
    if path.as_os_str().len() >= PATH_BYTES_MAX {
        return Err(format!("it is longer than {PATH_BYTES_MAX} bytes"));
    }
    if path.as_os_str().as_encoded_bytes().iter().any(|byte| byte.is_ascii_control()) {
        return Err("it has control characters".to_owned());
    }
    if !path.is_absolute() {
        return Err("it does not begin with `/`".to_owned());
    }
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => normal.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err("it contains `..`".to_owned());
            }
        }
    }
    Ok(normal)
}

/// Whether one of two paths is the other or lies below it.
pub(super) fn related(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// A name of a file in `/task`; `Err`: what is wrong with it.
pub(super) fn parse_name(name: &str) -> Result<(), String> {
    /// Longest file name of every common file system (`NAME_MAX`, limits.h).
    const NAME_BYTES_MAX: usize = 255;
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err("it is not the name of a file in `/task`".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("it is longer than {NAME_BYTES_MAX} bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err("it has control characters".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_is_one_spelling_of_a_path() {
        let parse = |text: &str| parse_target(Path::new(text));
        assert_eq!(parse("//a///b/./c/"), Ok(PathBuf::from("/a/b/c")));
        assert_eq!(parse("/"), Ok(PathBuf::from("/")));
        for wrong in ["", "a", "./a", "/a/../b", "..", "/a\nb", "/a\0b"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&"/a".repeat(PATH_BYTES_MAX / 2)).is_err());
    }

    #[test]
    fn paths_are_compared_by_component() {
        assert!(related(Path::new("/a/b"), Path::new("/a")));
        assert!(related(Path::new("/"), Path::new("/a")));
        assert!(!related(Path::new("/scratch2"), Path::new("/scratch")));
    }

    #[test]
    fn name_stays_in_its_directory() {
        assert!(parse_name("data.txt").is_ok());
        assert!(parse_name("..data").is_ok());
        for wrong in ["", ".", "..", "a/b", "/", "a\nb", "\u{7f}"] {
            assert!(parse_name(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse_name(&"a".repeat(256)).is_err());
    }
}
