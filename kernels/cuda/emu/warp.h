//! What the lanes of a warp or a block do together: barriers, shuffles, votes, match and reduce; and atomics and fences.
#pragma once

#include "engine.h"

namespace emu {

template <class T> struct Shuffled {
    T value;
    unsigned source; // the lane to take from
    T result;
};

template <class T> EMU_UNSEEN void shuffle(Shuffled<T>* const* lanes, uint32_t mask) {
    for (uint32_t left = mask; left; left &= left - 1) {
        Shuffled<T>& lane = *lanes[__builtin_ctz(left)];
        lane.result = lanes[lane.source]->value;
    }
}

template <class T> EMU_UNSEEN inline T shuffle(uint32_t mask, T value, unsigned source, const char* what, Site site) {
    static_assert(sizeof(T) == 4 && std::is_arithmetic<T>::value, "shuffles move int, unsigned and float");
    if (!(mask >> source & 1)) fail(site, "%s reads lane %u, which is not in mask %08x", what, source, mask);
    Shuffled<T> lane{value, source, value};
    meet<Shuffled<T>>(mask, lane, shuffle<T>, what, site);
    return lane.result;
}

/// The lane's number, and the first lane of its segment of `width` lanes.
struct Place {
    unsigned lane, segment, width;
    explicit Place(int width)
        : lane(engine->lane->thread.x % WARP), segment(lane & ~unsigned(width - 1)), width(width) {}
};

template <class T> struct Voted {
    T value;
    T result;
};

template <class T> EMU_UNSEEN void ballot(Voted<T>* const* lanes, uint32_t mask) {
    T votes = 0;
    for (uint32_t left = mask; left; left &= left - 1)
        if (lanes[__builtin_ctz(left)]->value) votes |= T(1) << __builtin_ctz(left);
    for (uint32_t left = mask; left; left &= left - 1) lanes[__builtin_ctz(left)]->result = votes;
}

EMU_UNSEEN inline void match(Voted<unsigned>* const* lanes, uint32_t mask) {
    for (uint32_t left = mask; left; left &= left - 1) {
        Voted<unsigned>& lane = *lanes[__builtin_ctz(left)];
        lane.result = 0;
        for (uint32_t other = mask; other; other &= other - 1)
            if (lanes[__builtin_ctz(other)]->value == lane.value) lane.result |= 1u << __builtin_ctz(other);
    }
}

struct Add {
    // Unsigned: a sum that overflows wraps round.
    template <class T> static T of(T a, T b) { return T(unsigned(a) + unsigned(b)); }
};
struct Max {
    template <class T> static T of(T a, T b) { return a > b ? a : b; }
};
struct Min {
    template <class T> static T of(T a, T b) { return a < b ? a : b; }
};
struct And {
    template <class T> static T of(T a, T b) { return a & b; }
};
struct Or {
    template <class T> static T of(T a, T b) { return a | b; }
};

template <class F, class T> EMU_UNSEEN void reduce(Voted<T>* const* lanes, uint32_t mask) {
    T total = lanes[__builtin_ctz(mask)]->value;
    for (uint32_t left = mask & (mask - 1); left; left &= left - 1) total = F::of(total, lanes[__builtin_ctz(left)]->value);
    for (uint32_t left = mask; left; left &= left - 1) lanes[__builtin_ctz(left)]->result = total;
}

template <class T>
EMU_UNSEEN inline T vote(uint32_t mask, T value, void (*count)(Voted<T>* const*, uint32_t), const char* what, Site site) {
    Voted<T> lane{value, T()};
    meet<Voted<T>>(mask, lane, count, what, site);
    return lane.result;
}

EMU_UNSEEN inline void nothing(char* const*, uint32_t) {}

/// Replaces `*p` by `f(*p)` in one step, and returns what it was.
template <class T, class F> T atomic_update(T* p, F f) {
    static_assert(std::is_same<T, int>::value || std::is_same<T, unsigned>::value,
                  "atomics are of int and unsigned: float sums would depend on the order");
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, f(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}

} // namespace emu

inline void __syncthreads(EMU_SITE) { emu::arrive(0, 0, true, site); }

inline void __syncwarp(unsigned mask = emu::EVERY_LANE, EMU_SITE) {
    char none = 0;
    emu::meet<char>(mask, none, emu::nothing, "__syncwarp", site, true);
}

/// `threads` threads come to barrier `id`, in whole warps, and wait for each other.
inline void named_barrier_sync(unsigned id, unsigned threads, EMU_SITE) { emu::arrive(id, threads, true, site); }

/// Comes to barrier `id` as one of `threads`, and goes on.
inline void named_barrier_arrive(unsigned id, unsigned threads, EMU_SITE) { emu::arrive(id, threads, false, site); }

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_SITE) {
    emu::Place at(width);
    return emu::shuffle(mask, value, at.segment + (unsigned(source) & (at.width - 1)), "__shfl_sync", site);
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EMU_SITE) {
    emu::Place at(width);
    unsigned source = (at.lane ^ unsigned(with)) & 31;
    // A lane of a later segment is out of reach, one of an earlier is not: so the hardware has it.
    return emu::shuffle(mask, value, source < at.segment + at.width ? source : at.lane, "__shfl_xor_sync", site);
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_SITE) {
    emu::Place at(width);
    unsigned source = at.lane + (by & 31);
    return emu::shuffle(mask, value, source < at.segment + at.width ? source : at.lane, "__shfl_down_sync", site);
}

template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_SITE) {
    emu::Place at(width);
    unsigned source = at.lane >= at.segment + (by & 31) ? at.lane - (by & 31) : at.lane;
    return emu::shuffle(mask, value, source, "__shfl_up_sync", site);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::vote(mask, unsigned(predicate != 0), emu::ballot<unsigned>, "__ballot_sync", site);
}

inline int __any_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::vote(mask, unsigned(predicate != 0), emu::reduce<emu::Or, unsigned>, "__any_sync", site);
}

inline int __all_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::vote(mask, unsigned(predicate != 0), emu::reduce<emu::And, unsigned>, "__all_sync", site);
}

inline unsigned __match_any_sync(unsigned mask, unsigned value, EMU_SITE) {
    return emu::vote(mask, value, emu::match, "__match_any_sync", site);
}

template <class T> T __reduce_add_sync(unsigned mask, T value, EMU_SITE) {
    return emu::vote(mask, value, emu::reduce<emu::Add, T>, "__reduce_add_sync", site);
}

template <class T> T __reduce_max_sync(unsigned mask, T value, EMU_SITE) {
    return emu::vote(mask, value, emu::reduce<emu::Max, T>, "__reduce_max_sync", site);
}

template <class T> T __reduce_min_sync(unsigned mask, T value, EMU_SITE) {
    return emu::vote(mask, value, emu::reduce<emu::Min, T>, "__reduce_min_sync", site);
}

inline unsigned __reduce_or_sync(unsigned mask, unsigned value, EMU_SITE) {
    return emu::vote(mask, value, emu::reduce<emu::Or, unsigned>, "__reduce_or_sync", site);
}

template <class T> T atomicAdd(T* p, T value) {
    return emu::atomic_update(p, [=](T old) { return emu::Add::of(old, value); });
}
template <class T> T atomicMax(T* p, T value) {
    return emu::atomic_update(p, [=](T old) { return emu::Max::of(old, value); });
}
template <class T> T atomicMin(T* p, T value) {
    return emu::atomic_update(p, [=](T old) { return emu::Min::of(old, value); });
}
template <class T> T atomicOr(T* p, T value) {
    return emu::atomic_update(p, [=](T old) { return old | value; });
}
template <class T> T atomicExch(T* p, T value) {
    return emu::atomic_update(p, [=](T) { return value; });
}
template <class T> T atomicCAS(T* p, T expected, T value) {
    return emu::atomic_update(p, [=](T old) { return old == expected ? value : old; });
}
/// Counts up to `last`, and then from 0 again.
inline unsigned atomicInc(unsigned* p, unsigned last) {
    return emu::atomic_update(p, [=](unsigned old) { return old >= last ? 0 : old + 1; });
}

/// What lies before one fence is seen after a later one. (True ordering needs an atomic between them; seeds find that.)
inline void __threadfence() {
    emu::publish(&emu::engine->fenced);
    emu::observe(&emu::engine->fenced);
}
inline void __threadfence_block() { __threadfence(); }
