//! Rows abreast against the same rows one by one: every length and alignment, past the cache and through it, rows that
//! need more.
#![allow(clippy::cast_precision_loss, reason = "test data is rounded as it may be")]

use std::marker::PhantomData;

use super::{WriteAbreast, room, strips};
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::column::LANES;
use crate::kernel::fold::{Fold, fold_row};
use crate::kernel::kept::{Keep, Kept};
use crate::kernel::log_row::{LogSum, Logits};
use crate::kernel::row::{Inputs, Quotient, Results, Store, Write};
use crate::simd::{Kernel, Level, Simd, dispatch};

/// What lies around the results.
const AROUND: f32 = -7.0;

/// The same rows one by one.
struct OneByOne<'a, R> {
    x: &'a [f32],
    len: usize,
    out: &'a mut [f32],
    results: PhantomData<R>,
}

impl<R: Results<f32>> Kernel for OneByOne<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let temperature = &Temperature::new(1.0);
        let len = self.len;
        for (x, out) in self.x.chunks_exact(self.len).zip(self.out.chunks_exact_mut(self.len)) {
            let fold: Fold<f32> = fold_row::<S, f32>(token, x, Keep::nothing(), temperature, Ahead::NONE);
            let copy = |start: usize, to: &mut [f32]| to.copy_from_slice(&x[start..start + to.len()]);
            let results = &R::of(token, &fold, temperature, &Logits { len, copy: &copy });
            token.call(Write { inputs: Inputs { x, kept: Kept::NOTHING }, out, temperature, results });
        }
    }
}

/// Numbers from -1 to 1.
fn random() -> impl FnMut() -> f32 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// Rows of `len` elements, results `offset` elements after a line begins, `more` logits after the last row. Returns how many
/// rows were written; these are as one by one, and nothing around them has changed.
fn check_of<R: Results<f32>>(level: Level, x: &[f32], len: usize, more: usize, offset: usize, store: Store) -> usize {
    let size = x.len() - more;
    let mut expected = vec![0.0; size];
    let results = PhantomData::<R>;
    dispatch(level, OneByOne { x: &x[..size], len, out: &mut expected, results });
    let mut out = vec![AROUND; size + 4 * LANES];
    let first = out.as_ptr().align_offset(64) + offset;
    let temperature = &Temperature::new(1.0);
    let memory = &mut vec![f32::NAN; room::<f32>(len)][..];
    let to = &mut out[first..first + size];
    let rows = dispatch(level, WriteAbreast { x, out: to, len, temperature, store, memory, results });
    // (What a block that needs more has begun to write belongs to it, and is written again.)
    let written = first..first + rows * len;
    for (index, (have, want)) in out[written.clone()].iter().zip(&expected).enumerate() {
        assert_eq!(have.to_bits(), want.to_bits(), "{level:?} {store:?} {len} +{offset}: element {index}");
    }
    let around = out[..first].iter().chain(&out[first + size..]);
    assert!(around.into_iter().all(|value| *value == AROUND), "{level:?} {store:?} {len} +{offset}");
    rows
}

/// The same of probabilities, and of their logarithms.
fn check(level: Level, x: &[f32], len: usize, more: usize, offset: usize, store: Store) -> usize {
    let rows = check_of::<Quotient<f32>>(level, x, len, more, offset, store);
    assert_eq!(check_of::<LogSum<f32>>(level, x, len, more, offset, store), rows);
    rows
}

fn levels() -> impl Iterator<Item = Level> {
    Level::available().into_iter().filter(|level| *level != Level::Portable)
}

#[test]
fn rows_have_the_bits_that_they_have_one_by_one() {
    let mut random = random();
    for level in levels() {
        for len in (1..=70).chain([100, 130]) {
            let block = strips(len) * LANES;
            for rows in [1, 15, 16, 17, block, block + 1, 2 * block + 3, 3 * block] {
                let more = if rows % 2 == 0 { 0 } else { 5 * LANES };
                // Wide spreads, too: terms that vanish.
                let spread = [1.0, 8.0, 200.0][rows % 3];
                let x: Vec<f32> = (0..rows * len + more).map(|_| random() * spread).collect();
                let offset = (rows + len) % LANES;
                for store in [Store::Cached, Store::Streaming] {
                    assert_eq!(check(level, &x, len, more, offset, store), rows);
                }
            }
        }
    }
}

#[test]
fn rows_that_need_more_end_it() {
    let mut random = random();
    let specials = [f32::NAN, f32::INFINITY, 1e5, f32::NEG_INFINITY];
    for level in levels() {
        for len in [1, 2, 10, 16, 17, 40, 64] {
            let block = strips(len) * LANES;
            let rows = 4 * block + 5;
            for (index, special) in specials.into_iter().enumerate() {
                for at in [0, 2 * block - 1, 3 * block + 1, rows - 1] {
                    let mut x: Vec<f32> = (0..rows * len).map(|_| random()).collect();
                    if special == f32::NEG_INFINITY {
                        x[at * len..(at + 1) * len].fill(special);
                    } else {
                        x[at * len + len / 2] = special;
                    }
                    for store in [Store::Cached, Store::Streaming] {
                        assert_eq!(check(level, &x, len, 0, 3 * index, store), at / block * block);
                    }
                }
            }
        }
    }
}

#[test]
fn logits_that_vanish_need_no_more() {
    let mut random = random();
    for level in levels() {
        for len in [2, 10, 33] {
            let rows = 100;
            let mut x: Vec<f32> = (0..rows * len).map(|_| random()).collect();
            for (row, x) in x.chunks_exact_mut(len).enumerate() {
                // Results that are 0, and some in the subnormal range.
                x[row % len] = if row % 3 == 0 { f32::NEG_INFINITY } else { -80.0 - row as f32 / 3.0 };
            }
            for store in [Store::Cached, Store::Streaming] {
                assert_eq!(check(level, &x, len, 0, 4, store), rows);
            }
        }
    }
}
