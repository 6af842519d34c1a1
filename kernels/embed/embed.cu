//! Rows of a packed weight, decoded (mod.rs has the contract).
#include "ptx.cuh"

#include "common.cuh"

#include "../linear/formats.cuh"

namespace embed {

/// A block has a token, a thread eight columns of it: what a lane of a product has of one row. A row that does not
/// exist is zeros.
template <class F>
DEVICE void row(const unsigned char* w, uint32_t rows, uint32_t cols, uint32_t id, float scale,
                                    float* out) {
    const uint32_t g = id % 8, h = id / 8 % 2;
    for (uint32_t i = threadIdx.x; i < cols / 8; i += blockDim.x) {
        const uint32_t t = i % 4, col = i / 4 * 32;
        float values[8] = {};
        if (id < rows) {
            const unsigned char* record = w + (size_t(id / 16) * (cols / F::COLS) + col / F::COLS) * F::BYTES;
            auto block = F::block(record, col % F::COLS / 32, 4 * g + t);
#pragma unroll
            for (int p = 0; p < 4; p++) {
                uint32_t pair = h ? block.a[p / 2][p % 2 * 2 + 1] : block.a[p / 2][p % 2 * 2];
                values[2 * p] = bf16_low(pair);
                values[2 * p + 1] = bf16_high(pair);
            }
            if constexpr (F::SCALED) {
                constexpr int steps = F::SUB == 32 ? 1 : 2;
                float m = F::MINIMA ? h ? block.m[1] : block.m[0] : 0.0f;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    float d = h ? block.d[j / 4 % steps][1] : block.d[j / 4 % steps][0];
                    values[j] = fmaf(d, values[j], m);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t c = F::SUB == 32 ? 8 * t + j : 16 * (j / 4) + 4 * t + j % 4;
            out[col + c] = scale * values[j];
        }
    }
}

}  // namespace embed

#define EMBED(name, F)                                                                                                 \
    KERNEL(embed_##name, const unsigned char* w, const uint32_t* ids, float* out, uint32_t rows, uint32_t cols,        \
           uint32_t out_stride, float scale) {                                                                         \
        embed::row<linear::F>(w, rows, cols, ids[blockIdx.x], scale, out + size_t(blockIdx.x) * out_stride);           \
    }

EMBED(q4_0, q4_0)
EMBED(q4_1, q4_1)
EMBED(q5_0, q5_0)
EMBED(q5_1, q5_1)
EMBED(q8_0, q8_0)
EMBED(q4_k, q4_k)
EMBED(q5_k, q5_k)
EMBED(q6_k, q6_k)
EMBED(int4_32, int4_32)
EMBED(int4_128, int4_128)
EMBED(bf16, bf16_rows)
