//! The public functions, one file each, named as in Python.

pub(crate) mod cross_entropy;
pub mod entropy;
pub(crate) mod log_prob;
pub mod log_softmax;
pub mod log_softmax_vjp;
pub(crate) mod logsumexp;
pub mod softmax;
pub mod softmax_segments;
pub mod softmax_vjp;
pub mod top_k;
