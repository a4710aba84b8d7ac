//! How the allocator deals with large pieces of memory.

/// A piece of this size is the system's own, and goes back to it at once when it is dropped. More than a chunk, for those come
/// and go all the time.
const LARGE: libc::c_int = 1 << 20;

/// Has large pieces go back to the system. Where one view takes the place of another, both are large, and glibc would keep
/// what the first one took: it takes the largest piece that was ever dropped for the usual size.
pub fn give_back_large() {
    #[cfg(target_env = "gnu")]
    // SAFETY: changes nothing but two numbers by which the allocator decides.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        // Its own rule: twice the other one.
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE);
    }
}
