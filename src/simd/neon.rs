//! NEON: four registers are one [`Vector`].

#[allow(clippy::wildcard_imports, reason = "the intrinsics have names of their own")]
use std::arch::aarch64::*;
use std::arch::asm;

use super::level::witness;
use super::{EXPONENT, Kernel, Line, Simd, Vector};

witness!(
    /// The witness of `AArch64`'s vectors.
    Neon,
    is_aarch64_feature_detected,
    ["neon"]
);

/// Evaluates an expression of intrinsics.
///
/// An intrinsic without memory operands is unsafe only because the processor may lack it. Every function here
/// takes a [`Neon`], or a vector that one was needed to make. The safe way, `#[target_feature]` on each method,
/// is not allowed on the methods of a trait.
macro_rules! witnessed {
    ($body:expr) => {{
        #[allow(unsafe_code, reason = "intrinsics need the features, which the witness proves")]
        #[allow(unused_unsafe, reason = "which intrinsics are safe depends on the target's baseline")]
        // SAFETY: the processor has the instructions, see the macro; memory operands are argued where they stand.
        unsafe {
            $body
        }
    }};
}

/// One vector type; the table below names its intrinsics.
macro_rules! vector {
    (
        $name:ident, $scalar:ty, $register:ty, $mask:ty, each $each:literal, lanes $lanes:literal,
        splat $splat:ident, load $load:ident, store $store:ident, add $add:ident, sub $sub:ident, mul $mul:ident, div $div:ident,
        fma $fma:ident, less $less:ident, blend $blend:ident, largest $largest:ident,
        { $($power:item)* }
    ) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name([$register; 4]);

        impl Vector for $name {
            type Scalar = $scalar;
            type Token = Neon;
            type Array = [$scalar; $lanes];
            type Mask = [$mask; 4];

            #[inline(always)]
            fn splat(_: Neon, value: $scalar) -> Self {
                Self([witnessed!($splat(value)); 4])
            }

            #[inline(always)]
            fn load(_: Neon, from: &[$scalar]) -> Self {
                let from = &from[..$lanes];
                // Reads exactly the four quarters of the slice that was just cut.
                witnessed!(Self([
                    $load(from.as_ptr()),
                    $load(from[$each..].as_ptr()),
                    $load(from[2 * $each..].as_ptr()),
                    $load(from[3 * $each..].as_ptr()),
                ]))
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                let to = &mut to[..$lanes];
                // Writes exactly the four quarters of the slice that was just cut.
                witnessed!({
                    $store(to.as_mut_ptr(), self.0[0]);
                    $store(to[$each..].as_mut_ptr(), self.0[1]);
                    $store(to[2 * $each..].as_mut_ptr(), self.0[2]);
                    $store(to[3 * $each..].as_mut_ptr(), self.0[3]);
                });
            }

            #[inline(always)]
            fn stream(self, to: &mut Line<[$scalar; $lanes]>) {
                // AArch64's non-temporal stores are a hint that no compiler emits; its caches see streams by
                // themselves.
                self.store(&mut to.0);
            }

            #[inline(always)]
            fn to_array(self) -> [$scalar; $lanes] {
                let mut lanes = [0.0; $lanes];
                self.store(&mut lanes);
                lanes
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                let (a, b) = (self.0, other.0);
                witnessed!(Self([$add(a[0], b[0]), $add(a[1], b[1]), $add(a[2], b[2]), $add(a[3], b[3])]))
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                let (a, b) = (self.0, other.0);
                witnessed!(Self([$sub(a[0], b[0]), $sub(a[1], b[1]), $sub(a[2], b[2]), $sub(a[3], b[3])]))
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                let (a, b) = (self.0, other.0);
                witnessed!(Self([$mul(a[0], b[0]), $mul(a[1], b[1]), $mul(a[2], b[2]), $mul(a[3], b[3])]))
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                let (a, b) = (self.0, other.0);
                witnessed!(Self([$div(a[0], b[0]), $div(a[1], b[1]), $div(a[2], b[2]), $div(a[3], b[3])]))
            }

            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                let (a, b, c) = (self.0, factor.0, addend.0);
                // The instruction's addend comes first.
                witnessed!(Self([
                    $fma(c[0], a[0], b[0]),
                    $fma(c[1], a[1], b[1]),
                    $fma(c[2], a[2], b[2]),
                    $fma(c[3], a[3], b[3]),
                ]))
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // Not the instruction `fmax`, which gives NaN for NaN on either side.
                Self::select(other.less(self), self, other)
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Self::select(self.less(other), self, other)
            }

            $($power)*

            #[inline(always)]
            fn less(self, other: Self) -> [$mask; 4] {
                let (a, b) = (self.0, other.0);
                witnessed!([$less(a[0], b[0]), $less(a[1], b[1]), $less(a[2], b[2]), $less(a[3], b[3])])
            }

            #[inline(always)]
            fn select(mask: [$mask; 4], yes: Self, no: Self) -> Self {
                let (y, n) = (yes.0, no.0);
                witnessed!(Self([
                    $blend(mask[0], y[0], n[0]),
                    $blend(mask[1], y[1], n[1]),
                    $blend(mask[2], y[2], n[2]),
                    $blend(mask[3], y[3], n[3]),
                ]))
            }

            #[inline(always)]
            fn any(mask: [$mask; 4]) -> bool {
                witnessed!($largest(mask[0]) | $largest(mask[1]) | $largest(mask[2]) | $largest(mask[3])) != 0
            }
        }
    };
}

/// Whether any 64-bit lane is set; there is no such reduction for them.
#[inline(always)]
fn any_of_two(mask: uint64x2_t) -> u32 {
    witnessed!(vmaxvq_u32(vreinterpretq_u32_u64(mask)))
}

vector!(
    F32, f32, float32x4_t, uint32x4_t, each 4, lanes 16,
    splat vdupq_n_f32, load vld1q_f32, store vst1q_f32, add vaddq_f32, sub vsubq_f32, mul vmulq_f32, div vdivq_f32, fma vfmaq_f32,
    less vcltq_f32, blend vbslq_f32, largest vmaxvq_u32,
    {
        #[inline(always)]
        fn octave(self) -> Self {
            let exponent = witnessed!(vdupq_n_u32(EXPONENT.cast_unsigned()));
            let octave = |lanes| witnessed!(vreinterpretq_f32_u32(vandq_u32(shifted(lanes), exponent)));
            Self([octave(self.0[0]), octave(self.0[1]), octave(self.0[2]), octave(self.0[3])])
        }

        #[inline(always)]
        fn step(self, steps: Self) -> Self {
            // The eight steps as bytes, and the places of each lane's four bytes among them.
            let table = witnessed!(uint8x16x2_t(vreinterpretq_u8_f32(steps.0[0]), vreinterpretq_u8_f32(steps.0[1])));
            let (seven, four, bytes) =
                witnessed!((vdupq_n_u32(7), vdupq_n_u32(0x0404_0404), vdupq_n_u32(0x0302_0100)));
            let step = |lanes| {
                witnessed!({
                    let places = vmlaq_u32(bytes, vandq_u32(vreinterpretq_u32_f32(lanes), seven), four);
                    vreinterpretq_f32_u8(vqtbl2q_u8(table, vreinterpretq_u8_u32(places)))
                })
            };
            Self([step(self.0[0]), step(self.0[1]), step(self.0[2]), step(self.0[3])])
        }

        #[inline(always)]
        fn power(self, powers: Self) -> Self {
            let step = self.step(powers);
            let power = |lanes, step| {
                witnessed!(vreinterpretq_f32_u32(vaddq_u32(shifted(lanes), vreinterpretq_u32_f32(step))))
            };
            Self([
                power(self.0[0], step.0[0]),
                power(self.0[1], step.0[1]),
                power(self.0[2], step.0[2]),
                power(self.0[3], step.0[3]),
            ])
        }
    }
);

/// The integers of [`Vector::octave`], at the place of the exponent.
#[inline(always)]
fn shifted(lanes: float32x4_t) -> uint32x4_t {
    witnessed!(vshlq_n_u32::<20>(vreinterpretq_u32_f32(lanes)))
}

vector!(
    F64, f64, float64x2_t, uint64x2_t, each 2, lanes 8,
    splat vdupq_n_f64, load vld1q_f64, store vst1q_f64, add vaddq_f64, sub vsubq_f64, mul vmulq_f64, div vdivq_f64, fma vfmaq_f64,
    less vcltq_f64, blend vbslq_f64, largest any_of_two,
    {
        #[inline(always)]
        fn octave(self) -> Self {
            let octave =
                |lanes| witnessed!(vreinterpretq_f64_u64(vshlq_n_u64::<52>(vreinterpretq_u64_f64(lanes))));
            Self([octave(self.0[0]), octave(self.0[1]), octave(self.0[2]), octave(self.0[3])])
        }
    }
);

impl Simd for Neon {
    type F32 = F32;
    type F64 = F64;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    #[inline(always)]
    fn widen(self, F32([a, b, c, d]): F32) -> [F64; 2] {
        witnessed!([
            F64([
                vcvt_f64_f32(vget_low_f32(a)),
                vcvt_high_f64_f32(a),
                vcvt_f64_f32(vget_low_f32(b)),
                vcvt_high_f64_f32(b)
            ]),
            F64([
                vcvt_f64_f32(vget_low_f32(c)),
                vcvt_high_f64_f32(c),
                vcvt_f64_f32(vget_low_f32(d)),
                vcvt_high_f64_f32(d)
            ]),
        ])
    }

    #[inline(always)]
    fn narrow(self, [F64([a, b, c, d]), F64([e, f, g, h])]: [F64; 2]) -> F32 {
        witnessed!(F32([
            vcvt_high_f32_f64(vcvt_f32_f64(a), b),
            vcvt_high_f32_f64(vcvt_f32_f64(c), d),
            vcvt_high_f32_f64(vcvt_f32_f64(e), f),
            vcvt_high_f32_f64(vcvt_f32_f64(g), h),
        ]))
    }

    #[inline(always)]
    fn prefetch<T>(self, data: &[T], index: usize) {
        let address = data.as_ptr().wrapping_add(index);
        // A prefetch never faults, whatever the address. (The intrinsic is not stable yet.)
        witnessed!(asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly)));
    }

    #[inline(always)]
    fn prefetch_near<T>(self, data: &[T], index: usize) {
        let address = data.as_ptr().wrapping_add(index);
        // As above.
        witnessed!(asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly)));
    }

    #[inline(always)]
    fn fence(self) {}
}
