//! Kernels with planted faults, each of which the emulator must find (faults.rs). They are for the emulator alone: on a
//! device some of them would hang.

#ifndef __CUDACC__

#include "ptx.cuh"

#include "common.cuh"

#define FAULT(name) KERNEL(fault_##name, const uint32_t* in, uint32_t* out)

namespace faults {

/// Each warp leaves words for the next one.
DEVICE void pass_on(const uint32_t* in, uint32_t* out, bool barrier) {
    DYNAMIC_SHARED(shared);
    uint32_t *words = reinterpret_cast<uint32_t*>(shared), t = threadIdx.x;
    words[t] = in[t];
    if (barrier) __syncthreads();
    out[t] = words[(t + 32) % 128];
}

/// Two copies through two stages, the last of which is read after waiting for all but the last `LEFT`.
template <int LEFT> DEVICE void copy(const uint32_t* in, uint32_t* out) {
    DYNAMIC_SHARED(shared);
    uint32_t t = threadIdx.x;
    for (uint32_t stage = 0; stage < 2; stage++) {
        cp_async16(shared + 16 * (2 * t + stage), in + 4 * t);
        cp_async_commit();
    }
    cp_async_wait<LEFT>();
    store16(out + 4 * t, load16(shared + 16 * (2 * t + 1)));
}

/// The block's stages of wgmma operands: released before the products that read them are waited for, or after.
DEVICE void release_stage(const uint32_t* in, uint32_t* out, bool early) {
    DYNAMIC_SHARED(shared);
    uint32_t t = threadIdx.x;
    auto fill = [&](uint32_t xor_with) {
        for (uint32_t i = t; i < (64 + 32) * 8; i += 128) {
            uint4 v = load16(in + 4 * (t % 32));
            v.x ^= xor_with;
            store16(shared + 16 * i, v);
        }
        async_proxy_fence();
        __syncthreads();
    };
    fill(0);
    float d[16] = {};
    wgmma_fence();
    wgmma_bf16<32>(d, wgmma_descriptor(shared), wgmma_descriptor(shared + 64 * 128));
    wgmma_commit();
    if (early) fill(0x00400040);
    wgmma_wait<0>();
    if (!early) fill(0x00400040);
    float sum = 0;
    for (float x : d) sum += x;
    out[t] = __float_as_uint(sum);
}

} // namespace faults

// Without a fault, for comparison.
FAULT(none) { faults::pass_on(in, out, true); }
FAULT(race) { faults::pass_on(in, out, false); }

// The same within a warp: __syncwarp is missing.
FAULT(race_in_warp) {
    DYNAMIC_SHARED(shared);
    uint32_t *words = reinterpret_cast<uint32_t*>(shared), t = threadIdx.x;
    words[t] = in[t];
    out[t] = words[t ^ 1];
}

// What the block before left in a variable is not to be seen.
FAULT(uninitialised_variable) {
    SHARED(uint32_t, words, [128]);
    uint32_t t = threadIdx.x;
    out[t] = words[t];
    words[t] = in[t];
}

FAULT(global_out_of_bounds) { out[threadIdx.x + (threadIdx.x == 127)] = in[threadIdx.x]; }
FAULT(global_read_out_of_bounds) { out[threadIdx.x] = in[threadIdx.x + (threadIdx.x == 127)]; }

FAULT(shared_out_of_bounds) {
    SHARED(uint32_t, words, [128]);
    uint32_t t = threadIdx.x;
    words[t + (t == 127 ? in[0] % 2 + 1 : 0)] = in[t];
    __syncthreads();
    out[t] = words[t];
}

FAULT(dynamic_shared_out_of_bounds) {
    DYNAMIC_SHARED(shared);
    uint32_t t = threadIdx.x;
    reinterpret_cast<uint32_t*>(shared)[t + (t == 127)] = in[t];
    __syncthreads();
    out[t] = reinterpret_cast<uint32_t*>(shared)[t];
}

FAULT(divergent_barrier) {
    SHARED(uint32_t, words, [128]);
    words[threadIdx.x] = in[threadIdx.x];
    if (threadIdx.x < 48) {
        __syncthreads();
        out[threadIdx.x] = words[threadIdx.x + 1];
    }
    __syncthreads();
    out[threadIdx.x] = words[threadIdx.x];
}

FAULT(divergent_shuffle) {
    uint32_t x = in[threadIdx.x];
    if (threadIdx.x % 32 < 16) x += __shfl_xor_sync(ALL_LANES, x, 1);
    out[threadIdx.x] = x;
}

FAULT(two_shuffles) {
    uint32_t x = in[threadIdx.x];
    if (threadIdx.x % 32 < 16)
        x += __shfl_xor_sync(ALL_LANES, x, 1);
    else
        x -= __shfl_xor_sync(ALL_LANES, x, 2);
    out[threadIdx.x] = x;
}

FAULT(wrong_mask) {
    uint32_t x = in[threadIdx.x];
    out[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(ALL_LANES, x, 2) : __shfl_xor_sync(0x55555555u, x, 2);
}

FAULT(foreign_lane) {
    if (threadIdx.x % 2 == 0) out[threadIdx.x] = __shfl_xor_sync(0x55555555u, in[threadIdx.x], 1);
}

// Consumers wait for producers that come one round too few.
FAULT(deadlock) {
    for (uint32_t round = 0; round < 3; round++) {
        if (threadIdx.x < 64)
            named_barrier_sync(1, 128);
        else if (round < 2)
            named_barrier_arrive(1, 128);
    }
    out[threadIdx.x] = in[threadIdx.x];
}

FAULT(lost_arrival) {
    SHARED(uint64_t, full);
    if (threadIdx.x == 0) mbarrier_init(&full, 2);
    __syncthreads();
    if (threadIdx.x == 0) mbarrier_arrive(&full);
    mbarrier_wait(&full, 0);
    out[threadIdx.x] = in[threadIdx.x];
}

FAULT(deep_wait) { faults::copy<0>(in, out); }
FAULT(shallow_wait) { faults::copy<1>(in, out); }
FAULT(misaligned_copy) {
    DYNAMIC_SHARED(shared);
    cp_async16(shared + 16 * threadIdx.x, in + 4 * threadIdx.x + (threadIdx.x == 70));
    cp_async_commit();
    cp_async_wait<0>();
    out[threadIdx.x] = shared[16 * threadIdx.x];
}

FAULT(uninitialised_shared) {
    DYNAMIC_SHARED(shared);
    out[threadIdx.x] = reinterpret_cast<uint32_t*>(shared)[threadIdx.x];
}

FAULT(late_release) { faults::release_stage(in, out, false); }
FAULT(early_release) { faults::release_stage(in, out, true); }

// Bad addresses, which are found without a sanitizer too.
FAULT(null_pointer) {
    uint32_t* nowhere = reinterpret_cast<uint32_t*>(uintptr_t(in[0] & 0) + 16);
    *static_cast<volatile uint32_t*>(nowhere) = threadIdx.x;
    out[threadIdx.x] = 0;
}
FAULT(endless_recursion) {
    struct Deep {
        static uint32_t down(volatile uint32_t* x, uint32_t n) {
            volatile uint32_t frame[64];
            frame[n % 64] = *x;
            return n == 0 ? 0 : down(frame, n - 1) + frame[n % 64];
        }
    };
    uint32_t x = in[threadIdx.x];
    out[threadIdx.x] = Deep::down(&x, 0xffffffff);
}

#endif
