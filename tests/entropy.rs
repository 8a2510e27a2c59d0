//! Entropies: accuracy, special values, masks, layouts, the same bits.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "test data is rounded as it may be; exact results are compared exactly"
)]

mod common;

use common::{Double, Random, levels, ln_1p, ulp_f32, ulp_f64};
use fastsoftmax::ops::entropy::ULP;
use fastsoftmax::{Axis, Error, Level, Options, entropy};
use half::{bf16, f16};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis as Dim, ShapeBuilder, array, s};

/// By the definition, as log S + sum e d / S, with the maximum taken off exactly.
fn reference(x: &[f64], temperature: f64) -> Double {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let at = x.iter().position(|x| *x == max).expect("the maximum is an element");
    let (mut others, mut weighted) = (Double::of(0.0), Double::of(0.0));
    for (index, x) in x.iter().enumerate() {
        if index != at && *x > f64::NEG_INFINITY {
            let distance = (Double::of(max) - Double::of(*x)).over(Double::of(temperature));
            let term = (Double::of(0.0) - distance).exp();
            others = others + term;
            weighted = weighted + if term.0 == 0.0 { term } else { term * distance };
        }
    }
    ln_1p(others) + weighted.over(others + Double::of(1.0))
}

struct Case {
    name: String,
    logits: Vec<f64>,
    temperature: f64,
}

fn cases() -> Vec<Case> {
    let mut random = Random(1);
    let mut cases = Vec::new();
    let mut case = |name: String, temperature: f64, logits: Vec<f64>| {
        cases.push(Case { name, logits, temperature });
    };
    for len in [1, 2, 3, 10, 64, 100, 1_000, 1_025, 5_000] {
        for repeat in 0..4 {
            for spread in [0.01, 1.0, 4.0, 8.0, 30.0, 100.0] {
                for offset in [0.0, 1_000.0, -300.0, 1e6] {
                    let logits = (0..len).map(|_| random.normal() * spread + offset).collect();
                    case(format!("normal {repeat} len {len} spread {spread} offset {offset}"), 1.0, logits);
                }
            }
            for temperature in [1e-30, 1e-3, 0.1, 0.7, 1.7, 1e3, 1e20] {
                let logits = (0..len).map(|_| random.normal() * 8.0 * temperature).collect();
                case(format!("temperature {temperature} {repeat} len {len}"), temperature, logits);
            }
        }
        case(format!("equal len {len}"), 1.0, vec![0.3; len]);
        for below in [0.5, 1.0, 3.0, 5.7, 16.7, 30.3, 60.1, 80.3] {
            let mut logits = vec![0.7 - below; len];
            logits[len / 2] = 0.7;
            case(format!("dominant by {below} len {len}"), 1.0, logits.clone());
            logits[len - 1] = 0.7;
            case(format!("two by {below} len {len}"), 1.0, logits);
        }
        case(format!("subnormal len {len}"), 1.0, (0..len).map(|i| -(i as f64) * 110.0 / len as f64).collect());
        case(format!("huge len {len}"), 1.0, (0..len).map(|i| 1e30 * (i % 7) as f64).collect());
        case(format!("low len {len}"), 1.0, (0..len).map(|i| -5000.0 - (i % 70) as f64).collect());
        case(format!("rising len {len}"), 1.0, (0..len).map(|i| i as f64 * 40.0 / len as f64).collect());
        case(format!("log-probabilities len {len}"), 1.0, (0..len).map(|i| -((i + 2) as f64).ln()).collect());
    }
    cases
}

#[test]
fn accuracy_in_float32_and_float64() {
    let mut largest = [(0.0f64, String::new()), (0.0, String::new())];
    let mut total = [0.0; 2];
    let cases = cases();
    for case in &cases {
        let narrow: Array1<f32> = case.logits.iter().map(|x| *x as f32).collect();
        let wide: Array1<f64> = case.logits.iter().copied().collect();
        let exact = [
            reference(&narrow.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), case.temperature),
            reference(&case.logits, case.temperature),
        ];
        for level in levels() {
            let options = Options::new().temperature(case.temperature).level(level);
            let results =
                [f64::from(entropy(&narrow, -1, &options).unwrap()[[]]), entropy(&wide, -1, &options).unwrap()[[]]];
            let errors = [ulp_f32(results[0] as f32, exact[0]), ulp_f64(results[1], exact[1])];
            for i in 0..2 {
                assert!(
                    errors[i] <= ULP,
                    "{} {} float{}: {} for {:?}, {} ULP",
                    case.name,
                    level.name(),
                    32 << i,
                    results[i],
                    exact[i],
                    errors[i]
                );
                if errors[i] > largest[i].0 {
                    largest[i] = (errors[i], case.name.clone());
                }
                total[i] += errors[i];
            }
        }
    }
    let count = (cases.len() * levels().len()) as f64;
    println!("largest {largest:?} mean {} {}", total[0] / count, total[1] / count);
}

#[test]
fn special_values() {
    for level in levels() {
        let options = Options::new().level(level);
        let of = |x: Array1<f32>| entropy(&x, -1, &options).unwrap()[[]];
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        assert_eq!(of(array![-inf, 0.0, -inf, 0.0]), std::f32::consts::LN_2);
        assert_eq!(of(array![-inf, 3.0]).to_bits(), 0);
        assert_eq!(of(array![7.0]).to_bits(), 0);
        assert_eq!(of(array![]).to_bits(), 0);
        assert!(of(array![nan, 1.0]).is_nan());
        assert!(of(array![1.0, inf]).is_nan());
        assert!(of(array![-inf, -inf]).is_nan());
        assert!(of(array![-inf, nan]).is_nan());
        assert!(of(array![1e30, nan]).is_nan());
        let mut long = Array1::from_elem(70_000, 1.0f32);
        assert_eq!(of(long.clone()), (70_000f32).ln());
        long[69_999] = nan;
        assert!(of(long).is_nan());
    }
}

#[test]
fn masks_leave_places_out() {
    let mut random = Random(7);
    let x = Array2::from_shape_fn((40, 1_500), |_| (random.normal() * 4.0) as f32);
    let mask = Array2::from_shape_fn(x.raw_dim(), |(row, _)| row != 3 && random.uniform() < 0.3);
    let mut spoiled = x.clone();
    ndarray::Zip::from(&mut spoiled).and(&mask).for_each(|x, kept| {
        if !kept {
            *x = f32::NAN;
        }
    });
    for level in levels() {
        let options = Options::new().level(level).keep(&mask);
        for axis in 0..2 {
            let got = entropy(&spoiled, axis, &options).unwrap();
            let other = Dim(1 - axis as usize);
            for (index, (row, mask)) in x.axis_iter(other).zip(mask.axis_iter(other)).enumerate() {
                let masked: Array1<f32> =
                    row.iter().zip(mask).map(|(x, kept)| if *kept { *x } else { f32::NEG_INFINITY }).collect();
                let expected = if mask.iter().any(|kept| *kept) {
                    entropy(&masked, 0, &Options::new().level(level)).unwrap()[[]]
                } else {
                    0.0
                };
                assert_eq!(got[[index]].to_bits(), expected.to_bits(), "axis {axis} row {index}");
            }
        }
    }
}

#[test]
fn half_precision_integers_and_temperatures() {
    let wide = array![[1.0f32, 2.0, 0.5, -3.0], [60.0, 60.0, 60.0, 60.0]];
    let options = Options::new();
    let expected = entropy(&wide, 1, &options).unwrap();
    let half = entropy(&wide.mapv(f16::from_f32), 1, &options).unwrap();
    assert_eq!(half, expected.mapv(f16::from_f32));
    let brain = entropy(&wide.mapv(bf16::from_f32), 1, &options).unwrap();
    assert_eq!(brain, expected.mapv(bf16::from_f32));

    let temperatures = array![[0.5f64], [3.0]];
    let got = entropy(&wide, 1, &Options::new().temperatures(&temperatures)).unwrap();
    for row in 0..2 {
        let options = Options::new().temperature(temperatures[[row, 0]]);
        assert_eq!(got[[row]], entropy(&wide.row(row).to_owned(), 0, &options).unwrap()[[]]);
    }
}

fn bits(x: &ArrayD<f32>) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn same_bits_over_levels_threads_and_layouts() {
    let shapes = [(40, 1), (37, 3), (300, 10), (50, 100), (33, 1000), (20, 1025), (5, 70_000), (2, 300_000)];
    for (rows, len) in shapes {
        let mut random = Random(len as u64);
        let mut x = Array2::from_shape_fn((rows, len), |_| (random.normal() * 8.0) as f32);
        for row in 0..rows {
            match row % 7 {
                1 => x[[row, len / 2]] = f32::NEG_INFINITY,
                2 => x[[row, len - 1]] = f32::NAN,
                3 => x.row_mut(row).mapv_inplace(|x| x * 10.0 + 5000.0),
                4 => x.row_mut(row).mapv_inplace(|x| x * 1e5),
                5 => x[[row, len / 3]] = 60.0,
                _ => {}
            }
        }
        let base = Options::new().level(Level::Portable).threads(1);
        let expected = bits(&entropy(&x, -1, &base).unwrap());
        for level in levels() {
            for threads in [1, 2, 7] {
                let options = Options::new().level(level).threads(threads);
                let name = format!("{} threads {threads} {rows} x {len}", level.name());
                assert!(bits(&entropy(&x, -1, &options).unwrap()) == expected, "{name}");
                let columns = x.t().as_standard_layout().into_owned();
                assert!(bits(&entropy(&columns, 0, &options).unwrap()) == expected, "axis 0 {name}");
                let mut fortran = Array2::zeros((rows, len).f());
                fortran.assign(&x);
                assert!(bits(&entropy(&fortran, 1, &options).unwrap()) == expected, "fortran {name}");
                let mut wide = Array2::from_elem((rows, 2 * len), f32::NAN);
                wide.slice_mut(s![.., ..;-2]).assign(&x);
                let got = entropy(&wide.slice(s![.., ..;-2]), -1, &options).unwrap();
                assert!(bits(&got) == expected, "strided {name}");
            }
        }
    }
}

#[test]
fn axes() {
    let x = Array3::from_shape_fn((4, 5, 6), |(i, j, k)| ((i * 7 + j * 3 + k) % 11) as f64);
    let options = Options::new();
    let middle = entropy(&x, 1, &options).unwrap();
    assert_eq!(middle.shape(), [4, 6]);
    for i in 0..4 {
        for k in 0..6 {
            let one = entropy(&x.slice(s![i, .., k]).to_owned(), 0, &options).unwrap();
            assert_eq!(middle[[i, k]], one[[]]);
        }
    }
    let pair = entropy(&x, Axis::Several([0isize, 2].as_slice().into()), &options).unwrap();
    assert_eq!(pair.shape(), [5]);
    let whole = entropy(&x, Axis::All, &options).unwrap();
    assert_eq!(whole.shape(), [0usize; 0]);
    let flat = x.clone().into_shape_with_order(120).unwrap();
    assert_eq!(whole[[]], entropy(&flat, 0, &options).unwrap()[[]]);
    assert!(matches!(entropy(&x, 3, &options), Err(Error::Axis { axis: 3, ndim: 3 })));
    let none = entropy(&Array2::<f32>::zeros((3, 0)), 1, &options).unwrap();
    assert_eq!(none, ArrayD::<f32>::zeros(vec![3]));
    assert_eq!(entropy(&Array2::<f32>::zeros((0, 3)), 1, &options).unwrap().shape(), [0]);
    assert_eq!(entropy(&Array2::<f32>::zeros((0, 3)), 0, &options).unwrap(), ArrayD::<f32>::zeros(vec![3]));
}

#[test]
fn an_interrupt_stops() {
    let one = Array2::<f32>::zeros((1, 1000));
    let x = one.broadcast((200_000, 1000)).unwrap();
    let stop = || true;
    let got = entropy(&x, 1, &Options::new().interrupt(&stop).threads(2));
    assert_eq!(got.unwrap_err(), Error::Interrupted);
}
