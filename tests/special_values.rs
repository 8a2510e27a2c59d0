//! What NaN, infinities, masks and empty axes do: to their own row, and to no other.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "a test fails by it, and rounds its data as it may be"
)]

mod common;

use common::{Random, levels};
use fastsoftmax::{Axis, Error, Float, Level, Options, log_softmax, softmax, softmax_in_place, softmax_into};
use ndarray::{Array1, Array2, Array3, array};

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

fn bits(values: &Array2<f32>) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn normal(rows: usize, len: usize) -> Array2<f32> {
    let mut random = Random((rows + 31 * len) as u64);
    Array2::from_shape_simple_fn((rows, len), || (random.normal() * 4.0) as f32)
}

/// A NaN at every place of rows of every length up to 4 vectors + 3, in every row of a batch.
#[test]
fn nan_makes_its_row_nan_and_no_other() {
    for level in levels() {
        let options = Options::new().level(level);
        for len in 1..=4 * 16 + 3 {
            let rows = 3;
            let x = normal(rows, len);
            let clean = softmax(&x, -1, &options).unwrap();
            for place in 0..len {
                let row = place % rows;
                let mut spoilt = x.clone();
                spoilt[[row, place]] = NAN;
                let mut expected = clean.clone();
                expected.row_mut(row).fill(NAN);
                let name = format!("{} length {len}, NaN at {place} of row {row}", level.name());

                let got = softmax(&spoilt, -1, &options).unwrap();
                assert_eq!(bits(&got), bits(&expected), "{name}");
                let columns = softmax(&spoilt.t().as_standard_layout(), 0, &options).unwrap();
                assert_eq!(bits(&columns.t().as_standard_layout().into_owned()), bits(&expected), "axis 0, {name}");
                let mut in_place = spoilt.clone();
                softmax_in_place(&mut in_place, -1, &options).unwrap();
                assert_eq!(bits(&in_place), bits(&expected), "in place, {name}");
                let log = log_softmax(&spoilt, -1, &options).unwrap();
                let whole = log.row(row).iter().all(|value| value.is_nan());
                assert!(whole && log.iter().filter(|value| value.is_nan()).count() == len, "log, {name}");
            }
        }
    }
}

#[test]
fn nan_at_every_lane_in_float64() {
    for level in levels() {
        let options = Options::new().level(level);
        for len in 1..=4 * 8 + 3 {
            let x = normal(2, len).mapv(f64::from);
            let clean = softmax(&x, -1, &options).unwrap();
            for place in 0..len {
                let mut spoilt = x.clone();
                spoilt[[0, place]] = f64::NAN;
                for (got, axis) in [
                    (softmax(&spoilt, -1, &options).unwrap(), -1),
                    (softmax(&spoilt.t().as_standard_layout(), 0, &options).unwrap().reversed_axes(), 0),
                ] {
                    let name = format!("{} axis {axis}, length {len}, NaN at {place}", level.name());
                    assert!(got.row(0).iter().all(|value| value.is_nan()), "{name}");
                    assert_eq!(got.row(1), clean.row(1), "{name}");
                }
            }
        }
    }
}

/// Long rows are cut into chunks and blocks, and many rows into tasks: a NaN in any of them counts.
#[test]
fn nan_in_long_rows_and_large_batches() {
    for level in levels() {
        for (rows, len) in [(2, 140_000), (9, 70_001), (700, 1_025), (20_000, 10), (30_000, 3)] {
            let x = normal(rows, len);
            for threads in [1, 2] {
                let options = Options::new().level(level).threads(threads);
                let clean = bits(&softmax(&x, -1, &options).unwrap());
                for place in [0, 1, len / 3, len / 2, len - 2, len - 1] {
                    let row = place % rows;
                    let mut spoilt = x.clone();
                    spoilt[[row, place]] = NAN;
                    let got = bits(&softmax(&spoilt, -1, &options).unwrap());
                    let name = format!("{} {rows} x {len}, NaN at {place} of row {row}", level.name());
                    let all_nan = got[row * len..(row + 1) * len].iter().all(|bits| f32::from_bits(*bits).is_nan());
                    assert!(all_nan, "{name}");
                    assert!(got[..row * len] == clean[..row * len], "{name}: a row before it");
                    assert!(got[(row + 1) * len..] == clean[(row + 1) * len..], "{name}: a row after it");
                }
            }
        }
    }
}

/// Row, kept places, and what `softmax` and `log_softmax` make of it: the table of the documentation.
type Entry<'a> = (&'a [f32], &'a [bool], &'a [f32], &'a [f32]);

const TABLE: &[Entry<'_>] = &[
    (&[1.0, NAN, 1.0], &[true; 3], &[NAN; 3], &[NAN; 3]),
    (&[1.0, INF, 1.0], &[true; 3], &[NAN; 3], &[NAN; 3]),
    (&[1.0, INF, -INF], &[true; 3], &[NAN; 3], &[NAN; 3]),
    (&[INF, INF], &[true; 2], &[NAN; 2], &[NAN; 2]),
    (&[-INF, -INF], &[true; 2], &[NAN; 2], &[NAN; 2]),
    (&[-INF], &[true], &[NAN], &[NAN]),
    (&[3.0], &[true], &[1.0], &[0.0]),
    (&[-INF, 5.0], &[true; 2], &[0.0, 1.0], &[-INF, 0.0]),
    (&[0.0, -0.0], &[true; 2], &[0.5; 2], &[-std::f32::consts::LN_2; 2]),
    (&[f32::MAX, f32::MAX], &[true; 2], &[0.5; 2], &[-std::f32::consts::LN_2; 2]),
    (&[f32::MIN, f32::MIN], &[true; 2], &[0.5; 2], &[-std::f32::consts::LN_2; 2]),
    (&[f32::MIN, f32::MAX], &[true; 2], &[0.0, 1.0], &[-INF, 0.0]),
    (&[20.0, 0.0], &[true; 2], &[1.0, 2.061_153_6e-9], &[-2.061_153_6e-9, -20.0]),
    (&[5000.0, 4950.0], &[true; 2], &[1.0, 1.928_749_9e-22], &[-1.928_749_8e-22, -50.0]),
    (&[-5000.0, -5050.0], &[true; 2], &[1.0, 1.928_749_9e-22], &[-1.928_749_8e-22, -50.0]),
    // What the mask leaves out harms nothing.
    (&[NAN, 5.0], &[false, true], &[0.0, 1.0], &[-INF, 0.0]),
    (&[INF, 5.0], &[false, true], &[0.0, 1.0], &[-INF, 0.0]),
    (
        &[1e30, 5.0, 5.0],
        &[false, true, true],
        &[0.0, 0.5, 0.5],
        &[-INF, -std::f32::consts::LN_2, -std::f32::consts::LN_2],
    ),
    // No place kept.
    (&[NAN, 5.0], &[false; 2], &[0.0; 2], &[-INF; 2]),
    (&[-INF, -INF], &[false; 2], &[0.0; 2], &[-INF; 2]),
    // Kept, but all -inf.
    (&[-INF, 5.0], &[true, false], &[NAN, 0.0], &[NAN, -INF]),
    (&[NAN, 5.0], &[true, false], &[NAN, 0.0], &[NAN, -INF]),
];

/// Zeros, infinities and NaN exactly, other values within the documented bound.
fn same(got: &Array2<f32>, expected: &[f32], name: &str) {
    let alike = |a: f32, b: f32| {
        let special = b == 0.0 || !b.is_finite();
        let apart = f64::from(a.to_bits().abs_diff(b.to_bits()));
        apart == 0.0 || (a.is_nan() && b.is_nan()) || (!special && apart <= fastsoftmax::ops::softmax::ULP)
    };
    for row in got.rows() {
        assert!(row.iter().zip(expected).all(|(&a, &b)| alike(a, b)), "{name}: {row}, not {expected:?}");
    }
}

#[test]
fn table() {
    for level in levels() {
        let options = Options::new().level(level);
        for (index, (row, kept, probabilities, logs)) in TABLE.iter().enumerate() {
            for rows in [1, 2, 40] {
                let mut x = Array2::zeros((rows, row.len()));
                x.rows_mut().into_iter().for_each(|mut to| to.assign(&Array1::from(row.to_vec())));
                let mask = Array1::from(kept.to_vec());
                let masked = if kept.iter().all(|kept| *kept) { options.clone() } else { options.clone().keep(&mask) };
                let name = format!("{} entry {index} {row:?} keeping {kept:?}, {rows} rows", level.name());
                same(&softmax(&x, -1, &masked).unwrap(), probabilities, &name);
                same(&log_softmax(&x, -1, &masked).unwrap(), logs, &format!("log, {name}"));

                let column_mask = mask.clone().insert_axis(ndarray::Axis(1));
                let masked =
                    if kept.iter().all(|kept| *kept) { options.clone() } else { options.clone().keep(&column_mask) };
                let columns = x.t().as_standard_layout().into_owned();
                same(
                    &softmax(&columns, 0, &masked).unwrap().reversed_axes(),
                    probabilities,
                    &format!("axis 0, {name}"),
                );
            }
        }
    }
}

/// The same table in a float64 output, and with a mask given where it keeps all.
#[test]
fn table_in_float64() {
    for level in levels() {
        for (row, kept, probabilities, _) in TABLE {
            let x = Array1::from(row.to_vec());
            let mask = Array1::from(kept.to_vec());
            let mut out = Array1::<f64>::zeros(row.len());
            softmax_into(&x, &mut out, -1, &Options::new().level(level).keep(&mask)).unwrap();
            for (got, expected) in out.iter().zip(*probabilities) {
                let near = (got - f64::from(*expected)).abs() <= f64::from(f32::EPSILON) * f64::from(*expected);
                assert!(near || (got.is_nan() && expected.is_nan()), "{} {row:?}: {out}", level.name());
            }
        }
    }
}

fn empty<T: Float + Default + std::fmt::Debug + PartialEq>() {
    for shape in [(0, 5), (5, 0), (0, 0)] {
        for axis in [Axis::One(-1), Axis::One(0), Axis::All] {
            let x = Array2::<T>::default(shape);
            assert_eq!(softmax(&x, axis.clone(), &Options::new()).unwrap().dim(), shape);
            assert_eq!(log_softmax(&x, axis, &Options::new()).unwrap().dim(), shape);
        }
    }
}

#[test]
fn empty_axes_and_no_rows() {
    empty::<f32>();
    empty::<f64>();
    empty::<half::f16>();
}

#[test]
fn temperatures_that_are_none() {
    let x = array![1.0f32, 2.0];
    for temperature in [0.0, -0.0, -1.0, f64::INFINITY, f64::NAN] {
        let message = match softmax(&x, -1, &Options::new().temperature(temperature)) {
            Err(Error::Value(message)) => message,
            other => panic!("temperature {temperature} gave {other:?}"),
        };
        assert_eq!(temperature == 0.0, message.contains("argmax"), "{message}");
        let rows = array![[temperature]];
        let refused = softmax(&array![[1.0f32, 2.0]], -1, &Options::new().temperatures(&rows));
        assert!(matches!(refused, Err(Error::Value(_))), "temperature {temperature} of a row gave {refused:?}");
    }
    let along = array![1.0, 2.0];
    assert!(matches!(softmax(&x, -1, &Options::new().temperatures(&along)), Err(Error::Value(_))));
}

#[test]
fn axes_that_are_none() {
    let x = Array3::<f32>::zeros((2, 3, 4));
    for axis in [3, -4, isize::MAX, isize::MIN] {
        assert_eq!(softmax(&x, axis, &Options::new()), Err(Error::Axis { axis, ndim: 3 }));
    }
    let twice = Axis::Several(smallvec::smallvec![0, -3]);
    assert!(matches!(softmax(&x, twice, &Options::new()), Err(Error::Value(_))));
    let scalar = ndarray::arr0(3.0f32);
    for axis in [Axis::One(0), Axis::One(-1), Axis::All, Axis::Several(smallvec::smallvec![])] {
        assert_eq!(softmax(&scalar, axis, &Options::new()), Ok(ndarray::arr0(1.0)));
    }
    assert!(softmax(&scalar, 1, &Options::new()).is_err());
}

/// Subnormal results are kept, whatever other libraries set in the thread.
#[test]
fn subnormal_results() {
    for level in levels() {
        let x = array![0.0f32, -100.0];
        let got = softmax(&x, -1, &Options::new().level(level)).unwrap();
        assert_eq!(got, softmax(&x, -1, &Options::new().level(Level::Portable)).unwrap());
        assert!(got[1] > 0.0 && got[1] < f32::MIN_POSITIVE, "{}: {got}", level.name());
    }
}
