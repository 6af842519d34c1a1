//! What a device can do at best, for benchmarks to compare with: copying, and multiplying in registers.

#include "ptx.cuh"

#include "common.cuh"

/// Copies `words` words of 16 bytes.
KERNEL_BOUNDS(512, 2, ceiling_copy, const uint4* from, uint4* to, uint32_t words) {
    uint32_t step = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) to[i] = from[i];
}

/// `rounds` times eight independent products of 16 x 8 x 16 in each warp: 4096 multiplications and additions each.
KERNEL_BOUNDS(256, 2, ceiling_mma, float* out, uint32_t rounds) {
    constexpr int CHAINS = 8;
    float c[CHAINS][4] = {};
    uint32_t one = pack_bf16(1.0f, 1.0f);
    uint32_t a[4] = {one, one, one, one}, b[2] = {one, one};
    for (uint32_t r = 0; r < rounds; r++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) mma_bf16(c[i], a, b);
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    // Sums of products are read, or nothing would be computed.
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
