//! Sums of terms that lose nothing of what rounding takes, a lane each, and their sums over the lanes.

use super::column::LANES;
use super::exp::Exp;
use super::real::{self, Real, Stored, Wide};
use crate::simd::{Simd, Vector};

/// Combines lanes j and j + h for h = half the lanes, a quarter, ..., 1.
#[inline(always)]
pub(crate) fn halve<A: AsMut<[T]>, T: Copy>(mut lanes: A, combine: impl Fn(T, T) -> T) -> T {
    let lanes = lanes.as_mut();
    let mut half = lanes.len() / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] = combine(lanes[j], lanes[j + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Sums of terms, a lane each, with what rounding took from them.
#[derive(Clone, Copy)]
pub(crate) struct Sum<V> {
    high: V,
    /// What rounding took from `high`.
    low: V,
    /// The p of the largest term, or 0. All terms have it in common, and it is made up for at the end: so the largest
    /// leaves next to nothing in `apart` (what rounding took from its p), where it would cost the digits of all others. It
    /// is negative here, as it is added.
    minus_center: V,
    /// The sum of all s * (p - center), where s alone is added above.
    apart: V,
}

impl<V: Vector> Sum<V> {
    /// A power of two that no term exceeds: the terms of a maximum are below 2^(OFFSET + 1/2 + 1/16) ORIGIN.
    #[inline(always)]
    fn guard() -> V::Scalar {
        V::Scalar::from_f64(super::double::power_of_two(V::Scalar::OFFSET + 1))
    }

    /// No terms yet, of logits of which each lane's has this `center`.
    #[inline(always)]
    pub(crate) fn new(token: V::Token, center: V) -> Self {
        let zero = V::splat(token, V::Scalar::ZERO);
        Self { high: V::splat(token, Self::guard()), low: zero, minus_center: zero.sub(center), apart: zero }
    }

    /// What terms are taken about: minus the center.
    #[inline(always)]
    pub(crate) fn minus_center(&self) -> V {
        self.minus_center
    }

    /// Adds s * (1 + p) to each lane, of which p is given less the center.
    #[inline(always)]
    pub(crate) fn add(&mut self, p: V, s: V) {
        let whole = is_whole::<V::Scalar>();
        let term = if whole { p.mul_add(s, s) } else { s };
        let high = self.high.add(term);
        let added = high.sub(self.high);
        // s - added is exact, and so s + s p - added is rounded once.
        let lost = s.sub(added);
        if whole {
            self.low = self.low.add(p.mul_add(s, lost));
        } else {
            self.low = self.low.add(lost);
            self.apart = p.mul_add(s, self.apart);
        }
        self.high = high;
    }

    /// See [`Vector::carried`].
    #[inline(always)]
    pub(crate) fn carried(self) -> Self {
        Self { high: self.high.carried(), low: self.low.carried(), apart: self.apart.carried(), ..self }
    }

    /// The center of the first lane.
    #[inline(always)]
    pub(crate) fn first_center(&self) -> V::Scalar {
        V::Scalar::from_f64(0.0 - self.minus_center.to_array().as_ref()[0].to_f64())
    }

    /// What each lane has of s alone, as the sum of two, and what is apart.
    #[inline(always)]
    fn parts(self, token: V::Token) -> (V, V, V) {
        (self.high.sub(V::splat(token, Self::guard())), self.low, self.apart)
    }
}

/// Whether whole terms are added; else, where p is small, s and s (p - center) apart.
#[inline(always)]
pub(crate) fn is_whole<T: Real>() -> bool {
    T::STEPS < 2.0
}

/// The p of each lane's maximum, as sums need it ([`Sum`]).
#[inline(always)]
pub(crate) fn centers<V: Vector, const MODE: u8>(token: V::Token, exp: &Exp<V>, max: V) -> V {
    if is_whole::<V::Scalar>() { V::splat(token, V::Scalar::ZERO) } else { exp.p::<MODE>(max) }
}

/// The same of one maximum, in every lane.
#[inline(always)]
pub(crate) fn center<V: Vector, const MODE: u8>(token: V::Token, exp: &Exp<V>, max: V::Scalar) -> V {
    // (Of a vector that takes several registers, the compiler knows by this that one of them is enough.)
    V::splat(token, centers::<V, MODE>(token, exp, V::splat(token, max)).to_array().as_ref()[0])
}

/// A sum for each lane.
pub(crate) type Lanes<T> = [<T as Real>::Wide; LANES];

/// The sum of each lane, of what was stored; those past the vector's are empty.
#[inline(always)]
pub(crate) fn lanes_of<T: Real>(stored: &Stored) -> Lanes<T> {
    let mut lanes = [T::Wide::default(); LANES];
    for (lane, sum) in lanes.iter_mut().enumerate().take(T::LANES) {
        *sum = T::wide_of(stored, lane);
    }
    lanes
}

/// What is in each lane, to be added up over them: s, and what is apart.
#[inline(always)]
pub(crate) fn wide_sum<S: Simd, T: Real>(token: S, sum: Sum<T::Vector<S>>) -> (Wide<S>, T::Vector<S>) {
    let (high, low, apart) = sum.parts(token);
    (T::wide_sum(token, high, low), apart)
}

/// The sum over lanes of what is apart.
#[inline(always)]
pub(crate) fn total_apart<V: Vector>(apart: V) -> V::Scalar {
    halve(apart.to_array(), V::Scalar::plus)
}

/// The sum over the lanes, of terms that have the center of the first in common.
#[inline(always)]
pub(crate) fn total<S: Simd, T: Real>(token: S, sum: Sum<T::Vector<S>>) -> T::Wide {
    let (wide, apart) = wide_sum::<S, T>(token, sum);
    T::with_apart(total_wide::<S, T>(wide), sum.first_center(), total_apart(apart))
}

/// The sum over the lanes, as a halving tree.
#[inline(always)]
pub(crate) fn total_wide<S: Simd, T: Real>(wide: Wide<S>) -> T::Wide {
    let mut stored = [0.0; LANES];
    real::store::<S>(wide, &mut stored);
    halve(lanes_of::<T>(&stored), T::add_wide)
}
