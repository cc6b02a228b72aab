//! One way to lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. A thread that panicked with it left nothing half done: whatever is kept under a mutex
/// here is changed in one step, and others are to go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
