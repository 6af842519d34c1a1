//! The engine that runs one block: lanes (emulated threads) in warps, and the places where they wait for each other.
//!
//! A lane runs until it waits; then another that is ready goes on. Lanes of a warp wait in *meets*: each leaves the
//! address of its operands (on its own stack, where it stays while the lane waits), and the last to come computes the
//! results of all. Lanes of a block wait at barriers. Whatever nobody can end is a deadlock, and told as one.
//! Which of the ready lanes and warps goes on is drawn from the launch's seed; seed 0 is ascending order.
//!
//! Nothing on the way of a collective allocates: a meet is found by the lowest lane of its mask, because masks whose
//! lanes wait at the same time are disjoint or an error.
#pragma once

#include "fiber.h"
#include "types.h"

#include <type_traits>
#include <utility>
#include <vector>

namespace emu {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_WARPS = 32;
constexpr unsigned BARRIERS = 16;   // that kernels name; behind them, one for each warpgroup
constexpr unsigned MAX_PRODUCTS = 32; // wgmmas of a lane that are under way
constexpr unsigned MAX_BULK_COPIES = 64; // TMA loads of a block that are under way
constexpr unsigned EVERY_LANE = 0xffffffffu;
constexpr unsigned MAX_VARIABLES = 16; // that a block shares
constexpr size_t VARIABLE_BYTES = 48 << 10; // what devices have for them

/// A place in a kernel's source.
struct Site {
    const char* file = "";
    int line = 0;
    /// Where this is called; in a default argument, where the function is called whose argument it is.
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
#define EMU_SITE emu::Site site = emu::Site::here()

/// Two sync objects that rounds use in turn: early comers of a round do not order the late leavers of the one before.
struct Order {
    char objects[2];
    unsigned round = 0;
    void* now() { return &objects[round & 1]; }
};

struct Meet {
    uint32_t mask = 0;
    uint32_t arrived = 0;
    const void* kind = nullptr; // the function that computes the results
    Site site;
    Order order;
    void* operands[WARP];
};

struct Barrier {
    uint32_t need = 0;
    uint32_t arrived = 0;
    Site site;
    Order order;
    uint32_t waiting[MAX_WARPS] = {};
};

/// A cp.async that has not landed.
struct Copy {
    void* to;
    const void* from; // null: zeros
    unsigned group;
};

/// A wgmma that has not been done: it reads shared memory when it is waited for.
struct Product {
    float* sums;
    uint32_t columns;
    uint64_t a, b;
    unsigned group;
};

struct Warp;

struct Lane {
    Fiber fiber;
    uint3 thread = {};
    Warp* warp = nullptr;
    uint32_t bit = 0;
    const char* waits_for = nullptr;
    Site site;
    bool (*poll)(void*) = nullptr;
    void* poll_argument = nullptr;
    unsigned copy_group = 0;
    unsigned product_group = 0;
    unsigned product_count = 0;
    std::vector<Copy> copies;
    Product products[MAX_PRODUCTS];
};

struct Warp {
    uint32_t live = 0;
    uint32_t ready = 0;
    uint32_t polling = 0;
    unsigned number = 0;
    unsigned first = 0; // the lane to prefer among those that are ready
    Lane* lanes = nullptr;
    Meet meets[WARP];
};

/// A TMA load that has not landed.
struct BulkCopy {
    void* to;
    const void* map;
    uint64_t* barrier;
    int x, y;
};

/// A variable that a block shares.
struct Variable {
    const void* key;
    size_t at, bytes;
};

struct Kernel;

struct Engine {
    const Kernel* kernel = nullptr;
    void** params = nullptr;
    dim3 grid, block;
    uint3 block_index = {};
    Lane* lane = nullptr; // the one that runs
    uint32_t live = 0;
    uint32_t runnable = 0; // warps with lanes that are ready
    unsigned warps = 0;
    uint32_t draws = 0; // the state of the random numbers; 0 stays 0
    bool leave_warp = false;
    bool failed = false;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    unsigned variable_count = 0;
    Variable variables[MAX_VARIABLES];
    alignas(1024) unsigned char variable_memory[VARIABLE_BYTES + 64 * MAX_VARIABLES];
    char begun, ended, fenced; // sync objects: a block's begin and end, and fences
    Fiber host;
    Barrier barriers[BARRIERS + MAX_WARPS / 4];
    unsigned bulk_count = 0;
    BulkCopy bulk_copies[MAX_BULK_COPIES];
    std::vector<Lane> lanes;
    std::vector<Warp> all_warps;
    int trap = 0; // the signal that a kernel's access raised
    void* trap_address = nullptr;
    char error[1024];

    EMU_UNSEEN uint32_t draw() {
        draws ^= draws << 13;
        draws ^= draws >> 17;
        draws ^= draws << 5;
        return draws;
    }

    EMU_UNSEEN void wake(Warp& warp, uint32_t lanes_to_wake) {
        warp.ready |= lanes_to_wake;
        runnable |= 1u << warp.number;
    }
};

/// The engine of this thread of the host; set while it launches.
extern __thread Engine* engine;

/// Ends the launch with an error that names kernel, block, thread and place. Lanes are left where they stand.
[[noreturn]] void fail(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));

/// The memory of the variable with this key, which is the same in all lanes.
void* shared_variable(const void* key, size_t bytes, EMU_SITE);

/// Lets other lanes run until somebody wakes this one.
void suspend(const char* what, Site site);

/// Lets other lanes run until `poll(argument)` holds.
void suspend_until(bool (*poll)(void*), void* argument, const char* what, Site site);

/// Lets a lane of another warp run now and then, so that warps do not only take turns at barriers.
void yield_sometimes(Site site);

[[noreturn]] void mismatch(const Meet& meet, uint32_t mask, const void* kind, Site site);

/// The last to come to a meet: the others may go on.
EMU_UNSEEN inline void release(Engine& e, Warp& warp, Meet& meet, uint32_t self) {
    meet.arrived = 0;
    meet.order.round++;
    warp.first = e.draw() & 31;
    if (meet.mask != self) e.wake(warp, meet.mask & ~self);
}

/// What the lanes of `mask` do together. `combine(operands, mask)` gets every lane's operands and writes every lane's
/// results there. `orders`: whether memory is ordered by it, as by a barrier (a shuffle orders nothing).
template <class T>
EMU_UNSEEN void meet(uint32_t mask, T& operands, void (*combine)(T* const*, uint32_t), const char* what, Site site,
                     bool orders = false) {
    Engine& e = *engine;
    Lane& lane = *e.lane;
    Warp& warp = *lane.warp;
    if (!(mask & lane.bit)) fail(site, "%s with mask %08x, which this lane is not in", what, mask);
    Meet& meet = warp.meets[__builtin_ctz(mask)];
    const void* kind = reinterpret_cast<const void*>(combine);
    if (!meet.arrived) {
        meet.mask = mask;
        meet.kind = kind;
        meet.site = site;
    } else if (meet.mask != mask || meet.kind != kind || meet.site.line != site.line) {
        mismatch(meet, mask, kind, site);
    }
    void* order = meet.order.now();
    if (orders) publish(order);
    meet.operands[__builtin_ctz(lane.bit)] = &operands;
    meet.arrived |= lane.bit;
    if (meet.arrived == mask) {
        combine(reinterpret_cast<T* const*>(meet.operands), mask);
        release(e, warp, meet, lane.bit);
        yield_sometimes(site);
    } else {
        suspend(what, site);
    }
    if (orders) observe(order);
}

/// Arrives at a barrier for `need` lanes, or, where that is 0, for all that live; and waits for them. The last to come does
/// `work(argument)` before any goes on.
void arrive(unsigned id, uint32_t need, bool wait, Site site, void (*work)(void*) = nullptr, void* argument = nullptr);

/// A kernel, listed by its constructor.
struct Kernel {
    const char* name;
    const char* signature; // a letter a parameter: p pointer, u uint32_t, i int32_t, f float
    void (*run)(void** params);
    unsigned max_threads;
    const Kernel* next;

    Kernel(const char* name, const char* signature, void (*run)(void**), unsigned max_threads);
};

template <class T> constexpr char letter() {
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_same<T, uint32_t>::value) return 'u';
    if (std::is_same<T, int32_t>::value) return 'i';
    return 'f';
}

/// Calls `F` with the parameters that a launch passes as an array of addresses.
template <auto F> struct Call;
template <class... A, void (*F)(A...)> struct Call<F> {
    static_assert(((std::is_pointer<A>::value || std::is_same<A, uint32_t>::value || std::is_same<A, int32_t>::value ||
                    std::is_same<A, float>::value) && ...),
                  "parameters are pointers, uint32_t, int32_t and float");
    static constexpr char signature[] = {letter<A>()..., 0};
    template <size_t... I> static void apply(void** params, std::index_sequence<I...>) {
        F(*static_cast<std::remove_const_t<A>*>(params[I])...);
    }
    static void run(void** params) { apply(params, std::index_sequence_for<A...>{}); }
};

} // namespace emu

#define EMU_KERNEL(max_threads, name, ...)                                                                             \
    static void name(__VA_ARGS__);                                                                                     \
    static emu::Kernel emu_kernel_##name(#name, emu::Call<name>::signature, emu::Call<name>::run, max_threads);        \
    static void name(__VA_ARGS__)

#define threadIdx (emu::engine->lane->thread)
#define blockIdx (emu::engine->block_index)
#define blockDim (emu::engine->block)
#define gridDim (emu::engine->grid)
