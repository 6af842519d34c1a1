//! What sm_90 adds: mbarrier, two-dimensional TMA loads, wgmma with both operands in shared memory.
//!
//! All of it is as late as the program allows. A TMA load lands when somebody waits for its barrier, a wgmma reads shared
//! memory when it is waited for: so a stage that is released too early, or read too early, gives NaN or wrong sums. Shared
//! memory is named by its offset from the block's dynamic part, which is aligned to 1024 bytes.
#pragma once

#include "math.h"
#include "warp.h"

/// A tensor map: 128 bytes that only its maker and `tma_load_2d` look into. `emu_tensor_map` makes the emulator's.
struct alignas(64) TensorMap {
    const uint8_t* base;
    uint64_t width, height;         // in elements
    uint64_t row_bytes;             // from one row to the next
    uint32_t box_width, box_height; // of a load, in elements
    uint32_t element_bytes;
    uint32_t swizzled; // in 128-byte rows, sixteen bytes at a time are exchanged as the 128-byte swizzle does
    uint8_t unused[72];
};
static_assert(sizeof(TensorMap) == 128, "as large as the driver's");

namespace emu {

struct Mbarrier {
    uint16_t need;
    uint16_t pending; // arrivals to come
    int32_t bytes_and_phase; // bytes to come times two, and the phase
};
static_assert(sizeof(Mbarrier) == 8, "as large as the hardware's");

EMU_UNSEEN inline Mbarrier& as_mbarrier(uint64_t* barrier) { return *reinterpret_cast<Mbarrier*>(barrier); }

EMU_UNSEEN inline void end_phase_if_complete(Mbarrier& barrier) {
    if (barrier.pending || barrier.bytes_and_phase >> 1) return;
    barrier.bytes_and_phase ^= 1;
    barrier.pending = barrier.need;
}

EMU_UNSEEN inline void arrive_at(uint64_t* barrier, int bytes, Site site) {
    Mbarrier& b = as_mbarrier(barrier);
    if (!b.pending) fail(site, "mbarrier: more arrivals in a phase than the %u it was made for", b.need);
    publish(barrier);
    b.bytes_and_phase += bytes * 2;
    b.pending--;
    end_phase_if_complete(b);
}

inline uint32_t shared_offset(const void* p) {
    return uint32_t(static_cast<const unsigned char*>(p) - engine->shared);
}

/// Exchanges groups of sixteen bytes: bits 4 to 6 of the offset by bits 7 to 9.
inline uint32_t swizzle(uint32_t offset) { return offset ^ (offset >> 7 & 7) << 4; }

EMU_UNSEEN inline void copy_box(const BulkCopy& copy) {
    const TensorMap& map = *static_cast<const TensorMap*>(copy.map);
    uint32_t to = shared_offset(copy.to), size = map.element_bytes;
    for (uint32_t row = 0; row < map.box_height; row++)
        for (uint32_t column = 0; column < map.box_width; column++) {
            int64_t x = int64_t(copy.x) + column, y = int64_t(copy.y) + row;
            bool inside = x >= 0 && y >= 0 && x < int64_t(map.width) && y < int64_t(map.height);
            uint32_t offset = to + (row * map.box_width + column) * size;
            if (map.swizzled) offset = swizzle(offset);
            for (uint32_t byte = 0; byte < size; byte++)
                engine->shared[offset + byte] = inside ? map.base[y * map.row_bytes + x * size + byte] : 0;
        }
}

/// Lands the loads that `barrier` counts.
EMU_UNSEEN inline void land(uint64_t* barrier) {
    Engine& e = *engine;
    unsigned kept = 0;
    for (unsigned i = 0; i < e.bulk_count; i++) {
        const BulkCopy copy = e.bulk_copies[i];
        if (copy.barrier != barrier) {
            e.bulk_copies[kept++] = copy;
            continue;
        }
        copy_box(copy);
        const TensorMap& map = *static_cast<const TensorMap*>(copy.map);
        Mbarrier& b = as_mbarrier(barrier);
        b.bytes_and_phase -= int32_t(map.box_width * map.box_height * map.element_bytes) * 2;
        end_phase_if_complete(b);
    }
    e.bulk_count = kept;
}

struct PhaseWait {
    uint64_t* barrier;
    unsigned parity;
};

EMU_UNSEEN inline bool phase_has_ended(void* argument) {
    auto* wait = static_cast<PhaseWait*>(argument);
    land(wait->barrier);
    return (as_mbarrier(wait->barrier).bytes_and_phase & 1) != int(wait->parity);
}

EMU_UNSEEN inline void start_box(const BulkCopy& copy, Site site) {
    Engine& e = *engine;
    const TensorMap& map = *static_cast<const TensorMap*>(copy.map);
    uint32_t bytes = map.box_width * map.box_height * map.element_bytes, to = shared_offset(copy.to);
    if (to % (map.swizzled ? 1024 : 128)) fail(site, "TMA to offset %u of shared memory: not aligned", to);
    if (to > e.shared_bytes || bytes > e.shared_bytes - to)
        fail(site, "TMA of %u bytes to offset %u of %zu bytes of shared memory", bytes, to, e.shared_bytes);
    if (e.bulk_count == MAX_BULK_COPIES) fail(site, "more than %u TMA loads under way", MAX_BULK_COPIES);
    for (uint32_t i = 0; i < bytes; i++) e.shared[to + i] = 0xff;
    e.bulk_copies[e.bulk_count++] = copy;
}

/// Element `[row, k]` of an operand in shared memory: rows of 128 bytes, swizzled, eight rows to a core matrix.
EMU_UNSEEN inline float operand(uint64_t descriptor, unsigned row, unsigned k) {
    uint32_t offset = (descriptor & 0x3fff) << 4;
    uint32_t stride = (descriptor >> 32 & 0x3fff) << 4;
    offset = swizzle(offset + row / 8 * stride + row % 8 * 128 + k * 2);
    return from_bf16_bits(engine->shared[offset] | engine->shared[offset + 1] << 8);
}

EMU_UNSEEN inline void multiply_warpgroup(Lane* first, const Product& product) {
    constexpr unsigned K = 16;
    unsigned index = &product - first->products;
    float b[256][K];
    for (unsigned n = 0; n < product.columns; n++)
        for (unsigned k = 0; k < K; k++) b[n][k] = operand(product.b, n, k);
    for (unsigned row = 0; row < 64; row++) {
        float a[K];
        for (unsigned k = 0; k < K; k++) a[k] = operand(product.a, row, k);
        for (unsigned n = 0; n < product.columns; n++) {
            // Rows 16 w to 16 w + 15 are warp w's, and lie in it as those of an mma.
            unsigned lane = row / 16 * WARP + row % 8 * 4 + n % 8 / 2;
            float sum = 0;
            for (unsigned k = 0; k < K; k++) sum += a[k] * b[n][k];
            first[lane].products[index].sums[n / 8 * 4 + row % 16 / 8 * 2 + n % 2] += sum;
        }
    }
}

/// Whether all lanes of the warpgroup have asked for the same products.
EMU_UNSEEN inline bool uniform(const Lane* first) {
    for (unsigned l = 1; l < 128; l++) {
        const Lane& lane = first[l];
        if (lane.product_count != first->product_count || lane.product_group != first->product_group) return false;
        for (unsigned i = 0; i < first->product_count; i++) {
            const Product &x = first->products[i], &y = lane.products[i];
            if (x.a != y.a || x.b != y.b || x.columns != y.columns || x.group != y.group) return false;
        }
    }
    return true;
}

struct ProductWait {
    unsigned left; // groups that may stay under way
    Site site;
};

/// Does the products of the warpgroup whose lanes have all come to wait for them.
EMU_UNSEEN inline void finish_products(void* argument) {
    const ProductWait& wait = *static_cast<ProductWait*>(argument);
    Engine& e = *engine;
    Lane* first = &e.lanes[e.lane->thread.x / 128 * 128];
    if (!uniform(first)) fail(wait.site, "divergence: the lanes of a warpgroup have not asked for the same wgmmas");
    unsigned done = 0;
    while (done < first->product_count && first->products[done].group + wait.left < first->product_group)
        multiply_warpgroup(first, first->products[done++]);
    for (unsigned l = 0; l < 128; l++) {
        Lane& lane = first[l];
        lane.product_count -= done;
        for (unsigned i = 0; i < lane.product_count; i++) lane.products[i] = lane.products[i + done];
    }
}

EMU_UNSEEN inline void start_product(float* sums, uint32_t columns, uint64_t a, uint64_t b, Site site) {
    Lane& lane = *engine->lane;
    if (a >> 62 != 1 || b >> 62 != 1) fail(site, "wgmma: a descriptor without the 128-byte swizzle");
    auto last_byte = [](uint64_t descriptor, uint32_t rows) {
        return ((descriptor & 0x3fff) << 4) + (rows / 8 - 1) * ((descriptor >> 32 & 0x3fff) << 4) + 1024;
    };
    // An operand's steps along k begin inside its first row of 128 bytes.
    uint32_t end_a = last_byte(a & ~uint64_t(7), 64), end_b = last_byte(b & ~uint64_t(7), columns);
    if (end_a > engine->shared_bytes || end_b > engine->shared_bytes)
        fail(site, "wgmma reads beyond shared memory");
    if (lane.product_count == MAX_PRODUCTS) fail(site, "more than %u wgmmas under way", MAX_PRODUCTS);
    lane.products[lane.product_count++] = {sums, columns, a, b, lane.product_group};
}

inline void wait_for_products(unsigned left, Site site) {
    unsigned group = engine->lane->thread.x / 128;
    if ((group + 1) * 128 > engine->block.x) fail(site, "wgmma in a warpgroup that is not whole");
    ProductWait wait{left, site};
    arrive(BARRIERS + group, 128, true, site, finish_products, &wait);
}

} // namespace emu

inline void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
    *barrier = 0;
    emu::as_mbarrier(barrier) = {uint16_t(arrivals), uint16_t(arrivals), 0};
}
/// Makes the initialisation known to the units that copy.
inline void mbarrier_fence_init() {}
inline void mbarrier_arrive(uint64_t* barrier, EMU_SITE) { emu::arrive_at(barrier, 0, site); }
/// Arrives, and lets the phase wait for `bytes` bytes of copies too.
inline void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes, EMU_SITE) { emu::arrive_at(barrier, int(bytes), site); }
/// Waits until the phase of this parity has ended.
inline void mbarrier_wait(uint64_t* barrier, unsigned parity, EMU_SITE) {
    emu::PhaseWait wait{barrier, parity};
    emu::suspend_until(emu::phase_has_ended, &wait, "mbarrier_wait", site);
    emu::observe(barrier);
}

/// Copies the box of `map` whose first element is at column `x` and row `y` to `shared`; `barrier` counts its bytes.
inline void tma_load_2d(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y, EMU_SITE) {
    emu::start_box({shared, map, barrier, x, y}, site);
}

/// Makes what threads have written to shared memory known to wgmma and TMA.
inline void async_proxy_fence() {}

/// Names an operand of wgmma: rows of 128 bytes, swizzled, from `p` on in dynamic shared memory. Add 2 for 16 further k.
inline uint64_t wgmma_descriptor(const void* p) {
    return uint64_t(emu::shared_offset(p) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
inline void wgmma_fence() {}
inline void wgmma_commit() { emu::engine->lane->product_group++; }
/// Waits for all wgmmas but those of the last `LEFT` groups.
template <int LEFT> void wgmma_wait(EMU_SITE) { emu::wait_for_products(LEFT, site); }
/// `d += a b'` for 64 rows of a, N of b and 16 columns of both, in bf16. Lanes hold `d` as they do an mma's, 8 columns after 8.
template <int N> void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, EMU_SITE) {
    emu::start_product(d, N, a, b, site);
}
template <int COUNT> void registers_raise() {}
template <int COUNT> void registers_lower() {}
