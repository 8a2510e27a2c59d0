//! A row has the same bits at every level, for every number of threads, in every layout.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::unwrap_used,
    reason = "test data is rounded as it may be, and a test fails by what it unwraps"
)]

mod common;

use common::{Random, levels};
use fastsoftmax::{
    Float, Level, Options, entropy, log_softmax, log_softmax_in_place, logsumexp, softmax, softmax_in_place,
    softmax_into, top_k,
};
use ndarray::{Array2, ShapeBuilder, s};

fn logits(rows: usize, len: usize, seed: u64) -> Array2<f64> {
    let mut random = Random(seed);
    let mut x = Array2::from_shape_fn((rows, len), |_| random.normal() * 8.0);
    for row in 0..rows {
        match row % 9 {
            1 => x[[row, len / 2]] = f64::NEG_INFINITY,
            2 => x[[row, len - 1]] = f64::NAN,
            3 => x.row_mut(row).mapv_inplace(|x| x * 10.0 + 5000.0),
            4 => x[[row, 0]] = f64::INFINITY,
            5 => x.row_mut(row).fill(f64::NEG_INFINITY),
            6 => x.row_mut(row).mapv_inplace(|x| x * 1e5),
            7 => x[[row, len / 3]] = -1e30,
            _ => {}
        }
    }
    x
}

fn bits<T: Float + Into<f64>>(x: &Array2<T>) -> Vec<u64> {
    x.iter().map(|x| (*x).into().to_bits()).collect()
}

#[test]
fn float32_over_levels_threads_and_layouts() {
    let lengths = [
        (64, 1),
        (64, 2),
        (64, 3),
        (300, 10),
        (64, 15),
        (64, 16),
        (64, 17),
        (100, 64),
        (300, 40),
        (200, 64),
        (50, 100),
        (33, 1000),
        (20, 1025),
        (9, 70_000),
        (5, 140_000),
    ];
    check(&lengths, |value| value as f32);
}

#[test]
fn float64_over_levels_threads_and_layouts() {
    check(&[(64, 3), (64, 7), (64, 8), (64, 9), (100, 64), (50, 100), (20, 1025), (9, 70_000)], |value| value);
}

fn check<T: Float + Default + Into<f64>>(lengths: &[(usize, usize)], of: impl Fn(f64) -> T) {
    for &(rows, len) in lengths {
        let x = logits(rows, len, len as u64).mapv(&of);
        let expected = bits(&softmax(&x, -1, &Options::new().level(Level::Portable).threads(1)).unwrap());
        let logs = bits(&log_softmax(&x, -1, &Options::new().level(Level::Portable).threads(1)).unwrap());
        for level in levels() {
            for threads in [1, 2, 7] {
                let options = Options::new().level(level).threads(threads);
                let name = format!("{} threads {threads} {rows} x {len}", level.name());
                assert!(bits(&softmax(&x, -1, &options).unwrap()) == expected, "{name}");

                let mut in_place = x.clone();
                softmax_in_place(&mut in_place, -1, &options).unwrap();
                assert!(bits(&in_place) == expected, "in place {name}");
                let mut in_place = x.clone();
                log_softmax_in_place(&mut in_place, -1, &options).unwrap();
                assert!(bits(&in_place) == logs, "logarithms in place {name}");

                // The same rows as columns, and as columns of a Fortran array.
                let columns = x.t().as_standard_layout().into_owned();
                let got = softmax(&columns, 0, &options).unwrap();
                assert!(bits(&got.t().as_standard_layout().into_owned()) == expected, "axis 0 {name}");
                let mut fortran = Array2::<T>::default((rows, len).f());
                softmax_into(&x, &mut fortran, -1, &options).unwrap();
                assert!(bits(&fortran.as_standard_layout().into_owned()) == expected, "into fortran {name}");

                // Every other element of a larger array, backwards.
                let mut wide = Array2::from_elem((rows, 2 * len), of(f64::NAN));
                wide.slice_mut(s![.., ..;-2]).assign(&x);
                let mut out = Array2::<T>::default((rows, len));
                softmax_into(&wide.slice(s![.., ..;-2]), &mut out, -1, &options).unwrap();
                assert!(bits(&out) == expected, "strided {name}");

                // One row at a time.
                for row in (0..rows).step_by(7) {
                    let (one, row_of) = (x.slice(s![row..=row, ..]).to_owned(), row * len..(row + 1) * len);
                    let alone = bits(&softmax(&one, -1, &options).unwrap());
                    assert!(alone == expected[row_of.clone()], "row {row} alone {name}");
                    let alone = bits(&log_softmax(&one, -1, &options).unwrap());
                    assert!(alone == logs[row_of], "logarithms of row {row} alone {name}");
                }
            }
        }
    }
}

/// Calls too small for a second thread, which one after the other get its help.
#[test]
fn small_calls_in_a_series() {
    for (rows, len, axis) in [(64, 1000, -1), (8, 4096, -1), (4, 8192, -1), (2000, 10, -1), (50, 1000, 0)] {
        let x = logits(rows, len, 4).mapv(|value| value as f32);
        for level in levels() {
            let call = |threads| {
                let options = Options::new().level(level).threads(threads);
                let top = top_k(&x, 3, axis, false, &options).unwrap();
                let results = [
                    softmax(&x, axis, &options).unwrap().into_dyn(),
                    log_softmax(&x, axis, &options).unwrap().into_dyn(),
                    logsumexp(&x, axis, &options).unwrap(),
                    entropy(&x, axis, &options).unwrap(),
                    top.values.into_dyn(),
                ];
                let bits = results.map(|result| result.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                (bits, top.indices)
            };
            let expected = call(1);
            for index in 0..20 {
                assert!(call(2) == expected, "{} {rows} x {len}, axis {axis}, call {index}", level.name());
            }
        }
    }
}
