//! Which memory is asked for before it is needed.
//!
//! A row is read twice, and between the two its results' way to memory is idle: first only reading, then only
//! writing. So that memory has both to do all the time, the logits of later rows are asked for through both reads, at
//! half the pace:
//!
//! ```text
//! row i         fold ........................  write ........................
//! asked for     second half of row i + 1 ....  first half of row i + 2 ......      (and MARGIN elements further on)
//! ```
//!
//! Rows that are copied first are asked for where they lie, while the copy of the row before is read.

/// How far ahead of the present element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    /// (What lies elsewhere may lie before it: this wraps around.)
    distance: usize,
    /// 1 at half the pace, else 0.
    halved: u32,
    /// Whether it is asked for into the first cache.
    near: bool,
}

/// Elements that are asked for at least ahead of the first read, so that memory has the time.
const MARGIN: usize = 1024;

impl Ahead {
    /// Of nothing.
    pub(crate) const NONE: Self = Self { distance: 0, halved: 0, near: false };
    /// Of logits that are read once, by way of the second cache ([`crate::simd::Simd::prefetch`]): twice as far as short
    /// rows are folded together.
    pub(crate) const ONCE: Self = Self { distance: 8 * MARGIN, halved: 0, near: false };
    /// Of short rows, whose results go through the caches, too.
    pub(crate) const SHORT: Self = Self { distance: 2 * MARGIN, halved: 0, near: true };

    /// Of the first read of `len` elements that will be read twice, and of others after them.
    #[inline(always)]
    pub(crate) fn first(len: usize) -> Self {
        Self { distance: len / 2 + MARGIN, halved: 1, near: true }
    }

    /// Of the second read.
    #[inline(always)]
    pub(crate) fn second(len: usize) -> Self {
        Self { distance: len + MARGIN, halved: 1, near: true }
    }

    /// Of `next`, which lies elsewhere, while a copy of other logits, `here`, is worked on: all of it, or a half in each of
    /// two reads.
    #[inline(always)]
    pub(crate) fn elsewhere<T>(next: &[T], here: &[T], halved: bool) -> Self {
        let bytes = next.as_ptr().addr().wrapping_sub(here.as_ptr().addr()).cast_signed();
        let distance = (bytes / size_of::<T>().cast_signed()).cast_unsigned();
        Self { distance, halved: u32::from(halved), near: false }
    }

    /// The same, seen from an element further on.
    #[inline(always)]
    pub(crate) fn from(self, element: usize) -> Self {
        Self { distance: self.index(element).wrapping_sub(element), ..self }
    }

    /// Whether it is asked for into the first cache: there is not much of it, and the second is busy with results.
    #[inline(always)]
    pub(crate) fn is_near(self) -> bool {
        self.near
    }

    /// The element to be asked for at another.
    #[inline(always)]
    pub(crate) fn index(self, element: usize) -> usize {
        self.distance.wrapping_add(element >> self.halved)
    }
}
