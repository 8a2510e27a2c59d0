//! What this machine's memory can do, and what follows for where and when results are written.

use std::path::Path;
use std::sync::OnceLock;

#[cfg(test)]
thread_local! {
    /// Whether calls of this thread take every result for larger than the cache: tests of that need not be as large.
    pub(crate) static HAS_NO_CACHE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// Whether they run as on the processors for which [`stores_hold_up`] says otherwise.
    pub(crate) static IS_ANOTHER_MACHINE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The size of a last cache where the system does not say.
const USUAL_LAST: usize = 32 << 20;

/// The most of a last cache that one CPU has for itself. A virtual machine of a few CPUs is shown the whole cache of a
/// socket, which it shares with as many neighbours as there is room for.
const MOST_PER_CPU: usize = 16 << 20;

/// Whether results of so many bytes would not stay in the last cache anyway, so that they are best written past it.
pub(crate) fn exceeds_last_cache(bytes: usize) -> bool {
    static LAST: OnceLock<usize> = OnceLock::new();
    #[cfg(test)]
    if HAS_NO_CACHE.get() {
        return true;
    }
    let last = || last_cache(Path::new("/sys/devices/system/cpu/cpu0/cache")).unwrap_or(USUAL_LAST);
    bytes / 3 * 4 >= *LAST.get_or_init(last)
}

/// The size of the cache of the highest level, or of our CPUs' part, where the kernel describes the caches of a processor.
/// (`sysconf` multiplies by the sockets' cores: on virtual machines of some makers it says ten times as much.)
fn last_cache(caches: &Path) -> Option<usize> {
    let of = |index: usize, what| std::fs::read_to_string(caches.join(format!("index{index}/{what}"))).ok();
    let number = |text: &str| text.trim().trim_end_matches('K').parse::<usize>().ok();
    let describe = |index| Some((number(&of(index, "level")?)?, number(&of(index, "size")?)?, index));
    let (_, kilobytes, index) = (0..8).filter_map(describe).max()?;
    // (A mask in hexadecimal digits, with commas.)
    let cpus: u32 = of(index, "shared_cpu_map")
        .unwrap_or_default()
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(u32::count_ones)
        .sum();
    let most = if cpus == 0 { usize::MAX } else { MOST_PER_CPU.saturating_mul(cpus as usize) };
    Some((kilobytes << 10).min(most)).filter(|size| *size > 0)
}

/// Whether stores that wait for memory hold up the arithmetic beside them, so that rows of one chunk are best folded while
/// none are on their way: so it is on AMD's processors (Zen 4: 5 % slower with both at a time), but not on Intel's (16 %
/// faster).
pub(crate) fn stores_hold_up() -> bool {
    #[cfg(test)]
    if IS_ANOTHER_MACHINE.get() {
        return !is_amds();
    }
    is_amds()
}

fn is_amds() -> bool {
    // Instructions that nobody else ever made: all of theirs have them, and to ask is safe.
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sse4a");
    // Nothing was measured elsewhere, so as before.
    #[cfg(not(target_arch = "x86_64"))]
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    #[test]
    fn the_last_cache_is_that_of_the_highest_level() {
        let caches = std::env::temp_dir().join(format!("fastsoftmax-caches-{}", std::process::id()));
        let describe = |index: usize, level: &str, size: &str, cpus: &str| {
            let cache = caches.join(format!("index{index}"));
            std::fs::create_dir_all(&cache).unwrap();
            std::fs::write(cache.join("level"), level).unwrap();
            std::fs::write(cache.join("size"), size).unwrap();
            std::fs::write(cache.join("shared_cpu_map"), cpus).unwrap();
        };
        assert_eq!(last_cache(&caches), None, "no description");
        describe(0, "1\n", "32K\n", "1\n");
        describe(1, "1\n", "48K\n", "1\n");
        describe(2, "2\n", "2048K\n", "1\n");
        assert_eq!(last_cache(&caches), Some(2 << 20));
        describe(3, "3\n", "1024K\n", "3\n");
        assert_eq!(last_cache(&caches), Some(1 << 20), "the level counts, not the size");
        describe(4, "four\n", "no number\n", "\n");
        assert_eq!(last_cache(&caches), Some(1 << 20), "what is not understood is left out");
        describe(3, "3\n", "266240K\n", "00000000,00000003\n");
        assert_eq!(last_cache(&caches), Some(32 << 20), "two CPUs have their part of a socket's");
        describe(3, "3\n", "266240K\n", "ff,ffffffff\n");
        assert_eq!(last_cache(&caches), Some(260 << 20), "forty have all of it");
        describe(3, "3\n", "98304K\n", "?\n");
        assert_eq!(last_cache(&caches), Some(96 << 20), "all of it where nobody says who has a part");
        std::fs::remove_dir_all(&caches).unwrap();
    }
}
