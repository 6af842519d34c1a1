//! What attention.cu works on: shapes, which part of a batch a block is busy with, and tiles on their way into shared
//! memory.
#pragma once

#include "../kv_write/cache.cuh"
#include "common.cuh"
#include "ptx.cuh"

namespace attention {

constexpr uint32_t TILE = 64;    // positions that are met at once
constexpr uint32_t PIECE = 256;  // positions that are summed before they go into the totals
constexpr uint32_t WEIGHT_ROW_BYTES = 2 * TILE + 16;
#define NOTHING (-INFINITY)

struct Args {
    const bf16* q;
    uint32_t q_stride;
    const unsigned char* cache; // the layer
    uint32_t format, dim, kv_heads, group; // tiles of formats other than bf16 are converted in shared memory
    uint32_t window; // positions that a row sees
    float factor;    // of scores, in exponents of 2
    float softcap, bend;
    const uint32_t *cu_seqlens_q, *context_lens, *block_tables, *cu_blocks;
    uint32_t sequences;
    uint32_t min_rows, max_rows; // this launch is for the sequences with more than min_rows rows a KV head, up to max_rows
    uint32_t split_below;        // row tiles below which pieces are spread over blocks
    float* partials;
    uint32_t* counters;
    uint32_t capacity, partial_rows; // items that the workspace has room for, and rows of each
    bf16* out;
    uint32_t out_stride;
};

/// A block's shape: ROW_WARPS times COL_WARPS warps. Those of a row share its 16 rows: each computes the scores of its part of
/// a tile's positions, and its part of the columns of the result.
template <int DIM_, int ROW_WARPS_, int COL_WARPS_> struct Shape {
    static constexpr int DIM = DIM_, ROW_WARPS = ROW_WARPS_, COL_WARPS = COL_WARPS_;
    static constexpr int THREADS = 32 * ROW_WARPS * COL_WARPS, ROWS = 16 * ROW_WARPS;
    static constexpr int STEPS = DIM / 16;               // k16 steps of a score
    static constexpr int SCORES = TILE / 8 / COL_WARPS;  // n8 tiles of a warp's scores
    static constexpr int OUTS = DIM / 8 / COL_WARPS;     // n8 tiles of a warp's results
    static constexpr int ROW_BYTES = 2 * DIM + 16;       // so that ldmatrix finds eight rows in different banks
    static constexpr int SIDE_BYTES = TILE * ROW_BYTES;  // the keys, or the values, of a tile
    static constexpr int SLOT_BYTES = 2 * SIDE_BYTES;
    // Dynamic shared memory, as kernels/attention/cuda.rs asks for it: two slots, then what warps of a row
    // exchange, then 16 bytes more.
    static constexpr int WEIGHTS_AT = 2 * SLOT_BYTES;
    static constexpr int MAXIMA_AT = WEIGHTS_AT + (COL_WARPS > 1 ? ROWS * int(WEIGHT_ROW_BYTES) : 0);
    static constexpr int ARRIVED_AT = MAXIMA_AT + (COL_WARPS > 1 ? ROWS * COL_WARPS * 4 : 0);
    // Within a slot that holds codes: the scales of its keys, then of its values.
    static constexpr int SCALES_AT = 2 * TILE * DIM;
    static_assert(OUTS % 2 == 0 && SCORES % 2 == 0, "ldmatrix brings two n8 tiles");
    static_assert(2 * TILE * DIM / 16 % THREADS == 0, "all lanes take part in shuffles");
};

/// The first position that a row sees whose last is before `end`.
DEVICE uint32_t start_of(const Args& a, uint32_t end) { return end > a.window ? end - a.window : 0; }

/// A sequence's share of the work.
struct Extent {
    uint32_t q_start, rows, context;
    uint32_t first_end; // of the positions that its first token sees
    uint32_t first_piece, pieces;
    uint32_t row_tiles; // none where the sequence is not this launch's, or padding
};

template <int ROWS> DEVICE Extent extent_of(const Args& a, uint32_t s) {
    Extent e = {};
    if (s >= a.sequences) return e;
    e.q_start = a.cu_seqlens_q[s];
    e.context = a.context_lens[s];
    uint32_t q_len = a.cu_seqlens_q[s + 1] - e.q_start;
    e.rows = q_len * a.group;
    if (e.rows <= a.min_rows || e.rows > a.max_rows || e.context < q_len) return e;
    e.first_end = e.context - q_len + 1;
    e.first_piece = start_of(a, e.first_end) / PIECE;
    e.pieces = ceil_div(e.context, PIECE) - e.first_piece;
    e.row_tiles = ceil_div(e.rows, ROWS);
    return e;
}

/// One row tile of a KV head, and the tiles of positions that are to be met.
struct Item {
    uint32_t sequence, head;
    uint32_t q_start, rows, context, first_end;
    uint32_t first_row;
    uint32_t tile, end_tile;
    // Where pieces are spread over items: how many there are, and the number of this, of the first, and between two.
    uint32_t pieces, number, first_number, number_stride;
};

/// All of a launch's work, and a cursor that finds items of ascending number. Each warp has its own.
template <int ROWS> struct Plan {
    uint32_t items;
    bool split;
    uint32_t sequence = 0, before = 0; // the first of 32 sequences, and the items of those before it

    DEVICE Plan(const Args& a, uint32_t lane) {
        uint32_t whole = 0, pieces = 0;
        for (uint32_t s = 0; s < a.sequences; s += 32) {
            Extent e = extent_of<ROWS>(a, s + lane);
            whole += e.row_tiles;
            pieces += e.row_tiles * e.pieces;
        }
        whole = __reduce_add_sync(ALL_LANES, whole) * a.kv_heads;
        pieces = __reduce_add_sync(ALL_LANES, pieces) * a.kv_heads;
        split = whole < a.split_below && pieces <= a.capacity;
        items = split ? pieces : whole;
    }

    DEVICE Item find(const Args& a, uint32_t number, uint32_t lane) {
        for (;; sequence += 32) {
            Extent e = extent_of<ROWS>(a, sequence + lane);
            uint32_t count = e.row_tiles * a.kv_heads * (split ? e.pieces : 1), upto = count;
            for (int d = 1; d < 32; d *= 2) {
                uint32_t below = __shfl_up_sync(ALL_LANES, upto, d);
                if (lane >= uint32_t(d)) upto += below;
            }
            uint32_t holders = __ballot_sync(ALL_LANES, number - before < upto);
            if (holders != 0) {
                int holder = __ffs(holders) - 1;
                return item(a, sequence + holder, number, before + __shfl_sync(ALL_LANES, upto - count, holder));
            }
            before += __shfl_sync(ALL_LANES, upto, 31);
        }
    }

    /// Item `number` of all, of a sequence whose first is `first`. Of a sequence's row tiles the last come first: they see most.
    DEVICE Item item(const Args& a, uint32_t s, uint32_t number, uint32_t first) {
        Extent e = extent_of<ROWS>(a, s);
        uint32_t row_tile = (number - first) / a.kv_heads % e.row_tiles;
        uint32_t piece = (number - first) / a.kv_heads / e.row_tiles;
        Item i;
        i.sequence = s;
        i.head = (number - first) % a.kv_heads;
        i.q_start = e.q_start;
        i.rows = e.rows;
        i.context = e.context;
        i.first_end = e.first_end;
        i.first_row = (e.row_tiles - 1 - row_tile) * ROWS;
        uint32_t last_row = min(i.first_row + ROWS, e.rows) - 1;
        i.tile = start_of(a, e.first_end + i.first_row / a.group) / TILE;
        i.end_tile = ceil_div(e.first_end + last_row / a.group, TILE);
        i.number = number;
        i.number_stride = e.row_tiles * a.kv_heads;
        i.first_number = number - piece * i.number_stride;
        i.pieces = split ? e.pieces : 1;
        if (split) {
            uint32_t begin = (e.first_piece + piece) * (PIECE / TILE);
            i.tile = max(i.tile, begin);
            i.end_tile = min(i.end_tile, begin + PIECE / TILE);
        }
        return i;
    }
};

/// What a warp is, and the 16 rows it works on.
struct Warp {
    uint32_t lane, row, col;
    unsigned char* shared;
    uint32_t first_row;
    uint32_t end[2]; // of the positions that rows lane / 4 and lane / 4 + 8 see
    uint32_t least_end, greatest_end;

    DEVICE void set_rows(const Args& a, const Item& i) {
        first_row = i.first_row + row * 16;
        for (int h = 0; h < 2; h++) end[h] = end_of(a, i, first_row + h * 8 + lane / 4);
        least_end = end_of(a, i, first_row);
        greatest_end = end_of(a, i, first_row + 15);
    }

    DEVICE static uint32_t end_of(const Args& a, const Item& i, uint32_t r) {
        return i.first_end + min(r, i.rows - 1) / a.group;
    }
};

/// Starts copies of an item's tiles, as the cache has them, into slots of shared memory. Rows beyond the context become
/// zeros: nobody has written them, and a weight of 0 does not undo a NaN.
template <class S> struct Copier {
    const Args& a;
    const kv::Layout layout;
    const unsigned char* head_keys;
    const uint32_t* table;
    uint32_t context, lane;
    uint32_t ids, next_ids; // of 32 blocks: eight tiles. The next are asked for before they are needed

    DEVICE Copier(const Args& args, const Item& i, const Warp& w)
        : a(args), layout(args.format, args.kv_heads, args.dim), context(i.context), lane(w.lane) {
        head_keys = a.cache + i.head * layout.head;
        table = a.block_tables + a.cu_blocks[i.sequence];
        ids = read_ids(i.tile / 8);
        next_ids = read_ids(i.tile / 8 + 1);
    }

    DEVICE uint32_t read_ids(uint32_t group) const {
        uint32_t at = group * 32 + lane;
        return at * kv::BLOCK < context ? table[at] : 0;
    }

    DEVICE const unsigned char* source(uint32_t tile, uint32_t row, bool values) const {
        uint32_t block = __shfl_sync(ALL_LANES, ids, tile % 8 * 4 + row / kv::BLOCK);
        return head_keys + size_t(block) * layout.block + (values ? layout.side : 0);
    }

    /// Tiles in ascending order.
    DEVICE void start(uint32_t tile, unsigned char* slot) {
        if (a.format == kv::Q8) {
            copy<1>(tile, slot);
            // The scales: 16 bytes are those of four rows.
            if (threadIdx.x < 32) {
                uint32_t row = lane % 16 * 4;
                const unsigned char* from = source(tile, row, lane >= 16) + kv::BLOCK * a.dim + row % kv::BLOCK * 4;
                cp_async16_or_zero(slot + S::SCALES_AT + lane * 16, from, tile * TILE + row < context);
            }
        } else {
            copy<2>(tile, slot);
        }
        cp_async_commit();
        if (tile % 8 == 7) {
            ids = next_ids;
            next_ids = read_ids(tile / 8 + 2);
        }
    }

    template <int BYTES> DEVICE void copy(uint32_t tile, unsigned char* slot) const {
        constexpr int CHUNKS = S::DIM * BYTES / 16, ROW = BYTES == 1 ? S::DIM : S::ROW_BYTES;
#pragma unroll 4
        for (int n = 0; n < 2 * int(TILE) * CHUNKS / S::THREADS; n++) {
            uint32_t i = n * S::THREADS + threadIdx.x, chunk = i % CHUNKS, row = i / CHUNKS % TILE;
            bool values = i >= TILE * CHUNKS;
            const unsigned char* from = source(tile, row, values) + row % kv::BLOCK * layout.row + chunk * 16;
            bool valid = tile * TILE + row < context && chunk * 16 < layout.row;
            cp_async16_or_zero(slot + (i / CHUNKS) * ROW + chunk * 16, from, valid);
        }
    }
};

/// Converts a tile of another format to bf16; `valid` of its rows are there.
template <class S> DEVICE void convert(const Args& a, const unsigned char* from, unsigned char* to, uint32_t valid) {
    if (a.format == kv::F16) {
        for (uint32_t i = threadIdx.x; i < 2 * TILE * (S::DIM / 8); i += S::THREADS) {
            uint32_t at = i / (S::DIM / 8) * S::ROW_BYTES + i % (S::DIM / 8) * 16;
            const f16* x = reinterpret_cast<const f16*>(from + at);
            uint32_t pairs[4];
            for (int p = 0; p < 4; p++) pairs[p] = pack_bf16(to_float(x[2 * p]), to_float(x[2 * p + 1]));
            *reinterpret_cast<uint4*>(to + at) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
        return;
    }
    for (uint32_t i = threadIdx.x; i < 2 * TILE * (S::DIM / 16); i += S::THREADS) {
        uint32_t row = i / (S::DIM / 16), chunk = i % (S::DIM / 16);
        // The last four scales that are read may be partly nobody's.
        float scale = row % TILE < valid ? reinterpret_cast<const float*>(from + S::SCALES_AT)[row] : 0.0f;
        const uint4 codes = *reinterpret_cast<const uint4*>(from + row * S::DIM + chunk * 16);
        const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
        uint32_t pairs[8];
        for (int p = 0; p < 8; p++) {
            uint32_t two = words[p / 2] >> (p % 2 * 16);
            pairs[p] = pack_bf16(float(int8_t(two)) * scale, float(int8_t(two >> 8)) * scale);
        }
        uint4* out = reinterpret_cast<uint4*>(to + row * S::ROW_BYTES + chunk * 32);
        out[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        out[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }
}

} // namespace attention
