//! A few elements, one after another: the call is the cost, so nothing is planned, shared out or allocated.

use super::Function;
use crate::error::Result;
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::exp::is_extreme;
use crate::kernel::fold;
use crate::kernel::kept::{Keep, Kept};
use crate::kernel::log_row::Logits;
use crate::kernel::row::{self, Inputs, Results};
use crate::kernel::short;
use crate::memory::{Compute, View, ViewMut};
use crate::options::{self, Options, check_temperature, check_threads};
use crate::shape::Axis;
use crate::simd::{Kernel, Level, Simd, dispatch};

/// Up to so many elements.
const SMALL: usize = 4096;
/// In up to so many rows: more are done faster together.
const ROWS: usize = 12;

/// Does the call and says so, if it is one of these. What it cannot do it leaves to the other ways untouched.
#[inline]
pub(super) fn map<F: Function>(
    x: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<bool> {
    let Some(&len) = x.shape.last() else { return Ok(false) };
    let last = match axis {
        Axis::One(axis) => *axis == -1 || axis.checked_add(1) == isize::try_from(x.shape.len()).ok(),
        Axis::All => x.shape.len() == 1,
        Axis::Several(_) => false,
    };
    let temperature = match options.temperature {
        options::Temperature::One => 1.0,
        options::Temperature::Number(value) => check_temperature(value)?,
        options::Temperature::Rows(_) => return Ok(false),
    };
    options.threads.map(check_threads).transpose()?;
    let size = x.size();
    if !last
        || len == 0
        || size == 0
        || size > SMALL
        || size > ROWS * len
        || options.mask.is_some()
        || is_extreme(temperature)
    {
        return Ok(false);
    }
    let level = options.level.unwrap_or_else(Level::active);
    Ok(run::<F, f32>(x, out, len, temperature, level) || run::<F, f64>(x, out, len, temperature, level))
}

#[inline]
fn run<F: Function, C: Compute>(
    x: &View<'_>,
    out: &mut ViewMut<'_>,
    len: usize,
    temperature: f64,
    level: Level,
) -> bool {
    if x.overlaps(out.array()) {
        return false;
    }
    let (Some(x), Some(out)) = (x.as_slice::<C>(), out.as_mut_slice::<C>()) else { return false };
    dispatch(level, Rows::<F, C> { x, out, len, temperature, function: std::marker::PhantomData });
    true
}

struct Rows<'a, F, C> {
    x: &'a [C],
    out: &'a mut [C],
    len: usize,
    temperature: f64,
    function: std::marker::PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Rows<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, token: S) {
        let temperature = Temperature::new(self.temperature);
        for (x, out) in self.x.chunks_exact(self.len).zip(self.out.chunks_exact_mut(self.len)) {
            let copy = |start: usize, to: &mut [C]| to.copy_from_slice(&x[start..start + to.len()]);
            let logits = Logits { len: x.len(), copy: &copy };
            if short::write::<S, C, F::Row<C>>(token, x, out, &temperature, &logits) {
                continue;
            }
            let fold = fold::fold_row::<S, C>(token, x, Keep::nothing(), &temperature, Ahead::NONE);
            let results = F::Row::of(token, &fold, &temperature, &logits);
            let inputs = Inputs { x, kept: Kept::NOTHING };
            token.call(row::Write { inputs, out, temperature: &temperature, results: &results });
        }
    }
}
