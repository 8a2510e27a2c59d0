//! Half precision to float32 and back, by bit arithmetic that the compiler vectorises at every level.
//!
//! float16 and bfloat16 are storage: each value is a float32 exactly, and a float32 is rounded once on the way out.

use half::{bf16, f16};

use crate::element::Element;

/// A two-byte float.
pub(crate) trait Half: Element {
    /// The float32 of the same value; NaN stays NaN.
    fn widen(self) -> f32;
    /// The nearest value, ties to even; NaN becomes the quiet NaN with a positive sign.
    fn narrow(value: f32) -> Self;
}

impl Half for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let chosen = if value.is_nan() { 0x7fc0 } else { rounded };
        #[allow(clippy::cast_possible_truncation, reason = "shifted right by 16")]
        Self::from_bits(chosen as u16)
    }
}

impl Half for f16 {
    /// The exponent is moved into float32's place and its bias mended by a multiplication, which is exact and
    /// normalises subnormal values too.
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let special = 0x7f80_0000 | (bits & 0x03ff) << 13;
        let chosen = if bits & 0x7c00 == 0x7c00 { special } else { magnitude.to_bits() };
        f32::from_bits(chosen | (bits & 0x8000) << 16)
    }

    /// Normal results are rounded on the bits; subnormal ones by adding the float32 whose last place is float16's
    /// smallest step (2^-24).
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let sign = bits >> 16 & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0x0fff + (magnitude >> 13 & 1)) >> 13;
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let finite = if magnitude < 113 << 23 { subnormal } else { normal };
        // From 65,520 on the nearest float16 is infinity.
        let clamped = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
        let chosen = if magnitude > 0x7f80_0000 { 0x7e00 } else { clamped | sign };
        #[allow(clippy::cast_possible_truncation, reason = "at most 16 bits are set")]
        Self::from_bits(chosen as u16)
    }
}
