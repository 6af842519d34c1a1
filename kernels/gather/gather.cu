// out[i] = x[indices[i]]: rows of bf16. A row of threads copies 16 bytes each.
#include "ptx.cuh"

KERNEL(gather_rows, const bf16* x, uint32_t stride, uint32_t rows, const uint32_t* indices, bf16* out, uint32_t cols) {
    const uint32_t row = indices[blockIdx.x];
    if (row >= rows) return;
    const uint4* from = reinterpret_cast<const uint4*>(x + size_t(row) * stride);
    uint4* to = reinterpret_cast<uint4*>(out + size_t(blockIdx.x) * cols);
    for (uint32_t i = threadIdx.x; i < cols / 8; i += blockDim.x) to[i] = from[i];
}
