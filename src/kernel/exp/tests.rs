//! The error of one exponential, in units in the last place: measured, not derived.

use std::f64::consts::LOG2_E;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Exp, Mode, Temperature};
use crate::kernel::Real;
use crate::kernel::double::Double;
use crate::simd::{Kernel, Level, Simd, Vector, dispatch};

/// The promise: s * (1 + p), rounded once, is this near to the exponential.
const ULP: f64 = 0.75;

/// The p and s of a few neighbouring logits, which share the shift that the greatest of them has.
struct Terms<'a, T> {
    x: &'a [T],
    p: &'a mut [T],
    s: &'a mut [T],
}

impl<T: Real> Kernel for Terms<'_, T> {
    /// The k of the shift.
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> f64 {
        let temperature = Temperature::<T>::new(1.0);
        let max = self.x.iter().copied().fold(T::LOWEST, |max, x| if x > max { x } else { max });
        let shift = temperature.shift(max, T::ZERO);
        let exp = Exp::<T::Vector<S>>::new(token, &temperature, shift);
        let chunks = self.x.chunks_exact(T::LANES);
        assert!(chunks.remainder().is_empty());
        for ((x, p), s) in chunks.zip(self.p.chunks_exact_mut(T::LANES)).zip(self.s.chunks_exact_mut(T::LANES)) {
            let term = exp.term::<{ Mode::Clamped as u8 }>(T::Vector::<S>::load(token, x));
            term.0.store(p);
            term.1.store(s);
        }
        shift.k
    }
}

/// The largest error over `x`, of the term before it is rounded and after.
fn errors(level: Level, x: &[f32]) -> (f64, f64) {
    let (mut p, mut s) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let k = dispatch(level, Terms { x, p: &mut p, s: &mut s });
    let mut largest = (0.0f64, 0.0f64);
    for ((x, p), s) in x.iter().zip(&p).zip(&s) {
        let (x, s) = (f64::from(*x), f64::from(*s));
        // The steps that s stands for, and what they leave of x: exp(x) = 2^(n / 8) exp(rest).
        let steps = ((s / f32::ORIGIN).log2() - f64::from(f32::OFFSET) + k) * f32::STEPS;
        let n = steps.round() / f32::STEPS;
        assert!((steps / f32::STEPS - n).abs() < 1e-7, "{s} is no step");
        assert!((x * LOG2_E - n).abs() * f32::STEPS < 0.51, "step {n} for {x}");
        let rest = (x - n * Double::LN_2.high) - n * Double::LN_2.low;
        // Both without the power of two.
        let s = s / s.log2().floor().exp2();
        let exact = f32::ORIGIN * (n - n.floor()).exp2() * rest.exp();
        let unit = 23.0f64.exp2() / exact.log2().floor().exp2();
        let unrounded = s * (1.0 + f64::from(*p));
        #[allow(clippy::cast_possible_truncation, reason = "the one rounding")]
        let rounded = f64::from(unrounded as f32);
        largest.0 = largest.0.max((unrounded - exact).abs() * unit);
        largest.1 = largest.1.max((rounded - exact).abs() * unit);
    }
    largest
}

/// Bits of float32 numbers whose size is at most the limit of the power-of-two shift.
const END: u32 = 4096.0f32.to_bits();
/// Beyond this, exp is 0 or infinity in float32.
const FAR: u32 = 104.0f32.to_bits();

/// Every float32 from bits `start` on, `count` of them, `step` bits apart.
fn stretch(start: u32, count: u32, step: u32, sign: u32) -> Vec<f32> {
    (0..count).map(|i| f32::from_bits((start + i * step).min(END) | sign)).collect()
}

/// The largest errors of p and of the rounded term, up to `FAR` and beyond.
#[derive(Default)]
struct Largest([AtomicU64; 4]);

impl Largest {
    fn add(&self, start: u32, (unrounded, rounded): (f64, f64)) {
        let first = if start < FAR { 0 } else { 2 };
        if rounded > ULP {
            println!("{rounded:.4} ULP near ±{}", f32::from_bits(start));
        }
        // Positive float64 numbers are in the order of their bits.
        self.0[first].fetch_max(unrounded.to_bits(), Ordering::Relaxed);
        self.0[first + 1].fetch_max(rounded.to_bits(), Ordering::Relaxed);
    }

    fn check(&self, level: Level) {
        let [p, term, p_far, term_far] = [0, 1, 2, 3].map(|i: usize| f64::from_bits(self.0[i].load(Ordering::Relaxed)));
        println!("{}: {p:.4} ULP, rounded {term:.4}; far logits {p_far:.4}, {term_far:.4}", level.name());
        assert!(term <= ULP && term_far <= ULP, "{}: {term} and {term_far} ULP", level.name());
    }
}

/// One float32 in about a thousand.
#[test]
fn exp_of_some_float32() {
    for level in Level::available() {
        let largest = Largest::default();
        for sign in [0, 1 << 31] {
            for start in (0..END).step_by(997 * 16) {
                largest.add(start, errors(level, &stretch(start + start % 31, 16, 1, sign)));
            }
        }
        largest.check(level);
    }
}

/// Every float32 within ±4,096, at the fastest level: the others have the same bits, as the next test says.
#[test]
#[ignore = "2.3 thousand million exponentials: about two minutes"]
fn exp_of_every_float32() {
    let level = Level::active();
    let largest = Largest::default();
    std::thread::scope(|scope| {
        for sign in [0, 1 << 31] {
            let largest = &largest;
            scope.spawn(move || {
                for start in (0..END).step_by(4096) {
                    largest.add(start, errors(level, &stretch(start, 4096, 1, sign)));
                }
            });
        }
    });
    largest.check(level);
}

fn bits<T: Real>(level: Level, x: &[T], to_bits: impl Fn(T) -> u64) -> Vec<u64> {
    let (mut p, mut s) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len()]);
    dispatch(level, Terms { x, p: &mut p, s: &mut s });
    p.iter().chain(&s).map(|value| to_bits(*value)).collect()
}

#[test]
fn exp_has_the_same_bits_at_every_level() {
    for level in Level::available() {
        for start in (0..END).step_by(65_521 * 16) {
            let x = stretch(start, 16, 1, 1 << 31);
            let wide: Vec<_> = x.iter().map(|x| f64::from(*x) * 1.000_000_001).collect();
            let narrow = |level| bits(level, &x, |value| u64::from(value.to_bits()));
            assert_eq!(narrow(level), narrow(Level::Portable), "{} {x:?}", level.name());
            let wide = |level| bits(level, &wide, f64::to_bits);
            assert_eq!(wide(level), wide(Level::Portable), "{} {x:?}", level.name());
        }
    }
}
