//! AVX-512: one register is one [`Vector`].

#[allow(clippy::wildcard_imports, reason = "the intrinsics have names of their own")]
use std::arch::x86_64::*;

use half::f16;

use super::level::witness;
use super::{COLUMNS, EXPONENT, HALVES, Half, Kernel, Line, Simd, Vector, copy_ends, span};

witness!(
    /// The witness of AVX-512 F, BW, DQ and VL, with FMA and F16C.
    Avx512,
    is_x86_feature_detected,
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"]
);

/// Evaluates an expression of intrinsics.
///
/// An intrinsic without memory operands is unsafe only because the processor may lack it. Every function here
/// takes an [`Avx512`], or a vector that one was needed to make. The safe way, `#[target_feature]` on each method,
/// is not allowed on the methods of a trait.
macro_rules! witnessed {
    ($body:expr) => {{
        #[allow(unsafe_code, reason = "intrinsics need the features, which the witness proves")]
        // SAFETY: the processor has the instructions, see the macro; memory operands are argued where they stand.
        unsafe {
            $body
        }
    }};
}

/// One vector type; the table below names its intrinsics.
macro_rules! vector {
    (
        $name:ident, $scalar:ty, $register:ty, $lanes:literal, $mask:ty,
        splat $splat:ident, load $load:ident, load_some $load_some:ident, store $store:ident,
        store_some $store_some:ident, stream $stream:ident, add $add:ident, sub $sub:ident, mul $mul:ident, div $div:ident,
        fma $fma:ident, max $max:ident, min $min:ident, less $less:ident, blend $blend:ident,
        { $($power:item)* }
    ) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl Vector for $name {
            type Scalar = $scalar;
            type Token = Avx512;
            type Array = [$scalar; $lanes];
            type Mask = $mask;

            #[inline(always)]
            fn splat(_: Avx512, value: $scalar) -> Self {
                Self(witnessed!($splat(value)))
            }

            #[inline(always)]
            fn load(_: Avx512, from: &[$scalar]) -> Self {
                let from = &from[..$lanes];
                // Reads exactly the slice that was just cut.
                Self(witnessed!($load(from.as_ptr())))
            }

            #[inline(always)]
            fn load_partial(token: Avx512, from: &[$scalar], fill: $scalar) -> Self {
                debug_assert!(from.len() < $lanes);
                #[allow(clippy::cast_possible_truncation, reason = "one bit for each lane")]
                let some = ((1u32 << from.len()) - 1) as $mask;
                // Lanes that the mask leaves out are not read, nor do they fault.
                Self(witnessed!($load_some(Self::splat(token, fill).0, some, from.as_ptr())))
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                let to = &mut to[..$lanes];
                // Writes exactly the slice that was just cut.
                witnessed!($store(to.as_mut_ptr(), self.0));
            }

            #[inline(always)]
            fn store_partial(self, to: &mut [$scalar]) {
                debug_assert!(to.len() < $lanes);
                #[allow(clippy::cast_possible_truncation, reason = "one bit for each lane")]
                let some = ((1u32 << to.len()) - 1) as $mask;
                // Lanes that the mask leaves out are not written.
                witnessed!($store_some(to.as_mut_ptr(), some, self.0));
            }

            #[inline(always)]
            fn stream(self, to: &mut Line<[$scalar; $lanes]>) {
                // A `Line` has the size of the register and the alignment that the instruction asks for. Its
                // weak ordering is what `Simd::fence` is for.
                witnessed!($stream(std::ptr::from_mut(to).cast(), self.0));
            }

            #[inline(always)]
            fn to_array(self) -> [$scalar; $lanes] {
                let mut lanes = [0.0; $lanes];
                self.store(&mut lanes);
                lanes
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                Self(witnessed!($add(self.0, other.0)))
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                Self(witnessed!($sub(self.0, other.0)))
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                Self(witnessed!($mul(self.0, other.0)))
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                Self(witnessed!($div(self.0, other.0)))
            }

            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                Self(witnessed!($fma(self.0, factor.0, addend.0)))
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Self(witnessed!($max(self.0, other.0)))
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Self(witnessed!($min(self.0, other.0)))
            }

            $($power)*

            #[inline(always)]
            fn less(self, other: Self) -> $mask {
                witnessed!($less::<_CMP_LT_OQ>(self.0, other.0))
            }

            #[inline(always)]
            fn select(mask: $mask, yes: Self, no: Self) -> Self {
                Self(witnessed!($blend(mask, no.0, yes.0)))
            }

            #[inline(always)]
            fn any(mask: $mask) -> bool {
                mask != 0
            }

            #[inline(always)]
            fn bits(_: Avx512, mask: $mask) -> u32 {
                u32::from(mask)
            }
        }
    };
}

vector!(
    F32, f32, __m512, 16, __mmask16,
    splat _mm512_set1_ps, load _mm512_loadu_ps, load_some _mm512_mask_loadu_ps, store _mm512_storeu_ps,
    store_some _mm512_mask_storeu_ps, stream _mm512_stream_ps, add _mm512_add_ps, sub _mm512_sub_ps,
    mul _mm512_mul_ps, div _mm512_div_ps, fma _mm512_fmadd_ps, max _mm512_max_ps, min _mm512_min_ps, less _mm512_cmp_ps_mask,
    blend _mm512_mask_blend_ps,
    {
        #[inline(always)]
        fn octave(self) -> Self {
            let bits = witnessed!(_mm512_slli_epi32::<20>(_mm512_castps_si512(self.0)));
            Self(witnessed!(_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(EXPONENT)))))
        }

        #[inline(always)]
        fn step(self, steps: Self) -> Self {
            Self(witnessed!(_mm512_permutexvar_ps(_mm512_castps_si512(self.0), steps.0)))
        }

        #[inline(always)]
        fn power(self, powers: Self) -> Self {
            let bits = witnessed!(_mm512_slli_epi32::<20>(_mm512_castps_si512(self.0)));
            let step = witnessed!(_mm512_castps_si512(self.step(powers).0));
            Self(witnessed!(_mm512_castsi512_ps(_mm512_add_epi32(bits, step))))
        }

        #[inline(always)]
        fn transpose(_: Avx512, vectors: &mut [Self]) {
            // Quarter q of `fours[4 i + j]` has column 4 q + j of rows 4 i to 4 i + 3.
            let mut fours = [vectors[0].0; 16];
            for i in 0..4 {
                [fours[4 * i], fours[4 * i + 1], fours[4 * i + 2], fours[4 * i + 3]] =
                    Self::quarters([vectors[4 * i].0, vectors[4 * i + 1].0, vectors[4 * i + 2].0, vectors[4 * i + 3].0]);
            }
            for j in 0..4 {
                let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
                witnessed!({
                    let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (even2, odd2) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    vectors[j].0 = _mm512_shuffle_f32x4::<0x88>(even, even2);
                    vectors[4 + j].0 = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
                    vectors[8 + j].0 = _mm512_shuffle_f32x4::<0xdd>(even, even2);
                    vectors[12 + j].0 = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
                });
            }
        }

        #[inline(always)]
        fn load_columns(_: Avx512, from: &[f32], pitch: usize) -> [Self; COLUMNS] {
            let from = &from[..span(16, pitch)];
            let mut rows = [witnessed!(_mm512_setzero_ps()); 4];
            for (i, row) in rows.iter_mut().enumerate() {
                // Quarter q reads four elements from row 4 q + i on, the last of which ends the slice that was just cut.
                *row = witnessed!({
                    let at = from.as_ptr().add(i * pitch);
                    let row = _mm512_castps128_ps512(_mm_loadu_ps(at));
                    let row = _mm512_insertf32x4::<1>(row, _mm_loadu_ps(at.add(4 * pitch)));
                    let row = _mm512_insertf32x4::<2>(row, _mm_loadu_ps(at.add(8 * pitch)));
                    _mm512_insertf32x4::<3>(row, _mm_loadu_ps(at.add(12 * pitch)))
                });
            }
            let [a, b, c, d] = Self::quarters(rows);
            [Self(a), Self(b), Self(c), Self(d)]
        }

        #[inline(always)]
        fn store_columns([a, b, c, d]: [Self; COLUMNS], to: &mut [f32], pitch: usize) {
            let to = &mut to[..span(16, pitch)];
            let rows = Self::quarters([a.0, b.0, c.0, d.0]);
            // As they are read.
            witnessed!({
                for (i, row) in rows.iter().enumerate() {
                    _mm_storeu_ps(to.as_mut_ptr().add(i * pitch), _mm512_castps512_ps128(*row));
                }
                for (i, row) in rows.iter().enumerate() {
                    _mm_storeu_ps(to.as_mut_ptr().add((4 + i) * pitch), _mm512_extractf32x4_ps::<1>(*row));
                }
                for (i, row) in rows.iter().enumerate() {
                    _mm_storeu_ps(to.as_mut_ptr().add((8 + i) * pitch), _mm512_extractf32x4_ps::<2>(*row));
                }
                for (i, row) in rows.iter().enumerate() {
                    _mm_storeu_ps(to.as_mut_ptr().add((12 + i) * pitch), _mm512_extractf32x4_ps::<3>(*row));
                }
            });
        }
    }
);

impl F32 {
    /// The transpose of each quarter of four registers.
    #[inline(always)]
    fn quarters([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        witnessed!({
            let (low, low2) = (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d)));
            let (high, high2) =
                (_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d)));
            [
                _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2)),
            ]
        })
    }
}

vector!(
    F64, f64, __m512d, 8, __mmask8,
    splat _mm512_set1_pd, load _mm512_loadu_pd, load_some _mm512_mask_loadu_pd, store _mm512_storeu_pd,
    store_some _mm512_mask_storeu_pd, stream _mm512_stream_pd, add _mm512_add_pd, sub _mm512_sub_pd,
    mul _mm512_mul_pd, div _mm512_div_pd, fma _mm512_fmadd_pd, max _mm512_max_pd, min _mm512_min_pd, less _mm512_cmp_pd_mask,
    blend _mm512_mask_blend_pd,
    {
        #[inline(always)]
        fn octave(self) -> Self {
            Self(witnessed!(_mm512_castsi512_pd(_mm512_slli_epi64::<52>(_mm512_castpd_si512(self.0)))))
        }

        #[inline(always)]
        fn transpose(_: Avx512, vectors: &mut [Self]) {
            // Quarter q of `pairs[2 i + j]` has column 2 q + j of rows 2 i and 2 i + 1.
            let mut pairs = [vectors[0].0; 8];
            for i in 0..4 {
                let (a, b) = (vectors[2 * i].0, vectors[2 * i + 1].0);
                pairs[2 * i] = witnessed!(_mm512_unpacklo_pd(a, b));
                pairs[2 * i + 1] = witnessed!(_mm512_unpackhi_pd(a, b));
            }
            for j in 0..2 {
                let (a, b, c, d) = (pairs[j], pairs[2 + j], pairs[4 + j], pairs[6 + j]);
                witnessed!({
                    let (even, odd) = (_mm512_shuffle_f64x2::<0x88>(a, b), _mm512_shuffle_f64x2::<0xdd>(a, b));
                    let (even2, odd2) = (_mm512_shuffle_f64x2::<0x88>(c, d), _mm512_shuffle_f64x2::<0xdd>(c, d));
                    vectors[j].0 = _mm512_shuffle_f64x2::<0x88>(even, even2);
                    vectors[2 + j].0 = _mm512_shuffle_f64x2::<0x88>(odd, odd2);
                    vectors[4 + j].0 = _mm512_shuffle_f64x2::<0xdd>(even, even2);
                    vectors[6 + j].0 = _mm512_shuffle_f64x2::<0xdd>(odd, odd2);
                });
            }
        }

        #[inline(always)]
        fn load_columns(token: Avx512, from: &[f64], pitch: usize) -> [Self; COLUMNS] {
            let from = &from[..span(8, pitch)];
            let mut columns = [Self::splat(token, 0.0); COLUMNS];
            for (pair, columns) in columns.chunks_exact_mut(2).enumerate() {
                let mut rows = [columns[0].0; 2];
                for (i, row) in rows.iter_mut().enumerate() {
                    // Quarter q reads two elements of row 2 q + i, within the slice that was just cut.
                    *row = witnessed!({
                        let at = from.as_ptr().add(i * pitch + 2 * pair);
                        let row = _mm512_castpd128_pd512(_mm_loadu_pd(at));
                        let row = _mm512_insertf64x2::<1>(row, _mm_loadu_pd(at.add(2 * pitch)));
                        let row = _mm512_insertf64x2::<2>(row, _mm_loadu_pd(at.add(4 * pitch)));
                        _mm512_insertf64x2::<3>(row, _mm_loadu_pd(at.add(6 * pitch)))
                    });
                }
                columns[0] = Self(witnessed!(_mm512_unpacklo_pd(rows[0], rows[1])));
                columns[1] = Self(witnessed!(_mm512_unpackhi_pd(rows[0], rows[1])));
            }
            columns
        }

        #[inline(always)]
        fn store_columns([a, b, c, d]: [Self; COLUMNS], to: &mut [f64], pitch: usize) {
            let to = &mut to[..span(8, pitch)];
            // Quarter q of the first pair has two elements of row 2 q, of the second those of the row after it.
            let even = witnessed!([_mm512_unpacklo_pd(a.0, b.0), _mm512_unpacklo_pd(c.0, d.0)]);
            let odd = witnessed!([_mm512_unpackhi_pd(a.0, b.0), _mm512_unpackhi_pd(c.0, d.0)]);
            // As they are read.
            witnessed!({
                let at = to.as_mut_ptr();
                for (i, rows) in [even, odd].iter().enumerate() {
                    _mm_storeu_pd(at.add(i * pitch), _mm512_castpd512_pd128(rows[0]));
                    _mm_storeu_pd(at.add(i * pitch + 2), _mm512_castpd512_pd128(rows[1]));
                }
                for (i, rows) in [even, odd].iter().enumerate() {
                    _mm_storeu_pd(at.add((2 + i) * pitch), _mm512_extractf64x2_pd::<1>(rows[0]));
                    _mm_storeu_pd(at.add((2 + i) * pitch + 2), _mm512_extractf64x2_pd::<1>(rows[1]));
                }
                for (i, rows) in [even, odd].iter().enumerate() {
                    _mm_storeu_pd(at.add((4 + i) * pitch), _mm512_extractf64x2_pd::<2>(rows[0]));
                    _mm_storeu_pd(at.add((4 + i) * pitch + 2), _mm512_extractf64x2_pd::<2>(rows[1]));
                }
                for (i, rows) in [even, odd].iter().enumerate() {
                    _mm_storeu_pd(at.add((6 + i) * pitch), _mm512_extractf64x2_pd::<3>(rows[0]));
                    _mm_storeu_pd(at.add((6 + i) * pitch + 2), _mm512_extractf64x2_pd::<3>(rows[1]));
                }
            });
        }
    }
);

impl Simd for Avx512 {
    type F32 = F32;
    type F64 = F64;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    #[inline(always)]
    fn widen(self, lanes: F32) -> [F64; 2] {
        witnessed!([
            F64(_mm512_cvtps_pd(_mm512_castps512_ps256(lanes.0))),
            F64(_mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(lanes.0)))
        ])
    }

    #[inline(always)]
    fn narrow(self, [low, high]: [F64; 2]) -> F32 {
        let low = witnessed!(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.0)));
        F32(witnessed!(_mm512_insertf32x8::<1>(low, _mm512_cvtpd_ps(high.0))))
    }

    #[inline(always)]
    fn widen_halves(self, from: &[f16], to: &mut [f32]) {
        let (mut from, mut to) = (from.chunks_exact(16), to.chunks_exact_mut(16));
        for (from, to) in (&mut from).zip(&mut to) {
            // Reads the 32 bytes of one chunk, of which float16 is a transparent wrapper of the bits.
            F32(witnessed!(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))).store(to);
        }
        for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = from.widen();
        }
    }

    #[inline(always)]
    fn narrow_halves(self, from: &[f32], to: &mut [f16]) {
        let (mut from, mut to) = (from.chunks_exact(16), to.chunks_exact_mut(16));
        for (from, to) in (&mut from).zip(&mut to) {
            let vector = F32::load(self, from);
            // Writes the 32 bytes of one chunk.
            witnessed!(_mm256_storeu_si256(
                to.as_mut_ptr().cast(),
                _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector.0)
            ));
        }
        for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = f16::narrow(*from);
        }
    }

    #[inline(always)]
    fn stream_halves(self, from: &[u16], to: &mut [u16]) {
        let (from, to) = copy_ends(from, to);
        for (from, to) in from.chunks_exact(HALVES).zip(to.chunks_exact_mut(HALVES)) {
            // Reads and writes the 64 bytes of one chunk; `to` is a line.
            witnessed!(_mm512_stream_si512(to.as_mut_ptr().cast(), _mm512_loadu_si512(from.as_ptr().cast())));
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, data: &[T], index: usize) {
        // A prefetch never faults, whatever the address; the pointer is not dereferenced.
        witnessed!(_mm_prefetch::<_MM_HINT_T1>(data.as_ptr().wrapping_add(index).cast()));
    }

    #[inline(always)]
    fn prefetch_near<T>(self, data: &[T], index: usize) {
        // As above.
        witnessed!(_mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(index).cast()));
    }

    #[inline(always)]
    fn fence(self) {
        witnessed!(_mm_sfence());
    }
}
