//! Packs the contents of files with all processors, and writes them in order.
//!
//! One thread reads, one for each processor packs, and this one writes. Each block takes a channel
//! of its own with it, on which it comes back; the writer waits for them in the order in which they
//! were read. So what is written does not depend on who is fast, and memory holds a few blocks.
//!
//! A file is its full blocks, then its tail in a fragment, which small files and tails share.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::pack::{Compression, Packed, Packer};
use super::{BLOCK_BYTES, Output, Unwritten, size};
use crate::convert::tree::{Content, Id, Node, Tree};

/// Blocks on their way for each processor.
const AHEAD: usize = 4;

/// Marks a block that is stored as it is (squashfs_fs.h, `SQUASHFS_COMPRESSED_BIT_BLOCK`).
const PLAIN: u32 = 1 << 24;

/// Where all contents are.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) files: HashMap<Id, Located>,
    pub(super) fragments: Vec<Fragment>,
}

/// Where the content of a file is.
#[derive(Debug, Default)]
pub(super) struct Located {
    /// Of its first block.
    pub(super) start: u64,
    /// Of its blocks, as the format writes them; 0 is a hole.
    pub(super) sizes: Vec<u32>,
    /// The fragment with its tail, and where in it.
    pub(super) tail: Option<(u32, u32)>,
    /// Bytes in holes.
    pub(super) hole_bytes: u64,
}

/// A block of tails.
#[derive(Debug)]
pub(super) struct Fragment {
    pub(super) start: u64,
    pub(super) size: u32,
}

/// What comes next in the file system.
enum Step {
    Block(Id, Receiver<Packed>),
    Hole(Id),
    Tail(Id, (u32, u32)),
    Fragment(Receiver<Packed>),
}

/// A block to be packed, and where it is waited for.
struct Job {
    block: Vec<u8>,
    done: SyncSender<Packed>,
}

/// Writes the contents of `files`, which are in `content`, to `output`.
pub(super) fn write(
    tree: &Tree,
    files: &[Id],
    content: &File,
    output: &mut Output<'_>,
    compression: Compression,
    advanced: &dyn Fn(u64),
) -> Result<Data, Unwritten> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let (to_packers, for_packers) = sync_channel::<Job>(AHEAD * processors);
    let (to_writer, for_writer) = sync_channel(AHEAD * processors);
    let for_packers = Mutex::new(for_packers);
    let failed = |source| Unwritten::Disk { call: "pthread_create(3)", source };
    thread::scope(|scope| {
        let mut packers = Vec::new();
        for _ in 0..processors {
            let mut packer = Packer::new(compression)?;
            let jobs = &for_packers;
            let pack = move || while pack_next(jobs, &mut packer).is_ok() {};
            packers.push(thread::Builder::new().spawn_scoped(scope, pack).map_err(failed)?);
        }
        let read = move || Reader::new(content, to_packers, to_writer).run(tree, files);
        let reader = thread::Builder::new().spawn_scoped(scope, read).map_err(failed)?;
        let written = write_steps(&for_writer, output, advanced);
        // A reader that waits for a writer who failed must learn of it.
        drop(for_writer);
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // What the writer met is the cause; a reader that failed first ended the steps early.
        let written = written?;
        read.map(|()| written)
    })
}

/// Packs the next block there is; an error at the end.
fn pack_next(jobs: &Mutex<Receiver<Job>>, packer: &mut Packer) -> Result<(), RecvError> {
    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv()?;
    // Nobody waits for it if the writer failed.
    let _ = job.done.send(packer.pack(job.block));
    Ok(())
}

fn write_steps(
    steps: &Receiver<Step>,
    output: &mut Output<'_>,
    advanced: &dyn Fn(u64),
) -> Result<Data, Unwritten> {
    let mut data = Data::default();
    for step in steps {
        match step {
            Step::Block(id, packed) => {
                let file = data.locate(id, output.position);
                let Ok(packed) = packed.recv() else { break };
                file.sizes.push(stored_size(&packed)?);
                output.write(&packed.bytes)?;
                advanced(BLOCK_BYTES as u64);
            }
            Step::Hole(id) => {
                let file = data.locate(id, output.position);
                file.sizes.push(0);
                file.hole_bytes += BLOCK_BYTES as u64;
                advanced(BLOCK_BYTES as u64);
            }
            Step::Tail(id, place) => data.locate(id, output.position).tail = Some(place),
            Step::Fragment(packed) => {
                let Ok(packed) = packed.recv() else { break };
                let (start, size) = (output.position, stored_size(&packed)?);
                data.fragments.push(Fragment { start, size });
                output.write(&packed.bytes)?;
                advanced(BLOCK_BYTES as u64);
            }
        }
    }
    Ok(data)
}

impl Data {
    fn locate(&mut self, id: Id, start: u64) -> &mut Located {
        self.files.entry(id).or_insert_with(|| Located { start, ..Located::default() })
    }
}

fn stored_size(packed: &Packed) -> Result<u32, Unwritten> {
    let bytes = size(packed.bytes.len())?;
    Ok(if packed.is_plain { bytes | PLAIN } else { bytes })
}

/// The thread that reads. Its channels close when it ends, and everyone else ends after it.
struct Reader<'a> {
    content: &'a File,
    packers: SyncSender<Job>,
    writer: SyncSender<Step>,
    fragment: Vec<u8>,
    fragments: u32,
}

impl<'a> Reader<'a> {
    fn new(content: &'a File, packers: SyncSender<Job>, writer: SyncSender<Step>) -> Reader<'a> {
        Reader { content, packers, writer, fragment: Vec::new(), fragments: 0 }
    }

    fn run(mut self, tree: &Tree, files: &[Id]) -> Result<(), Unwritten> {
        for id in files {
            let Node::File(content) = &tree.inodes[*id].node else { continue };
            if !self.file(*id, *content)? {
                return Ok(());
            }
        }
        self.end_fragment();
        Ok(())
    }

    /// Reads a file; says whether the writer wants more.
    fn file(&mut self, id: Id, content: Content) -> Result<bool, Unwritten> {
        let Content { mut offset, bytes } = content;
        let end = offset + bytes;
        while end - offset >= BLOCK_BYTES as u64 {
            let mut block = vec![0; BLOCK_BYTES];
            self.read(&mut block, offset)?;
            offset += BLOCK_BYTES as u64;
            let is_hole = block.iter().all(|byte| *byte == 0);
            let sent = if is_hole {
                self.writer.send(Step::Hole(id)).is_ok()
            } else {
                self.send(block, |packed| Step::Block(id, packed))
            };
            if !sent {
                return Ok(false);
            }
        }
        let tail = usize::try_from(end - offset).expect("it is less than a block");
        if tail == 0 {
            return Ok(true);
        }
        if self.fragment.len() + tail > BLOCK_BYTES && !self.end_fragment() {
            return Ok(false);
        }
        let start = self.fragment.len();
        let mut fragment = std::mem::take(&mut self.fragment);
        fragment.resize(start + tail, 0);
        self.read(&mut fragment[start..], offset)?;
        self.fragment = fragment;
        let place = (self.fragments, size(start)?);
        Ok(self.writer.send(Step::Tail(id, place)).is_ok())
    }

    fn end_fragment(&mut self) -> bool {
        let block = std::mem::take(&mut self.fragment);
        if block.is_empty() {
            return true;
        }
        self.fragments += 1;
        self.send(block, Step::Fragment)
    }

    fn send(&self, block: Vec<u8>, step: impl FnOnce(Receiver<Packed>) -> Step) -> bool {
        let (done, packed) = sync_channel(1);
        self.writer.send(step(packed)).is_ok() && self.packers.send(Job { block, done }).is_ok()
    }

    fn read(&self, target: &mut [u8], offset: u64) -> Result<(), Unwritten> {
        let read = self.content.read_exact_at(target, offset);
        read.map_err(|source| Unwritten::Disk { call: "pread(2)", source })
    }
}
