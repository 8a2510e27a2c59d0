//! Working memory, which every thread keeps for its next task: memory that is fresh from the system costs a page fault
//! for each page, and those take longer than the work on it.
//!
//! It begins at a line of the cache. Vectors are as long as a line, and where each lies in two, storing and loading
//! them takes twice as long.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use super::raw::Compute;
use super::reserve;
use crate::error::Result;
use crate::simd::LINE;

/// The most buffers that a thread keeps, and the most elements of one; some are before its first line.
const BUFFERS: usize = 8;
const ELEMENTS: usize = 512 * 1024 + LINE;

/// The buffers that a thread keeps.
pub(crate) type Kept<C> = LocalKey<RefCell<Vec<Vec<C>>>>;

/// Working memory, which its thread gets back when it is dropped.
pub(crate) struct Scratch<C: Compute> {
    values: Vec<C>,
    /// Where the first line begins, and where what was asked for ends.
    start: usize,
    end: usize,
}

/// Working memory of `count` values, whatever they are.
pub(crate) fn scratch<C: Compute>(count: usize) -> Result<Scratch<C>> {
    if count == 0 {
        return Ok(Scratch { values: Vec::new(), start: 0, end: 0 });
    }
    let room = count.saturating_add(LINE / size_of::<C>() - 1);
    let kept = C::kept().try_with(|kept| {
        let mut kept = kept.borrow_mut();
        // The smallest that is large enough: the others may be needed next, and each stays as long as it was.
        let fits = kept.iter().enumerate().filter(|(_, values)| values.capacity() >= room);
        let best = fits.min_by_key(|(_, values)| values.capacity()).map(|(index, _)| index);
        best.map(|index| kept.swap_remove(index))
    });
    let mut values = match kept {
        Ok(Some(values)) => values,
        _ => reserve(room)?,
    };
    let start = values.as_ptr().align_offset(LINE);
    let end = start + count;
    if values.len() < end {
        values.resize(end, C::default());
    }
    Ok(Scratch { values, start, end })
}

impl<C: Compute> Drop for Scratch<C> {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if !(1..=ELEMENTS).contains(&values.capacity()) {
            return;
        }
        // Not kept by a thread that is ending.
        let _ended = C::kept().try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() == BUFFERS {
                kept.swap_remove(0);
            }
            kept.push(values);
        });
    }
}

impl<C: Compute> Deref for Scratch<C> {
    type Target = [C];

    fn deref(&self) -> &[C] {
        &self.values[self.start..self.end]
    }
}

impl<C: Compute> DerefMut for Scratch<C> {
    fn deref_mut(&mut self) -> &mut [C] {
        &mut self.values[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_line_and_is_as_long_as_asked() {
        for count in [1, 15, 16, 17, 1000, 3, ELEMENTS + 1, 1000, 0] {
            let (few, more) = (scratch::<f32>(count).unwrap(), scratch::<f64>(count).unwrap());
            assert_eq!((few.len(), more.len()), (count, count));
            if count > 0 {
                assert_eq!((few.as_ptr().align_offset(LINE), more.as_ptr().align_offset(LINE)), (0, 0), "{count}");
            }
        }
    }
    #[test]
    fn a_small_one_leaves_the_large_ones() {
        let place = |values: &Scratch<f32>| values.as_ptr();
        let (large, small) = (scratch::<f32>(5000).unwrap(), scratch::<f32>(100).unwrap());
        let places = (place(&large), place(&small));
        drop((large, small));
        let (small, large) = (scratch::<f32>(90).unwrap(), scratch::<f32>(4000).unwrap());
        assert_eq!((place(&large), place(&small)), places);
        assert_eq!((large.len(), small.len()), (4000, 90));
    }
}
