//! Memory of large results, kept when an array is freed and given to the next one.
//!
//! Memory that is fresh from the system costs a page fault at the first touch of each page, and the system fills it
//! with zeros: twice as long as a softmax. So a block that is freed stays here for a while:
//!
//! ```text
//! allocate   the smallest block kept that fits (and is not too large for it), else one from the system
//! free       kept; the system is told that it may take the pages (MADV_FREE), which it does when anybody needs them
//! later      freed, once nobody has asked for it in [`IDLE`]
//! ```
//!
//! Bounds: no more than [`limit`] bytes are kept; and before memory is asked of the system, blocks no larger than what
//! is asked for are given up, so that calls of one size never hold more than they would without.
//!
//! Nobody ever waits for the lock, so that a fork at a bad moment costs the child no more than its recycling: whoever
//! does not get it allocates and frees as if there were none.

use std::alloc::{self, Layout};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crate::parallel;
use crate::simd::LINE;

/// Results of so many bytes come from here. Smaller blocks the C library keeps itself once one has been freed, and to
/// lend them to the system takes as long as to compute them.
pub(crate) const LEAST: usize = 16 << 20;

/// What is kept at most unless somebody says otherwise: this, or an eighth of the machine's memory if that is less.
const LIMIT: usize = 1 << 30;

/// How long a block is kept that nobody asks for, and how often that is looked at.
const IDLE: Duration = Duration::from_secs(2);

/// Large blocks begin at a large page, so that the system can use such.
const LARGE_PAGE: usize = 2 << 20;

/// Before the memory that is given out, in the same block: the block's size. Results begin as far from a line of the
/// cache as the C library's large blocks do, so that lines of logits and of results are alike: tiles of columns then
/// have whole lines of both. And they begin half a page away from those: a load whose address is a little after that of
/// a recent store, modulo a page, waits for it (see `kernel::stream::overlap`).
const HEADER: usize = 2048 + 16;

/// The bytes that may be kept; this value: not yet asked.
static ALLOWED: AtomicUsize = AtomicUsize::new(UNKNOWN);
const UNKNOWN: usize = usize::MAX;

static KEPT: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// The process that has a thread which gives back what is idle; 0: none.
static RELEASER: AtomicU32 = AtomicU32::new(0);

/// What the environment variable says, or what is wrong with it.
pub(crate) fn limit_from_environment() -> Result<Option<usize>, String> {
    let name = "FASTSOFTMAX_CACHE_BYTES";
    match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => match text.trim().parse::<usize>() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(format!("{name}={text:?} is not a number of bytes; 0 keeps no memory")),
        },
    }
}

/// The most bytes that are kept.
pub(crate) fn limit() -> usize {
    match ALLOWED.load(Ordering::Relaxed) {
        UNKNOWN => {
            let limit = limit_from_environment().ok().flatten().unwrap_or_else(|| LIMIT.min(physical() / 8));
            // Unless somebody has set it meanwhile.
            match ALLOWED.compare_exchange(UNKNOWN, limit, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => limit,
                Err(set) => set,
            }
        }
        limit => limit,
    }
}

/// Sets the most bytes that are kept, and gives back what is above; `None` goes back to the default.
pub(crate) fn set_limit(bytes: Option<usize>) {
    ALLOWED.store(bytes.map_or(UNKNOWN, |bytes| bytes.min(UNKNOWN - 1)), Ordering::Relaxed);
    if let Some(bytes) = bytes
        && let Some(mut kept) = lock()
    {
        shrink_to(&mut kept, bytes);
    }
}

/// The machine's memory in bytes, as far as that can be known.
fn physical() -> usize {
    #[cfg(unix)]
    {
        #[allow(unsafe_code, reason = "the standard library does not tell")]
        // SAFETY: reads two numbers of the system's.
        let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        if let (Ok(pages), Ok(page)) = (usize::try_from(pages), usize::try_from(page)) {
            return pages.saturating_mul(page);
        }
    }
    usize::MAX
}

/// Memory from the system. Freed when dropped.
struct Block {
    start: *mut u8,
    layout: Layout,
    /// When it was last used.
    since: Instant,
}

// SAFETY: a block is the only owner of its memory.
#[allow(unsafe_code, reason = "a pointer hides that this is an owner")]
unsafe impl Send for Block {}

impl Block {
    fn layout(bytes: usize) -> Option<Layout> {
        let align = if bytes < LEAST { LINE } else { LARGE_PAGE };
        Layout::from_size_align(bytes.checked_add(HEADER)?, align).ok()
    }

    /// From the system; `None` where there is no memory.
    fn new(bytes: usize) -> Option<Self> {
        let layout = Self::layout(bytes)?;
        #[allow(unsafe_code, reason = "memory of a length that only the running program knows, without filling it")]
        // SAFETY: the layout has at least the header's size.
        let start = unsafe { alloc::alloc(layout) };
        if start.is_null() {
            return None;
        }
        let block = Self { start, layout, since: Instant::now() };
        #[cfg(target_os = "linux")]
        block.advise(libc::MADV_HUGEPAGE);
        Some(block)
    }

    /// The bytes that can be given out.
    fn size(&self) -> usize {
        self.layout.size() - HEADER
    }

    /// Tells the system something about the block's large pages, but for the header's.
    #[cfg(unix)]
    fn advise(&self, advice: libc::c_int) {
        let pages = (self.layout.size() / LARGE_PAGE).saturating_sub(1);
        #[allow(unsafe_code, reason = "the standard library has no word for it")]
        // SAFETY: the pages are this block's alone, and nobody reads what was in them. A system that does not know
        // the advice refuses it, and no harm is done.
        unsafe {
            libc::madvise(self.start.add(LARGE_PAGE.min(self.layout.size())).cast(), pages * LARGE_PAGE, advice);
        }
    }

    /// The memory to be given out; the block is in its header from then on.
    fn into_pointer(self) -> *mut u8 {
        let block = std::mem::ManuallyDrop::new(self);
        #[allow(unsafe_code, reason = "an allocator gives out pointers")]
        // SAFETY: the block is longer than its header, which is longer than a number.
        unsafe {
            block.start.cast::<usize>().write_unaligned(block.size());
            block.start.add(HEADER)
        }
    }

    /// The block of memory that was given out.
    ///
    /// # Safety
    /// The pointer comes from [`Block::into_pointer`], and nobody uses its memory any more.
    #[allow(unsafe_code, reason = "an allocator takes pointers back")]
    unsafe fn from_pointer(pointer: *mut u8) -> Self {
        // SAFETY: the header is there, see `into_pointer`, and says what the layout was made of.
        let (start, layout) = unsafe {
            let start = pointer.sub(HEADER);
            (start, Self::layout(start.cast::<usize>().read_unaligned()).unwrap_unchecked())
        };
        Self { start, layout, since: Instant::now() }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        #[allow(unsafe_code, reason = "the other half of `Block::new`")]
        // SAFETY: from `alloc` with this layout, and freed once: `into_pointer` forgets the block.
        unsafe {
            alloc::dealloc(self.start, self.layout);
        }
    }
}

/// The blocks, unless somebody else is at them (or was, when this process was forked from theirs).
fn lock() -> Option<MutexGuard<'static, Vec<Block>>> {
    match KEPT.try_lock() {
        Ok(kept) => Some(kept),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Drops the oldest blocks until no more than so many bytes are kept.
fn shrink_to(kept: &mut Vec<Block>, bytes: usize) {
    let mut total: usize = kept.iter().map(Block::size).sum();
    while total > bytes {
        total -= kept.remove(0).size();
    }
}

/// Memory of so many bytes, whatever is in it; null where there is none.
pub(crate) fn allocate(bytes: usize) -> *mut u8 {
    reused(bytes).map_or_else(|| fresh(bytes), Block::into_pointer)
}

/// The same from the system, and from all that is kept if there is none otherwise.
fn fresh(bytes: usize) -> *mut u8 {
    let block = Block::new(bytes).or_else(|| {
        lock()?.clear();
        Block::new(bytes)
    });
    block.map_or(ptr::null_mut(), Block::into_pointer)
}

/// A kept block for so many bytes. If there is none, room is made for a new one.
fn reused(bytes: usize) -> Option<Block> {
    let mut kept = lock()?;
    kept.retain(|block| block.since.elapsed() < IDLE);
    let fits = |block: &Block| block.size() >= bytes && block.size() - bytes <= block.size() / 4;
    let best = (0..kept.len()).filter(|index| fits(&kept[*index])).min_by_key(|index| kept[*index].size());
    if let Some(best) = best {
        return Some(kept.remove(best));
    }
    let mut wanted = bytes;
    kept.retain(|block| {
        let stays = wanted == 0 || block.size() > bytes;
        wanted = if stays { wanted } else { wanted.saturating_sub(block.size()) };
        stays
    });
    None
}

/// Takes memory back.
///
/// # Safety
/// The pointer comes from [`allocate`] or [`reallocate`], is not null, and nobody uses its memory any more.
#[allow(unsafe_code, reason = "an allocator takes pointers back")]
pub(crate) unsafe fn free(pointer: *mut u8) {
    // SAFETY: the caller's.
    let block = unsafe { Block::from_pointer(pointer) };
    let limit = limit();
    if block.size() > limit || block.size() < LEAST {
        return;
    }
    let Some(mut kept) = lock() else { return };
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    block.advise(libc::MADV_FREE);
    shrink_to(&mut kept, limit - block.size());
    kept.push(block);
    drop(kept);
    release_later();
}

/// Memory of another size with the same beginning; null, and nothing changed, where there is none.
///
/// # Safety
/// As for [`free`], unless the result is null.
#[allow(unsafe_code, reason = "an allocator takes pointers back")]
pub(crate) unsafe fn reallocate(pointer: *mut u8, bytes: usize) -> *mut u8 {
    let new = fresh(bytes);
    if !new.is_null() {
        // SAFETY: both are memory of at least so many bytes, of different blocks. The old one is the caller's to give.
        unsafe {
            let old = std::mem::ManuallyDrop::new(Block::from_pointer(pointer));
            ptr::copy_nonoverlapping(pointer, new, old.size().min(bytes));
            free(pointer);
        }
    }
    new
}

/// Sees to it that what is idle is given back although nobody calls.
///
/// A process that is to have one thread gets no second one, and gives back when it allocates next; so does one to which
/// the system gives no thread.
fn release_later() {
    let process = std::process::id();
    if parallel::num_threads() == 1 || RELEASER.swap(process, Ordering::Relaxed) == process {
        return;
    }
    let release = || {
        loop {
            std::thread::sleep(IDLE);
            let Some(mut kept) = lock() else { continue };
            let (idle, rest) = kept.drain(..).partition::<Vec<_>, _>(|block| block.since.elapsed() >= IDLE);
            *kept = rest;
            if kept.is_empty() {
                RELEASER.store(0, Ordering::Relaxed);
                return;
            }
            // Without the lock: to unmap a gigabyte takes a while.
            drop(kept);
            drop(idle);
        }
    };
    if std::thread::Builder::new().name("fastsoftmax-cache".into()).stack_size(64 * 1024).spawn(release).is_err() {
        RELEASER.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, unsafe_code, reason = "a test fails by a panic; it is the caller of unsafe functions")]
mod tests {
    use super::*;

    // One test, because all of them would share the blocks that are kept.
    #[test]
    fn what_is_freed_is_given_out_again_within_the_limit() {
        let kept = || lock().unwrap().iter().map(Block::size).collect::<Vec<_>>();
        let size = 16 << 20;
        set_limit(Some(40 << 20));
        // SAFETY: memory is used between its allocation and its end only, within its size.
        unsafe {
            let first = allocate(size);
            assert_eq!(first.addr() % LINE, 16);
            ptr::write_bytes(first, 7, size);
            free(first);
            assert_eq!(kept(), [size]);

            let second = allocate(size - 1000);
            assert_eq!((first, kept().len()), (second, 0), "a smaller one fits");
            let more = allocate(size);
            assert_ne!(second, more);
            ptr::write_bytes(more, 3, size);
            let moved = reallocate(more, 2 * size);
            assert_eq!((*moved, *moved.add(size - 1)), (3, 3));
            assert_eq!(kept(), [size]);

            free(moved);
            assert_eq!(kept(), [2 * size], "the older one is above the limit");
            let third = allocate(size);
            assert_eq!(kept(), [2 * size], "too large for this one");
            let fourth = allocate(3 * size);
            assert!(kept().is_empty(), "given up before memory is asked for");
            for pointer in [second, third, fourth] {
                free(pointer);
            }
            assert_eq!(kept(), [size, size], "the largest is above the limit");
            free(reallocate(allocate(size), 10));
            assert_eq!(kept(), [size, size], "too small to be kept");
        }
        set_limit(Some(0));
        assert!(kept().is_empty());
        assert!(allocate(usize::MAX).is_null() && allocate(usize::MAX / 4).is_null());
        set_limit(None);
        assert!(limit() > 0);
    }
}
