//! Short rows side by side, a lane each, from their logits to their results in one go.
//!
//! What is done once for each row (its maximum over the lanes, its shift, its sum over the lanes, its reciprocal) takes
//! longer than a short row itself. Here it is done for a vector of rows at a time, and a row of any length fills the
//! lanes. The price is two transposes, by four columns at a time.
//!
//! ```text
//! for each block of strips, which have as many rows as a vector has lanes:
//!     columns <- logits                            and their largest and smallest
//!     for each slot: p and s of its columns, in their place; their sum       a slot is what is a lane in `fold`
//!     the halving tree over the slots; the reciprocals
//!     results <- s (1 + p) (r + r')                and the block before this one leaves, past the cache
//! ```
//!
//! The order of every sum is `fold`'s, lane for lane, and so are the bits.

use std::marker::PhantomData;

use super::Temperature;
use super::column::{LANES, any_undefined};
use super::exp::{Anchor, Exp, Mode, PLAIN, of_maxima};
use super::fold::{Fold, Partial};
use super::kept::PAGE;
use super::log_row::Logits;
use super::real::{self, Real, Stored, Wide};
use super::row::{KeptShare, Map, Origin, Results, Store, copy_some};
use super::slots::{HALF, Slots};
use super::sum::{Sum, centers};
use crate::simd::{COLUMNS, Kernel, Simd, Vector};

/// Rows that are written, and working memory for them.
pub(crate) struct WriteAbreast<'a, T: Real, R> {
    /// The logits from the first row on; there may be more after the last.
    pub(crate) x: &'a [T],
    /// The place of the results.
    pub(crate) out: &'a mut [T],
    /// The elements of a row.
    pub(crate) len: usize,
    pub(crate) temperature: &'a Temperature<T>,
    pub(crate) store: Store,
    /// [`room`].
    pub(crate) memory: &'a mut [T],
    pub(crate) results: PhantomData<R>,
}

/// Elements of working memory for rows of so many: the columns of a block of strips and their terms, and its results,
/// twice.
pub(crate) const fn room<T: Real>(len: usize) -> usize {
    2 * apart::<T>(len) + 2 * results::<T>(len)
}

/// The elements from the logits of a block to their terms: but for whole pages, these lie so far apart that no load of a
/// column follows a store at a short distance ([`PAGE`]), neither in this half of the slots nor in the other.
const fn apart<T: Real>(len: usize) -> usize {
    let (size, apart) = (size_of::<T>(), PAGE / 2 + PAGE / 16);
    let bytes = strips(len) * columns::<T>(len) * size;
    (bytes.saturating_sub(apart).next_multiple_of(PAGE) + apart) / size
}

/// The most strips of a block.
const STRIPS: usize = 8;

/// The strips that are computed together, step by step: of few columns each, a step is little more than a chain of
/// operations, and those of several strips overlap.
const fn strips(len: usize) -> usize {
    match 64 / len {
        _ if len > LANES => 1,
        strips if strips > STRIPS => STRIPS,
        strips => strips,
    }
}

/// The columns of a slot.
const fn depth(len: usize) -> usize {
    len.div_ceil(LANES)
}

/// Where a column is: those of a slot lie one after another.
const fn place(column: usize, len: usize) -> usize {
    if len <= LANES { column } else { column % LANES * depth(len) + column / LANES }
}

/// The elements of the columns of a strip, by fours.
const fn columns<T: Real>(len: usize) -> usize {
    (if len <= LANES { len.next_multiple_of(COLUMNS) } else { LANES * depth(len) }) * T::LANES
}

/// The elements of the results of a block, after those that wait for their line, and before what reaches over the end of
/// the last row.
const fn results<T: Real>(len: usize) -> usize {
    (strips(len) * len + 2) * T::LANES
}

/// Where the columns of so many strips end, by fours, that begin with element `first`.
const fn reach<T: Real>(first: usize, len: usize, strips: usize) -> usize {
    first + (strips * T::LANES - 1) * len + len.next_multiple_of(COLUMNS)
}

impl<T: Real, R: Results<T>> Kernel for WriteAbreast<'_, T, R> {
    /// The rows that were written: up to the first block in which some row needs more (a NaN, an infinite maximum, a base).
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, token: S) -> usize {
        // (All but the last are known to the compiler, so that there is no code for others.)
        if S::COMPACT || size_of::<T>() != size_of::<f32>() || !self.temperature.is_one() {
            return 0;
        }
        let Self { x, out, len, temperature, store, memory, .. } = self;
        let (logits, rest) = memory.split_at_mut(apart::<T>(len));
        let (terms, rest) = rest.split_at_mut(apart::<T>(len));
        let (first, second) = rest.split_at_mut(results::<T>(len));
        let rows = out.len() / len;
        let mut leaving = Leaving::new::<S>(out, len, store, [first, second]);
        let lanes = Lanes::new();
        let mut block =
            Block::<T, R> { len, temperature, logits, terms, lanes, slots: Slots::new(), results: PhantomData };
        let mut done = 0;
        while done < rows {
            let (start, count) = (done * len, (strips(len) * T::LANES).min(rows - done));
            let strips = count.div_ceil(T::LANES);
            if reach::<T>(start, len, strips) <= x.len() {
                block.read(token, strips, &x[start..]);
            } else {
                // The last rows, by way of a place where as much follows. (What is in the lanes of no row does not matter.)
                let place = leaving.spare();
                place.fill(T::ZERO);
                place[..count * len].copy_from_slice(&x[start..start + count * len]);
                block.read(token, strips, place);
            }
            let rows = &x[start..start + count * len];
            let is_complete = if len <= T::LANES {
                block.complete::<S, true>(token, strips, rows, &mut leaving)
            } else {
                block.complete::<S, false>(token, 1, rows, &mut leaving)
            };
            if !is_complete {
                break;
            }
            leaving.arrived(token, count * len);
            done += count;
        }
        leaving.finish(token);
        done
    }
}

/// Rows, a vector of them in each strip.
struct Block<'a, T: Real, R> {
    len: usize,
    temperature: &'a Temperature<T>,
    /// One column after another of one strip after another: logits, then p of each where terms are kept.
    logits: &'a mut [T],
    /// The same: s.
    terms: &'a mut [T],
    lanes: Lanes<T>,
    slots: Slots<T>,
    results: PhantomData<R>,
}

/// What the rows of each strip have, a lane each.
struct Lanes<T> {
    max: [[T; LANES]; STRIPS],
    min: [[T; LANES]; STRIPS],
    /// Of the shift: [`Exp::anchor`].
    magic: [[T; LANES]; STRIPS],
    least: [[T; LANES]; STRIPS],
    center: [[T; LANES]; STRIPS],
    sum: [Stored; STRIPS],
    /// [`Results::offsets`].
    offset: [[[T; LANES]; 2]; STRIPS],
}

impl<T: Real> Lanes<T> {
    fn new() -> Self {
        let zeros = [[T::ZERO; LANES]; STRIPS];
        let (sum, offset) = ([[0.0; LANES]; STRIPS], [[[T::ZERO; LANES]; 2]; STRIPS]);
        Self { max: zeros, min: zeros, magic: zeros, least: zeros, center: zeros, sum, offset }
    }
}

/// How many elements ahead logits are asked for.
const AHEAD: usize = 1024;

impl<T: Real, R: Results<T>> Block<'_, T, R> {
    /// Copies the columns of strips, whose rows begin with `x`, and finds the largest and the smallest of each row.
    #[inline(always)]
    fn read<S: Simd>(&mut self, token: S, strips: usize, x: &[T]) {
        let (lanes, len) = (T::LANES, self.len);
        let whole = len / COLUMNS * COLUMNS;
        for (strip, to) in self.logits.chunks_exact_mut(columns::<T>(len)).enumerate().take(strips) {
            let first = strip * lanes * len;
            let x = &x[first..];
            let mut max = T::Vector::<S>::splat(token, T::NEG_INFINITY);
            let mut min = T::Vector::<S>::splat(token, T::INFINITY);
            let step = if len <= LANES { 1 } else { depth(len) } * lanes;
            for start in (0..whole).step_by(COLUMNS) {
                let columns = T::Vector::<S>::load_columns(token, &x[start..], len);
                let to = &mut to[place(start, len) * lanes..][..(COLUMNS - 1) * step + lanes];
                for (j, column) in columns.iter().enumerate() {
                    // Line by line.
                    token.prefetch_near(x, AHEAD + (start + j) * lanes);
                    column.store(&mut to[j * step..]);
                    max = column.max(max);
                    min = column.min(min);
                }
            }
            if whole < len {
                let columns = T::Vector::<S>::load_columns(token, &x[whole..], len);
                for (j, column) in columns.iter().enumerate().take(len - whole) {
                    token.prefetch_near(x, AHEAD + (whole + j) * lanes);
                    column.store(&mut to[place(whole, len) * lanes + j * step..]);
                    max = column.max(max);
                    min = column.min(min);
                }
            }
            max.store(&mut self.lanes.max[strip]);
            min.store(&mut self.lanes.min[strip]);
        }
    }

    /// The results of the rows that were read, which are given once more for those that need it. False where some row needs
    /// another way. `SINGLE`: of rows whose slots have one column each; others are a strip by itself.
    #[inline(always)]
    fn complete<S: Simd, const SINGLE: bool>(
        &mut self,
        token: S,
        strips: usize,
        rows: &[T],
        leaving: &mut Leaving<'_, T>,
    ) -> bool {
        let Some(is_plain) = self.shift(token, strips) else { return false };
        // (Only quotients have code for it.)
        let is_plain = R::KEEPS && is_plain;
        let mut exp = Exp::at(token, self.temperature, &Anchor::NONE);
        for strip in 0..strips {
            let Lanes { magic, least, center, .. } = &self.lanes;
            let magic = T::Vector::<S>::load(token, &magic[strip]);
            exp = exp.anchored(magic, T::Vector::<S>::load(token, &least[strip]));
            let center = T::Vector::<S>::load(token, &center[strip]);
            let sum = if is_plain {
                self.fold::<S, SINGLE, PLAIN>(token, strip, &exp, center)
            } else {
                self.fold::<S, SINGLE, { Mode::Clamped as u8 }>(token, strip, &exp, center)
            };
            real::store::<S>(sum, &mut self.lanes.sum[strip]);
        }
        let mut is_undefined = false;
        for strip in 0..strips {
            is_undefined |= any_undefined::<S>(token, real::load(token, &self.lanes.sum[strip]));
        }
        if is_undefined {
            return false;
        }
        if !R::KEEPS {
            self.find_offsets(token, strips, &exp, rows);
        }
        let place = leaving.place(token, strips);
        for strip in 0..strips {
            let to = &mut place[strip * T::LANES * self.len..];
            if is_plain {
                self.write::<S, SINGLE, true>(token, strip, to);
            } else {
                self.write::<S, SINGLE, false>(token, strip, to);
            }
        }
        true
    }

    /// The shift of each lane. Returns whether all terms are in the normal range; `None` where some row needs more.
    #[inline(always)]
    fn shift<S: Simd>(&mut self, token: S, strips: usize) -> Option<bool> {
        // (A little less than what is narrow: the shift's power of two may be above the maximum.)
        let narrow = T::Vector::<S>::splat(token, T::from_f64(T::NARROW - 1.0));
        let mut is_plain = true;
        for strip in 0..strips {
            let Lanes { max, min, magic, least, center, .. } = &mut self.lanes;
            let max = T::Vector::<S>::load(token, &max[strip]);
            let min = T::Vector::<S>::load(token, &min[strip]);
            let (exp, _) = of_maxima::<S, T>(token, self.temperature, max)?;
            is_plain &= !T::Vector::<S>::any(narrow.less(max.sub(min)));
            let (of_magic, of_least) = exp.anchor();
            of_magic.store(&mut magic[strip]);
            of_least.store(&mut least[strip]);
            centers::<_, { Mode::Clamped as u8 }>(token, &exp, max).store(&mut center[strip]);
        }
        Some(is_plain)
    }

    /// What the results of each lane have in common, where they are made of the logits.
    #[inline(always)]
    fn find_offsets<S: Simd>(&mut self, token: S, strips: usize, exp: &Exp<T::Vector<S>>, rows: &[T]) {
        let len = self.len;
        for strip in 0..strips {
            let Lanes { max, magic, least, sum, offset, .. } = &mut self.lanes;
            let max = &max[strip];
            let load = |lanes: &[T; LANES]| T::Vector::<S>::load(token, lanes);
            let exp = exp.anchored(load(&magic[strip]), load(&least[strip]));
            let offsets = R::offsets(token, &exp, load(max), real::load(token, &sum[strip]), len);
            let [first, second] = &mut offset[strip];
            offsets[0].store(first);
            offsets[1].store(second);
            let defined = offsets[0].less(T::Vector::<S>::splat(token, T::INFINITY));
            let mut undefined = !T::Vector::<S>::bits(token, defined) & ((1 << T::LANES) - 1);
            while undefined != 0 {
                let lane = undefined.trailing_zeros() as usize;
                undefined &= undefined - 1;
                // (After the last row there are lanes of none.)
                if let Some(row) = rows.chunks_exact(len).nth(strip * T::LANES + lane) {
                    let k = self.temperature.shift(max[lane], T::ZERO).k;
                    let partial = Partial { k, sum: T::wide_of(&sum[strip], lane) };
                    let fold = &Fold { max: max[lane], partial, ..Fold::empty(T::ZERO) };
                    let copy = |start: usize, to: &mut [T]| to.copy_from_slice(&row[start..start + to.len()]);
                    let results = R::of(token, fold, self.temperature, &Logits { len, copy: &copy });
                    let [high, low, ..] = results.map(token, self.temperature).parts();
                    (first[lane], second[lane]) = (high.to_array().as_ref()[0], low.to_array().as_ref()[0]);
                }
            }
        }
    }

    /// The sum of each lane's terms, which take the place of the logits where they are kept.
    #[inline(always)]
    fn fold<S: Simd, const SINGLE: bool, const MODE: u8>(
        &mut self,
        token: S,
        strip: usize,
        exp: &Exp<T::Vector<S>>,
        center: T::Vector<S>,
    ) -> Wide<S> {
        let (len, size) = (self.len, columns::<T>(self.len));
        let (logits, terms) = (&mut self.logits[strip * size..][..size], &mut self.terms[strip * size..][..size]);
        let slots = &mut self.slots;
        if SINGLE {
            slots.single::<S, R, MODE>(token, len, logits, terms, exp, center);
        } else {
            slots.several::<S, R, MODE>(token, len, logits, terms, exp, center);
        }
        slots.total::<S, SINGLE>(token, len, terms, center)
    }

    /// What the results of a strip are computed from.
    #[inline(always)]
    fn origin<S: Simd, const PLAIN: bool>(&self, token: S, strip: usize) -> Origin<KeptShare<T::Vector<S>>, R::Map<S>> {
        let Lanes { sum, offset, .. } = &self.lanes;
        if R::KEEPS {
            return Origin::Terms(R::kept_alike::<S, PLAIN>(token, real::load(token, &sum[strip])));
        }
        let map = R::NAN.map(token, self.temperature);
        let mut parts = map.parts();
        for (part, offset) in parts.iter_mut().zip(&offset[strip]) {
            *part = T::Vector::<S>::load(token, offset);
        }
        Origin::Logits(map.with_parts(parts))
    }

    /// The results, row after row.
    #[inline(always)]
    fn write<S: Simd, const SINGLE: bool, const PLAIN: bool>(&self, token: S, strip: usize, to: &mut [T]) {
        let (lanes, len, size) = (T::LANES, self.len, columns::<T>(self.len));
        let origin = self.origin::<S, PLAIN>(token, strip);
        let (logits, terms) = (&self.logits[strip * size..][..size], &self.terms[strip * size..][..size]);
        // From the last columns to the first: what these write past their row's end is written again, as results of the next
        // row.
        let step = if SINGLE { 1 } else { depth(len) } * lanes;
        for start in (0..len).step_by(COLUMNS).rev() {
            let at = place(start, len) * lanes;
            let places = at..at + (COLUMNS - 1) * step + lanes;
            let (p, s) = (&logits[places.clone()], &terms[places]);
            let mut columns = [T::Vector::<S>::splat(token, T::ZERO); COLUMNS];
            for (j, column) in columns.iter_mut().enumerate() {
                let p = T::Vector::<S>::load(token, &p[j * step..]);
                *column = match &origin {
                    Origin::Terms(share) if PLAIN => share.of_plain(p, T::Vector::<S>::load(token, &s[j * step..])),
                    Origin::Terms(share) => share.of(p, T::Vector::<S>::load(token, &s[j * step..])),
                    Origin::Logits(map) => map.apply::<{ Mode::Clamped as u8 }>(p),
                };
            }
            T::Vector::<S>::store_columns(columns, &mut to[start..], len);
        }
    }
}

impl<T: Real> Slots<T> {
    /// The sums of slots of one column each, by twos.
    ///
    /// First all terms, two at a time, then their sums: a chain of all that is done for a slot would not overlap as well.
    #[inline(always)]
    fn single<S: Simd, R: Results<T>, const MODE: u8>(
        &mut self,
        token: S,
        len: usize,
        logits: &mut [T],
        terms: &mut [T],
        exp: &Exp<T::Vector<S>>,
        center: T::Vector<S>,
    ) {
        let lanes = T::LANES;
        let minus_center = Sum::new(token, center).minus_center();
        let terms = &mut terms[..len * lanes];
        let (mut twos, mut of_twos) =
            (logits[..len * lanes].chunks_exact_mut(2 * lanes), terms.chunks_exact_mut(2 * lanes));
        for ((x, s), apart) in (&mut twos).zip(&mut of_twos).zip(self.apart.chunks_exact_mut(2)) {
            let first = exp.term_about::<MODE>(T::Vector::<S>::load(token, &x[..lanes]), minus_center);
            let second = exp.term_about::<MODE>(T::Vector::<S>::load(token, &x[lanes..]), minus_center);
            if R::KEEPS {
                first.1.store(&mut x[..lanes]);
                second.1.store(&mut x[lanes..]);
            }
            first.2.store(&mut s[..lanes]);
            second.2.store(&mut s[lanes..]);
            first.0.mul(first.2).store(&mut apart[0]);
            second.0.mul(second.2).store(&mut apart[1]);
        }
        let x = twos.into_remainder();
        if !x.is_empty() {
            let (about, p, s) = exp.term_about::<MODE>(T::Vector::<S>::load(token, x), minus_center);
            if R::KEEPS {
                p.store(x);
            }
            s.store(of_twos.into_remainder());
            about.mul(s).store(&mut self.apart[len - 1]);
        }
    }

    /// The sums of slots of several columns, by twos, which the tree adds up first.
    #[inline(always)]
    fn several<S: Simd, R: Results<T>, const MODE: u8>(
        &mut self,
        token: S,
        len: usize,
        logits: &mut [T],
        terms: &mut [T],
        exp: &Exp<T::Vector<S>>,
        center: T::Vector<S>,
    ) {
        let (lanes, depth) = (T::LANES, depth(len));
        // The slots of each half, which lie one after another.
        let (lower, upper) = logits.split_at_mut(HALF * depth * lanes);
        let (lower_s, upper_s) = terms.split_at_mut(HALF * depth * lanes);
        let slots = lower.chunks_exact_mut(depth * lanes).zip(upper.chunks_exact_mut(depth * lanes));
        let of_slots = lower_s.chunks_exact_mut(depth * lanes).zip(upper_s.chunks_exact_mut(depth * lanes));
        for (slot, ((x, y), (s, t))) in slots.zip(of_slots).enumerate() {
            let (count, other) =
                (len.saturating_sub(slot).div_ceil(lanes), len.saturating_sub(slot + HALF).div_ceil(lanes));
            let mut first = Sum::new(token, center);
            let mut second = first;
            let (x, x_rest) = x[..count * lanes].split_at_mut(other * lanes);
            let (s, s_rest) = s[..count * lanes].split_at_mut(other * lanes);
            let both = x.chunks_exact_mut(lanes).zip(y.chunks_exact_mut(lanes));
            for ((x, y), (s, t)) in both.zip(s.chunks_exact_mut(lanes).zip(t.chunks_exact_mut(lanes))) {
                let a = exp.term_about::<MODE>(T::Vector::<S>::load(token, x), first.minus_center());
                let b = exp.term_about::<MODE>(T::Vector::<S>::load(token, y), second.minus_center());
                if R::KEEPS {
                    a.1.store(x);
                    b.1.store(y);
                    a.2.store(s);
                    b.2.store(t);
                }
                first.add(a.0, a.2);
                second.add(b.0, b.2);
            }
            if !x_rest.is_empty() {
                let (about, p, of_s) =
                    exp.term_about::<MODE>(T::Vector::<S>::load(token, x_rest), first.minus_center());
                if R::KEEPS {
                    p.store(x_rest);
                    of_s.store(s_rest);
                }
                first.add(about, of_s);
            }
            self.set_both(token, slot, [first, second]);
        }
    }
}

/// Results of blocks on their way to where they belong.
///
/// Past the cache they leave in whole lines, each block's when the next one has a place: a load of what narrower stores have
/// just written would wait for these. A line that two blocks share leaves with the second.
struct Leaving<'a, T> {
    out: &'a mut [T],
    len: usize,
    streams: bool,
    /// Whether the last place was in `out`.
    direct: bool,
    /// Room for the results of two blocks by turns, each after the `waiting` elements of the block before.
    room: [&'a mut [T]; 2],
    /// Elements before the first that are in the same line.
    waiting: usize,
    /// Where in `out` the block belongs that is in `room[0]`, and the elements there that have not left, with those that
    /// waited.
    begun: usize,
    ready: usize,
    /// The elements of `out` that are written.
    written: usize,
}

impl<'a, T: Real> Leaving<'a, T> {
    #[inline(always)]
    fn new<S: Simd>(out: &'a mut [T], len: usize, store: Store, room: [&'a mut [T]; 2]) -> Self {
        let head = T::Vector::<S>::lines(out).0.len();
        let waiting = (T::LANES - head) % T::LANES;
        Self {
            out,
            len,
            streams: store == Store::Streaming,
            direct: false,
            room,
            waiting,
            begun: 0,
            ready: 0,
            written: 0,
        }
    }

    /// Room that nobody uses until the next block has a place.
    #[inline(always)]
    fn spare(&mut self) -> &mut [T] {
        self.room[1]
    }

    /// A place for the results of the next block.
    #[inline(always)]
    fn place<S: Simd>(&mut self, token: S, strips: usize) -> &mut [T] {
        if !self.streams {
            let at = self.written;
            self.direct = reach::<T>(at, self.len, strips) <= self.out.len();
            return if self.direct { &mut self.out[at..] } else { self.room[0] };
        }
        if self.ready > 0 {
            let left = self.leave(token);
            let [first, second] = &mut self.room;
            T::Vector::<S>::load(token, &first[left..]).store(second);
            self.room.swap(0, 1);
            self.begun += self.ready - self.waiting;
        }
        &mut self.room[0][self.waiting..]
    }

    /// So many results are in their place.
    #[inline(always)]
    fn arrived<S: Simd>(&mut self, token: S, count: usize) {
        if self.streams {
            self.ready = self.waiting + count;
            return;
        }
        let at = self.written;
        if !self.direct {
            copy_some(token, &self.room[0][..count], &mut self.out[at..at + count]);
        }
        self.written += count;
    }

    /// Writes the whole lines that are ready. Returns how many elements of the room these are.
    #[inline(always)]
    fn leave<S: Simd>(&mut self, token: S) -> usize {
        let Self { out, room: [from, _], waiting, begun, ready, written, .. } = self;
        let mut at = 0;
        if *begun == 0 && *waiting > 0 {
            // The first line is ours in part.
            at = T::LANES.min(*ready);
            out[..at - *waiting].copy_from_slice(&from[*waiting..at]);
        }
        let whole = (*ready - at) / T::LANES * T::LANES;
        let place = *begun + at - *waiting..*begun + at + whole - *waiting;
        *written = place.end;
        let (_, lines, _) = T::Vector::<S>::lines(&mut out[place]);
        for (line, from) in lines.iter_mut().zip(from[at..at + whole].chunks_exact(T::LANES)) {
            T::Vector::<S>::load(token, from).stream(line);
        }
        at + whole
    }

    /// Writes all that is left.
    #[inline(always)]
    fn finish<S: Simd>(mut self, token: S) {
        if self.ready == 0 {
            return;
        }
        let left = self.leave(token);
        let rest = &self.room[0][left..self.ready];
        self.out[self.written..self.written + rest.len()].copy_from_slice(rest);
    }
}

#[cfg(test)]
mod tests;
