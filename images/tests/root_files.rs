//! Images that are one file, as a caller of the crate sees them: `squashfs:` and `sif:` in, an
//! unpacked layer or a precise refusal out.
//!
//! `root_files/*.squashfs` were made by mksquashfs 4.5.1 with `-b 4096 -all-time 1000 -no-exports
//! -nopad` of a directory that has one of everything, and a small one with `-noI -noD -noF -noX
//! -noId` too, so that its numbers can be changed; the kernel tests make theirs anew.

#[path = "layer_twice/mod.rs"]
mod layer_twice;

#[path = "sif_file/mod.rs"]
mod sif_file;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    use proptest::prelude::Rng as _;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    use ric_images::{
        Access, CredentialFiles, Digest, Form, Identity, Image, LayerDescriptor, LayerError,
        Limits, LocalDocker, Manifest, MediaType, PullError, Reference, ResolveError, Silent,
        Store, Timeouts, ensure, resolve, unpack_layer,
    };

    use super::layer_twice::{is_root, listing, scratch};
    use super::sif_file::{DESCRIPTORS, ELSEWHERE, HERE, config_object, root_object, sif};

    const GZIP: &[u8] = include_bytes!("root_files/gzip.squashfs");
    const ZSTD: &[u8] = include_bytes!("root_files/zstd.squashfs");
    const XZ: &[u8] = include_bytes!("root_files/xz.squashfs");
    const LZ4: &[u8] = include_bytes!("root_files/lz4.squashfs");

    /// All kinds of packing that are read.
    const PACKINGS: [&[u8]; 4] = [GZIP, ZSTD, XZ, LZ4];

    /// Nothing in it is packed. Its first inode is at `INODES`.
    const PLAIN: &[u8] = include_bytes!("root_files/plain.squashfs");
    const INODES: usize = 0x277a;

    struct Site {
        directory: tempfile::TempDir,
        store: Store,
    }

    impl Site {
        fn new() -> Site {
            let directory = scratch();
            let store = Store::open(&directory.path().join("store")).unwrap();
            Site { directory, store }
        }

        fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.directory.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        }

        fn squashfs(&self, bytes: &[u8]) -> Reference {
            Reference::Squashfs(self.write("a.squashfs", bytes))
        }

        fn sif(&self, bytes: &[u8]) -> Reference {
            Reference::Sif(self.write("a.sif", bytes))
        }

        fn with_access<T>(&self, limits: &Limits, then: impl FnOnce(&Access<'_>) -> T) -> T {
            then(&Access {
                store: Some(&self.store),
                registries: &ric_images::Registries::default(),
                shifter_folders: &[],
                below: &[],
                asker: &ric_images::Asker::default(),
                docker: &LocalDocker::default(),
                host_fingerprint: "host:1",
                limits,
                timeouts: Timeouts::default(),
                credentials: &CredentialFiles::default(),
                progress: &Silent,
            })
        }

        fn resolve(&self, reference: &Reference) -> Result<Manifest, ResolveError> {
            self.with_access(&Limits::default(), |access| resolve(reference, access))
        }

        fn ensure(&self, manifest: &Manifest) -> Result<Image, PullError> {
            self.with_access(&Limits::default(), |access| ensure(manifest, Form::Layers, access))
        }

        /// The one layer of an image that can be used.
        fn root(&self, reference: &Reference) -> (Manifest, PathBuf) {
            let manifest = self.resolve(reference).unwrap_or_else(|e| panic!("{}", chain(&e)));
            let image = self.ensure(&manifest).unwrap_or_else(|e| panic!("{}", chain(&e)));
            let [root] = &image.layers[..] else { panic!("{image:?}") };
            (manifest, root.clone())
        }

        /// Why `reference` cannot be resolved.
        fn fault(&self, reference: &Reference) -> String {
            chain(&self.resolve(reference).unwrap_err())
        }
    }

    fn chain(error: &dyn std::error::Error) -> String {
        match error.source() {
            Some(source) => format!("{error}: {}", chain(source)),
            None => error.to_string(),
        }
    }

    fn check_tree(root: &Path) {
        let read = |name: &str| fs::read(root.join(name)).unwrap();
        let status = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        assert_eq!(read("bin/motd"), b"hello\n");
        assert_eq!(status("bin/motd").mode() & 0o7777, 0o4755);
        assert_eq!(status("bin/motd").mtime(), 1000);
        assert_eq!(status("bin/motd").ino(), status("bin/again").ino(), "a hard link");
        assert_eq!(fs::read_link(root.join("deep/link")).unwrap(), Path::new("../bin/motd"));
        let large: String = (0..3000).map(|n| format!("{n:09}\n")).collect();
        assert!(read("deep/large") == large.as_bytes());
        assert!(read("deep/hole") == [&[0; 40_000][..], b"end"].concat());
        assert_eq!(read("deep/empty"), b"");
        assert_eq!(read(&format!("deep/{}", "n".repeat(200))), b"long");
        assert_eq!(read(&format!("deep/er/{}/file", "d".repeat(120))), b"below");
        if is_root() {
            assert_eq!((status("deep/large").uid(), status("deep/large").gid()), (12345, 54321));
        }
        assert_eq!(status("deep/er").mode() & 0o7777, 0o700);
        for n in 0..300 {
            assert_eq!(read(&format!("many/{n:03}")), n.to_string().as_bytes());
        }
        assert!(status("deep/fifo").file_type().is_fifo());
        assert!(!root.join("deep/null").exists(), "a device");
        let mut value = [0; 400];
        let mut attribute = |name: &str, key: &str| {
            let count = rustix::fs::getxattr(root.join(name), key, &mut value[..]).unwrap();
            value[..count].to_vec()
        };
        assert_eq!(attribute("bin/motd", "user.color"), b"blue\n");
        assert_eq!(attribute("deep/large", "user.big"), [b'x'; 300]);
    }

    #[test]
    fn squashfs_is_unpacked_with_all_that_is_in_it() {
        for bytes in PACKINGS {
            let site = Site::new();
            let (manifest, root) = site.root(&site.squashfs(bytes));
            check_tree(&root);
            let [layer] = &manifest.layers[..] else { panic!("{manifest:?}") };
            assert_eq!(layer.digest, Digest::of(bytes), "the file's own");
            let (again, same) = site.root(&Reference::Squashfs(site.write("b.squashfs", bytes)));
            assert_eq!((again.identity, same), (manifest.identity, root), "named by its content");
        }
    }

    #[test]
    fn tar_of_a_squashfs_is_what_was_unpacked() {
        let site = Site::new();
        for bytes in PACKINGS {
            let (manifest, root) = site.root(&site.squashfs(bytes));
            let squashfs = &manifest.layers[0];
            let mut tar = Vec::new();
            let mut stream = site.store.layer_tar(squashfs, &Limits::default()).unwrap();
            stream.read_to_end(&mut tar).unwrap();
            let (digest, blob_bytes) = (Digest::of(&tar), tar.len() as u64);
            let media_type = MediaType::Tar;
            let layer = LayerDescriptor { digest, diff_id: digest, blob_bytes, media_type };
            let tree = site.store.add_layer(&layer, &mut &*tar, &Limits::default()).unwrap();
            check_tree(&tree);
            assert_eq!(listing(&tree), listing(&root));
        }
    }

    #[test]
    fn second_use_does_not_unpack_again() {
        let site = Site::new();
        let reference = site.squashfs(GZIP);
        let (manifest, root) = site.root(&reference);
        let inode = fs::metadata(root.join("bin")).unwrap().ino();
        // Nothing could be unpacked now.
        let limits = Limits { entries_max: 0, ..Limits::default() };
        let again = site.with_access(&limits, |access| ensure(&manifest, Form::Layers, access));
        assert_eq!(again.unwrap().layers, std::slice::from_ref(&root));
        assert_eq!(fs::metadata(root.join("bin")).unwrap().ino(), inode);
    }

    #[test]
    fn file_that_changes_on_the_way_is_refused() {
        let site = Site::new();
        let reference = site.squashfs(GZIP);
        // Of a file that only root can write to, root's store would have a copy by then.
        let file = site.directory.path().join("a.squashfs");
        fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
        let manifest = site.resolve(&reference).unwrap();
        let mut other = GZIP.to_vec();
        other[200] ^= 1;
        site.squashfs(&other);
        let message = chain(&site.ensure(&manifest).unwrap_err());
        assert!(message.contains("is not what its manifest names"), "{message}");
        assert_eq!(fs::read_dir(site.directory.path().join("store/layers")).unwrap().count(), 0);
    }

    /// Unpacks what claims to be a squashfs, past the look at its superblock.
    fn unpack(bytes: &[u8], limits: &Limits) -> Result<(), LayerError> {
        let directory = scratch();
        let root = fs::File::open(directory.path()).unwrap();
        let digest = Digest::of(bytes);
        let layer = LayerDescriptor {
            digest,
            diff_id: Digest::of(format!("squashfs {digest}").as_bytes()),
            blob_bytes: bytes.len() as u64,
            media_type: MediaType::Squashfs,
        };
        let unpacked = unpack_layer(&layer, &mut &*bytes, limits, std::os::fd::AsFd::as_fd(&root));
        unpacked.map(|_| ())
    }

    fn is_orderly(error: &LayerError) -> bool {
        use LayerError as E;
        matches!(error, E::Packing { .. } | E::Entry { .. } | E::Limit { .. } | E::Malformed { .. })
    }

    #[test]
    fn every_cut_is_refused() {
        for bytes in [GZIP, ZSTD, XZ, LZ4, PLAIN] {
            // Shorter steps at both ends, where superblock and tables are.
            let lengths = (0..bytes.len())
                .filter(|length| *length < 128 || *length + 512 > bytes.len() || length % 61 == 0);
            for length in lengths {
                let error = unpack(&bytes[..length], &Limits::default()).unwrap_err();
                assert!(matches!(error, LayerError::Packing { .. }), "{length}: {error:?}");
            }
        }
    }

    #[test]
    fn no_flipped_bits_get_past_the_checks() {
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let (mut refused, mut accepted) = (0, 0);
        for round in 0..900_u32 {
            let (bytes, start) =
                [(GZIP, 0), (ZSTD, 0), (XZ, 0), (LZ4, 0), (PLAIN, INODES), (PLAIN, INODES)]
                    [usize::try_from(round % 6).unwrap()];
            let mut bytes = bytes.to_vec();
            for _ in 0..=round % 3 {
                let place = usize::try_from(random.next_u64() >> 1).unwrap();
                let place = start + place % (bytes.len() - start);
                bytes[place] ^= 1 << (random.next_u32() % 8);
            }
            if round % 12 < 3 {
                let place = usize::try_from(random.next_u64() >> 1).unwrap() % 96;
                bytes[place] = u8::try_from(random.next_u32() & 0xff).unwrap();
            }
            match unpack(&bytes, &Limits::default()) {
                // A bit of a file's content, of a time or of an unused field.
                Ok(()) => accepted += 1,
                Err(error) => {
                    assert!(is_orderly(&error), "{round}: {error:?}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 100 && accepted > 10, "{refused} refused, {accepted} accepted");
    }

    /// Where `text` is in the plain file.
    fn place(text: &str) -> usize {
        PLAIN.windows(text.len()).position(|window| window == text.as_bytes()).unwrap()
    }

    #[test]
    fn squashfs_whose_numbers_lie_is_refused() {
        unpack(PLAIN, &Limits::default()).unwrap();
        // Inodes: of a file with blocks, of one with two names, and of the root.
        let (blocks, linked, root) = (INODES, INODES + 0x4c, INODES + 0xea);
        let (target, file) = (place("target-of-link"), place("file-one"));
        let none = &u32::MAX.to_le_bytes()[..];
        let cases: [(usize, &[u8], &str); 22] = [
            (place("dir-two") - 8, &[0xea, 0], "a directory is in two places"),
            (place("dir-two") - 8, &[0, 0x20], "beyond the end of a block"),
            (file, b".wh.file", "would remove a file"),
            (file, b"fil/-one", "is no name"),
            (file, b"fil\0-one", "is no name"),
            (place("file-two"), b"file-one", "there twice"),
            (file - 2, &[0xff, 1], "in the middle of an entry"),
            (place("blocks") - 20, none, "wrong header"),
            (target - 24, &[99, 0], "unknown type 99"),
            (target - 4, &[0, 0, 0, 0], "symbolic link is empty"),
            (target - 4, &[0, 0, 1, 0], "too long"),
            (root + 4, &[9, 0], "owner 9 is missing"),
            (32, &0x2400_0000_u64.to_le_bytes(), "beyond its end"),
            (linked + 44, &[7], "fragment 7, which is missing"),
            (linked + 48, none, "is too short"),
            (linked + 52, &[5], "attributes 5 are missing"),
            (blocks + 16, none, "beyond its end"),
            (blocks + 32, &[1, 0x10], "has a wrong size"),
            (blocks + 32, &[0xff, 0xf], "has another length"),
            (INODES - 2, &[0, 0], "of a table at byte"),
            (INODES - 2, &[0, 0xff], "of a table at byte"),
            (INODES - 2, &[0x0a, 1], "cannot be unpacked"),
        ];
        for (at, value, expected) in cases {
            let mut bytes = PLAIN.to_vec();
            bytes[at..at + value.len()].copy_from_slice(value);
            let Err(error) = unpack(&bytes, &Limits::default()) else {
                panic!("{at:#x} {expected}: accepted")
            };
            assert!(error.to_string().contains(expected), "{at:#x} {expected}: {error}");
        }
        // A file that claims a petabyte, in holes.
        let mut bytes = PLAIN.to_vec();
        bytes[linked + 24..linked + 32].copy_from_slice(&(1_u64 << 50).to_le_bytes());
        let error = unpack(&bytes, &Limits::default()).unwrap_err();
        assert!(is_orderly(&error), "{error}");
    }

    #[test]
    fn limits_hold() {
        let limit = |limits: Limits| {
            let error = unpack(GZIP, &limits).unwrap_err();
            let LayerError::Limit { limit, .. } = error else { panic!("{error:?}") };
            limit
        };
        let all = Limits::default;
        assert_eq!(limit(Limits { entries_max: 100, ..all() }), "entries_max");
        assert_eq!(limit(Limits { unpacked_bytes_max: 20_000, ..all() }), "unpacked_bytes_max");
        assert_eq!(limit(Limits { path_depth_max: 2, ..all() }), "path_depth_max");
        assert_eq!(limit(Limits { path_bytes_max: 100, ..all() }), "path_bytes_max");
        assert_eq!(limit(Limits { xattr_bytes_max: 100, ..all() }), "xattr_bytes_max");
        let ratio = Limits { ratio_max: 2, ratio_floor_bytes: 0, ..all() };
        assert_eq!(limit(ratio), "ratio_max");
    }

    #[test]
    fn other_kinds_of_file_are_refused_by_name() {
        let site = Site::new();
        for (number, name) in [(2, "lzma"), (3, "lzo")] {
            let mut other = GZIP.to_vec();
            other[20] = number;
            let message = site.fault(&site.squashfs(&other));
            let expected = format!("packed with {name}: only gzip, xz, lz4 and zstd");
            assert!(message.contains(&expected), "{message}");
            assert!(site.resolve(&site.squashfs(&other)).unwrap_err().hint().is_some());
        }
        for (bytes, expected) in [
            (&b""[..], "fewer than any squashfs"),
            (&[b'x'; 200][..], "does not begin as a squashfs"),
            (&GZIP[..4000], "there are 4000"),
        ] {
            let message = site.fault(&site.squashfs(bytes));
            assert!(message.contains(expected), "{message}");
        }
        let message = site.fault(&Reference::Squashfs(site.directory.path().join("none")));
        assert!(message.contains("cannot open"), "{message}");
    }

    #[test]
    fn sif_is_its_root_and_its_oci_configuration() {
        let site = Site::new();
        let config = r#"{"Entrypoint":["/bin/tool"],"Cmd":["-v"],"Env":["A=b\"$c"],
            "WorkingDir":"/deep","User":"7","Labels":{"x":"y"}}"#;
        let file = sif(HERE, &[config_object(config), root_object(HERE)]);
        let (manifest, root) = site.root(&site.sif(&file));
        check_tree(&root);
        assert_eq!(manifest.config.entrypoint, ["/bin/tool"]);
        assert_eq!(manifest.config.command, ["-v"]);
        assert_eq!(manifest.config.variables, [("A".to_owned(), "b\"$c".to_owned())]);
        assert_eq!(manifest.config.workdir.as_deref(), Some("/deep"));
        assert_eq!(manifest.layers[0].digest, Digest::of(GZIP), "the partition's own");
        let (bare, same) = site.root(&site.squashfs(GZIP));
        assert_eq!(same, root, "one unpacked tree for both");
        assert_ne!(bare.identity, manifest.identity);
        assert!(matches!(manifest.identity, Identity::Digest(_)));
        let (plain, _) = site.root(&site.sif(&sif(b"00\0", &[root_object(b"00\0")])));
        assert_eq!(plain.config.entrypoint, <[&str; 0]>::default());
    }

    #[test]
    fn sif_of_another_kind_is_refused_by_name() {
        let site = Site::new();
        let fault = |bytes: &[u8]| site.fault(&site.sif(bytes));
        let message = fault(&sif(ELSEWHERE, &[root_object(ELSEWHERE)]));
        assert!(message.contains("this machine runs linux/"), "{message}");
        for (system, expected) in
            [(2, "ext3"), (3, "an archive"), (4, "raw"), (5, "encrypted"), (6, "encrypted")]
        {
            let mut object = root_object(HERE);
            object.partition = Some((system, 2, HERE));
            let message = fault(&sif(HERE, &[object]));
            assert!(message.contains(expected), "{message}");
        }
        let root = || root_object(HERE);
        let mut not_squashfs = root();
        not_squashfs.bytes = vec![0; 4096];
        let json = |text: &str| vec![config_object(text), root()];
        for (objects, expected) in [
            (vec![], "no primary system partition"),
            (vec![root(), root()], "two primary"),
            (vec![root_object(ELSEWHERE)], "two architectures"),
            (vec![not_squashfs], "does not begin as a squashfs"),
            (json("[]"), "no JSON object"),
            (json("{"), "is not valid"),
            (vec![config_object("{}"), config_object("{}"), root()], "two OCI"),
            (json(r#"{"Env":["A"]}"#), "`Env`"),
        ] {
            let message = fault(&sif(HERE, &objects));
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn sif_whose_numbers_lie_is_refused() {
        let site = Site::new();
        let file = sif(HERE, &[config_object("{}"), root_object(HERE)]);
        let second = DESCRIPTORS + 585;
        let far = &u64::MAX.to_le_bytes()[..];
        let cases: [(usize, &[u8], &str); 14] = [
            (0x20, b"X", "does not begin as a SIF"),
            (0x2a, b"02", "version"),
            (0x2d, b"99\0", "architecture"),
            (0x58, &(1_u64 << 40).to_le_bytes(), "descriptors have"),
            (0x58, far, "descriptors have"),
            (0x58, &[1], "descriptors have"),
            (0x60, far, "refers to byte"),
            (0x60, &0_u64.to_le_bytes(), "in its header"),
            (0x68, far, "descriptors have"),
            (DESCRIPTORS + 17, far, "not within the file"),
            (second + 25, far, "not within the file"),
            (second + 17, &130_u64.to_le_bytes(), "overlap at byte 130"),
            (DESCRIPTORS + 25, &[3], "overlap"),
            (second + 5, &[1], "two of its objects are number 1"),
        ];
        for (at, bytes, expected) in cases {
            let mut file = file.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            let message = site.fault(&site.sif(&file));
            assert!(message.contains(expected), "{at:#x} {expected}: {message}");
        }
        for length in (0..file.len()).filter(|length| *length < 1400 || length % 397 == 0) {
            site.fault(&site.sif(&file[..length]));
        }
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
        for _ in 0..500 {
            let mut file = file.clone();
            let place =
                usize::try_from(random.next_u64() >> 1).unwrap() % second.saturating_add(585);
            file[place] ^= 1 << (random.next_u32() % 8);
            // Right or refused, but never a panic.
            drop(site.resolve(&site.sif(&file)));
        }
    }
}
