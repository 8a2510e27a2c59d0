//! The logarithm of a row's sum, and log-probabilities.
//!
//! ```text
//! log sum exp(x / T) = max / T + L        L = log(1 + y),  y = (sum of the terms without the maximum's) / its term
//! log p_i = (x_i - max) / T - L           both parts have one sign: nothing cancels, also where p_i is nearly 1
//! ```
//!
//! y comes from the fold's sum by taking off the maximum's term, which was added without rounding. Where that
//! leaves too little of the sum, digits were lost; the row is then folded again without its maximum (which
//! is unique there), with a shift that suits the rest.
//!
//! x - (max + T L) is computed with max + T L as the sum of two and the subtraction's error (Knuth's two-sum), so
//! that a log-probability is rounded once.

use std::hint::black_box;

use super::ahead::Ahead;
use super::column::{Folds, LANES, of_lane};
use super::double::{Double, power_of_two_at_most_one};
use super::exp::{Exp, Mode, Shift, Temperature, of_shifts};
use super::fold::{CHUNK, FAR, Fold, fold, largest};
use super::kept::Keep;
use super::real::{self, Real, Wide, two_sum};
use super::row::{KeptShare, KeptTerms, Map, PARTS, Results};
use crate::simd::{Kernel, Simd, Vector};

/// Of the sum of `len` float32 terms less the maximum's, the part from which on enough digits are left.
///
/// Beside a far larger term all others are among what rounding takes from a lane's sum, and that is added up without
/// further care. Of equal terms, each addition may round the same way: of 1,000 of them, y is 15 ULP off from 2^-12 on
/// down, 2 at 2^-10. What is taken grows with the number of terms, and so does the error made of it.
pub(crate) fn dominated(len: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "at most a chunk")]
    let terms = len.min(CHUNK) as f64;
    terms * terms / f64::from(1 << 29)
}

/// Of the sum of many chunks' terms less the maximum's, the part from which on the sum has the digits of what chunks without
/// the maximum add to it.
const SUMMED: f64 = 1.0 / (1 << 22) as f64;

/// The exponent below which y is taken for the logarithm.
const TINY: f64 = -900.0;

/// The logarithm of the sum of a row.
#[derive(Clone, Copy)]
pub(crate) struct LogSum<T> {
    /// The largest logit; NaN where the row is NaN.
    pub(crate) max: T,
    /// L, at least 0.
    pub(crate) log: Double,
    base: T,
}

impl<T: Real> LogSum<T> {
    /// From the complete fold of a row.
    #[inline(always)]
    pub(crate) fn new<S: Simd>(token: S, fold: &Fold<T>, temperature: &Temperature<T>, logits: &Logits<'_, T>) -> Self {
        token.call(Complete { fold, temperature, logits })
    }

    #[inline(always)]
    fn complete<S: Simd>(token: S, fold: &Fold<T>, temperature: &Temperature<T>, logits: &Logits<'_, T>) -> Self {
        let max = fold.max;
        let shift = fold.shift();
        if fold.nan {
            return <Self as Results<T>>::NAN;
        }
        if max == T::INFINITY || max == T::NEG_INFINITY {
            return Self { max, ..<Self as Results<T>>::NAN };
        }
        let exp = Exp::<T::Vector<S>>::new(token, temperature, shift);
        let ((u, t), s) = exp.factored::<{ Mode::General as u8 }>(T::Vector::<S>::splat(token, max));
        let top = term((u.to_array().as_ref()[0], t.to_array().as_ref()[0]), s.to_array().as_ref()[0]);
        let sum = T::double(fold.partial.sum);
        let mut others = sum.plus(top.negated());
        let mut is_enough = others.high >= T::dominated(logits.len) * sum.high;
        if !is_enough
            && others.high >= SUMMED * sum.high
            && let Some(again) = others_by_chunk(token, fold, temperature, logits)
        {
            (others, is_enough) = (again, true);
        }
        let log = if is_enough {
            T::ln_1p_of_quotient(others, top)
        } else {
            let rest = fold_without(token, logits, temperature, max);
            let exponent = (rest.partial.k - shift.k).min(0.0);
            let others = T::double(rest.partial.sum);
            if exponent < TINY {
                // log(1 + y) is y, which may be subnormal: the power of two comes last.
                let y = others.times_double(top.reciprocal()).high;
                Double::new(y * power_of_two_at_most_one(TINY) * power_of_two_at_most_one(exponent - TINY))
            } else {
                T::ln_1p_of_quotient(others.times_power(power_of_two_at_most_one(exponent)), top)
            }
        };
        Self { max, log, base: shift.base }
    }

    /// The logarithm of the sum, as the sum of two.
    #[inline(always)]
    pub(crate) fn value(&self, temperature: &Temperature<T>) -> Double {
        let max = Double::new(self.max.to_f64());
        let max = if temperature.is_one() { max } else { max.times_double(temperature.inverse()) };
        max.plus(self.log)
    }
}

/// The arguments of [`LogSum::new`].
struct Complete<'a, T: Real> {
    fold: &'a Fold<T>,
    temperature: &'a Temperature<T>,
    logits: &'a Logits<'a, T>,
}

impl<T: Real> Kernel for Complete<'_, T> {
    type Output = LogSum<T>;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> LogSum<T> {
        LogSum::complete(token, self.fold, self.temperature, self.logits)
    }
}

/// s (1 + p), from the factors of p: what the sum has of it, be p rounded or not.
#[inline(always)]
fn term<T: Real>((u, t): (T, T), s: T) -> Double {
    // (Exact, of two float32; and 1 in float64.)
    let product = Double::product(u.to_f64() * t.to_f64(), s.to_f64());
    Double::sum_of_ordered(s.to_f64(), product.high)
}

/// Log-probabilities of a row, in every lane.
#[derive(Clone, Copy)]
pub(crate) struct LogProbability<V: Vector> {
    base: V,
    scale: V,
    minus_high: V,
    low: V,
    inverse: (V, V),
    lowest: V,
    infinite: V,
    /// 1 and -1, which the compiler does not know.
    ones: (V, V),
}

impl<V: Vector> LogProbability<V> {
    /// From the sum of a row.
    #[inline(always)]
    pub(crate) fn new(token: V::Token, temperature: &Temperature<V::Scalar>, sum: &LogSum<V::Scalar>) -> Self {
        let splat = |value| V::splat(token, value);
        let (high, low) = V::Scalar::split(offset(temperature, sum));
        let (inverse, inverse_low) = temperature.inverse_parts();
        let one = black_box(1.0);
        Self {
            base: splat(sum.base),
            scale: splat(V::Scalar::from_f64(temperature.scale())),
            minus_high: splat(V::Scalar::from_f64(-high.to_f64())),
            low: splat(low),
            inverse: (splat(inverse), splat(inverse_low)),
            lowest: splat(V::Scalar::LOWEST),
            infinite: splat(V::Scalar::NEG_INFINITY),
            ones: (splat(V::Scalar::from_f64(one)), splat(V::Scalar::from_f64(-one))),
        }
    }

    /// `a + b`, by a multiply-add.
    #[inline(always)]
    fn add(&self, a: V, b: V) -> V {
        if V::Token::COMPACT { a.add(b) } else { a.mul_add(self.ones.0, b) }
    }

    /// `a - b`, by a multiply-add.
    #[inline(always)]
    fn sub(&self, a: V, b: V) -> V {
        if V::Token::COMPACT { a.sub(b) } else { b.mul_add(self.ones.1, a) }
    }
}

/// max + T L, in the coordinates of logits from which the base was taken off and that were scaled.
#[inline(always)]
fn offset<T: Real>(temperature: &Temperature<T>, sum: &LogSum<T>) -> Double {
    let max = Double::sum(sum.max.to_f64(), -sum.base.to_f64());
    max.times_power(temperature.scale()).plus(sum.log.times(temperature.scaled()))
}

impl<V: Vector> Map<V> for LogProbability<V> {
    #[inline(always)]
    fn apply<const MODE: u8>(&self, x: V) -> V {
        let x = if MODE >= Mode::General as u8 { x.sub(self.base).mul(self.scale) } else { x };
        // Additions alone would all go the same way: Zen 4 has pipes for them and others for multiply-adds. Half of each
        // take half of the time.
        let high = self.add(x, self.minus_high);
        let virtual_part = high.sub(x);
        let error = x.sub(self.sub(high, virtual_part)).add(self.sub(self.minus_high, virtual_part));
        let low = self.sub(error, self.low);
        let result = if MODE >= Mode::General as u8 {
            let (inverse, inverse_low) = self.inverse;
            high.mul_add(inverse, high.mul_add(inverse_low, low.mul(inverse)))
        } else {
            high.add(low)
        };
        // From -inf, and from logits whose distance overflows, two-sum makes NaN.
        V::select(high.less(self.lowest), self.infinite, result)
    }

    fn with_p<const MODE: u8>(&self, _: V, _: V) -> V {
        unreachable!("see `Results::KEEPS`")
    }

    #[inline(always)]
    fn parts(&self) -> [V; PARTS] {
        // (The last two are no lane's own: there are as many for every function.)
        [self.minus_high, self.low, self.lowest, self.infinite]
    }

    #[inline(always)]
    fn with_parts(self, [minus_high, low, ..]: [V; PARTS]) -> Self {
        Self { minus_high, low, ..self }
    }
}

impl<T: Real> Results<T> for LogSum<T> {
    type Map<S: Simd> = LogProbability<T::Vector<S>>;

    const NAN: Self = Self { max: T::NAN, log: Double::new(f64::NAN), base: T::ZERO };

    #[inline(always)]
    fn of<S: Simd>(token: S, fold: &Fold<T>, temperature: &Temperature<T>, logits: &Logits<'_, T>) -> Self {
        Self::new(token, fold, temperature, logits)
    }

    #[inline(always)]
    fn is_undefined(&self) -> bool {
        self.log.high.is_nan()
    }

    #[inline(always)]
    fn mode(&self, temperature: &Temperature<T>) -> Mode {
        Shift { base: self.base, k: 0.0 }.mode(temperature)
    }

    #[inline(always)]
    fn map<S: Simd>(&self, token: S, temperature: &Temperature<T>) -> Self::Map<S> {
        LogProbability::new(token, temperature, self)
    }

    #[inline(always)]
    fn lanes<S: Simd>(token: S, temperatures: &[Temperature<T>], lanes: &[Self; LANES]) -> Self::Map<S> {
        let mut map = LogProbability::new(token, &temperatures[0], &lanes[0]);
        let zeros = [T::ZERO; LANES];
        let (mut base, mut minus_high, mut low) = (zeros, zeros, zeros);
        let (mut scale, mut inverse, mut inverse_low) = (zeros, zeros, zeros);
        for lane in 0..T::LANES {
            let temperature = of_lane(temperatures, lane);
            let parts = T::split(offset(temperature, &lanes[lane]));
            base[lane] = lanes[lane].base;
            minus_high[lane] = T::from_f64(-parts.0.to_f64());
            low[lane] = parts.1;
            scale[lane] = T::from_f64(temperature.scale());
            (inverse[lane], inverse_low[lane]) = temperature.inverse_parts();
        }
        let load = |lanes: &[T; LANES]| T::Vector::<S>::load(token, lanes);
        map.base = load(&base);
        map.minus_high = load(&minus_high);
        map.low = load(&low);
        map.scale = load(&scale);
        map.inverse = (load(&inverse), load(&inverse_low));
        map
    }

    const KEEPS: bool = false;

    fn kept<S: Simd>(&self, _: S) -> KeptTerms<T::Vector<S>> {
        unreachable!("see `Results::KEEPS`")
    }

    fn kept_alike<S: Simd, const PLAIN: bool>(_: S, _: Wide<S>) -> KeptShare<T::Vector<S>> {
        unreachable!("see `Results::KEEPS`")
    }

    // (As `offset`, of temperature 1 and no base.)
    #[inline(always)]
    fn offsets<S: Simd>(
        token: S,
        exp: &Exp<T::Vector<S>>,
        max: T::Vector<S>,
        sums: Wide<S>,
        len: usize,
    ) -> [T::Vector<S>; 2] {
        let Some(logs) = T::logs(token, sums, exp.factored::<{ Mode::Clamped as u8 }>(max), len) else {
            return [T::Vector::<S>::splat(token, T::NAN); 2];
        };
        let (mut high, mut low) = (T::widened(token, max), logs);
        for half in 0..2 {
            (high[half], low[half]) = two_sum(high[half], logs[half]);
        }
        let first = T::narrowed(token, high);
        let rounded = T::widened(token, first);
        for half in 0..2 {
            low[half] = high[half].sub(rounded[half]).add(low[half]);
        }
        // (From minus zero: so all is negated.)
        [T::Vector::<S>::splat(token, T::from_f64(-0.0)).sub(first), T::narrowed(token, low)]
    }

    #[inline(always)]
    fn each<S: Simd>(
        token: S,
        temperature: &Temperature<T>,
        folds: &Folds<T>,
        len: usize,
        to: &mut [Self; LANES],
    ) -> bool {
        if S::COMPACT {
            return false;
        }
        let max = folds.maxima(token);
        let of_max = of_shifts(token, temperature, folds.shifts(token)).factored::<{ Mode::General as u8 }>(max);
        let Some(logs) = T::logs(token, folds.sums(token), of_max, len) else { return false };
        let mut stored = [0.0; LANES];
        real::store::<S>(logs, &mut stored);
        for (lane, to) in to.iter_mut().enumerate().take(T::LANES) {
            *to = Self { max: folds.get(lane).max, log: Double::new(stored[lane]), base: T::ZERO };
        }
        true
    }

    const BY_LANES: bool = false;

    fn alike<S: Simd>(_: S, _: &Temperature<T>, _: &Folds<T>) -> Self::Map<S> {
        unreachable!("see `Results::BY_LANES`")
    }
}

/// The logits of a row, wherever they are.
pub(crate) struct Logits<'a, T> {
    pub(crate) len: usize,
    /// Copies some of them, from an index on.
    pub(crate) copy: &'a dyn Fn(usize, &mut [T]),
}

/// Makes minus infinity of the logits that equal a row's maximum.
#[inline(always)]
fn exclude<T: Real>(x: &mut [T], max: T) {
    for x in x {
        *x = if *x == max { T::NEG_INFINITY } else { *x };
    }
}

/// The sum of the terms of a row of many chunks, without its maximum's. Only the chunk that has it is folded again; what
/// the others have in the row's sum has digits enough.
#[inline(always)]
fn others_by_chunk<S: Simd, T: Real>(
    token: S,
    row: &Fold<T>,
    temperature: &Temperature<T>,
    logits: &Logits<'_, T>,
) -> Option<Double> {
    if logits.len <= CHUNK || row.base != T::ZERO {
        return None;
    }
    let mut room = [T::ZERO; CHUNK];
    for start in (0..logits.len).step_by(CHUNK) {
        let x = &mut room[..CHUNK.min(logits.len - start)];
        (logits.copy)(start, x);
        if largest::<S, T>(token, x) == row.max {
            let all = fold::<S, T>(token, x, Keep::nothing(), temperature, None, Ahead::NONE).partial;
            exclude(x, row.max);
            let rest = fold::<S, T>(token, x, Keep::nothing(), temperature, None, Ahead::NONE).partial;
            debug_assert!(all.k.to_bits() == row.partial.k.to_bits(), "the row's shift is that of its maximum");
            let rest = T::double(rest.sum).times_power(power_of_two_at_most_one(rest.k - all.k));
            return Some(T::double(row.partial.sum).plus(T::double(all.sum).negated()).plus(rest));
        }
    }
    None
}

/// The fold of a row without the logits that equal its maximum.
///
/// For rows of which one logit outweighs all others by far. The rest has the base of the row, so that the two can be
/// compared.
#[inline(always)]
fn fold_without<S: Simd, T: Real>(token: S, logits: &Logits<'_, T>, temperature: &Temperature<T>, max: T) -> Fold<T> {
    let len = logits.len;
    let base = if temperature.needs_base(max) { max } else { T::ZERO };
    let mut chunk = [T::ZERO; CHUNK];
    let mut fixed = None;
    loop {
        let mut row = Fold::empty(fixed.map_or(T::ZERO, |shift: Shift<T>| shift.base));
        for start in (0..len).step_by(CHUNK) {
            let x = &mut chunk[..CHUNK.min(len - start)];
            (logits.copy)(start, x);
            exclude(x, max);
            row = row.with(fold::<S, T>(token, x, Keep::nothing(), temperature, fixed, Ahead::NONE));
        }
        let second = row.max;
        let complete = base == T::ZERO && row.skipped == T::NEG_INFINITY;
        if fixed.is_some() || complete || second == T::NEG_INFINITY {
            return row;
        }
        if max.to_f64() - second.to_f64() > FAR * temperature.value {
            return Fold::empty(base);
        }
        fixed = Some(temperature.shift(second, base));
    }
}
