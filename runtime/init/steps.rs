//! The list of steps, read in place.

use core::ffi::CStr;

use crate::protocol::STEP_HEAD_WORDS;

/// One step.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Its place in the list, which messages name.
    pub index: u64,
    pub operation: u64,
    pub numbers: [u64; 4],
    texts: [&'a [u8]; 3],
}

impl<'a> Step<'a> {
    /// Text `at` as a string.
    pub fn string(&self, at: usize) -> &'a CStr {
        CStr::from_bytes_until_nul(self.texts[at]).unwrap_or(c"")
    }

    /// Text `at` as bytes, without the zero that ends it.
    pub fn bytes(&self, at: usize) -> &'a [u8] {
        self.texts[at].split_last().map_or(&[], |(_, bytes)| bytes)
    }
}

/// Reads steps one after the other.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    rest: &'a [u8],
    index: u64,
}

impl<'a> Steps<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Steps { rest: bytes, index: 0 }
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let mut head = [0_u64; STEP_HEAD_WORDS];
        let (words, _) = self.rest.split_at_checked(STEP_HEAD_WORDS * 8)?;
        for (word, eight) in head.iter_mut().zip(words.chunks_exact(8)) {
            *word = u64::from_le_bytes([
                eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7],
            ]);
        }
        let (whole, rest) = self.rest.split_at_checked(head[1] as usize)?;
        let mut texts = whole.get(STEP_HEAD_WORDS * 8..)?;
        let mut step = Step {
            index: self.index,
            operation: head[0],
            numbers: [head[2], head[3], head[4], head[5]],
            texts: [&[]; 3],
        };
        for (text, bytes) in step.texts.iter_mut().zip(&head[6..]) {
            (*text, texts) = texts.split_at_checked(*bytes as usize)?;
        }
        self.rest = rest;
        self.index += 1;
        Some(step)
    }
}
