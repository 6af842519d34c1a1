//! A fiber: a stack and the point where its execution stands. Each emulated thread is one.
//!
//! A fiber never leaves its thread of the host. The sanitizers are told of every switch; to ThreadSanitizer a fiber is a
//! thread, and switches order nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EMU_STACK_BYTES (256u << 10)
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define EMU_STACK_BYTES (256u << 10)
#else
#define EMU_STACK_BYTES (64u << 10)
#endif

/// The emulator's own reads and writes are no part of the kernel's, so ThreadSanitizer is not to see them. Functions
/// marked so must not call memcpy and its like, which are seen wherever they are called.
#define EMU_UNSEEN __attribute__((no_sanitize("thread")))

/// Saves the callee-saved registers and the stack pointer at `*save`, goes on at `load`. In launch.cpp.
extern "C" void emu_switch(void** save, void* load);

namespace emu {

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr; // the lowest address
    size_t stack_bytes = 0;
    void* asan = nullptr; // AddressSanitizer's fake stack
    void* tsan = nullptr; // ThreadSanitizer's thread
};

/// Goes on with `to` until something switches back.
EMU_UNSEEN inline void switch_fiber(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.asan, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    emu_switch(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
#endif
}

/// What a thread did before `publish(p)` happened before what another does after `observe(p)`.
EMU_UNSEEN inline void publish(void* p) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(p);
#else
    (void)p;
#endif
}
EMU_UNSEEN inline void observe(void* p) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(p);
#else
    (void)p;
#endif
}

} // namespace emu
