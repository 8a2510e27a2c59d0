//! The extension module `fastsoftmax._core`, and the only place that knows of Python.
//!
//! A function is: read the arguments (`arg`), one call of `ops` without the interpreter (`call`), map the error
//! (`error`). No arithmetic is done here.

#![allow(
    clippy::doc_markdown,
    clippy::doc_lazy_continuation,
    clippy::doc_link_with_quotes,
    reason = "docstrings are numpydoc, not Markdown"
)]

mod arg;
mod call;
mod error;
mod functions;
mod gradients;
mod reductions;
mod result;

use pyo3::exceptions::{PyImportError, PyRuntimeWarning};
use pyo3::prelude::*;

use crate::memory::recycle;
use crate::simd::Level;

/// The one version number, of the crate and of the package.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The functions of fastsoftmax; import them from there.
// Without the GIL it is as safe as with it: all that is shared is the thread pool, which is made for it, and values
// that are set once.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::error::InternalError;
    #[pymodule_export]
    use super::functions::{
        _panic, _with_default_flags, _yardstick, build_info, get_cache_bytes, get_num_threads, log_softmax,
        set_cache_bytes, set_num_threads, softmax,
    };
    #[pymodule_export]
    use super::gradients::{log_softmax_vjp, softmax_segments, softmax_vjp};
    #[pymodule_export]
    use super::reductions::{cross_entropy, entropy, log_prob, logsumexp, top_k};

    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", super::VERSION)?;
        super::check(module.py())
    }
}

/// Refuses to be imported where calls could not do what the user asked for.
fn check(py: Python<'_>) -> PyResult<()> {
    // So that a missing or too old NumPy is an ImportError now, not a panic of rust-numpy's in the first call.
    py.import("numpy")?;
    Level::from_environment().map_err(PyImportError::new_err)?;
    recycle::limit_from_environment().map_err(PyImportError::new_err)?;
    if cfg!(debug_assertions) {
        let category = py.get_type::<PyRuntimeWarning>();
        let message = c"fastsoftmax was built without optimisation and is many times slower than it should be; \
            build it with: maturin develop --release";
        PyErr::warn(py, &category, message, 1)?;
    }
    Ok(())
}
