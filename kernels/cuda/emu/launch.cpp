//! The engine's slow half, and the C functions through which a launch comes in.
//!
//! A launch runs in the thread of the host that asks for it, and its blocks run one after another, in an order that the
//! seed shuffles. So a block that waits for another by reading memory again and again would wait for ever; those that count
//! themselves with an atomic, and let the last one do the rest, work.

#include "emu.h"
#include "trap.h"

#include <cstdarg>
#include <cstdio>
#include <memory>
#include <new>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <unordered_map>

#if !defined(__x86_64__)
#error "the emulator's fibers are written for x86-64"
#endif

// The ABI lets a callee change all other registers, and the compiler knows that this is a call.
asm(R"(
    .text
    .globl emu_switch
    .hidden emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch, . - emu_switch
)");

namespace emu {

__thread Engine* engine;

namespace {

/// Shared memory of a block: the most that any device of ours has (emulator.rs may pretend to less).
constexpr uint32_t MAX_SHARED = 227 << 10;
/// Pages that nobody may touch lie below each stack.
constexpr size_t GUARD_BYTES = 4096;

Kernel*& kernel_list() {
    static Kernel* first = nullptr;
    return first;
}

const char* file_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

EMU_UNSEEN Lane* choose_lane(Warp& warp) {
    unsigned shift = warp.first;
    uint32_t turned = warp.ready >> shift | warp.ready << ((32 - shift) & 31);
    unsigned lane = (__builtin_ctz(turned) + shift) & 31;
    warp.ready &= ~(1u << lane);
    if (!warp.ready) engine->runnable &= ~(1u << warp.number);
    return &warp.lanes[lane];
}

EMU_UNSEEN Warp& choose_warp(Engine& e) {
    unsigned shift = e.draw() % e.warps;
    uint32_t turned = e.runnable >> shift;
    return e.all_warps[turned ? __builtin_ctz(turned) + shift : __builtin_ctz(e.runnable)];
}

/// Asks the lanes that poll; whether one of them may go on.
EMU_UNSEEN bool wake_polling(Engine& e) {
    for (unsigned w = 0; w < e.warps; w++) {
        Warp& warp = e.all_warps[w];
        for (uint32_t left = warp.polling; left; left &= left - 1) {
            Lane& lane = warp.lanes[__builtin_ctz(left)];
            if (!lane.poll(lane.poll_argument)) continue;
            warp.polling &= ~lane.bit;
            e.wake(warp, lane.bit);
        }
    }
    return e.runnable;
}

/// The lane to go on with, or null where none is.
EMU_UNSEEN Lane* next_lane(Engine& e) {
    if (!e.runnable && !wake_polling(e)) return nullptr;
    Warp* warp = e.lane ? e.lane->warp : nullptr;
    if (!warp || !warp->ready || e.leave_warp) warp = &choose_warp(e);
    e.leave_warp = false;
    return choose_lane(*warp);
}

[[noreturn]] EMU_UNSEEN void leave_launch(Engine& e) {
    e.failed = true;
    publish(&e.ended);
    switch_fiber(e.lane->fiber, e.host);
    __builtin_unreachable();
}

unsigned describe(const Engine& e, const Lane* lane, Site site, char* to, size_t size) {
    int n = snprintf(to, size, "kernel %s, block (%u, %u, %u)", e.kernel->name, e.block_index.x, e.block_index.y,
                     e.block_index.z);
    if (lane) n += snprintf(to + n, size - n, ", thread %u, %s:%d", lane->thread.x, file_name(site.file), site.line);
    return n;
}

/// Lanes that wait at one place.
struct Queue {
    Site site;
    const char* what;
    unsigned first, lanes;
};

/// Sorts the lanes that live by where they wait; the number of places, of which the first `most` are told.
EMU_UNSEEN unsigned queues(const Engine& e, Queue* to, unsigned most) {
    unsigned n = 0;
    for (const Lane& lane : e.lanes) {
        if (lane.thread.x >= e.block.x || !(lane.warp->live & lane.bit)) continue;
        unsigned q = 0;
        while (q < n && (to[q].site.line != lane.site.line || to[q].what != lane.waits_for)) q++;
        if (q == most) continue;
        if (q == n) to[n++] = {lane.site, lane.waits_for, lane.thread.x, 0};
        to[q].lanes++;
    }
    return n;
}

/// No lane can go on.
[[noreturn]] EMU_UNSEEN void deadlock(Engine& e) {
    Queue waiting[4];
    unsigned places = queues(e, waiting, 4);
    int n = describe(e, nullptr, {}, e.error, sizeof e.error);
    n += snprintf(e.error + n, sizeof e.error - n, ": deadlock: of %u threads", e.block.x);
    for (unsigned q = 0; q < places; q++)
        n += snprintf(e.error + n, sizeof e.error - n, "%s %u wait in %s at %s:%d (thread %u)", q ? "," : "",
                      waiting[q].lanes, waiting[q].what, file_name(waiting[q].site.file), waiting[q].site.line,
                      waiting[q].first);
    snprintf(e.error + n, sizeof e.error - n, ", %u have ended", e.block.x - e.live);
    leave_launch(e);
}

/// Goes on with another lane; comes back when this one's turn is again.
EMU_UNSEEN void hand_over(Engine& e) {
    publish(&e.ended); // should the launch fail, this lane goes on no more: what it did happened before the launch's end
    Lane* from = e.lane;
    Lane* to = next_lane(e);
    if (!to) deadlock(e);
    if (to == from) return;
    e.lane = to;
    switch_fiber(from->fiber, to->fiber);
}

EMU_UNSEEN void open(Engine& e, Barrier& barrier) {
    barrier.arrived = 0;
    barrier.order.round++;
    for (unsigned w = 0; w < e.warps; w++) {
        if (barrier.waiting[w]) e.wake(e.all_warps[w], barrier.waiting[w]);
        barrier.waiting[w] = 0;
    }
}

/// The calling lane has ended: a barrier for all that live may now be complete (CUDA waits for all that have not exited).
EMU_UNSEEN void end_lane(Engine& e) {
    Lane& lane = *e.lane;
    lane.warp->live &= ~lane.bit;
    e.live--;
    Barrier& all = e.barriers[0];
    if (all.arrived && !all.need && all.arrived == e.live) open(e, all);
    if (e.live) return hand_over(e);
    switch_fiber(lane.fiber, e.host);
}

/// Where each lane begins.
EMU_UNSEEN void begin_lane() {
    Engine& e = *engine;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    observe(&e.begun);
    e.kernel->run(e.params);
    publish(&e.ended);
    end_lane(e);
    __builtin_unreachable();
}

/// Makes stacks until there are `lanes` lanes.
void grow(Engine& e, unsigned lanes) {
    e.lanes.reserve(MAX_WARPS * WARP);
    e.all_warps.reserve(MAX_WARPS);
    while (e.lanes.size() < lanes) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* memory = mmap(nullptr, EMU_STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory, GUARD_BYTES, PROT_NONE);
        e.lanes.emplace_back();
        Lane& lane = e.lanes.back();
        lane.fiber.stack = static_cast<char*>(memory) + GUARD_BYTES;
        lane.fiber.stack_bytes = EMU_STACK_BYTES - GUARD_BYTES;
#if defined(__SANITIZE_THREAD__)
        lane.fiber.tsan = __tsan_create_fiber(0);
#endif
        lane.thread.x = e.lanes.size() - 1;
        lane.bit = 1u << lane.thread.x % WARP;
    }
    while (e.all_warps.size() < lanes / WARP) {
        e.all_warps.emplace_back();
        Warp& warp = e.all_warps.back();
        warp.number = e.all_warps.size() - 1;
        warp.lanes = &e.lanes[warp.number * WARP];
        for (unsigned l = 0; l < WARP; l++) warp.lanes[l].warp = &warp;
    }
}

/// The lane stands before `begin_lane`.
EMU_UNSEEN void reset(Lane& lane) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(lane.fiber.stack, lane.fiber.stack_bytes);
#endif
    // Tops of stacks that lie a multiple of 4 KiB apart would share the same few lines of the cache.
    size_t color = lane.thread.x % 61 * 192;
    void** top = reinterpret_cast<void**>(lane.fiber.stack + lane.fiber.stack_bytes - 64 - color);
    *--top = nullptr; // nobody's return address: stack traces end here
    *--top = reinterpret_cast<void*>(begin_lane);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    lane.fiber.stack_pointer = top;
    lane.fiber.asan = nullptr;
    lane.site = {};
    lane.copy_group = lane.product_group = 0;
    lane.copies.clear();
    lane.product_count = 0;
}

EMU_UNSEEN void reset(Engine& e) {
    if (e.shared_bytes) memset(e.shared, 0xff, e.shared_bytes);
    for (unsigned v = 0; v < e.variable_count; v++)
        memset(e.variable_memory + e.variables[v].at, 0xff, e.variables[v].bytes);
    e.live = e.block.x;
    e.runnable = 0;
    e.lane = nullptr;
    e.leave_warp = false;
    e.bulk_count = 0;
    for (Barrier& barrier : e.barriers) {
        barrier.arrived = 0;
        for (uint32_t& waiting : barrier.waiting) waiting = 0;
    }
    for (unsigned w = 0; w < e.warps; w++) {
        Warp& warp = e.all_warps[w];
        warp.live = EVERY_LANE;
        warp.ready = warp.polling = 0;
        warp.first = e.draw() & 31;
        for (unsigned l = 0; l < WARP; l++) {
            warp.meets[l].arrived = 0;
            reset(warp.lanes[l]);
        }
        e.wake(warp, EVERY_LANE);
    }
}

EMU_UNSEEN void run_block(Engine& e) {
    reset(e);
    publish(&e.begun);
    Lane* first = next_lane(e);
    e.lane = first;
    switch_fiber(e.host, first->fiber);
    observe(&e.ended);
}

uint64_t greatest_common_divisor(uint64_t a, uint64_t b) { return b ? greatest_common_divisor(b, a % b) : a; }

/// Runs all blocks: block `i * step + start` (mod their number) is the i-th.
EMU_UNSEEN void run_grid(Engine& e) {
    uint64_t blocks = uint64_t(e.grid.x) * e.grid.y * e.grid.z;
    uint64_t step = 1, start = 0;
    if (e.draws && blocks > 1) {
        start = e.draw() % blocks;
        do step = 1 + e.draw() % blocks;
        while (greatest_common_divisor(step, blocks) != 1);
    }
    for (uint64_t i = 0, b = start; i < blocks && !e.failed; i++, b = (b + step) % blocks) {
        e.block_index = {unsigned(b % e.grid.x), unsigned(b / e.grid.x % e.grid.y), unsigned(b / e.grid.x / e.grid.y)};
        run_block(e);
    }
}

struct FreeEngine {
    void operator()(Engine* e) const {
        for (Lane& lane : e->lanes) {
#if defined(__SANITIZE_THREAD__)
            __tsan_destroy_fiber(lane.fiber.tsan);
#endif
            munmap(lane.fiber.stack - GUARD_BYTES, EMU_STACK_BYTES);
        }
        delete e;
    }
};

Engine& this_threads_engine() {
    thread_local std::unique_ptr<Engine, FreeEngine> owned;
    if (!owned) {
        owned.reset(new Engine);
        pthread_attr_t attributes;
        if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
            void* stack;
            pthread_attr_getstack(&attributes, &stack, &owned->host.stack_bytes);
            owned->host.stack = static_cast<char*>(stack);
            pthread_attr_destroy(&attributes);
        }
        give_signals_a_stack();
    }
#if defined(__SANITIZE_THREAD__)
    owned->host.tsan = __tsan_get_current_fiber();
#endif
    return *owned;
}

/// Kernels by name; a name that two have is null.
const std::unordered_map<std::string, const Kernel*>& kernels() {
    static const auto* table = [] {
        auto* table = new std::unordered_map<std::string, const Kernel*>;
        for (const Kernel* k = kernel_list(); k; k = k->next) {
            auto [entry, added] = table->emplace(k->name, k);
            if (!added) entry->second = nullptr;
        }
        return table;
    }();
    return *table;
}

/// Why these cannot be launched, or an empty text.
std::string refusal(const char* name, const Kernel* kernel, const uint32_t grid[3], uint32_t block, uint32_t shared) {
    if (!kernel) return std::string("kernel ") + name + ": there is none of this name, or there are two";
    std::string text = std::string("kernel ") + name + ": ";
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || grid[0] > 0x7fffffff)
        return text + "a grid of " + std::to_string(grid[0]) + " x " + std::to_string(grid[1]) + " x " +
               std::to_string(grid[2]) + " blocks";
    if (!block || block % WARP || block > kernel->max_threads)
        return text + "blocks of " + std::to_string(block) + " threads: whole warps, and at most " +
               std::to_string(kernel->max_threads) + " threads";
    if (shared > MAX_SHARED)
        return text + std::to_string(shared) + " bytes of shared memory, and a block has at most " +
               std::to_string(MAX_SHARED);
    return {};
}

/// Owns a launch's shared memory, in an allocation of its own: sanitizers see accesses beyond it.
struct Shared {
    void* memory = nullptr;
    explicit Shared(uint32_t bytes) {
        if (bytes && posix_memalign(&memory, 1024, bytes)) throw std::bad_alloc();
    }
    ~Shared() { free(memory); }
};

/// Forgets the variables of the launch before: the next one's are found as its lanes come to them. Behind each lies
/// memory that AddressSanitizer lets nobody touch.
void clear_variables(Engine& e) {
    e.variable_count = 0;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(e.variable_memory, sizeof e.variable_memory);
#endif
    memset(e.variable_memory, 0xff, sizeof e.variable_memory);
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(e.variable_memory, sizeof e.variable_memory);
#endif
}

std::string launch(const char* name, const uint32_t grid[3], uint32_t block, uint32_t shared, void** params,
                   uint64_t seed) {
    auto found = kernels().find(name);
    const Kernel* kernel = found == kernels().end() ? nullptr : found->second;
    std::string why = refusal(name, kernel, grid, block, shared);
    if (!why.empty()) return why;
    Engine& e = this_threads_engine();
    grow(e, block);
    Shared memory(shared);
    e.shared = static_cast<unsigned char*>(memory.memory);
    e.shared_bytes = shared;
    clear_variables(e);
    e.kernel = kernel;
    e.params = params;
    e.grid = {grid[0], grid[1], grid[2]};
    e.block = {block, 1, 1};
    e.warps = block / WARP;
    // Seeds that differ in few bits are to begin far apart; only seed 0 gives 0, and then every draw does.
    e.draws = uint32_t((seed * 0x9e3779b97f4a7c15u) >> 32) | (seed != 0);
    e.failed = false;
    static bool traps_are_caught = catch_traps();
    (void)traps_are_caught;
    engine = &e;
    run_grid(e);
    engine = nullptr;
    return e.failed ? e.error : std::string();
}

} // namespace

EMU_UNSEEN void fail(Site site, const char* format, ...) {
    Engine& e = *engine;
    unsigned n = describe(e, e.lane, site, e.error, sizeof e.error);
    n += snprintf(e.error + n, sizeof e.error - n, ": ");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(e.error + n, sizeof e.error - n, format, arguments);
    va_end(arguments);
    leave_launch(e);
}

EMU_UNSEEN void mismatch(const Meet& meet, uint32_t mask, const void* kind, Site site) {
    if (meet.mask != mask)
        fail(site, "divergence: the mask here is %08x, and lanes wait with mask %08x at %s:%d", mask, meet.mask,
             file_name(meet.site.file), meet.site.line);
    fail(site, "divergence: other lanes of the warp wait in %s at %s:%d",
         meet.kind == kind ? "the same operation" : "another operation", file_name(meet.site.file), meet.site.line);
}

EMU_UNSEEN void* shared_variable(const void* key, size_t bytes, Site site) {
    Engine& e = *engine;
    size_t end = 0, used = 0;
    for (unsigned v = 0; v < e.variable_count; v++) {
        const Variable& variable = e.variables[v];
        if (variable.key == key) return e.variable_memory + variable.at;
        end = variable.at + variable.bytes;
        used += variable.bytes;
    }
    if (e.variable_count == MAX_VARIABLES) fail(site, "more than %u variables that a block shares", MAX_VARIABLES);
    if (used + bytes > VARIABLE_BYTES || used + bytes + e.shared_bytes > MAX_SHARED)
        fail(site, "%zu bytes of variables that a block shares", used + bytes);
    size_t at = end ? (end + 47) / 16 * 16 : 0;
    e.variables[e.variable_count++] = {key, at, bytes};
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(e.variable_memory + at, bytes);
#endif
    return e.variable_memory + at;
}

EMU_UNSEEN void suspend(const char* what, Site site) {
    Engine& e = *engine;
    e.lane->waits_for = what;
    e.lane->site = site;
    hand_over(e);
}

EMU_UNSEEN void suspend_until(bool (*poll)(void*), void* argument, const char* what, Site site) {
    if (poll(argument)) return;
    Lane& lane = *engine->lane;
    lane.poll = poll;
    lane.poll_argument = argument;
    lane.warp->polling |= lane.bit;
    suspend(what, site);
}

EMU_UNSEEN void yield_sometimes(Site site) {
    Engine& e = *engine;
    Warp& own = *e.lane->warp;
    if (!e.draws || (e.draw() & 15) || !(e.runnable & ~(1u << own.number))) return;
    e.wake(own, e.lane->bit);
    e.leave_warp = true;
    suspend("its turn", site);
}

/// The barrier's next round begins with this lane, or it takes part in the one that has begun.
EMU_UNSEEN static void join(Barrier& barrier, unsigned id, uint32_t need, Site site) {
    if (!barrier.arrived) {
        barrier.need = need;
        barrier.site = site;
    } else if (barrier.need != need) {
        fail(site, "barrier %u for %u threads, and others wait at it for %u, at %s:%d (0: for all)", id, need,
             barrier.need, file_name(barrier.site.file), barrier.site.line);
    } else if (!need && barrier.site.line != site.line) {
        fail(site, "divergence: other threads of the block wait at the barrier at %s:%d", file_name(barrier.site.file),
             barrier.site.line);
    }
}

EMU_UNSEEN void arrive(unsigned id, uint32_t need, bool wait, Site site, void (*work)(void*), void* argument) {
    Engine& e = *engine;
    Lane& lane = *e.lane;
    if (id >= BARRIERS && !work) fail(site, "barrier %u: there are %u", id, BARRIERS);
    if (need % WARP || need > e.block.x) fail(site, "barrier %u for %u threads of %u", id, need, e.block.x);
    Barrier& barrier = e.barriers[id];
    join(barrier, id, need, site);
    void* order = barrier.order.now();
    publish(order);
    barrier.arrived++;
    if (barrier.arrived == (need ? need : e.live)) {
        if (work) work(argument);
        open(e, barrier);
    } else if (wait) {
        barrier.waiting[lane.warp->number] |= lane.bit;
        suspend("a barrier", site);
    }
    if (wait) observe(order);
}

Kernel::Kernel(const char* name, const char* signature, void (*run)(void**), unsigned max_threads)
    : name(name), signature(signature), run(run), max_threads(max_threads), next(kernel_list()) {
    kernel_list() = this;
}

} // namespace emu

/// Runs a kernel with the arguments at `params`. 0, or 1 and a text in `error` that says where and why it could not go on.
extern "C" int emu_launch(const char* kernel, const uint32_t grid[3], uint32_t block, uint32_t shared_bytes, void** params,
                          uint64_t seed, char* error, size_t error_len) {
    std::string text;
    try {
        text = emu::launch(kernel, grid, block, shared_bytes, params, seed);
    } catch (const std::bad_alloc&) {
        emu::engine = nullptr;
        snprintf(error, error_len, "kernel %s: no memory for the stacks of %u threads", kernel, block);
        return 1;
    }
    if (text.empty()) return 0;
    snprintf(error, error_len, "%s", text.c_str());
    return 1;
}

/// A letter for each parameter of a kernel (see `emu::Kernel`), or null where there is no such kernel.
extern "C" const char* emu_kernel_signature(const char* kernel) {
    auto found = emu::kernels().find(kernel);
    return found == emu::kernels().end() || !found->second ? nullptr : found->second->signature;
}

extern "C" int emu_has_kernel(const char* kernel) { return emu_kernel_signature(kernel) != nullptr; }

#if defined(__SANITIZE_THREAD__)
/// ThreadSanitizer asks for this. It sees Rust's library only where that calls C's (memcpy, free), and not how it orders
/// its threads. Accesses of kernels have no such frames.
extern "C" const char* __tsan_default_suppressions() {
    return "race:library/std/\nrace:library/core/\nrace:library/alloc/\nrace:library/test/\n";
}
#endif

/// The sanitizer that kernels are compiled with: "address", "thread", or "" for none.
extern "C" const char* emu_sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
    return "address";
#elif defined(__SANITIZE_THREAD__)
    return "thread";
#else
    return "";
#endif
}
