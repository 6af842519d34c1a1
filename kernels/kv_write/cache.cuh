//! The paged KV cache in a device's memory, one layer of it: `[blocks][keys, values][kv_heads][16][dim]`, row-major. With
//! Q8 the 16 scales of a head's rows follow its codes.
#pragma once

#include "ptx.cuh"

namespace kv {

constexpr uint32_t BLOCK = 16; // tokens of a block

enum Format : uint32_t { BF16 = 0, F16 = 1, Q8 = 2 };

/// Strides in bytes.
struct Layout {
    uint32_t row, head, side, block; // `side`: from a block's keys to its values

    DEVICE Layout(uint32_t format, uint32_t kv_heads, uint32_t dim) {
        row = format == Q8 ? dim : 2 * dim;
        head = BLOCK * row + (format == Q8 ? BLOCK * 4 : 0);
        side = kv_heads * head;
        block = 2 * side;
    }
};

} // namespace kv
