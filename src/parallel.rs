//! The one door to the thread pool: nothing else in this crate may call rayon.
//!
//! [`run`] hands out the tasks of one call in order from an atomic counter. The calling thread works too; workers are
//! invited, never waited for:
//!
//! ```text
//! caller   open the call, invite workers, do tasks ......... close the call, wait until nobody is inside, return
//! worker       (asleep, or busy elsewhere)  enter if open, do tasks until none is left, leave
//! ```
//!
//! A worker that comes late finds the call closed and does nothing. So a small call does not last until a sleeping
//! thread has woken up, nor any call until the workers are done with another caller's long one: that, and no more, is
//! why this is not `rayon::scope`, which waits for every job that it spawned to have had its turn. It also makes
//! nested and concurrent calls safe: a caller waits only for threads inside its own call, these wait only for calls
//! that were opened later, and so no circle can form.
//!
//! Fork: everything that refers to threads hangs on one pointer, `HOME`. The handler that runs in a forked child sets
//! it to null, and the child makes a home of its own when it needs one. What the parent had is leaked and never looked
//! at again, so it does not matter which of its locks some other thread held at that moment.

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::simd::flags::Guard;

/// What a call does for each of its tasks.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

/// No call uses more threads: a slip of the pen (`threads=10**6`) must not bring the machine down.
const MAX_THREADS: usize = 1024;
/// How often the calling thread asks whether it was interrupted.
const POLL: Duration = Duration::from_millis(20);
/// After the system refused a thread, how long until it is asked again.
const RETRY: Duration = Duration::from_millis(100);
/// Invitations that may wait per worker; without a bound, small calls beside a long one would pile them up.
const QUEUE: usize = 8;
/// How often a caller looks whether the last worker has left before it goes to sleep; some 2 microseconds, about what
/// sleeping and being woken costs.
const SPINS: usize = 100;

// ---- How many threads ----

/// What `set_num_threads` was told; 0: nothing.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);
/// The CPUs that this process may use; 0: not yet asked.
static CPUS: AtomicUsize = AtomicUsize::new(0);
/// What the environment allows; 0: not yet read. Apart from `CPUS` so that a forked child, which asks for its CPUs
/// anew, need not take the lock around the environment.
static ALLOWED: AtomicUsize = AtomicUsize::new(0);

/// The number of threads that a call without `threads` uses: what [`set_num_threads`] was told, else the smaller of
/// the CPUs that this process may use (affinity and cgroup quota) and `FASTSOFTMAX_NUM_THREADS`, else
/// `RAYON_NUM_THREADS`, else `OMP_NUM_THREADS`, where set to a number above 0.
///
/// CPUs and environment are read when first needed and then remembered, the CPUs anew in a forked child.
#[must_use]
pub fn num_threads() -> usize {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => cpus().min(allowed()),
        chosen => chosen,
    }
}

/// Sets the number of threads that a call without `threads` uses; `None` goes back to the default.
pub fn set_num_threads(threads: Option<NonZeroUsize>) {
    CHOSEN.store(threads.map_or(0, NonZeroUsize::get), Ordering::Relaxed);
}

fn cpus() -> usize {
    remembered(&CPUS, || {
        // A child may be given CPUs of its own, so it must forget these.
        watch_forks();
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
    })
}

fn allowed() -> usize {
    remembered(&ALLOWED, || {
        [
            "FASTSOFTMAX_NUM_THREADS",
            "RAYON_NUM_THREADS",
            "OMP_NUM_THREADS",
        ]
        .iter()
        .find_map(|name| parse_threads(&std::env::var(name).ok()?))
        .unwrap_or(usize::MAX)
    })
}

/// The value in `cell`, found by `find` when it is still 0. Not a `OnceLock`: a fork while another thread initialises
/// one would leave the child waiting for ever. Two threads that find the same value do no harm.
fn remembered(cell: &AtomicUsize, find: impl FnOnce() -> usize) -> usize {
    match cell.load(Ordering::Relaxed) {
        0 => {
            let found = find();
            cell.store(found, Ordering::Relaxed);
            found
        }
        known => known,
    }
}

/// A number of threads as environment variables give it: above 0; of a list by nesting level ("4,2"), the first.
fn parse_threads(text: &str) -> Option<usize> {
    let first = text.split(',').next()?.trim();
    first.parse().ok().filter(|&threads| threads > 0)
}

// ---- Running a call ----

/// Runs `body` for each of `0..tasks`, once, on up to `threads` threads with the caller's among them.
///
/// Tasks start in order. `interrupt` is asked on the calling thread, between its tasks, every 20 ms at most; so tasks
/// should be shorter than that. All tasks have ended when this returns, and all that were not started never will be.
///
/// # Errors
/// [`Error::Interrupted`] when `interrupt` said true, [`Error::Internal`] when `body` or `interrupt` panicked (the
/// first panic's message); either way some tasks were not run.
pub(crate) fn run(
    threads: usize,
    tasks: usize,
    interrupt: Option<&dyn Fn() -> bool>,
    body: &(dyn Fn(usize) + Sync),
) -> Result<()> {
    let helpers = threads.min(MAX_THREADS).min(tasks).saturating_sub(1);
    if helpers > 0
        && let Some(home) = home()
        && let Some(pool) = home.pool(helpers)
    {
        return run_shared(home, &pool, helpers, tasks, interrupt, body);
    }
    let progress = Progress::new(tasks);
    let led = progress.lead(body, interrupt);
    progress.outcome(led)
}

fn run_shared(
    home: &'static Home,
    pool: &ThreadPool,
    helpers: usize,
    tasks: usize,
    interrupt: Option<&dyn Fn() -> bool>,
    body: &Body<'_>,
) -> Result<()> {
    let call = Arc::new(Call {
        progress: Progress::new(tasks),
        body: Erased::new(body),
        door: Mutex::new(Door {
            open: true,
            inside: 0,
        }),
        left: Condvar::new(),
    });
    let closing = Closing { call: &call, home };
    home.invite(pool, &call, helpers);
    let led = call.progress.lead(body, interrupt);
    drop(closing);
    if !home.is_current() {
        // The interrupt check ran a signal handler that forked, and this is the child: its workers, and the tasks that
        // they had begun, do not exist here. No lock is taken on this way, for they may have held it.
        led?;
        return Err(Error::Internal(
            "the process was forked in the middle of the call".into(),
        ));
    }
    call.progress.outcome(led)
}

/// Which tasks of a call are still to be had, and what went wrong.
struct Progress {
    tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<String>>,
}

impl Progress {
    const fn new(tasks: usize) -> Self {
        Self {
            tasks,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        }
    }

    /// The caller's part: tasks, and now and then the question whether to stop.
    fn lead(&self, body: &Body<'_>, interrupt: Option<&dyn Fn() -> bool>) -> Result<()> {
        let Some(interrupt) = interrupt.filter(|_| self.tasks > 1) else {
            self.work(body, None);
            return Ok(());
        };
        while self.work(body, Some(Instant::now() + POLL)) {
            // Outside `work`, so a signal handler runs with the caller's floating point flags.
            match catch_unwind(AssertUnwindSafe(interrupt)) {
                Ok(false) => {}
                Ok(true) => {
                    self.stop();
                    return Err(Error::Interrupted);
                }
                Err(payload) => self.fail(payload),
            }
        }
        Ok(())
    }

    /// Does tasks until none is left (false) or the time has come (true). Lets no panic out.
    ///
    /// Not inlined, which keeps the arithmetic of `body` inside the guard (see `simd/flags.rs`).
    #[inline(never)]
    fn work(&self, body: &Body<'_>, until: Option<Instant>) -> bool {
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let _flags = Guard::new();
            loop {
                let task = self.next.fetch_add(1, Ordering::Relaxed);
                if task >= self.tasks {
                    return false;
                }
                body(task);
                if until.is_some_and(|until| Instant::now() >= until) {
                    return true;
                }
            }
        }));
        worked.unwrap_or_else(|payload| {
            self.fail(payload);
            false
        })
    }

    /// Whether no task is left to be started.
    fn is_over(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.tasks
    }

    /// Starts no further task.
    fn stop(&self) {
        self.next.store(self.tasks, Ordering::Relaxed);
    }

    fn fail(&self, payload: Box<dyn Any + Send>) {
        self.stop();
        let message = match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => match other.downcast::<&'static str>() {
                Ok(text) => (*text).to_owned(),
                Err(other) => {
                    // Whatever it is, dropping it could panic again.
                    std::mem::forget(other);
                    "a panic without a message".to_owned()
                }
            },
        };
        lock(&self.panic).get_or_insert(message);
    }

    fn outcome(&self, led: Result<()>) -> Result<()> {
        lock(&self.panic)
            .take()
            .map_or(led, |message| Err(Error::Internal(message)))
    }
}

// ---- Sharing a call with workers ----

/// One call as its workers see it. They hold it by `Arc`, so it may outlive the call; `body` may not be touched then.
struct Call {
    progress: Progress,
    body: Erased,
    door: Mutex<Door>,
    left: Condvar,
}

struct Door {
    open: bool,
    inside: usize,
}

impl Call {
    /// A worker's part.
    fn help(&self) {
        if let Some(inside) = self.enter() {
            self.progress.work(inside.body(), None);
        }
    }

    fn enter(&self) -> Option<Inside<'_>> {
        let mut door = lock(&self.door);
        door.open.then(|| {
            door.inside += 1;
            Inside(self)
        })
    }
}

/// A worker's stay in a call that was open when it came; the caller cannot return while this exists.
struct Inside<'a>(&'a Call);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut door = lock(&self.0.door);
        door.inside -= 1;
        if door.inside == 0 && !door.open {
            self.0.left.notify_one();
        }
    }
}

/// Closes the call when the caller leaves it, on whatever way, and waits until no worker is inside.
struct Closing<'a> {
    call: &'a Call,
    home: &'static Home,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if !self.home.is_current() {
            // A forked child: no worker exists here, and one that did may have held the lock.
            return;
        }
        let mut door = lock(&self.call.door);
        door.open = false;
        for _ in 0..SPINS {
            if door.inside == 0 {
                return;
            }
            drop(door);
            std::hint::spin_loop();
            door = lock(&self.call.door);
        }
        while door.inside > 0 {
            door = self
                .call
                .left
                .wait(door)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The caller's body without its lifetime. A job of the pool must be `'static`, and the safe way to lend it something
/// shorter-lived is a scope that waits for every job, see the top of this file.
struct Erased(*const Body<'static>);

#[allow(
    unsafe_code,
    reason = "lends the caller's body to jobs that may outlive the call"
)]
mod erased {
    use super::{Body, Erased, Inside};

    // SAFETY: behind the pointer is a body that is `Sync`, and only shared references to it are made.
    unsafe impl Send for Erased {}
    // SAFETY: as above.
    unsafe impl Sync for Erased {}

    impl Erased {
        pub(super) fn new(body: &Body<'_>) -> Self {
            // SAFETY: only the lifetime changes, and a raw pointer promises none.
            Self(unsafe { std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body) })
        }
    }

    impl Inside<'_> {
        pub(super) fn body(&self) -> &Body<'_> {
            // SAFETY: `run_shared` borrows the body until it returns. It cannot return, nor unwind, before its
            // `Closing` has been dropped, which first closes the door, so that no further `Inside` is made, and then
            // waits until `inside` is 0, that is, until all that were made are dropped. The reference cannot outlive
            // `self`, so the body outlives the reference. (`Closing` does not wait in a forked child: there the thread
            // that `self` belongs to does not exist.)
            unsafe { &*self.0.body.0 }
        }
    }
}

// ---- The pool of this process ----

/// What this process knows about its threads. Made when first needed, never freed, and never dropped at exit: the
/// system ends the threads, which sleep or work on memory that is still there.
#[derive(Default)]
struct Home {
    slot: Mutex<Slot>,
    /// Invitations that no worker has taken up yet.
    queued: AtomicUsize,
}

#[derive(Default)]
struct Slot {
    pool: Option<Arc<ThreadPool>>,
    /// When the system last refused a thread.
    refused: Option<Instant>,
}

/// Null until a pool is needed, and again in a forked child.
static HOME: AtomicPtr<Home> = AtomicPtr::new(ptr::null_mut());

/// This process's home; `None` if a fork could not be noticed, so that no thread may be started.
#[allow(
    unsafe_code,
    reason = "a static that a forked child can reset without taking a lock"
)]
fn home() -> Option<&'static Home> {
    loop {
        // SAFETY: null, or a home that was leaked below: it is valid for ever, and only shared references exist.
        if let Some(home) = unsafe { HOME.load(Ordering::Acquire).as_ref() } {
            return Some(home);
        }
        if !watch_forks() {
            return None;
        }
        // Where another thread is faster these few bytes stay leaked: once per process, and simpler than freeing them.
        let fresh: *const Home = Box::leak(Box::default());
        let (none, fresh) = (ptr::null_mut(), fresh.cast_mut());
        let _ = HOME.compare_exchange(none, fresh, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Has the child of a fork forget the parent's threads and CPUs; false if that cannot be arranged.
///
/// Not a `Once`, see `remembered`. A second registration by another thread, or in a child that was forked right here,
/// does no harm; a flag that is set before its handler is in force would.
#[cfg(unix)]
#[allow(
    unsafe_code,
    reason = "the standard library has no way to notice a fork"
)]
fn watch_forks() -> bool {
    use std::sync::atomic::AtomicBool;

    static WATCHED: AtomicBool = AtomicBool::new(false);

    extern "C" fn in_child() {
        HOME.store(ptr::null_mut(), Ordering::Relaxed);
        CPUS.store(0, Ordering::Relaxed);
    }

    if !WATCHED.load(Ordering::Acquire) {
        // SAFETY: the handler is a function that stays loaded as long as this code (the dynamic linker removes it with
        // the library) and only stores to atomics: it takes no lock, allocates nothing and cannot unwind, which is
        // what may be done between a fork and the rest of the child.
        if unsafe { libc::pthread_atfork(None, None, Some(in_child)) } != 0 {
            return false;
        }
        WATCHED.store(true, Ordering::Release);
    }
    true
}

#[cfg(not(unix))]
fn watch_forks() -> bool {
    true
}

impl Home {
    /// Whether this process is still the one that made this home.
    fn is_current(&self) -> bool {
        ptr::eq(HOME.load(Ordering::Relaxed), self)
    }

    /// A pool of `workers` threads or more if the system gives them, else of as many as it did; `None`: not one.
    fn pool(&self, workers: usize) -> Option<Arc<ThreadPool>> {
        let mut slot = lock(&self.slot);
        let size = slot
            .pool
            .as_ref()
            .map_or(0, |pool| pool.current_num_threads());
        if size < workers && slot.refused.is_none_or(|at| at.elapsed() >= RETRY) {
            let mut wanted = workers;
            while wanted > size {
                // A rayon pool cannot grow. The old one ends its threads when it has no more to do and nobody holds it.
                let builder = ThreadPoolBuilder::new().num_threads(wanted);
                match builder
                    .thread_name(|index| format!("fastsoftmax-{index}"))
                    .build()
                {
                    Ok(pool) => {
                        slot.pool = Some(Arc::new(pool));
                        break;
                    }
                    Err(_) => slot.refused = Some(Instant::now()),
                }
                wanted /= 2;
            }
        }
        slot.pool.clone()
    }

    /// Asks for `helpers` workers to come to a call.
    fn invite(&'static self, pool: &ThreadPool, call: &Arc<Call>, helpers: usize) {
        let workers = pool.current_num_threads();
        for _ in 0..helpers.min(workers) {
            // Those who came first may have done everything by now, and waking a thread takes microseconds.
            if call.progress.is_over() || self.queued.load(Ordering::Relaxed) >= QUEUE * workers {
                return;
            }
            self.queued.fetch_add(1, Ordering::Relaxed);
            let call = Arc::clone(call);
            pool.spawn(move || {
                self.queued.fetch_sub(1, Ordering::Relaxed);
                call.help();
            });
        }
    }
}

/// Locks, whether or not a thread panicked while it held the lock: nothing that is kept behind one can be half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use std::sync::{Mutex, mpsc};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::{lock, num_threads, parse_threads, run, set_num_threads};
    use crate::error::Error;
    use crate::simd::flags::tests::{is_default, with_foreign_flags};

    const LONG: Duration = Duration::from_secs(30);

    /// Fails instead of hanging.
    fn watched(body: impl FnOnce() + Send + 'static) {
        let (done, wait) = mpsc::channel();
        let thread = thread::spawn(move || {
            body();
            done.send(())
        });
        match wait.recv_timeout(LONG) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("deadlock"),
            _ => thread.join().unwrap().unwrap(),
        }
    }

    /// Whether every task of a call was run once.
    fn each_once(threads: usize, tasks: usize) -> bool {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        let result = run(threads, tasks, Some(&|| false), &|task| {
            counts[task].fetch_add(1, SeqCst);
        });
        result.is_ok() && counts.iter().all(|count| count.load(SeqCst) == 1)
    }

    /// The threads of a call whose two tasks wait for each other, so that it needs two; fewer if time runs out.
    fn two_threads(limit: Duration) -> usize {
        let (started, seen) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
        let begin = Instant::now();
        let result = run(2, 2, None, &|_| {
            lock(&seen).insert(thread::current().id());
            started.fetch_add(1, SeqCst);
            while started.load(SeqCst) < 2 && begin.elapsed() < limit {
                thread::yield_now();
            }
        });
        assert_eq!(result, Ok(()));
        seen.into_inner().unwrap().len()
    }

    #[test]
    fn every_task_once() {
        for threads in [0, 1, 2, 3, 4, 7, 16] {
            for tasks in [0, 1, 2, 3, 5, 16, 100, 1000] {
                assert!(
                    each_once(threads, tasks),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
        assert_eq!(two_threads(LONG), 2);
    }

    #[test]
    fn one_task_or_thread_stays_with_the_caller() {
        let caller = thread::current().id();
        for (threads, tasks) in [(8, 1), (1, 50)] {
            let body = |_| assert_eq!(thread::current().id(), caller);
            assert_eq!(run(threads, tasks, None, &body), Ok(()));
        }
        assert_eq!(
            run(8, 1, Some(&|| panic!("must not be asked")), &|_| {}),
            Ok(())
        );
    }

    #[test]
    fn nested() {
        watched(|| {
            let count = AtomicUsize::new(0);
            let innermost = |_| _ = count.fetch_add(1, SeqCst);
            let inner = |_| run(4, 5, None, &innermost).unwrap();
            let outer = |_| run(3, 6, None, &inner).unwrap();
            for _ in 0..200 {
                run(4, 7, None, &outer).unwrap();
            }
            assert_eq!(count.into_inner(), 200 * 7 * 6 * 5);
        });
    }

    #[test]
    fn concurrent_callers() {
        watched(|| {
            thread::scope(|scope| {
                for caller in 0..4 {
                    scope.spawn(move || {
                        (0..500).for_each(|i| assert!(each_once(2 + caller, 1 + i % 40)))
                    });
                }
            });
        });
    }

    #[test]
    fn small_call_does_not_wait_for_a_long_one() {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // As many threads as any test asks for, so that no worker is left.
            let long = scope.spawn(|| {
                let begin = Instant::now();
                run(16, 64, None, &|_| {
                    while !over.load(SeqCst) && begin.elapsed() < LONG {
                        thread::sleep(Duration::from_millis(1));
                    }
                })
            });
            thread::sleep(Duration::from_millis(20));
            // More calls than may be queued.
            assert!((0..1000).all(|_| each_once(4, 4)));
            assert!(!over.swap(true, SeqCst));
            assert_eq!(long.join().unwrap(), Ok(()));
        });
    }

    #[test]
    fn panic_becomes_an_error() {
        for threads in [1, 4] {
            let text = |task| assert!(task != 3, "task {task}");
            assert_eq!(
                run(threads, 1000, None, &text),
                Err(Error::Internal("task 3".into()))
            );
            let other = |_| std::panic::panic_any(5);
            let message = "a panic without a message".to_owned();
            assert_eq!(run(threads, 2, None, &other), Err(Error::Internal(message)));
            let asked = || panic!("asked");
            let slow = |_| thread::sleep(Duration::from_millis(1));
            assert_eq!(
                run(threads, 1000, Some(&asked), &slow),
                Err(Error::Internal("asked".into()))
            );
            assert!(each_once(threads, 100));
        }
    }

    #[test]
    fn interrupt_stops_every_thread() {
        for threads in [1, 2, 5] {
            let (running, runs) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let begin = Instant::now();
            let asked = Mutex::new(Vec::new());
            let interrupt = || {
                lock(&asked).push(Instant::now());
                begin.elapsed() > Duration::from_millis(100)
            };
            let result = run(threads, 1_000_000, Some(&interrupt), &|_| {
                running.fetch_add(1, SeqCst);
                runs.fetch_add(1, SeqCst);
                thread::sleep(Duration::from_millis(1));
                running.fetch_sub(1, SeqCst);
            });
            assert_eq!((result, running.load(SeqCst)), (Err(Error::Interrupted), 0));
            assert!(begin.elapsed() < Duration::from_secs(5));
            let asked = asked.into_inner().unwrap();
            assert!(
                asked
                    .windows(2)
                    .all(|pair| pair[1] - pair[0] >= super::POLL)
            );
            let before = runs.load(SeqCst);
            thread::sleep(Duration::from_millis(20));
            assert_eq!(runs.load(SeqCst), before);
            assert!(each_once(threads, 100));
        }
    }

    #[test]
    fn foreign_float_flags_change_nothing() {
        let (started, defaults) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (mut restored, mut result) = (false, Ok(()));
        let begin = Instant::now();
        with_foreign_flags(|unchanged| {
            result = run(2, 2, None, &|_| {
                started.fetch_add(1, SeqCst);
                while started.load(SeqCst) < 2 && begin.elapsed() < LONG {
                    thread::yield_now();
                }
                defaults.fetch_add(usize::from(is_default()), SeqCst);
            });
            restored = unchanged();
        });
        assert_eq!((result, defaults.into_inner(), restored), (Ok(()), 2, true));
    }

    #[test]
    fn thread_numbers() {
        for (text, threads) in [("3", 3), (" 8 ", 8), ("4,2", 4), ("2, 1", 2)] {
            assert_eq!(parse_threads(text), Some(threads), "{text:?}");
        }
        for text in [
            "",
            " ",
            "0",
            "-1",
            "two",
            "1.5",
            ",4",
            "0,4",
            "99999999999999999999999",
        ] {
            assert_eq!(parse_threads(text), None, "{text:?}");
        }
        let default = num_threads();
        assert!((1..=thread::available_parallelism().unwrap().get()).contains(&default));
        set_num_threads(5.try_into().ok());
        assert_eq!(num_threads(), 5);
        #[cfg(unix)]
        fork::child(|| num_threads() == 5);
        set_num_threads(None);
        assert_eq!(num_threads(), default);
    }

    #[cfg(unix)]
    #[allow(unsafe_code, reason = "fork, and what a child needs")]
    mod fork {
        use super::{
            AtomicBool, Duration, Error, SeqCst, each_once, run, thread, two_threads, watched,
        };
        use std::panic::{AssertUnwindSafe, catch_unwind};

        /// Fails unless `body` is true in a forked child, within 20 seconds.
        pub(super) fn child(body: impl FnOnce() -> bool) {
            // SAFETY: the child runs code that this file promises to be able to run there, and leaves by `_exit`.
            match unsafe { libc::fork() } {
                -1 => panic!("fork failed"),
                0 => unsafe {
                    libc::alarm(20);
                    let good = catch_unwind(AssertUnwindSafe(body)).unwrap_or(false);
                    libc::_exit(i32::from(!good));
                },
                child => {
                    let mut status = -1;
                    // SAFETY: waits for the child that was just made, and writes to a variable of ours.
                    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                    assert_eq!(status, 0, "exit status, or 14 for a hang");
                }
            }
        }

        fn works() -> bool {
            each_once(4, 100) && two_threads(super::LONG) == 2
        }

        #[test]
        fn after_use_and_grandchild() {
            assert!(works());
            for _ in 0..10 {
                child(|| {
                    let before = works();
                    child(works);
                    before && works()
                });
            }
            assert!(works());
        }

        #[test]
        fn during_calls_of_other_threads() {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                for threads in [2, 3] {
                    scope.spawn({
                        let over = &over;
                        move || while !over.load(SeqCst) && each_once(threads, 50) {}
                    });
                }
                for _ in 0..100 {
                    child(works);
                }
                over.store(true, SeqCst);
            });
        }

        #[test]
        fn from_the_interrupt_check() {
            watched(|| {
                let slow = |_| thread::sleep(Duration::from_millis(5));
                let (parent, forked) = (std::process::id(), AtomicBool::new(false));
                let mut status = -1;
                let result = run(
                    4,
                    60,
                    Some(&|| !forked.swap(true, SeqCst) && unsafe { libc::fork() } < 0),
                    &slow,
                );
                if std::process::id() != parent {
                    let good = matches!(result, Err(Error::Internal(_))) && works();
                    unsafe { libc::_exit(i32::from(!good)) };
                }
                assert_eq!(result, Ok(()));
                // SAFETY: waits for some child, which must be ours.
                unsafe { libc::waitpid(0, &raw mut status, 0) };
                assert_eq!(status, 0);
            });
        }

        #[test]
        #[cfg(target_os = "linux")]
        fn no_thread_to_be_had() {
            child(|| unsafe {
                // Root is exempt from the limit.
                if libc::getuid() == 0 && libc::setuid(65534) != 0 {
                    return true;
                }
                let mut limit = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
                let none = libc::rlimit {
                    rlim_cur: 0,
                    ..limit
                };
                libc::setrlimit(libc::RLIMIT_NPROC, &raw const none);
                let alone = each_once(4, 100) && two_threads(Duration::from_millis(50)) == 1;
                libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
                thread::sleep(super::super::RETRY);
                alone && works()
            });
        }
    }
}
