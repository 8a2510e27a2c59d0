//! The mathematics, written once: generic over the instruction set (`simd`) and over float32 and float64.
//!
//! ```text
//!            one read                          one number a row           a second read, from cache
//! logits --> fold: max, sum of terms      --> quotient: 1 / sum,   -->   map: s r + s (p r), or x - lse
//!            (exp, fold)                       or log of it (log)         (what was kept, or exp again; row)
//! ```
//!
//! - `real`, `double`: the two compute types, and numbers of twice the precision.
//! - `exp`: the exponential of a logit as s * (1 + p). `log`, `log_row`: logarithms
//!   of sums, and log-probabilities.
//! - `sum`: sums of which rounding takes nothing. `fold`: maxima and sums in a fixed order; `pieces`: of many short rows
//!   at a time. `kept`: what the second read has of the first. `row`: rows that lie in memory one element after another.
//!   `stream`: the same in whole lines, past the cache; one row is folded while another is written.
//! - `short`: rows that one vector holds. `abreast`: many short rows, a lane each, from logits to results in one go.
//! - `spread`: what the entropy needs beside the sum. `select`: the largest logits of a row.
//! - `column`: tiles in which a lane is a row: axes that are not the last, and rows of a few classes. `slots`: their sums.
//!   `narrow`: matrices of fewer columns than lanes, folded as they lie.
//! - `gradient`: the vector-Jacobian products, a sum and a pass over two arrays.
//!
//! Of an exponential p is kept for the second read, or p and s, for rows that stay in the second cache; longer ones compute
//! both again. Every way the quotient is rounded once, to the same bits (`benches/README.md` has the figures).
//!
//! No unsafe code, no instruction set by name, no threads, no Python.

pub(crate) mod abreast;
pub(crate) mod ahead;
pub(crate) mod column;
pub(crate) mod double;
pub(crate) mod exp;
pub(crate) mod fold;
pub(crate) mod gradient;
pub(crate) mod kept;
pub(crate) mod log;
pub(crate) mod log_row;
pub(crate) mod narrow;
pub(crate) mod pieces;
pub(crate) mod real;
pub(crate) mod row;
pub(crate) mod select;
pub(crate) mod short;
pub(crate) mod slots;
pub(crate) mod spread;
pub(crate) mod stream;
pub(crate) mod sum;

pub(crate) use exp::Temperature;
pub(crate) use real::Real;
