//! cp.async: copies to shared memory that land as late as the program allows, namely when they are waited for. Until then
//! their destination holds NaN, so a wait that is missing or too shallow shows in every result.
#pragma once

#include "engine.h"

namespace emu {

inline void start_copy(void* to, const void* from, Site site) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & 15)
        fail(site, "cp.async of 16 bytes from %p to %p: not aligned", from, to);
    Lane& lane = *engine->lane;
    // Sanitizers are to see both ends here, where the backtrace is the kernel's.
    if (from) (void)*static_cast<const volatile uint32_t*>(from);
    *static_cast<uint4*>(to) = {EVERY_LANE, EVERY_LANE, EVERY_LANE, EVERY_LANE};
    lane.copies.push_back({to, from, lane.copy_group});
}

/// Lands all copies but those of the last `left` groups, and those of no group yet.
inline void finish_copies(unsigned left) {
    Lane& lane = *engine->lane;
    size_t kept = 0;
    for (const Copy& copy : lane.copies) {
        if (copy.group + left >= lane.copy_group) {
            lane.copies[kept++] = copy;
        } else if (copy.from) {
            *static_cast<uint4*>(copy.to) = *static_cast<const uint4*>(copy.from);
        } else {
            *static_cast<uint4*>(copy.to) = {0, 0, 0, 0};
        }
    }
    lane.copies.resize(kept);
}

} // namespace emu

inline void cp_async16(void* shared, const void* global, EMU_SITE) {
    if (!global) emu::fail(site, "cp.async from the null pointer");
    emu::start_copy(shared, global, site);
}

/// Zeros where not `valid`; `global` is not read then.
inline void cp_async16_or_zero(void* shared, const void* global, bool valid, EMU_SITE) {
    emu::start_copy(shared, valid ? global : nullptr, site);
}

inline void cp_async_commit() { emu::engine->lane->copy_group++; }

template <int LEFT> void cp_async_wait() { emu::finish_copies(LEFT); }
