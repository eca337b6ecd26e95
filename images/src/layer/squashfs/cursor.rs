//! A place in a table, which moves on over the ends of blocks.

use std::rc::Rc;

use super::blocks::{Blocks, TableBlock};
use super::wrong;
use crate::layer::packed::Stop;

/// Reads a table from a place on.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    block: Rc<TableBlock>,
    position: usize,
}

impl Cursor {
    /// Goes to `offset` in the unpacked block that begins at byte `block` of the file.
    pub(super) fn new(blocks: &mut Blocks<'_>, block: u64, offset: u16) -> Result<Cursor, Stop> {
        let block = blocks.table(block)?;
        let position = usize::from(offset);
        if position > block.bytes.len() {
            return Err(wrong("it refers to a place beyond the end of a block".to_owned()));
        }
        Ok(Cursor { block, position })
    }

    /// As `new`, by a reference: block relative to `table` and offset in one number.
    pub(super) fn at(blocks: &mut Blocks<'_>, table: u64, reference: u64) -> Result<Cursor, Stop> {
        let offset = u16::try_from(reference & 0xffff).expect("16 bits fit in 16 bits");
        Cursor::new(blocks, table.saturating_add(reference >> 16), offset)
    }

    /// Takes the next bytes.
    pub(super) fn take<const N: usize>(
        &mut self,
        blocks: &mut Blocks<'_>,
    ) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.fill(blocks, &mut bytes)?;
        Ok(bytes)
    }

    /// Takes a name or a value of `count` bytes, which the caller has bounded.
    pub(super) fn bytes(&mut self, blocks: &mut Blocks<'_>, count: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; count];
        self.fill(blocks, &mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self, blocks: &mut Blocks<'_>) -> Result<u16, Stop> {
        self.take(blocks).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, blocks: &mut Blocks<'_>) -> Result<u32, Stop> {
        self.take(blocks).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, blocks: &mut Blocks<'_>) -> Result<u64, Stop> {
        self.take(blocks).map(u64::from_le_bytes)
    }

    fn fill(&mut self, blocks: &mut Blocks<'_>, mut target: &mut [u8]) -> Result<(), Stop> {
        while !target.is_empty() {
            if self.position == self.block.bytes.len() {
                self.block = blocks.table(self.block.next)?;
                self.position = 0;
            }
            let ready = &self.block.bytes[self.position..];
            let count = ready.len().min(target.len());
            target[..count].copy_from_slice(&ready[..count]);
            self.position += count;
            target = &mut target[count..];
        }
        Ok(())
    }
}
