//! The one door to the thread pool: nothing else in this crate may call rayon.
//!
//! [`run`] gives each thread a share of consecutive tasks, so that what it reads ahead is its own; who has done its
//! share takes tasks from the others'. The calling thread works too; workers are asked to come, never waited for:
//!
//! ```text
//! caller   put the call on the list, wake workers, do tasks ..... take it off, wait until nobody is inside, return
//! worker      (asleep, or busy)  enter the first call on the list that wants help, do tasks, leave, look for the next,
//!                                linger a moment in case that one comes soon (see `series`), fall asleep
//! ```
//!
//! So a small call does not last until a sleeping thread has woken up, nor any call until the workers are done with
//! another caller's long one. That is why this is not `rayon::scope`, which waits until every job that it spawned has
//! had its turn. It also makes nested and concurrent calls safe: a caller waits only for threads inside its own call,
//! these wait only for calls that they opened later themselves, and so no circle can form.
//!
//! Fork: everything that refers to threads hangs on one pointer, `HOME`. The handler that runs in a forked child sets
//! it to null, and the child makes a home of its own when it needs one. What the parent had is leaked and never looked
//! at again, so it does not matter which of its locks some other thread held at that moment. Two locks are not ours
//! and are taken by a worker that starts: `std`'s around its table of stacks (in a program with a Rust `main`), and the
//! initialisation of the epoch collector below rayon's deques. Should a fork catch one of them held, the child's
//! workers never come, and as nobody waits for them, its callers do the work alone.

#[cfg(target_os = "linux")]
mod placement;
mod series;

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};

use series::{LINGER, Series};

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
/// How often a caller looks whether the last worker has left before it goes to sleep: some microseconds, about what
/// sleeping and being woken costs.
const SPINS: usize = 200;

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
    let read = |library| parse_threads(&std::env::var(format!("{library}_NUM_THREADS")).ok()?);
    remembered(&ALLOWED, || {
        let first = ["FASTSOFTMAX", "RAYON", "OMP"].into_iter().find_map(read);
        first.unwrap_or(usize::MAX)
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

/// Whether calls follow each other so closely that this one need not be large for a worker to help with it.
pub(crate) fn is_in_series() -> bool {
    current_home().is_some_and(|home| home.series.goes_on())
}

// ---- Running a call ----

/// Runs `body` for each of `0..tasks`, once, on up to `threads` threads with the caller's among them.
///
/// Tasks of a share start in order. `interrupt` is asked on the calling thread, between its tasks and at most every
/// 20 ms, so that a task should not take much longer. When this returns no task is running, and none that was not
/// started will.
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
    let home = if tasks > 1 { home() } else { None };
    let outcome = match home {
        Some(home) if helpers > 0 => run_shared(home, helpers, tasks, interrupt, body),
        _ => {
            let progress = Progress::new(tasks, 1);
            let led = progress.lead(body, interrupt);
            progress.outcome(led)
        }
    };
    if let Some(home) = home {
        home.series.ended();
    }
    outcome
}

fn run_shared(
    home: &'static Home,
    helpers: usize,
    tasks: usize,
    interrupt: Option<&dyn Fn() -> bool>,
    body: &Body<'_>,
) -> Result<()> {
    let call = Arc::new(Call {
        progress: Progress::new(tasks, helpers + 1),
        body: Erased::new(body),
        wanted: AtomicUsize::new(helpers),
        inside: AtomicUsize::new(0),
        left: Condvar::new(),
    });
    let closing = Closing { call: &call, home };
    home.open(Arc::clone(&call), helpers);
    let led = call.progress.lead(body, interrupt);
    drop(closing);
    if !home.is_current() {
        // The interrupt check ran a signal handler that forked, and this is the child: its workers, and the tasks that
        // they had begun, do not exist here. No lock is taken on this way, for they may have held it.
        led?;
        let message = "the process was forked in the middle of the call";
        return Err(Error::Internal(message.to_owned()));
    }
    call.progress.outcome(led)
}

/// Which tasks of a call are still to be had, and what went wrong.
struct Progress {
    tasks: usize,
    /// For each share, the next task of it.
    next: Box<[AtomicUsize]>,
    /// The shares that a thread has begun with.
    begun: AtomicUsize,
    panic: Mutex<Option<String>>,
}

impl Progress {
    fn new(tasks: usize, shares: usize) -> Self {
        let next = (0..shares).map(|share| AtomicUsize::new(tasks * share / shares)).collect();
        Self { tasks, next, begun: AtomicUsize::new(1), panic: Mutex::new(None) }
    }

    /// The end of a share's tasks.
    fn end(&self, share: usize) -> usize {
        self.tasks * (share + 1) / self.next.len()
    }

    /// The next task: of the thread's own share, or else of another.
    fn take(&self, own: usize) -> Option<usize> {
        let shares = self.next.len();
        (own..own + shares).map(|share| share % shares).find_map(|share| {
            let is_left = self.next[share].load(Ordering::Relaxed) < self.end(share);
            let task = is_left.then(|| self.next[share].fetch_add(1, Ordering::Relaxed))?;
            (task < self.end(share)).then_some(task)
        })
    }

    /// A worker's part.
    fn help(&self, body: &Body<'_>) {
        let own = self.begun.fetch_add(1, Ordering::Relaxed) % self.next.len();
        self.work(body, own, None);
    }

    /// The caller's part: tasks, and now and then the question whether to stop.
    fn lead(&self, body: &Body<'_>, interrupt: Option<&dyn Fn() -> bool>) -> Result<()> {
        let Some(interrupt) = interrupt.filter(|_| self.tasks > 1) else {
            self.work(body, 0, None);
            return Ok(());
        };
        while self.work(body, 0, Some(Instant::now() + POLL)) {
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
    fn work(&self, body: &Body<'_>, own: usize, until: Option<Instant>) -> bool {
        let worked = catch_unwind(AssertUnwindSafe(|| {
            let _flags = Guard::new();
            while let Some(task) = self.take(own) {
                body(task);
                if until.is_some_and(|until| Instant::now() >= until) {
                    return true;
                }
            }
            false
        }));
        worked.unwrap_or_else(|payload| {
            self.fail(payload);
            false
        })
    }

    /// Whether no task is left to be started.
    fn is_over(&self) -> bool {
        (0..self.next.len()).all(|share| self.next[share].load(Ordering::Relaxed) >= self.end(share))
    }

    /// Starts no further task.
    fn stop(&self) {
        self.next.iter().for_each(|next| next.store(self.tasks, Ordering::Relaxed));
    }

    fn fail(&self, payload: Box<dyn Any + Send>) {
        self.stop();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        let message = text.unwrap_or("a panic without a message").to_owned();
        // To drop a payload of any type could panic again.
        std::mem::forget(payload);
        lock(&self.panic).get_or_insert(message);
    }

    fn outcome(&self, led: Result<()>) -> Result<()> {
        lock(&self.panic).take().map_or(led, |message| Err(Error::Internal(message)))
    }
}

// ---- Sharing a call with workers ----

/// One call as its workers see it. They hold it by `Arc`, so it may outlive the call; `body` may not be touched then.
struct Call {
    progress: Progress,
    body: Erased,
    /// How many more workers may enter. This and `inside` change only under the lock of `Home::state`.
    wanted: AtomicUsize,
    inside: AtomicUsize,
    /// Told when the last worker has left.
    left: Condvar,
}

impl Call {
    fn wanted(&self) -> usize {
        if self.progress.is_over() { 0 } else { self.wanted.load(Ordering::Relaxed) }
    }
}

/// A worker's stay in a call; the caller cannot return while this exists.
struct Inside {
    call: Arc<Call>,
    home: &'static Home,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _state = lock(&self.home.state);
        // Release: what the worker wrote is seen by a caller that only looks at this number.
        if self.call.inside.fetch_sub(1, Ordering::Release) == 1 {
            self.call.left.notify_one();
        }
    }
}

/// Takes the call off the list when the caller leaves it, on whatever way, and waits until no worker is inside.
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
        let is_inhabited = || self.call.inside.load(Ordering::Acquire) > 0;
        let is_other = |other: &Arc<Call>| !ptr::eq(&raw const **other, self.call);
        lock(&self.home.state).calls.retain(is_other);
        for _ in 0..SPINS {
            if !is_inhabited() {
                return;
            }
            std::hint::spin_loop();
        }
        let begin = Instant::now();
        let mut state = lock(&self.home.state);
        while is_inhabited() {
            let woken = self.call.left.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        self.home.series.waited(begin);
    }
}

/// The caller's body without its lifetime. A job of the pool must be `'static`, and the safe way to lend it something
/// shorter-lived is a scope that waits for every job, see the top of this file.
struct Erased(*const Body<'static>);

#[allow(unsafe_code, reason = "lends the caller's body to jobs that may outlive the call")]
mod erased {
    use super::{Body, Erased, Inside};

    // SAFETY: behind the pointer is a body that is `Sync`, and only shared references to it are made.
    unsafe impl Send for Erased {}
    // SAFETY: as above.
    unsafe impl Sync for Erased {}

    impl Erased {
        pub(super) fn new(body: &Body<'_>) -> Self {
            // SAFETY: only the lifetime changes, and a raw pointer promises none.
            Self(unsafe { std::mem::transmute::<&Body<'_>, *const Body<'static>>(body) })
        }
    }

    impl Inside {
        pub(super) fn body(&self) -> &Body<'_> {
            // SAFETY: `run_shared` borrows the body until it returns. It cannot return, nor unwind, before its
            // `Closing` has been dropped, which first takes the call off the list, so that no further `Inside` is
            // made for it, and then waits until `inside` is 0, that is, until all that were made are dropped. The
            // reference cannot outlive `self`, so the body outlives the reference. (`Closing` does not wait in a
            // forked child: there the thread that `self` belongs to does not exist.)
            unsafe { &*self.call.body.0 }
        }
    }
}

// ---- The pool of this process ----

/// What this process knows about its threads. Made when first needed, never freed, and never dropped at exit: the
/// system ends the threads, which sleep or work on memory that is still there.
#[derive(Default)]
struct Home {
    state: Mutex<State>,
    series: Series,
}

#[derive(Default)]
struct State {
    pool: Option<Arc<ThreadPool>>,
    #[cfg(target_os = "linux")]
    placement: Arc<placement::Placement>,
    /// When the system last refused a thread.
    refused: Option<Instant>,
    /// The calls that workers may enter, oldest first.
    calls: Vec<Arc<Call>>,
    /// Workers that will look for a call: jobs given to the pool that have not begun yet, and who lingers.
    coming: usize,
    /// Workers inside a call.
    serving: usize,
}

/// Null until a pool is needed, and again in a forked child.
static HOME: AtomicPtr<Home> = AtomicPtr::new(ptr::null_mut());

/// This process's home, if it has one already.
#[allow(unsafe_code, reason = "a static that a forked child can reset without taking a lock")]
fn current_home() -> Option<&'static Home> {
    // SAFETY: null, or a home that `home` leaked: it is valid for ever, and only shared references exist.
    unsafe { HOME.load(Ordering::Acquire).as_ref() }
}

/// This process's home; `None` if a fork could not be noticed, so that no thread may be started.
fn home() -> Option<&'static Home> {
    loop {
        if let Some(home) = current_home() {
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
#[allow(unsafe_code, reason = "the standard library has no way to notice a fork")]
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

    /// Puts a call on the list and has workers woken for it. Without a single worker the caller does all the work.
    fn open(&'static self, call: Arc<Call>, helpers: usize) {
        let mut state = lock(&self.state);
        state.grow(helpers);
        #[cfg(target_os = "linux")]
        state.placement.keep_off_this_cpu();
        state.calls.push(call);
        drop(state);
        self.series.opened();
        self.summon();
    }

    /// Wakes two workers if so many are wanted. It costs microseconds each, so they in turn wake the others.
    fn summon(&'static self) {
        for _ in 0..2 {
            let mut state = lock(&self.state);
            let Some(pool) = state.pool.clone() else {
                return;
            };
            let wanted: usize = state.calls.iter().map(|call| call.wanted()).sum();
            let all_busy = state.coming + state.serving >= pool.current_num_threads();
            if all_busy || state.coming >= wanted {
                return;
            }
            state.coming += 1;
            drop(state);
            pool.spawn(|| self.serve());
        }
    }

    /// What a worker does: enter one call after the other for as long as any wants it, or may soon.
    fn serve(&'static self) {
        let mut worked = Instant::now();
        let mut state = lock(&self.state);
        loop {
            if let Some(call) = state.calls.iter().find(|call| call.wanted() > 0).cloned() {
                call.wanted.fetch_sub(1, Ordering::Relaxed);
                call.inside.fetch_add(1, Ordering::Relaxed);
                state.coming -= 1;
                state.serving += 1;
                drop(state);
                let inside = Inside { call, home: self };
                self.summon();
                inside.call.progress.help(inside.body());
                drop(inside);
                worked = Instant::now();
                state = lock(&self.state);
                state.serving -= 1;
                state.coming += 1;
            } else if worked.elapsed() > LINGER {
                break;
            } else {
                let opened = self.series.count();
                drop(state);
                self.series.linger(opened, worked);
                state = lock(&self.state);
            }
        }
        state.coming -= 1;
    }
}

impl State {
    /// Makes a pool of `workers` threads, or of as many as the system gives, if this one has fewer.
    fn grow(&mut self, workers: usize) {
        let pool = self.pool.as_ref();
        let size = pool.map_or(0, |pool| pool.current_num_threads());
        if size >= workers || self.refused.is_some_and(|at| at.elapsed() < RETRY) {
            return;
        }
        let mut wanted = workers;
        while wanted > size {
            // A rayon pool cannot grow. The old one ends its threads when they have no more to do.
            let name = |index| format!("fastsoftmax-{index}");
            let builder = ThreadPoolBuilder::new().num_threads(wanted).thread_name(name);
            #[cfg(target_os = "linux")]
            let placement = Arc::<placement::Placement>::default();
            #[cfg(target_os = "linux")]
            let builder = {
                let placement = Arc::clone(&placement);
                builder.start_handler(move |_| placement.register())
            };
            if let Ok(pool) = builder.build() {
                self.pool = Some(Arc::new(pool));
                #[cfg(target_os = "linux")]
                {
                    self.placement = placement;
                }
                return;
            }
            self.refused = Some(Instant::now());
            wanted /= 2;
        }
    }
}

/// Locks, whether or not a thread panicked while it held the lock: nothing that is kept behind one can be half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests;
