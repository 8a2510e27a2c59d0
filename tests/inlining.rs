//! Nothing of a kernel was left out of line: an intrinsic that is a function of its own was not compiled with the
//! features of its level, and costs a call for each vector.
//!
//! The symbols are those of this test's own program, which holds the whole crate. It must be built as what is shipped:
//!
//! ```sh
//! cargo test --profile bench --test inlining -- --nocapture
//! ```

mod common;

use std::process::Command;

use common::levels;
use fastsoftmax::{Options, entropy, log_softmax, logsumexp, softmax, softmax_vjp, top_k};

/// What a symbol of a function that should have been inlined contains, in either of Rust's manglings.
const OUT_OF_LINE: [&str; 2] = ["core_arch", "4simd6Vector"];
/// What asks for the processor's features does not run in a kernel.
const ALLOWED: [&str; 2] = ["cpuid", "xgetbv"];

#[test]
fn no_vector_operation_is_a_function_of_its_own() {
    if cfg!(debug_assertions) || !cfg!(target_os = "linux") {
        println!("skipped: assertions within intrinsics keep them out of line, and nm is looked for on Linux alone");
        return;
    }
    // So that the linker keeps every level.
    for level in levels() {
        let options = Options::new().level(level);
        assert!(softmax(&ndarray::array![1.0f32, 2.0], -1, &options).is_ok());
        assert!(log_softmax(&ndarray::array![1.0f64, 2.0], -1, &options).is_ok());
        assert!(entropy(&ndarray::array![1.0f32, 2.0], -1, &options).is_ok());
        assert!(logsumexp(&ndarray::array![1.0f32, 2.0], -1, &options).is_ok());
        assert!(top_k(&ndarray::array![1.0f32, 2.0], 1, -1, false, &options).is_ok());
        assert!(softmax_vjp(&ndarray::array![1.0f32, 2.0], &ndarray::array![1.0f32, 2.0], -1, &options).is_ok());
    }
    let program = std::env::current_exe().unwrap();
    let listed = match Command::new("nm").arg("--defined-only").arg(&program).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => panic!("nm: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("skipped: nm cannot be run ({error}); it is part of binutils");
            return;
        }
    };
    let symbols = String::from_utf8_lossy(&listed.stdout);
    assert!(symbols.contains("11fastsoftmax"), "this program's symbols were stripped");
    let left: Vec<_> = symbols
        .lines()
        .filter(|line| OUT_OF_LINE.iter().any(|part| line.contains(part)))
        .filter(|line| !ALLOWED.iter().any(|part| line.contains(part)))
        .collect();
    assert!(left.is_empty(), "not inlined:\n{}", left.join("\n"));
}
