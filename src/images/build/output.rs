//! What is seen of a build while it goes on: steps, and what they print.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use ric_images::{Event, LayerDescriptor};
use serde_json::{Value, json};

use crate::failure::printable;

/// How much of a failed step's output is told again.
const TAIL_BYTES: usize = 4 << 10;

/// How a build is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Lines for people, on standard error.
    Text,
    /// One JSON object a line, on standard output.
    Json,
}

impl Telling {
    /// Tells how the build gets on. What cannot be told does not stop a build.
    pub(crate) fn event(self, event: &Event<'_>) {
        match self {
            Telling::Text => {
                let _ = io::stderr().lock().write_all(text(event).as_bytes());
            }
            Telling::Json => self.line(&object(event)),
        }
    }

    /// Says something that is worth knowing.
    pub(crate) fn note(self, note: &str) {
        match self {
            Telling::Text => {
                let _ = writeln!(io::stderr().lock(), "note: {}", printable(note));
            }
            Telling::Json => self.line(&json!({"event": "note", "text": note})),
        }
    }

    fn line(self, object: &Value) {
        let _ = writeln!(io::stdout().lock(), "{object}");
    }
}

fn text(event: &Event<'_>) -> String {
    match event {
        Event::Stage { name: Some(name), base } => format!("stage {name}, from {base}\n"),
        Event::Stage { name: None, base } => format!("from {base}\n"),
        Event::Step { number, count, step } => {
            format!("[{number}/{count}] {}\n", printable(&step.text))
        }
        Event::Cached { .. } => "  as built before\n".to_owned(),
        Event::Made { layer } => {
            format!("  made {}\n", indicatif::HumanBytes(layer.blob_bytes))
        }
    }
}

fn object(event: &Event<'_>) -> Value {
    let made = |cached: bool, layer: &LayerDescriptor| {
        json!({"event": "layer", "cached": cached, "digest": layer.digest,
               "diff_id": layer.diff_id, "size_bytes": layer.blob_bytes})
    };
    match event {
        Event::Stage { name, base } => json!({"event": "stage", "name": name, "base": base}),
        Event::Step { number, count, step } => json!({
            "event": "step", "number": number, "count": count, "line": step.line, "text": step.text,
        }),
        Event::Cached { layer } => made(true, layer),
        Event::Made { layer } => made(false, layer),
    }
}

/// A pipe that a step prints to: passed on as it comes, and its end remembered.
#[derive(Debug)]
pub(super) struct Output {
    pipe: OwnedFd,
    reader: JoinHandle<Vec<u8>>,
}

impl Output {
    pub(super) fn open(telling: Telling) -> io::Result<Output> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let reader = std::thread::Builder::new().spawn(move || pass_on(read.into(), telling))?;
        Ok(Output { pipe: write, reader })
    }

    /// Waits until all that was printed has been passed on: the end of it.
    pub(super) fn end(self) -> String {
        drop(self.pipe);
        let tail = self.reader.join().unwrap_or_default();
        String::from_utf8_lossy(&tail).into_owned()
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

fn pass_on(mut pipe: File, telling: Telling) -> Vec<u8> {
    let mut tail = VecDeque::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let bytes = match pipe.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) | Ok(0) => return tail.into(),
            Ok(bytes) => &buffer[..bytes],
        };
        match telling {
            Telling::Text => {
                let _ = io::stderr().lock().write_all(bytes);
            }
            Telling::Json => {
                let text = String::from_utf8_lossy(bytes);
                telling.line(&json!({"event": "output", "text": text}));
            }
        }
        tail.extend(bytes);
        let extra = tail.len().saturating_sub(TAIL_BYTES);
        tail.drain(..extra);
    }
}
