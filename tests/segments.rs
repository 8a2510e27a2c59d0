//! Segments: each has the bits of a softmax of its own, whatever lies around it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "small numbers")]

mod common;

use common::{Random, levels};
use fastsoftmax::{Error, Level, Options, softmax, softmax_segments, softmax_segments_in_place, softmax_segments_into};
use half::f16;
use ndarray::{Array1, array, s};

/// Segments of many lengths, some empty, with values before the first and after the last.
fn ragged(seed: u64, lengths: &[usize]) -> (Array1<f32>, Array1<i64>) {
    let mut random = Random(seed);
    let mut offsets = vec![5i64];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + i64::try_from(*length).unwrap());
    }
    let len = usize::try_from(offsets[offsets.len() - 1]).unwrap() + 7;
    let mut values: Array1<f32> = (0..len).map(|_| (random.normal() * 6.0) as f32).collect();
    // Some segments with what asks for another look.
    for (index, pair) in offsets.windows(2).enumerate().filter(|(_, pair)| pair[0] < pair[1]) {
        let segment = usize::try_from(pair[0]).unwrap()..usize::try_from(pair[1]).unwrap();
        match index % 11 {
            1 => values[segment.start] = f32::NAN,
            2 => values[segment.end - 1] = f32::INFINITY,
            3 => values.slice_mut(s![segment]).fill(f32::NEG_INFINITY),
            4 => values.slice_mut(s![segment]).mapv_inplace(|x| x * 1e5),
            5 => values[segment.start] = f32::NEG_INFINITY,
            _ => {}
        }
    }
    (values, Array1::from(offsets))
}

/// By definition, with one call for each segment.
fn alone(values: &Array1<f32>, offsets: &Array1<i64>, temperature: impl Fn(usize) -> f64) -> Vec<u32> {
    let mut result = vec![0; values.len()];
    for i in 0..offsets.len() - 1 {
        let segment = usize::try_from(offsets[i]).unwrap()..usize::try_from(offsets[i + 1]).unwrap();
        let options = Options::new().level(Level::Portable).threads(1).temperature(temperature(i));
        let one = softmax(&values.slice(s![segment.clone()]).to_owned(), -1, &options).unwrap();
        one.iter().zip(segment).for_each(|(one, place)| result[place] = one.to_bits());
    }
    result
}

fn bits<'a>(x: impl IntoIterator<Item = &'a f32>) -> Vec<u32> {
    x.into_iter().map(|x| x.to_bits()).collect()
}

#[test]
fn same_bits_as_alone() {
    let mut random = Random(23);
    let many: Vec<usize> = (0..3000).map(|_| random.below(40)).collect();
    let some: Vec<usize> = (0..60).map(|_| random.below(3000)).collect();
    for lengths in [many, some, vec![], vec![0, 0], vec![1], vec![70_000, 3, 0, 50_000, 300_000, 12, 20_000]] {
        let (values, offsets) = ragged(lengths.len() as u64, &lengths);
        let expected = alone(&values, &offsets, |_| 1.0);
        for level in levels() {
            for threads in [1, 2, 5] {
                let name = format!("{} threads {threads} segments {}", level.name(), lengths.len());
                let options = Options::new().level(level).threads(threads);
                let got = softmax_segments(&values, &offsets, &options).unwrap();
                assert!(bits(&got) == expected, "{name}");

                let mut in_place = values.clone();
                softmax_segments_in_place(&mut in_place, &offsets, &options).unwrap();
                assert!(bits(&in_place) == expected, "in place {name}");

                // Backwards, and every third element; offsets with a stride.
                let mut wide = Array1::from_elem(3 * values.len(), f32::NAN);
                wide.slice_mut(s![..;-3]).assign(&values);
                let mut twice = Array1::zeros(2 * offsets.len());
                twice.slice_mut(s![..;2]).assign(&offsets);
                let mut out = Array1::from_elem(2 * values.len(), f32::NAN);
                let strided = (wide.slice(s![..;-3]), twice.slice(s![..;2]));
                softmax_segments_into(&strided.0, &strided.1, &mut out.slice_mut(s![..;2]), &options).unwrap();
                assert!(bits(out.slice(s![..;2])) == expected, "strided {name}");
                let mut reversed = wide.clone();
                softmax_segments_in_place(&mut reversed.slice_mut(s![..;-3]), &offsets, &options).unwrap();
                assert!(bits(reversed.slice(s![..;-3])) == expected, "strided in place {name}");
            }
        }
    }
}

#[test]
fn temperatures() {
    let lengths = [10, 0, 300_000, 5, 2000];
    let (values, offsets) = ragged(1, &lengths);
    let temperatures = array![0.5, 2.0, 1.0, 3.0, 1e-3];
    let expected = alone(&values, &offsets, |segment| temperatures[segment]);
    for threads in [1, 2] {
        let options = Options::new().temperatures(&temperatures).threads(threads);
        assert!(bits(&softmax_segments(&values, &offsets, &options).unwrap()) == expected);
        let one = array![2.0f32];
        let same = alone(&values, &offsets, |_| 2.0);
        assert!(bits(&softmax_segments(&values, &offsets, &Options::new().temperatures(&one)).unwrap()) == same);
        let number = Options::new().temperature(2.0).threads(threads);
        assert!(bits(&softmax_segments(&values, &offsets, &number).unwrap()) == same);
    }
    for wrong in [array![1.0, 0.0, 1.0, 1.0, 1.0], array![1.0, 2.0]] {
        let options = Options::new().temperatures(&wrong);
        assert!(matches!(softmax_segments(&values, &offsets, &options), Err(Error::Value(_))));
    }
}

#[test]
fn dtypes() {
    let values = array![1i16, 2, 3, 4, 5];
    let mut out = Array1::<f64>::zeros(5);
    softmax_segments_into(&values, &array![1u8, 3, 5], &mut out, &Options::new()).unwrap();
    let pair = softmax(&array![0.0f64, 1.0], -1, &Options::new()).unwrap();
    assert_eq!(out, array![0.0, pair[0], pair[1], pair[0], pair[1]]);
    let values = Array1::from_elem(70_000, f16::ONE);
    let got = softmax_segments(&values, &array![0u64, 70_000], &Options::new()).unwrap();
    assert!(got.iter().all(|p| *p == f16::from_f64(1.0 / 70_000.0)));
    softmax_segments(&array![1.0f32], &array![0u32, 1], &Options::new()).unwrap();
}

#[test]
fn errors() {
    let values = array![1.0f32, 2.0, 3.0];
    let options = Options::new();
    let fails = |offsets: Array1<i64>| softmax_segments(&values, &offsets, &options).unwrap_err();
    assert_eq!(
        fails(array![0, 3, 1]),
        Error::Value("offsets must not decrease, but offsets[1] is 3 and offsets[2] is 1".into())
    );
    assert_eq!(fails(array![0, 4]), Error::Index("offsets[1] is 4, which is outside values of length 3".into()));
    assert_eq!(fails(array![-1, 3]), Error::Index("offsets[0] is -1, which is outside values of length 3".into()));
    assert!(matches!(fails(array![0, i64::MAX]), Error::Index(_)));
    assert!(matches!(fails(array![]), Error::Value(_)));
    let floats = softmax_segments(&values, &array![0.0, 3.0], &options);
    assert_eq!(floats, Err(Error::Type("offsets has dtype float64, but offsets are integers".into())));
    assert!(matches!(softmax_segments(&values, &array![false, true], &options), Err(Error::Type(_))));
    let none = softmax_segments(&Array1::<f32>::zeros(0), &array![0, 0, 0], &options).unwrap();
    assert_eq!(none.len(), 0);
    assert_eq!(softmax_segments(&values, &array![2], &options).unwrap(), array![0.0, 0.0, 0.0]);
}
