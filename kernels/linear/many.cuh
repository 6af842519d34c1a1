//! Many rows of x: a block has 128 rows of W and 64 of x for each of GROUPS groups of four warps, a warp 32 by 64 of
//! them. Both come through rings in shared memory, x by 64 columns a step, W by a stage of the format. A block walks
//! all of K.
#pragma once

#include "tile.cuh"

namespace linear {

constexpr uint32_t STEP = 64, X_RING = 4, TILES = 8;

/// Stages of W in use while steps up to three ahead are being loaded.
template <class F> constexpr uint32_t W_RING = (X_RING - 1 + F::STAGE / STEP - 1) / (F::STAGE / STEP) + 1;

/// A block's sizes and shared memory: rings of x and W; for minima, two buffers of the sums of x over a step's blocks;
/// a norm's factors.
template <class F, int GROUPS> struct Shape {
    static constexpr uint32_t TOKENS = 64 * GROUPS, WARPS = 4 * GROUPS;
    static constexpr uint32_t X_BYTES = TOKENS * STEP * 2, W_BYTES = TILES * STAGE_BYTES<F>;
    static constexpr uint32_t W_AT = X_RING * X_BYTES, SUMS_AT = W_AT + W_RING<F> * W_BYTES;
    static constexpr uint32_t FACTORS_AT = SUMS_AT + (F::MINIMA ? 2 * 2 * TOKENS * 4 : 0);
};

/// Where 16 bytes of a token's step lie: turned by the token, so that lanes that read together meet different banks.
DEVICE uint32_t x_offset(uint32_t token, uint32_t chunk) {
    return token * (STEP * 2) + ((chunk ^ ((token & 1) << 2 | (token & 2))) << 4);
}

/// `share` from a step in shared memory.
template <class F> DEVICE Share staged(const unsigned char* x, uint32_t token, uint32_t b, uint32_t t) {
    if (F::SUB == 32) {
        uint4 v = at<uint4>(x + x_offset(token, 4 * b + t), 0);
        return {{{v.x, v.y}, {v.z, v.w}}};
    }
    uint2 first = at<uint2>(x + x_offset(token, 4 * b + t / 2), t % 2);
    uint2 second = at<uint2>(x + x_offset(token, 4 * b + 2 + t / 2), t % 2);
    return {{{first.x, first.y}, {second.x, second.y}}};
}

/// Starts the copies of a step: x, and W where one of its stages begins. Tokens and rows of W that do not exist stay
/// what they were: no sum that is kept meets them.
template <class F, int GROUPS> DEVICE void load_step(const Problem& p, unsigned char* shared, uint32_t step) {
    using S = Shape<F, GROUPS>;
    const uint32_t first = step * STEP;
    if (first < p.cols) {
        unsigned char* x = shared + step % X_RING * S::X_BYTES;
        const uint32_t chunk = threadIdx.x % 8, col = first + 8 * chunk;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t token = threadIdx.x / 8 + S::TOKENS / 4 * i, row = blockIdx.y * S::TOKENS + token;
            if (row < p.rows && col < p.cols)
                cp_async16(x + x_offset(token, chunk), p.x + size_t(row) * p.x_stride + col);
        }
        if (first % F::STAGE == 0) {
            unsigned char* w = shared + S::W_AT + first / F::STAGE % W_RING<F> * S::W_BYTES;
            const uint32_t bytes = min(uint32_t(F::STAGE), p.cols - first) / F::COLS * F::BYTES;
            for (uint32_t i = warp_id(); i < TILES && blockIdx.x * TILES + i < tiles(p); i += S::WARPS) {
                const unsigned char* from = records<F>(p, blockIdx.x * TILES + i, first);
                for (uint32_t j = 16 * lane_id(); j < bytes; j += 512) cp_async16(w + i * STAGE_BYTES<F> + j, from + j);
            }
        }
    }
    cp_async_commit();
}

template <class F, int GROUPS> DEVICE void many(const Problem& p, unsigned char* shared) {
    using S = Shape<F, GROUPS>;
    constexpr int MT = 2, NT = 8;
    const uint32_t warp = warp_id(), lane = lane_id();
    const uint32_t tile = warp % 4 * MT, token = warp / 4 * (8 * NT);
    float* block_sums = reinterpret_cast<float*>(shared + S::SUMS_AT);

    // Each warp adds up a quarter of its group's tokens; they are read one step later.
    auto add_up = [&](uint32_t step) {
        const unsigned char* x = shared + step % X_RING * S::X_BYTES;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t b = i % 2, first = token + (warp % 4 * 2 + i / 2) * 8;
            float2 sum = sums(staged<F>(x, first + lane / 4, b, lane % 4));
            float2* to = reinterpret_cast<float2*>(block_sums + (step % 2 * 2 + b) * S::TOKENS + first);
            if (lane < 4) to[lane] = sum;
        }
    };

    const uint32_t steps = ceil_div(p.cols, STEP);
    for (uint32_t i = 0; i < X_RING - 1; i++) load_step<F, GROUPS>(p, shared, i);
    float* factors = reinterpret_cast<float*>(shared + S::FACTORS_AT);
    norm_factors(p, S::TOKENS, blockIdx.y * S::TOKENS, factors);
    if (F::MINIMA) {
        cp_async_wait<X_RING - 2>();
        __syncthreads();
        add_up(0);
    }

    float acc[MT * NT][4] = {}, total[MT * NT][4] = {};
    auto end_segment = [&] {
#pragma unroll
        for (int i = 0; i < MT * NT * 4; i++) {
            total[i / 4][i % 4] += acc[i / 4][i % 4];
            acc[i / 4][i % 4] = 0.0f;
        }
    };
    uint32_t segment = 1, boundary = segment_begin(p.cols, 1);
    for (uint32_t step = 0; step < steps; step++) {
        // Of the three steps that are on their way, this one is there; with sums, the next one too.
        cp_async_wait<F::MINIMA ? X_RING - 3 : X_RING - 2>();
        __syncthreads();
        load_step<F, GROUPS>(p, shared, step + X_RING - 1);
        if (F::MINIMA && step + 1 < steps) add_up(step + 1);
        if (step * STEP == boundary) {
            end_segment();
            boundary = segment_begin(p.cols, ++segment);
        }
        const unsigned char* x = shared + step % X_RING * S::X_BYTES;
        const unsigned char* w = shared + S::W_AT + step * STEP / F::STAGE % W_RING<F> * S::W_BYTES;
        const unsigned char* mine = w + tile * STAGE_BYTES<F>;
        const uint32_t before = step * STEP % F::STAGE / 32, blocks = min(STEP, p.cols - step * STEP) / 32;
        for (uint32_t b = 0; b < blocks; b++) {
            auto w0 = block_at<F>(mine, before + b, lane);
            auto w1 = block_at<F>(mine + STAGE_BYTES<F>, before + b, lane);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                Share share = staged<F>(x, token + 8 * n + lane / 4, b, lane % 4);
                const float* from = block_sums + (step % 2 * 2 + b) * S::TOKENS + token + 8 * n + lane % 4 * 2;
                float2 sum = F::MINIMA ? *reinterpret_cast<const float2*>(from) : make_float2(0.0f, 0.0f);
                multiply<F>(acc[n], w0, share, sum);
                multiply<F>(acc[NT + n], w1, share, sum);
            }
        }
    }
    end_segment();

    // Nobody reads the rings any more.
    __syncthreads();
    float* tokens = reinterpret_cast<float*>(shared);
    constexpr uint32_t FEATURES = 16 * TILES;
    static_assert(S::TOKENS * (FEATURES + 4) * 4 <= S::FACTORS_AT, "the sums take the rings' place");
#pragma unroll
    for (int i = 0; i < MT * NT; i++) put<FEATURES>(tokens, total[i], token + 8 * (i % NT), 16 * (tile + i / NT));
    __syncthreads();
    finish<FEATURES>(p, tokens, 1, factors, S::TOKENS, blockIdx.y * S::TOKENS, blockIdx.x * FEATURES);
}

}  // namespace linear
