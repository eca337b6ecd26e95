//! Images of a Shifter image gateway, as a caller of the crate sees them.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use ric_images::{
        Access, Asker, CredentialFiles, Form, Limits, LocalDocker, Manifest, Registries,
        ResolveError, ShifterError, Silent, SourceError, Store, Timeouts, ensure, resolve,
    };

    const GZIP: &[u8] = include_bytes!("root_files/gzip.squashfs");

    const ID: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    const META: &str = "FORMAT: squashfs\nENTRY: ['/bin/tool']\nCMD: ['-v', 'a b']\n\
        WORKDIR: /deep\nENV: A=b=\"c\n";

    struct Site {
        directory: tempfile::TempDir,
        store: Store,
        folders: Vec<PathBuf>,
        asker: Asker,
    }

    impl Site {
        fn new(meta: &str) -> Site {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(&directory.path().join("store")).unwrap();
            // The gateway's is the second that is looked through.
            let folders: Vec<_> = ["none", "images"].map(|name| directory.path().join(name)).into();
            for folder in &folders {
                fs::create_dir(folder).unwrap();
                fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let site = Site { directory, store, folders, asker: Asker { uid: 7, gids: vec![8] } };
            site.write("meta", meta.as_bytes());
            site.write("squashfs", GZIP);
            site
        }

        fn path(&self, end: &str) -> PathBuf {
            self.folders[1].join(format!("{ID}.{end}"))
        }

        fn write(&self, end: &str, bytes: &[u8]) {
            fs::write(self.path(end), bytes).unwrap();
            fs::set_permissions(self.path(end), fs::Permissions::from_mode(0o600)).unwrap();
        }

        fn with_access<T>(&self, then: impl FnOnce(&Access<'_>) -> T) -> T {
            then(&Access {
                store: Some(&self.store),
                registries: &Registries::default(),
                shifter_folders: &self.folders,
                below: &[],
                asker: &self.asker,
                docker: &LocalDocker::default(),
                host_fingerprint: "",
                limits: &Limits::default(),
                timeouts: Timeouts::default(),
                credentials: &CredentialFiles::default(),
                progress: &Silent,
            })
        }

        fn find(&self) -> Result<Manifest, ResolveError> {
            let reference = format!("shifter:id:{ID}").parse().unwrap();
            self.with_access(|access| resolve(&reference, access))
        }

        fn error(&self) -> ShifterError {
            let error = self.find().unwrap_err();
            let ResolveError::Source { source, .. } = error else { panic!("{error:?}") };
            let SourceError::Shifter { source, .. } = *source else { panic!("{source:?}") };
            source
        }
    }

    #[test]
    fn image_of_a_gateway_is_its_squashfs_and_its_meta_file() {
        let site = Site::new(META);
        let manifest = site.find().unwrap();
        assert_eq!(manifest.reference, format!("shifter:id:{ID}"));
        assert_eq!(manifest.config.entrypoint, ["/bin/tool"]);
        assert_eq!(manifest.config.command, ["-v", "a b"]);
        assert_eq!(manifest.config.workdir.as_deref(), Some("/deep"));
        assert_eq!(manifest.config.variables, [("A".to_owned(), "b=\"c".to_owned())]);
        let image = site.with_access(|access| ensure(&manifest, Form::Layers, access)).unwrap();
        assert_eq!(fs::read(image.layers[0].join("bin/motd")).unwrap(), b"hello\n");
    }

    #[test]
    fn image_is_for_those_whom_its_gateway_lists() {
        let mut site = Site::new(&format!("{META}USERACL: 7\nGROUPACL: 9\n"));
        site.find().unwrap();
        site.asker = Asker { uid: 1, gids: vec![1, 9] };
        site.find().unwrap();
        // Its ids turned round, and root.
        for asker in [Asker { uid: 9, gids: vec![7] }, Asker { uid: 0, gids: vec![0] }] {
            let uid = asker.uid;
            site.asker = asker;
            assert!(matches!(site.error(), ShifterError::NotForThem { uid: said } if said == uid));
        }
        // Neither is it had again, by whoever has the manifest of one who may.
        site.asker = Asker { uid: 7, gids: vec![8] };
        let manifest = site.find().unwrap();
        site.asker = Asker { uid: 1, gids: vec![1] };
        site.with_access(|access| ensure(&manifest, Form::Layers, access)).unwrap_err();
    }

    #[test]
    fn image_that_others_could_change_is_refused() {
        let chmod = |path: &PathBuf, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let site = Site::new(META);
        let paths = [site.path("meta"), site.path("squashfs"), site.folders[1].clone()];
        for (path, right) in paths.iter().zip([0o600, 0o600, 0o755]) {
            for wrong in [right | 0o020, right | 0o002] {
                chmod(path, wrong);
                let ShifterError::Unsafe { path: said, .. } = site.error() else { panic!() };
                assert_eq!(said, *path);
            }
            chmod(path, right);
        }
        site.find().unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(site.path("squashfs"), Some(7), None).unwrap();
            assert!(matches!(site.error(), ShifterError::Unsafe { .. }));
        }
    }

    #[test]
    fn nothing_but_files_of_the_directory_is_read() {
        let site = Site::new(META);
        let elsewhere = site.directory.path().join("elsewhere");
        fs::rename(site.path("squashfs"), &elsewhere).unwrap();
        symlink(&elsewhere, site.path("squashfs")).unwrap();
        assert!(matches!(site.error(), ShifterError::Read { .. }));
        fs::remove_file(site.path("squashfs")).unwrap();
        fs::create_dir(site.path("squashfs")).unwrap();
        assert!(matches!(site.error(), ShifterError::Read { .. }));
        for text in ["shifter:id:../../etc/passwd", "shifter:id:", "shifter:id:A", "shifter:id:a/b"]
        {
            assert!(text.parse::<ric_images::Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_a_way_out() {
        let mut site = Site::new("FORMAT: ext4\n");
        assert!(matches!(site.error(), ShifterError::Format { format: "ext4" }));
        site.write("meta", b"");
        assert!(matches!(site.error(), ShifterError::Format { format: "VFS" }));
        site.write("meta", b"FORMAT: squashfs\nFORMAT: squashfs\n");
        assert!(matches!(site.error(), ShifterError::Meta { .. }));
        fs::remove_file(site.path("meta")).unwrap();
        assert!(matches!(site.error(), ShifterError::NotThere { .. }));
        site.folders.clear();
        assert!(site.find().unwrap_err().hint().unwrap().contains("images: shifter:"));
        let error = "shifter:docker:python:3".parse::<ric_images::Reference>().unwrap_err();
        assert!(error.hint().unwrap().contains("shifterimg lookup"));
    }
}
