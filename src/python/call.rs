//! One way for every function from Python's side to the crate's: the interpreter is let go where the call is long,
//! signals are heard, and neither an error nor a panic gets past without becoming an exception.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arg::{self, Mask, Threads};
use super::error::panicked;
use crate::error::Result;
use crate::memory::View;
use crate::options::{Options, Temperature};

/// From so many elements on, other Python threads run during the call, and Ctrl-C is heard.
///
/// To let the interpreter go and take it back costs 0.07 us where nobody else wants it, and up to Python's switch
/// interval of 5 ms where somebody does; this many elements take 8 us.
const DETACH_ELEMENTS: usize = 16 * 1024;

/// The options of a call, without the interrupt check, which belongs to the thread that makes the call.
pub(super) struct Settings<'a> {
    temperature: Temperature<'a>,
    mask: Option<View<'a>>,
    threads: Option<usize>,
}

impl<'a> Settings<'a> {
    /// From the arguments that a function has of these.
    pub(super) fn new(
        temperature: Option<&'a arg::Temperature<'_>>,
        mask: Option<&'a Mask<'_>>,
        threads: Option<Threads>,
    ) -> PyResult<Self> {
        Ok(Self {
            temperature: temperature.map(arg::Temperature::view).transpose()?.unwrap_or_default(),
            mask: mask.map(Mask::view).transpose()?,
            threads: threads.map(|threads| threads.0),
        })
    }
}

/// Calls `operation`, which works on `elements` elements.
pub(super) fn call<'a>(
    py: Python<'_>,
    elements: usize,
    settings: Settings<'a>,
    operation: impl FnOnce(&Options<'_>) -> Result<()> + Send,
) -> PyResult<()> {
    let Settings { temperature, mask, threads } = settings;
    let options = move || Options::<'a> { temperature, mask, threads, ..Options::default() };
    if elements < DETACH_ELEMENTS {
        return caught(|| options().guarded(operation)).map_err(PyErr::from);
    }
    let (result, raised) = py.detach(move || {
        let signals = Signals::default();
        let interrupt = || signals.raise();
        let result = caught(|| options().interrupt(&interrupt).guarded(operation));
        (result, signals.raised.into_inner())
    });
    // What a signal handler raised is not to be lost, even if the operation had just finished.
    raised.map_or_else(|| result.map_err(PyErr::from), Err)
}

/// Turns a panic into an error. Nothing that the operation had borrowed is looked at afterwards but the output,
/// which is plain numbers and is thrown away or, if it is the caller's, was promised nothing on failure.
fn caught(operation: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(operation)).unwrap_or_else(|payload| Err(panicked(&*payload)))
}

/// Runs Python's signal handlers during a call, on the thread that made it, whenever `parallel` asks (every 20 ms).
#[derive(Default)]
struct Signals {
    /// Whether this is the thread on which Python runs signal handlers; not known until asked.
    is_main: Cell<Option<bool>>,
    /// What a handler raised.
    raised: RefCell<Option<PyErr>>,
}

impl Signals {
    /// Whether to stop because a signal handler raised.
    fn raise(&self) -> bool {
        // Elsewhere Python would do nothing, and to take the interpreter means to wait for it.
        if self.is_main.get() == Some(false) {
            return false;
        }
        let checked = Python::try_attach(|py| {
            if self.is_main.get().is_none() {
                self.is_main.set(Some(is_main_thread(py)?));
            }
            py.check_signals()
        });
        // Without an answer the interpreter is about to end, and no handler runs any more.
        let Some(Err(error)) = checked else {
            return false;
        };
        self.raised.replace(Some(error));
        true
    }
}

/// Whether Python runs signal handlers on this thread.
fn is_main_thread(py: Python<'_>) -> PyResult<bool> {
    // Only asked of a `threading` that is there: importing it here first would make this its main thread.
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    let Some(threading) = modules.cast::<PyDict>()?.get_item(intern!(py, "threading"))? else {
        return Ok(true);
    };
    let main = threading.call_method0(intern!(py, "main_thread"))?.getattr(intern!(py, "ident"))?;
    threading.call_method0(intern!(py, "get_ident"))?.eq(main)
}
