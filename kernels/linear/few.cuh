//! Few rows of x: what counts is to read W at the memory's speed. A warp has a segment of K and MT tiles of 16 rows of
//! W, which come through a ring of its own; x comes from the caches. The warps of a block have the segments of the same
//! rows.
#pragma once

#include "tile.cuh"

namespace linear {

/// Bytes of shared memory for each warp; behind them a float for each token.
template <class F, int MT, int RING> constexpr uint32_t FEW_BYTES = RING * MT * STAGE_BYTES<F>;

/// A warp's way of W: a stage of its tiles at a time into the slots of its ring, in turn.
template <class F, int MT, int RING> struct Stream {
    static_assert(MT <= 2, "a tile and perhaps the next");
    const unsigned char* from;
    unsigned char* ring;
    uint32_t slot, left, apart;

    DEVICE Stream(const Problem& p, unsigned char* ring, uint32_t tile, uint32_t begin, uint32_t end)
        : from(records<F>(p, tile, begin)), ring(ring), slot(0), left((end - begin) / F::COLS * F::BYTES) {
        // A tile that does not exist is the first one once more.
        apart = tile + 1 < tiles(p) ? p.cols / F::COLS * F::BYTES : 0;
    }

    /// Starts the next stage's copies, as a group; an empty one behind the end.
    DEVICE void start() {
        const uint32_t bytes = min(left, STAGE_BYTES<F>);
        unsigned char* to = ring + slot * (MT * STAGE_BYTES<F>);
#pragma unroll 1
        for (uint32_t i = 16 * lane_id(); i < bytes; i += 512) {
#pragma unroll
            for (uint32_t m = 0; m < MT; m++) cp_async16(to + m * STAGE_BYTES<F> + i, from + size_t(m) * apart + i);
        }
        cp_async_commit();
        from += bytes;
        left -= bytes;
        slot = slot + 1 == RING ? 0 : slot + 1;
    }
};

template <class F, int NT, int MT, int RING> DEVICE void few(const Problem& p, unsigned char* shared) {
    const uint32_t warp = warp_id(), lane = lane_id();
    const uint32_t tile = blockIdx.x * MT, token = blockIdx.y * 8 * NT;
    const uint32_t begin = segment_begin(p.cols, warp), end = segment_begin(p.cols, warp + 1);
    unsigned char* ring = shared + warp * FEW_BYTES<F, MT, RING>;
    Stream<F, MT, RING> stream(p, ring, tile, begin, end);
#pragma unroll
    for (int i = 0; i < RING - 1; i++) stream.start();
    float* factors = reinterpret_cast<float*>(shared + segments(p.cols) * FEW_BYTES<F, MT, RING>);
    norm_factors(p, 8 * NT, token, factors);

    // Tokens that do not exist are the last one once more; columns of a product do not meet.
    uint32_t row[NT];
    Share x[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        row[n] = min(token + 8 * n + lane / 4, p.rows - 1) * p.x_stride + first_column<F>(lane % 4);
        x[n] = share<F>(p.x + row[n] + begin);
    }

    float acc[MT][NT][4] = {};
    auto block = [&](const unsigned char* stage, uint32_t col) {
        // The next block's share is asked for as soon as this one's is used up; the last block asks for its own again.
        const bf16* next = p.x + min(col + 32, end - 32);
        float2 sum[NT] = {};
#pragma unroll
        for (int m = 0; m < MT; m++) {
            auto w = block_at<F>(stage + m * STAGE_BYTES<F>, col % F::STAGE / 32, lane);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                if (F::MINIMA && m == 0) sum[n] = sums(x[n]);
                multiply<F>(acc[m][n], w, x[n], sum[n]);
                if (m + 1 == MT) x[n] = share<F>(next + row[n]);
            }
        }
    };

    // Blocks at a time: where a warp has little to do for each, what is around them counts.
    constexpr uint32_t UNROLL = NT == 1 ? 2 : 1;
    uint32_t slot = 0;
    for (uint32_t col = begin; col < end;) {
        // What this lane asked for is there; behind __syncwarp, what all lanes did, and the slot before is free.
        cp_async_wait<RING - 2>();
        __syncwarp();
        stream.start();
        const unsigned char* stage = ring + slot * (MT * STAGE_BYTES<F>);
        slot = slot + 1 == RING ? 0 : slot + 1;
        // Segments begin where stages do.
        const uint32_t stage_end = min(col + F::STAGE, end);
        for (; col + 32 * UNROLL <= stage_end; col += 32 * UNROLL) {
#pragma unroll
            for (uint32_t i = 0; i < UNROLL; i++) block(stage, col + 32 * i);
        }
        if (UNROLL > 1 && col < stage_end) {
            block(stage, col);
            col += 32;
        }
    }

    __syncthreads();
    float* parts = reinterpret_cast<float*>(shared);
    constexpr uint32_t FEATURES = 16 * MT, PART = 8 * NT * (FEATURES + 4);
    static_assert(PART * 4 <= FEW_BYTES<F, MT, RING>, "the sums take the rings' place");
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < NT; n++) put<FEATURES>(parts + warp * PART, acc[m][n], 8 * n, 16 * m);
    }
    __syncthreads();
    finish<FEATURES>(p, parts, segments(p.cols), factors, 8 * NT, token, 16 * tile);
}

}  // namespace linear
