//! Writes Singularity Image Format files, right ones and wrong ones.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

const GZIP: &[u8] = include_bytes!("../root_files/gzip.squashfs");

/// What a descriptor of a SIF is made of.
#[derive(Clone)]
pub struct Object {
    pub kind: u32,
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// File system, kind of partition and architecture.
    pub partition: Option<(u32, u32, &'static [u8; 3])>,
}

pub fn root_object(architecture: &'static [u8; 3]) -> Object {
    let partition = Some((1, 2, architecture));
    Object { kind: 0x4004, name: "root", bytes: GZIP.to_vec(), partition }
}

pub fn config_object(json: &str) -> Object {
    let bytes = json.as_bytes().to_vec();
    Object { kind: 0x4006, name: "oci-config.json", bytes, partition: None }
}

pub const HERE: &[u8; 3] = if cfg!(target_arch = "x86_64") { b"02\0" } else { b"04\0" };
pub const ELSEWHERE: &[u8; 3] = if cfg!(target_arch = "x86_64") { b"04\0" } else { b"02\0" };
pub const DESCRIPTORS: usize = 128;

/// A SIF as apptainer/sif lays it out.
pub fn sif(architecture: &[u8; 3], objects: &[Object]) -> Vec<u8> {
    let mut file = vec![0; 128 + 585 * objects.len()];
    let mut descriptors = Vec::new();
    for (id, object) in (1_u32..).zip(objects) {
        let mut descriptor = [0; 585];
        let mut put = |at: usize, bytes: &[u8]| {
            descriptor[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &object.kind.to_le_bytes());
        put(4, &[1]);
        put(5, &id.to_le_bytes());
        put(17, &(file.len() as u64).to_le_bytes());
        put(25, &(object.bytes.len() as u64).to_le_bytes());
        put(73, object.name.as_bytes());
        if let Some((system, kind, architecture)) = object.partition {
            put(201, &system.to_le_bytes());
            put(205, &kind.to_le_bytes());
            put(209, architecture);
        }
        descriptors.extend_from_slice(&descriptor);
        file.extend_from_slice(&object.bytes);
    }
    file[DESCRIPTORS..DESCRIPTORS + descriptors.len()].copy_from_slice(&descriptors);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"#!/usr/bin/env run-singularity\n");
    put(0x20, b"SIF_MAGIC\x0001\0");
    put(0x2d, architecture);
    put(0x58, &(objects.len() as u64).to_le_bytes());
    put(0x60, &(DESCRIPTORS as u64).to_le_bytes());
    put(0x68, &(descriptors.len() as u64).to_le_bytes());
    file
}
