//! Names in a tar: what path inside the layer an entry means.

use super::Limits;
use super::error::{Fault, Refused};

/// A name of more bytes fits in no directory (`NAME_MAX`, limits.h).
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Marks a file of a lower layer as removed (OCI image-spec v1.1, layer.md, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Marks a directory whose lower contents are removed ("Opaque Whiteout").
pub(super) const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// A path from the layer's root: components between single slashes, none of them empty, `.` or
/// `..`. The root itself is empty.
pub(crate) type LayerPath = Vec<u8>;

/// What the last component of a name means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// The root of the layer.
    Root,
    /// Something called `name` in `parent`.
    Entry { parent: &'a [u8], name: &'a [u8] },
    /// `name` of lower layers is not in `parent` any more.
    Whiteout { parent: &'a [u8], name: &'a [u8] },
    /// Nothing of lower layers is in `parent` any more.
    Opaque { parent: &'a [u8] },
}

/// Cleans the path of an entry or a hard link's target. Absolute ones start at the layer's root.
pub(crate) fn clean(raw: &[u8], limits: &Limits) -> Result<LayerPath, Fault> {
    let refuse = |reason| Fault::Entry { path: raw.to_vec(), reason };
    if raw.is_empty() {
        return Err(refuse(Refused::EmptyName));
    }
    let mut path = LayerPath::with_capacity(raw.len());
    for component in raw.split(|b| *b == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(refuse(Refused::DotDot)),
            _ if component.len() > NAME_BYTES_MAX => return Err(refuse(Refused::NameLength)),
            _ => push(&mut path, component),
        }
    }
    check_length(&path, limits)?;
    Ok(path)
}

/// Appends a component.
pub(super) fn push(path: &mut LayerPath, component: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(component);
}

/// The path of `name` in `parent`.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> LayerPath {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    push(&mut path, name);
    path
}

/// Splits the last component off.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Checks a path against the bounds on length and depth.
pub(super) fn check_length(path: &[u8], limits: &Limits) -> Result<(), Fault> {
    if path.len() > limits.path_bytes_max {
        let most = limits.path_bytes_max as u64;
        return Err(Fault::Limit { limit: "path_bytes_max", most });
    }
    let depth = path.split(|b| *b == b'/').count();
    if depth > limits.path_depth_max {
        let most = limits.path_depth_max as u64;
        return Err(Fault::Limit { limit: "path_depth_max", most });
    }
    Ok(())
}

/// Tells entries from whiteouts.
pub(crate) fn meaning(path: &[u8]) -> Result<Meaning<'_>, Refused> {
    if path.is_empty() {
        return Ok(Meaning::Root);
    }
    let (parent, name) = split(path);
    if parent.split(|b| *b == b'/').any(|component| component.starts_with(WHITEOUT_PREFIX)) {
        return Err(Refused::Whiteout);
    }
    if name == OPAQUE_NAME {
        return Ok(Meaning::Opaque { parent });
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        None => Ok(Meaning::Entry { parent, name }),
        Some(b"" | b"." | b"..") => Err(Refused::Whiteout),
        // Other names of this shape were private to aufs and never meant a file.
        Some(name) if name.starts_with(WHITEOUT_PREFIX) => Err(Refused::Whiteout),
        Some(name) => Ok(Meaning::Whiteout { parent, name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleans_to_single_slashes_below_the_root() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b"a/b", b"a/b"),
            (b"./a//b/.", b"a/b"),
            (b"/etc/passwd", b"etc/passwd"),
            (b"///", b""),
            (b".", b""),
            (b"a/...", b"a/..."),
        ];
        for (raw, expected) in cases {
            let cleaned = clean(raw, &Limits::default()).unwrap();
            assert_eq!(cleaned, expected, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn refuses_every_dotdot() {
        for raw in ["..", "../a", "a/..", "a/../b", "/..", "./../a"] {
            let fault = clean(raw.as_bytes(), &Limits::default()).unwrap_err();
            assert!(matches!(fault, Fault::Entry { reason: Refused::DotDot, .. }), "{raw}");
        }
    }

    #[test]
    fn tells_whiteouts_from_entries() {
        let parent = b"a".as_slice();
        assert_eq!(meaning(b"a/.wh.b"), Ok(Meaning::Whiteout { parent, name: b"b" }));
        assert_eq!(meaning(b"a/.wh..b"), Ok(Meaning::Whiteout { parent, name: b".b" }));
        assert_eq!(meaning(b"a/.wh..wh..opq"), Ok(Meaning::Opaque { parent }));
        assert_eq!(meaning(b"a/.wh"), Ok(Meaning::Entry { parent, name: b".wh" }));
        for malformed in ["a/.wh.", "a/.wh..", "a/.wh...", "a/.wh..wh.plnk", ".wh.a/b"] {
            assert_eq!(meaning(malformed.as_bytes()), Err(Refused::Whiteout), "{malformed}");
        }
    }
}
