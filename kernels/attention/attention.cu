//! Causal attention over the paged KV cache: one body for decoding and for prefill, so that their bits agree.
//!
//! A KV head's rows are the pairs (token, query head of the group) of a sequence; 16 of them make the left side of an
//! mma.sync. Positions are met in tiles of 64 that begin at multiples of 64, with a running maximum. The weights are
//! rounded to bf16, and their sum is one more column of the product. After each piece of 256 positions its sums go into
//! totals, piece after piece. So a row's bits follow from its positions alone:
//!  - mma.sync computes rows apart, so it does not matter which of them share a warp or a block;
//!  - a tile of which a row sees nothing multiplies its sums by 1 and adds 0, so it may be met or not;
//!  - pieces may be met by one block in turn, or by many at once, the last of which merges what all have left in the
//!    workspace, in the same order by the same code.
//!
//! Blocks take items of work in turn: a row tile of a KV head, with all pieces or with one. How many there are follows
//! from lengths in device memory; the grid does not, so a launch can be part of a graph.

#include "attention.cuh"
#include "common.cuh"
#include "ptx.cuh"

namespace attention {

/// How sums of earlier positions and of those that follow become one, given the exponents of their greatest weights.
struct Joint {
    float greatest, keep, add;

    DEVICE Joint(float before, float next) {
        greatest = fmaxf(before, next);
        float base = greatest == NOTHING ? 0.0f : greatest;
        keep = exp2_approx(before - base);
        add = exp2_approx(next - base);
    }

    /// Rounded as written: the compiler has no choice of an fma.
    DEVICE float operator()(float before, float next) const { return fmaf(before, keep, next * add); }
};

/// A result. A sum of nothing but zeros has no sign: whether -0 were added to it depends on the tiles that were met.
DEVICE uint32_t divided(float low, float high, float inverse) {
    return pack_bf16(fmaf(low, inverse, 0.0f), fmaf(high, inverse, 0.0f));
}

/// The sums of 16 rows, as a warp holds them: `o[n]` are columns 8n.. of its own, in mma's order of results.
template <class S> struct Sums {
    float o[S::OUTS][4];
    float weight[4]; // [0] for row lane / 4, [2] for the row 8 further on
    float greatest[2]; // exponents of these rows' greatest weights, -infinity before the first position

    DEVICE void clear() {
        for (int n = 0; n < S::OUTS; n++)
            for (int e = 0; e < 4; e++) o[n][e] = 0.0f;
        for (int e = 0; e < 4; e++) weight[e] = 0.0f;
        greatest[0] = greatest[1] = NOTHING;
    }

    /// Takes in the sums of the positions that follow.
    DEVICE void merge(const Sums& next) {
        for (int h = 0; h < 2; h++) {
            Joint joint(greatest[h], next.greatest[h]);
            greatest[h] = joint.greatest;
            weight[2 * h] = joint(weight[2 * h], next.weight[2 * h]);
            for (int n = 0; n < S::OUTS; n++)
                for (int e = 2 * h; e < 2 * h + 2; e++) o[n][e] = joint(o[n][e], next.o[n][e]);
        }
    }
};

/// `s = queries * keys` for the warp's 16 rows and its share of a tile's positions.
template <class S>
DEVICE void score(float (&s)[S::SCORES][4], const uint32_t (&q)[S::STEPS][4], const unsigned char* keys, const Warp& w) {
    for (int n = 0; n < S::SCORES; n++)
        for (int e = 0; e < 4; e++) s[n][e] = 0.0f;
    const unsigned char* lane_row =
        keys + (w.col * (TILE / S::COL_WARPS) + w.lane / 16 * 8 + w.lane % 8) * S::ROW_BYTES + w.lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < S::STEPS; k++)
#pragma unroll
        for (int n = 0; n < S::SCORES; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, lane_row + n * 8 * S::ROW_BYTES + k * 32);
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
            mma_bf16(s[n], q[k], left);
            mma_bf16(s[n + 1], q[k], right);
        }
}

/// Bends scores into (-softcap, softcap): `cap * tanh(s * scale / cap)`, by `tanh x = 1 - 2 / (1 + e^2x)`.
template <class S> DEVICE void bend(const Args& a, float (&s)[S::SCORES][4]) {
    for (int n = 0; n < S::SCORES; n++)
        for (int e = 0; e < 4; e++)
            s[n][e] = fmaf(-2.0f * a.softcap, __fdividef(1.0f, 1.0f + exp2_approx(s[n][e] * a.bend)), a.softcap);
}

/// Takes what the rows do not see out of the scores of the tile at `position`.
template <class S> DEVICE void mask(const Args& a, float (&s)[S::SCORES][4], uint32_t position, const Warp& w) {
    uint32_t first = position + w.col * (TILE / S::COL_WARPS) + w.lane % 4 * 2;
    for (int n = 0; n < S::SCORES; n++)
        for (int e = 0; e < 4; e++) {
            uint32_t at = first + n * 8 + e % 2, end = w.end[e / 2];
            s[n][e] = at < end && at >= start_of(a, end) ? s[n][e] : NOTHING;
        }
}

/// The greatest score of the warp's rows in a tile, of all its positions.
template <class S> DEVICE void find_greatest(float (&top)[2], const float (&s)[S::SCORES][4], const Warp& w) {
    top[0] = top[1] = NOTHING;
    for (int n = 0; n < S::SCORES; n++)
        for (int e = 0; e < 4; e++) top[e / 2] = fmaxf(top[e / 2], s[n][e]);
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(ALL_LANES, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(ALL_LANES, top[h], 2));
    }
    if (S::COL_WARPS == 1) return;
    float* maxima = reinterpret_cast<float*>(w.shared + S::MAXIMA_AT) + w.row * S::COL_WARPS * 16;
    if (w.lane % 4 == 0)
        for (int h = 0; h < 2; h++) maxima[w.col * 16 + h * 8 + w.lane / 4] = top[h];
    named_barrier_sync(1 + w.row, 32 * S::COL_WARPS);
    for (int c = 0; c < S::COL_WARPS; c++)
        for (int h = 0; h < 2; h++) top[h] = fmaxf(top[h], maxima[c * 16 + h * 8 + w.lane / 4]);
}

/// The weights of a tile as the left side of the second product: the warp's own, or, where warps have shared the tile's
/// positions, what all of them have put together.
template <class S>
DEVICE void gather_weights(uint32_t (&p)[TILE / 16][4], const uint32_t (&own)[S::SCORES][2], const Warp& w) {
    if (S::COL_WARPS == 1) {
        for (uint32_t k = 0; k < TILE / 16; k++)
            for (int i = 0; i < 4; i++) p[k][i] = own[(2 * k + i / 2) % S::SCORES][i % 2];
        return;
    }
    unsigned char* weights = w.shared + S::WEIGHTS_AT + w.row * 16 * WEIGHT_ROW_BYTES;
    for (int n = 0; n < S::SCORES; n++)
        for (int h = 0; h < 2; h++) {
            uint32_t column = w.col * (TILE / S::COL_WARPS) + n * 8 + w.lane % 4 * 2;
            *reinterpret_cast<uint32_t*>(weights + (h * 8 + w.lane / 4) * WEIGHT_ROW_BYTES + column * 2) = own[n][h];
        }
    named_barrier_sync(1 + w.row, 32 * S::COL_WARPS);
    for (uint32_t k = 0; k < TILE / 16; k++)
        ldmatrix_x4(p[k], weights + w.lane % 16 * WEIGHT_ROW_BYTES + k * 32 + w.lane / 16 * 16);
}

/// `sums += weights * values` for the warp's columns, and the weights' own sum.
template <class S>
DEVICE void weigh(Sums<S>& sums, const uint32_t (&p)[TILE / 16][4], const unsigned char* values, const Warp& w) {
    const uint32_t ones[2] = {0x3f803f80, 0x3f803f80};
    const unsigned char* lane_row = values + w.lane % 16 * S::ROW_BYTES + w.col * S::OUTS * 16 + w.lane / 16 * 16;
#pragma unroll
    for (uint32_t k = 0; k < TILE / 16; k++) {
        mma_bf16(sums.weight, p[k], ones);
#pragma unroll
        for (int n = 0; n < S::OUTS; n += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, lane_row + k * 16 * S::ROW_BYTES + n * 16);
            const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
            mma_bf16(sums.o[n], p[k], left);
            mma_bf16(sums.o[n + 1], p[k], right);
        }
    }
}

/// Takes the tile at `position` into the sums of its piece.
template <class S>
DEVICE void meet(const Args& a, Sums<S>& piece, const uint32_t (&q)[S::STEPS][4], const unsigned char* tile,
                 uint32_t position, const Warp& w) {
    float s[S::SCORES][4];
    score<S>(s, q, tile, w);
    if (a.softcap != 0.0f) bend<S>(a, s);
    if (position + TILE > w.least_end || position < start_of(a, w.greatest_end)) mask<S>(a, s, position, w);
    float top[2], base[2], keep[2];
    find_greatest<S>(top, s, w);
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(piece.greatest[h], top[h] * a.factor);
        base[h] = top[h] == NOTHING ? 0.0f : top[h];
        keep[h] = exp2_approx(piece.greatest[h] - base[h]);
        piece.greatest[h] = top[h];
    }
    // Mostly the greatest score is an old one: then this would multiply by 1.
    if (__any_sync(ALL_LANES, keep[0] != 1.0f || keep[1] != 1.0f)) {
        for (int n = 0; n < S::OUTS; n++)
            for (int e = 0; e < 4; e++) piece.o[n][e] *= keep[e / 2];
        for (int e = 0; e < 4; e++) piece.weight[e] *= keep[e / 2];
    }
    uint32_t own[S::SCORES][2], p[TILE / 16][4];
    for (int n = 0; n < S::SCORES; n++)
        for (int h = 0; h < 2; h++)
            own[n][h] = pack_bf16(exp2_approx(fmaf(s[n][2 * h], a.factor, -base[h])),
                                  exp2_approx(fmaf(s[n][2 * h + 1], a.factor, -base[h])));
    gather_weights<S>(p, own, w);
    weigh<S>(piece, p, tile + S::SIDE_BYTES, w);
}

/// The warp's queries, as the left side of the first product. Rows beyond the last repeat it.
template <class S> DEVICE void load_queries(const Args& a, uint32_t (&q)[S::STEPS][4], const Item& item, const Warp& w) {
    for (int h = 0; h < 2; h++) {
        uint32_t row = min(w.first_row + h * 8 + w.lane / 4, item.rows - 1);
        const bf16* from = a.q + size_t(item.q_start + row / a.group) * a.q_stride +
                           (item.head * a.group + row % a.group) * a.dim + w.lane % 4 * 2;
        for (int k = 0; k < S::STEPS; k++)
            for (int c = 0; c < 2; c++)
                q[k][2 * c + h] = k * 16 < a.dim ? *reinterpret_cast<const uint32_t*>(from + k * 16 + c * 8) : 0;
    }
}

/// Meets the tiles of an item, and leaves their sums in `total`.
template <class S> DEVICE void sum_up(const Args& a, Sums<S>& total, const Item& item, const Warp& w) {
    uint32_t q[S::STEPS][4];
    load_queries<S>(a, q, item, w);
    Sums<S> piece;
    piece.clear();
    total.clear();
    Copier<S> copier(a, item, w);
    const bool converted = a.format != kv::BF16;
    if (item.tile < item.end_tile) copier.start(item.tile, w.shared);
    for (uint32_t t = item.tile; t < item.end_tile; t++) {
        unsigned char* here = w.shared + (converted ? S::SLOT_BYTES : (t - item.tile) % 2 * S::SLOT_BYTES);
        unsigned char* next = w.shared + (converted ? 0 : (t - item.tile + 1) % 2 * S::SLOT_BYTES);
        cp_async_wait<0>();
        __syncthreads(); // the tile is there, and the one before it is done with
        if (converted) {
            convert<S>(a, w.shared, here, item.context - t * TILE);
            __syncthreads();
        }
        if (t + 1 < item.end_tile) copier.start(t + 1, next);
        uint32_t position = t * TILE;
        if (position < w.greatest_end && position + TILE > start_of(a, w.least_end))
            meet<S>(a, piece, q, here, position, w);
        if ((t + 1) % (PIECE / TILE) == 0 || t + 1 == item.end_tile) {
            total.merge(piece);
            piece.clear();
        }
    }
    __syncthreads(); // the next item's first tile comes into the same slots
}

/// Where a row's result belongs.
DEVICE bf16* result_of(const Args& a, const Item& item, uint32_t row) {
    return a.out + size_t(item.q_start + row / a.group) * a.out_stride +
           (item.head * a.group + row % a.group) * a.dim;
}

/// Writes the rows' results.
template <class S> DEVICE void write(const Args& a, const Sums<S>& total, const Item& item, const Warp& w) {
    for (int h = 0; h < 2; h++) {
        uint32_t row = w.first_row + h * 8 + w.lane / 4;
        if (row >= item.rows) continue;
        bf16* to = result_of(a, item, row);
        float inverse = 1.0f / total.weight[2 * h];
        for (int n = 0; n < S::OUTS; n++) {
            uint32_t column = (w.col * S::OUTS + n) * 8 + w.lane % 4 * 2;
            if (column < a.dim)
                *reinterpret_cast<uint32_t*>(to + column) =
                    divided(total.o[n][2 * h], total.o[n][2 * h + 1], inverse);
        }
    }
}

/// The workspace: for each item `partial_rows` rows of DIM sums, then for each row of all items its greatest and its weight.
template <class S> DEVICE float* partial_of(const Args& a, uint32_t number, uint32_t row) {
    return a.partials + (size_t(number) * a.partial_rows + row) * S::DIM;
}
template <class S> DEVICE float2* scale_of(const Args& a, uint32_t number, uint32_t row) {
    float* all = a.partials + size_t(a.capacity) * a.partial_rows * S::DIM;
    return reinterpret_cast<float2*>(all) + size_t(number) * a.partial_rows + row;
}

/// Leaves a piece's sums in the workspace.
template <class S> DEVICE void leave(const Args& a, const Sums<S>& sums, const Item& item, const Warp& w) {
    for (int h = 0; h < 2; h++) {
        uint32_t row = w.row * 16 + h * 8 + w.lane / 4;
        if (item.first_row + row >= item.rows) continue;
        float* to = partial_of<S>(a, item.number, row) + w.col * S::OUTS * 8 + w.lane % 4 * 2;
        for (int n = 0; n < S::OUTS; n++)
            *reinterpret_cast<float2*>(to + n * 8) = make_float2(sums.o[n][2 * h], sums.o[n][2 * h + 1]);
        // All lanes of a row have the same, and all warps that share it.
        if (w.col == 0 && w.lane % 4 == 0)
            *scale_of<S>(a, item.number, row) = make_float2(sums.greatest[h], sums.weight[2 * h]);
    }
}

/// Whether this block is the last of its row tile to have left a piece's sums; it sees what the others have left.
template <class S> DEVICE bool is_last(const Args& a, const Item& item, const Warp& w) {
    uint32_t* arrived = reinterpret_cast<uint32_t*>(w.shared + S::ARRIVED_AT);
    __threadfence();
    __syncthreads();
    // Wraps round to 0 with the last, so that the counters are ready for the next launch.
    if (threadIdx.x == 0) *arrived = atomicInc(a.counters + item.first_number, item.pieces - 1);
    __syncthreads();
    bool last = *arrived == item.pieces - 1;
    __syncthreads();
    __threadfence();
    return last;
}

/// Merges a row tile's pieces and writes the results: each thread four columns of a row at a time.
template <class S> DEVICE void merge_pieces(const Args& a, const Item& item) {
    uint32_t rows = min(uint32_t(S::ROWS), item.rows - item.first_row);
    for (uint32_t i = threadIdx.x; i < rows * (S::DIM / 4); i += S::THREADS) {
        uint32_t row = i / (S::DIM / 4), column = i % (S::DIM / 4) * 4;
        if (column >= a.dim) continue;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float weight = 0.0f, greatest = NOTHING;
#pragma unroll 8
        for (uint32_t p = 0; p < item.pieces; p++) {
            uint32_t number = item.first_number + p * item.number_stride;
            float2 scale = *scale_of<S>(a, number, row);
            float4 next = *reinterpret_cast<const float4*>(partial_of<S>(a, number, row) + column);
            Joint joint(greatest, scale.x);
            greatest = joint.greatest;
            weight = joint(weight, scale.y);
            sum = make_float4(joint(sum.x, next.x), joint(sum.y, next.y), joint(sum.z, next.z), joint(sum.w, next.w));
        }
        uint32_t* to = reinterpret_cast<uint32_t*>(result_of(a, item, item.first_row + row) + column);
        float inverse = 1.0f / weight;
        to[0] = divided(sum.x, sum.y, inverse);
        to[1] = divided(sum.z, sum.w, inverse);
    }
}

template <class S> DEVICE void run(const Args& a, unsigned char* shared) {
    Warp w;
    w.lane = threadIdx.x % 32;
    w.row = threadIdx.x / 32 / S::COL_WARPS;
    w.col = threadIdx.x / 32 % S::COL_WARPS;
    w.shared = shared;
    Plan<S::ROWS> plan(a, w.lane);
    for (uint32_t number = blockIdx.x; number < plan.items; number += gridDim.x) {
        Item item = plan.find(a, number, w.lane);
        w.set_rows(a, item);
        Sums<S> total;
        sum_up<S>(a, total, item, w);
        // To find it again is cheaper than to keep it in registers, which are all taken here.
        if (S::ROW_WARPS > 1) item = plan.find(a, number, w.lane);
        if (item.pieces == 1) {
            write<S>(a, total, item, w);
        } else {
            leave<S>(a, total, item, w);
            if (is_last<S>(a, item, w)) merge_pieces<S>(a, item);
        }
    }
}

} // namespace attention

/// Head dimensions up to DIM, and a block of 16 ROWS rows; COLS warps share the work on 16 rows.
#define ATTENTION(KIND, DIM, ROWS, COLS, BLOCKS)                                                                         \
    KERNEL_BOUNDS(32 * ROWS * COLS, BLOCKS, attention_##KIND##DIM, const bf16* q, uint32_t q_stride,                     \
                  const unsigned char* cache, uint32_t format, uint32_t dim, uint32_t kv_heads, uint32_t group,          \
                  uint32_t window, float factor, float softcap, float bend, const uint32_t* cu_seqlens_q,                \
                  const uint32_t* context_lens, const uint32_t* block_tables, const uint32_t* cu_blocks,                 \
                  uint32_t sequences, uint32_t min_rows, uint32_t max_rows, uint32_t split_below, float* partials,       \
                  uint32_t* counters, uint32_t capacity, uint32_t partial_rows, bf16* out, uint32_t out_stride) {        \
        DYNAMIC_SHARED(shared);                                                                                          \
        attention::Args args = {q,        q_stride,   cache,    format,       dim,          kv_heads,     group,         \
                                window,   factor,     softcap,  bend,         cu_seqlens_q, context_lens, block_tables,  \
                                cu_blocks, sequences, min_rows, max_rows,     split_below,  partials,     counters,      \
                                capacity, partial_rows, out,    out_stride};                                             \
        attention::run<attention::Shape<DIM, ROWS, COLS>>(args, shared);                                                 \
    }

ATTENTION(few_, 32, 1, 2, 1)
ATTENTION(few_, 64, 1, 4, 1)
ATTENTION(few_, 96, 1, 2, 1)
ATTENTION(few_, 128, 1, 4, 1)
ATTENTION(few_, 256, 1, 4, 1)
ATTENTION(many_, 32, 8, 1, 1)
ATTENTION(many_, 64, 8, 1, 1)
ATTENTION(many_, 96, 8, 1, 1)
ATTENTION(many_, 128, 8, 1, 1)
ATTENTION(many_, 256, 4, 2, 1)
