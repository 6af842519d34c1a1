//! y = x W' + b for W in each format (mod.rs has the contract, cuda.rs chooses the kernel).
#include "ptx.cuh"

#include "common.cuh"

#include "few.cuh"
#include "many.cuh"

namespace linear {
constexpr int RING1 = 3, RING4 = 2;
}

#define PARAMS                                                                                                              \
    const unsigned char *w, const float *bias, const bf16 *x, void *y, uint32_t rows, uint32_t cols, uint32_t features,    \
        uint32_t x_stride, uint32_t y_stride, uint32_t output
#define PROBLEM {w, bias, x, y, rows, cols, features, x_stride, y_stride, output}

// Up to 8 rows of x, up to 32 a block, any number.
#define LINEAR(name, F)                                                                                                     \
    KERNEL_BOUNDS(256, 3, linear_few1_##name, PARAMS) {                                                                     \
        DYNAMIC_SHARED(shared);                                                                                             \
        linear::few<linear::F, 1, 1, linear::RING1>(PROBLEM, shared);                                                       \
    }                                                                                                                       \
    KERNEL_BOUNDS(256, 2, linear_few4_##name, PARAMS) {                                                                     \
        DYNAMIC_SHARED(shared);                                                                                             \
        linear::few<linear::F, 4, 2, linear::RING4>(PROBLEM, shared);                                                       \
    }                                                                                                                       \
    KERNEL_BOUNDS(256, 1, linear_many_##name, PARAMS) {                                                                     \
        DYNAMIC_SHARED(shared);                                                                                             \
        linear::many<linear::F>(PROBLEM, shared);                                                                           \
    }

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
