//! Turns a kernel's bad access (SIGSEGV and its like) into the launch's error. Included by launch.cpp alone.
//!
//! The handler changes nothing but where its thread goes on: in `report_trap`, on the stack of the lane, whose frames nobody
//! needs any more. Sanitizers report such accesses better, so with them it is not there.
#pragma once

#include "engine.h"

#include <csignal>
#include <ucontext.h>

namespace emu {

constexpr int TRAPS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
inline struct sigaction actions_before[sizeof TRAPS / sizeof *TRAPS];

[[noreturn]] inline void report_trap() {
    Lane& lane = *engine->lane;
    fail(lane.site, "signal %d (%s) at address %p, somewhere after this place, where the thread waited last", engine->trap,
         strsignal(engine->trap), engine->trap_address);
}

inline void on_trap(int signal, siginfo_t* info, void* context) {
    if (engine && engine->lane) {
        engine->trap = signal;
        engine->trap_address = info->si_addr;
        Fiber& fiber = engine->lane->fiber;
        auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
        // As if called: sixteen bytes' alignment before the return address.
        registers[REG_RSP] = reinterpret_cast<greg_t>(fiber.stack + fiber.stack_bytes - 64 - sizeof(void*));
        registers[REG_RIP] = reinterpret_cast<greg_t>(report_trap);
        return;
    }
    // None of ours: it happens again, and whoever was here before sees it.
    for (size_t i = 0; i < sizeof TRAPS / sizeof *TRAPS; i++)
        if (TRAPS[i] == signal) sigaction(signal, &actions_before[i], nullptr);
}

inline bool catch_traps() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    struct sigaction action = {};
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (size_t i = 0; i < sizeof TRAPS / sizeof *TRAPS; i++) sigaction(TRAPS[i], &action, &actions_before[i]);
#endif
    return true;
}

/// A lane that has used up its stack cannot run the handler on it. Rust's threads have a stack for signals already.
inline void give_signals_a_stack() {
    alignas(16) thread_local static char memory[16 << 10];
    stack_t stack = {};
    if (sigaltstack(nullptr, &stack) || !(stack.ss_flags & SS_DISABLE)) return;
    stack = {};
    stack.ss_sp = memory;
    stack.ss_size = sizeof memory;
    sigaltstack(&stack, nullptr);
}

} // namespace emu
