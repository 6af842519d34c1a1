//! Residual stream and norms between two layers, a block a row: what was added to the stream is normed first where the
//! model has a norm there, then the stream is normed for what comes next. The row stays in registers all the while.

#include "ptx.cuh"

#include "common.cuh"

namespace rms_norm {

constexpr int WIDTH = 8; // columns that a thread takes at a time: sixteen bytes of bf16

struct Shape {
    uint32_t cols;
    bool by8; // all rows allow accesses of sixteen bytes
};

DEVICE void load(const float* row, uint32_t first, Shape shape, float (&x)[WIDTH]) {
    if (shape.by8 && first < shape.cols) {
        float4 low = *reinterpret_cast<const float4*>(row + first), high = *reinterpret_cast<const float4*>(row + first + 4);
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] = first + i < shape.cols ? row[first + i] : 0.0f;
    }
}

DEVICE void load(const bf16* row, uint32_t first, Shape shape, float (&x)[WIDTH]) {
    if (shape.by8 && first < shape.cols) {
        unpack_bf16(load16(row + first), x);
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) x[i] = first + i < shape.cols ? to_float(row[first + i]) : 0.0f;
    }
}

DEVICE void store(float* row, uint32_t first, Shape shape, const float (&x)[WIDTH]) {
    if (shape.by8 && first < shape.cols) {
        *reinterpret_cast<float4*>(row + first) = make_float4(x[0], x[1], x[2], x[3]);
        *reinterpret_cast<float4*>(row + first + 4) = make_float4(x[4], x[5], x[6], x[7]);
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            if (first + i < shape.cols) row[first + i] = x[i];
    }
}

DEVICE void store(bf16* row, uint32_t first, Shape shape, const float (&x)[WIDTH]) {
    if (shape.by8 && first < shape.cols) {
        store16(row + first, pack_bf16(x));
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i++)
            if (first + i < shape.cols) row[first + i] = to_bf16(x[i]);
    }
}

/// A row: thread `t` has columns `8 (t + THREADS c)` and the seven behind, for each chunk c.
template <int THREADS, int CHUNKS> struct Row {
    float x[CHUNKS][WIDTH];

    DEVICE static uint32_t first(int chunk) { return WIDTH * (threadIdx.x + THREADS * chunk); }

    template <class T> DEVICE void read(const T* row, Shape shape) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) load(row, first(c), shape, x[c]);
    }

    template <class T> DEVICE void write(T* row, Shape shape) const {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) store(row, first(c), shape, x[c]);
    }

    DEVICE void add(const Row& other) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < WIDTH; i++) x[c][i] += other.x[c][i];
    }

    DEVICE void norm(const float* weight, float eps, Shape shape) {
        Row weights; // asked for before the block waits for its sum
        weights.read(weight, shape);
        float squares = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < WIDTH; i++) squares += x[c][i] * x[c][i];
        float scale = rsqrtf(block_sum<THREADS>(squares) / float(shape.cols) + eps);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < WIDTH; i++) x[c][i] *= scale * weights.x[c][i];
    }
};

} // namespace rms_norm

/// residual += post ? norm(delta) * post : delta, where there is a delta; out = norm(residual) * weight.
#define RMS_NORM(threads, chunks)                                                                                      \
    KERNEL_BOUNDS(threads, 1, rms_norm_##threads##x##chunks, float* residual, const bf16* delta, const float* post,   \
                  const float* weight, bf16* out, uint32_t cols, uint32_t residual_stride, uint32_t delta_stride,      \
                  uint32_t out_stride, uint32_t by8, float eps) {                                                      \
        rms_norm::Shape shape{cols, by8 != 0};                                                                         \
        size_t t = blockIdx.x;                                                                                         \
        rms_norm::Row<threads, chunks> row;                                                                            \
        row.read(residual + t * residual_stride, shape);                                                               \
        if (delta) {                                                                                                   \
            rms_norm::Row<threads, chunks> added;                                                                      \
            added.read(delta + t * delta_stride, shape);                                                               \
            if (post) added.norm(post, eps, shape);                                                                    \
            row.add(added);                                                                                            \
            row.write(residual + t * residual_stride, shape);                                                          \
        }                                                                                                              \
        row.norm(weight, eps, shape);                                                                                  \
        row.write(out + t * out_stride, shape);                                                                        \
    }

// Of one chunk for as long as a block can be: then every load of a row is under way at once.
RMS_NORM(128, 1)
RMS_NORM(256, 1)
RMS_NORM(512, 1)
RMS_NORM(512, 2)
RMS_NORM(512, 4)
