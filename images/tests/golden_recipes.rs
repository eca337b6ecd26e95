//! Build files and the steps that are made of them, as data.
//!
//! A case is a directory: the build file, and `options.json` if it needs some (`arguments`,
//! `target`, and `base`: what every base image declares, as in the `config` of an image). What
//! comes out is `steps.json`, or `refusal.txt`. `refused.txt` holds files that are only refused,
//! between lines of `---`, each with its message in `refused.out.txt`. `RIC_BLESS=1` writes what
//! comes out anew; review reads the diff.

#[cfg(test)]
mod golden {
    use std::fmt::Write as _;
    use std::fs;
    use std::path::{Path, PathBuf};

    use ric_images::{
        Base, Config, Definition, Dockerfile, Inputs, Recipe, RecipeError, read_documents,
    };
    use serde_json::{Value, json};

    const OUTPUTS: [&str; 2] = ["steps.json", "refusal.txt"];
    const MANIFEST: &[u8] = br#"{"schemaVersion": 2, "layers": [], "config": {"size": 1,
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest":
        "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}}"#;

    type Parse = fn(&[u8], &Inputs) -> Result<Box<dyn Recipe>, RecipeError>;

    fn dockerfile(bytes: &[u8], inputs: &Inputs) -> Result<Box<dyn Recipe>, RecipeError> {
        Ok(Box::new(Dockerfile::parse("Dockerfile", bytes, inputs)?))
    }

    fn definition(bytes: &[u8], inputs: &Inputs) -> Result<Box<dyn Recipe>, RecipeError> {
        Ok(Box::new(Definition::parse("recipe.def", bytes, inputs)?))
    }

    fn root(format: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(format)
    }

    fn cases(format: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(root(format)).unwrap();
        let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        cases.retain(|path| path.is_dir());
        cases.sort();
        cases
    }

    /// What an image declares whose configuration has this `config`.
    fn base(defaults: &Value) -> Config {
        let config = json!({"architecture": "amd64", "os": "linux", "config": defaults,
            "rootfs": {"type": "layers", "diff_ids": []}});
        read_documents(MANIFEST, config.to_string().as_bytes()).unwrap().config
    }

    fn inputs(options: &Value) -> Inputs {
        let pair = |(name, value): (&String, &Value)| {
            (name.clone(), value.as_str().unwrap_or_default().to_owned())
        };
        Inputs {
            arguments: options["arguments"].as_object().into_iter().flatten().map(pair).collect(),
            target: options["target"].as_str().map(str::to_owned),
            architecture: "amd64".to_owned(),
            directory: Some("/srv/project".to_owned()),
            tests: options["tests"].as_bool().unwrap_or(true),
        }
    }

    /// Every stage that is needed, its steps, and what its image declares in the end.
    fn walk(recipe: &dyn Recipe, base: &Config) -> Result<Value, RecipeError> {
        let mut configs = vec![Config::default(); recipe.stages().len()];
        let mut stages = Vec::new();
        for number in recipe.needed() {
            let stage = &recipe.stages()[number];
            let mut config = match &stage.base {
                Base::Scratch => Config::default(),
                Base::Image(_) => base.clone(),
                Base::Stage(below) => configs[*below].clone(),
            };
            let steps = recipe.steps(number, &config)?;
            for change in steps.iter().flat_map(|step| &step.changes) {
                change.apply(&mut config);
            }
            stages.push(json!({"number": number, "stage": stage, "steps": steps,
                "config": config}));
            configs[number] = config;
        }
        Ok(json!({"target": recipe.target(), "notes": recipe.notes(), "stages": stages}))
    }

    fn check(case: &Path, file: &str, parse: Parse, bless: bool) -> Result<(), String> {
        let bytes = fs::read(case.join(file)).unwrap();
        let options = fs::read(case.join("options.json")).unwrap_or_else(|_| b"{}".to_vec());
        let options: Value = serde_json::from_slice(&options).unwrap();
        let base = base(&options["base"]);
        let walked = parse(&bytes, &inputs(&options)).and_then(|r| walk(&*r, &base));
        let (name, text) = match walked {
            Ok(steps) => (OUTPUTS[0], serde_json::to_string_pretty(&steps).unwrap() + "\n"),
            Err(error) => (OUTPUTS[1], format!("{error}\n")),
        };
        if bless {
            OUTPUTS.iter().for_each(|output| drop(fs::remove_file(case.join(output))));
            fs::write(case.join(name), &text).unwrap();
        }
        let recorded = fs::read_to_string(case.join(name)).unwrap_or_default();
        if recorded == text {
            return Ok(());
        }
        let differs = recorded.lines().zip(text.lines()).position(|(old, new)| old != new);
        Err(format!("{}/{name} differs from line {differs:?}", case.display()))
    }

    /// The refusals of a format, each under the file that it is about.
    fn refusals(format: &str, parse: Parse) -> String {
        let text = fs::read_to_string(root(format).join("refused.txt")).unwrap();
        let mut out = String::new();
        for file in text.split("---\n") {
            let inputs = inputs(&json!({}));
            let walked =
                parse(file.as_bytes(), &inputs).and_then(|r| walk(&*r, &Config::default()));
            let error = walked.expect_err(file);
            writeln!(out, "{file}=> {error}\n").unwrap();
        }
        out
    }

    #[allow(clippy::disallowed_methods, reason = "the switch of this test, not of the program")]
    fn check_all(format: &str, file: &str, parse: Parse) {
        let bless = std::env::var_os("RIC_BLESS").is_some();
        let checked = cases(format).into_iter().map(|case| check(&case, file, parse, bless));
        let mut wrong: Vec<String> = checked.filter_map(Result::err).collect();
        let (recorded, refusals) = (root(format).join("refused.out.txt"), refusals(format, parse));
        if bless {
            fs::write(&recorded, &refusals).unwrap();
        }
        if fs::read_to_string(&recorded).unwrap() != refusals {
            wrong.push(format!("{} differs", recorded.display()));
        }
        assert!(wrong.is_empty(), "{}\nRIC_BLESS=1 accepts this", wrong.join("\n"));
    }

    #[test]
    fn dockerfiles_become_the_reviewed_steps() {
        check_all("dockerfile", "Dockerfile", dockerfile);
    }

    #[test]
    fn definition_files_become_the_reviewed_steps() {
        check_all("definition", "recipe.def", definition);
    }
}
