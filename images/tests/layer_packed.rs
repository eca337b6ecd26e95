//! Blobs that are not what they should be: packed wrongly, damaged, cut, or made to fill a disk.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]
#![allow(clippy::tests_outside_test_module, reason = "all of this file is tests")]

mod layer_archive;
mod layer_twice;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use layer_archive::{Archive, Header, chain, gzip, packed, plain, zstd};
use layer_twice::{listing, scratch};
use ric_images::{Digest, LayerDescriptor, LayerError, Limits, MediaType, unpack_layer};

fn unpack(layer: &LayerDescriptor, blob: &[u8], limits: &Limits) -> Result<Vec<String>, String> {
    let root = scratch();
    let opened = File::open(root.path()).unwrap();
    match unpack_layer(layer, &mut &*blob, limits, opened.as_fd()) {
        Ok(_) => Ok(listing(root.path())),
        Err(error) => Err(chain(&error)),
    }
}

fn refused(blob: &[u8], tar: &[u8], media_type: MediaType, word: &str) {
    let error = unpack(&packed(blob, tar, media_type), blob, &Limits::default()).unwrap_err();
    assert!(error.contains(word), "{error}");
}

fn sample() -> Vec<u8> {
    Archive::new().directory("d").file("d/a", &"abc".repeat(10_000)).file("b", "x").end()
}

/// The same tree comes out of every packing, in one member or frame and in several.
#[test]
fn unpacks_every_packing() {
    let tar = sample();
    let expected = unpack(&plain(&tar), &tar, &Limits::default()).unwrap();
    let (front, back) = tar.split_at(1000);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for (blob, media_type) in [
        (gzip(&tar), MediaType::TarGzip),
        ([gzip(front), gzip(back)].concat(), MediaType::TarGzip),
        (zstd(&tar), MediaType::TarZstd),
        ([zstd(front), zstd(back)].concat(), MediaType::TarZstd),
        ([skippable.clone(), zstd(&tar), skippable].concat(), MediaType::TarZstd),
    ] {
        let layer = packed(&blob, &tar, media_type);
        assert_eq!(unpack(&layer, &blob, &Limits::default()).unwrap(), expected);
    }
}

/// T54: nothing but whole members of the promised kind.
#[test]
fn refuses_what_is_packed_wrongly() {
    use MediaType::{Tar, TarGzip, TarZstd};
    let tar = sample();
    let (gz, zst) = (gzip(&tar), zstd(&tar));
    refused(&gz[..gz.len() - 4], &tar, TarGzip, "as gzip: it ends in the middle");
    refused(&gz[..gz.len() / 2], &tar, TarGzip, "as gzip: it ends in the middle");
    refused(&[&gz[..], b"garbage"].concat(), &tar, TarGzip, "as gzip");
    refused(&[&gz[..], &[0; 512]].concat(), &tar, TarGzip, "as gzip");
    refused(&zst[..zst.len() / 2], &tar, TarZstd, "as zstd");
    refused(&[&zst[..], b"garbage"].concat(), &tar, TarZstd, "as zstd");
    refused(&gz, &tar, Tar, "as plain tar: its first bytes are gzip");
    refused(&zst, &tar, TarGzip, "as gzip: its first bytes are zstd");
    refused(&tar, &tar, TarZstd, "as zstd: its first bytes are neither");
    refused(b"", b"", TarGzip, "as gzip: its first bytes are neither");
    let wrong_sum = [&gz[..gz.len() - 8], &[0; 4], &gz[gz.len() - 4..]].concat();
    refused(&wrong_sum, &tar, TarGzip, "as gzip: corrupt");
}

/// T54: a frame may not make us allocate more than the window that is allowed.
#[test]
fn refuses_a_window_of_two_gibibytes() {
    // RFC 8878, 3.1.1.1: magic, no flags, window 2^(10 + 21), then one raw last block of one byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x09, 0, 0, 0];
    refused(&frame, b"\0", MediaType::TarZstd, "as zstd: Frame requires too much memory");
}

/// T55: a bomb is stopped before what passes the bound is written, by size or by ratio.
#[test]
fn stops_bombs_at_the_bound() {
    const CONTENT: u64 = 16 << 20;
    let header = Header::new(b'0', "zeros").size(CONTENT.cast_signed());
    let zeros = vec![0; usize::try_from(CONTENT).unwrap()];
    let tar = Archive::new().header(header).content(&zeros).end();
    let blob = zstd(&tar);
    let layer = packed(&blob, &tar, MediaType::TarZstd);
    let most = CONTENT / 4;
    let by_size = Limits { unpacked_bytes_max: CONTENT, ..Limits::default() };
    let by_ratio = Limits { ratio_floor_bytes: most, ..Limits::default() };
    for (limits, word, most) in [
        (by_size, "unpacked_bytes_max: 16777216", CONTENT),
        (by_ratio, "ratio_max: 200", most.max(200 * blob.len() as u64)),
    ] {
        let root = scratch();
        let opened = File::open(root.path()).unwrap();
        let error = unpack_layer(&layer, &mut &*blob, &limits, opened.as_fd()).unwrap_err();
        assert!(chain(&error).contains(word), "{error}");
        let written = fs::metadata(root.path().join("zeros")).unwrap().len();
        assert!(written <= most, "{written} bytes were written");
    }
    let root = scratch();
    let opened = File::open(root.path()).unwrap();
    let small = unpack_layer(&layer, &mut &*blob, &Limits::default(), opened.as_fd());
    assert!(small.is_ok(), "small layers may be all zeros");
}

/// T56: archives of millions of nothings.
#[test]
fn stops_at_the_bound_of_entries() {
    let limits = Limits { entries_max: 100, ..Limits::default() };
    let many = (0..101).fold(Archive::new(), |tar, n| tar.file(&format!("f{n}"), "")).end();
    let error = unpack(&plain(&many), &many, &limits).unwrap_err();
    assert!(error.contains("entries_max: 100"), "{error}");
    // Directories that no entry names count as well.
    let deep = Archive::new().long(b'L', &"d/".repeat(101)).directory("?").end();
    let error = unpack(&plain(&deep), &deep, &limits).unwrap_err();
    assert!(error.contains("entries_max: 100"), "{error}");
    let enough = (0..100).fold(Archive::new(), |tar, n| tar.file(&format!("f{n}"), "")).end();
    assert_eq!(unpack(&plain(&enough), &enough, &limits).unwrap().len(), 101);
}

/// Extended headers are bounded before they are read.
#[test]
fn bounds_headers_and_attributes() {
    let limits = Limits { header_bytes_max: 4096, xattr_bytes_max: 100, ..Limits::default() };
    let long = vec![b'x'; 4096];
    let tar = Archive::new().pax(b'x', &[("comment", &long)]).file("f", "").end();
    assert!(unpack(&plain(&tar), &tar, &limits).unwrap_err().contains("header_bytes_max: 4096"));
    let value = [b'x'; 100];
    let tar = Archive::new().pax(b'x', &[("SCHILY.xattr.user.a", &value)]).file("f", "").end();
    assert!(unpack(&plain(&tar), &tar, &limits).unwrap_err().contains("xattr_bytes_max: 100"));
}

/// T57: the right blob, but not the layer that the configuration names.
#[test]
fn refuses_another_diff_id() {
    let tar = sample();
    let blob = gzip(&tar);
    let layer = packed(&blob, b"another", MediaType::TarGzip);
    let error = unpack(&layer, &blob, &Limits::default()).unwrap_err();
    let expected = format!("should unpack to {}, its tar is {}", layer.diff_id, Digest::of(&tar));
    assert!(error.contains(&expected), "{error}");
}

/// T58: a flipped bit is always told as damage of the blob, though it shows as something else
/// first.
#[test]
fn tells_damage_from_malice() {
    // More than is read at once, so that what comes out is wrong long before the end.
    let random = (0..12_000_u64).map(|n| Digest::of(&n.to_le_bytes()).hex());
    let tar = Archive::new().file("a", &random.collect::<String>()).end();
    for (blob, media_type) in [
        (tar.clone(), MediaType::Tar),
        (gzip(&tar), MediaType::TarGzip),
        (zstd(&tar), MediaType::TarZstd),
    ] {
        let layer = packed(&blob, &tar, media_type);
        for at in (0..blob.len()).step_by(blob.len() / 12) {
            let mut damaged = blob.clone();
            damaged[at] ^= 1 << (at % 8);
            let root = scratch();
            let opened = File::open(root.path()).unwrap();
            let limits = Limits::default();
            let error = unpack_layer(&layer, &mut &*damaged, &limits, opened.as_fd()).unwrap_err();
            assert!(matches!(error, LayerError::Blob { .. }), "byte {at}: {}", chain(&error));
        }
    }
}

/// A blob of another length, and one that cannot be read.
#[test]
fn refuses_blobs_of_another_length() {
    let tar = sample();
    let blob = gzip(&tar);
    let layer = packed(&blob, &tar, MediaType::TarGzip);
    let error = unpack(&layer, &blob[..blob.len() - 1], &Limits::default()).unwrap_err();
    assert!(error.contains(&format!("ended after {} of {} bytes", blob.len() - 1, blob.len())));
    let longer = [&blob[..], b"x"].concat();
    let error = unpack(&layer, &longer, &Limits::default()).unwrap_err();
    assert!(error.contains("goes on after its"), "{error}");

    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let root = scratch();
    let opened = File::open(root.path()).unwrap();
    let mut broken = (&blob[..100]).chain(Broken);
    let error = unpack_layer(&layer, &mut broken, &Limits::default(), opened.as_fd());
    assert!(matches!(error, Err(LayerError::Read { offset: 100, .. })), "{error:?}");
}

/// Owners come from the archive for root, and only for root.
#[test]
fn owners_are_kept_where_they_can_be() {
    use std::os::unix::fs::MetadataExt;
    let tar = Archive::new()
        .header(Header::new(b'5', "d").uid(1).gid(2))
        .sized(Header::new(b'0', "d/f").uid(3).gid(2_147_483_647), b"x")
        .header(Header::new(b'2', "l").uid(4).link("d"))
        .header(Header::new(b'6', "p").uid(5))
        .end();
    layer_twice::twice("owners_are_kept_where_they_can_be", |directory: &Path| {
        let root = directory.join("root");
        fs::create_dir(&root).unwrap();
        let opened = File::open(&root).unwrap();
        unpack_layer(&plain(&tar), &mut &*tar, &Limits::default(), opened.as_fd()).unwrap();
        for (name, uid, gid) in
            [("d", 1, 2), ("d/f", 3, 2_147_483_647), ("l", 4, 0), ("p", 5, 0), ("", 0, 0)]
        {
            let meta = fs::symlink_metadata(root.join(name)).unwrap();
            let ours = (layer_twice::ORDINARY_UID, layer_twice::ORDINARY_UID);
            let expected = if layer_twice::is_root() { (uid, gid) } else { ours };
            assert_eq!((meta.uid(), meta.gid()), expected, "{name}");
            // What cannot be given away is noted, where attributes can be.
            let mut value = [0; 32];
            let path = root.join(name);
            let noted = rustix::fs::lgetxattr(path, "user.run-in-container.owner", &mut value[..]);
            let is_noted = name.starts_with('d') && !layer_twice::is_root();
            let expected = is_noted.then(|| format!("{uid}:{gid}").into_bytes());
            assert_eq!(noted.ok().map(|length| value[..length].to_vec()), expected, "{name}");
        }
        listing(&root)
    });
}
