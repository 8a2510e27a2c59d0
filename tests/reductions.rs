//! `logsumexp`, `log_prob` and `cross_entropy`: accuracy, special values, many short rows at a time, the same bits.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    clippy::unwrap_used,
    reason = "test data is rounded as it may be; exact results are compared exactly"
)]

mod common;

use common::{Double, Random, levels, ln_1p, ulp_error, ulp_f32, ulp_f64};
use fastsoftmax::{CrossEntropy, Error, Float, Options, cross_entropy, log_prob, logsumexp};
use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayD, Axis, array};

/// The promise for float32 and float64.
const ULP: f64 = 2.0;
/// The same for half precision, which is rounded once from float32.
const HALF_ULP: f64 = 0.51;

/// Rows of which every third or so is special: NaN, infinities, a far maximum, one dominant logit, which where the others
/// are equal is the label's (of these, rounding takes the same from each addition).
fn logits(rows: usize, len: usize) -> Array2<f64> {
    let mut random = Random((rows * len) as u64);
    let mut x = Array2::from_shape_simple_fn((rows, len), || random.normal() * 3.0);
    for (row, mut x) in x.axis_iter_mut(Axis(0)).enumerate() {
        match row % 33 {
            2 => x[len / 2] = f64::NAN,
            7 => x[0] = f64::NEG_INFINITY,
            13 => x.mapv_inplace(|x| x * 30.0 + 9000.0),
            18 => x[len - 1] = 40.0,
            24 => x[len / 3] = f64::INFINITY,
            29 => x.fill(f64::NEG_INFINITY),
            kind @ (4 | 9 | 15 | 20 | 31) => {
                x.fill(-0.3);
                x[row * 7 % len] += (len as f64).ln() + 0.45 * kind as f64;
            }
            _ => {}
        }
    }
    x
}

/// L and the place of the maximum: log sum exp is the maximum and L.
fn log_of_sum(x: &[f64]) -> (Double, usize) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let at = x.iter().position(|x| *x == max).unwrap();
    let others = x.iter().enumerate().filter(|(index, x)| *index != at && **x > f64::NEG_INFINITY);
    let sum = others.fold(Double::of(0.0), |sum, (_, x)| sum + (Double::of(*x) - Double::of(max)).exp());
    (ln_1p(sum), at)
}

/// All three functions of all rows, one after another.
fn all<T: Float + Default>(x: &Array2<T>, axis: isize, labels: &Array1<i64>, options: &Options<'_>) -> [ArrayD<T>; 3] {
    let loss = CrossEntropy::new().ignore_index(3);
    [
        logsumexp(x, axis, options).unwrap(),
        log_prob(x, labels, axis, options).unwrap(),
        cross_entropy(x, labels, axis, &loss, options).unwrap(),
    ]
}

fn bits<T: Float + Into<f64>>(x: &ArrayD<T>) -> Vec<u64> {
    x.iter().map(|x| (*x).into().to_bits()).collect()
}

/// The same bits for rows alone and together, along either axis, at every level, for any number of threads; and whether
/// they are near enough, by a ruler.
fn check<T: Float + Default + Into<f64>>(of: impl Fn(f64) -> T, limit: f64, error: impl Fn(T, Double) -> f64) {
    let shapes =
        [(200, 1), (300, 3), (150, 10), (120, 40), (99, 64), (70, 100), (66, 300), (40, 1000), (35, 1025), (34, 5000)];
    for (rows, len) in shapes {
        let x = logits(rows, len).mapv(&of);
        let columns = x.t().as_standard_layout().into_owned();
        let labels = Array1::from_shape_fn(rows, |row| ((row * 7) % len) as i64);
        let expected = all(&x, -1, &labels, &Options::new().threads(1));
        for level in levels() {
            for threads in [1, 3] {
                let options = Options::new().level(level).threads(threads);
                for (a, b) in all(&x, -1, &labels, &options).iter().zip(&expected) {
                    assert_eq!(bits(a), bits(b), "{rows} x {len} at {level:?}");
                }
                for (a, b) in all(&columns, 0, &labels, &options).iter().zip(&expected) {
                    assert_eq!(bits(a), bits(b), "{len} x {rows} axis 0 at {level:?}");
                }
            }
        }
        for (row, logits) in x.rows().into_iter().enumerate() {
            // A row by itself is none of many that are folded together.
            let alone = logits.insert_axis(Axis(0)).into_owned();
            let label = labels.slice(ndarray::s![row..=row]).into_owned();
            for (a, b) in all(&alone, -1, &label, &Options::new()).iter().zip(&expected) {
                assert_eq!(bits(a)[0], bits(b)[row], "row {row} of {rows} x {len}");
            }
            let wide: Vec<f64> = logits.iter().map(|x| (*x).into()).collect();
            let [lse, log, loss] = expected.each_ref().map(|all| all[row]);
            let chosen = wide[labels[row] as usize];
            let ignored = labels[row] == 3;
            let undefined = wide.iter().any(|x| x.is_nan() || *x == f64::INFINITY);
            if undefined || wide.iter().all(|x| *x == f64::NEG_INFINITY) {
                assert!(log.into().is_nan() && (ignored || loss.into().is_nan()), "row {row} of {rows} x {len}");
                let max =
                    wide.iter().copied().fold(f64::NEG_INFINITY, |max, x| if x.is_nan() { x } else { max.max(x) });
                assert_eq!(lse.into().is_nan(), wide.iter().any(|x| x.is_nan()));
                assert!(lse.into().is_nan() || lse.into() == max);
                continue;
            }
            let (sum, at) = log_of_sum(&wide);
            let lse_error = error(lse, Double::of(wide[at]) + sum);
            assert!(lse_error <= limit, "logsumexp of row {row} of {rows} x {len}: {lse_error} ULP");
            if chosen == f64::NEG_INFINITY {
                assert_eq!(log.into(), f64::NEG_INFINITY);
                continue;
            }
            let exact = Double::of(chosen) - Double::of(wide[at]) - sum;
            let log_error = error(log, exact);
            assert!(log_error <= limit, "log_prob of row {row} of {rows} x {len}: {log_error} ULP");
            assert_eq!(loss.into(), if ignored { 0.0 } else { -log.into() });
        }
    }
}

#[test]
fn float32() {
    check(|x| x as f32, ULP, ulp_f32);
}

#[test]
fn float64() {
    check(|x| x, ULP, ulp_f64);
}

#[test]
fn half_precision() {
    check(f16::from_f64, HALF_ULP, |value, exact| ulp_error(value.to_f64(), exact, 10, -14));
    check(bf16::from_f64, HALF_ULP, |value, exact| ulp_error(value.to_f64(), exact, 7, -126));
}

#[test]
fn targets_and_weights() {
    let (x, options) = (array![[0.0f64, 1.0, 2.0], [2.0, 0.0, 1.0]], Options::new());
    let loss = CrossEntropy::new();
    let each = |label: [i64; 2]| -log_prob(&x, &Array1::from_iter(label), -1, &options).unwrap();
    // Probabilities are an average of class indices.
    let halves = array![[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]];
    let soft = cross_entropy(&x, &halves, -1, &loss, &options).unwrap();
    let expected = (each([0, 1]) + each([1, 2])) * 0.5;
    soft.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-15, "{a} {b}"));
    let weighted = cross_entropy(&x, &array![2, 1], -1, &loss.weight(&[1.0, 2.0, 3.0]), &options).unwrap();
    assert_eq!(weighted, each([2, 1]) * array![3.0, 2.0].into_dyn());
    let smoothed = cross_entropy(&x, &array![2, 1], -1, &loss.label_smoothing(0.3), &options).unwrap();
    let spread = (each([0, 0]) + each([1, 1]) + each([2, 2])) * 0.1;
    let expected = each([2, 1]) * 0.7 + spread;
    smoothed.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-15, "{a} {b}"));
    // Labels of any shape that the classes' axis leaves.
    let deep = x.clone().insert_axis(Axis(2));
    let labels = array![[2], [1]];
    assert_eq!(
        cross_entropy(&deep, &labels, 1, &loss, &options).unwrap().into_raw_vec_and_offset().0,
        each([2, 1]).iter().copied().collect::<Vec<_>>()
    );
}

#[test]
fn temperatures_and_labels_of_any_layout() {
    let x = logits(70, 100).mapv(|x| x as f32);
    let labels = Array1::from_shape_fn(140, |row| row as u8 % 50);
    let spaced = labels.slice(ndarray::s![..;2]);
    for level in levels() {
        let options = Options::new().level(level).temperature(0.7);
        let together = log_prob(&x, &spaced, -1, &options).unwrap();
        let losses = cross_entropy(&x, &spaced, -1, &CrossEntropy::new(), &options).unwrap();
        let of_one = log_prob(&x, &array![7i64], -1, &options).unwrap();
        for row in 0..x.nrows() {
            let one = ndarray::s![row..=row, ..];
            let alone = log_prob(&x.slice(one), &array![spaced[row]], -1, &options).unwrap();
            assert_eq!(bits(&alone)[0], bits(&together)[row], "row {row} at {level:?}");
            assert!(alone[0].is_nan() || losses[row] == -alone[0]);
            let alone = log_prob(&x.slice(one), &array![7i64], -1, &options).unwrap();
            assert_eq!(bits(&alone)[0], bits(&of_one)[row], "row {row} at {level:?}, one index for all");
        }
    }
}

#[test]
fn refused() {
    let (x, options, loss) = (array![[0.0f32, 1.0, 2.0]], Options::new(), CrossEntropy::new());
    let message = |result: fastsoftmax::Result<ArrayD<f32>>| result.unwrap_err().to_string();
    assert_eq!(message(log_prob(&x, &array![3], -1, &options)), "index 3 of row 0 is out of range for 3 classes");
    assert_eq!(message(log_prob(&x, &array![0.5], -1, &options)), "index must be an array of integers, not of float64");
    assert!(matches!(log_prob(&x, &array![0, 1], -1, &options), Err(Error::Value(_))));
    assert!(matches!(log_prob(&x, &array![0], 2, &options), Err(Error::Axis { axis: 2, ndim: 2 })));
    assert!(message(cross_entropy(&x, &array![-1], -1, &loss, &options)).starts_with("label -1 of row 0"));
    assert!(matches!(cross_entropy(&x, &array![true], -1, &loss, &options), Err(Error::Type(_))));
    assert!(matches!(cross_entropy(&x, &array![0.0], -1, &loss, &options), Err(Error::Type(_))));
    assert!(matches!(cross_entropy(&x, &array![0], -1, &loss.weight(&[1.0]), &options), Err(Error::Value(_))));
    assert!(matches!(cross_entropy(&x, &array![0], -1, &loss.label_smoothing(2.0), &options), Err(Error::Value(_))));
    // Labels are checked some at a time; the row is named all the same.
    let many = Array2::<f32>::zeros((300, 3));
    let labels = Array1::from_shape_fn(300, |row| if row == 271 { 5 } else { 1 });
    let options = options.threads(3);
    assert_eq!(message(log_prob(&many, &labels, -1, &options)), "index 5 of row 271 is out of range for 3 classes");
    assert!(logsumexp(&many, -1, &options.clone().temperature(1.0)).is_ok());
    let no_classes = Array2::<f32>::zeros((2, 0));
    assert!(matches!(log_prob(&no_classes, &array![0, 0], -1, &options), Err(Error::Index(_))));
    assert!(matches!(cross_entropy(&no_classes, &array![0, 0], -1, &loss, &options), Err(Error::Index(_))));
    assert_eq!(logsumexp(&no_classes, -1, &options).unwrap(), ArrayD::from_elem(vec![2], f32::NEG_INFINITY));
    assert!(message(logsumexp(&x, -1, &options.clone().temperature(2.0))).starts_with("logsumexp has no temperature"));
}
