//! Residual stream and norms where no product can do it (see linear/tile.cuh): behind the embedding, and where the model
//! norms what is added to the stream. A block has a row, which stays in registers all the while.

#include "ptx.cuh"

#include "common.cuh"

namespace rms_norm {

constexpr int WIDTH = 8; // columns that a thread takes at a time: sixteen bytes of bf16

DEVICE void load(const float* row, float (&x)[WIDTH]) {
    float4 low = *reinterpret_cast<const float4*>(row), high = *reinterpret_cast<const float4*>(row + 4);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}
DEVICE void load(const bf16* row, float (&x)[WIDTH]) { unpack_bf16(load16(row), x); }

/// A row: thread `t` has columns `8 (t + THREADS c)` and the seven behind, for each chunk c; zeros behind the last.
template <int THREADS, int CHUNKS> struct Row {
    float x[CHUNKS][WIDTH];

    DEVICE static uint32_t first(int chunk) { return WIDTH * (threadIdx.x + THREADS * chunk); }

    template <class T> DEVICE void read(const T* row, uint32_t cols) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
            for (int i = 0; i < WIDTH; i++) x[c][i] = 0.0f;
            if (first(c) < cols) load(row + first(c), x[c]);
        }
    }

    DEVICE void write(float* row, uint32_t cols) const {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            if (first(c) >= cols) continue;
            float* to = row + first(c);
            *reinterpret_cast<float4*>(to) = make_float4(x[c][0], x[c][1], x[c][2], x[c][3]);
            *reinterpret_cast<float4*>(to + 4) = make_float4(x[c][4], x[c][5], x[c][6], x[c][7]);
        }
    }

    /// x += delta
    DEVICE void add(const Row& delta) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < WIDTH; i++) x[c][i] += delta.x[c][i];
    }

    DEVICE void scale(const Row& weights, float factor) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < WIDTH; i++) x[c][i] *= factor * weights.x[c][i];
    }

    DEVICE float squares(int chunk) const {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum += x[chunk][i] * x[chunk][i];
        return sum;
    }

    DEVICE void norm(const float* weight, float eps, uint32_t cols) {
        Row weights; // asked for before the block waits for its sum
        weights.read(weight, cols);
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) sum += squares(c);
        scale(weights, rsqrtf(block_sum<THREADS>(sum) / float(cols) + eps));
    }

    /// out = x * weight, and behind it the squares of each 16 columns of x.
    DEVICE void weigh(const float* weight, bf16* out, uint32_t cols) const {
        float* sums = reinterpret_cast<float*>(out + cols);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            float sum = squares(c);
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            if (first(c) >= cols) continue;
            float w[WIDTH];
            load(weight + first(c), w);
#pragma unroll
            for (int i = 0; i < WIDTH; i++) w[i] *= x[c][i];
            store16(out + first(c), pack_bf16(w));
            if (threadIdx.x % 2 == 0) sums[first(c) / 16] = sum;
        }
    }
};

} // namespace rms_norm

/// residual += norm(delta) * post, where there is a delta; out = residual * weight, with sums of squares.
#define RMS_NORM(threads, chunks)                                                                                      \
    KERNEL_BOUNDS(threads, 1, rms_norm_##threads##x##chunks, float* residual, const bf16* delta, const float* post,   \
                  const float* weight, bf16* out, uint32_t cols, uint32_t residual_stride, uint32_t delta_stride,      \
                  uint32_t out_stride, float eps) {                                                                    \
        size_t t = blockIdx.x;                                                                                         \
        rms_norm::Row<threads, chunks> row;                                                                            \
        row.read(residual + t * residual_stride, cols);                                                                \
        if (delta) {                                                                                                   \
            rms_norm::Row<threads, chunks> added;                                                                      \
            added.read(delta + t * delta_stride, cols);                                                                \
            added.norm(post, eps, cols);                                                                               \
            row.add(added);                                                                                            \
            row.write(residual + t * residual_stride, cols);                                                           \
        }                                                                                                              \
        row.weigh(weight, out + t * out_stride, cols);                                                                 \
    }

// Of one chunk for as long as a block can be: then every load of a row is under way at once.
RMS_NORM(128, 1)
RMS_NORM(256, 1)
RMS_NORM(512, 1)
RMS_NORM(512, 2)
RMS_NORM(512, 4)
