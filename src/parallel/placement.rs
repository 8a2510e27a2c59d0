//! Keeps workers off the CPU that the caller is on.
//!
//! A thread that is woken may be put on the CPU of the one that woke it: schedulers of virtual machines do so on
//! purpose. The two then share it until the next balancing, some milliseconds later, and a call on two threads takes as
//! long as on one. Workers have nothing to do but our calls, so they may be told to stay away from the caller's CPU.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The workers of a pool. (It must live no longer than they do: a number may be another thread's later.)
#[derive(Default)]
pub(super) struct Placement {
    workers: Mutex<Vec<Pid>>,
    /// The CPU that they are kept off, plus 1; 0: none.
    kept_off: AtomicUsize,
}

impl Placement {
    /// Called by each worker when it starts.
    pub(super) fn register(&self) {
        super::lock(&self.workers).push(gettid());
        self.kept_off.store(0, Ordering::Relaxed);
    }

    /// Keeps the workers to the CPUs that the calling thread may use, without the one that it is on.
    pub(super) fn keep_off_this_cpu(&self) {
        let cpu = sched_getcpu();
        if self.kept_off.swap(cpu + 1, Ordering::Relaxed) == cpu + 1 {
            return;
        }
        let Ok(mut others) = sched_getaffinity(None) else { return };
        others.unset(cpu);
        if others.count() == 0 {
            return;
        }
        for worker in super::lock(&self.workers).iter() {
            // Where it is refused, the worker goes where the scheduler puts it.
            let _refused = sched_setaffinity(Some(*worker), &others);
        }
    }
}
