//! Short rows abreast: of a few classes, in the place of their tiles; longer ones, in the place of rows one after another.

use std::marker::PhantomData;

use super::reader::Reader;
use super::{Call, Function, OUT, X, tiles};
use crate::element::DType;
use crate::error::Result;
use crate::kernel::abreast::{self, WriteAbreast};
use crate::kernel::column::LANES;
use crate::kernel::row::Store;
use crate::memory::{Compute, Part, Scratch, scratch};
use crate::options::Temperature;
use crate::simd::{Level, Simd};

/// Up to so many elements, many rows go abreast where they lie one after another ([`WriteAbreast`]); of fewer rows, and where
/// there are no instructions to transpose by (NEON), those of a few classes.
const LONGEST: usize = 64;
const MANY: usize = 8 * LANES;

/// Working memory for rows abreast; or nothing, where they do not go so.
pub(super) struct Abreast<C: Compute> {
    memory: Scratch<C>,
    store: Store,
}

impl<C: Compute> Abreast<C> {
    pub(super) fn new<F: Function>(
        call: &Call<'_>,
        reader: &Reader<'_, C>,
        part: &Part<'_>,
        store: Store,
    ) -> Result<Self> {
        let are = goes::<F, C>(call) && reader.source.is_dense::<C>() && part.is_dense::<C>();
        Ok(Self { memory: scratch(if are { abreast::room::<C>(reader.len) } else { 0 })?, store })
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.memory.is_empty()
    }

    /// Writes rows from one on, up to the first that needs more. Returns how many.
    #[inline(always)]
    pub(super) fn write<S: Simd, F: Function>(
        &mut self,
        token: S,
        reader: &Reader<'_, C>,
        part: &mut Part<'_>,
        first: usize,
    ) -> usize {
        if self.is_nothing() {
            return 0;
        }
        let (len, end) = (reader.len, part.rows.end);
        let x = reader.source.rows_dense_from::<C>(first);
        let out = part.rows_dense::<C>(first, end - first, 0..len);
        let temperature = &reader.temperatures.of(first);
        let (memory, store, results) = (&mut self.memory[..], self.store, PhantomData::<F::Row<C>>);
        token.call(WriteAbreast { x, out, len, temperature, store, memory, results })
    }
}

/// Whether rows go abreast. (Float64's have no such code, as it would be as large again.)
fn goes<F: Function, C: Compute>(call: &Call<'_>) -> bool {
    let (plan, size) = (&call.plan, size_of::<C>());
    let all = plan.rows >= MANY && matches!(call.level, Level::Avx2 | Level::Avx512);
    let most = if all { LONGEST } else { tiles::few::<C>(DType::F32, false) };
    (F::KEEPS || plan.len > 1)
        && size == size_of::<f32>()
        && call.level != Level::Portable
        && plan.len <= most
        && plan.rows >= tiles::MANY
        && call.mask.is_none()
        && !call.in_place
        && call.x.dtype == DType::F32
        && plan.is_dense(X, size)
        && plan.is_dense(OUT, size)
        && matches!(call.temperature, Temperature::One | Temperature::Number(1.0))
}
