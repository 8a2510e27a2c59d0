//! The gradients: accuracy, finite differences, special values, and the same bits everywhere.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(clippy::float_cmp, reason = "the very same number is meant")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "small numbers, and rounding on purpose"
)]

mod common;

use common::{Double, Random, levels};
use fastsoftmax::DType::{BF16, F16, F32, F64, I8};
use fastsoftmax::{
    Axis, Element, Error, Float, Level, Options, log_softmax_vjp, log_softmax_vjp_in_place, log_softmax_vjp_into,
    softmax, softmax_vjp, softmax_vjp_in_place, softmax_vjp_into,
};
use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayD, IxDyn, ShapeBuilder, array, s};

/// p (g - sum(g p)), and what its error is measured by.
fn softmax_reference(p: &[f64], g: &[f64]) -> Vec<(Double, f64)> {
    let of = Double::of;
    let sum = p.iter().zip(g).fold(of(0.0), |sum, (p, g)| sum + of(*p) * of(*g));
    let result = |(p, g): (&f64, &f64)| (of(*p) * (of(*g) - sum), p.abs() * g.abs().max(sum.0.abs()));
    p.iter().zip(g).map(result).collect()
}

/// g - exp(lp) sum(g).
fn log_softmax_reference(lp: &[f64], g: &[f64]) -> Vec<(Double, f64)> {
    let sum = g.iter().fold(Double::of(0.0), |sum, g| sum + Double::of(*g));
    let result = |(lp, g): (&f64, &f64)| {
        let product = Double::of(*lp).exp() * sum;
        (Double::of(*g) - product, g.abs().max(product.0.abs()))
    };
    lp.iter().zip(g).map(result).collect()
}

/// The error of a value in units in the last place of `scale`.
fn error(value: f64, (exact, scale): (Double, f64), mantissa: i32, least: i32) -> f64 {
    let mut exponent = if scale == 0.0 { least } else { (scale.log2().floor() as i32).max(least) };
    if 2f64.powi(exponent) > scale {
        exponent = (exponent - 1).max(least);
    }
    ((value - exact.0) - exact.1).abs() / 2f64.powi(exponent) * 2f64.powi(mantissa)
}

/// Probabilities, their logarithms, and gradients of many sizes.
fn cases() -> Vec<(String, Vec<f64>, Vec<f64>)> {
    let mut random = Random(7);
    let mut cases = Vec::new();
    for len in [1, 2, 7, 16, 100, 1000, 1025, 70_000] {
        for spread in [0.5, 4.0, 30.0] {
            for (kind, size, offset) in
                [("normal", 1.0, 0.0), ("tiny", 1e-30, 0.0), ("huge", 1e30, 0.0), ("offset", 1.0, 1e4)]
            {
                let logits: Vec<f64> = (0..len).map(|_| random.normal() * spread).collect();
                let grad = (0..len).map(|_| random.normal() * size + offset).collect();
                cases.push((format!("{kind} gradient, spread {spread}, len {len}"), logits, grad));
            }
        }
    }
    cases
}

fn probabilities(logits: &[f64]) -> Vec<f64> {
    common::softmax(logits, 1.0).iter().map(|p| p.0).collect()
}

#[test]
fn accuracy() {
    let mut largest = [0.0f64; 4];
    for (name, logits, grad) in cases() {
        let p = probabilities(&logits);
        let lp: Vec<f64> = p.iter().map(|p| p.ln().max(-800.0)).collect();
        let of_f32 = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Array1<f32>>();
        let wide = |x: &Array1<f32>| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (p32, lp32, g32) = (of_f32(&p), of_f32(&lp), of_f32(&grad));
        let expected = [
            softmax_reference(&wide(&p32), &wide(&g32)),
            log_softmax_reference(&wide(&lp32), &wide(&g32)),
            softmax_reference(&p, &grad),
            log_softmax_reference(&lp, &grad),
        ];
        let (p, lp, grad) = (Array1::from(p), Array1::from(lp), Array1::from(grad));
        for level in levels() {
            let options = Options::new().level(level);
            let got = [
                softmax_vjp(&p32, &g32, -1, &options).unwrap().mapv(f64::from),
                log_softmax_vjp(&lp32, &g32, -1, &options).unwrap().mapv(f64::from),
                softmax_vjp(&p, &grad, -1, &options).unwrap(),
                log_softmax_vjp(&lp, &grad, -1, &options).unwrap(),
            ];
            for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let (mantissa, least) = if index < 2 { (23, -126) } else { (52, -1022) };
                let bound = [fastsoftmax::ops::softmax_vjp::ULP, fastsoftmax::ops::log_softmax_vjp::ULP][index % 2];
                for (got, expected) in got.iter().zip(expected) {
                    let error = error(*got, *expected, mantissa, least);
                    assert!(error <= bound, "{name}, {}, function {index}: {error} ULP", level.name());
                    largest[index] = largest[index].max(error);
                }
            }
        }
    }
    println!("largest errors (softmax32, log32, softmax64, log64) {largest:.4?}");
}

#[test]
fn half_precision_is_rounded_once() {
    let mut random = Random(3);
    let p: Vec<f64> = probabilities(&(0..500).map(|_| random.normal() * 2.0).collect::<Vec<_>>());
    let p: Array1<f16> = p.iter().map(|p| f16::from_f64(*p)).collect();
    let g: Array1<f16> = (0..500).map(|_| f16::from_f64(random.normal())).collect();
    let wide = |x: &Array1<f16>| x.iter().map(|x| x.to_f64()).collect::<Vec<_>>();
    let expected = softmax_reference(&wide(&p), &wide(&g));
    for level in levels() {
        let got = softmax_vjp(&p, &g, -1, &Options::new().level(level)).unwrap();
        for (got, (exact, _)) in got.iter().zip(&expected) {
            let error = error(got.to_f64(), (*exact, exact.0.abs()), 10, -14);
            assert!(error <= 0.51, "{error}");
        }
    }
}

#[test]
fn finite_differences() {
    let mut random = Random(11);
    let x: Array1<f64> = (0..40).map(|_| random.normal() * 2.0).collect();
    let c: Array1<f64> = (0..40).map(|_| random.normal()).collect();
    let p = softmax(&x, -1, &Options::new()).unwrap();
    let lp = p.mapv(f64::ln);
    let h = 1e-5;
    let loss = |x: &Array1<f64>, log: bool| {
        let p = softmax(x, -1, &Options::new()).unwrap();
        if log { p.mapv(f64::ln).dot(&c) } else { p.dot(&c) }
    };
    for log in [false, true] {
        let options = Options::new();
        let got = if log { log_softmax_vjp(&lp, &c, -1, &options) } else { softmax_vjp(&p, &c, -1, &options) };
        for (i, got) in got.unwrap().iter().enumerate() {
            let mut moved = x.clone();
            moved[i] = x[i] + h;
            let above = loss(&moved, log);
            moved[i] = x[i] - h;
            let difference = (above - loss(&moved, log)) / (2.0 * h);
            assert!((got - difference).abs() < 1e-8, "{log} {i}: {got} and {difference}");
        }
    }
}

/// Rows of which some hold special values.
fn operands(rows: usize, len: usize) -> (Array2<f32>, Array2<f32>) {
    let mut random = Random(len as u64);
    let mut first = Array2::from_shape_fn((rows, len), |_| (-random.uniform() * 12.0) as f32);
    let mut grad = Array2::from_shape_fn((rows, len), |_| random.normal() as f32);
    for row in 0..rows {
        match row % 9 {
            1 => grad[[row, len / 2]] = f32::INFINITY,
            2 => first[[row, len - 1]] = f32::NAN,
            3 => grad[[row, 0]] = f32::NAN,
            4 => first[[row, len / 3]] = f32::NEG_INFINITY,
            5 => grad.row_mut(row).mapv_inplace(|g| g * 1e38),
            6 => first.row_mut(row).mapv_inplace(|x| x * 10.0 + 20.0),
            7 => first[[row, 0]] = 90.0,
            _ => {}
        }
    }
    (first, grad)
}

#[derive(Clone, Copy)]
enum Function {
    Softmax,
    LogSoftmax,
}

impl Function {
    fn into<P: Element, G: Element, U: Float>(
        self,
        first: &ndarray::ArrayRef2<P>,
        grad: &ndarray::ArrayRef2<G>,
        out: &mut ndarray::ArrayRef2<U>,
        axis: isize,
        options: &Options<'_>,
    ) {
        match self {
            Self::Softmax => softmax_vjp_into(first, grad, out, axis, options).unwrap(),
            Self::LogSoftmax => log_softmax_vjp_into(first, grad, out, axis, options).unwrap(),
        }
    }

    fn of(self, first: &Array2<f32>, grad: &Array2<f32>, axis: isize, options: &Options<'_>) -> Array2<f32> {
        let mut out = Array2::zeros(first.dim());
        self.into(first, grad, &mut out, axis, options);
        out
    }

    fn in_place(self, first: &Array2<f32>, grad: &mut Array2<f32>, options: &Options<'_>) {
        match self {
            Self::Softmax => softmax_vjp_in_place(first, grad, -1, options).unwrap(),
            Self::LogSoftmax => log_softmax_vjp_in_place(first, grad, -1, options).unwrap(),
        }
    }
}

fn bits(x: &Array2<f32>) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn transposed(x: &Array2<f32>) -> Array2<f32> {
    x.t().as_standard_layout().into_owned()
}

#[test]
fn same_bits_over_levels_threads_and_layouts() {
    for function in [Function::Softmax, Function::LogSoftmax] {
        for (rows, len) in [(40, 1), (37, 3), (300, 10), (50, 100), (33, 1000), (20, 1025), (9, 70_000), (3, 140_000)] {
            let (first, grad) = operands(rows, len);
            let expected = function.of(&first, &grad, -1, &Options::new().level(Level::Portable).threads(1));
            let expected_bits = bits(&expected);
            for level in levels() {
                for threads in [1, 2, 7] {
                    let options = Options::new().level(level).threads(threads);
                    let name = format!("{} threads {threads} {rows} x {len}", level.name());
                    assert!(bits(&function.of(&first, &grad, -1, &options)) == expected_bits, "{name}");

                    let mut in_place = grad.clone();
                    function.in_place(&first, &mut in_place, &options);
                    assert!(bits(&in_place) == expected_bits, "in place {name}");

                    // The same rows as columns, as columns of one array alone, and of Fortran's.
                    let columns = function.of(&transposed(&first), &transposed(&grad), 0, &options);
                    assert!(bits(&transposed(&columns)) == expected_bits, "axis 0 {name}");
                    let mut fortran = Array2::zeros((rows, len).f());
                    let mut first_fortran = Array2::zeros((rows, len).f());
                    first_fortran.assign(&first);
                    function.into(&first_fortran, &grad, &mut fortran, -1, &options);
                    assert!(bits(&fortran.as_standard_layout().into_owned()) == expected_bits, "fortran {name}");
                    fortran.fill(0.0);
                    function.into(&first, &grad, &mut fortran, -1, &options);
                    assert!(bits(&fortran.as_standard_layout().into_owned()) == expected_bits, "to fortran {name}");

                    // Every other element of a larger array, backwards.
                    let mut wide = Array2::from_elem((rows, 2 * len), f32::NAN);
                    wide.slice_mut(s![.., ..;-2]).assign(&grad);
                    let mut out = Array2::zeros((rows, len));
                    function.into(&first, &wide.slice(s![.., ..;-2]), &mut out, -1, &options);
                    assert!(bits(&out) == expected_bits, "strided {name}");
                }
            }
        }
    }
}

/// float64, where the order of a sum would show.
#[test]
fn same_bits_in_float64() {
    let mut random = Random(5);
    for (rows, len) in [(30, 9), (40, 300), (5, 70_000), (2, 140_000)] {
        let p = Array2::from_shape_fn((rows, len), |_| random.uniform());
        let g = Array2::from_shape_fn((rows, len), |_| random.normal() * (random.normal() * 20.0).exp());
        let expected = softmax_vjp(&p, &g, -1, &Options::new().level(Level::Portable).threads(1)).unwrap();
        for level in levels() {
            for threads in [1, 3] {
                let options = Options::new().level(level).threads(threads);
                assert_eq!(softmax_vjp(&p, &g, -1, &options).unwrap(), expected);
                let (p, g) = (p.t().as_standard_layout().into_owned(), g.t().as_standard_layout().into_owned());
                assert_eq!(softmax_vjp(&p, &g, 0, &options).unwrap().t(), expected);
            }
        }
    }
}

#[test]
fn random_layouts() {
    let mut random = Random(17);
    for _ in 0..200 {
        let ndim = 1 + random.below(4);
        let shape: Vec<usize> = (0..ndim).map(|_| 1 + random.below(9)).collect();
        let axis = random.below(ndim);
        let mut one = || {
            // A larger array, some of its elements, its axes in another order, some of them reversed.
            let mut order: Vec<usize> = (0..ndim).collect();
            (1..ndim).rev().for_each(|i| order.swap(i, random.below(i + 1)));
            let steps: Vec<isize> = (0..ndim).map(|_| [1, 2, -1, -3][random.below(4)]).collect();
            let mut large = vec![0; ndim];
            for (place, &dim) in order.iter().enumerate() {
                large[place] = shape[dim] * steps[dim].unsigned_abs();
            }
            let mut array = ArrayD::from_shape_fn(IxDyn(&large), |_| -random.uniform() * 5.0);
            array.slice_each_axis_inplace(|axis| ndarray::Slice::new(0, None, steps[order[axis.axis.index()]]));
            let mut back = vec![0; ndim];
            order.iter().enumerate().for_each(|(place, dim)| back[*dim] = place);
            array.permuted_axes(back)
        };
        let (first, grad, mut out) = (one(), one(), one());
        assert_eq!(first.shape(), shape);
        for axis in [Axis::One(axis.cast_signed()), Axis::All, Axis::Several(smallvec::smallvec![0, -1])] {
            if ndim == 1 && matches!(axis, Axis::Several(_)) {
                continue;
            }
            let plain = |x: &ArrayD<f64>| x.as_standard_layout().into_owned();
            let expected = log_softmax_vjp(&plain(&first), &plain(&grad), axis.clone(), &Options::new()).unwrap();
            log_softmax_vjp_into(&first, &grad, &mut out, axis, &Options::new()).unwrap();
            assert_eq!(out, expected, "{shape:?}");
        }
    }
}

#[test]
fn special_values() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let same = |got: Array1<f32>, expected: Array1<f32>| {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert!(got == expected || (got.is_nan() && expected.is_nan()), "{got} is not {expected}");
        }
    };
    for level in levels() {
        let options = Options::new().level(level);
        let softmax = |p: Array1<f32>, g: Array1<f32>| softmax_vjp(&p, &g, -1, &options).unwrap();
        let log = |lp: Array1<f32>, g: Array1<f32>| log_softmax_vjp(&lp, &g, -1, &options).unwrap();
        same(softmax(array![0.5, nan], array![1.0, 2.0]), array![nan, nan]);
        same(softmax(array![0.5, 0.5], array![nan, 2.0]), array![nan, nan]);
        same(softmax(array![0.5, 0.5], array![inf, 2.0]), array![nan, -inf]);
        same(softmax(array![0.0, 1.0], array![inf, 2.0]), array![nan, nan]);
        same(softmax(array![0.5, 0.5], array![inf, -inf]), array![nan, nan]);
        same(softmax(array![0.0, 1.0], array![5.0, 2.0]), array![0.0, 0.0]);
        same(log(array![-1.0, nan], array![1.0, 2.0]), array![nan, nan]);
        same(log(array![-1.0, -2.0], array![nan, 2.0]), array![nan, nan]);
        same(log(array![0.0, 0.0], array![inf, 2.0]), array![nan, -inf]);
        same(log(array![-inf, 0.0], array![1.0, 2.0]), array![1.0, -1.0]);
        same(log(array![-inf, 0.0], array![1.0, inf]), array![nan, nan]);
        same(log(array![inf, 0.0], array![1.0, 1.0]), array![-inf, -1.0]);
        same(log(array![200.0, 0.0], array![1.0, 1.0]), array![-inf, -1.0]);
        // A sum that leaves the range of float32 on its way.
        same(softmax(array![1.0, 1.0, -1.0], array![3e38, 3e38, 3e38]), array![0.0, 0.0, 0.0]);
        let got = softmax_vjp(&array![0.5f64, 0.5], &array![f64::INFINITY, 2.0], -1, &options).unwrap();
        assert!(got[0].is_nan() && got[1] == f64::NEG_INFINITY, "{got}");
        let got = log_softmax_vjp(&array![0.0f64, -720.0], &array![1e10, 0.0], -1, &options).unwrap();
        assert!(got[0].abs() == 0.0, "{got}");
        let exact = -common::Double::of(-700.0).exp().0 * common::Double::of(-20.0).exp().0 * 1e10;
        assert!((got[1] / exact - 1.0).abs() < 1e-9, "{} {exact}", got[1]);
        let got = log_softmax_vjp(&array![400.0f64, 0.0], &array![0.0, 1e-200], -1, &options).unwrap();
        assert!((got[0] / (-400f64.exp() * 1e-200) - 1.0).abs() < 1e-14, "{got}");
    }
}

#[test]
fn dtypes_meet() {
    let p = array![[0.25f32, 0.75], [0.5, 0.5]];
    let g = array![[1i32, 2], [3, -4]];
    let exact = softmax_vjp(&p.mapv(f64::from), &g.mapv(f64::from), -1, &Options::new()).unwrap();
    let mut out = Array2::<f64>::zeros((2, 2));
    softmax_vjp_into(&p, &g, &mut out, -1, &Options::new()).unwrap();
    assert_eq!(out, exact);
    let mut narrow = Array2::from_elem((2, 2), bf16::ZERO);
    softmax_vjp_into(&p.mapv(f16::from_f32), &g.mapv(|g| g as f32), &mut narrow, -1, &Options::new()).unwrap();
    assert_eq!(narrow.mapv(bf16::to_f64), exact.mapv(|x| bf16::from_f64(x).to_f64()));
    assert_eq!([F16.promoted(F16), F16.promoted(BF16), F16.promoted(F32)], [F16, F32, F32]);
    assert_eq!([I8.promoted(F16), F32.promoted(F64)], [F64, F64]);
}

#[test]
fn broadcasting_empty_arrays_and_errors() {
    let p = array![[0.25f64, 0.75], [0.5, 0.5]];
    let options = Options::new();
    let row = softmax_vjp(&p, &array![1.0, 2.0], -1, &options).unwrap();
    assert_eq!(row, softmax_vjp(&p, &array![[1.0, 2.0], [1.0, 2.0]], -1, &options).unwrap());
    assert!(matches!(softmax_vjp(&p, &array![1.0, 2.0, 3.0], -1, &options), Err(Error::Value(_))));
    assert!(matches!(softmax_vjp(&p, &array![1.0, 2.0], 2, &options), Err(Error::Axis { axis: 2, ndim: 2 })));
    let message = "a gradient takes neither a mask nor a temperature: both are in log_probs already";
    let refused = log_softmax_vjp(&p, &p, -1, &Options::new().temperature(2.0));
    assert_eq!(refused, Err(Error::Value(message.into())));
    for shape in [(0, 3), (3, 0), (0, 0)] {
        let empty = Array2::<f32>::zeros(shape);
        for axis in [0, -1] {
            assert_eq!(softmax_vjp(&empty, &empty, axis, &options).unwrap().dim(), shape);
        }
    }
    let scalar = softmax_vjp(&ndarray::arr0(1.0), &ndarray::arr0(5.0), -1, &options).unwrap();
    assert_eq!(scalar, ndarray::arr0(0.0));
    let alone = softmax_vjp(&p, &p, Axis::Several(smallvec::smallvec![]), &options).unwrap();
    assert_eq!(alone, p.mapv(|p| p * (p - p * p)));
}

#[test]
fn interrupts() {
    let x = Array2::<f32>::zeros((4, 300_000));
    let stop = || true;
    let options = Options::new().interrupt(&stop);
    // Asked every 20 ms: a call that is over before need not notice.
    let results: Vec<_> = (0..20).map(|_| softmax_vjp(&x, &x, -1, &options)).collect();
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Error::Interrupted))));
}
