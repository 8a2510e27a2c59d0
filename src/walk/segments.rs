//! Rows of different lengths, one after another in a one-dimensional array.
//!
//! The array is the one row of a plan, cut where segments end: a task has neighbouring segments of some 10,000
//! elements together, and folds and writes each as [`super::rows`] does a row. Segments too long for one thread are
//! calls of their own, so that all threads work on each.

use std::marker::PhantomData;
use std::ops::Range;

use super::rows::most_kept;
use super::{Arguments, Call, Function, Interrupt, OUT, TASK, Temperatures, check_out, rows_temperature, share};
use crate::error::{Error, Result};
use crate::kernel::Temperature;
use crate::kernel::ahead::Ahead;
use crate::kernel::exp::Shift;
use crate::kernel::fold::{self, BLOCK, Fold};
use crate::kernel::kept::{self, Keep, Kept, P};
use crate::kernel::log_row::Logits;
use crate::kernel::row::{self, Inputs, Results, Store};
use crate::kernel::stream;
use crate::memory::{Compute, Part, Scratch, Source, Target, View, ViewMut, reserve, scratch};
use crate::options::{self, Options};
use crate::shape::{self, Axis, OPERANDS, Plan, display};
use crate::simd::{Kernel, Simd, dispatch};

/// Segments from this length on are shared among threads.
const LONG: usize = 4 * BLOCK;

/// Computes `F` of each segment of `values` into `out`; elements in no segment become what masks leave.
pub(crate) fn map<F: Function>(
    values: &View<'_>,
    offsets: &View<'_>,
    out: &mut ViewMut<'_>,
    options: &Options<'_>,
) -> Result<()> {
    options.guarded(|options| map_guarded::<F>(values, offsets, out, options))
}

fn map_guarded<F: Function>(
    values: &View<'_>,
    offsets: &View<'_>,
    out: &mut ViewMut<'_>,
    options: &Options<'_>,
) -> Result<()> {
    if values.shape.len() != 1 {
        return Err(Error::Value(format!(
            "values has shape {}, but segments are stretches of a one-dimensional array",
            display(&values.shape)
        )));
    }
    check_out(out, &values.shape)?;
    if options.mask.is_some() {
        return Err(Error::Value("segments take no mask; leave the values out instead".into()));
    }
    let len = values.shape[0];
    let offsets = read_offsets(offsets, len)?;
    let count = offsets.len() - 1;
    let temperature = rows_temperature(&options.temperature, &[count], &[false])?;

    // (The offsets have been copied.)
    let arguments = Arguments { x: values.clone(), mask: None, temperature };
    let copies = arguments.copies(out, true)?;
    let arguments = copies.replace(&arguments);
    let in_place = arguments.x.is_same(out.array());
    let call = arguments.call(&out.array().strides, &[true], [None, None], options, in_place)?;
    if len == 0 {
        return Ok(());
    }
    if call.computes_in_f64(out.array().dtype) {
        run::<F, f64>(&call, &offsets, out, options)
    } else {
        run::<F, f32>(&call, &offsets, out, options)
    }
}

/// The offsets, checked: in order and within an array of `len` elements.
fn read_offsets(offsets: &View<'_>, len: usize) -> Result<Vec<usize>> {
    if !offsets.dtype.is_integer() {
        return Err(Error::Type(format!("offsets has dtype {}, but offsets are integers", offsets.dtype.name())));
    }
    let &[count] = offsets.shape.as_slice() else {
        return Err(Error::Value(format!(
            "offsets has shape {}, but must have one dimension",
            display(&offsets.shape)
        )));
    };
    if count == 0 {
        return Err(Error::Value("offsets is empty, but n segments have n + 1 offsets, and so at least one".into()));
    }
    let plan = Plan::new(&offsets.shape, &[true], shape::only(&offsets.strides));
    let source = Source::new(offsets.clone(), &plan, 0, false)?;
    let mut checked = reserve(count)?;
    let mut last = 0.0;
    // Every offset within an array is a float64 exactly.
    let mut values = [0.0f64; 256];
    for start in (0..count).step_by(values.len()) {
        let values = &mut values[..(count - start).min(256)];
        source.read(0, start, values);
        for (index, &value) in values.iter().enumerate() {
            checked.push(check_offset(start + index, value, last, len)?);
            last = value;
        }
    }
    Ok(checked)
}

/// One offset, after `last`.
fn check_offset(index: usize, value: f64, last: f64, len: usize) -> Result<usize> {
    if index > 0 && value < last {
        return Err(Error::Value(format!(
            "offsets must not decrease, but offsets[{}] is {last} and offsets[{index}] is {value}",
            index - 1
        )));
    }
    #[allow(clippy::cast_precision_loss, reason = "no array has 2^53 elements")]
    if value < 0.0 || value > len as f64 {
        return Err(Error::Index(format!("offsets[{index}] is {value}, which is outside values of length {len}")));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an integer from 0 to len")]
    Ok(value as usize)
}

/// Neighbouring segments, and the elements of their task: more than theirs at both ends of the array.
struct Group {
    segments: Range<usize>,
    long: bool,
}

/// Cuts the segments into groups; also where the elements of each group's task begin and end.
///
/// A group that holds no segment stands for the elements that lie in none.
fn groups(offsets: &[usize], len: usize, threads: usize) -> Result<(Vec<Group>, Vec<usize>)> {
    let count = offsets.len() - 1;
    let task = (len / (threads * 16).max(1)).clamp(*TASK.start(), *TASK.end());
    let (mut groups, mut bounds) = (Vec::new(), Vec::new());
    let mut push = |segments: Range<usize>, start: usize, long: bool| -> Result<()> {
        groups.try_reserve(1).map_err(|_| Error::Memory(size_of::<Group>()))?;
        bounds.try_reserve(3).map_err(|_| Error::Memory(size_of::<usize>()))?;
        groups.push(Group { segments, long });
        bounds.push(start);
        Ok(())
    };
    push(0..0, 0, false)?;
    let mut first = 0;
    for segment in 0..count {
        let is_long = threads > 1 && offsets[segment + 1] - offsets[segment] >= LONG;
        if is_long && first < segment {
            push(first..segment, offsets[first], false)?;
            first = segment;
        }
        if is_long || offsets[segment + 1] - offsets[first] >= task || segment + 1 == count {
            push(first..segment + 1, offsets[first], is_long)?;
            first = segment + 1;
        }
    }
    push(count..count, offsets[count], false)?;
    bounds.push(len);
    Ok((groups, bounds))
}

fn run<F: Function, C: Compute>(
    call: &Call<'_>,
    offsets: &[usize],
    out: &mut ViewMut<'_>,
    options: &Options<'_>,
) -> Result<()> {
    let (groups, bounds) = groups(offsets, call.plan.len, call.threads)?;
    let rows = match &call.temperature {
        options::Temperature::Rows(view) => Plan::new(&view.shape, &[false], shape::only(&view.strides)),
        _ => Plan::new(&[], &[], [None; OPERANDS]),
    };
    let temperatures = match &call.temperature {
        options::Temperature::Rows(view) => Temperatures::Rows(Source::new(view.clone(), &rows, 0, false)?),
        _ => call.temperatures::<C>()?,
    };
    short::<F, C>(call, (offsets, &groups, &bounds), &temperatures, out, options.interrupt)?;
    for group in groups.iter().filter(|group| group.long) {
        let elements = offsets[group.segments.start]..offsets[group.segments.end];
        let options = Options {
            temperature: match &call.temperature {
                options::Temperature::Rows(view) => options::Temperature::Rows(view.slice(group.segments.clone())),
                same => same.clone(),
            },
            threads: Some(call.threads),
            level: Some(call.level),
            ..options.clone()
        };
        super::map::<F>(&call.x.slice(elements.clone()), &mut out.slice(elements), &Axis::All, &options)?;
    }
    Ok(())
}

/// The groups of segments that are not long.
fn short<F: Function, C: Compute>(
    call: &Call<'_>,
    (offsets, groups, bounds): (&[usize], &[Group], &[usize]),
    temperatures: &Temperatures<'_, C>,
    out: &mut ViewMut<'_>,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let source = call.source()?;
    let store = call.store(out.array().dtype);
    let target = Target::between(out, &call.plan, OUT, bounds)?;
    share(call.threads, groups.len(), interrupt, &|index| {
        let group = &groups[index];
        if group.long {
            return Ok(());
        }
        let part = target.part(index);
        let offsets = &offsets[group.segments.start..=group.segments.end];
        let longest = offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let lent = part.lends::<C>() && (call.in_place || source.lends::<C>());
        // The elements of no segment are written by the block, too.
        let room = if group.segments.is_empty() { part.elements.len() } else { longest };
        let segments = Segments::<F, C> {
            source: &source,
            temperatures,
            offsets,
            first: group.segments.start,
            in_place: call.in_place,
            lent,
            store,
            part,
            scratch: scratch(if lent { 0 } else { room.min(BLOCK) })?,
            kept: scratch(if F::KEEPS { kept::room::<C>(P, longest.min(most_kept(store)), 1) } else { 0 })?,
            function: PhantomData,
        };
        dispatch(call.level, segments);
        Ok(())
    })
}

/// The segments of a task.
struct Segments<'a, F, C: Compute> {
    source: &'a Source<'a>,
    temperatures: &'a Temperatures<'a, C>,
    /// Where the segments begin, and where the last one ends.
    offsets: &'a [usize],
    /// The number of the first segment.
    first: usize,
    in_place: bool,
    /// Whether segments are used where they lie.
    lent: bool,
    store: Store,
    part: Part<'a>,
    /// Room for a block, where segments are not lent.
    scratch: Scratch<C>,
    /// Working memory for what the fold of a segment keeps.
    kept: Scratch<C>,
    function: PhantomData<F>,
}

impl<F: Function, C: Compute> Kernel for Segments<'_, F, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, token: S) {
        if self.offsets.len() == 1 {
            self.exclude();
        }
        for index in 0..self.offsets.len() - 1 {
            let elements = self.offsets[index]..self.offsets[index + 1];
            if elements.is_empty() {
                continue;
            }
            let temperature = self.temperatures.of(self.first + index);
            if !self.lent {
                self.copied(token, elements, &temperature);
            } else if self.in_place {
                self.in_place(token, elements, &temperature);
            } else {
                self.lent(token, elements, &temperature);
            }
        }
        token.fence();
    }
}

impl<F: Function, C: Compute> Segments<'_, F, C> {
    /// Writes the elements that lie in no segment.
    fn exclude(&mut self) {
        let elements = self.part.elements.clone();
        let excluded = C::from_f64(F::EXCLUDED);
        if self.lent {
            self.part.row::<C>(0, elements).fill(excluded);
            return;
        }
        self.scratch.fill(excluded);
        for start in elements.clone().step_by(BLOCK) {
            let len = (elements.end - start).min(BLOCK);
            self.part.write(0, start, &self.scratch[..len]);
        }
    }

    /// The working memory that is used for so many elements: none, if these are not kept.
    #[inline(always)]
    fn keeps(&self, len: usize) -> usize {
        if F::KEEPS && len <= most_kept(self.store) { kept::room::<C>(P, len, 1) } else { 0 }
    }

    /// What is asked for while a segment is folded.
    fn ahead(&self, len: usize) -> Ahead {
        if self.store == Store::Streaming { Ahead::first(len) } else { Ahead::ONCE }
    }

    /// A segment that is read and written where it lies.
    #[inline(always)]
    fn lent<S: Simd>(&mut self, token: S, elements: Range<usize>, temperature: &Temperature<C>) {
        let keeps = self.keeps(elements.len());
        let ahead = self.ahead(elements.len());
        let keep = Keep::within(&mut self.kept[..keeps], elements.len(), 1);
        let x = self.source.row::<C>(0, elements.clone());
        let fold = fold::fold_row::<S, C>(token, x, keep, temperature, ahead);
        let results = &self.results(token, &fold, &elements, temperature);
        let x = self.source.row::<C>(0, elements.clone());
        let out = self.part.row(0, elements);
        let kept = Kept::within(&self.kept[..keeps], x.len(), 1);
        if self.store == Store::Streaming {
            stream::write(token, x, out, kept, stream::Row { temperature, results }, Ahead::second(x.len()));
        } else {
            let inputs = Inputs { x, kept };
            token.call(row::Write { inputs, out, temperature, results });
        }
    }

    /// A segment that gives way to its own results.
    #[inline(always)]
    fn in_place<S: Simd>(&mut self, token: S, elements: Range<usize>, temperature: &Temperature<C>) {
        let keeps = self.keeps(elements.len());
        let keep = Keep::within(&mut self.kept[..keeps], elements.len(), 1);
        let data = self.part.row::<C>(0, elements.clone());
        let fold = fold::fold_row::<S, C>(token, data, keep, temperature, Ahead::ONCE);
        let results = &self.results(token, &fold, &elements, temperature);
        let data = self.part.row::<C>(0, elements);
        let kept = Kept::within(&self.kept[..keeps], data.len(), 1);
        token.call(row::WriteInPlace { data, kept, temperature, results, ahead: Ahead::NONE });
    }

    /// A segment by way of working memory, block by block; twice, unless one block holds it all.
    #[inline(always)]
    fn copied<S: Simd>(&mut self, token: S, elements: Range<usize>, temperature: &Temperature<C>) {
        let len = elements.len();
        let keeps = self.keeps(len);
        let mut fixed: Option<Shift<C>> = None;
        let fold = loop {
            let mut fold = Fold::empty(fixed.map_or(C::ZERO, |shift| shift.base));
            for start in elements.clone().step_by(BLOCK) {
                let data = &mut self.scratch[..(elements.end - start).min(BLOCK)];
                self.source.read(0, start, data);
                // (Of segments of more than one block, nothing is kept.)
                let keep = Keep::within(&mut self.kept[..keeps], len, 1);
                fold = fold.with(fold::fold::<S, C>(token, data, keep, temperature, fixed, Ahead::NONE));
            }
            if fixed.is_some() {
                break fold;
            }
            match fold.retry(temperature) {
                None => break fold,
                retry => fixed = retry,
            }
        };
        let results = &self.results(token, &fold, &elements, temperature);
        for start in elements.clone().step_by(BLOCK) {
            let data = &mut self.scratch[..(elements.end - start).min(BLOCK)];
            if len > BLOCK {
                self.source.read(0, start, data);
            }
            let kept = Kept::within(&self.kept[..keeps], len, 1);
            token.call(row::WriteInPlace { data, kept, temperature, results, ahead: Ahead::NONE });
            self.part.write(0, start, &self.scratch[..(elements.end - start).min(BLOCK)]);
        }
    }

    /// What the results of a segment have in common.
    #[inline(always)]
    fn results<S: Simd>(
        &self,
        token: S,
        fold: &Fold<C>,
        elements: &Range<usize>,
        temperature: &Temperature<C>,
    ) -> F::Row<C> {
        let copy = |start: usize, to: &mut [C]| self.source.read(0, elements.start + start, to);
        F::Row::of(token, fold, temperature, &Logits { len: elements.len(), copy: &copy })
    }
}
