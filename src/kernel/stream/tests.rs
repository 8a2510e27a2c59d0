//! A stream of rows against the same rows one by one: every alignment, rows that need each mode, rows of NaN between.

use super::overlap::FoldAndWrite;
use super::{Row, Stream, WriteNext};
use crate::kernel::ahead::Ahead;
use crate::kernel::fold::{Fold, fold_row};
use crate::kernel::row::{Inputs, Quotient, Write};
use crate::kernel::{Real, Temperature};
use crate::simd::{Kernel, Level, Simd, dispatch};

/// Rows of `len` logits, written both ways.
struct Both<'a, T> {
    x: &'a [T],
    len: usize,
    keep: bool,
    streamed: &'a mut [T],
    expected: &'a mut [T],
}

impl<T: Real> Kernel for Both<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { x, len, keep, streamed, expected } = self;
        let temperatures = [Temperature::<T>::new(1.0), Temperature::new(0.7)];
        let mut kept = vec![T::ZERO; if keep { x.len() } else { 0 }];
        let mut results = Vec::new();
        for (row, x) in x.chunks_exact(len).enumerate() {
            let kept = if keep { &mut kept[row * len..][..len] } else { &mut [] };
            let temperature = &temperatures[row % 2];
            let fold: Fold<T> = fold_row::<S, T>(token, x, kept, temperature, Ahead::NONE);
            results.push(Quotient::new(&fold, temperature));
        }
        let mut stream = Stream::new(x, streamed);
        let row_of = |row: usize| Row { temperature: &temperatures[row % 2], results: &results[row] };
        for (row, (x, out)) in x.chunks_exact(len).zip(expected.chunks_exact_mut(len)).enumerate() {
            let elements = row * len..(row + 1) * len;
            let kept = if keep { &kept[row * len..][..len] } else { &[] };
            let before = row.checked_sub(1).map(row_of);
            token.call(WriteNext { stream: &mut stream, elements, kept, row: row_of(row), before, ahead: Ahead::NONE });

            let inputs = Inputs { x, kept };
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
                for keep in [false, true] {
                    let mut streamed = vec![of_f64(7.0); offset + x.len() + 1];
                    let mut expected = vec![of_f64(7.0); x.len()];
                    let out = &mut streamed[offset..offset + x.len()];
                    dispatch(level, Both { x: &x, len, keep, streamed: out, expected: &mut expected });
                    let bits = |values: &[T]| -> Vec<u64> { values.iter().map(|x| (*x).into().to_bits()).collect() };
                    let around = 7.0f64.to_bits();
                    let name = format!("{} rows of {len}, {offset} on, p kept: {keep}", level.name());
                    assert!(bits(&streamed[offset..offset + x.len()]) == bits(&expected), "{name}");
                    assert!(streamed[..offset].iter().all(|x| (*x).into().to_bits() == around), "before, {name}");
                    assert!(streamed[offset + x.len()].into().to_bits() == around, "past the end, {name}");
                }
            }
        }
    }
}

/// Rows of `len` logits, each folded while the one before is written, and one by one.
struct Overlapped<'a, T> {
    x: &'a [T],
    len: usize,
    streamed: &'a mut [T],
    expected: &'a mut [T],
}

impl<T: Real> Kernel for Overlapped<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { x, len, streamed, expected } = self;
        // A row with a temperature of its own is folded apart.
        let temperatures = [Temperature::<T>::new(1.0), Temperature::new(1.0), Temperature::new(0.7)];
        let temperature = |row: usize| &temperatures[row % 3];
        let mut stream = Stream::new(x, streamed);
        let (kept, keep) = &mut (vec![T::ZERO; len], vec![T::ZERO; len]);
        let mut results: Vec<Quotient<T>> = Vec::new();
        for row in 0..=x.len() / len {
            let ahead = Ahead::NONE;
            let next = row * len..(row + 1) * len;
            let row_of = |row: usize| Row { temperature: temperature(row), results: &results[row] };
            let write = row.checked_sub(1).map(|last| WriteNext {
                stream: &mut stream,
                elements: last * len..row * len,
                kept: &kept[..],
                row: row_of(last),
                before: last.checked_sub(1).map(row_of),
                ahead,
            });
            let fold: Fold<T> = match write {
                Some(write) if row * len == x.len() => {
                    token.call(write);
                    break;
                }
                Some(write) => token.call(FoldAndWrite { write, next, keep, temperature: temperature(row) }),
                None => fold_row::<S, T>(token, &x[next], keep, temperature(row), ahead),
            };
            results.push(Quotient::new(&fold, temperature(row)));
            std::mem::swap(kept, keep);
        }
        token.fence();
        for (row, (x, out)) in x.chunks_exact(len).zip(expected.chunks_exact_mut(len)).enumerate() {
            let fold: Fold<T> = fold_row::<S, T>(token, x, &mut [], temperature(row), Ahead::NONE);
            let results = &Quotient::new(&fold, temperature(row));
            let inputs = Inputs { x, kept: &[] };
            token.call(Write { inputs, out, temperature: temperature(row), results });
        }
    }
}

fn check_overlapped<T: Real + Into<f64>>(of_f64: fn(f64) -> T) {
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
                for offset in [0, 1, T::LANES - 1] {
                    let mut streamed = vec![of_f64(7.0); offset + x.len() + 1];
                    let mut expected = vec![of_f64(7.0); x.len()];
                    let out = &mut streamed[offset..offset + x.len()];
                    dispatch(level, Overlapped { x: &x, len, streamed: out, expected: &mut expected });
                    let bits = |values: &[T]| -> Vec<u64> { values.iter().map(|x| (*x).into().to_bits()).collect() };
                    let name = format!("{} rows of {len}, {offset} on, special: {special}", level.name());
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
    check_overlapped::<f32>(|value| value as f32);
    check_overlapped::<f64>(|value| value);
}

#[test]
fn like_rows_one_by_one() {
    #[allow(clippy::cast_possible_truncation, reason = "any numbers will do")]
    check::<f32>(|value| value as f32);
    check::<f64>(|value| value);
}
