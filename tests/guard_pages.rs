//! No kernel reads or writes a byte outside its arrays: they lie flush against pages that nobody may touch, at every
//! level, for every length from 0 to 4 vectors + 3. What is between array and page is checked by its values.
#![cfg(unix)]
#![allow(unsafe_code, reason = "pages that may not be touched can be had from the C library alone")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use common::{Random, levels};
use fastsoftmax::{Float, Level, Options, softmax, softmax_in_place, softmax_into};
use ndarray::{Array2, ArrayViewMut1, ArrayViewMut2, Axis, s};

/// Elements of 64 bytes, the size of a vector.
const fn lanes<T>() -> usize {
    64 / size_of::<T>()
}

/// Memory between two pages that may be neither read nor written.
struct Guarded {
    start: *mut u8,
    page: usize,
    bytes: usize,
}

impl Guarded {
    fn new(bytes: usize) -> Self {
        // SAFETY: `sysconf` touches no memory.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap();
        let bytes = bytes.next_multiple_of(page).max(page);
        // SAFETY: a fresh mapping anywhere, and protection of pages in the middle of it.
        let start = unsafe {
            let (none, anonymous) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANON);
            let start = libc::mmap(std::ptr::null_mut(), bytes + 2 * page, none, anonymous, -1, 0);
            assert!(start != libc::MAP_FAILED);
            let inside = start.cast::<u8>().add(page);
            assert_eq!(libc::mprotect(inside.cast(), bytes, libc::PROT_READ | libc::PROT_WRITE), 0);
            inside
        };
        Self { start, page, bytes }
    }

    /// All of it.
    fn all<T: Float>(&mut self) -> &mut [T] {
        // SAFETY: the mapping has so many bytes, all of them 0 or written by us; floats take any bits; a page is
        // aligned for all of them; `self` is borrowed as long.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes / size_of::<T>()) }
    }

    /// The first `len` elements.
    fn head<T: Float>(&mut self, len: usize) -> &mut [T] {
        &mut self.all()[..len]
    }

    /// The last `len` elements.
    fn tail<T: Float>(&mut self, len: usize) -> &mut [T] {
        let all = self.all();
        let start = all.len() - len;
        &mut all[start..]
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; nothing borrows from it any more.
        unsafe {
            libc::munmap(self.start.sub(self.page).cast(), self.bytes + 2 * self.page);
        }
    }
}

trait Number: Float + PartialEq + std::fmt::Debug {
    fn of(value: f64) -> Self;
    fn bits(self) -> u64;
}

impl Number for f32 {
    fn of(value: f64) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "test data")]
        {
            value as Self
        }
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}

impl Number for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

fn bits<'a, T: Number>(values: impl IntoIterator<Item = &'a T>) -> Vec<u64> {
    values.into_iter().map(|value| value.bits()).collect()
}

/// Logits in ordinary memory, and their probabilities as the portable level has them there.
struct Case<T> {
    x: Array2<T>,
    expected: Vec<u64>,
}

fn case<T: Number>(rows: usize, len: usize, axis: isize) -> Case<T> {
    let mut random = Random((rows * 1000 + len) as u64);
    let shape = if axis == 0 { (len, rows) } else { (rows, len) };
    let x = Array2::from_shape_simple_fn(shape, || T::of(random.normal() * 8.0));
    let expected = softmax(&x, axis, &Options::new().level(Level::Portable).threads(1)).unwrap();
    Case { x, expected: bits(&expected) }
}

/// Both ends of a guarded buffer.
#[derive(Clone, Copy, Debug)]
enum End {
    Head,
    Tail,
}

fn place<T: Number>(memory: &mut Guarded, end: End, shape: (usize, usize)) -> ArrayViewMut2<'_, T> {
    let len = shape.0 * shape.1;
    let slice = match end {
        End::Head => memory.head(len),
        End::Tail => memory.tail(len),
    };
    ArrayViewMut2::from_shape(shape, slice).unwrap()
}

/// Whole arrays against the pages: apart and in place, along the last axis and along the first.
fn flush<T: Number>() {
    let (mut input, mut output) = (Guarded::new(1 << 15), Guarded::new(1 << 15));
    for level in levels() {
        let options = Options::new().level(level);
        for len in 0..=4 * lanes::<T>() + 3 {
            for (rows, axis) in [(1, -1), (3, -1), (5, 0), (lanes::<T>() + 1, 0), (1, 0)] {
                let Case { x, expected } = case::<T>(rows, len, axis);
                for (from, to) in [(End::Head, End::Tail), (End::Tail, End::Head), (End::Tail, End::Tail)] {
                    let name = format!("{} {rows} rows of {len}, axis {axis}, {from:?} to {to:?}", level.name());
                    let mut logits = place(&mut input, from, x.dim());
                    logits.assign(&x);
                    let mut out = place::<T>(&mut output, to, x.dim());
                    softmax_into(&logits, &mut out, axis, &options).unwrap();
                    assert_eq!(bits(&out), expected, "{name}");
                    softmax_in_place(&mut logits, axis, &options).unwrap();
                    assert_eq!(bits(&logits), expected, "in place, {name}");
                }
            }
        }
    }
}

#[test]
fn flush_float32() {
    flush::<f32>();
}

#[test]
fn flush_float64() {
    flush::<f64>();
}

/// Strides: every third element, forwards and backwards, the last of them flush against the page.
fn strided<T: Number>() {
    let (mut input, mut output) = (Guarded::new(1 << 15), Guarded::new(1 << 15));
    for level in levels() {
        let options = Options::new().level(level);
        for len in 1..=4 * lanes::<T>() + 3 {
            let Case { x, expected } = case::<T>(1, len, -1);
            for end in [End::Head, End::Tail] {
                for step in [3, -3] {
                    let name = format!("{} {len} elements, step {step}, {end:?}", level.name());
                    let mut wide = place::<T>(&mut input, end, (1, 3 * len - 2));
                    wide.fill(T::of(f64::NAN));
                    let mut logits = wide.slice_mut(s![.., ..;step]);
                    logits.assign(&x);

                    let mut dense = place::<T>(&mut output, end, (1, len));
                    softmax_into(&logits, &mut dense, -1, &options).unwrap();
                    assert_eq!(bits(&dense), expected, "{name}");

                    let mut wide_out = place::<T>(&mut output, end, (1, 3 * len - 2));
                    wide_out.fill(T::of(7.0));
                    let mut out = wide_out.slice_mut(s![.., ..;step]);
                    softmax_into(&logits, &mut out, -1, &options).unwrap();
                    assert_eq!(bits(&out), expected, "{name}");
                    let untouched = wide_out.iter().filter(|value| **value == T::of(7.0)).count();
                    assert_eq!(untouched, 2 * (len - 1), "{name}: wrote between the elements");

                    softmax_in_place(&mut logits, -1, &options).unwrap();
                    assert_eq!(bits(&logits), expected, "in place, {name}");
                }
            }
        }
    }
}

#[test]
fn strided_float32() {
    strided::<f32>();
}

#[test]
fn strided_float64() {
    strided::<f64>();
}

/// Every alignment of input and output; what surrounds the output stays as it was.
fn aligned<T: Number>() {
    let lanes = lanes::<T>();
    let room = 8 * lanes;
    let around = T::of(-123.0);
    for level in levels() {
        let options = Options::new().level(level);
        for len in 0..=4 * lanes + 3 {
            let Case { x, expected } = case::<T>(1, len, -1);
            let row = x.index_axis(Axis(0), 0);
            let (mut input, mut output) = (Guarded::new(1), Guarded::new(1));
            for offset in 0..lanes {
                for (from, to) in [(offset, 0), (0, offset), (offset, offset)] {
                    let name = format!("{} {len} elements at {from} to {to}", level.name());
                    input.head::<T>(room).fill(T::of(f64::NAN));
                    let mut logits = ArrayViewMut1::from(&mut input.head::<T>(room)[from..from + len]);
                    logits.assign(&row);
                    let all = output.head::<T>(room);
                    all.fill(around);
                    let mut out = ArrayViewMut1::from(&mut all[to..to + len]);
                    softmax_into(&logits, &mut out, -1, &options).unwrap();
                    assert_eq!(bits(&out), expected, "{name}");
                    let kept = all[..to].iter().chain(&all[to + len..]).all(|value| *value == around);
                    assert!(kept, "{name}: wrote around the output");

                    softmax_in_place(&mut logits, -1, &options).unwrap();
                    assert_eq!(bits(&logits), expected, "in place, {name}");
                    let all = input.head::<T>(room);
                    let kept = all[..from]
                        .iter()
                        .chain(&all[from + len..])
                        .all(|value| value.bits() == T::of(f64::NAN).bits());
                    assert!(kept, "in place, {name}: wrote around the output");
                }
            }
        }
    }
}

#[test]
fn aligned_float32() {
    aligned::<f32>();
}

#[test]
fn aligned_float64() {
    aligned::<f64>();
}

/// Long enough for prefetching, for blocks and for several tasks, which ask for memory ahead of where they are.
#[test]
fn long_rows() {
    for (rows, len, axis) in [(3, 20_001, -1), (40, 1_003, -1), (1, 150_001, -1), (1_003, 35, 0), (5_003, 7, -1)] {
        let Case { x, expected } = case::<f32>(rows, len, axis);
        let (mut input, mut output) = (Guarded::new(x.len() * 4), Guarded::new(x.len() * 4));
        for level in levels() {
            for threads in [1, 2] {
                let options = Options::new().level(level).threads(threads);
                for end in [End::Head, End::Tail] {
                    let mut logits = place::<f32>(&mut input, end, x.dim());
                    logits.assign(&x);
                    let mut out = place::<f32>(&mut output, end, x.dim());
                    softmax_into(&logits, &mut out, axis, &options).unwrap();
                    assert!(bits(&out) == expected, "{} {rows} rows of {len}, axis {axis}, {end:?}", level.name());
                }
            }
        }
    }
}
