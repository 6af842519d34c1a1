//! out = act(gate) * up, both side by side (mod.rs has the contract).
#include "ptx.cuh"

#include "common.cuh"

#include "activation.cuh"

namespace act_mul {

DEVICE uint32_t pair(uint32_t gate, uint32_t up, uint32_t gelu) {
    return pack_bf16(activation::apply(bf16_low(gate), gelu) * bf16_low(up),
                     activation::apply(bf16_high(gate), gelu) * bf16_high(up));
}

}  // namespace act_mul

// A thread has eight columns of a row, which lie at multiples of 16 bytes.
KERNEL(act_mul_by8, const bf16* x, bf16* out, uint32_t width, uint32_t x_stride, uint32_t out_stride, uint32_t gelu) {
    uint32_t col = 8 * (blockIdx.x * blockDim.x + threadIdx.x);
    if (col >= width) return;
    const bf16* row = x + size_t(blockIdx.y) * x_stride + col;
    uint4 gate = *reinterpret_cast<const uint4*>(row), up = *reinterpret_cast<const uint4*>(row + width);
    uint4 result = make_uint4(act_mul::pair(gate.x, up.x, gelu), act_mul::pair(gate.y, up.y, gelu),
                              act_mul::pair(gate.z, up.z, gelu), act_mul::pair(gate.w, up.w, gelu));
    *reinterpret_cast<uint4*>(out + size_t(blockIdx.y) * out_stride + col) = result;
}

// One column, wherever it lies.
KERNEL(act_mul_by1, const bf16* x, bf16* out, uint32_t width, uint32_t x_stride, uint32_t out_stride, uint32_t gelu) {
    uint32_t col = blockIdx.x * blockDim.x + threadIdx.x;
    if (col >= width) return;
    const bf16* row = x + size_t(blockIdx.y) * x_stride + col;
    float result = activation::apply(to_float(row[0]), gelu) * to_float(row[width]);
    out[size_t(blockIdx.y) * out_stride + col] = to_bf16(result);
}
