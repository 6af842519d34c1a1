//! What kernels share: vectors of sixteen bytes, and reductions whose order is fixed.
#pragma once

#include "ptx.cuh"

constexpr uint32_t ALL_LANES = 0xffffffffu;

DEVICE uint32_t lane_id() { return threadIdx.x % 32; }
DEVICE uint32_t warp_id() { return threadIdx.x / 32; }

DEVICE constexpr uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

/// Eight bf16 as floats, and back.
DEVICE void unpack_bf16(uint4 packed, float (&x)[8]) {
    const uint32_t pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = bf16_low(pairs[i]);
        x[2 * i + 1] = bf16_high(pairs[i]);
    }
}
DEVICE uint4 pack_bf16(const float (&x)[8]) {
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

DEVICE uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
DEVICE void store16(void* p, uint4 v) { *static_cast<uint4*>(p) = v; }

/// Sum and greatest of a warp's lanes, in every lane, by the same tree in each.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

struct SumOf {
    DEVICE static float warp(float x) { return warp_sum(x); }
    DEVICE static float pair(float a, float b) { return a + b; }
};
struct MaxOf {
    DEVICE static float warp(float x) { return warp_max(x); }
    DEVICE static float pair(float a, float b) { return fmaxf(a, b); }
};

/// Reduces over a block of `THREADS` threads: each warp by its tree, then the warps in ascending order.
template <class F, int THREADS> DEVICE float block_reduce(float x) {
    SHARED(float, partial, [THREADS / 32]);
    x = F::warp(x);
    if (lane_id() == 0) partial[warp_id()] = x;
    __syncthreads();
    x = partial[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++) x = F::pair(x, partial[w]);
    __syncthreads(); // the next reduction writes here again
    return x;
}
template <int THREADS> DEVICE float block_sum(float x) { return block_reduce<SumOf, THREADS>(x); }
template <int THREADS> DEVICE float block_max(float x) { return block_reduce<MaxOf, THREADS>(x); }
