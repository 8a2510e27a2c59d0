//! Everything that can go wrong, in the words that the caller will read.
//!
//! Nothing here knows of Python; `python/error.rs` maps each kind to the exception that a NumPy user expects.

use std::fmt;

/// Why a call was refused or stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A value or a shape that the function cannot work with (Python: `ValueError`).
    Value(String),
    /// A dtype or a kind of object that is not supported (Python: `TypeError`).
    Type(String),
    /// An axis that the array does not have (Python: `numpy.exceptions.AxisError`).
    Axis {
        /// The axis as the caller gave it.
        axis: isize,
        /// The number of dimensions of the array.
        ndim: usize,
    },
    /// A label or an index outside its axis (Python: `IndexError`).
    Index(String),
    /// Memory that could not be had, in bytes (Python: `MemoryError`).
    Memory(usize),
    /// The caller's interrupt check asked to stop (Python: the exception that its signal handler raised).
    Interrupted,
    /// A bug in this library (Python: a `RuntimeError` subclass that asks for a report).
    Internal(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(message) | Self::Type(message) | Self::Index(message) => f.write_str(message),
            Self::Axis { axis, ndim } => {
                write!(f, "axis {axis} is out of bounds for array of dimension {ndim}")
            }
            Self::Memory(bytes) => write!(f, "could not allocate {bytes} bytes of working memory"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Internal(message) => {
                write!(f, "internal error in fastsoftmax, please report it with the call that led here: {message}")
            }
        }
    }
}

impl std::error::Error for Error {}

/// The result of every operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
