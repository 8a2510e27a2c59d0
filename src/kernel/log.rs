//! The logarithm of a sum: log(1 + y) for y >= 0, to the last bit also where y is tiny.
//!
//! With 1 + y = 2^k m and m in [0.70, 1.42), log m = 2 artanh(w), w = (m - 1) / (m + 1), an odd series in w. Where
//! k = 0, m - 1 is y itself, whatever rounding takes from 1 + y.

use super::column::LANES;
use super::double::Double;
use crate::simd::{Simd, Vector};

/// (artanh(w) / w - 1) / w^2 in powers of w^2, for |w| <= 0.172: minimax, of artanh within 2^-52 of itself; computed with
/// mpmath.
const SERIES: [f64; 6] = [
    0.333_333_333_332_937_24,
    0.200_000_000_260_814_2,
    0.142_857_085_732_897_63,
    0.111_116_852_872_217_79,
    0.090_618_378_921_955_4,
    0.084_097_260_469_036_6,
];

/// log(1 + y) within 2^-50 of itself.
#[inline(always)]
pub(crate) fn ln_1p(y: f64) -> f64 {
    let (k, m) = reduce(1.0 + y);
    let numerator = if k == 0.0 { y } else { m - 1.0 };
    let w = numerator / (m + 1.0);
    let square = w * w;
    // Every second term apart, so that they need not wait for each other.
    let (fourth, [a, b, c, d, e, f]) = (square * square, SERIES);
    let series = ((e * fourth + c) * fourth + a) + ((f * fourth + d) * fourth + b) * square;
    let log_m = 2.0 * w + 2.0 * w * square * series;
    k * std::f64::consts::LN_2 + log_m
}

/// [`ln_1p`] of each lane, by the same operations.
#[inline(always)]
pub(crate) fn ln_1p_of_lanes<S: Simd>(token: S, y: S::F64) -> S::F64 {
    let one = S::F64::splat(token, 1.0);
    let (mut k, mut m) = ([0.0; LANES / 2], [0.0; LANES / 2]);
    one.add(y).store(&mut m);
    for (k, m) in k.iter_mut().zip(&mut m) {
        (*k, *m) = reduce(*m);
    }
    let (k, m) = (S::F64::load(token, &k), S::F64::load(token, &m));
    // (k is an integer, and not below 0 where y is not.)
    let numerator = S::F64::select(k.less(S::F64::splat(token, 0.5)), y, m.sub(one));
    let w = numerator.div(m.add(one));
    let square = w.mul(w);
    let fourth = square.mul(square);
    let (mut even, mut odd) = (S::F64::splat(token, SERIES[4]), S::F64::splat(token, SERIES[5]));
    for index in [2, 0] {
        even = even.mul(fourth).add(S::F64::splat(token, SERIES[index]));
        odd = odd.mul(fourth).add(S::F64::splat(token, SERIES[index + 1]));
    }
    let series = even.add(odd.mul(square));
    let twice = S::F64::splat(token, 2.0).mul(w);
    let log_m = twice.add(twice.mul(square).mul(series));
    k.mul(S::F64::splat(token, std::f64::consts::LN_2)).add(log_m)
}

/// `(k, m)` with value = 2^k m and m in [0.70, 1.42).
#[inline(always)]
fn reduce(value: f64) -> (f64, f64) {
    // Adding the distance from sqrt(1/2) to 1 in bits makes the exponent step there.
    let bits = value.to_bits().wrapping_add(0x3ff0_0000_0000_0000 - 0x3fe6_a09e_667f_3bcd);
    let exponent = (bits >> 52).cast_signed() - 1023;
    let mantissa = (bits & 0x000f_ffff_ffff_ffff) + 0x3fe6_a09e_667f_3bcd;
    #[allow(clippy::cast_precision_loss, reason = "an exponent")]
    (exponent as f64, f64::from_bits(mantissa))
}

/// log(1 + y) within 2^-62 of itself.
#[inline(always)]
pub(crate) fn ln_1p_double(y: Double) -> Double {
    let (k, m) = reduce(1.0 + y.high);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 22 and 46")]
    let nearest = (m * 32.0).round_ties_even() as usize;
    #[allow(clippy::cast_precision_loss, reason = "exact")]
    let c = nearest as f64 / 32.0;
    // m - c and m + c, with all of y's bits; 2^-k is exact.
    #[allow(clippy::cast_possible_truncation, reason = "an exponent")]
    let scale = super::double::power_of_two(-(k as i32));
    let scaled = y.times_power(scale);
    let difference = Double::sum(scale, -c).plus(scaled);
    let sum = Double::sum(scale, c).plus(scaled);
    let w = difference.times_double(sum.reciprocal());
    let square = w.high * w.high;
    // |w| <= 0.012; the first term is a Double, so 2^-53 of the others is enough.
    let series = w.high * square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * (1.0 / 7.0 + square * (1.0 / 9.0))));
    let log_m = Double::sum_of_ordered(2.0 * w.high, 2.0 * w.low + 2.0 * series);
    let (high, low) = LOGARITHMS[nearest - 22];
    Double::LN_2.times(k).plus(Double { high, low }).plus(log_m)
}

/// log(j / 32) for j from 22 to 46, in two parts; computed with mpmath.
#[allow(clippy::excessive_precision, clippy::unreadable_literal, reason = "generated")]
const LOGARITHMS: [(f64, f64); 25] = [
    (-0.3746934494414107, 3.9243112288632396e-18),
    (-0.33024168687057687, 1.0828321637483858e-17),
    (-0.2876820724517809, -2.607160616442564e-17),
    (-0.24686007793152578, -1.361743371748368e-17),
    (-0.2076393647782445, -1.2053243216686129e-17),
    (-0.16989903679539747, 4.868008764439071e-19),
    (-0.13353139262452263, 3.664457663660085e-18),
    (-0.09844007281325252, 4.439009633675136e-18),
    (-0.06453852113757118, 6.470486661692933e-18),
    (-0.0317486983145803, -3.0382263084680858e-18),
    (0.0, 0.0),
    (0.030771658666753687, 1.0431732029005968e-18),
    (0.06062462181643484, 2.6424025938726934e-18),
    (0.08961215868968714, -5.4268129336647135e-18),
    (0.11778303565638346, -1.1971685747593677e-18),
    (0.1451820098444979, 8.242418783022475e-18),
    (0.17185025692665923, -6.0224538210113705e-18),
    (0.19782574332991987, 1.2821194372980142e-17),
    (0.22314355131420976, -9.091270597324799e-18),
    (0.24783616390458127, -1.2432209578702523e-17),
    (0.27193371548364176, 7.83319637697442e-19),
    (0.2954642128938359, -2.16461086040599e-17),
    (0.3184537311185346, 2.7114779367326236e-17),
    (0.3409265869705932, 1.7467136443544747e-17),
    (0.3629054936893685, -2.1492361455310972e-17),
];

#[cfg(test)]
mod tests {
    use super::{LANES, Simd, Vector, ln_1p, ln_1p_of_lanes};
    use crate::simd::{Kernel, Level, dispatch};

    struct OfLanes<'a>(&'a mut [f64]);

    impl Kernel for OfLanes<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, token: S) {
            for y in self.0.chunks_exact_mut(LANES / 2) {
                ln_1p_of_lanes(token, S::F64::load(token, y)).store(y);
            }
        }
    }

    #[test]
    fn lanes_have_the_bits_of_one() {
        let y: Vec<f64> = (0..80_000).map(|i| (f64::from(i) / 500.0 - 100.0).exp()).chain([0.0; 8]).collect();
        for level in Level::available() {
            let mut of_lanes = y.clone();
            dispatch(level, OfLanes(&mut of_lanes));
            for (y, of_lanes) in y.iter().zip(of_lanes) {
                assert_eq!(of_lanes.to_bits(), ln_1p(*y).to_bits(), "log(1 + {y}) at {level:?}");
            }
        }
    }
}
