//! Replays the inputs that the fuzz target of this crate starts from, and those it once failed on.

#[path = "../../fuzz/bodies/policy.rs"]
mod policy;

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn policies() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/policy");
        let mut count = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let checked = std::panic::catch_unwind(|| super::policy::check(&bytes));
            assert!(checked.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count >= 10, "{} has {count} inputs", corpus.display());
    }
}
