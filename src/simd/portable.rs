//! Plain Rust on arrays: every target, and the meaning that the other levels are held to.

use super::{EXPONENT, Kernel, Line, Simd, Vector};

/// The witness of nothing in particular.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// `a * b + c` rounded once, for targets whose baseline has no such instruction.
pub(crate) trait FusedMultiplyAdd {
    /// See the trait.
    fn fused(a: Self, b: Self, c: Self) -> Self;
}

impl FusedMultiplyAdd for f32 {
    /// The product of two float32 is exact in float64. The sum is then rounded twice, to 53 and to 24 bits, which
    /// is wrong only if the first rounding ends on a midpoint of the second. Rounding the sum to odd instead
    /// (Boldo and Melquiond, 2008) keeps the knowledge on which side of it the exact sum lies. It vectorises;
    /// a call of the C library's `fmaf` costs 20 ns where the processor has no such instruction.
    #[inline(always)]
    fn fused(a: Self, b: Self, c: Self) -> Self {
        if cfg!(target_feature = "fma") || cfg!(target_arch = "aarch64") {
            return a.mul_add(b, c);
        }
        let product = f64::from(a) * f64::from(b);
        let addend = f64::from(c);
        let sum = product + addend;
        let virtual_addend = sum - product;
        let error = (product - (sum - virtual_addend)) + (addend - virtual_addend);
        let bits = sum.to_bits();
        // The exact sum lies `error` away from `sum`: outwards if both have the same sign, else inwards.
        let inwards = u64::from((error < 0.0) != (sum < 0.0));
        let inexact = error != 0.0 && error.is_finite();
        let odd = if inexact { (bits - inwards) | 1 } else { bits };
        #[allow(clippy::cast_possible_truncation, reason = "the one rounding")]
        {
            f64::from_bits(odd) as f32
        }
    }
}

impl FusedMultiplyAdd for f64 {
    /// The C library's `fma`, which uses the instruction where the processor has it.
    #[inline(always)]
    fn fused(a: Self, b: Self, c: Self) -> Self {
        a.mul_add(b, c)
    }
}

macro_rules! vector {
    ($name:ident, $scalar:ty, $lanes:literal, { $($power:item)* }) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name([$scalar; $lanes]);

        impl $name {
            #[inline(always)]
            fn zip(self, other: Self, f: impl Fn($scalar, $scalar) -> $scalar) -> Self {
                let mut lanes = self.0;
                for (lane, other) in lanes.iter_mut().zip(other.0) {
                    *lane = f(*lane, other);
                }
                Self(lanes)
            }
        }

        impl Vector for $name {
            type Scalar = $scalar;
            type Token = Portable;
            type Array = [$scalar; $lanes];
            type Mask = [bool; $lanes];

            #[inline(always)]
            fn splat(_: Portable, value: $scalar) -> Self {
                Self([value; $lanes])
            }

            #[inline(always)]
            fn load(_: Portable, from: &[$scalar]) -> Self {
                let mut lanes = [0.0; $lanes];
                lanes.copy_from_slice(&from[..$lanes]);
                Self(lanes)
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                to[..$lanes].copy_from_slice(&self.0);
            }

            #[inline(always)]
            fn stream(self, to: &mut Line<[$scalar; $lanes]>) {
                to.0 = self.0;
            }

            #[inline(always)]
            fn to_array(self) -> [$scalar; $lanes] {
                self.0
            }

            // Arithmetic is out of line on x86-64, where this level is for processors older than 2013: inlined, its kernels
            // would be larger than those of all other levels together. (A multiply-add takes thirty instructions for two
            // lanes; with the others, these calls are a twentieth of the time.)
            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn add(self, other: Self) -> Self {
                self.zip(other, |a, b| a + b)
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn sub(self, other: Self) -> Self {
                self.zip(other, |a, b| a - b)
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn mul(self, other: Self) -> Self {
                self.zip(other, |a, b| a * b)
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn div(self, other: Self) -> Self {
                self.zip(other, |a, b| a / b)
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                let mut lanes = [0.0; $lanes];
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = <$scalar>::fused(self.0[i], factor.0[i], addend.0[i]);
                }
                Self(lanes)
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn max(self, other: Self) -> Self {
                self.zip(other, |a, b| if a > b { a } else { b })
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn min(self, other: Self) -> Self {
                self.zip(other, |a, b| if a < b { a } else { b })
            }

            $($power)*

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn less(self, other: Self) -> [bool; $lanes] {
                let mut mask = [false; $lanes];
                for (i, lane) in mask.iter_mut().enumerate() {
                    *lane = self.0[i] < other.0[i];
                }
                mask
            }

            #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
            #[cfg_attr(target_arch = "x86_64", inline(never))]
            fn select(mask: [bool; $lanes], yes: Self, no: Self) -> Self {
                let mut lanes = no.0;
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = if mask[i] { yes.0[i] } else { no.0[i] };
                }
                Self(lanes)
            }

            #[inline(always)]
            fn any(mask: [bool; $lanes]) -> bool {
                mask.contains(&true)
            }
        }
    };
}

vector!(F32, f32, 16, {
    #[inline(always)]
    fn octave(self) -> Self {
        Self(self.0.map(|lane| f32::from_bits((lane.to_bits() << 20) & EXPONENT.cast_unsigned())))
    }

    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn step(self, steps: Self) -> Self {
        Self(self.0.map(|lane| steps.0[(lane.to_bits() & 7) as usize]))
    }

    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    #[cfg_attr(target_arch = "x86_64", inline(never))]
    fn power(self, powers: Self) -> Self {
        let mut lanes = self.step(powers).0;
        for (lane, z) in lanes.iter_mut().zip(self.0) {
            *lane = f32::from_bits((z.to_bits() << 20).wrapping_add(lane.to_bits()));
        }
        Self(lanes)
    }
});
vector!(F64, f64, 8, {
    #[inline(always)]
    fn octave(self) -> Self {
        Self(self.0.map(|lane| f64::from_bits(lane.to_bits() << 52)))
    }
});

impl Simd for Portable {
    type F32 = F32;
    type F64 = F64;

    // On x86-64 for processors older than 2013.
    const COMPACT: bool = cfg!(target_arch = "x86_64");

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn widen(self, lanes: F32) -> [F64; 2] {
        let mut halves = [F64([0.0; 8]); 2];
        for (i, lane) in lanes.0.iter().enumerate() {
            halves[i / 8].0[i % 8] = f64::from(*lane);
        }
        halves
    }

    #[inline(always)]
    fn narrow(self, halves: [F64; 2]) -> F32 {
        let mut lanes = [0.0; 16];
        for (i, lane) in lanes.iter_mut().enumerate() {
            #[allow(clippy::cast_possible_truncation, reason = "the one rounding")]
            let rounded = halves[i / 8].0[i % 8] as f32;
            *lane = rounded;
        }
        F32(lanes)
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &[T], _: usize) {}

    #[inline(always)]
    fn prefetch_near<T>(self, _: &[T], _: usize) {}

    #[inline(always)]
    fn fence(self) {}
}
