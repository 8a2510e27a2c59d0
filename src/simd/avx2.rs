//! AVX2 with FMA: two registers are one [`Vector`].

use std::arch::asm;
#[allow(clippy::wildcard_imports, reason = "the intrinsics have names of their own")]
use std::arch::x86_64::*;

use half::f16;

use super::level::witness;
use super::{COLUMNS, EXPONENT, HALVES, Half, Kernel, Line, Simd, Vector, copy_ends, span};

witness!(
    /// The witness of AVX2, FMA and F16C.
    Avx2,
    is_x86_feature_detected,
    ["avx", "avx2", "fma", "f16c"]
);

/// Evaluates an expression of intrinsics.
///
/// An intrinsic without memory operands is unsafe only because the processor may lack it. Every function here
/// takes an [`Avx2`], or a vector that one was needed to make. The safe way, `#[target_feature]` on each method,
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

/// Two registers of ones, then as many zeros: n lanes before the zeros begins the mask of the first n.
static FIRST: [i32; 32] = {
    let mut lanes = [0; 32];
    let mut lane = 0;
    while lane < 16 {
        lanes[lane] = -1;
        lane += 1;
    }
    lanes
};

/// One vector type; the table below names its intrinsics.
macro_rules! vector {
    (
        $name:ident, $scalar:ty, $register:ty, half $half:literal, lanes $lanes:literal,
        splat $splat:ident, load $load:ident, some $load_some:ident($integers:ident), store $store:ident,
        stream $stream:ident,
        add $add:ident, sub $sub:ident, mul $mul:ident, div $div:ident, fma $fma:ident, max $max:ident, min $min:ident,
        less $less:ident, blend $blend:ident, signs $signs:ident,
        { $($power:item)* }
    ) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register, $register);

        impl Vector for $name {
            type Scalar = $scalar;
            type Token = Avx2;
            type Array = [$scalar; $lanes];
            type Mask = $name;

            #[inline(always)]
            fn splat(_: Avx2, value: $scalar) -> Self {
                let all = witnessed!($splat(value));
                Self(all, all)
            }

            #[inline(always)]
            fn load(_: Avx2, from: &[$scalar]) -> Self {
                let from = &from[..$lanes];
                // Reads exactly the two halves of the slice that was just cut.
                witnessed!(Self($load(from.as_ptr()), $load(from[$half..].as_ptr())))
            }

            #[inline(always)]
            fn load_partial(token: Avx2, from: &[$scalar], fill: $scalar) -> Self {
                debug_assert!(from.len() < $lanes);
                let which = Self::first_lanes(token, from.len());
                // Lanes that the masks leave out are not read, nor do they fault; so the upper half may be past the slice.
                let some = witnessed!(Self(
                    $load_some(from.as_ptr(), $integers(which.0)),
                    $load_some(from.as_ptr().wrapping_add($half), $integers(which.1))
                ));
                Self::select(which, some, Self::splat(token, fill))
            }

            #[inline(always)]
            fn store(self, to: &mut [$scalar]) {
                let (low, high) = to[..$lanes].split_at_mut($half);
                // Writes exactly the two halves of the slice that was just cut.
                witnessed!({
                    $store(low.as_mut_ptr(), self.0);
                    $store(high.as_mut_ptr(), self.1);
                });
            }

            #[inline(always)]
            fn stream(self, to: &mut Line<[$scalar; $lanes]>) {
                let (low, high) = to.0.split_at_mut($half);
                // The two halves of a `Line`, which has the alignment that the instruction asks for. Its weak
                // ordering is what `Simd::fence` is for.
                witnessed!({
                    $stream(low.as_mut_ptr(), self.0);
                    $stream(high.as_mut_ptr(), self.1);
                });
            }

            #[inline(always)]
            fn to_array(self) -> [$scalar; $lanes] {
                let mut lanes = [0.0; $lanes];
                self.store(&mut lanes);
                lanes
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                witnessed!(Self($add(self.0, other.0), $add(self.1, other.1)))
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                witnessed!(Self($sub(self.0, other.0), $sub(self.1, other.1)))
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                witnessed!(Self($mul(self.0, other.0), $mul(self.1, other.1)))
            }

            #[inline(always)]
            fn div(self, other: Self) -> Self {
                witnessed!(Self($div(self.0, other.0), $div(self.1, other.1)))
            }

            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                witnessed!(Self($fma(self.0, factor.0, addend.0), $fma(self.1, factor.1, addend.1)))
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                witnessed!(Self($max(self.0, other.0), $max(self.1, other.1)))
            }

            #[inline(always)]
            fn min(self, other: Self) -> Self {
                witnessed!(Self($min(self.0, other.0), $min(self.1, other.1)))
            }

            $($power)*

            #[inline(always)]
            fn carried(self) -> Self {
                /// (Assembly has to be where the feature is on.)
                #[inline]
                #[target_feature(enable = "avx")]
                fn carried($name(mut low, mut high): $name) -> $name {
                    #[allow(unsafe_code, reason = "assembly")]
                    // SAFETY: no instruction at all; two registers are named.
                    unsafe {
                        asm!(
                            "/* {} {} */",
                            inout(ymm_reg) low,
                            inout(ymm_reg) high,
                            options(pure, nomem, nostack, preserves_flags)
                        );
                    }
                    $name(low, high)
                }
                witnessed!(carried(self))
            }

            #[inline(always)]
            fn first_lanes(_: Avx2, count: usize) -> Self {
                // Reads as much as two registers, from no further on than half of twice as much.
                let words = count.min($lanes) * (size_of::<$scalar>() / size_of::<i32>());
                witnessed!({
                    let from = FIRST.as_ptr().add(FIRST.len() / 2 - words);
                    Self($load(from.cast()), $load(from.add(FIRST.len() / 4).cast()))
                })
            }

            #[inline(always)]
            fn less(self, other: Self) -> Self {
                witnessed!(Self($less::<_CMP_LT_OQ>(self.0, other.0), $less::<_CMP_LT_OQ>(self.1, other.1)))
            }

            #[inline(always)]
            fn select(mask: Self, yes: Self, no: Self) -> Self {
                witnessed!(Self($blend(no.0, yes.0, mask.0), $blend(no.1, yes.1, mask.1)))
            }

            #[inline(always)]
            fn any(mask: Self) -> bool {
                witnessed!($signs(mask.0) | $signs(mask.1)) != 0
            }

            #[inline(always)]
            fn bits(_: Avx2, mask: Self) -> u32 {
                witnessed!($signs(mask.0) | $signs(mask.1) << $half).cast_unsigned()
            }
        }
    };
}

vector!(
    F32, f32, __m256, half 8, lanes 16,
    splat _mm256_set1_ps, load _mm256_loadu_ps, some _mm256_maskload_ps(_mm256_castps_si256),
    store _mm256_storeu_ps, stream _mm256_stream_ps,
    add _mm256_add_ps, sub _mm256_sub_ps, mul _mm256_mul_ps, div _mm256_div_ps, fma _mm256_fmadd_ps, max _mm256_max_ps,
    min _mm256_min_ps, less _mm256_cmp_ps, blend _mm256_blendv_ps, signs _mm256_movemask_ps,
    {
        #[inline(always)]
        fn octave(self) -> Self {
            let exponent = witnessed!(_mm256_set1_epi32(EXPONENT));
            let (low, high) = self.shifted();
            witnessed!(Self(
                _mm256_castsi256_ps(_mm256_and_si256(low, exponent)),
                _mm256_castsi256_ps(_mm256_and_si256(high, exponent))
            ))
        }

        // (Masked stores take some processors ten times as long as all of these.)
        #[inline(always)]
        fn store_partial(self, to: &mut [f32]) {
            debug_assert!(to.len() < 16);
            let (mut to, mut eight) = (to, self.0);
            if to.len() >= 8 {
                let (some, rest) = to.split_at_mut(8);
                // Each store here writes the whole of the chunk that was just cut.
                witnessed!(_mm256_storeu_ps(some.as_mut_ptr(), eight));
                (to, eight) = (rest, self.1);
            }
            let mut four = witnessed!(_mm256_castps256_ps128(eight));
            if to.len() >= 4 {
                let (some, rest) = to.split_at_mut(4);
                witnessed!(_mm_storeu_ps(some.as_mut_ptr(), four));
                (to, four) = (rest, witnessed!(_mm256_extractf128_ps::<1>(eight)));
            }
            if to.len() >= 2 {
                let (some, rest) = to.split_at_mut(2);
                witnessed!(_mm_storel_epi64(some.as_mut_ptr().cast(), _mm_castps_si128(four)));
                (to, four) = (rest, witnessed!(_mm_movehl_ps(four, four)));
            }
            if let Some(last) = to.first_mut() {
                *last = witnessed!(_mm_cvtss_f32(four));
            }
        }

        #[inline(always)]
        fn step(self, steps: Self) -> Self {
            witnessed!(Self(
                _mm256_permutevar8x32_ps(steps.0, _mm256_castps_si256(self.0)),
                _mm256_permutevar8x32_ps(steps.1, _mm256_castps_si256(self.1))
            ))
        }

        #[inline(always)]
        fn power(self, powers: Self) -> Self {
            let step = self.step(powers);
            let (low, high) = self.shifted();
            witnessed!(Self(
                _mm256_castsi256_ps(_mm256_add_epi32(low, _mm256_castps_si256(step.0))),
                _mm256_castsi256_ps(_mm256_add_epi32(high, _mm256_castps_si256(step.1)))
            ))
        }

        #[inline(always)]
        fn transpose(_: Avx2, vectors: &mut [Self]) {
            let zero = witnessed!(_mm256_setzero_ps());
            // Four blocks of eight by eight; the upper right one and the lower left one change places.
            let mut blocks = [[zero; 8]; 4];
            for i in 0..8 {
                (blocks[0][i], blocks[1][i]) = (vectors[i].0, vectors[i].1);
                (blocks[2][i], blocks[3][i]) = (vectors[8 + i].0, vectors[8 + i].1);
            }
            for block in &mut blocks {
                *block = Self::transposed(*block);
            }
            for i in 0..8 {
                vectors[i] = Self(blocks[0][i], blocks[2][i]);
                vectors[8 + i] = Self(blocks[1][i], blocks[3][i]);
            }
        }

        #[inline(always)]
        fn load_columns(token: Avx2, from: &[f32], pitch: usize) -> [Self; COLUMNS] {
            let from = &from[..span(16, pitch)];
            let mut columns = [Self::splat(token, 0.0); COLUMNS];
            for half in 0..2 {
                let mut rows = [columns[0].0; 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    // Four elements of rows 8 half + i and 8 half + i + 4, the last of which ends the slice that was just cut.
                    *row = witnessed!({
                        let at = from.as_ptr().add((8 * half + i) * pitch);
                        _mm256_set_m128(_mm_loadu_ps(at.add(4 * pitch)), _mm_loadu_ps(at))
                    });
                }
                for (column, four) in columns.iter_mut().zip(Self::fours(rows)) {
                    *(if half == 0 { &mut column.0 } else { &mut column.1 }) = four;
                }
            }
            columns
        }

        #[inline(always)]
        fn store_columns([a, b, c, d]: [Self; COLUMNS], to: &mut [f32], pitch: usize) {
            let to = &mut to[..span(16, pitch)];
            for (half, rows) in
                [Self::fours([a.0, b.0, c.0, d.0]), Self::fours([a.1, b.1, c.1, d.1])].iter().enumerate()
            {
                // As they are read.
                witnessed!({
                    let at = to.as_mut_ptr().add(8 * half * pitch);
                    for (i, row) in rows.iter().enumerate() {
                        _mm_storeu_ps(at.add(i * pitch), _mm256_castps256_ps128(*row));
                    }
                    for (i, row) in rows.iter().enumerate() {
                        _mm_storeu_ps(at.add((4 + i) * pitch), _mm256_extractf128_ps::<1>(*row));
                    }
                });
            }
        }
    }
);

impl F32 {
    /// The transpose of eight registers.
    #[inline(always)]
    fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
        let mut columns = rows;
        // Half h of `fours[4 i + j]` has column 4 h + j of rows 4 i to 4 i + 3.
        let mut fours = rows;
        for i in 0..2 {
            [fours[4 * i], fours[4 * i + 1], fours[4 * i + 2], fours[4 * i + 3]] =
                Self::fours([rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]]);
        }
        for j in 0..4 {
            columns[j] = witnessed!(_mm256_permute2f128_ps::<0x20>(fours[j], fours[4 + j]));
            columns[4 + j] = witnessed!(_mm256_permute2f128_ps::<0x31>(fours[j], fours[4 + j]));
        }
        columns
    }

    /// The transpose of each half of four registers.
    #[inline(always)]
    fn fours([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
        witnessed!({
            let (low, low2) = (_mm256_castps_pd(_mm256_unpacklo_ps(a, b)), _mm256_castps_pd(_mm256_unpacklo_ps(c, d)));
            let (high, high2) =
                (_mm256_castps_pd(_mm256_unpackhi_ps(a, b)), _mm256_castps_pd(_mm256_unpackhi_ps(c, d)));
            [
                _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2)),
                _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2)),
            ]
        })
    }

    /// The integers of [`Vector::octave`], at the place of the exponent.
    #[inline(always)]
    fn shifted(self) -> (__m256i, __m256i) {
        witnessed!((
            _mm256_slli_epi32::<20>(_mm256_castps_si256(self.0)),
            _mm256_slli_epi32::<20>(_mm256_castps_si256(self.1))
        ))
    }
}

vector!(
    F64, f64, __m256d, half 4, lanes 8,
    splat _mm256_set1_pd, load _mm256_loadu_pd, some _mm256_maskload_pd(_mm256_castpd_si256),
    store _mm256_storeu_pd, stream _mm256_stream_pd,
    add _mm256_add_pd, sub _mm256_sub_pd, mul _mm256_mul_pd, div _mm256_div_pd, fma _mm256_fmadd_pd, max _mm256_max_pd,
    min _mm256_min_pd, less _mm256_cmp_pd, blend _mm256_blendv_pd, signs _mm256_movemask_pd,
    {
        #[inline(always)]
        fn octave(self) -> Self {
            witnessed!(Self(
                _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(self.0))),
                _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(self.1)))
            ))
        }

        #[inline(always)]
        fn store_partial(self, to: &mut [f64]) {
            debug_assert!(to.len() < 8);
            let (mut to, mut four) = (to, self.0);
            if to.len() >= 4 {
                let (some, rest) = to.split_at_mut(4);
                // As float32's.
                witnessed!(_mm256_storeu_pd(some.as_mut_ptr(), four));
                (to, four) = (rest, self.1);
            }
            let mut two = witnessed!(_mm256_castpd256_pd128(four));
            if to.len() >= 2 {
                let (some, rest) = to.split_at_mut(2);
                witnessed!(_mm_storeu_pd(some.as_mut_ptr(), two));
                (to, two) = (rest, witnessed!(_mm256_extractf128_pd::<1>(four)));
            }
            if let Some(last) = to.first_mut() {
                *last = witnessed!(_mm_cvtsd_f64(two));
            }
        }

        #[inline(always)]
        fn transpose(_: Avx2, vectors: &mut [Self]) {
            let zero = witnessed!(_mm256_setzero_pd());
            let mut blocks = [[zero; 4]; 4];
            for i in 0..4 {
                (blocks[0][i], blocks[1][i]) = (vectors[i].0, vectors[i].1);
                (blocks[2][i], blocks[3][i]) = (vectors[4 + i].0, vectors[4 + i].1);
            }
            for block in &mut blocks {
                let [a, b, c, d] = *block;
                *block = witnessed!({
                    let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
                    let (low2, high2) = (_mm256_unpacklo_pd(c, d), _mm256_unpackhi_pd(c, d));
                    [
                        _mm256_permute2f128_pd::<0x20>(low, low2),
                        _mm256_permute2f128_pd::<0x20>(high, high2),
                        _mm256_permute2f128_pd::<0x31>(low, low2),
                        _mm256_permute2f128_pd::<0x31>(high, high2),
                    ]
                });
            }
            for i in 0..4 {
                vectors[i] = Self(blocks[0][i], blocks[2][i]);
                vectors[4 + i] = Self(blocks[1][i], blocks[3][i]);
            }
        }

        #[inline(always)]
        fn load_columns(token: Avx2, from: &[f64], pitch: usize) -> [Self; COLUMNS] {
            let from = &from[..span(8, pitch)];
            let mut columns = [Self::splat(token, 0.0); COLUMNS];
            for (pair, columns) in columns.chunks_exact_mut(2).enumerate() {
                // Two elements of each row, within the slice that was just cut.
                let [a, b, c, d] = witnessed!({
                    let at = from.as_ptr().add(2 * pair);
                    let far = at.add(4 * pitch);
                    [
                        _mm256_set_m128d(_mm_loadu_pd(at.add(2 * pitch)), _mm_loadu_pd(at)),
                        _mm256_set_m128d(_mm_loadu_pd(at.add(3 * pitch)), _mm_loadu_pd(at.add(pitch))),
                        _mm256_set_m128d(_mm_loadu_pd(far.add(2 * pitch)), _mm_loadu_pd(far)),
                        _mm256_set_m128d(_mm_loadu_pd(far.add(3 * pitch)), _mm_loadu_pd(far.add(pitch))),
                    ]
                });
                columns[0] = Self(witnessed!(_mm256_unpacklo_pd(a, b)), witnessed!(_mm256_unpacklo_pd(c, d)));
                columns[1] = Self(witnessed!(_mm256_unpackhi_pd(a, b)), witnessed!(_mm256_unpackhi_pd(c, d)));
            }
            columns
        }

        #[inline(always)]
        fn store_columns([a, b, c, d]: [Self; COLUMNS], to: &mut [f64], pitch: usize) {
            let to = &mut to[..span(8, pitch)];
            for (half, [a, b, c, d]) in [[a.0, b.0, c.0, d.0], [a.1, b.1, c.1, d.1]].into_iter().enumerate() {
                // As they are read.
                witnessed!({
                    let at = to.as_mut_ptr().add(4 * half * pitch);
                    let even = [_mm256_unpacklo_pd(a, b), _mm256_unpacklo_pd(c, d)];
                    let odd = [_mm256_unpackhi_pd(a, b), _mm256_unpackhi_pd(c, d)];
                    for (i, rows) in [even, odd].iter().enumerate() {
                        _mm_storeu_pd(at.add(i * pitch), _mm256_castpd256_pd128(rows[0]));
                        _mm_storeu_pd(at.add(i * pitch + 2), _mm256_castpd256_pd128(rows[1]));
                    }
                    for (i, rows) in [even, odd].iter().enumerate() {
                        _mm_storeu_pd(at.add((2 + i) * pitch), _mm256_extractf128_pd::<1>(rows[0]));
                        _mm_storeu_pd(at.add((2 + i) * pitch + 2), _mm256_extractf128_pd::<1>(rows[1]));
                    }
                });
            }
        }
    }
);

impl Simd for Avx2 {
    type F32 = F32;
    type F64 = F64;
    const PAIRS: bool = true;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.run(kernel)
    }

    #[inline(always)]
    fn widen(self, lanes: F32) -> [F64; 2] {
        witnessed!([
            F64(_mm256_cvtps_pd(_mm256_castps256_ps128(lanes.0)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(lanes.0))),
            F64(_mm256_cvtps_pd(_mm256_castps256_ps128(lanes.1)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(lanes.1)))
        ])
    }

    #[inline(always)]
    fn narrow(self, [low, high]: [F64; 2]) -> F32 {
        witnessed!(F32(
            _mm256_set_m128(_mm256_cvtpd_ps(low.1), _mm256_cvtpd_ps(low.0)),
            _mm256_set_m128(_mm256_cvtpd_ps(high.1), _mm256_cvtpd_ps(high.0))
        ))
    }

    #[inline(always)]
    fn widen_halves(self, from: &[f16], to: &mut [f32]) {
        let (mut from, mut to) = (from.chunks_exact(8), to.chunks_exact_mut(8));
        for (from, to) in (&mut from).zip(&mut to) {
            // Reads the 16 bytes of one chunk, of which float16 is a transparent wrapper of the bits, and writes 32.
            witnessed!(_mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))));
        }
        for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = from.widen();
        }
    }

    #[inline(always)]
    fn narrow_halves(self, from: &[f32], to: &mut [f16]) {
        let (mut from, mut to) = (from.chunks_exact(8), to.chunks_exact_mut(8));
        for (from, to) in (&mut from).zip(&mut to) {
            // Reads the 32 bytes of one chunk and writes 16.
            witnessed!({
                let vector = _mm256_loadu_ps(from.as_ptr());
                _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(vector));
            });
        }
        for (to, from) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = f16::narrow(*from);
        }
    }

    #[inline(always)]
    fn stream_halves(self, from: &[u16], to: &mut [u16]) {
        let (from, to) = copy_ends(from, to);
        for (from, to) in from.chunks_exact(HALVES / 2).zip(to.chunks_exact_mut(HALVES / 2)) {
            // Reads and writes the 32 bytes of one chunk; `to` is half a line.
            witnessed!(_mm256_stream_si256(to.as_mut_ptr().cast(), _mm256_loadu_si256(from.as_ptr().cast())));
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
