//! The instructions of one element, counted by callgrind: figures that do not depend on what else the machine does.
//!
//! This program runs itself under valgrind, on few rows and on many; the difference is what the rows take. Valgrind knows
//! no AVX-512, so the level is AVX2. It must be built as what is shipped:
//!
//! ```sh
//! cargo test --profile bench --test instructions -- --nocapture
//! ```

use std::process::Command;

use fastsoftmax::{CrossEntropy, Level, Options, cross_entropy, log_softmax_into, logsumexp, softmax_into, top_k};
use ndarray::{Array1, Array2};

/// Functions, the length of a row, and the most instructions that one element may take: 5 % more than it took when this
/// was written. Whoever needs more says so here, and why in the commit.
const CASES: [(&str, usize, f64); 8] = [
    ("softmax", 1000, 7.7),
    ("softmax", 100, 11.7),
    ("softmax", 10, 13.2),
    ("log_softmax", 1000, 7.9),
    ("logsumexp", 8192, 4.3),
    ("logsumexp", 100, 8.5),
    ("cross_entropy", 1000, 5.2),
    ("top_k", 8192, 4.9),
];

/// The elements of the few rows and of the many, about: both in one task, so that nothing is done once for each thread.
const ELEMENTS: [usize; 2] = [20_000, 120_000];

/// Where the program that runs under valgrind finds what to do.
const CASE: &str = "FASTSOFTMAX_INSTRUCTIONS";

/// The function of a case, on so many rows. Valgrind counts from here on.
#[inline(never)]
#[allow(clippy::unwrap_used, reason = "test data")]
fn counted(name: &str, x: &Array2<f32>, out: &mut Array2<f32>, labels: &Array1<i64>) {
    let options = Options::new().level(Level::Avx2).threads(1);
    match name {
        "softmax" => softmax_into(x, out, -1, &options).unwrap(),
        "log_softmax" => log_softmax_into(x, out, -1, &options).unwrap(),
        "logsumexp" => drop(logsumexp(x, -1, &options).unwrap()),
        "cross_entropy" => drop(cross_entropy(x, labels, -1, &CrossEntropy::new(), &options).unwrap()),
        _ => drop(top_k(x, 5, -1, false, &options).unwrap()),
    }
}

/// What runs under valgrind; by itself it does nothing.
#[test]
fn one_case() {
    let Ok(case) = std::env::var(CASE) else { return };
    let parts: Vec<_> = case.split(' ').collect();
    let [name, rows, len] = parts[..] else { panic!("{CASE} is a name, rows and their length") };
    let [rows, len] = [rows, len].map(|number| number.parse().expect("a number"));
    #[allow(clippy::cast_precision_loss, reason = "below 97")]
    let x = Array2::from_shape_fn((rows, len), |(row, place)| ((row * 31 + place * 17) % 97) as f32 / 16.0);
    counted(name, &x, &mut Array2::zeros(x.raw_dim()), &Array1::from_elem(rows, 7));
}

/// The instructions of a case, or why there is no figure.
fn instructions(name: &str, rows: usize, len: usize) -> Result<f64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions*counted*"])
        .arg(program)
        .args(["--exact", "one_case", "--test-threads=1"])
        .env(CASE, format!("{name} {rows} {len}"))
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error})"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.filter(|_| output.status.success()).ok_or_else(|| format!("valgrind counted nothing:\n{said}"))
}

#[test]
fn no_element_takes_more_than_it_did() {
    let wanted = std::env::var_os("CI").is_some();
    if cfg!(debug_assertions) || !Level::available().contains(&Level::Avx2) {
        println!("skipped: counts are those of the optimised program, at AVX2");
        return;
    }
    let mut over = Vec::new();
    for (name, len, most) in CASES {
        let [few, many] = ELEMENTS.map(|elements| elements.div_ceil(len));
        let difference = instructions(name, many, len).and_then(|many| Ok(many - instructions(name, few, len)?));
        let difference = match difference {
            Ok(difference) => difference,
            Err(error) if wanted => panic!("{error}"),
            Err(error) => {
                println!("skipped: {error}");
                return;
            }
        };
        #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
        let each = difference / ((many - few) * len) as f64;
        println!("{name} of rows of {len}: {each:.3} instructions an element, at most {most}");
        if each > most {
            over.push((name, len, each));
        }
    }
    assert!(over.is_empty(), "too many instructions: {over:?}");
}
