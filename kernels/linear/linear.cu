//! y = x W' + b for W in each format (mod.rs has the contract, cuda.rs chooses the kernel).
#include "ptx.cuh"

#include "common.cuh"

#include "few.cuh"
#include "many.cuh"

#define PARAMS                                                                                                         \
    const unsigned char *w, const float *bias, const bf16 *x, void *y, uint32_t rows, uint32_t cols,                   \
        uint32_t features, uint32_t x_stride, uint32_t y_stride, uint32_t output, float eps,                           \
        const float *next_weight, bf16 *next, uint32_t next_stride
#define KERNEL_OF(threads, blocks, name, ...)                                                                          \
    KERNEL_BOUNDS(threads, blocks, linear_##name, PARAMS) {                                                            \
        DYNAMIC_SHARED(shared);                                                                                        \
        linear::Problem problem = {w,        bias,     x,      y,   rows,        cols, features,                       \
                                   x_stride, y_stride, output, eps, next_weight, next, next_stride};                   \
        linear::__VA_ARGS__(problem, shared);                                                                          \
    }

// Up to 8 rows of x; up to 32 a block; 64 a block; 128. Numbers behind the format: fragments of 8 rows of x, tiles of
// W, stages of a warp's ring.
#define LINEAR(name, F)                                                                                                \
    KERNEL_OF(256, 4, few1_##name, few<linear::F, 1, 1, 3>)                                                            \
    KERNEL_OF(256, 2, few4_##name, few<linear::F, 4, 2, 2>)                                                            \
    KERNEL_OF(128, 2, many1_##name, many<linear::F, 1>)                                                                \
    KERNEL_OF(256, 1, many2_##name, many<linear::F, 2>)

LINEAR(q4_0, q4_0)
LINEAR(q4_1, q4_1)
LINEAR(q5_0, q5_0)
LINEAR(q5_1, q5_1)
LINEAR(q8_0, q8_0)
LINEAR(q4_k, q4_k)
LINEAR(q5_k, q5_k)
LINEAR(q6_k, q6_k)
LINEAR(int4_32, int4_32)
LINEAR(int4_128, int4_128)
LINEAR(bf16, bf16_rows)
