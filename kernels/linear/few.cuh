//! Few rows of x: what counts is to read W at the memory's speed. A warp has a segment of K and MT tiles of 16 rows of W, which
//! come through a ring of its own; x comes from the caches. Warps of a block have the segments of the same rows of W.
#pragma once

#include "tile.cuh"

namespace linear {

/// Bytes of shared memory for each warp.
template <class F, int MT, int RING> constexpr uint32_t FEW_BYTES = RING * MT * STAGE_BYTES<F>;

template <class F, int NT, int MT, int RING> DEVICE void few(const Problem& p, unsigned char* shared) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t tile = blockIdx.x * MT, token = blockIdx.y * 8 * NT;
    const uint32_t begin = segment_begin(p.cols, warp), end = segment_begin(p.cols, warp + 1);
    unsigned char* ring = shared + warp * FEW_BYTES<F, MT, RING>;

    auto load = [&](uint32_t col) {
        unsigned char* to = ring + (col - begin) / F::STAGE % RING * (MT * STAGE_BYTES<F>);
        if (col < end) {
            const uint32_t bytes = min(uint32_t(F::STAGE), end - col) / F::COLS * F::BYTES;
#pragma unroll
            for (int m = 0; m < MT; m++) {
                if (tile + m >= tiles(p)) break;
                const unsigned char* from = records<F>(p, tile + m, col);
                for (uint32_t i = 16 * lane; i < bytes; i += 512) cp_async16(to + m * STAGE_BYTES<F> + i, from + i);
            }
        }
        cp_async_commit();
    };

    // Tokens that do not exist are the last one once more; columns of a product do not meet.
    uint32_t x[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) x[n] = min(token + 8 * n + lane / 4, p.rows - 1) * p.x_stride;

    float acc[MT][NT][4] = {};
    Share mine[NT];
#pragma unroll
    for (int i = 0; i < RING - 1; i++) load(begin + i * F::STAGE);
#pragma unroll
    for (int n = 0; n < NT; n++) mine[n] = share<F>(p.x + x[n] + begin, lane % 4);
    for (uint32_t col = begin; col < end; col += F::STAGE) {
        // What this lane asked for is there; behind __syncwarp, what all lanes did, and the slot before is free.
        cp_async_wait<RING - 2>();
        __syncwarp();
        load(col + (RING - 1) * F::STAGE);
        const unsigned char* slot = ring + (col - begin) / F::STAGE % RING * (MT * STAGE_BYTES<F>);
        const uint32_t blocks = min(uint32_t(F::STAGE), end - col) / 32;
#pragma unroll(NT == 1 ? 2 : 1)
        for (uint32_t b = 0; b < blocks; b++) {
            decltype(block_at<F>(slot, b, lane)) w[MT];
#pragma unroll
            for (int m = 0; m < MT; m++) w[m] = block_at<F>(slot + m * STAGE_BYTES<F>, b, lane);
            // The next block's share is asked for as soon as this one's is used up; the last block asks for itself.
            const bf16* next = p.x + min(col + 32 * b + 32, end - 32);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                float2 sum = F::MINIMA ? sums(mine[n]) : make_float2(0.0f, 0.0f);
#pragma unroll
                for (int m = 0; m < MT; m++) multiply<F>(acc[m][n], w[m], mine[n], sum);
                mine[n] = share<F>(next + x[n], lane % 4);
            }
        }
    }

    __syncthreads();
    float* parts = reinterpret_cast<float*>(shared);
    constexpr uint32_t FEATURES = 16 * MT;
    static_assert(8 * NT * (FEATURES + 4) * 4 <= FEW_BYTES<F, MT, RING>, "the sums take the rings' place");
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < NT; n++)
            put<FEATURES>(parts + warp * 8 * NT * (FEATURES + 4), acc[m][n], 8 * n, 16 * m, lane);
    }
    __syncthreads();
    finish<FEATURES>(p, parts, segments(p.cols), 8 * NT, token, 16 * tile);
}

}  // namespace linear
