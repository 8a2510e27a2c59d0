//! The largest probabilities: the same bits as softmax's, ties, NaN, masks, layouts.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    clippy::unwrap_used,
    reason = "test data is rounded as it may be; exact results are compared exactly"
)]

mod common;

use std::cmp::Ordering;

use common::{Random, levels};
use fastsoftmax::{Error, Level, Options, TopK, log_softmax, softmax, top_k};
use half::f16;
use ndarray::{Array1, Array2, Array3, ShapeBuilder, array, s};

/// Sorts a whole row.
fn reference(x: &[f32], k: usize) -> Vec<i64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| match (x[*a].is_nan(), x[*b].is_nan()) {
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        _ => x[*b].partial_cmp(&x[*a]).unwrap_or(Ordering::Equal).then(a.cmp(b)),
    });
    order[..k].iter().map(|index| index.cast_signed() as i64).collect()
}

fn check(x: &Array2<f32>, k: usize, options: &Options<'_>, name: &str) {
    for log in [false, true] {
        let top = top_k(x, k, -1, log, options).unwrap();
        let all = if log { log_softmax(x, -1, options) } else { softmax(x, -1, options) }.unwrap();
        for (row, logits) in x.rows().into_iter().enumerate() {
            let expected = reference(&logits.to_vec(), k);
            assert_eq!(top.indices.row(row).to_vec(), expected, "{name} k {k} row {row}");
            for (value, index) in top.values.row(row).iter().zip(&expected) {
                let same = all[[row, *index as usize]];
                assert!(
                    value.to_bits() == same.to_bits() || (value.is_nan() && same.is_nan()),
                    "{name} k {k} log {log} row {row} index {index}: {value} is not {same}"
                );
            }
        }
    }
}

fn logits(rows: usize, len: usize) -> Array2<f32> {
    let mut random = Random(len as u64);
    let mut x = Array2::from_shape_fn((rows, len), |_| (random.normal() * 8.0) as f32);
    for row in 0..rows {
        match row % 12 {
            1 => x[[row, len / 2]] = f32::NEG_INFINITY,
            2 => x[[row, len - 1]] = f32::NAN,
            3 => x.row_mut(row).mapv_inplace(|x| x * 10.0 + 5000.0),
            4 => x[[row, 0]] = f32::INFINITY,
            5 => x.row_mut(row).fill(f32::NEG_INFINITY),
            6 => x.row_mut(row).mapv_inplace(|x| x * 1e5),
            7 => x.row_mut(row).mapv_inplace(f32::round),
            8 => x.row_mut(row).fill(1.5),
            9 => x.row_mut(row).iter_mut().enumerate().for_each(|(i, x)| *x = i as f32 * 1e-3),
            10 => x.row_mut(row).mapv_inplace(|x| if x > 0.0 { 0.0 } else { -0.0 }),
            11 => x.row_mut(row).mapv_inplace(|x| if x > 6.0 { x } else { f32::NEG_INFINITY }),
            _ => {}
        }
    }
    x
}

#[test]
fn like_a_sort_of_the_whole_row() {
    for len in [1, 2, 7, 33, 100, 128, 1000, 1025, 5000] {
        let x = logits(24, len);
        let mut many = vec![0, 1, 2, 5, 8, 9, 16, 32, 33, 50, 64, 65, 200, len / 2, len - 1, len];
        many.retain(|k| *k <= len);
        for level in levels() {
            for k in &many {
                check(&x, *k, &Options::new().level(level), level.name());
            }
        }
    }
}

#[test]
fn long_rows() {
    for len in [70_000, 200_000, 300_001] {
        let x = logits(13, len).slice(s![..;3, ..]).to_owned();
        for threads in [1, 2] {
            for k in [1, 5, 50, 3000] {
                check(&x, k, &Options::new().threads(threads), "long");
            }
        }
    }
}

fn bits(top: &TopK<f32, ndarray::Ix2>) -> (Vec<u32>, Vec<i64>) {
    (top.values.iter().map(|x| x.to_bits()).collect(), top.indices.iter().copied().collect())
}

#[test]
fn same_bits_over_levels_threads_and_layouts() {
    for (rows, len, k) in
        [(40, 1, 1), (37, 3, 2), (300, 10, 3), (33, 1000, 40), (20, 1025, 7), (5, 70_000, 5), (2, 300_000, 5)]
    {
        let x = logits(rows, len);
        let base = Options::new().level(Level::Portable).threads(1);
        let expected = bits(&top_k(&x, k, -1, false, &base).unwrap());
        for level in levels() {
            for threads in [1, 2, 7] {
                let options = Options::new().level(level).threads(threads);
                let name = format!("{} threads {threads} {rows} x {len}", level.name());
                assert!(bits(&top_k(&x, k, 1, false, &options).unwrap()) == expected, "{name}");
                let columns = x.t().as_standard_layout().into_owned();
                let top = top_k(&columns, k, 0, false, &options).unwrap();
                assert_eq!(top.values.shape(), [k, rows]);
                let turned = TopK {
                    values: top.values.t().as_standard_layout().into_owned(),
                    indices: top.indices.t().as_standard_layout().into_owned(),
                };
                assert!(bits(&turned) == expected, "axis 0 {name}");
                let mut fortran = Array2::zeros((rows, len).f());
                fortran.assign(&x);
                assert!(bits(&top_k(&fortran, k, -1, false, &options).unwrap()) == expected, "fortran {name}");
                let mut wide = Array2::from_elem((rows, 2 * len), f32::NAN);
                wide.slice_mut(s![.., ..;-2]).assign(&x);
                let top = top_k(&wide.slice(s![.., ..;-2]), k, -1, false, &options).unwrap();
                assert!(bits(&top) == expected, "strided {name}");
            }
        }
    }
}

#[test]
fn ties_zeros_and_nan() {
    for level in levels() {
        let options = Options::new().level(level);
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let of = |x: Array1<f32>, k| top_k(&x, k, 0, false, &options).unwrap();
        assert_eq!(of(array![1.0, 2.0, 2.0, 1.0], 4).indices, array![1, 2, 0, 3]);
        assert_eq!(of(array![-0.0, 0.0, -0.0], 3).indices, array![0, 1, 2]);
        let top = of(array![1.0, nan, 3.0, nan, inf], 4);
        assert_eq!(top.indices, array![1, 3, 4, 2]);
        assert!(top.values.iter().all(|value| value.is_nan()));
        let top = of(array![-inf, 1.0, -inf, -inf], 3);
        assert_eq!((top.indices, top.values), (array![1, 0, 2], array![1.0, 0.0, 0.0]));
        assert!(of(array![-inf, -inf], 1).values[0].is_nan());
        assert_eq!(of(array![1.0, 2.0], 0).values.len(), 0);
        assert_eq!(of(array![], 0).values.len(), 0);
        let mut many = Array1::from_elem(3000, 0.0f32);
        many[10] = nan;
        many[2900] = nan;
        assert_eq!(of(many.clone(), 3).indices, array![10, 2900, 0]);
        assert_eq!(of(many, 40).indices.slice(s![..3]), array![10, 2900, 0]);
    }
}

#[test]
fn more_than_there_are() {
    let error = top_k(&Array2::<f32>::zeros((2, 3)), 4, 1, false, &Options::new()).unwrap_err();
    let Error::Value(message) = error else { panic!("{error:?}") };
    assert!(message.contains("k is 4") && message.contains("length 3"), "{message}");
    let error = top_k(&Array2::<f32>::zeros((2, 3)), 1, 2, false, &Options::new()).unwrap_err();
    assert_eq!(error, Error::Axis { axis: 2, ndim: 2 });
}

#[test]
fn masks_come_last() {
    let x = logits(48, 700);
    let mut random = Random(5);
    let mask = Array2::from_shape_fn(x.raw_dim(), |(row, _)| row != 7 && random.uniform() < 0.02);
    let mut plain = x.clone();
    let mut spoiled = x.clone();
    for ((plain, spoiled), kept) in plain.iter_mut().zip(spoiled.iter_mut()).zip(&mask) {
        if !kept {
            *plain = f32::NEG_INFINITY;
            *spoiled = f32::NAN;
        }
    }
    for level in levels() {
        let options = Options::new().level(level).keep(&mask);
        for (k, log) in [(1, false), (5, true), (30, false), (200, true)] {
            let top = top_k(&spoiled, k, 1, log, &options).unwrap();
            let all = if log { log_softmax(&spoiled, 1, &options) } else { softmax(&spoiled, 1, &options) }.unwrap();
            for row in 0..48 {
                let expected = reference(&plain.row(row).to_vec(), k);
                assert_eq!(top.indices.row(row).to_vec(), expected, "row {row}");
                for (value, index) in top.values.row(row).iter().zip(&expected) {
                    let same = all[[row, *index as usize]];
                    assert!(value.to_bits() == same.to_bits() || (value.is_nan() && same.is_nan()), "row {row}");
                }
            }
            let vacant = if log { f32::NEG_INFINITY } else { 0.0 };
            assert!(top.values.row(7).iter().all(|value| *value == vacant));
        }
    }
}

#[test]
fn middle_axis_temperatures_and_half_precision() {
    let mut random = Random(3);
    let x = Array3::from_shape_fn((3, 90, 21), |_| random.normal() * 5.0);
    let temperatures = Array3::from_shape_fn((3, 1, 21), |(i, _, k)| 0.3 + (i * 21 + k) as f64 / 30.0);
    let options = Options::new().temperatures(&temperatures);
    let top = top_k(&x, 4, -2, false, &options).unwrap();
    let all = softmax(&x, 1, &options).unwrap();
    assert_eq!(top.values.shape(), [3, 4, 21]);
    for ((i, j, k), value) in top.values.indexed_iter() {
        assert_eq!(*value, all[[i, top.indices[[i, j, k]] as usize, k]]);
    }
    let narrow = x.mapv(f16::from_f64);
    let top = top_k(&narrow, 4, 1, true, &options).unwrap();
    let all = log_softmax(&narrow, 1, &options).unwrap();
    for ((i, j, k), value) in top.values.indexed_iter() {
        assert_eq!(*value, all[[i, top.indices[[i, j, k]] as usize, k]]);
    }
}

#[test]
fn an_interrupt_stops() {
    let one = Array2::<f32>::zeros((1, 1000));
    let x = one.broadcast((200_000, 1000)).unwrap();
    let stop = || true;
    let got = top_k(&x, 3, 1, false, &Options::new().interrupt(&stop).threads(2));
    assert_eq!(got.unwrap_err(), Error::Interrupted);
}
