//! Many rows of x: a block has 128 rows of W and 128 of x, a warp 32 by 64 of them; both come through rings in shared memory, x
//! by 64 columns a step, W by a stage of the format. A block walks all segments of K.
#pragma once

#include "tile.cuh"

namespace linear {

constexpr uint32_t STEP = 64, X_RING = 4, TOKENS = 128, TILES = 8;

/// Stages of W in use while steps up to three ahead are being loaded.
template <class F> constexpr uint32_t W_RING = (X_RING - 1 + F::STAGE / STEP - 1) / (F::STAGE / STEP) + 1;

constexpr uint32_t X_BYTES = TOKENS * STEP * 2, SUMS_BYTES = 2 * 2 * TOKENS * 4;

/// Bytes of shared memory: rings of x and W, then two buffers of sums.
template <class F>
constexpr uint32_t MANY_BYTES = X_RING * X_BYTES + W_RING<F> * TILES * STAGE_BYTES<F> + (F::MINIMA ? SUMS_BYTES : 0);

/// Where 16 bytes of a token's step lie: turned by the token, so that lanes that read together meet different banks.
DEVICE uint32_t x_offset(uint32_t token, uint32_t chunk) {
    return token * (STEP * 2) + ((chunk ^ ((token & 1) << 2 | (token & 2))) << 4);
}

/// `share` from a step in shared memory.
template <class F> DEVICE Share staged(const unsigned char* x, uint32_t token, uint32_t b, uint32_t t) {
    if (F::SUB == 32) {
        uint4 v = *reinterpret_cast<const uint4*>(x + x_offset(token, 4 * b + t));
        return {{{v.x, v.y}, {v.z, v.w}}};
    }
    uint2 first = *reinterpret_cast<const uint2*>(x + x_offset(token, 4 * b + t / 2) + t % 2 * 8);
    uint2 second = *reinterpret_cast<const uint2*>(x + x_offset(token, 4 * b + 2 + t / 2) + t % 2 * 8);
    return {{{first.x, first.y}, {second.x, second.y}}};
}

/// Starts the copies of a step: x, and W where one of its stages begins. Tokens and rows of W that do not exist stay what they
/// were: no sum that is kept meets them.
template <class F> DEVICE void load_step(const Problem& p, unsigned char* shared, uint32_t step) {
    const uint32_t first = step * STEP;
    if (first < p.cols) {
        unsigned char* x = shared + step % X_RING * X_BYTES;
#pragma unroll
        for (uint32_t i = 0; i < TOKENS * 8 / 256; i++) {
            uint32_t token = threadIdx.x / 8 + 32 * i, chunk = threadIdx.x % 8, col = first + 8 * chunk;
            uint32_t row = blockIdx.y * TOKENS + token;
            if (row < p.rows && col < p.cols) cp_async16(x + x_offset(token, chunk), p.x + size_t(row) * p.x_stride + col);
        }
        if (first % F::STAGE == 0) {
            unsigned char* w = shared + X_RING * X_BYTES + first / F::STAGE % W_RING<F> * (TILES * STAGE_BYTES<F>);
            const uint32_t there = min(uint32_t(F::STAGE), p.cols - first) / F::COLS * F::BYTES;
            // A warp has a tile.
            const uint32_t tile = blockIdx.x * TILES + threadIdx.x / 32;
            if (tile < tiles(p)) {
                const unsigned char* from = records<F>(p, tile, first);
                unsigned char* to = w + threadIdx.x / 32 * STAGE_BYTES<F>;
                for (uint32_t i = threadIdx.x % 32 * 16; i < there; i += 512) cp_async16(to + i, from + i);
            }
        }
    }
    cp_async_commit();
}

template <class F> DEVICE void many(const Problem& p, unsigned char* shared) {
    constexpr int MT = 2, NT = 8;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t tile = warp % 4 * MT, token = warp / 4 * (8 * NT);
    float* block_sums = reinterpret_cast<float*>(shared + MANY_BYTES<F> - SUMS_BYTES);

    // Each warp has the sums of a quarter of its tokens; they are read one step later.
    auto add_up = [&](uint32_t step) {
        const unsigned char* x = shared + step % X_RING * X_BYTES;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t b = i % 2, at = token + (warp % 4 * 2 + i / 2) * 8;
            float2 sum = sums(staged<F>(x, at + lane / 4, b, lane % 4));
            float2* to = reinterpret_cast<float2*>(block_sums + (step % 2 * 2 + b) * TOKENS + at);
            if (lane < 4) to[lane] = sum;
        }
    };

    const uint32_t steps = (p.cols + STEP - 1) / STEP;
    for (uint32_t i = 0; i < X_RING - 1; i++) load_step<F>(p, shared, i);
    if (F::MINIMA) {
        cp_async_wait<X_RING - 2>();
        __syncthreads();
        add_up(0);
    }

    float acc[MT][NT][4] = {}, total[MT][NT][4] = {};
    auto end_segment = [&] {
#pragma unroll
        for (int i = 0; i < MT * NT * 4; i++) {
            total[i / (4 * NT)][i / 4 % NT][i % 4] += acc[i / (4 * NT)][i / 4 % NT][i % 4];
            acc[i / (4 * NT)][i / 4 % NT][i % 4] = 0.0f;
        }
    };
    uint32_t segment = 1, boundary = segment_begin(p.cols, 1);
    for (uint32_t step = 0; step < steps; step++) {
        // Of the three steps that are on their way, this one is there; with sums, the next one too.
        cp_async_wait<F::MINIMA ? X_RING - 3 : X_RING - 2>();
        __syncthreads();
        load_step<F>(p, shared, step + X_RING - 1);
        if (F::MINIMA && step + 1 < steps) add_up(step + 1);
        if (step * STEP == boundary) {
            end_segment();
            boundary = segment_begin(p.cols, ++segment);
        }
        const unsigned char* x = shared + step % X_RING * X_BYTES;
        const unsigned char* w = shared + X_RING * X_BYTES +
                                 (step * STEP / F::STAGE % W_RING<F> * TILES + tile) * STAGE_BYTES<F>;
        const uint32_t before = step * STEP % F::STAGE / 32;
        const uint32_t blocks = min(STEP, p.cols - step * STEP) / 32;
        for (uint32_t b = 0; b < blocks; b++) {
            auto w0 = block_at<F>(w, before + b, lane);
            auto w1 = block_at<F>(w + STAGE_BYTES<F>, before + b, lane);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                Share now = staged<F>(x, token + 8 * n + lane / 4, b, lane % 4);
                const float* from = block_sums + (step % 2 * 2 + b) * TOKENS + token + 8 * n + lane % 4 * 2;
                float2 sum = F::MINIMA ? *reinterpret_cast<const float2*>(from) : make_float2(0.0f, 0.0f);
                multiply<F>(acc[0][n], w0, now, sum);
                multiply<F>(acc[1][n], w1, now, sum);
            }
        }
    }
    end_segment();

    // Nobody reads the rings any more.
    __syncthreads();
    float* tokens = reinterpret_cast<float*>(shared);
    static_assert(TOKENS * (16 * TILES + 4) * 4 <= MANY_BYTES<F>, "the sums take the rings' place");
#pragma unroll
    for (int i = 0; i < MT * NT; i++)
        put<16 * TILES>(tokens, total[i / NT][i % NT], token + 8 * (i % NT), 16 * (tile + i / NT), lane);
    __syncthreads();
    finish<16 * TILES>(p, tokens, 1, TOKENS, blockIdx.y * TOKENS, blockIdx.x * (16 * TILES));
}

}  // namespace linear
