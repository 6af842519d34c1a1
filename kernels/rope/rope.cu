//! What happens to a token's queries, keys and values before attention: norm of each query and key head where the model
//! has one, rotation, and the way of keys and values into their slots of the paged cache. A warp does one head.

#include "../kv_write/cache.cuh"
#include "common.cuh"
#include "ptx.cuh"

namespace rope {

constexpr uint32_t WARPS = 4;
constexpr uint32_t MAX_DIM = 512;
constexpr int COUPLES = MAX_DIM / 64; // neighbouring elements that a lane holds: 2 (lane + 32 i) and the next
constexpr uint32_t NO_SLOT = 0xffffffff;

struct Head {
    float x[COUPLES][2];
    uint32_t dim, lane;

    DEVICE uint32_t element(int i) const { return 2 * (lane + 32 * i); }

    DEVICE void read(const bf16* from) {
        for (int i = 0; i < COUPLES; i++) {
            bool there = element(i) < dim;
            uint32_t word = there ? *reinterpret_cast<const uint32_t*>(from + element(i)) : 0;
            x[i][0] = bf16_low(word);
            x[i][1] = bf16_high(word);
        }
    }

    DEVICE void write(bf16* to) const {
        for (int i = 0; i < COUPLES; i++)
            if (element(i) < dim) *reinterpret_cast<uint32_t*>(to + element(i)) = pack_bf16(x[i][0], x[i][1]);
    }

    DEVICE void norm(const float* weight, float eps) {
        float squares = 0.0f;
        for (int i = 0; i < COUPLES; i++) squares += x[i][0] * x[i][0] + x[i][1] * x[i][1];
        float inverse = rsqrtf(warp_sum(squares) / float(dim) + eps);
        for (int i = 0; i < COUPLES; i++)
            for (int e = 0; e < 2; e++)
                if (element(i) < dim) x[i][e] *= inverse * weight[element(i) + e];
    }

    /// Turns the first `dims` elements; `cosines` are followed by as many sines. `all` is the warp's, for a head.
    DEVICE void turn(const float* cosines, uint32_t dims, bool interleaved, float* all) {
        uint32_t half = dims / 2;
        if (!interleaved) {
            for (int i = 0; i < COUPLES; i++)
                for (int e = 0; e < 2; e++)
                    if (element(i) < dims) all[element(i) + e] = x[i][e];
            __syncwarp();
        }
        for (int i = 0; i < COUPLES; i++) {
            uint32_t at = element(i);
            if (at >= dims) continue;
            if (interleaved) {
                float cosine = cosines[at / 2], sine = cosines[half + at / 2], a = x[i][0], b = x[i][1];
                x[i][0] = a * cosine - b * sine;
                x[i][1] = a * sine + b * cosine;
                continue;
            }
            // The first half turns with the second and away from it.
            bool first = at < half;
            uint32_t pair = first ? at : at - half, partner = first ? at + half : at - half;
            for (int e = 0; e < 2; e++) {
                float other = all[partner + e] * cosines[half + pair + e];
                x[i][e] = x[i][e] * cosines[pair + e] + (first ? -other : other);
            }
        }
    }

    /// Writes it as row `row` of a head in a block of the cache.
    DEVICE void store(unsigned char* head, uint32_t row, uint32_t format, const kv::Layout& layout) const {
        unsigned char* to = head + row * layout.row;
        if (format == kv::BF16) return write(reinterpret_cast<bf16*>(to));
        if (format == kv::F16) {
            for (int i = 0; i < COUPLES; i++)
                for (int e = 0; e < 2; e++)
                    if (element(i) < dim) reinterpret_cast<f16*>(to)[element(i) + e] = to_f16(x[i][e]);
            return;
        }
        float greatest = 0.0f;
        bool bad = false; // what is no finite number is not to be lost: it makes the scale NaN
        for (int i = 0; i < COUPLES; i++)
            for (int e = 0; e < 2; e++) {
                greatest = fmaxf(greatest, fabsf(x[i][e]));
                bad |= !(fabsf(x[i][e]) < INFINITY);
            }
        greatest = warp_max(greatest);
        bad = __any_sync(ALL_LANES, bad);
        float inverse = greatest > 0.0f ? 127.0f / greatest : 0.0f;
        for (int i = 0; i < COUPLES; i++)
            for (int e = 0; e < 2; e++)
                if (element(i) < dim) to[element(i) + e] = bad ? 0 : uint8_t(int8_t(rintf(x[i][e] * inverse)));
        float* scales = reinterpret_cast<float*>(head + kv::BLOCK * dim);
        if (lane == 0) scales[row] = bad ? NAN : greatest / 127.0f;
    }
};

} // namespace rope

/// `qkv` [tokens, (heads + 2 kv_heads) * dim]: queries are turned where they stand; keys, turned, and values go into the
/// cache. `table` [positions, dims] has a position's cosines, then its sines. Norm weights may be null.
KERNEL_BOUNDS(32 * rope::WARPS, 1, rope_kv_write, bf16* qkv, uint32_t stride, uint32_t tokens, uint32_t heads,
              uint32_t kv_heads, uint32_t dim, uint32_t dims, uint32_t interleaved, const float* q_norm,
              const float* k_norm, float eps, const float* table, const uint32_t* positions, const uint32_t* slots,
              unsigned char* cache, uint32_t format) {
    using namespace rope;
    SHARED(float, all, [WARPS][MAX_DIM]);
    uint32_t warp = threadIdx.x / 32, unit = blockIdx.x * WARPS + warp;
    uint32_t token = unit / (heads + 2 * kv_heads), h = unit % (heads + 2 * kv_heads);
    if (token >= tokens || slots[token] == NO_SLOT) return;
    Head head;
    head.dim = dim;
    head.lane = threadIdx.x % 32;
    bf16* place = qkv + size_t(token) * stride + h * dim;
    head.read(place);
    bool query = h < heads, value = h >= heads + kv_heads;
    if (!value) {
        const float* weight = query ? q_norm : k_norm;
        if (weight != nullptr) head.norm(weight, eps);
        head.turn(table + size_t(positions[token]) * dims, dims, interleaved != 0, all[warp]);
    }
    if (query) {
        head.write(place);
    } else {
        kv::Layout layout(format, kv_heads, dim);
        uint32_t slot = slots[token], kv_head = (h - heads) % kv_heads;
        unsigned char* block = cache + size_t(slot / kv::BLOCK) * layout.block + (value ? layout.side : 0);
        head.store(block + kv_head * layout.head, slot % kv::BLOCK, format, layout);
    }
}
