//! Keeps workers off the CPU that the caller is on.
//!
//! A thread that is woken may be put on the CPU of the one that woke it: schedulers of virtual machines do so on
//! purpose. The two then share it until the next balancing, some milliseconds later, and a call on two threads takes as
//! long as on one. Workers have nothing to do but our calls, so they may be told to stay away from the caller's CPU.
//! They get no CPU that the caller or they themselves may not use, whoever said so and when.

use std::sync::Mutex;

use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Of more workers, one that comes late is not missed.
const FEW: usize = 8;

/// The workers of a pool. (It must live no longer than they do: a number may be another thread's later.)
#[derive(Default)]
pub(super) struct Placement {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    workers: Vec<Worker>,
    /// The last caller's CPU and all that it may use.
    caller: Option<(usize, CpuSet)>,
}

impl Placement {
    /// Called by each worker when it starts.
    pub(super) fn register(&self) {
        let Ok(own) = sched_getaffinity(None) else { return };
        let mut state = super::lock(&self.state);
        state.workers.push(Worker { id: gettid(), own, given: own });
        state.caller = None;
    }

    /// Keeps the workers off the CPU that the calling thread is on.
    pub(super) fn keep_off_this_cpu(&self) {
        let mut state = super::lock(&self.state);
        if state.workers.len() > FEW {
            return;
        }
        let Ok(allowed) = sched_getaffinity(None) else { return };
        let caller = (sched_getcpu(), allowed);
        if state.caller != Some(caller) {
            state.workers.iter_mut().for_each(|worker| worker.keep_off(caller.0, &allowed));
            state.caller = Some(caller);
        }
    }
}

struct Worker {
    id: Pid,
    /// The CPUs that it may use but for ours.
    own: CpuSet,
    /// Those that it was given here.
    given: CpuSet,
}

impl Worker {
    /// Leaves it the CPUs of its own that are allowed, without one; or as it is, where there is no other or the
    /// system refuses.
    fn keep_off(&mut self, cpu: usize, allowed: &CpuSet) {
        let Ok(present) = sched_getaffinity(Some(self.id)) else { return };
        if present != self.given {
            self.own = present;
        }
        let mut others = CpuSet::new();
        for other in (0..CpuSet::MAX_CPU).filter(|other| *other != cpu) {
            if self.own.is_set(other) && allowed.is_set(other) {
                others.set(other);
            }
        }
        if others.count() > 0 && sched_setaffinity(Some(self.id), &others).is_ok() {
            self.given = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn workers_stay_off_the_callers_cpu_and_heed_what_others_say() {
        let (send, receive) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(gettid()).unwrap();
            ended.recv().unwrap_err();
        });
        let id = receive.recv().unwrap();
        let now = || sched_getaffinity(Some(id)).unwrap();
        let all = now();
        let mut worker = Worker { id, own: all, given: all };
        let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
        let only = |cpu| {
            let mut set = CpuSet::new();
            set.set(cpu);
            set
        };
        let without = |cpu| {
            let mut set = all;
            set.unset(cpu);
            if set.count() > 0 { set } else { all }
        };
        let (first, last) = (cpus[0], cpus[cpus.len() - 1]);

        worker.keep_off(first, &all);
        assert_eq!(now(), without(first));
        worker.keep_off(last, &all);
        assert_eq!(now(), without(last), "what it came with is not forgotten");
        // A caller that is confined to its CPU shares it with nobody, and sends nobody where it may not go itself.
        worker.keep_off(first, &only(first));
        assert_eq!(now(), without(last));
        // Somebody confines all threads, to what the worker has just been given or to less.
        for cpu in [first, last] {
            sched_setaffinity(Some(id), &only(cpu)).unwrap();
            worker.keep_off(cpu, &only(cpu));
            assert_eq!(now(), only(cpu));
        }

        drop(end);
        thread.join().unwrap();
    }
}
