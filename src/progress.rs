//! What is said on standard error before a verb has ended: bars while layers are fetched, where it
//! is a terminal, and lines that a user reads even if the task is killed.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ric_images::{Digest, Progress};

use crate::failure::printable;

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

/// Says a line at once. A closed standard error leaves nobody to tell.
pub(crate) fn tell(line: &str) {
    let line = format!("run-in-container: {}\n", printable(line));
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// What is left on the screen would mix with what the task prints.
impl Drop for Bars {
    fn drop(&mut self) {
        let bars = self.by_layer.get_mut().unwrap_or_else(PoisonError::into_inner);
        bars.values().for_each(ProgressBar::finish_and_clear);
    }
}
