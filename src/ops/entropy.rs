//! `entropy(x) = -sum_i p_i log(p_i)` with `p = softmax(x / T)`, in nats

use ndarray::{ArrayD, ArrayRef, Dimension};

use crate::element::Float;
use crate::error::Result;
use crate::kernel::fold::Fold;
use crate::kernel::spread::{Spread, spread};
use crate::kernel::{Real, Temperature};
use crate::memory::{Compute, View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::simd::{Kernel, Simd};
use crate::walk::digest::{self, Chunks, Complete, Digest, Outputs};

/// The largest error of a result in float32 or float64, in units in the last place, also where it is near 0.
///
/// (The largest found are 1.55 in both, for a few logits one of which is nearly certain.)
pub const ULP: f64 = 2.0;

/// The entropies, in nats, of the distributions whose logits are `x` along `axis`.
///
/// The result has the logits' shape without the axis, or axes. The probabilities are never built: the logits are read
/// once. A result is within [`ULP`] units in the last place of the exact one, also where one probability is nearly 1,
/// and has the same bits at every level, for every number of threads and every layout.
///
/// A logit of -inf contributes 0. A row with NaN or +inf is NaN; so is a row of nothing but -inf. Where the mask keeps
/// no place, and where the axis has none, the entropy is 0.
///
/// # Errors
/// [`crate::Error::Axis`] or [`crate::Error::Value`] for an axis or options that the array does not allow.
///
/// # Examples
/// ```
/// use fastsoftmax::{Options, entropy};
/// use ndarray::array;
///
/// let logits = array![[0.0f32, 0.0, 0.0, 0.0], [30.0, 0.0, 0.0, 0.0]];
/// let entropies = entropy(&logits, -1, &Options::new())?;
/// assert_eq!(entropies[[0]], 4f32.ln());
/// // 93 / e^30, and not 0.
/// assert!((entropies[[1]] - 8.702_589_4e-12).abs() < 2e-18);
/// # Ok::<(), fastsoftmax::Error>(())
/// ```
pub fn entropy<T: Float + Default, D: Dimension>(
    x: &ArrayRef<T, D>,
    axis: impl Into<Axis>,
    options: &Options<'_>,
) -> Result<ArrayD<T>> {
    let axis = axis.into();
    super::reduced(x, &axis, |out| run(&View::of(x), out, &axis, options))
}

/// [`entropy`] of arrays of any dtype and layout; `out` has length 1 along the axes.
pub(crate) fn run(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    let outputs = Outputs { values: out, indices: None, width: 1 };
    digest::run(&Entropy, x, outputs, axis, options)
}

struct Entropy;

impl Digest for Entropy {
    type State<C: Compute> = Spread<C>;

    fn state<C: Compute>(&self, _: usize) -> Result<Spread<C>> {
        Ok(Spread::empty())
    }

    fn is_small(&self) -> bool {
        true
    }

    #[inline(always)]
    fn reset<C: Compute>(&self, state: &mut Spread<C>, _: C) {
        *state = Spread::empty();
    }

    #[inline(always)]
    fn add<S: Simd, C: Compute>(&self, token: S, state: &mut Spread<C>, chunks: Chunks<'_, C>) {
        token.call(Add { state, chunks });
    }

    // Once for a block: no reason to have it at every place that calls it.
    #[inline(never)]
    fn merge<C: Compute>(&self, row: &mut Spread<C>, block: &mut Spread<C>, temperature: &Temperature<C>) {
        *row = row.with(*block, temperature);
    }

    #[inline(always)]
    fn fold<C: Compute>(&self, state: &Spread<C>) -> Fold<C> {
        state.fold()
    }

    #[inline(always)]
    fn finish<S: Simd, C: Compute>(
        &self,
        token: S,
        state: &mut Spread<C>,
        row: Complete<'_, C>,
        values: &mut [C],
        _: &mut [i64],
    ) {
        values[0] = if row.vacant { C::ZERO } else { token.call(Value(state, row.temperature)) };
    }
}

/// The arguments of [`Entropy::add`].
struct Add<'r, 'a, C: Real> {
    state: &'r mut Spread<C>,
    chunks: Chunks<'a, C>,
}

impl<C: Real> Kernel for Add<'_, '_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let Chunks { x, temperature, fixed, ahead, .. } = self.chunks;
        *self.state = spread(token, *self.state, x, temperature, fixed, ahead);
    }
}

/// The entropy of a spread.
struct Value<'a, C: Real>(&'a Spread<C>, &'a Temperature<C>);

impl<C: Real> Kernel for Value<'_, C> {
    type Output = C;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> C {
        self.0.entropy(self.1)
    }
}
