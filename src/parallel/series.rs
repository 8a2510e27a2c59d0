//! Calls that follow each other closely, as in a loop over small batches.
//!
//! To wake a thread takes as long as some 30,000 elements. So a worker that has nothing more to do lingers for a moment
//! before it goes to sleep, and in a series of calls even small ones are worth its help: the first may be over before
//! it has come, but it finds the next ones awake.
//!
//! Not at the expense of others. Calls by several threads in turn are no series: they keep the CPUs busy by themselves.
//! A worker that lingers offers its CPU again and again, and where one is found to have been kept from its CPU, by other
//! threads or processes, small calls go without help for a while: a worker that must wait in the middle of its part has
//! the caller wait for it, too.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How long a worker lingers after its last work: about what it takes to wake it, so that it never wastes more than
/// what the better choice would have cost.
pub(super) const LINGER: Duration = Duration::from_micros(50);
/// How often it looks before it offers its CPU: half a microsecond.
const LOOKS: usize = 16;
/// A worker that is away from its CPU for so long was kept from it: less than a scheduler's time slice.
const KEPT_OFF: Duration = Duration::from_millis(1);
/// For so long small calls go without help then.
const RESPITE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Series {
    /// The calls that were opened to workers so far.
    opened: Opened,
    recent: Mutex<Recent>,
}

/// On a cache line of its own: those who linger look at it all the time.
#[derive(Default)]
#[repr(align(128))]
struct Opened(AtomicUsize);

#[derive(Default)]
struct Recent {
    /// When the last call of more than one task ended, on however many threads it ran, and by which it was made.
    ended: Option<(Instant, ThreadId)>,
    /// When a worker was last found to have been kept from its CPU.
    kept_off: Option<Instant>,
}

impl Series {
    /// Whether a call that begins now belongs to a series in which workers may help.
    pub(super) fn goes_on(&self) -> bool {
        self.recent.try_lock().is_ok_and(|recent| recent.goes_on(Instant::now(), thread::current().id()))
    }

    /// A call is open to workers.
    pub(super) fn opened(&self) {
        self.opened.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were so far.
    pub(super) fn count(&self) -> usize {
        self.opened.0.load(Ordering::Relaxed)
    }

    /// A call of more than one task is over. (Nobody waits for this lock: it may not be had in a forked child.)
    pub(super) fn ended(&self) {
        if let Ok(mut recent) = self.recent.try_lock() {
            recent.ended = Some((Instant::now(), thread::current().id()));
        }
    }

    /// A caller had to wait since `begin` for a worker's last task, or one that lingers had its CPU back only now.
    pub(super) fn waited(&self, begin: Instant) {
        let now = Instant::now();
        if now - begin > KEPT_OFF
            && let Ok(mut recent) = self.recent.try_lock()
        {
            recent.kept_off = Some(now);
        }
    }

    /// Waits for a call beyond the first so many, but not long after the worker's last work.
    pub(super) fn linger(&self, opened: usize, worked: Instant) {
        loop {
            for _ in 0..LOOKS {
                if self.count() != opened {
                    return;
                }
                std::hint::spin_loop();
            }
            let offered = Instant::now();
            if offered - worked > LINGER {
                return;
            }
            thread::yield_now();
            self.waited(offered);
        }
    }
}

impl Recent {
    fn goes_on(&self, now: Instant, caller: ThreadId) -> bool {
        let is_within = |time: Instant, limit| now.duration_since(time) < limit;
        self.ended.is_some_and(|(ended, by)| by == caller && is_within(ended, LINGER))
            && !self.kept_off.is_some_and(|time| is_within(time, RESPITE))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    #[test]
    fn a_series_goes_on_while_calls_follow_closely_and_workers_have_their_cpus() {
        let now = Instant::now();
        let ago = |time: Duration| now.checked_sub(time);
        let (caller, other) = (thread::current().id(), thread::spawn(|| thread::current().id()).join().unwrap());
        let goes_on = |ended: Option<Instant>, by, kept_off| {
            let ended = ended.map(|time| (time, by));
            Recent { ended, kept_off }.goes_on(now, caller)
        };
        assert!(!goes_on(None, caller, None));
        assert!(goes_on(ago(LINGER / 2), caller, None));
        assert!(!goes_on(ago(LINGER), caller, None));
        assert!(!goes_on(ago(LINGER / 2), other, None));
        assert!(!goes_on(ago(LINGER / 2), caller, ago(RESPITE / 2)));
        assert!(goes_on(ago(LINGER / 2), caller, ago(RESPITE)));
    }

    #[test]
    fn nobody_lingers_for_long() {
        let series = Series::default();
        let begin = Instant::now();
        series.linger(series.count(), begin);
        assert!(begin.elapsed() > LINGER);
    }

    #[test]
    fn who_lingers_sees_the_next_call() {
        let (series, long) = (Series::default(), Duration::from_secs(30));
        let begin = Instant::now();
        thread::scope(|scope| {
            // As after work that ends later, so that nothing but the call ends it.
            let lingers = scope.spawn(|| series.linger(0, begin + long));
            series.opened();
            lingers.join().unwrap();
        });
        assert!(begin.elapsed() < long);
    }

    #[test]
    fn a_call_that_waited_long_ends_a_series() {
        let series = Series::default();
        let begin = Instant::now();
        thread::sleep(2 * KEPT_OFF);
        series.waited(begin);
        series.ended();
        assert!(!series.goes_on());
    }
}
