//! What both matrix kernels share, so that they add in the same order: a block's product, the segments of K, the
//! epilogue.
#pragma once

#include "../act_mul/activation.cuh"
#include "formats.cuh"

namespace linear {

/// What to compute: y = factor x W' + bias. `w` holds the records of 16 rows after each other, tile after tile. The
/// factor is that of a norm, if eps is not negative: then each row of x has sums of squares behind it.
struct Problem {
    const unsigned char* w;
    const float* bias;
    const bf16* x;
    void* y;
    uint32_t rows, cols, features, x_stride, y_stride, output;
    float eps;
    // Of OUT_STREAM: the next norm's weight, and its rows.
    const float* next_weight;
    bf16* next;
    uint32_t next_stride;
};

/// What y holds (cuda.rs has the same numbers). Stream: what was there and the product. Gated: rows of W are eight of
/// the gate, then eight of up, in turn.
enum Output : uint32_t { OUT_BF16 = 0, OUT_F32 = 1, OUT_STREAM = 2, OUT_SILU = 3, OUT_GELU = 4 };

/// Columns that have one sum of squares.
constexpr uint32_t SQUARES = 16;

/// K is cut into segments at multiples of 256, by its length alone. Each is summed from zero, in ascending order, and
/// they are added in order: so warps can share a row's sum, and its bits do not depend on whether they do.
constexpr uint32_t UNIT = 256, MAX_SEGMENTS = 8;

DEVICE uint32_t units(uint32_t cols) { return (cols + UNIT - 1) / UNIT; }

DEVICE uint32_t segments(uint32_t cols) { return min(units(cols), MAX_SEGMENTS); }

DEVICE uint32_t segment_begin(uint32_t cols, uint32_t segment) {
    return min(cols, segment * units(cols) / segments(cols) * UNIT);
}

/// Bytes of what is copied at a time of one tile.
template <class F> constexpr uint32_t STAGE_BYTES = F::STAGE / F::COLS * F::BYTES;

/// Tiles of 16 rows.
DEVICE uint32_t tiles(const Problem& p) {
    uint32_t rows = p.output >= OUT_SILU ? 2 * p.features : p.features;
    return (rows + 15) / 16;
}

/// Where the records of `tile` are that hold column `col`.
template <class F> DEVICE const unsigned char* records(const Problem& p, uint32_t tile, uint32_t col) {
    return p.w + (size_t(tile) * (p.cols / F::COLS) + col / F::COLS) * F::BYTES;
}

/// Block number `b` of the records at `from`.
template <class F> DEVICE auto block_at(const unsigned char* from, uint32_t b, uint32_t lane) {
    constexpr uint32_t blocks = F::COLS / 32;
    return F::block(from + b / blocks * F::BYTES, b % blocks, lane);
}

/// A lane's share of a token's 32 values of x: B operands of two k16 steps.
struct Share {
    uint32_t b[2][2];
};

/// The first of a block's columns that are lane t's; with SUB 16 it has as many 16 columns on.
template <class F> DEVICE uint32_t first_column(uint32_t t) { return (F::SUB == 32 ? 8 : 4) * t; }

/// From the token's row at the block's first column of this lane.
template <class F> DEVICE Share share(const bf16* x) {
    if (F::SUB == 32) {
        uint4 v = *reinterpret_cast<const uint4*>(x);
        return {{{v.x, v.y}, {v.z, v.w}}};
    }
    uint2 first = *reinterpret_cast<const uint2*>(x), second = *reinterpret_cast<const uint2*>(x + 16);
    return {{{first.x, first.y}, {second.x, second.y}}};
}

/// The sums of x over a block, of tokens 2 t and 2 t + 1.
DEVICE float2 sums(const Share& x) {
    const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
    float sum[4] = {};
    mma_bf16(sum, ones, x.b[0]);
    mma_bf16(sum, ones, x.b[1]);
    return make_float2(sum[0], sum[1]);
}

/// acc += a block's product with 8 tokens.
template <class F, int SCALES>
DEVICE void multiply(float (&acc)[4], const Block<SCALES>& w, const Share& x, float2 sum) {
    if constexpr (!F::SCALED) {
        mma_bf16(acc, w.a[0], x.b[0]);
        mma_bf16(acc, w.a[1], x.b[1]);
    } else {
#pragma unroll
        for (int s = 0; s < SCALES; s++) {
            float part[4] = {};
            mma_bf16(part, w.a[s], x.b[s]);
            if (SCALES == 1) mma_bf16(part, w.a[1], x.b[1]);
#pragma unroll
            for (int i = 0; i < 4; i++) acc[i] = fmaf(w.d[s][i / 2], part[i], acc[i]);
        }
    }
    if constexpr (F::MINIMA) {
#pragma unroll
        for (int i = 0; i < 4; i++) acc[i] = fmaf(w.m[i / 2], i % 2 ? sum.y : sum.x, acc[i]);
    }
}

/// Puts a fragment into an array of tokens, FEATURES + 4 floats each: four more, so that its lanes meet different
/// banks.
template <int FEATURES>
DEVICE void put(float* tokens, const float (&acc)[4], uint32_t token, uint32_t feature) {
    const uint32_t lane = lane_id();
    float* at = tokens + (token + lane % 4 * 2) * (FEATURES + 4) + feature + lane / 4;
    at[0] = acc[0];
    at[FEATURES + 4] = acc[1];
    at[8] = acc[2];
    at[FEATURES + 4 + 8] = acc[3];
}

/// The factors of the norm of `tokens` tokens, from their squares: half a warp a token. All of a lane's loads are under
/// way at once, and the tokens of `few` take no more than two rounds: the weights are waiting.
DEVICE void norm_factors(const Problem& p, uint32_t tokens, uint32_t token, float* factors) {
    if (p.eps < 0.0f) return;
    constexpr uint32_t LANES = 16;
    for (uint32_t t = threadIdx.x / LANES; t < tokens; t += blockDim.x / LANES) {
        const bf16* row = p.x + size_t(min(token + t, p.rows - 1)) * p.x_stride;
        const float2* squares = reinterpret_cast<const float2*>(row + p.cols);
        float sum = 0.0f;
#pragma unroll 8
        for (uint32_t i = threadIdx.x % LANES; i < p.cols / (2 * SQUARES); i += LANES) {
            float2 two = squares[i];
            sum += two.x + two.y;
        }
#pragma unroll
        for (uint32_t step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
        if (threadIdx.x % LANES == 0) factors[t] = rsqrtf(sum / float(p.cols) + p.eps);
    }
}

/// Adds a value to the stream and weighs the sum for the next norm; lanes of 16 columns add up their squares. The whole
/// warp comes here.
DEVICE void extend_stream(const Problem& p, bool exists, uint32_t token, uint32_t col, float value) {
    float* stream = static_cast<float*>(p.y) + size_t(token) * p.y_stride + col;
    float sum = exists ? *stream + value : 0.0f, squares = sum * sum;
#pragma unroll
    for (int step = SQUARES / 2; step > 0; step /= 2) squares += __shfl_xor_sync(ALL_LANES, squares, step);
    if (!exists) return;
    *stream = sum;
    bf16* next = p.next + size_t(token) * p.next_stride;
    next[col] = to_bf16(sum * p.next_weight[col]);
    if (col % SQUARES == 0) reinterpret_cast<float*>(next + p.features)[col / SQUARES] = squares;
}

/// The block's result: adds `parts` arrays of `tokens` tokens by FEATURES rows of W in order, then factor, bias and what
/// is to become of it.
template <int FEATURES>
DEVICE void finish(const Problem& p, const float* sums, uint32_t parts, const float* factors, uint32_t tokens,
                   uint32_t token, uint32_t row) {
    const bool gated = p.output >= OUT_SILU;
    const uint32_t width = gated ? FEATURES / 2 : FEATURES, part = tokens * (FEATURES + 4);
    const uint32_t first = gated ? row / 2 : row;
    auto value = [&](uint32_t t, uint32_t f) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < parts; i++) sum += sums[i * part + t * (FEATURES + 4) + f];
        if (p.eps >= 0.0f) sum *= factors[t];
        return p.bias ? sum + p.bias[row + f] : sum;
    };
    for (uint32_t i = threadIdx.x; i < tokens * width; i += blockDim.x) {
        uint32_t t = i / width, f = i % width;
        const bool exists = token + t < p.rows && first + f < p.features;
        if (p.output == OUT_STREAM) extend_stream(p, exists, token + t, first + f, value(t, f));
        if (p.output == OUT_STREAM || !exists) continue;
        size_t at = size_t(token + t) * p.y_stride + first + f;
        if (gated) {
            uint32_t gate = f / 8 * 16 + f % 8;
            float act = activation::apply(value(t, gate), p.output - OUT_SILU);
            static_cast<bf16*>(p.y)[at] = to_bf16(act * value(t, gate + 8));
        } else if (p.output == OUT_F32) {
            static_cast<float*>(p.y)[at] = value(t, f);
        } else {
            static_cast<bf16*>(p.y)[at] = to_bf16(value(t, f));
        }
    }
}

}  // namespace linear
