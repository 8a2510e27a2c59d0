//! A naive reference, and the ruler: errors in units in the last place.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "test data is rounded as it may be"
)]

use std::ops::{Add, Mul, Sub};

use fastsoftmax::Level;

/// About 106 bits, so that references for float64 have digits to spare.
#[derive(Clone, Copy, Debug)]
pub struct Double(pub f64, pub f64);

impl Double {
    pub fn renormalised(a: f64, b: f64) -> Self {
        let s = a + b;
        let t = s - a;
        Self(s, (a - (s - t)) + (b - t))
    }

    pub fn of(value: f64) -> Self {
        Self(value, 0.0)
    }

    pub fn scaled(self, exponent: i32) -> Self {
        let half = exponent / 2;
        let (a, b) = (2f64.powi(half), 2f64.powi(exponent - half));
        Self(self.0 * a * b, self.1 * a * b)
    }

    pub fn over(self, other: Self) -> Self {
        let q = self.0 / other.0;
        let rest = self - other * Self::of(q);
        let q2 = rest.0 / other.0;
        let rest = rest - other * Self::of(q2);
        let sum = Self::renormalised(q, q2);
        Self::renormalised(sum.0, sum.1 + rest.0 / other.0)
    }

    /// By the series, after taking off multiples of ln 2 and halving eight times.
    pub fn exp(self) -> Self {
        if self.0 < -1500.0 || self.0.is_nan() {
            return Self::of(if self.0.is_nan() { f64::NAN } else { 0.0 });
        }
        let n = (self.0 / std::f64::consts::LN_2).round();
        let ln_2 = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10, 1.974_263_629_023_043_6e-28];
        let mut t = self;
        // ln_2[0] has 32 significant bits, so n * ln_2[0] is exact.
        for part in ln_2 {
            t = t - Self::of(n) * Self::of(part);
        }
        let t = t.scaled(-8);
        let mut term = Self::of(1.0);
        let mut sum = Self::of(0.0);
        for i in 1..16 {
            term = (term * t).over(Self::of(f64::from(i)));
            sum = sum + term;
        }
        for _ in 0..8 {
            sum = sum * sum + sum + sum;
        }
        (sum + Self::of(1.0)).scaled(n as i32)
    }
}

impl Add for Double {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let s = Self::renormalised(self.0, other.0);
        let t = Self::renormalised(self.1, other.1);
        let s = Self::renormalised(s.0, s.1 + t.0);
        Self::renormalised(s.0, s.1 + t.1)
    }
}

impl Sub for Double {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + Self(-other.0, -other.1)
    }
}

impl Mul for Double {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        let p = self.0 * other.0;
        let e = self.0.mul_add(other.0, -p);
        Self::renormalised(p, e + (self.0 * other.1 + self.1 * other.0))
    }
}

/// log(1 + y) for y >= 0.
pub fn ln_1p(y: Double) -> Double {
    if y.0 < 1e-8 {
        let square = y * y;
        let cube = square * y;
        let fourth = square * square;
        return y - square.scaled(-1) + cube.over(Double::of(3.0)) - fourth.scaled(-2);
    }
    let sum = y + Double::of(1.0);
    let first = Double::of(y.0.ln_1p());
    let error = (sum * (Double::of(0.0) - first).exp()) - Double::of(1.0);
    first + error - (error * error).scaled(-1)
}

/// softmax by the definition, with the maximum taken off exactly.
pub fn softmax(x: &[f64], temperature: f64) -> Vec<Double> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let terms: Vec<_> =
        x.iter().map(|x| (Double::of(*x) - Double::of(max)).over(Double::of(temperature)).exp()).collect();
    let sum = terms.iter().fold(Double::of(0.0), |sum, term| sum + *term);
    terms.into_iter().map(|term| term.over(sum)).collect()
}

/// The error of `value`, in units in the last place of a type with so many mantissa bits and this least exponent.
pub fn ulp_error(value: f64, exact: Double, mantissa: i32, least: i32) -> f64 {
    let magnitude = exact.0.abs();
    let exponent = if magnitude == 0.0 { least } else { (magnitude.log2().floor() as i32).max(least) };
    let exponent = if 2f64.powi(exponent) > magnitude && exponent > least { exponent - 1 } else { exponent };
    let difference = (value - exact.0) - exact.1;
    // In two steps: the step of a subnormal number is no float64 that `powi` reaches.
    difference.abs() / 2f64.powi(exponent) * 2f64.powi(mantissa)
}

pub fn ulp_f32(value: f32, exact: Double) -> f64 {
    ulp_error(f64::from(value), exact, 23, -126)
}

pub fn ulp_f64(value: f64, exact: Double) -> f64 {
    ulp_error(value, exact, 52, -1022)
}

/// A documented generator: the 64-bit linear congruential one of Knuth's MMIX, its upper 53 bits.
pub struct Random(pub u64);

impl Random {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform().max(1e-300), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.uniform() * limit as f64) as usize
    }
}

/// The levels to test: all that this machine has, or fail if one that was asked for is missing.
pub fn levels() -> Vec<Level> {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let available = Level::available();
    if let Ok(wanted) = std::env::var("FASTSOFTMAX_TEST_LEVELS") {
        for name in wanted.split(',') {
            assert!(available.iter().any(|level| level.name() == name), "level {name} was asked for and is missing");
        }
    }
    ONCE.call_once(|| {
        println!("levels that ran: {:?}", available.iter().map(|level| level.name()).collect::<Vec<_>>());
    });
    available
}
