//! The largest and the mean error in units in the last place, over hard distributions, at every level.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "test data is rounded as it may be"
)]

mod common;

use common::{Random, levels, softmax as reference, ulp_f32, ulp_f64};
use fastsoftmax::{Options, softmax};
use ndarray::Array1;

/// What the documentation promises.
const MEAN: f64 = 0.35;

struct Case {
    name: String,
    logits: Vec<f64>,
    temperature: f64,
}

fn cases() -> Vec<Case> {
    let mut random = Random(1);
    let mut cases = Vec::new();
    let mut case = |name: String, temperature: f64, logits: Vec<f64>| cases.push(Case { name, logits, temperature });
    for len in [10, 100, 1_000, 1_025, 100_000] {
        for spread in [1.0, 4.0, 8.0, 30.0, 100.0] {
            for offset in [0.0, 1_000.0, -300.0, 1e6] {
                let logits = (0..len).map(|_| random.normal() * spread + offset).collect();
                case(format!("normal len {len} spread {spread} offset {offset}"), 1.0, logits);
            }
        }
        for temperature in [1e-3, 0.1, 0.7, 1.7, 1e3] {
            let logits = (0..len).map(|_| random.normal() * 8.0 * temperature).collect();
            case(format!("temperature {temperature} len {len}"), temperature, logits);
        }
        case(format!("equal len {len}"), 1.0, vec![0.3; len]);
        let mut dominant = vec![-16.0; len];
        dominant[len / 2] = 0.7;
        case(format!("dominant len {len}"), 1.0, dominant);
        case(format!("subnormal len {len}"), 1.0, (0..len).map(|i| -(i as f64) * 110.0 / len as f64).collect());
        case(format!("huge len {len}"), 1.0, (0..len).map(|i| 1e30 * (i % 7) as f64).collect());
        case(format!("low len {len}"), 1.0, (0..len).map(|i| -5000.0 - (i % 70) as f64).collect());
        case(format!("log-probabilities len {len}"), 1.0, (0..len).map(|i| -((i + 2) as f64).ln()).collect());
    }
    cases
}

#[test]
fn float32() {
    for level in levels() {
        let mut all = Errors::default();
        for case in cases() {
            let x: Array1<f32> = case.logits.iter().map(|x| *x as f32).collect();
            let exact = reference(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), case.temperature);
            let options = Options::new().temperature(case.temperature).level(level);
            let got = softmax(&x, -1, &options).unwrap();
            let errors: Vec<_> = got.iter().zip(&exact).map(|(got, exact)| ulp_f32(*got, *exact)).collect();
            all.add(&case.name, level.name(), &errors);
        }
        all.finish(level.name());
    }
}

#[test]
fn float64() {
    for level in levels() {
        let mut all = Errors::default();
        for case in cases() {
            let x: Array1<f64> = case.logits.iter().copied().collect();
            let exact = reference(&case.logits, case.temperature);
            let options = Options::new().temperature(case.temperature).level(level);
            let got = softmax(&x, -1, &options).unwrap();
            let errors: Vec<_> = got.iter().zip(&exact).map(|(got, exact)| ulp_f64(*got, *exact)).collect();
            all.add(&case.name, level.name(), &errors);
        }
        all.finish(level.name());
    }
}

/// The errors of all cases; the mean is over rows, since what rounding takes from a sum is the same for all of a row.
#[derive(Default)]
struct Errors {
    means: Vec<f64>,
    largest: f64,
}

impl Errors {
    fn add(&mut self, name: &str, level: &str, errors: &[f64]) {
        let largest = errors.iter().copied().fold(0.0, f64::max);
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        println!("{name:40} {level:8} largest {largest:.3} mean {mean:.3}");
        assert!(largest <= fastsoftmax::ops::softmax::ULP && !mean.is_nan(), "{name}, {level}: {largest} ULP");
        self.means.push(mean);
        self.largest = self.largest.max(largest);
    }

    fn finish(self, level: &str) {
        let mean = self.means.iter().sum::<f64>() / self.means.len() as f64;
        println!("all {level} largest {:.3} mean {mean:.3}", self.largest);
        assert!(mean < MEAN, "{level}: mean {mean} ULP");
    }
}
