//! Copies of whole blocks of the KV cache, in all layers. (Keys and values are written by rope.cu.)

#include "ptx.cuh"

/// Copies what block `pairs[2i]` holds to block `pairs[2i + 1]`: one block of threads a pair and layer. `layers` holds where
/// each begins, in KiB, and the 16-byte words of one of its blocks.
KERNEL_BOUNDS(256, 1, kv_write_copy_blocks, const uint32_t* pairs, const uint32_t* layers, unsigned char* cache) {
    const uint32_t *pair = pairs + 2 * blockIdx.x, *layer = layers + 2 * blockIdx.y;
    uint4* base = reinterpret_cast<uint4*>(cache + size_t(layer[0]) * 1024);
    const uint4* from = base + size_t(pair[0]) * layer[1];
    uint4* to = base + size_t(pair[1]) * layer[1];
    for (uint32_t i = threadIdx.x; i < layer[1]; i += 256) to[i] = from[i];
}
