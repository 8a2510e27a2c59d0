//! From this crate's errors to the exceptions that a NumPy user expects.

use std::any::Any;

use pyo3::create_exception;
use pyo3::exceptions::{PyIndexError, PyKeyboardInterrupt, PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::Error;

create_exception!(
    fastsoftmax,
    InternalError,
    PyRuntimeError,
    "A bug in fastsoftmax.\n\nPlease report it, with its message and the call that led to it. \
     The arguments were not at fault, and the next call works."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Value(_) => PyValueError::new_err(message),
            Error::Type(_) => PyTypeError::new_err(message),
            Error::Index(_) => PyIndexError::new_err(message),
            Error::Memory(_) => PyMemoryError::new_err(message),
            Error::Axis { axis, ndim } => axis_error((axis, ndim)),
            // `call` raises what the signal handler raised; this is for an interrupt that nobody asked for.
            Error::Interrupted => PyKeyboardInterrupt::new_err(()),
            Error::Internal(_) => InternalError::new_err(message),
        }
    }
}

/// A `numpy.exceptions.AxisError`, from the axis and the number of dimensions, or from a message.
pub(super) fn axis_error(arguments: impl for<'py> pyo3::call::PyCallArgs<'py>) -> PyErr {
    static AXIS_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Python::attach(|py| {
        let raised = AXIS_ERROR.import(py, "numpy.exceptions", "AxisError").and_then(|class| class.call1(arguments));
        raised.map_or_else(|failure| failure, PyErr::from_value)
    })
}

/// What a caught panic said, as an error.
pub(super) fn panicked(payload: &(dyn Any + Send)) -> Error {
    let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    Error::Internal(said.unwrap_or("a panic without a message").to_owned())
}
