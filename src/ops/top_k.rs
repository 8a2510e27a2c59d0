//! The k largest probabilities of each row, and where they are.

use ndarray::{Array, ArrayRef, Dimension};

use crate::element::Float;
use crate::error::{Error, Result};
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::fold::{self, CHUNK, Chunk, Fold};
use crate::kernel::kept::{Keep, Kept};
use crate::kernel::log_row::LogSum;
use crate::kernel::row::{Quotient, Results, WriteInPlace};
use crate::kernel::select::Selection;
use crate::memory::{Compute, View, ViewMut, reserve};
use crate::options::Options;
use crate::shape::{Axis, display};
use crate::simd::{Kernel, Simd};
use crate::walk::digest::{self, Chunks, Complete, Digest, Outputs};

/// The largest `k` for which a long row is shared by all threads: each block then keeps so many logits.
const SMALL: usize = 1024;

/// The largest values of each row, in descending order, and their indices along the axis.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK<T, D: Dimension> {
    /// Probabilities, or log-probabilities.
    pub values: Array<T, D>,
    /// Their places along the axis.
    pub indices: Array<i64, D>,
}

/// The `k` largest probabilities of the logits `x` along `axis`, or, if `log`, log-probabilities.
///
/// They are normalised over the whole axis, and the bits are those of [`crate::softmax`] or [`crate::log_softmax`];
/// but the logits are read once, and only `k` values a row are written. Both results have the logits' shape with `k` in
/// the place of the axis' length. Of equal logits the one with the lowest index comes first; NaN counts as larger than
/// everything (and makes all values of its row NaN); places that the mask leaves out count as -inf.
///
/// # Errors
/// [`Error::Value`] where `k` is larger than the axis is long. [`Error::Axis`] or [`Error::Value`] for an axis or
/// options that the array does not allow.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, softmax, top_k};
/// use ndarray::array;
///
/// let logits = array![0.1f32, 2.0, 1.0];
/// let top = top_k(&logits, 2, -1, false, &Options::new())?;
/// assert_eq!(top.indices, array![1, 2]);
///
/// let all = softmax(&logits, -1, &Options::new())?;
/// assert_eq!(top.values, array![all[1], all[2]]);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn top_k<T: Float + Default, D: Dimension>(
    x: &ArrayRef<T, D>,
    k: usize,
    axis: isize,
    log: bool,
    options: &Options<'_>,
) -> Result<TopK<T, D>> {
    let axis = Axis::One(axis);
    let mut shape = x.raw_dim();
    for (len, reduced) in shape.slice_mut().iter_mut().zip(axis.reduced(x.ndim())?) {
        if reduced {
            check_k(k, *len, x.shape())?;
            *len = k;
        }
    }
    let mut values = Array::from_elem(shape.clone(), T::default());
    let mut indices = Array::from_elem(shape, 0i64);
    let outputs = (&mut ViewMut::of(&mut values), &mut ViewMut::of(&mut indices));
    run(&View::of(x), k, outputs.0, outputs.1, &axis, log, options)?;
    Ok(TopK { values, indices })
}

/// Refuses more values than there are.
fn check_k(k: usize, len: usize, shape: &[usize]) -> Result<()> {
    if k > len {
        return Err(Error::Value(format!(
            "k is {k}, but the axis has length {len} in an array of shape {}",
            display(shape)
        )));
    }
    Ok(())
}

/// [`top_k`] of arrays of any dtype and layout. `values` (a float dtype) and `indices` (int64) have `x`'s shape with
/// `k` in the place of the axis' length; a 0-d `x` has outputs of shape `()` or, for k = 0, none at all.
pub(crate) fn run(
    x: &View<'_>,
    k: usize,
    values: &mut ViewMut<'_>,
    indices: &mut ViewMut<'_>,
    axis: &Axis,
    log: bool,
    options: &Options<'_>,
) -> Result<()> {
    let Axis::One(_) = axis else {
        return Err(Error::Value("top_k works along one axis".into()));
    };
    let reduced = axis.reduced(x.shape.len())?;
    let len = x.shape.iter().zip(&reduced).find(|(_, reduced)| **reduced).map_or(1, |(len, _)| *len);
    check_k(k, len, &x.shape)?;
    let outputs = Outputs { values, indices: Some(indices), width: k };
    digest::run(&Top { k, log }, x, outputs, axis, options)
}

struct Top {
    k: usize,
    log: bool,
}

/// What is kept of some logits: their sum, and the largest.
pub(crate) struct State<C: Compute> {
    fold: Fold<C>,
    selection: Selection<C>,
}

impl Digest for Top {
    type State<C: Compute> = State<C>;

    fn state<C: Compute>(&self, len: usize) -> Result<State<C>> {
        let entries = reserve(Selection::<C>::room(self.k, len))?;
        Ok(State { fold: Fold::empty(C::ZERO), selection: Selection::new(self.k, entries) })
    }

    fn is_small(&self) -> bool {
        self.k <= SMALL
    }

    #[inline(always)]
    fn reset<C: Compute>(&self, state: &mut State<C>, base: C) {
        state.fold = Fold::empty(base);
        state.selection.clear();
    }

    #[inline(always)]
    fn add<S: Simd, C: Compute>(&self, token: S, state: &mut State<C>, chunks: Chunks<'_, C>) {
        let Chunks { x, first, temperature, fixed, ahead } = chunks;
        let mut max = fold::largest::<S, C>(token, &x[..x.len().min(CHUNK)]);
        for start in (0..x.len()).step_by(CHUNK) {
            let (x, next) = x[start..x.len().min(start + 2 * CHUNK)].split_at(CHUNK.min(x.len() - start));
            let (keep, ahead) = (Keep::nothing(), ahead.from(start));
            let (part, found) = token.call(Chunk { x, max, next, keep, temperature, fixed, ahead });
            state.fold = state.fold.with(part);
            max = found;
            if !state.selection.is_beyond(part.max, part.nan) {
                token.call(Offer { x, first: first + start, part, selection: &mut state.selection });
            }
        }
    }

    #[inline(always)]
    fn merge<C: Compute>(&self, row: &mut State<C>, block: &mut State<C>, _: &Temperature<C>) {
        row.fold = row.fold.with(block.fold);
        row.selection.merge(&mut block.selection);
    }

    #[inline(always)]
    fn fold<C: Compute>(&self, state: &State<C>) -> Fold<C> {
        state.fold
    }

    #[inline(always)]
    fn finish<S: Simd, C: Compute>(
        &self,
        token: S,
        state: &mut State<C>,
        row: Complete<'_, C>,
        values: &mut [C],
        indices: &mut [i64],
    ) {
        let entries = state.selection.finish();
        for ((entry, value), index) in entries.iter().zip(values.iter_mut()).zip(indices) {
            *value = entry.logit();
            *index = entry.index();
        }
        let excluded = if self.log { C::NEG_INFINITY } else { C::ZERO };
        let temperature = row.temperature;
        if row.vacant {
            values.fill(excluded);
            return;
        }
        let undefined = if self.log {
            let results = &LogSum::new(token, &state.fold, temperature, &row.logits);
            token.call(WriteInPlace { data: values, kept: Kept::NOTHING, temperature, results, ahead: Ahead::NONE });
            results.is_undefined()
        } else {
            let results = &Quotient::new(&state.fold);
            token.call(WriteInPlace { data: values, kept: Kept::NOTHING, temperature, results, ahead: Ahead::NONE });
            results.is_undefined()
        };
        if undefined {
            // The places that the mask leaves out keep their value, as in softmax.
            for (entry, value) in entries.iter().zip(values) {
                if entry.logit::<C>() == C::NEG_INFINITY && (row.is_excluded)(entry.place()) {
                    *value = excluded;
                }
            }
        }
    }
}

/// A chunk that may have some of the largest logits.
struct Offer<'a, C: Compute> {
    x: &'a [C],
    first: usize,
    part: Fold<C>,
    selection: &'a mut Selection<C>,
}

impl<C: Compute> Kernel for Offer<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        self.selection.offer(token, self.x, self.first, self.part.max, self.part.nan);
    }
}
