//! What is to be built, from where: the build file, read by the reader of its format.

use std::path::PathBuf;

use ric_images::{CopySource, Definition, Dockerfile, Inputs, Recipe, RecipeError};
use ric_runtime::Actor;

use super::not_copied;
use crate::args::{BuildArgs, BuildFormat};
use crate::failure::Failure;

/// Ends of names, and whole names, of definition files.
const DEFINITIONS: [&str; 3] = [".def", "Singularity", "Apptainer"];

/// A build file that was read, and where it copies from.
pub(super) struct Asked {
    pub(super) recipe: Box<dyn Recipe>,
    pub(super) context: CopySource,
}

/// Reads the build file.
pub(super) fn read(args: &BuildArgs, architecture: &str) -> Result<Asked, Failure> {
    let is_file = args.file.is_none() && args.context.is_file();
    // As Apptainer does: what a definition file names is seen from where it is built.
    let directory = if is_file { PathBuf::from(".") } else { args.context.clone() };
    let file = match &args.file {
        Some(file) => file.clone(),
        None if is_file => args.context.clone(),
        None => directory.join("Dockerfile"),
    };
    let failed = || Failure::new(Actor::User, format!("cannot read {}", file.display()));
    let bytes = std::fs::read(&file).map_err(|error| failed().because(&error))?;
    let absolute = std::path::absolute(&directory).map_err(|error| failed().because(&error))?;
    let inputs = Inputs {
        arguments: args.build_arg.iter().map(|v| (v.name.clone(), v.value.clone())).collect(),
        target: args.target.clone(),
        architecture: architecture.to_owned(),
        directory: absolute.to_str().map(str::to_owned),
        tests: !args.no_test,
    };
    let name = file.to_string_lossy();
    let wrong = |error: RecipeError| failed().because(&error);
    let base_name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_definition = match args.format {
        Some(format) => format == BuildFormat::Definition,
        None => {
            base_name.ends_with(DEFINITIONS[0])
                || DEFINITIONS[1..].iter().any(|name| base_name.starts_with(name))
        }
    };
    Ok(if is_definition {
        Asked {
            recipe: Box::new(Definition::parse(&name, &bytes, &inputs).map_err(wrong)?),
            context: CopySource::directory(&directory).map_err(|error| not_copied(&error))?,
        }
    } else {
        Asked {
            recipe: Box::new(Dockerfile::parse(&name, &bytes, &inputs).map_err(wrong)?),
            context: CopySource::context(&directory, &file).map_err(|error| not_copied(&error))?,
        }
    })
}
