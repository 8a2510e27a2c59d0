//! `log_prob(x, i) = log(softmax(x)_i)`, the log-probability of one place of each row.

use crate::error::Result;
use crate::kernel::double::Double;
use crate::memory::{Compute, View, ViewMut};
use crate::options::Options;
use crate::shape::Axis;
use crate::walk::{self, Labels, Reduction, Row, check_index};

/// Log-probabilities of arrays of any dtype and layout. `index` broadcasts against the logits with length 1 along the
/// axis; `out` has length 1 there.
pub(crate) fn run(
    x: &View<'_>,
    index: &View<'_>,
    out: &mut ViewMut<'_>,
    axis: &Axis,
    options: &Options<'_>,
) -> Result<()> {
    let labels = Labels { view: index.clone(), name: "index" };
    walk::reduce(x, Some(&labels), out, axis, options, &LogProb)
}

struct LogProb;

impl Reduction for LogProb {
    const EMPTY: f64 = f64::NAN;

    fn check_label(&self, row: usize, label: f64, len: usize) -> Result<()> {
        check_index("index", row, label, len).map(drop)
    }

    fn value<C: Compute>(&self, row: &Row<'_, C>, _: &mut Double) -> Result<f64> {
        let place = check_index("index", row.index, row.label, row.len())?;
        Ok(row.log_probability(place))
    }
}
