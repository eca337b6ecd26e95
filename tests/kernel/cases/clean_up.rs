//! Nothing is left: not after an end, a failure, Ctrl-C, or the death of the command line.

use std::time::Duration;

use libtest_mimic::Failed;
use rustix::process::Signal;

use crate::case::Case;
use crate::commands::Input;
use crate::launch::{Stage, claim};
use crate::leftovers::{files, nothing_left};
use crate::needs::Need;
use crate::posture::PYTHON;

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("leaves_nothing_after_an_end", leaves_nothing_after_an_end),
        Case::new("leaves_nothing_after_ctrl_c_at_any_moment", |stage| {
            ends_at_any_moment(stage, Signal::INT)
        }),
        Case::new("leaves_nothing_after_a_kill_at_any_moment", |stage| {
            ends_at_any_moment(stage, Signal::KILL)
        }),
        Case::new("passes_signals_to_the_task", passes_signals),
        Case::new("ends_with_its_reader", ends_with_its_reader),
        Case::new("works_with_closed_standard_streams", works_with_closed_streams),
        Case::new("leaves_nothing_of_many_at_once", many_at_once).needs(&[Need::Python3]),
    ]
}

fn leaves_nothing_after_an_end(stage: &Stage) -> Result<(), Failed> {
    stage.cli(&["run", "--", "/bin/true"]).output()?.expect_code(0)?;
    let store = files(&stage.store())?;
    for (code, script) in [(0, "true"), (3, "exit 3"), (143, "kill -TERM $$")] {
        stage.cli(&["run", "--", "/bin/sh", "-c", script]).output()?.expect_code(code)?;
        nothing_left(stage)?;
    }
    let now = files(&stage.store())?;
    let more: Vec<_> = now.difference(&store).collect();
    claim!(more.is_empty(), "the store grew: {more:?}");
    Ok(())
}

/// Sends a signal after each of many delays, from before the sandbox stands to while it runs.
fn ends_at_any_moment(stage: &Stage, signal: Signal) -> Result<(), Failed> {
    /// Moments tried.
    const MOMENTS: u64 = 25;
    /// From the first to the last: what a start takes, and some of the run after it.
    const SPAN: Duration = Duration::from_micros(17_500);
    let moments = stage.world.effort(MOMENTS);
    let step = SPAN / u32::try_from(moments)?;
    for moment in 0..u32::try_from(moments)? {
        let words = ["run", "--", "/bin/sh", "-c", "echo started; sleep 600 & sleep 600"];
        let running = stage.cli(&words).start()?;
        // A delay by its length, not an event: the moment is what is tried.
        running.ends_within(step * moment)?;
        running.signal(signal);
        let answer = running
            .wait()
            .map_err(|failed| format!("moment {moment}: {}", crate::needs::reason(&failed)))?;
        claim!(answer.code != Some(0), "moment {moment}: it went on: {}", answer.told());
        claim!(!answer.stderr.contains("panicked"), "moment {moment}: {}", answer.told());
        nothing_left(stage)
            .map_err(|failed| format!("moment {moment}: {}", crate::needs::reason(&failed)))?;
    }
    Ok(())
}

/// A signal to the command line is a signal to the task, which may handle it.
fn passes_signals(stage: &Stage) -> Result<(), Failed> {
    let script =
        "trap 'echo handled; exit 5' TERM; echo ready; while :; do read x || sleep 0.1; done";
    for (signal, code, said) in
        [(Signal::TERM, Some(5), "ready\nhandled\n"), (Signal::INT, Some(130), "ready\n")]
    {
        let mut running =
            stage.cli(&["run", "--", "/bin/sh", "-c", script]).input(Input::Held).start()?;
        running.wait_for_output("ready")?;
        running.signal(signal);
        let answer = running.wait()?;
        claim!(answer.code == code && answer.stdout == said, "{signal:?}: {}", answer.told());
        nothing_left(stage)?;
    }
    Ok(())
}

/// Like any command in a pipe: when the reader goes, so does the task.
fn ends_with_its_reader(stage: &Stage) -> Result<(), Failed> {
    let shell = ["/bin/sh", "-c", "\"$@\" | head -c 10", "sh"];
    let ran = stage.cli(&["run", "--", "yes"]).started_by(&shell).output()?.expect_code(0)?;
    claim!(ran.answer.stdout == "y\ny\ny\ny\ny\n", "{}", ran.answer.told());
    nothing_left(stage)
}

fn works_with_closed_streams(stage: &Stage) -> Result<(), Failed> {
    for (closing, code) in [("<&-", 0), (">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0)] {
        let script = format!("exec \"$@\" {closing}");
        let words = ["run", "--", "/bin/sh", "-c", "test -e /usr"];
        let ran = stage.cli(&words).started_by(&["/bin/sh", "-c", &script, "sh"]).output()?;
        claim!(ran.answer.code == Some(code), "{closing}: {}", ran.answer.told());
        nothing_left(stage)?;
    }
    Ok(())
}

/// Sandboxes that start at the same moment do not mix, and all go.
fn many_at_once(stage: &Stage) -> Result<(), Failed> {
    const SANDBOXES: u32 = 12;
    let start = |number: u32| {
        let script = format!(
            "import os; os.mkdir('/tmp/only'); print({number}, len(os.listdir('/proc/self/fd')))"
        );
        stage.cli(&["run", "--", PYTHON, "-c", &script]).start()
    };
    let running = (0..SANDBOXES).map(start).collect::<Result<Vec<_>, _>>()?;
    for (number, running) in running.into_iter().enumerate() {
        let answer = running.wait()?;
        claim!(answer.code == Some(0), "{}", answer.told());
        claim!(answer.stdout.starts_with(&format!("{number} ")), "{}", answer.told());
    }
    nothing_left(stage)
}
