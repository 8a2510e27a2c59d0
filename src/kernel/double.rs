//! A number as the unevaluated sum of two float64: about 106 bits, for sums, quotients and constants of one row.
//!
//! The error-free transformations are Knuth's and Dekker's; see Ogita, Rump and Oishi, "Accurate sum and dot
//! product" (2005), and Joldes, Muller and Popescu, "Tight and rigorous error bounds for basic building blocks of
//! double-word arithmetic" (2017).

/// `high + low`, with `low` at most half a unit in the last place of `high`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Double {
    /// The nearest float64.
    pub(crate) high: f64,
    /// What `high` leaves.
    pub(crate) low: f64,
}

impl Double {
    /// The natural logarithm of 2.
    pub(crate) const LN_2: Self = Self { high: std::f64::consts::LN_2, low: 2.319_046_813_846_299_6e-17 };

    /// Exactly `value`.
    #[inline(always)]
    pub(crate) const fn new(value: f64) -> Self {
        Self { high: value, low: 0.0 }
    }

    /// Exactly `a + b`.
    #[inline(always)]
    pub(crate) fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        let virtual_b = high - a;
        Self { high, low: (a - (high - virtual_b)) + (b - virtual_b) }
    }

    /// Exactly `a + b` where |a| >= |b| or a = 0.
    #[inline(always)]
    pub(crate) fn sum_of_ordered(a: f64, b: f64) -> Self {
        let high = a + b;
        Self { high, low: b - (high - a) }
    }

    /// Exactly `a * b`, as long as nothing overflows or is subnormal.
    #[inline(always)]
    pub(crate) fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self { high, low: a.mul_add(b, -high) }
    }

    /// `self + other`, within 3 * 2^-106 if both have the same sign.
    #[inline(always)]
    pub(crate) fn plus(self, other: Self) -> Self {
        let high = Self::sum(self.high, other.high);
        let low = Self::sum(self.low, other.low);
        let first = Self::sum_of_ordered(high.high, high.low + low.high);
        Self::sum_of_ordered(first.high, first.low + low.low)
    }

    /// `-self`.
    #[inline(always)]
    pub(crate) fn negated(self) -> Self {
        Self { high: -self.high, low: -self.low }
    }

    /// `self * factor`.
    #[inline(always)]
    pub(crate) fn times(self, factor: f64) -> Self {
        let high = Self::product(self.high, factor);
        Self::sum_of_ordered(high.high, self.low.mul_add(factor, high.low))
    }

    /// `self * other`.
    #[inline(always)]
    pub(crate) fn times_double(self, other: Self) -> Self {
        let high = Self::product(self.high, other.high);
        let cross = self.high.mul_add(other.low, self.low * other.high);
        Self::sum_of_ordered(high.high, high.low + cross)
    }

    /// `1 / self`.
    #[inline(always)]
    pub(crate) fn reciprocal(self) -> Self {
        let first = 1.0 / self.high;
        let rest = self.low.mul_add(-first, self.high.mul_add(-first, 1.0));
        Self::sum_of_ordered(first, rest * first)
    }

    /// exp(self) within 2^-95 of itself, for arguments up to 0: the slow way, for sums that cancel.
    pub(crate) fn exp(self) -> Self {
        if self.high < -1400.0 {
            return Self::default();
        }
        let n = (self.high * std::f64::consts::LOG2_E).round_ties_even();
        // The product of n and ln 2 has 11 + 106 bits; its error is 2^-106 of at most 1400.
        let t = self.plus(Self::LN_2.times(-n)).plus(Self::new(LN_2_REST * -n));
        #[allow(clippy::cast_possible_truncation, reason = "at most 2020")]
        Self::new(1.0).plus(t.small_exp_m1()).scaled(n as i32)
    }

    /// exp(self) - 1 within 2^-95 of itself, for arguments up to 0.
    pub(crate) fn exp_m1(self) -> Self {
        if self.high < -0.25 { self.exp().plus(Self::new(-1.0)) } else { self.small_exp_m1() }
    }

    /// exp(self) - 1 for at most ln(2) / 2 on either side.
    ///
    /// self is divided by 2^6 (exact, but for subnormal numbers); the series of exp(t) - 1 has ten terms there; six
    /// squarings undo the division.
    fn small_exp_m1(self) -> Self {
        let t = self.scaled(-6);
        let mut sum = Self::default();
        let mut k = 11.0;
        while k > 0.0 {
            // (1 + (1 + (1 + ...) t / 3) t / 2) t / 1
            let next = Self::new(1.0).plus(sum).times_double(t);
            sum = next.times_double(Self::new(k).reciprocal());
            k -= 1.0;
        }
        for _ in 0..6 {
            sum = sum.times_double(sum).plus(sum).plus(sum);
        }
        sum
    }

    /// `self * 2^exponent`, exact in the normal range.
    #[inline(always)]
    pub(crate) fn scaled(self, exponent: i32) -> Self {
        self.times_power(power_of_two(exponent))
    }

    /// `self * power`, a power of two: exact in the normal range.
    #[inline(always)]
    pub(crate) fn times_power(self, power: f64) -> Self {
        Self { high: self.high * power, low: self.low * power }
    }
}

/// What [`Double::LN_2`] leaves of ln 2.
const LN_2_REST: f64 = 5.707_708_438_416_212e-34;

/// 2^exponent, with exponents outside the normal range held to its ends: 2^1023, and 0 below 2^-1022.
#[inline(always)]
pub(crate) fn power_of_two(exponent: i32) -> f64 {
    let biased = u64::from(exponent.saturating_add(1023).clamp(0, 2046).unsigned_abs());
    f64::from_bits(biased << 52)
}

/// 2^exponent for an integer of at most 0, and 0 below 2^-1022.
#[inline(always)]
pub(crate) fn power_of_two_at_most_one(exponent: f64) -> f64 {
    // The sum is an integer of at most 1023; adding 2^52 leaves it in the low bits, without a conversion.
    let biased = if exponent > -1023.0 { exponent + 1023.0 } else { 0.0 };
    f64::from_bits((biased + 4_503_599_627_370_496.0).to_bits() << 52)
}
