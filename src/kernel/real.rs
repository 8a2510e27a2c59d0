//! The two types that arithmetic is done in, float32 and float64, and their constants.

use super::column::LANES;
use super::double::Double;
use super::log::{ln_1p, ln_1p_double, ln_1p_of_lanes};
use super::log_row::dominated;
use super::sum::{halve, lanes_of};
use crate::simd::{LINE, Simd, Vector};

/// float32 or float64, with all that the reduction of an exponential needs.
///
/// The names follow [`super::exp`], which explains them.
pub(crate) trait Real: Copy + PartialOrd + Default + Send + Sync + 'static {
    /// Into how many steps an octave is divided: a power of two.
    const STEPS: f64;
    /// The steps, repeated: step j is 2^(j / STEPS) times [`Real::ORIGIN`], as nearly as can be.
    const STEP: [Self; LANES];
    /// The bits of the steps without their exponents, less what j adds to the bits that [`Vector::power`] makes.
    const POWER: [Self; LANES];
    /// What all terms are multiplied by.
    const ORIGIN: f64;
    /// Coefficients of t^2, t^3, ... in exp(t) - 1 - t on |t| <= ln(2) / 2 / STEPS * (1 + 2^-8).
    const POLYNOMIAL: &'static [Self];
    /// 1.5 * 2^(mantissa bits): adding it rounds to an integer and leaves that integer in the low bits.
    const MAGIC: Self;
    /// The power of two that all terms carry, so that neither terms nor reciprocals leave the normal range.
    const OFFSET: i32;
    /// The exponent's bias.
    const BIAS: i32;
    /// The exponent of the least number greater than 0, and the digits of a normal one.
    const LOWEST_EXPONENT: i32;
    const DIGITS: i32;
    /// Logits no further below the maximum than this give terms in the normal range.
    const NARROW: f64;
    /// The dtype's NaN, one bit pattern everywhere.
    const NAN: Self;
    /// Infinity.
    const INFINITY: Self;
    /// Minus infinity.
    const NEG_INFINITY: Self;
    /// The lowest finite value.
    const LOWEST: Self;
    /// Zero.
    const ZERO: Self;

    /// The vector with lanes of this type.
    type Vector<S: Simd>: Vector<Scalar = Self, Token = S>;

    /// The number of lanes of a vector.
    const LANES: usize = LINE / size_of::<Self>();

    /// What sums of chunks are kept in: twice the precision.
    type Wide: Copy + Default + Send + Sync;

    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
    /// The value as the sum of two, the first the nearest.
    fn split(value: Double) -> (Self, Self);
    /// The sum of two values of about this type's precision.
    fn wide(high: Self, low: Self) -> Self::Wide;
    /// The same number in each lane.
    fn widened<S: Simd>(token: S, lanes: Self::Vector<S>) -> Wide<S>;
    /// The nearest number of this type in each lane.
    fn narrowed<S: Simd>(token: S, wide: Wide<S>) -> Self::Vector<S>;
    /// `high + low` of each lane.
    fn wide_sum<S: Simd>(token: S, high: Self::Vector<S>, low: Self::Vector<S>) -> Wide<S>;
    /// [`Real::add_wide`] of each lane.
    fn add_wides<S: Simd>(a: Wide<S>, b: Wide<S>) -> Wide<S>;
    /// A sum of s, and what is apart from it, as a sum of terms ([`super::sum::Sum`]).
    fn with_apart(sum: Self::Wide, center: Self, apart: Self) -> Self::Wide;
    /// The same of each lane.
    fn with_aparts<S: Simd>(token: S, sum: Wide<S>, center: Self::Vector<S>, apart: Self::Vector<S>) -> Wide<S>;
    /// The sum of two.
    fn plus(self, other: Self) -> Self;
    /// The sum over the lanes of each of so many [`Wide`] as there are lanes, as a halving tree ([`super::sum::halve`]).
    #[inline(always)]
    fn totals<S: Simd>(token: S, of: &[Stored; LANES]) -> Wide<S> {
        let mut totals = [0.0; LANES];
        for (lane, of) in of.iter().enumerate().take(Self::LANES) {
            Self::store_wide(halve(lanes_of::<Self>(of), Self::add_wide), &mut totals, lane);
        }
        load::<S>(token, &totals)
    }
    /// [`Real::reciprocal`] of each lane.
    fn reciprocals<S: Simd>(token: S, wide: Wide<S>) -> (Self::Vector<S>, Self::Vector<S>);
    /// The number of a lane, of a [`Wide`] that was stored.
    fn wide_of(stored: &Stored, lane: usize) -> Self::Wide;
    /// The reverse of [`Real::wide_of`].
    fn store_wide(wide: Self::Wide, stored: &mut Stored, lane: usize);
    /// `a * 2^i + b * 2^j`, where the powers of two are given and at most 1.
    fn add_scaled(a: Self::Wide, scale_a: f64, b: Self::Wide, scale_b: f64) -> Self::Wide;
    /// `a + b`.
    fn add_wide(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// The same value.
    fn double(wide: Self::Wide) -> Double;
    /// log(1 + a / b), as precisely as results of this type need.
    fn ln_1p_of_quotient(a: Double, b: Double) -> Double;
    /// L of [`super::log_row`] of each lane, from its sum and from its maximum's term, by the factors of p and s; NaN where
    /// that is so much of the sum that little is left of the others'. `None` where this dtype has no such code.
    fn logs<S: Simd>(token: S, sum: Wide<S>, of_max: Term<Self::Vector<S>>, len: usize) -> Option<Wide<S>>;
    /// See [`super::log_row::dominated`].
    fn dominated(len: usize) -> f64;
    /// The reciprocal of a sum, as the sum of two values.
    fn reciprocal(wide: Self::Wide) -> (Self, Self);
    /// Whether this is NaN.
    fn is_nan(self) -> bool;
}

/// A number for each lane, in float64 vectors: float32's 16 lanes as two halves, float64's 8 lanes as numbers of two
/// parts.
pub(crate) type Wide<S> = [<S as Simd>::F64; 2];

/// The factors of a term's p, and its s.
pub(crate) type Term<V> = ((V, V), V);

/// A [`Wide`] in memory.
pub(crate) type Stored = [f64; LANES];

/// Stores both vectors.
#[inline(always)]
pub(crate) fn store<S: Simd>(wide: Wide<S>, to: &mut Stored) {
    wide[0].store(to);
    wide[1].store(&mut to[LANES / 2..]);
}

/// The reverse of [`store`].
#[inline(always)]
pub(crate) fn load<S: Simd>(token: S, from: &Stored) -> Wide<S> {
    [S::F64::load(token, from), S::F64::load(token, &from[LANES / 2..])]
}

/// `a + b`, and what rounding took from it.
#[inline(always)]
pub(crate) fn two_sum<V: Vector>(a: V, b: V) -> (V, V) {
    let sum = a.add(b);
    let virtual_b = sum.sub(a);
    (sum, a.sub(sum.sub(virtual_b)).add(b.sub(virtual_b)))
}

/// The same where |a| >= |b|.
#[inline(always)]
fn two_sum_of_ordered<V: Vector>(a: V, b: V) -> (V, V) {
    let sum = a.add(b);
    (sum, b.sub(sum.sub(a)))
}

/// Eight values for sixteen lanes.
const fn twice(values: [f32; 8]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    let mut lane = 0;
    while lane < LANES {
        lanes[lane] = values[lane % 8];
        lane += 1;
    }
    lanes
}

/// [`Real::POWER`] of [`Real::STEP`].
const fn powers(steps: [f32; LANES]) -> [f32; LANES] {
    let mut lanes = steps;
    let (mut lane, mut step) = (0, 0);
    while lane < LANES {
        lanes[lane] = f32::from_bits(steps[lane].to_bits() - 1.0f32.to_bits() - (step << 20));
        lane += 1;
        step = (step + 1) % 8;
    }
    lanes
}

impl Real for f32 {
    type Vector<S: Simd> = S::F32;
    type Wide = f64;

    const STEPS: f64 = 8.0;
    // A geometric progression of eight float32 has no better start than this: all are within 2^-28.4 of it, where
    // rounding alone would leave 2^-24. Found by trying all of them.
    const STEP: [Self; LANES] =
        twice([1.087_714_9, 1.186_161_5, 1.293_518_3, 1.410_591_7, 1.538_261_2, 1.677_485_7, 1.829_311_1, 1.994_877_9]);
    const POWER: [Self; LANES] = powers(Self::STEP);
    const ORIGIN: f64 = 1.087_714_908_591_551;
    // Minimax, relative error 2^-32.3, computed with mpmath.
    const POLYNOMIAL: &'static [Self] = &[0.5, 0.166_680_4, 0.041_660_37];
    const MAGIC: Self = 12_582_912.0;
    const OFFSET: i32 = 64;
    const BIAS: i32 = 127;
    const LOWEST_EXPONENT: i32 = -149;
    const DIGITS: i32 = 24;
    const NARROW: f64 = 50.0;
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    const LOWEST: Self = Self::MIN;
    const ZERO: Self = 0.0;

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "the one rounding")]
    fn from_f64(value: f64) -> Self {
        value as Self
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn split(value: Double) -> (Self, Self) {
        let first = Self::from_f64(value.high);
        (first, Self::from_f64((value.high - f64::from(first)) + value.low))
    }

    #[inline(always)]
    fn wide(high: Self, low: Self) -> f64 {
        f64::from(high) + f64::from(low)
    }

    #[inline(always)]
    fn widened<S: Simd>(token: S, lanes: S::F32) -> Wide<S> {
        token.widen(lanes)
    }

    #[inline(always)]
    fn narrowed<S: Simd>(token: S, wide: Wide<S>) -> S::F32 {
        token.narrow(wide)
    }

    #[inline(always)]
    fn wide_sum<S: Simd>(token: S, high: S::F32, low: S::F32) -> Wide<S> {
        Self::add_wides::<S>(token.widen(high), token.widen(low))
    }

    #[inline(always)]
    fn add_wides<S: Simd>(a: Wide<S>, b: Wide<S>) -> Wide<S> {
        [a[0].add(b[0]), a[1].add(b[1])]
    }

    #[inline(always)]
    fn with_apart(sum: f64, center: Self, apart: Self) -> f64 {
        sum + (sum * f64::from(center) + f64::from(apart))
    }

    #[inline(always)]
    fn with_aparts<S: Simd>(token: S, sum: Wide<S>, center: S::F32, apart: S::F32) -> Wide<S> {
        let (center, apart) = (token.widen(center), token.widen(apart));
        let mut terms = sum;
        for half in 0..2 {
            terms[half] = sum[half].add(sum[half].mul(center[half]).add(apart[half]));
        }
        terms
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn totals<S: Simd>(token: S, of: &[Stored; LANES]) -> Wide<S> {
        let mut totals = [S::F64::splat(token, 0.0); 2];
        for (total, of) in totals.iter_mut().zip(of.chunks_exact(8)) {
            let mut lanes = [*total; 8];
            for (lanes, of) in lanes.iter_mut().zip(of) {
                let [lower, upper] = load::<S>(token, of);
                *lanes = lower.add(upper);
            }
            S::F64::transpose(token, &mut lanes);
            for half in [4, 2, 1] {
                for j in 0..half {
                    lanes[j] = lanes[j].add(lanes[j + half]);
                }
            }
            *total = lanes[0];
        }
        totals
    }

    #[inline(always)]
    fn reciprocals<S: Simd>(token: S, wide: Wide<S>) -> (S::F32, S::F32) {
        let one = S::F64::splat(token, 1.0);
        let reciprocal = [one.div(wide[0]), one.div(wide[1])];
        let first = token.narrow(reciprocal);
        let rounded = token.widen(first);
        (first, token.narrow([reciprocal[0].sub(rounded[0]), reciprocal[1].sub(rounded[1])]))
    }

    #[inline(always)]
    fn wide_of(stored: &Stored, lane: usize) -> f64 {
        stored[lane]
    }

    #[inline(always)]
    fn store_wide(wide: f64, stored: &mut Stored, lane: usize) {
        stored[lane] = wide;
    }

    #[inline(always)]
    fn add_scaled(a: f64, scale_a: f64, b: f64, scale_b: f64) -> f64 {
        a * scale_a + b * scale_b
    }

    #[inline(always)]
    fn add_wide(a: f64, b: f64) -> f64 {
        a + b
    }

    #[inline(always)]
    fn double(wide: f64) -> Double {
        Double::new(wide)
    }

    #[inline(always)]
    fn ln_1p_of_quotient(a: Double, b: Double) -> Double {
        Double::new(ln_1p(a.high / b.high))
    }

    #[inline(always)]
    fn dominated(len: usize) -> f64 {
        dominated(len)
    }

    #[inline(always)]
    fn logs<S: Simd>(token: S, sum: Wide<S>, ((u, t), s): Term<S::F32>, len: usize) -> Option<Wide<S>> {
        let (u, t, s) = (token.widen(u), token.widen(t), token.widen(s));
        let dominated = S::F64::splat(token, dominated(len));
        let mut logs = sum;
        for half in 0..2 {
            // s (1 + p) as the sum of two, and what it leaves of the sum: as `log_row::term` and `Double::plus`.
            let product = u[half].mul(t[half]).mul(s[half]);
            let (top, low) = two_sum_of_ordered(s[half], product);
            let zero = S::F64::splat(token, 0.0);
            let (others, lost) = two_sum(sum[half], zero.sub(top));
            let others = others.add(lost.sub(low));
            let undefined = S::F64::splat(token, f64::NAN);
            let logs_of_all = ln_1p_of_lanes(token, others.div(top));
            logs[half] = S::F64::select(others.less(dominated.mul(sum[half])), undefined, logs_of_all);
        }
        Some(logs)
    }

    #[inline(always)]
    fn reciprocal(wide: f64) -> (Self, Self) {
        let reciprocal = 1.0 / wide;
        let first = Self::from_f64(reciprocal);
        (first, Self::from_f64(reciprocal - f64::from(first)))
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

impl Real for f64 {
    type Vector<S: Simd> = S::F64;
    type Wide = Double;

    const STEPS: f64 = 1.0;
    const STEP: [Self; LANES] = [1.0; LANES];
    const POWER: [Self; LANES] = [0.0; LANES];
    const ORIGIN: f64 = 1.0;
    // Remez, relative error 2^-57.9, computed with mpmath.
    const POLYNOMIAL: &'static [Self] = &[
        0.500_000_000_000_001_1,
        0.166_666_666_666_664_1,
        0.041_666_666_666_529_21,
        0.008_333_333_333_495_594,
        0.001_388_888_894_391_500_5,
        0.000_198_412_695_048_126_82,
        2.480_149_277_155_983_3e-5,
        2.755_758_731_695_224e-6,
        2.763_037_522_765_166e-7,
        2.499_996_785_128_830_3e-8,
    ];
    const MAGIC: Self = 6_755_399_441_055_744.0;
    const OFFSET: i32 = 512;
    const BIAS: i32 = 1023;
    const LOWEST_EXPONENT: i32 = -1074;
    const DIGITS: i32 = 53;
    const NARROW: f64 = 500.0;
    const NAN: Self = Self::NAN;
    const INFINITY: Self = Self::INFINITY;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    const LOWEST: Self = Self::MIN;
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn split(value: Double) -> (Self, Self) {
        (value.high, value.low)
    }

    #[inline(always)]
    fn widened<S: Simd>(token: S, lanes: S::F64) -> Wide<S> {
        [lanes, S::F64::splat(token, 0.0)]
    }

    #[inline(always)]
    fn narrowed<S: Simd>(_: S, wide: Wide<S>) -> S::F64 {
        wide[0]
    }

    #[inline(always)]
    fn wide_sum<S: Simd>(_: S, high: S::F64, low: S::F64) -> Wide<S> {
        two_sum(high, low).into()
    }

    // (Sums of float64 have digits to spare: of terms next to a far larger one, too, rounding takes less than this needs.)
    #[inline(always)]
    fn dominated(_: usize) -> f64 {
        1.0 / 65536.0
    }

    #[inline(always)]
    fn with_apart(sum: Double, _: Self, _: Self) -> Double {
        sum
    }

    #[inline(always)]
    fn with_aparts<S: Simd>(_: S, sum: Wide<S>, _: S::F64, _: S::F64) -> Wide<S> {
        sum
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }

    // As `Double::plus`.
    #[inline(always)]
    fn add_wides<S: Simd>(a: Wide<S>, b: Wide<S>) -> Wide<S> {
        let (high, lost) = two_sum(a[0], b[0]);
        let (low, rest) = two_sum(a[1], b[1]);
        let (high, low) = two_sum_of_ordered(high, low.add(lost));
        two_sum_of_ordered(high, low.add(rest)).into()
    }

    // As `Double::reciprocal`.
    #[inline(always)]
    fn reciprocals<S: Simd>(token: S, [high, low]: Wide<S>) -> (S::F64, S::F64) {
        let one = S::F64::splat(token, 1.0);
        let first = one.div(high);
        let minus = S::F64::splat(token, 0.0).sub(first);
        let rest = low.mul_add(minus, high.mul_add(minus, one));
        two_sum_of_ordered(first, rest.mul(first))
    }

    #[inline(always)]
    fn wide_of(stored: &Stored, lane: usize) -> Double {
        Double { high: stored[lane], low: stored[LANES / 2 + lane] }
    }

    #[inline(always)]
    fn store_wide(wide: Double, stored: &mut Stored, lane: usize) {
        (stored[lane], stored[LANES / 2 + lane]) = (wide.high, wide.low);
    }

    #[inline(always)]
    fn wide(high: Self, low: Self) -> Double {
        Double::sum(high, low)
    }

    #[inline(always)]
    fn add_scaled(a: Double, scale_a: f64, b: Double, scale_b: f64) -> Double {
        a.times_power(scale_a).plus(b.times_power(scale_b))
    }

    #[inline(always)]
    fn add_wide(a: Double, b: Double) -> Double {
        a.plus(b)
    }

    #[inline(always)]
    fn double(wide: Double) -> Double {
        wide
    }

    #[inline(always)]
    fn ln_1p_of_quotient(a: Double, b: Double) -> Double {
        ln_1p_double(a.times_double(b.reciprocal()))
    }

    #[inline(always)]
    fn logs<S: Simd>(_: S, _: Wide<S>, _: Term<S::F64>, _: usize) -> Option<Wide<S>> {
        None
    }

    #[inline(always)]
    fn reciprocal(wide: Double) -> (Self, Self) {
        let reciprocal = wide.reciprocal();
        (reciprocal.high, reciprocal.low)
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}
