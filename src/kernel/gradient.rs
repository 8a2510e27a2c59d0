//! Gradients: the vector-Jacobian products of `softmax` and `log_softmax`.
//!
//! Both are one sum over a row and then one pass over it, with two arrays to read, f (what the forward function
//! returned) and g (the gradient that arrives):
//!
//! ```text
//! softmax       f = p     S = sum(g p)     p (g - S)
//! log_softmax   f = lp    S = sum(g)       g - exp(lp) S
//! ```
//!
//! The order of the sum is that of [`super::fold`], for rows and for tiles alike: lane j of a chunk of 1,024 has the
//! elements j, j + 16, ... (float64: j + 8), a halving tree joins the lanes, chunks join a block of 64 in order, and
//! blocks the row. Joining a sum of nothing changes no bit, so what is past the end need not be summed.
//!
//! 1. float32: everything after the load is float64. A product of two float32 is exact there, and the results are
//!    rounded once.
//! 2. float64: products and sums keep what rounding takes from them (two-product, two-sum), and so do the results.
//! 3. exp(lp) comes from [`super::exp`] as s (1 + p), with the shift 0: s carries 2^OFFSET ORIGIN, which S gives back.
//!    A logarithm above [`Gradient::LIMIT`] is none of a probability; it is looked at again, with another shift.
//!
//! Infinity and NaN go where the formulas take them. What rounding took from a number that is not finite is NaN by
//! the same formulas and is dropped, so that an infinite sum stays infinite. Every NaN result is the canonical one.

use std::marker::PhantomData;

use super::column::{LANES, Strip};
use super::double::{Double, power_of_two};
use super::exp::{Exp, Mode, Shift, Temperature};
use super::fold::{BLOCK, CHUNK};
use super::real::{self, Real, Wide, two_sum};
use super::row::Store;
use super::sum::halve;
use crate::simd::{Kernel, Simd, Vector};

/// A compute type, with the sums and results that gradients need.
pub(crate) trait Gradient: Real {
    /// Logarithms up to this have an exponential that the shift 0 can hold.
    const LIMIT: Self;
    /// Those below have an exponential of 0.
    const LEAST: Self;
    /// The shift for those above, up to the last that has a finite exponential.
    const FAR: f64;

    /// Adds `a * b` to a sum.
    fn add_product<S: Simd>(token: S, sum: &mut Wide<S>, a: Self::Vector<S>, b: Self::Vector<S>);
    /// Adds `a` to a sum.
    fn add<S: Simd>(token: S, sum: &mut Wide<S>, a: Self::Vector<S>);
    /// The sums, one by one; those past the type's lanes are empty.
    fn lanes<S: Simd>(sum: Wide<S>) -> [Self::Wide; LANES];
    /// The reverse of [`Gradient::lanes`].
    fn vectors<S: Simd>(token: S, sums: &[Self::Wide; LANES]) -> Wide<S>;
    /// The sum of two sums; infinite where one is.
    fn join(a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// `p * (g - sum)`.
    fn softmax<S: Simd>(token: S, p: Self::Vector<S>, g: Self::Vector<S>, sum: Wide<S>) -> Self::Vector<S>;
    /// `g - s * (1 + p) / (2^OFFSET ORIGIN) * sum`, where `e` is `(p, s)`.
    fn log_softmax<S: Simd>(token: S, e: Term<S, Self>, g: Self::Vector<S>, sum: Wide<S>) -> Self::Vector<S>;
    /// `g - s * (1 + p) * 2^(FAR - OFFSET) / ORIGIN * sum`, less carefully; an exponential beyond the type counts as infinite.
    fn log_softmax_far<S: Simd>(token: S, e: Term<S, Self>, g: Self::Vector<S>, sum: Wide<S>) -> Self::Vector<S>;
}

/// `(p, s)` of the exponential s (1 + p).
type Term<S, T> = (<T as Real>::Vector<S>, <T as Real>::Vector<S>);

impl Gradient for f32 {
    const LIMIT: Self = 40.0;
    const LEAST: Self = -131.0;
    const FAR: f64 = 128.0;

    #[inline(always)]
    fn add_product<S: Simd>(token: S, sum: &mut Wide<S>, a: S::F32, b: S::F32) {
        let (a, b) = (token.widen(a), token.widen(b));
        sum[0] = sum[0].add(a[0].mul(b[0]));
        sum[1] = sum[1].add(a[1].mul(b[1]));
    }

    #[inline(always)]
    fn add<S: Simd>(token: S, sum: &mut Wide<S>, a: S::F32) {
        let a = token.widen(a);
        sum[0] = sum[0].add(a[0]);
        sum[1] = sum[1].add(a[1]);
    }

    #[inline(always)]
    fn lanes<S: Simd>(sum: Wide<S>) -> [f64; LANES] {
        let mut lanes = [0.0; LANES];
        real::store::<S>(sum, &mut lanes);
        lanes
    }

    #[inline(always)]
    fn vectors<S: Simd>(token: S, sums: &[f64; LANES]) -> Wide<S> {
        real::load(token, sums)
    }

    #[inline(always)]
    fn join(a: f64, b: f64) -> f64 {
        a + b
    }

    #[inline(always)]
    fn softmax<S: Simd>(token: S, p: S::F32, g: S::F32, sum: Wide<S>) -> S::F32 {
        let (p, g) = (token.widen(p), token.widen(g));
        token.narrow([p[0].mul(g[0].sub(sum[0])), p[1].mul(g[1].sub(sum[1]))])
    }

    #[inline(always)]
    fn log_softmax<S: Simd>(token: S, (p, s): Term<S, Self>, g: S::F32, sum: Wide<S>) -> S::F32 {
        let (p, s, g) = (token.widen(p), token.widen(s), token.widen(g));
        let (one, scale) =
            (S::F64::splat(token, 1.0), S::F64::splat(token, power_of_two(-Self::OFFSET) / Self::ORIGIN));
        token.narrow([
            g[0].sub(one.add(p[0]).mul(s[0]).mul(sum[0].mul(scale))),
            g[1].sub(one.add(p[1]).mul(s[1]).mul(sum[1].mul(scale))),
        ])
    }

    #[inline(always)]
    fn log_softmax_far<S: Simd>(token: S, (p, s): Term<S, Self>, g: S::F32, sum: Wide<S>) -> S::F32 {
        let (p, s, g) = (token.widen(p), token.widen(s), token.widen(g));
        let (one, scale) =
            (S::F64::splat(token, 1.0), S::F64::splat(token, power_of_two(128 - Self::OFFSET) / Self::ORIGIN));
        let (largest, infinity) = (S::F64::splat(token, f64::from(Self::MAX)), S::F64::splat(token, f64::INFINITY));
        let mut e = [one.add(p[0]).mul(s[0]).mul(scale), one.add(p[1]).mul(s[1]).mul(scale)];
        e[0] = S::F64::select(largest.less(e[0]), infinity, e[0]);
        e[1] = S::F64::select(largest.less(e[1]), infinity, e[1]);
        token.narrow([g[0].sub(e[0].mul(sum[0])), g[1].sub(e[1].mul(sum[1]))])
    }
}

impl Gradient for f64 {
    const LIMIT: Self = 340.0;
    const LEAST: Self = -1000.0;
    const FAR: f64 = 1024.0;

    #[inline(always)]
    fn add_product<S: Simd>(token: S, sum: &mut Wide<S>, a: S::F64, b: S::F64) {
        let product = a.mul(b);
        let lost = a.mul_add(b, negated(token, product));
        let (total, rest) = two_sum(sum[0], product);
        *sum = [total, sum[1].add(rest.add(lost))];
    }

    #[inline(always)]
    fn add<S: Simd>(_: S, sum: &mut Wide<S>, a: S::F64) {
        let (total, rest) = two_sum(sum[0], a);
        *sum = [total, sum[1].add(rest)];
    }

    #[inline(always)]
    fn lanes<S: Simd>(sum: Wide<S>) -> [Double; LANES] {
        let (high, low) = (sum[0].to_array(), sum[1].to_array());
        let mut lanes = [Double::default(); LANES];
        for (lane, (high, low)) in lanes.iter_mut().zip(high.as_ref().iter().zip(low.as_ref())) {
            *lane = Self::join(Double::new(*high), Double::new(if low.is_finite() { *low } else { 0.0 }));
        }
        lanes
    }

    #[inline(always)]
    fn vectors<S: Simd>(token: S, sums: &[Double; LANES]) -> Wide<S> {
        let (mut high, mut low) = ([0.0; LANES / 2], [0.0; LANES / 2]);
        for (lane, sum) in sums.iter().take(LANES / 2).enumerate() {
            (high[lane], low[lane]) = (sum.high, sum.low);
        }
        [S::F64::load(token, &high), S::F64::load(token, &low)]
    }

    #[inline(always)]
    fn join(a: Double, b: Double) -> Double {
        let plain = a.high + b.high;
        if plain.is_finite() { a.plus(b) } else { Double::new(plain) }
    }

    #[inline(always)]
    fn softmax<S: Simd>(token: S, p: S::F64, g: S::F64, sum: Wide<S>) -> S::F64 {
        let (difference, rest) = two_sum(g, negated(token, sum[0]));
        p.mul_add(difference, p.mul(finite(token, rest.sub(sum[1]))))
    }

    #[inline(always)]
    fn log_softmax<S: Simd>(token: S, (p, s): Term<S, Self>, g: S::F64, [high, low]: Wide<S>) -> S::F64 {
        // 2^-OFFSET comes off where nothing that matters can become subnormal: off a large sum, else off s, which is
        // a power of two and so exact down to the least number there is.
        let (one, scale) = (S::F64::splat(token, 1.0), S::F64::splat(token, power_of_two(-Self::OFFSET)));
        let small = high.max(negated(token, high)).less(one);
        let (of_s, of_sum) = (S::F64::select(small, scale, one), S::F64::select(small, one, scale));
        let (s, high, low) = (s.mul(of_s), high.mul(of_sum), low.mul(of_sum));
        // sum * (1 + p) as two numbers, the second what rounding took from the first.
        let product = p.mul_add(high, high);
        let rest = p.mul_add(high, high.sub(product)).add(p.mul_add(low, low));
        let (difference, lost) = two_sum(g, negated(token, s.mul(product)));
        difference.add(finite(token, lost.sub(s.mul(rest))))
    }

    #[inline(always)]
    fn log_softmax_far<S: Simd>(token: S, (p, s): Term<S, Self>, g: S::F64, sum: Wide<S>) -> S::F64 {
        let (one, scale) = (S::F64::splat(token, 1.0), S::F64::splat(token, power_of_two(1024 - Self::OFFSET)));
        g.sub(one.add(p).mul(s).mul(scale).mul(sum[0]))
    }
}

/// `-v`, but 0 for 0.
#[inline(always)]
fn negated<V: Vector>(token: V::Token, v: V) -> V {
    V::splat(token, V::Scalar::ZERO).sub(v)
}

/// `v`, or 0 where it is what rounding took from a number that is not finite.
#[inline(always)]
fn finite<V: Vector>(token: V::Token, v: V) -> V {
    let magnitude = v.max(negated(token, v));
    V::select(magnitude.less(V::splat(token, V::Scalar::INFINITY)), v, V::splat(token, V::Scalar::ZERO))
}

/// `yes`, or the canonical NaN where `v` is NaN.
#[inline(always)]
fn unless_nan<V: Vector>(token: V::Token, v: V, yes: V) -> V {
    let rest = V::select(V::splat(token, V::Scalar::NEG_INFINITY).less(v), yes, V::splat(token, V::Scalar::NAN));
    V::select(v.less(V::splat(token, V::Scalar::INFINITY)), yes, rest)
}

/// A gradient: what is summed up, and what is made of each element once the sum is known.
pub(crate) trait Vjp: Copy + Send + Sync {
    /// The name of the first operand, for errors.
    const FIRST: &'static str;
    /// The constants of [`Vjp::results`].
    type Constants<S: Simd, T: Gradient>: Copy;

    /// The constants.
    fn constants<S: Simd, T: Gradient>(token: S) -> Self::Constants<S, T>;
    /// Adds the terms of some elements. The term of two zeros is 0.
    fn add<S: Simd, T: Gradient>(token: S, sum: &mut Wide<S>, f: T::Vector<S>, g: T::Vector<S>);
    /// The results of some elements; NaN of any kind.
    fn results<S: Simd, T: Gradient>(
        token: S,
        constants: &Self::Constants<S, T>,
        f: T::Vector<S>,
        g: T::Vector<S>,
        sum: Wide<S>,
    ) -> T::Vector<S>;
}

/// p (g - sum(g p)).
#[derive(Clone, Copy)]
pub(crate) struct Softmax;

impl Vjp for Softmax {
    const FIRST: &'static str = "probs";
    type Constants<S: Simd, T: Gradient> = ();

    #[inline(always)]
    fn constants<S: Simd, T: Gradient>(_: S) {}

    #[inline(always)]
    fn add<S: Simd, T: Gradient>(token: S, sum: &mut Wide<S>, f: T::Vector<S>, g: T::Vector<S>) {
        T::add_product(token, sum, f, g);
    }

    #[inline(always)]
    fn results<S: Simd, T: Gradient>(
        token: S,
        (): &(),
        f: T::Vector<S>,
        g: T::Vector<S>,
        sum: Wide<S>,
    ) -> T::Vector<S> {
        T::softmax(token, f, g, sum)
    }
}

/// g - exp(lp) sum(g).
#[derive(Clone, Copy)]
pub(crate) struct LogSoftmax;

/// The exponentials with the shifts 0 and [`Gradient::FAR`].
#[derive(Clone, Copy)]
pub(crate) struct Exponentials<V: Vector> {
    near: Exp<V>,
    far: Exp<V>,
    limit: V,
    least: V,
    zero: V,
    /// Logarithms from this on have an infinite exponential; those above are held to it.
    infinite: V,
}

impl Vjp for LogSoftmax {
    const FIRST: &'static str = "log_probs";
    type Constants<S: Simd, T: Gradient> = Exponentials<T::Vector<S>>;

    #[inline(always)]
    fn constants<S: Simd, T: Gradient>(token: S) -> Exponentials<T::Vector<S>> {
        let one = Temperature::new(1.0);
        Exponentials {
            near: Exp::new(token, &one, Shift { base: T::ZERO, k: 0.0 }),
            far: Exp::new(token, &one, Shift { base: T::ZERO, k: T::FAR }),
            limit: T::Vector::<S>::splat(token, T::LIMIT),
            least: T::Vector::<S>::splat(token, T::LEAST),
            zero: T::Vector::<S>::splat(token, T::ZERO),
            infinite: T::Vector::<S>::splat(token, T::from_f64(T::FAR * std::f64::consts::LN_2 + 1.0)),
        }
    }

    /// NaN among the logarithms makes the sum NaN, and with it the row, as NaN among the probabilities does.
    #[inline(always)]
    fn add<S: Simd, T: Gradient>(token: S, sum: &mut Wide<S>, f: T::Vector<S>, g: T::Vector<S>) {
        T::add(token, sum, unless_nan(token, f, g));
    }

    #[inline(always)]
    fn results<S: Simd, T: Gradient>(
        token: S,
        constants: &Exponentials<T::Vector<S>>,
        f: T::Vector<S>,
        g: T::Vector<S>,
        sum: Wide<S>,
    ) -> T::Vector<S> {
        let (p, s) = constants.near.term::<{ Mode::Clamped as u8 }>(f);
        let near = (p, T::Vector::<S>::select(constants.least.less(f), s, constants.zero));
        let results = T::log_softmax(token, near, g, sum);
        let is_far = constants.limit.less(f);
        if !T::Vector::<S>::any(is_far) {
            return results;
        }
        let far = constants.far.term::<{ Mode::Clamped as u8 }>(f.min(constants.infinite));
        T::Vector::<S>::select(is_far, T::log_softmax_far(token, far, g, sum), results)
    }
}

/// The sum over at most [`BLOCK`] elements of a row, its chunks in order.
#[inline(always)]
pub(crate) fn fold<F: Vjp, S: Simd, T: Gradient>(token: S, f: &[T], g: &[T]) -> T::Wide {
    token.call(FoldBlock::<F, T> { f, g, function: PhantomData })
}

/// The arguments of [`fold`].
struct FoldBlock<'a, F, T> {
    f: &'a [T],
    g: &'a [T],
    function: PhantomData<F>,
}

impl<F: Vjp, T: Gradient> Kernel for FoldBlock<'_, F, T> {
    type Output = T::Wide;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> T::Wide {
        debug_assert!(self.f.len() == self.g.len() && self.f.len() <= BLOCK);
        let mut block = T::Wide::default();
        for (f, g) in self.f.chunks(CHUNK).zip(self.g.chunks(CHUNK)) {
            block = T::join(block, fold_chunk::<F, S, T>(token, f, g));
        }
        block
    }
}

#[inline(always)]
fn fold_chunk<F: Vjp, S: Simd, T: Gradient>(token: S, f: &[T], g: &[T]) -> T::Wide {
    let lanes = T::LANES;
    let mut sum = [S::F64::splat(token, 0.0); 2];
    let whole = f.len() / lanes * lanes;
    let (f, f_tail) = f.split_at(whole);
    let (g, g_tail) = g.split_at(whole);
    for (f, g) in f.chunks_exact(lanes).zip(g.chunks_exact(lanes)) {
        F::add::<S, T>(token, &mut sum, T::Vector::<S>::load(token, f), T::Vector::<S>::load(token, g));
    }
    if !f_tail.is_empty() {
        let f = T::Vector::<S>::load_partial(token, f_tail, T::ZERO);
        let g = T::Vector::<S>::load_partial(token, g_tail, T::ZERO);
        F::add::<S, T>(token, &mut sum, f, g);
    }
    halve(&mut T::lanes::<S>(sum)[..lanes], T::join)
}

/// Row sums in the making, a lane each: chunks are to be added in order.
#[derive(Clone, Copy)]
pub(crate) struct Folds<T: Gradient> {
    rows: [T::Wide; LANES],
    block: [T::Wide; LANES],
    chunks: usize,
}

impl<T: Gradient> Folds<T> {
    /// No elements.
    #[inline(always)]
    pub(crate) fn empty() -> Self {
        Self { rows: [T::Wide::default(); LANES], block: [T::Wide::default(); LANES], chunks: 0 }
    }

    /// Adds the next chunk of a strip.
    #[inline(always)]
    pub(crate) fn add<F: Vjp, S: Simd>(&mut self, token: S, f: &[T], g: &[T], strip: Strip) {
        let chunk = token.call(FoldStrip::<F, T> { f, g, strip, function: PhantomData });
        join_lanes::<T>(&mut self.block, &chunk);
        self.chunks += 1;
        if self.chunks.is_multiple_of(BLOCK / CHUNK) {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        join_lanes::<T>(&mut self.rows, &self.block);
        self.block = [T::Wide::default(); LANES];
    }

    /// The sums of the rows.
    #[inline(always)]
    pub(crate) fn sums(mut self) -> [T::Wide; LANES] {
        self.end_block();
        self.rows
    }
}

#[inline(always)]
fn join_lanes<T: Gradient>(sums: &mut [T::Wide; LANES], others: &[T::Wide; LANES]) {
    for (sum, other) in sums.iter_mut().zip(others).take(T::LANES) {
        *sum = T::join(*sum, *other);
    }
}

/// The sums of one chunk of a strip.
struct FoldStrip<'a, F, T> {
    f: &'a [T],
    g: &'a [T],
    strip: Strip,
    function: PhantomData<F>,
}

impl<F: Vjp, T: Gradient> Kernel for FoldStrip<'_, F, T> {
    type Output = [T::Wide; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> [T::Wide; LANES] {
        let Self { f, g, strip, .. } = self;
        let mut sums = [[T::Wide::default(); LANES]; LANES];
        let mut filled = T::LANES.min(strip.rows);
        for (slot, sums) in sums.iter_mut().enumerate().take(filled) {
            let mut sum = [S::F64::splat(token, 0.0); 2];
            let mut row = slot;
            while row < strip.rows {
                let at = strip.first + row * strip.pitch;
                F::add::<S, T>(
                    token,
                    &mut sum,
                    T::Vector::<S>::load(token, &f[at..]),
                    T::Vector::<S>::load(token, &g[at..]),
                );
                row += T::LANES;
            }
            *sums = T::lanes::<S>(sum);
        }
        // `halve`, without the additions of 0 that slots past the end would be.
        let mut half = T::LANES / 2;
        while half > 0 {
            for slot in 0..half.min(filled.saturating_sub(half)) {
                let other = sums[slot + half];
                join_lanes::<T>(&mut sums[slot], &other);
            }
            filled = filled.min(half);
            half /= 2;
        }
        sums[0]
    }
}

/// The results for some elements of a row, whose sum is in every lane of `sums`.
#[inline(always)]
pub(crate) fn write<F: Vjp, S: Simd, T: Gradient>(
    token: S,
    (f, g): (&[T], &[T]),
    out: &mut [T],
    sums: &[T::Wide; LANES],
    store: Store,
) {
    token.call(Write::<F, T> { f, g, out, sums, store, function: PhantomData });
}

/// The arguments of [`write`].
struct Write<'a, F, T: Gradient> {
    f: &'a [T],
    g: &'a [T],
    out: &'a mut [T],
    sums: &'a [T::Wide; LANES],
    store: Store,
    function: PhantomData<F>,
}

impl<F: Vjp, T: Gradient> Kernel for Write<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Self { f, g, out, .. } = self;
        let map = Map::<F, S, T>::new(token, self.sums);
        if S::COMPACT || self.store == Store::Cached {
            map.write(f, g, out);
            return;
        }
        // The elements are independent here, so the vectors may begin where the lines of the output do.
        let (head, lines, tail) = T::Vector::<S>::lines(out);
        let (begin, end) = (head.len(), head.len() + lines.len() * T::LANES);
        map.write_few(&f[..begin], &g[..begin], head);
        for (index, line) in lines.iter_mut().enumerate() {
            let at = begin + index * T::LANES;
            map.vector(&f[at..], &g[at..]).stream(line);
        }
        map.write_few(&f[end..], &g[end..], tail);
    }
}

/// All that the results of a vector need.
struct Map<F: Vjp, S: Simd, T: Gradient> {
    token: S,
    constants: F::Constants<S, T>,
    sum: Wide<S>,
}

impl<F: Vjp, S: Simd, T: Gradient> Map<F, S, T> {
    #[inline(always)]
    fn new(token: S, sums: &[T::Wide; LANES]) -> Self {
        Self { token, constants: F::constants::<S, T>(token), sum: T::vectors(token, sums) }
    }

    /// The results of elements; every NaN the canonical one.
    #[inline(always)]
    fn apply(&self, f: T::Vector<S>, g: T::Vector<S>) -> T::Vector<S> {
        let results = F::results::<S, T>(self.token, &self.constants, f, g, self.sum);
        unless_nan(self.token, results, results)
    }

    /// The results of the first elements.
    #[inline(always)]
    fn vector(&self, f: &[T], g: &[T]) -> T::Vector<S> {
        self.apply(T::Vector::<S>::load(self.token, f), T::Vector::<S>::load(self.token, g))
    }

    #[inline(always)]
    fn write(&self, f: &[T], g: &[T], out: &mut [T]) {
        let lanes = T::LANES;
        let whole = out.len() / lanes * lanes;
        let (f, f_tail) = f[..out.len()].split_at(whole);
        let (g, g_tail) = g[..out.len()].split_at(whole);
        let (out, out_tail) = out.split_at_mut(whole);
        for ((f, g), out) in f.chunks_exact(lanes).zip(g.chunks_exact(lanes)).zip(out.chunks_exact_mut(lanes)) {
            self.vector(f, g).store(out);
        }
        self.write_few(f_tail, g_tail, out_tail);
    }

    /// The same of fewer than a vector has.
    #[inline(always)]
    fn write_few(&self, f: &[T], g: &[T], out: &mut [T]) {
        if !out.is_empty() {
            let f = T::Vector::<S>::load_partial(self.token, f, T::ZERO);
            let g = T::Vector::<S>::load_partial(self.token, g, T::ZERO);
            self.apply(f, g).store_partial(out);
        }
    }
}

/// The results of a strip, in the place of f.
#[inline(always)]
pub(crate) fn write_strip<F: Vjp, S: Simd, T: Gradient>(
    token: S,
    f: &mut [T],
    g: &[T],
    strip: Strip,
    sums: &[T::Wide; LANES],
) {
    token.call(WriteStrip::<F, T> { f, g, strip, sums, function: PhantomData });
}

/// The arguments of [`write_strip`].
struct WriteStrip<'a, F, T: Gradient> {
    f: &'a mut [T],
    g: &'a [T],
    strip: Strip,
    sums: &'a [T::Wide; LANES],
    function: PhantomData<F>,
}

impl<F: Vjp, T: Gradient> Kernel for WriteStrip<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let map = Map::<F, S, T>::new(token, self.sums);
        for row in 0..self.strip.rows {
            let at = self.strip.first + row * self.strip.pitch;
            map.vector(&self.f[at..], &self.g[at..]).store(&mut self.f[at..]);
        }
    }
}
