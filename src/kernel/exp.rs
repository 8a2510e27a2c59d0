//! The exponential of a logit, unrounded: the one piece of arithmetic that every function shares.
//!
//! For a row with temperature T, a *shift* takes the place of the maximum that others subtract. Subtracting rounds,
//! and the exponential multiplies that rounding error by the logit's size; dividing by a power of two is exact.
//! With k = rint(max / T * log2(e)) the term of logit x is
//!
//! ```text
//! origin * exp(x / T) * 2^(64 - k) = s * (1 + p)    s = 2^(n / 8) but for the origin, |p| <= 0.044
//!
//! z = x * (8 log2(e) / T) + (magic + 8 (191 - k))   one fma; the low bits of z count steps of an eighth of an octave
//! n = z - (magic + 8 (191 - k))                     x / T is about n * ln(2) / 8
//! t = (x - n * (T ln(2) / 8)) / T                   two fma, ln 2 in two parts; the first is exact
//! p = t * (1 + t * (c2 + c3 t + c4 t^2))            within 2^-32 of exp(t) - 1, next to 1; four operations
//! p - center = the same, one multiply-add            what sums add (`sum`): no operation of its own
//! s = POWER[n mod 8] + (bits(z) << 20)              2^(n div 8) times a step of the octave, in one addition of bits
//! ```
//!
//! The eight steps of an octave are float32 in a geometric progression, as nearly as there are any: they start at
//! [`Real::ORIGIN`], a factor that all terms carry and every quotient loses. (64 and 191 are float32's offset, and the
//! sum of offset and bias. float64 has one step, 1, so that s is a power of two and |p| up to 0.42, the offset 512, and
//! a polynomial of degree 11.) s and p are kept apart: sums add s and s p with what rounding takes from them (`fold`),
//! quotients are rounded once (`row`).
//!
//! Three things need more, and cost a few instructions only where they occur:
//! 1. Logits far below the maximum: x is first held to the logit where the lowest octave of normal numbers begins. Its
//!    term is nothing to a sum; quotients have an anchor an octave lower ([`Exp::lowered`]), where 2^(n div 8) is 0.
//! 2. A temperature other than 1: T ln 2 and 1 / T in two parts each.
//! 3. |max| / T above 4,096, where z has no bits left for it: the maximum itself is subtracted (the *base*). That
//!    is exact wherever the result is not 0, by Sterbenz' lemma: x and max are then within a factor of two.
//!    Temperatures beyond 2^±40 are brought to [1, 2) together with the logits, by an exact power of two.

use super::column::LANES;
use super::double::{Double, power_of_two};
use super::real::{Real, Term, Wide};
use crate::simd::{Simd, Vector};

/// |max| / T up to which the power-of-two shift alone is enough.
const SHIFT_LIMIT: f64 = 4096.0;

/// The exponents of temperatures that need no scaling.
const UNSCALED: std::ops::RangeInclusive<i32> = -40..=40;

/// A row's temperature, in the parts that the reduction multiplies by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Temperature<T> {
    /// The temperature as the caller gave it.
    pub(crate) value: f64,
    /// The temperature after scaling.
    scaled: f64,
    /// What logits are multiplied by before anything else: 1, or a power of two.
    scale: f64,
    wide_log2_e: f64,
    log2_e: T,
    ln_2: (T, T),
    inverse: (T, T),
}

/// Whether the reduction in float32 has no room for a temperature: its parts would leave float32's range.
pub(crate) fn is_extreme(temperature: f64) -> bool {
    !(-100..=100).contains(&exponent_of(temperature))
}

impl<T: Real> Temperature<T> {
    /// The parts of a temperature that `options` found to be positive and finite.
    pub(crate) fn new(value: f64) -> Self {
        // (The reciprocal of a greater power of two is no normal number.)
        let exponent = exponent_of(value).min(1022);
        let (scale, scaled) = if UNSCALED.contains(&exponent) {
            (1.0, value)
        } else {
            // 2^-exponent in two factors: one alone may be out of range. (A subnormal temperature ends in
            // [2^-51, 1), where the reduction is as good.)
            (power_of_two(-exponent), value * power_of_two(-(exponent / 2)) * power_of_two(exponent / 2 - exponent))
        };
        let inverse = Double::new(scaled).reciprocal();
        Self {
            value,
            scaled,
            scale,
            wide_log2_e: inverse.times(std::f64::consts::LOG2_E).high,
            log2_e: T::from_f64(inverse.times(std::f64::consts::LOG2_E).high * T::STEPS),
            ln_2: T::split(Double::LN_2.times(scaled / T::STEPS)),
            inverse: T::split(inverse),
        }
    }

    /// 1 / T, as the sum of two.
    #[inline(always)]
    pub(crate) fn inverse(&self) -> Double {
        Double::new(self.value).reciprocal()
    }

    /// 1 / T of scaled logits, in two parts.
    #[inline(always)]
    pub(crate) fn inverse_parts(&self) -> (T, T) {
        self.inverse
    }

    /// The temperature of scaled logits.
    #[inline(always)]
    pub(crate) fn scaled(&self) -> f64 {
        self.scaled
    }

    /// What logits are multiplied by first.
    #[inline(always)]
    pub(crate) fn scale(&self) -> f64 {
        self.scale
    }

    /// Whether the logits can be used as they are.
    #[inline(always)]
    pub(crate) fn is_one(&self) -> bool {
        self.value.to_bits() == 1.0f64.to_bits()
    }

    /// Maxima within this, on either side of 0, do not need a base.
    #[inline(always)]
    pub(crate) fn near(&self) -> T {
        // A little less than the limit, because it is rounded; and finite, so that infinite maxima are beyond it.
        T::from_f64((0.99 * SHIFT_LIMIT * self.value).min(-T::LOWEST.to_f64()))
    }

    /// Whether a maximum is too large for the power-of-two shift alone.
    #[inline(always)]
    pub(crate) fn needs_base(&self, max: T) -> bool {
        max.to_f64().abs() > SHIFT_LIMIT * self.value
    }

    /// The shift for a maximum, which must be finite.
    #[inline(always)]
    pub(crate) fn shift(&self, max: T, base: T) -> Shift<T> {
        let relative = (max.to_f64() - base.to_f64()) * self.scale;
        let octaves = relative * self.wide_log2_e;
        Shift { base, k: octaves.round_ties_even() }
    }

    /// The shift for logits that are summed up: a `fixed` one, or their maximum's. None if that is infinite, or needs a
    /// base.
    #[inline(always)]
    pub(crate) fn shift_within(&self, max: T, fixed: Option<Shift<T>>) -> Option<Shift<T>> {
        if max == T::NEG_INFINITY || max == T::INFINITY || (fixed.is_none() && self.needs_base(max)) {
            return None;
        }
        Some(match fixed {
            Some(shift) => shift,
            None => self.shift(max, T::ZERO),
        })
    }
}

/// The exponent of a positive float64; subnormal ones count as the least normal one.
fn exponent_of(value: f64) -> i32 {
    ((value.to_bits() >> 52) as i32 - 1023).max(-1022)
}

/// What is taken off every logit of a row: terms are exp((x - base) / T) * 2^(OFFSET - k).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shift<T> {
    /// 0, or the row's maximum.
    pub(crate) base: T,
    /// The power of two: an integer of at most 13 bits.
    pub(crate) k: f64,
}

impl<T: Real> Shift<T> {
    /// What logits with this shift ask of the reduction.
    #[inline(always)]
    pub(crate) fn mode(&self, temperature: &Temperature<T>) -> Mode {
        if self.base == T::ZERO { Mode::of(temperature) } else { Mode::General }
    }
}

/// A shift in the numbers that the reduction adds and compares.
#[derive(Clone, Copy)]
pub(crate) struct Anchor<T> {
    magic: T,
    least: T,
    base: T,
}

impl<T: Real> Anchor<T> {
    /// From a shift.
    #[inline(always)]
    pub(crate) fn new(temperature: &Temperature<T>, shift: Shift<T>) -> Self {
        // The octave whose terms would have the biased exponent 0.
        let bottom = shift.k - f64::from(T::BIAS + T::OFFSET);
        Self {
            // What rounds to n and leaves the biased exponent of s, and the step, in the low bits.
            magic: T::from_f64(T::MAGIC.to_f64() - bottom * T::STEPS),
            // The scaled logit where the lowest octave with normal numbers begins.
            least: T::from_f64((bottom + 1.0) * std::f64::consts::LN_2 * temperature.scaled),
            base: shift.base,
        }
    }

    /// Of no logits.
    pub(crate) const NONE: Self = Self { magic: T::MAGIC, least: T::ZERO, base: T::ZERO };
}

/// An [`Anchor`] for each lane, part by part.
pub(crate) struct Anchors<T> {
    magic: [T; LANES],
    least: [T; LANES],
    base: [T; LANES],
}

impl<T: Real> Anchors<T> {
    /// Of no logits.
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Self { magic: [T::MAGIC; LANES], least: [T::ZERO; LANES], base: [T::ZERO; LANES] }
    }

    /// Of the shifts that `exp` has, a lane each.
    #[inline(always)]
    pub(crate) fn of<V: Vector<Scalar = T>>(exp: &Exp<V>) -> Self {
        let mut anchors = Self::none();
        exp.magic.store(&mut anchors.magic);
        exp.least.store(&mut anchors.least);
        exp.base.store(&mut anchors.base);
        anchors
    }

    /// That of a lane.
    #[inline(always)]
    pub(crate) fn get(&self, lane: usize) -> Anchor<T> {
        Anchor { magic: self.magic[lane], least: self.least[lane], base: self.base[lane] }
    }

    /// Sets that of a lane.
    #[inline(always)]
    pub(crate) fn set(&mut self, lane: usize, anchor: Anchor<T>) {
        self.magic[lane] = anchor.magic;
        self.least[lane] = anchor.least;
        self.base[lane] = anchor.base;
    }
}

/// How much of the reduction some logits need; the second includes the first. See also [`PLAIN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// Temperature 1, no base. Terms may vanish.
    Clamped = 1,
    /// A temperature, a base, or both.
    General = 2,
}

/// Less than any [`Mode`], for logits whose terms are all in the normal range. (Only the sum loop of quotients has it.
/// To tell takes the minimum of the logits, and elsewhere to hold them to where terms vanish takes no longer.)
pub(crate) const PLAIN: u8 = 0;

impl Mode {
    /// What logits without a base need at most.
    #[inline(always)]
    pub(crate) fn of<T: Real>(temperature: &Temperature<T>) -> Self {
        if temperature.is_one() { Self::Clamped } else { Self::General }
    }

    /// The mode that code is there for: the last, where it is to be small.
    #[inline(always)]
    pub(crate) fn at<S: Simd>(self) -> Self {
        if S::COMPACT { Self::General } else { self }
    }
}

/// The constants that do not change from element to element, a lane each.
#[derive(Clone, Copy)]
pub(crate) struct Exp<V: Vector> {
    token: V::Token,
    log2_e: V,
    magic: V,
    ln_2: (V, V),
    least: V,
    base: V,
    scale: V,
    inverse: (V, V),
    power: V,
}

impl<V: Vector> Exp<V> {
    /// The same shift and temperature in every lane.
    #[inline(always)]
    pub(crate) fn new(token: V::Token, temperature: &Temperature<V::Scalar>, shift: Shift<V::Scalar>) -> Self {
        Self::at(token, temperature, &Anchor::new(temperature, shift))
    }

    /// The same shift and temperature in every lane.
    #[inline(always)]
    pub(crate) fn at(token: V::Token, temperature: &Temperature<V::Scalar>, anchor: &Anchor<V::Scalar>) -> Self {
        let splat = |value| V::splat(token, value);
        Self {
            token,
            log2_e: splat(temperature.log2_e),
            magic: splat(anchor.magic),
            ln_2: (splat(temperature.ln_2.0), splat(temperature.ln_2.1)),
            least: splat(anchor.least),
            base: splat(anchor.base),
            scale: splat(V::Scalar::from_f64(temperature.scale)),
            inverse: (splat(temperature.inverse.0), splat(temperature.inverse.1)),
            power: V::load(token, &V::Scalar::POWER),
        }
    }

    /// A shift for each lane, and a temperature for each, or one for all.
    #[inline(always)]
    pub(crate) fn of_lanes(
        token: V::Token,
        temperatures: &[Temperature<V::Scalar>],
        anchors: &Anchors<V::Scalar>,
    ) -> Self {
        let mut exp = Self::at(token, &temperatures[0], &Anchor::NONE);
        exp.magic = V::load(token, &anchors.magic);
        exp.least = V::load(token, &anchors.least);
        exp.base = V::load(token, &anchors.base);
        if temperatures.len() > 1 {
            exp.log2_e = Self::lanes(token, temperatures, |t| t.log2_e);
            exp.ln_2 = (Self::lanes(token, temperatures, |t| t.ln_2.0), Self::lanes(token, temperatures, |t| t.ln_2.1));
            exp.scale = Self::lanes(token, temperatures, |t| V::Scalar::from_f64(t.scale));
            exp.inverse =
                (Self::lanes(token, temperatures, |t| t.inverse.0), Self::lanes(token, temperatures, |t| t.inverse.1));
        }
        exp
    }

    /// With all s an octave lower, so that they are 0 where they were the least.
    #[inline(always)]
    pub(crate) fn lowered(self) -> Self {
        let steps = V::splat(self.token, V::Scalar::from_f64(V::Scalar::STEPS));
        Self { magic: self.magic.sub(steps), ..self }
    }

    /// What differs between lanes that have no base, and one temperature.
    #[inline(always)]
    pub(crate) fn anchor(&self) -> (V, V) {
        (self.magic, self.least)
    }

    /// The same with these.
    #[inline(always)]
    pub(crate) fn anchored(self, magic: V, least: V) -> Self {
        Self { magic, least, ..self }
    }

    /// A part of each lane's own.
    #[inline(always)]
    fn lanes<A>(token: V::Token, all: &[A], part: impl Fn(&A) -> V::Scalar) -> V {
        let mut lanes = V::splat(token, V::Scalar::ZERO).to_array();
        for (lane, one) in lanes.as_mut().iter_mut().zip(all) {
            *lane = part(one);
        }
        V::load(token, lanes.as_ref())
    }

    /// The logit as the reduction sees it, and z.
    #[inline(always)]
    fn reduce<const MODE: u8>(&self, x: V) -> (V, V) {
        let mut x = x;
        if MODE >= Mode::General as u8 {
            x = x.sub(self.base).mul(self.scale);
        }
        if MODE > PLAIN {
            x = self.least.max(x);
        }
        (x, x.mul_add(self.log2_e, self.magic))
    }

    /// The logit as the reduction sees it: scaled, and no lower than where its term is 0.
    #[inline(always)]
    pub(crate) fn logit<const MODE: u8>(&self, x: V) -> V {
        self.reduce::<MODE>(x).0
    }

    /// `(p, s)` of each lane: its term is s * (1 + p). NaN gives a p that is NaN.
    #[inline(always)]
    pub(crate) fn term<const MODE: u8>(&self, x: V) -> (V, V) {
        let (factors, s) = self.factored::<MODE>(x);
        (Self::product(factors), s)
    }

    /// `(p - center, p, s)` of each lane, from minus the center ([`super::sum::Sum`]); float64 has none.
    #[inline(always)]
    pub(crate) fn term_about<const MODE: u8>(&self, x: V, minus_center: V) -> (V, V, V) {
        let (factors, s) = self.factored::<MODE>(x);
        let p = Self::product(factors);
        let about = if V::Scalar::STEPS < 2.0 { p } else { factors.0.mul_add(factors.1, minus_center) };
        (about, p, s)
    }

    /// The factors of which p is the product, rounded, and s.
    #[inline(always)]
    pub(crate) fn factored<const MODE: u8>(&self, x: V) -> Term<V> {
        let (x, z) = self.reduce::<MODE>(x);
        (self.factors::<MODE>(x, z), z.power(self.power))
    }

    /// p of each lane. (No product of a logit and log2(e) is halfway between integers, so n, and with it p, is the same
    /// whatever k is.)
    #[inline(always)]
    pub(crate) fn p<const MODE: u8>(&self, x: V) -> V {
        self.placed::<MODE>(x).0
    }

    /// z, for a logit whose p is known.
    #[inline(always)]
    pub(crate) fn place<const MODE: u8>(&self, x: V) -> V {
        self.reduce::<MODE>(x).1
    }

    /// `(p, z)` of each lane.
    #[inline(always)]
    pub(crate) fn placed<const MODE: u8>(&self, x: V) -> (V, V) {
        let (x, z) = self.reduce::<MODE>(x);
        (Self::product(self.factors::<MODE>(x, z)), z)
    }

    #[inline(always)]
    fn product((u, t): (V, V)) -> V {
        if V::Scalar::STEPS < 2.0 { u } else { u.mul(t) }
    }

    /// The factors of p of a logit as [`Exp::reduce`] has it: (exp(t) - 1) / t and t; or p and 1 in float64, where t is not
    /// small and this would be rounded once more.
    #[inline(always)]
    fn factors<const MODE: u8>(&self, x: V, z: V) -> (V, V) {
        let minus_n = self.magic.sub(z);
        let mut t = minus_n.mul_add(self.ln_2.1, minus_n.mul_add(self.ln_2.0, x));
        if MODE >= Mode::General as u8 {
            t = t.mul_add(self.inverse.0, t.mul(self.inverse.1));
        }
        let one = V::splat(self.token, V::Scalar::from_f64(1.0));
        let q = self.polynomial(t);
        if V::Scalar::STEPS < 2.0 { (q.mul_add(t.mul(t), t), one) } else { (q.mul_add(t, one), t) }
    }

    /// (exp(t) - 1 - t) / t^2.
    #[inline(always)]
    fn polynomial(&self, t: V) -> V {
        let mut q = V::splat(self.token, V::Scalar::ZERO);
        for (index, coefficient) in V::Scalar::POLYNOMIAL.iter().rev().enumerate() {
            let coefficient = V::splat(self.token, *coefficient);
            q = if index == 0 { coefficient } else { q.mul_add(t, coefficient) };
        }
        q
    }
}

/// A shift without a base for each lane, from the k of each, and one temperature. (As [`Anchor::new`].)
#[inline(always)]
pub(crate) fn of_shifts<S: Simd, T: Real>(token: S, temperature: &Temperature<T>, k: Wide<S>) -> Exp<T::Vector<S>> {
    let splat = |value| S::F64::splat(token, value);
    let (mut magic, mut least) = (k, k);
    for half in 0..2 {
        let bottom = k[half].sub(splat(f64::from(T::BIAS + T::OFFSET)));
        magic[half] = splat(T::MAGIC.to_f64()).sub(bottom.mul(splat(T::STEPS)));
        least[half] = bottom.add(splat(1.0)).mul(splat(std::f64::consts::LN_2)).mul(splat(temperature.scaled));
    }
    Exp {
        magic: T::narrowed(token, magic),
        least: T::narrowed(token, least),
        ..Exp::at(token, temperature, &Anchor::NONE)
    }
}

/// A shift for each lane: what the reduction needs, and the k of each.
pub(crate) type Shifts<S, T> = (Exp<<T as Real>::Vector<S>>, Wide<S>);

/// For sums of lanes of which each has its maximum: this, and the k of each, unless some maximum needs a base or is
/// infinite. (As [`Temperature::shift`].)
#[inline(always)]
pub(crate) fn of_maxima<S: Simd, T: Real>(
    token: S,
    temperature: &Temperature<T>,
    max: T::Vector<S>,
) -> Option<Shifts<S, T>> {
    let (near, zero) = (T::Vector::<S>::splat(token, temperature.near()), T::Vector::<S>::splat(token, T::ZERO));
    if T::Vector::<S>::any(near.less(max)) || T::Vector::<S>::any(max.less(zero.sub(near))) {
        return None;
    }
    let splat = |value| S::F64::splat(token, value);
    // Added and taken off again, it rounds to an integer, to the even one of two.
    let magic = splat(<f64 as Real>::MAGIC);
    let mut k = T::widened(token, max);
    for half in &mut k {
        let octaves = half.mul(splat(temperature.scale)).mul(splat(temperature.wide_log2_e));
        *half = octaves.add(magic).sub(magic);
    }
    Some((of_shifts(token, temperature, k), k))
}

#[cfg(test)]
mod tests;
