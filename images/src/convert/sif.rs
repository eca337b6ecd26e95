//! Writes a Singularity Image Format file: documents, then the root filesystem as a squashfs.
//!
//! Version 01, as apptainer/sif v2 reads it (`pkg/sif/sif.go`, `descriptor.go`); all numbers are
//! little-endian and packed. The same image is the same file: its UUID is zero and its times are
//! Go's zero time, as the format's own deterministic mode has it.
//!
//! `apptainer` makes the documents, and what Apptainer expects to find in the root filesystem.

mod apptainer;
mod quote;

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::squashfs::{Row, Unwritten};
use crate::layer::sif::{
    ARCHITECTURES, DEFINITION, DESCRIPTOR_BYTES, EXTRA_AT, JSON, MAGIC, OCI_CONFIG, PARTITION,
    PRIMARY_SYSTEM, SQUASHFS, VERSION,
};
pub(super) use apptainer::{Documents, prepare};

/// Makes the file a program, which hands itself to the runtime that there is.
const LAUNCH: &[u8; 32] = b"#!/usr/bin/env run-singularity\n\0";

/// Room for as many descriptors as every tool makes by default, and where they are.
const DESCRIPTORS: usize = 48;
const DESCRIPTORS_AT: usize = 4096;

/// Where objects begin.
const DATA_AT: usize = DESCRIPTORS_AT + DESCRIPTORS * DESCRIPTOR_BYTES;

/// Partitions begin at a multiple of this.
const ALIGNMENT_BYTES: usize = 4096;

/// Seconds of Go's zero time, the first of January of the year 1, before 1970.
const NO_TIME: i64 = -62_135_596_800;

/// The group that all objects are in: signing takes all of a group.
const GROUP: u32 = 0xf000_0001;

/// A file whose documents are known, and whose root filesystem is not yet.
#[derive(Debug)]
pub(super) struct Sif {
    documents: Vec<(u32, &'static str, Vec<u8>)>,
    architecture: [u8; 3],
}

impl Sif {
    /// A file for machines of `architecture`, in Go's words; one of another kind is left open.
    pub(super) fn new(documents: &Documents, architecture: Option<&str>) -> Sif {
        let code = ARCHITECTURES.iter().find(|(_, word)| Some(*word) == architecture);
        let architecture = *code.map_or(b"00\0", |(code, _)| code);
        let documents = vec![
            (DEFINITION, "", documents.definition.clone()),
            (JSON, "inspect-metadata.json", documents.inspection.clone()),
            (JSON, OCI_CONFIG, documents.oci_config.clone()),
        ];
        Sif { documents, architecture }
    }

    /// Where the root filesystem goes.
    pub(super) fn root_at(&self) -> u64 {
        self.documents_end().next_multiple_of(ALIGNMENT_BYTES) as u64
    }

    fn documents_end(&self) -> usize {
        DATA_AT + self.documents.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>()
    }

    /// Writes everything but the root filesystem, which has `root_bytes` bytes.
    pub(super) fn write(&self, file: &File, root_bytes: u64) -> Result<(), Unwritten> {
        let (used, root_at) = (self.documents.len() + 1, self.root_at());
        let mut start = Row::default();
        start.bytes(LAUNCH).bytes(MAGIC).bytes(VERSION).bytes(&self.architecture);
        // The UUID, and when the file was made and changed.
        start.bytes(&[0; 16]).i64(NO_TIME).i64(NO_TIME);
        start.u64((DESCRIPTORS - used) as u64).u64(DESCRIPTORS as u64);
        start.u64(DESCRIPTORS_AT as u64).u64((DATA_AT - DESCRIPTORS_AT) as u64);
        start.u64(DATA_AT as u64).u64(root_at + root_bytes - DATA_AT as u64);
        start.fill(DESCRIPTORS_AT);

        let mut at = DATA_AT as u64;
        let mut id = 0;
        for (kind, name, bytes) in &self.documents {
            id += 1;
            let bytes = bytes.len() as u64;
            Object { kind: *kind, id, name, at, bytes, gap: 0 }.describe(&mut start, &[]);
            at += bytes;
        }
        let mut partition = Row::default();
        partition.u32(SQUASHFS).u32(PRIMARY_SYSTEM).bytes(&self.architecture);
        let (gap, at) = (root_at - at, root_at);
        let root = Object { kind: PARTITION, id: id + 1, name: "", at, bytes: root_bytes, gap };
        root.describe(&mut start, partition.as_slice());
        start.fill(DATA_AT);

        for (_, _, bytes) in &self.documents {
            start.bytes(bytes);
        }
        start.fill(start.len().next_multiple_of(ALIGNMENT_BYTES));
        file.write_all_at(start.as_slice(), 0)
            .map_err(|source| Unwritten::Disk { call: "pwrite(2)", source })
    }
}

/// What a descriptor describes.
struct Object<'a> {
    kind: u32,
    /// From 1.
    id: u32,
    name: &'a str,
    at: u64,
    bytes: u64,
    /// Bytes between it and the object before.
    gap: u64,
}

impl Object<'_> {
    fn describe(&self, rows: &mut Row, extra: &[u8]) {
        let start = rows.len();
        rows.u32(self.kind).bytes(&[1]).u32(self.id).u32(GROUP).u32(0);
        rows.u64(self.at).u64(self.bytes).u64(self.gap + self.bytes);
        // When it was made and changed, and by which user and group, which stand for nobody.
        rows.i64(NO_TIME).i64(NO_TIME).u64(0).u64(0);
        rows.bytes(self.name.as_bytes()).fill(start + EXTRA_AT);
        rows.bytes(extra).fill(start + DESCRIPTOR_BYTES);
    }
}
