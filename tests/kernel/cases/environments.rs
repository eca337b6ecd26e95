//! `--env`: what an environment file says holds, what was typed wins, what is wrong is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use libtest_mimic::Failed;
use serde_json::json;

use crate::case::Case;
use crate::commands::Command;
use crate::launch::{Ran, Stage, claim};
use crate::needs::Need;
use crate::person::Person;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("environment_gives_a_task_what_it_says", gives)
            .delegated()
            .needs(&[Need::Python3, Need::CgroupMemory]),
        Case::new("typed_flags_win_over_the_environment", typed_wins)
            .delegated()
            .needs(&[Need::CgroupMemory]),
        Case::new("first_environment_of_the_search_path_is_used", first_is_used),
        Case::new("example_environments_run", examples_run)
            .delegated()
            .needs(&[Need::Python3, Need::CgroupMemory]),
        Case::new("failing_preload_names_its_environment", preload_fails).needs(&[Need::Python3]),
        Case::new("virtual_environment_runs_at_its_own_path", prefix_runs)
            .needs(&[Need::Python3])
            .people(&[Person::Root]),
        Case::new("prefix_needs_a_policy_that_lists_it", prefix_is_refused).needs(&[Need::Python3]),
    ]
}

const LOOK: &str = "\
import os, sys
before = 'decimal' in sys.modules

def look():
    return {
        'preloaded': before, 'directory': os.getcwd(), 'word': os.environ.get('WORD'),
        'prefix': sys.prefix, 'path': os.environ['PATH'].split(':')[0],
    }
";

/// Writes an environment file of the person's own, and returns its directory.
fn environment(stage: &Stage, folder: &str, name: &str, text: &str) -> Result<String, Failed> {
    let folder = stage.directory(folder)?;
    let file = Path::new(&folder).join(format!("{name}.yaml"));
    fs::write(&file, format!("name: {name}\n{text}"))?;
    stage.world.give(&file, stage.person)?;
    Ok(folder)
}

fn look(stage: &Stage, folder: &str, name: &str, flags: &[&str]) -> Result<Ran, Failed> {
    let target = format!("{}:look", stage.file("look.py", LOOK)?);
    let env = ["call", "--json", "--env", name, "--env-path", folder];
    stage.cli(&[&env, flags, &[&target]].concat()).output()
}

const SAID: &str = "variables: {WORD: said}\nworkdir: /tmp\npreload: [decimal]\n\
                    interpreter: /usr/bin/python3\nlimits: {memory: 200MiB, time: 90s}\n";

fn gives(stage: &Stage) -> Result<(), Failed> {
    let folder = environment(stage, "e", "said", SAID)?;
    let ran = look(stage, &folder, "said", &[])?.expect_status("ok")?;
    let result = &ran.outcome["result"];
    claim!(result["preloaded"] == true && result["word"] == "said", "{result}");
    claim!(result["directory"] == "/tmp", "{result}");
    let plan = ["plan", "--json", "--env", "said", "--env-path", &folder, "--", "/bin/true"];
    let plan = stage.cli(&plan).output()?.expect_code(0)?.outcome;
    claim!(plan["sandbox"]["limits"]["memory_bytes"] == 200 << 20, "{plan}");
    claim!(plan["work"]["deadline"]["secs"] == 90, "{plan}");
    Ok(())
}

fn typed_wins(stage: &Stage) -> Result<(), Failed> {
    let folder = environment(stage, "e", "said", SAID)?;
    let typed = ["--memory", "300MiB", "--timeout", "9s", "--workdir", "/task"];
    let env =
        ["plan", "--json", "--env", "said", "--env-path", &folder, "--variable", "WORD=typed"];
    let plan = stage.cli(&[&env[..], &typed, &["--", "/bin/true"]].concat()).output()?;
    let plan = plan.expect_code(0)?.outcome;
    claim!(plan["sandbox"]["limits"]["memory_bytes"] == 300 << 20, "{plan}");
    claim!(plan["work"]["deadline"]["secs"] == 9, "{plan}");
    claim!(plan["work"]["workdir"] == "/task", "{plan}");
    let variables = plan["work"]["variables"].as_array().ok_or("no variables")?;
    claim!(variables.contains(&json!(["WORD", "typed"])), "{plan}");
    claim!(!variables.contains(&json!(["WORD", "said"])), "{plan}");
    Ok(())
}

fn first_is_used(stage: &Stage) -> Result<(), Failed> {
    let first = environment(stage, "first", "same", "variables: {WORD: first}\n")?;
    let second = environment(stage, "second", "same", "variables: {WORD: second}\n")?;
    let config = environment(stage, "config/run-in-container/environments", "own", "")?;
    let paths = ["--env-path", &first, "--env-path", &second];
    let run = [&["run", "--env", "same"], &paths[..], &["--", "/bin/sh", "-c", "echo $WORD"]];
    let ran = stage.cli(&run.concat()).output()?.expect_code(0)?.answer;
    claim!(ran.stdout == "first\n", "{}", ran.told());
    claim!(
        ran.stderr.contains(&format!("{first}/same.yaml, which hides {second}/same.yaml")),
        "{}",
        ran.told()
    );
    let xdg = format!("{}/config", stage.home.display());
    let list = [&["environments", "list", "--json"], &paths[..]].concat();
    let list = stage.cli(&list).variable("XDG_CONFIG_HOME", &xdg).output()?.expect_code(0)?.outcome;
    let wanted = json!([
        {"name": "own", "file": format!("{config}/own.yaml"), "hidden_by": null, "built": null},
        {"name": "same", "file": format!("{first}/same.yaml"), "hidden_by": null, "built": null},
        {"name": "same", "file": format!("{second}/same.yaml"),
         "hidden_by": format!("{first}/same.yaml"), "built": null},
    ]);
    claim!(list == wanted, "{list}");
    let none =
        stage.cli(&["run", "--env", "none", "--", "/bin/true"]).output()?.expect_code(125)?;
    claim!(none.answer.stderr.contains("there is no none.yaml in"), "{}", none.answer.told());
    Ok(())
}

fn examples_run(stage: &Stage) -> Result<(), Failed> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(project.join("examples/environments/statistics.yaml"))?;
    let folder = stage.directory("examples")?;
    fs::write(Path::new(&folder).join("statistics.yaml"), text)?;
    let ran = look(stage, &folder, "statistics", &[])?.expect_status("ok")?;
    // `statistics` imports `decimal`.
    claim!(ran.outcome["result"]["preloaded"] == true, "{}", ran.outcome);
    Ok(())
}

fn preload_fails(stage: &Stage) -> Result<(), Failed> {
    let folder = environment(stage, "e", "broken", "preload: [nothing_of_this_name]\n")?;
    let ran = look(stage, &folder, "broken", &[])?.expect_status("failed")?;
    let error = ran.outcome["error"].to_string();
    claim!(error.contains("environment `broken` preloads `nothing_of_this_name`"), "{error}");
    Ok(())
}

/// Makes a virtual environment of this machine's Python with a module of its own. Not in `/tmp`,
/// where a sandbox has its own.
fn make_virtual_environment() -> Result<(tempfile::TempDir, String), Failed> {
    let folder = tempfile::tempdir_in("/var/tmp")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let prefix = format!("{}/venv", folder.path().display());
    let python = ["/usr/bin/python3", "-m", "venv", "--without-pip", &prefix];
    let made = Command::new(&python).output()?;
    claim!(made.code == Some(0), "venv: {}", made.told());
    let lib = fs::read_dir(format!("{prefix}/lib"))?.next().ok_or("no lib")??.path();
    fs::write(lib.join("site-packages/own_module.py"), "WORD = 'own'\n")?;
    Ok((folder, prefix))
}

/// The shape of `examples/environments/venv.yaml`.
fn prefix_runs(stage: &Stage) -> Result<(), Failed> {
    let (scratch, prefix) = make_virtual_environment()?;
    let folder =
        environment(stage, "e", "venv", &format!("prefix: {prefix}\npreload: [own_module]\n"))?;
    let policy = format!(
        "version: 1\nmounts: [{{source: {}, access: read-only}}]\n",
        scratch.path().display()
    );
    let target = format!("{}:look", stage.file("look.py", LOOK)?);
    let call = ["call", "--json", "--env", "venv", "--env-path", &folder, &target];
    let ran = stage.cli(&call).site_policy(&policy)?.output()?.expect_status("ok")?;
    let result = &ran.outcome["result"];
    claim!(result["prefix"] == json!(prefix), "{result}");
    claim!(result["path"] == json!(format!("{prefix}/bin")), "{result}");
    let write = format!("touch {prefix}/x");
    let run = ["run", "--env", "venv", "--env-path", &folder, "--", "/bin/sh", "-c", &write];
    let ran = stage.cli(&run).site_policy(&policy)?.output()?.answer;
    claim!(ran.code != Some(0) && ran.stderr.contains("Read-only"), "{}", ran.told());
    Ok(())
}

fn prefix_is_refused(stage: &Stage) -> Result<(), Failed> {
    let (_scratch, prefix) = make_virtual_environment()?;
    let folder = environment(stage, "e", "venv", &format!("prefix: {prefix}\n"))?;
    let ran = look(stage, &folder, "venv", &[])?.expect_status("refused")?;
    claim!(ran.outcome["error"].to_string().contains(&prefix), "{}", ran.outcome);
    let folder = environment(stage, "e", "empty", "prefix: /usr/share\n")?;
    let ran = look(stage, &folder, "empty", &[])?.expect_status("error")?;
    claim!(ran.outcome["error"].to_string().contains("bin/python3"), "{}", ran.outcome);
    let folder = environment(stage, "e", "hidden", "prefix: /tmp/venv\n")?;
    let ran = look(stage, &folder, "hidden", &[])?.expect_status("error")?;
    claim!(ran.outcome["error"].to_string().contains("in /tmp"), "{}", ran.outcome);
    Ok(())
}
