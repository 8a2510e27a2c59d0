//! A stream of rows against the same rows one by one: every alignment, rows that need each mode, rows of NaN between.

use std::marker::PhantomData;

use super::overlap::{FoldAndWrite, keeps, largest_of_next};
use super::{Row, Stream, WriteNext, WriteRows};
use crate::kernel::ahead::Ahead;
use crate::kernel::fold::{Fold, fold_row};
use crate::kernel::kept::{self, Keep, Kept, P};
use crate::kernel::log_row::{LogSum, Logits};
use crate::kernel::row::{Inputs, Quotient, Results, Store, Write};
use crate::kernel::{Real, Temperature};
use crate::simd::{Kernel, Level, Simd, dispatch};

const STORES: [Store; 2] = [Store::Cached, Store::Streaming];

/// Rows of `len` logits, written both ways.
struct Both<'a, T> {
    x: &'a [T],
    len: usize,
    keep: bool,
    store: Store,
    streamed: &'a mut [T],
    expected: &'a mut [T],
}

impl<T: Real> Kernel for Both<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { x, len, keep, store, streamed, expected } = self;
        let temperatures = [Temperature::<T>::new(1.0), Temperature::new(0.7)];
        let rows = x.len() / len;
        let mut memory = vec![vec![T::ZERO; if keep { kept::room::<T>(P, len, 1) } else { 0 }]; rows];
        let mut results = Vec::new();
        for (row, x) in x.chunks_exact(len).enumerate() {
            let temperature = &temperatures[row % 2];
            let keep = Keep::within(&mut memory[row], len, 1);
            let fold: Fold<T> = fold_row::<S, T>(token, x, keep, temperature, Ahead::NONE);
            results.push(Quotient::new(&fold));
        }
        let stream = &mut Stream::new(x, streamed, store);
        let row_of = |row: usize| Row { temperature: &temperatures[row % 2], results: &results[row] };
        for (row, (x, out)) in x.chunks_exact(len).zip(expected.chunks_exact_mut(len)).enumerate() {
            let kept = Kept::within(&memory[row], len, 1);
            let Row { temperature, results } = row_of(row);
            let (start, results) = (row * len, std::slice::from_ref(results));
            let ahead = Ahead::NONE;
            token.call(WriteRows { stream: &mut *stream, start, len, kept, temperature, results, ahead });

            // Whether they are kept or not makes no difference.
            let inputs = Inputs { x, kept: Kept::NOTHING };
            let Row { temperature, results } = row_of(row);
            token.call(Write { inputs, out, temperature, results });
        }
        token.fence();
    }
}

/// Numbers from 0 to 1.
fn random() -> impl FnMut() -> f64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from((state >> 40) as u32) / f64::from(1u32 << 24)
    }
}

fn check<T: Real + Into<f64>>(of_f64: fn(f64) -> T) {
    let mut random = random();
    for level in Level::available() {
        for len in [T::LANES, T::LANES + 1, 31, 33, 64, 100, 1000, 1025] {
            let rows = 9;
            let mut x: Vec<T> = (0..rows * len).map(|_| of_f64(random() * 8.0 - 4.0)).collect();
            // Terms that vanish, a base, and rows of NaN: first, in the middle, two in a row, and last.
            x[len] = of_f64(-1e4);
            x[2 * len] = of_f64(1e5);
            for row in [0, 4, 5, rows - 1] {
                x[row * len + len / 2] = T::NAN;
            }
            for offset in 0..T::LANES {
                for (keep, store) in [false, true].into_iter().flat_map(|keep| STORES.map(|store| (keep, store))) {
                    let mut streamed = vec![of_f64(7.0); offset + x.len() + 1];
                    let mut expected = vec![of_f64(7.0); x.len()];
                    let out = &mut streamed[offset..offset + x.len()];
                    dispatch(level, Both { x: &x, len, keep, store, streamed: out, expected: &mut expected });
                    let bits = |values: &[T]| -> Vec<u64> { values.iter().map(|x| (*x).into().to_bits()).collect() };
                    let around = 7.0f64.to_bits();
                    let name = format!("{} rows of {len}, {offset} on, kept: {keep}, {store:?}", level.name());
                    assert!(bits(&streamed[offset..offset + x.len()]) == bits(&expected), "{name}");
                    assert!(streamed[..offset].iter().all(|x| (*x).into().to_bits() == around), "before, {name}");
                    assert!(streamed[offset + x.len()].into().to_bits() == around, "past the end, {name}");
                }
            }
        }
    }
}

/// Rows of `len` logits, each folded while the one before is written, and one by one.
struct Overlapped<'a, T, R> {
    x: &'a [T],
    len: usize,
    store: Store,
    streamed: &'a mut [T],
    expected: &'a mut [T],
    results: PhantomData<R>,
}

impl<T: Real, R: Results<T>> Kernel for Overlapped<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { x, len, store, streamed, expected, .. } = self;
        // A row with a temperature of its own is folded apart.
        let temperatures = [Temperature::<T>::new(1.0), Temperature::new(1.0), Temperature::new(0.7)];
        let temperature = |row: usize| &temperatures[row % 3];
        let stream = &mut Stream::new(x, streamed, store);
        let what = keeps::<T, R>(len, store);
        let (kept, keep) =
            &mut (vec![T::ZERO; kept::room::<T>(what, len, 1)], vec![T::ZERO; kept::room::<T>(what, len, 1)]);
        let ahead = Ahead::NONE;
        let mut results = R::NAN;
        let (mut max, mut has_terms) = (largest_of_next::<S, T>(token, x, 0, len), false);
        let rows = x.len() / len;
        for row in 0..rows {
            let next = row * len..(row + 1) * len;
            let (kept_of, keep_of) = (Kept::of_row(what, kept, len), Keep::of_row(what, keep, len));
            let before = row.saturating_sub(1);
            let written = Row { temperature: temperature(before), results: &results };
            let elements = before * len..next.start;
            let write = WriteNext { stream: &mut *stream, elements, kept: kept_of, row: written, ahead };
            let temperature = temperature(row);
            let folded =
                token.call(FoldAndWrite { write, has_terms, next: next.clone(), max, keep: keep_of, temperature });
            (max, has_terms) = (folded.max, folded.has_terms);
            let expected = largest_of_next::<S, T>(token, x, next.end, len);
            assert!(max == expected, "the maximum that was found of the row after {row}");
            let copy = &|start: usize, to: &mut [T]| to.copy_from_slice(&x[next.start + start..][..to.len()]);
            results = R::of(token, &folded.fold, temperature, &Logits { len, copy });
            std::mem::swap(kept, keep);
        }
        let kept = Kept::of_row(what, kept, len);
        let (start, results) = ((rows - 1) * len, std::slice::from_ref(&results));
        token.call(WriteRows { stream, start, len, kept, temperature: temperature(rows - 1), results, ahead });
        token.fence();
        for (row, (x, out)) in x.chunks_exact(len).zip(expected.chunks_exact_mut(len)).enumerate() {
            let fold: Fold<T> = fold_row::<S, T>(token, x, Keep::nothing(), temperature(row), Ahead::NONE);
            let copy = &|start: usize, to: &mut [T]| to.copy_from_slice(&x[start..][..to.len()]);
            let results = &R::of(token, &fold, temperature(row), &Logits { len, copy });
            let inputs = Inputs { x, kept: Kept::NOTHING };
            token.call(Write { inputs, out, temperature: temperature(row), results });
        }
    }
}

fn check_overlapped<T: Real + Into<f64>, R: Results<T>>(of_f64: fn(f64) -> T) {
    let mut random = random();
    for level in Level::available() {
        for len in [T::LANES, 100, 1024, 1025, 1500, 2048, 2500, 66_000] {
            let rows = if len > 10_000 { 3 } else { 14 };
            for special in [false, true] {
                let mut x: Vec<T> = (0..rows * len).map(|_| of_f64(random() * 8.0 - 4.0)).collect();
                if special && rows > 3 {
                    // Terms that vanish; a base in the last chunk; NaN, twice in a row; nothing but -inf in a chunk.
                    x[len] = of_f64(-1e4);
                    x[4 * len - 1] = of_f64(1e5);
                    x[6 * len + len / 2] = T::NAN;
                    x[7 * len] = T::NAN;
                    x[9 * len..9 * len + len.min(1024)].fill(T::NEG_INFINITY);
                    x[11 * len + 3] = T::INFINITY;
                }
                for (offset, store) in [(0, 0), (1, 0), (T::LANES - 1, 0), (0, 1), (3, 1)] {
                    let store = STORES[store];
                    let mut streamed = vec![of_f64(7.0); offset + x.len() + 1];
                    let mut expected = vec![of_f64(7.0); x.len()];
                    let out = &mut streamed[offset..offset + x.len()];
                    let (expected_of, results) = (&mut expected[..], PhantomData::<R>);
                    dispatch(level, Overlapped { x: &x, len, store, streamed: out, expected: expected_of, results });
                    let bits = |values: &[T]| -> Vec<u64> { values.iter().map(|x| (*x).into().to_bits()).collect() };
                    let name = format!("{} rows of {len}, {offset} on, special: {special}, {store:?}", level.name());
                    assert!(bits(&streamed[offset..offset + x.len()]) == bits(&expected), "{name}");
                    let around = 7.0f64.to_bits();
                    assert!(streamed[..offset].iter().all(|x| (*x).into().to_bits() == around), "before, {name}");
                    assert!(streamed[offset + x.len()].into().to_bits() == around, "past the end, {name}");
                }
            }
        }
    }
}

#[test]
fn overlapped_rows_like_rows_one_by_one() {
    #[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
    let narrow = |value| value as f32;
    check_overlapped::<f32, Quotient<f32>>(narrow);
    check_overlapped::<f64, Quotient<f64>>(|value| value);
    check_overlapped::<f32, LogSum<f32>>(narrow);
    check_overlapped::<f64, LogSum<f64>>(|value| value);
}

#[test]
fn like_rows_one_by_one() {
    #[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
    check::<f32>(|value| value as f32);
    check::<f64>(|value| value);
}
