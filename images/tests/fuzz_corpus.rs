//! Replays the inputs that the fuzz targets of this crate start from, and those they once failed
//! on.

#[path = "../../fuzz/bodies/file_system.rs"]
mod file_system;
#[path = "../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../fuzz/bodies/recipe.rs"]
mod recipe;
#[path = "../../fuzz/bodies/reference.rs"]
mod reference;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Each input of the corpus `name`, checked; a failure names the file.
    fn replay(name: &str, check: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let checked = std::panic::catch_unwind(|| check(&bytes));
            assert!(checked.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count >= 10, "{} has {count} inputs", corpus.display());
    }

    #[test]
    fn references() {
        replay("reference", super::reference::check);
    }

    #[test]
    fn manifests() {
        replay("manifest", super::manifest::check);
    }

    #[test]
    fn squashfs_files() {
        replay("squashfs", super::file_system::check_squashfs);
    }

    #[test]
    fn sifs() {
        replay("sif", super::file_system::check_sif);
    }

    #[test]
    fn recipes() {
        replay("recipe", super::recipe::check);
    }
}
