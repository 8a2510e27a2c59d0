//! What `parallel.rs` promises.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
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
            assert!(each_once(threads, tasks), "{threads} threads, {tasks} tasks");
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
    assert_eq!(run(8, 1, Some(&|| panic!("must not be asked")), &|_| {}), Ok(()));
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
                    assert!((0..500).all(|i| each_once(2 + caller, 1 + i % 40)));
                });
            }
        });
    });
}

#[test]
fn calls_beside_a_long_one() {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Ends the long call even when an assertion fails here.
        let release = Over(&over);
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
        // A call that can be done alone is not held up, and one that cannot gets a worker as soon as there is one.
        assert!((0..1000).all(|_| each_once(4, 4)));
        let other = scope.spawn(|| two_threads(LONG));
        thread::sleep(Duration::from_millis(20));
        assert!(!long.is_finished());
        drop(release);
        assert_eq!(long.join().unwrap(), Ok(()));
        assert_eq!(other.join().unwrap(), 2);
    });
}

#[test]
fn panic_becomes_an_error() {
    for threads in [1, 4] {
        let text = |task| assert!(task != 3, "task {task}");
        assert_eq!(run(threads, 1000, None, &text), Err(Error::Internal("task 3".into())));
        let other = |_| std::panic::panic_any(5);
        let message = "a panic without a message".to_owned();
        assert_eq!(run(threads, 2, None, &other), Err(Error::Internal(message)));
        let asked = || panic!("asked");
        let slow = |_| thread::sleep(Duration::from_millis(1));
        assert_eq!(run(threads, 1_000_000, Some(&asked), &slow), Err(Error::Internal("asked".into())));
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
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= super::POLL));
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
    for text in ["", " ", "0", "-1", "two", "1.5", ",4", "0,4", "99999999999999999999999"] {
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
    use super::{AtomicBool, AtomicI32, Duration, Error, Over, SeqCst, each_once, run, thread, two_threads, watched};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Whether `body` is true in a forked child, within 20 seconds.
    fn forked(body: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child runs code that this file promises to be able to run there, and leaves by `_exit`.
        match unsafe { libc::fork() } {
            0 => leave(body),
            child => wait(child),
        }
    }

    /// Fails unless `body` is true in a forked child.
    pub(super) fn child(body: impl FnOnce() -> bool) {
        assert!(forked(body));
    }

    /// Ends a child with the verdict of `body`, or by SIGALRM after 20 seconds.
    fn leave(body: impl FnOnce() -> bool) -> ! {
        // SAFETY: a system call without preconditions.
        unsafe { libc::alarm(20) };
        let good = catch_unwind(AssertUnwindSafe(body)).unwrap_or(false);
        // SAFETY: as above. Not `exit`, which would run what the parent has registered.
        unsafe { libc::_exit(i32::from(!good)) }
    }

    fn wait(child: i32) -> bool {
        let mut status = -1;
        assert!(child > 0, "fork failed");
        // SAFETY: waits for a child of ours and writes to a variable of ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status), "signal {status}; 14 means a hang");
        status == 0
    }

    /// Calls in a child are right. Whether workers help is another matter: see the top of `parallel.rs`.
    fn works() -> bool {
        (0..5).all(|_| each_once(4, 100))
    }

    fn has_workers() -> bool {
        two_threads(Duration::from_secs(2)) == 2
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
        assert!((0..5).any(|_| forked(has_workers)));
        assert!((0..5).any(|_| forked(|| works() && forked(has_workers) && has_workers())));
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
            // Ends the other threads even when an assertion fails here.
            let _over = Over(&over);
            (0..100).for_each(|_| child(works));
        });
    }

    #[test]
    fn from_the_interrupt_check() {
        watched(|| {
            let (parent, forked, child) = (std::process::id(), AtomicBool::new(false), AtomicI32::new(0));
            let interrupt = || {
                if !forked.swap(true, SeqCst) {
                    // SAFETY: the child runs what this file promises to be able to run there, and leaves by `_exit`.
                    child.store(unsafe { libc::fork() }, SeqCst);
                }
                false
            };
            // However late the caller gets to ask, tasks are left.
            let body = |_| {
                if !forked.load(SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
            };
            let result = run(4, 100_000, Some(&interrupt), &body);
            if std::process::id() != parent {
                leave(|| matches!(result, Err(Error::Internal(_))) && works());
            }
            assert_eq!(result, Ok(()));
            assert!(wait(child.into_inner()));
        });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn no_thread_to_be_had() {
        // SAFETY: system calls on variables of ours, in a process of one thread.
        let refused = || unsafe {
            // Root is exempt from the limit.
            if libc::getuid() == 0 && libc::setuid(65534) != 0 {
                return true;
            }
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
            let none = libc::rlimit { rlim_cur: 0, ..limit };
            libc::setrlimit(libc::RLIMIT_NPROC, &raw const none);
            let alone = works() && two_threads(Duration::from_millis(50)) == 1;
            libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
            thread::sleep(super::super::RETRY);
            alone && works() && has_workers()
        };
        assert!((0..5).any(|_| forked(refused)));
    }
}

/// Says that it is over when dropped, so that a failed assertion does not leave other threads at it for ever.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
