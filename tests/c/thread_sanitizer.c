/*
 * What ThreadSanitizer has to be told about Rust's standard library, which comes without its instrumentation: linked
 * with hammer.c, where `cargo xtask hammer --thread` wraps the functions below (ld's --wrap) and names them by macros.
 *
 * Locks are taken and given up by code that is inlined into the library, and so seen, but for two cases that end up
 * inside the standard library. And the last owner of an Arc is known by a fence, of which ThreadSanitizer keeps no
 * account.
 */
#include <stdint.h>

/* What a OnceLock holds is published by a store inside the standard library, after the closure that made it has
 * returned: no moment is left to tell of it. So what happens inside such a closure is not reported; nor is the making of
 * the event descriptor, which can fail and so is made before its OnceLock is entered. */
const char *__tsan_default_suppressions(void) {
  return "race:std::sys::sync::once::futex::Once>::call\n"
         "race:aieng_runtime::queue::bell::Bell>::descriptor\n";
}

#define JOIN(a, b) a##b
#define WRAP(name) JOIN(__wrap_, name)
#define REAL(name) JOIN(__real_, name)

void __tsan_acquire(void *address);
void __tsan_release(void *address);

/* Mutex::lock() where another thread holds it. */
void REAL(MUTEX_LOCK_CONTENDED)(void *mutex);
void WRAP(MUTEX_LOCK_CONTENDED)(void *mutex) {
  REAL(MUTEX_LOCK_CONTENDED)(mutex);
  __tsan_acquire(mutex);
}

/* Condvar::wait(), which gives the mutex up and takes it again. */
void REAL(CONDVAR_WAIT)(void *condvar, void *mutex);
void WRAP(CONDVAR_WAIT)(void *condvar, void *mutex) {
  __tsan_release(mutex);
  REAL(CONDVAR_WAIT)(condvar, mutex);
  __tsan_acquire(mutex);
}

/* Arc::drop(): a count goes down with release, and who takes it to zero has a fence with acquire. Here each takes it
 * down with both. What this hides is a count that goes down with release alone and lacks the fence. */
enum { RELEASE = 3, ACQUIRE_RELEASE = 4 };
uint64_t REAL(FETCH_SUB)(volatile uint64_t *count, uint64_t value, int order);
uint64_t WRAP(FETCH_SUB)(volatile uint64_t *count, uint64_t value, int order) {
  return REAL(FETCH_SUB)(count, value, order == RELEASE ? ACQUIRE_RELEASE : order);
}
