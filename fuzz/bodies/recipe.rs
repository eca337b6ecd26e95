//! What must hold for every text that is read as a build file. Shared by the fuzz target, the test
//! that replays its corpus, and the properties.

use ric_images::{Config, Definition, Dockerfile, Inputs, Recipe, RecipeError};

/// Reads the bytes as every kind of build file, and asks for the steps of every stage.
///
/// No panic; the same text gives the same steps; a refusal is one short line without control
/// characters.
pub(crate) fn check(data: &[u8]) {
    let inputs = Inputs {
        arguments: vec![("GIVEN".to_owned(), "value of $GIVEN".to_owned())],
        target: None,
        architecture: "amd64".to_owned(),
        directory: Some("/srv/project".to_owned()),
        tests: true,
    };
    let dockerfile = || Dockerfile::parse("Dockerfile", data, &inputs);
    let walked = dockerfile().and_then(|recipe| walk(&recipe));
    assert_eq!(walked, dockerfile().and_then(|recipe| walk(&recipe)));
    refused_on_one_line(walked);
    let definition = || Definition::parse("recipe.def", data, &inputs);
    let walked = definition().and_then(|recipe| walk(&recipe));
    assert_eq!(walked, definition().and_then(|recipe| walk(&recipe)));
    refused_on_one_line(walked);
}

/// Steps of all stages, as their JSON.
fn walk(recipe: &dyn Recipe) -> Result<String, RecipeError> {
    let mut config = Config::default();
    let mut all = String::new();
    assert!(recipe.needed().ends_with(&[recipe.target()]));
    for (number, stage) in recipe.stages().iter().enumerate() {
        assert!(stage.needs.iter().all(|needed| *needed < number));
        let steps = recipe.steps(number, &config)?;
        steps.iter().flat_map(|step| &step.changes).for_each(|change| change.apply(&mut config));
        assert!(steps.iter().all(|step| !step.text.contains(char::is_control)));
        all.push_str(&serde_json::to_string(&steps).expect("steps have a JSON form"));
    }
    Ok(all)
}

fn refused_on_one_line(walked: Result<String, RecipeError>) {
    if let Err(error) = walked {
        let message = error.to_string();
        assert!(!message.contains(char::is_control), "{message:?}");
        assert!(message.len() < 4096, "{message}");
    }
}
