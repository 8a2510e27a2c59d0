//! `logsumexp(x) = log(sum_j exp(x_j))`

use crate::error::Result;
use crate::kernel::double::Double;
use crate::memory::{Compute, View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::{self, Reduction, Row};

/// [`crate::logsumexp`] of arrays of any dtype and layout; `out` has length 1 along the axes.
pub(crate) fn run(x: &View<'_>, out: &mut ViewMut<'_>, axis: &Axis, options: &Options<'_>) -> Result<()> {
    walk::reduce(x, None, out, axis, options, &LogSumExp)
}

struct LogSumExp;

impl Reduction for LogSumExp {
    const EMPTY: f64 = f64::NEG_INFINITY;

    fn value<C: Compute>(&self, row: &Row<'_, C>, _: &mut Double) -> Result<f64> {
        row.log_sum()
    }
}
