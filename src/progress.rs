//! What is said on standard error before a verb has ended: bars while layers are fetched, where it
//! is a terminal, or lines of JSON for a program, and lines that a user reads even if the task is
//! killed.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ric_images::{Digest, Progress};
use serde_json::json;

use crate::failure::printable;

/// For whoever watches a pull: people, or with `as_json` a program.
pub(crate) fn watched(as_json: bool) -> Box<dyn Progress> {
    match as_json {
        true => Box::new(Events::new(io::stderr())),
        false => Box::new(Bars::default()),
    }
}

/// How often an event says how far a layer is.
const EVENT_EVERY: Duration = Duration::from_millis(200);

/// One JSON object a line: a layer begins, gets on, is there (`docs/registries.md`).
pub(crate) struct Events<W> {
    state: Mutex<Told<W>>,
}

struct Told<W> {
    to: W,
    by_layer: HashMap<Digest, Far>,
}

/// How far a layer is, and when that was told.
struct Far {
    bytes: u64,
    of: u64,
    told: Instant,
}

impl<W: Write> Events<W> {
    fn new(to: W) -> Events<W> {
        Events { state: Mutex::new(Told { to, by_layer: HashMap::new() }) }
    }

    fn with(&self, act: impl FnOnce(&mut Told<W>)) {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<W: Write> Told<W> {
    /// A closed standard error leaves nobody to tell.
    fn tell(&mut self, event: &str, digest: &Digest) {
        let Some(Far { bytes, of, .. }) = self.by_layer.get(digest) else { return };
        let line = json!({"event": event, "digest": digest, "bytes": bytes, "of": of});
        let _ = self.to.write_all(format!("{line}\n").as_bytes());
    }
}

impl<W: Write + Send> Progress for Events<W> {
    fn started(&self, digest: &Digest, blob_bytes: u64) {
        self.with(|told| {
            let far = Far { bytes: 0, of: blob_bytes, told: Instant::now() };
            // Wanted, and then asked for: nothing has come in between.
            let is_known = told.by_layer.insert(*digest, far).is_some_and(|far| far.bytes == 0);
            if !is_known {
                told.tell("started", digest);
            }
        });
    }

    fn advanced(&self, digest: &Digest, bytes: u64) {
        self.with(|told| {
            let Some(far) = told.by_layer.get_mut(digest) else { return };
            far.bytes += bytes;
            if far.told.elapsed() >= EVENT_EVERY {
                far.told = Instant::now();
                told.tell("advanced", digest);
            }
        });
    }

    fn finished(&self, digest: &Digest) {
        self.with(|told| told.tell("finished", digest));
    }
}

/// One bar per layer. Costs nothing until a layer is fetched; indicatif itself stays silent where
/// standard error is no terminal.
#[derive(Debug, Default)]
pub(crate) struct Bars {
    shown: MultiProgress,
    by_layer: Mutex<HashMap<Digest, ProgressBar>>,
}

const TEMPLATE: &str = "{prefix:12} {bar:30} {bytes:>11} of {total_bytes:11} {bytes_per_sec}";

/// Digits of a digest that tell layers apart for people, as in Docker.
const DIGITS_SHOWN: usize = 12;

/// How often a bar moves although nothing arrives, so that a slow registry does not look dead.
const TICK: Duration = Duration::from_millis(200);

impl Bars {
    fn with_bar(&self, digest: &Digest, act: impl FnOnce(&ProgressBar)) {
        let bars = self.by_layer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = bars.get(digest) {
            act(bar);
        }
    }
}

impl Progress for Bars {
    fn started(&self, digest: &Digest, blob_bytes: u64) {
        let mut bars = self.by_layer.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(*digest).or_insert_with(|| {
            let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant");
            let bar = self.shown.add(ProgressBar::new(blob_bytes).with_style(style));
            let hex = digest.hex();
            bar.set_prefix(hex[..DIGITS_SHOWN.min(hex.len())].to_owned());
            if !self.shown.is_hidden() {
                bar.enable_steady_tick(TICK);
            }
            bar
        });
        bar.set_position(0);
    }

    fn advanced(&self, digest: &Digest, bytes: u64) {
        self.with_bar(digest, |bar| bar.inc(bytes));
    }

    fn finished(&self, digest: &Digest) {
        self.with_bar(digest, ProgressBar::finish_and_clear);
    }
}

/// Whether lines are said as JSON; set once, by a verb that is told so.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on, says lines as JSON.
pub(crate) fn tell_as_json() {
    AS_JSON.store(true, Ordering::Relaxed);
}

/// Says a line at once. A closed standard error leaves nobody to tell.
pub(crate) fn tell(line: &str) {
    let line = match AS_JSON.load(Ordering::Relaxed) {
        true => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            format!("{}\n", json!({"time": now.as_secs_f64(), "message": line}))
        }
        false => format!("run-in-container: {}\n", printable(line)),
    };
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// What is left on the screen would mix with what the task prints.
impl Drop for Bars {
    fn drop(&mut self) {
        let bars = self.by_layer.get_mut().unwrap_or_else(PoisonError::into_inner);
        bars.values().for_each(ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn events_are_one_object_a_line() {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let events = Events::new(Vec::new());
        // Fetched again after something was wrong with what came.
        for bytes in [3, 7] {
            events.started(&digest, 10);
            events.advanced(&digest, bytes);
        }
        events.with(|told| told.by_layer.get_mut(&digest).unwrap().told -= EVENT_EVERY);
        events.advanced(&digest, 1);
        events.advanced(&digest, 2);
        events.finished(&digest);
        let told = events.state.into_inner().unwrap().to;
        let lines: Vec<Value> = String::from_utf8(told)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let said: Vec<_> = lines
            .iter()
            .map(|line| (line["event"].as_str().unwrap(), line["bytes"].as_u64().unwrap()))
            .collect();
        assert_eq!(said, [("started", 0), ("started", 0), ("advanced", 8), ("finished", 10)]);
        assert!(lines.iter().all(|line| line["of"] == 10 && line["digest"] == digest.to_string()));
    }
}
