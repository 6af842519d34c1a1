//! Conformance: what lanes do together, and functions of one lane. Every kernel maps words to words; mod.rs has the formulas.

#include "ptx.cuh"

#include "common.cuh"

// ---- shuffles: lane l gives in[l] ----

#define CASE(name) KERNEL(conform_##name, const uint32_t* in, uint32_t* out)
#define SHUFFLE(name, expression)                                                                                      \
    CASE(name) {                                                                                                       \
        uint32_t l = threadIdx.x, x = in[l];                                                                           \
        out[l] = expression;                                                                                           \
    }

SHUFFLE(shfl, __shfl_sync(ALL_LANES, x, (7 * l + 3) % 32))
SHUFFLE(shfl_wraps, __shfl_sync(ALL_LANES, x, int(l) - 40))
SHUFFLE(shfl_width8, __shfl_sync(ALL_LANES, x, 3 * l, 8))
SHUFFLE(shfl_xor, __shfl_xor_sync(ALL_LANES, x, 21))
SHUFFLE(shfl_xor_width8, __shfl_xor_sync(ALL_LANES, x, 12, 8))
SHUFFLE(shfl_down, __shfl_down_sync(ALL_LANES, x, 3))
SHUFFLE(shfl_down_width16, __shfl_down_sync(ALL_LANES, x, 5, 16))
SHUFFLE(shfl_up, __shfl_up_sync(ALL_LANES, x, 3))
SHUFFLE(shfl_up_width8, __shfl_up_sync(ALL_LANES, x, 3, 8))
SHUFFLE(shfl_float, __float_as_uint(__shfl_xor_sync(ALL_LANES, __uint_as_float(x), 16)))
SHUFFLE(warp_sum, __float_as_uint(warp_sum(float(x % 1000))))
SHUFFLE(warp_max, __float_as_uint(warp_max(float(x % 1000))))

// Lanes 1, 2, 5, 7, 11 and 30 alone; the others have nothing to do with it.
constexpr uint32_t ODD_MASK = 1u << 1 | 1u << 2 | 1u << 5 | 1u << 7 | 1u << 11 | 1u << 30;
CASE(shfl_odd_mask) {
    uint32_t l = threadIdx.x;
    out[l] = 0;
    if (ODD_MASK >> l & 1) out[l] = __shfl_sync(ODD_MASK, in[l], l == 30 ? 1 : 30);
}

// Both halves of a branch, each with its own mask, neither before the other.
CASE(shfl_two_masks) {
    uint32_t l = threadIdx.x;
    if (l % 2)
        out[l] = __shfl_xor_sync(0xaaaaaaaau, in[l], 2);
    else
        out[l] = __shfl_xor_sync(0x55555555u, in[l], 4);
}

// ---- votes, match, reduce ----

SHUFFLE(ballot, __ballot_sync(ALL_LANES, x & 1))
CASE(ballot_odd_mask) {
    uint32_t l = threadIdx.x;
    out[l] = 0;
    if (ODD_MASK >> l & 1) out[l] = __ballot_sync(ODD_MASK, in[l] & 1);
}
SHUFFLE(any_all, uint32_t((__any_sync(ALL_LANES, x == in[9]) != 0) + 2 * (__any_sync(ALL_LANES, 0) != 0) +
                          4 * (__all_sync(ALL_LANES, 1) != 0) + 8 * (__all_sync(ALL_LANES, l != 31) != 0)))
SHUFFLE(match_any, __match_any_sync(ALL_LANES, x % 5))
CASE(match_any_odd_mask) {
    uint32_t l = threadIdx.x;
    out[l] = 0;
    if (ODD_MASK >> l & 1) out[l] = __match_any_sync(ODD_MASK, in[l] % 2);
}
SHUFFLE(reduce_add, __reduce_add_sync(ALL_LANES, x))
SHUFFLE(reduce_max, __reduce_max_sync(ALL_LANES, x))
SHUFFLE(reduce_max_signed, uint32_t(__reduce_max_sync(ALL_LANES, int(x))))
SHUFFLE(reduce_min_signed, uint32_t(__reduce_min_sync(ALL_LANES, int(x))))
CASE(reduce_min_odd_mask) {
    uint32_t l = threadIdx.x;
    out[l] = 0;
    if (ODD_MASK >> l & 1) out[l] = __reduce_min_sync(ODD_MASK, in[l]);
}

// ---- barriers, atomics, fences ----

CASE(syncthreads) {
    SHARED(uint32_t, words, [256]);
    uint32_t t = threadIdx.x;
    for (uint32_t round = 0; round < 3; round++) {
        words[t] = in[t] + round;
        __syncthreads();
        out[round * 256 + t] = words[(t + 33 + round) % 256];
        __syncthreads();
    }
}

CASE(syncwarp) {
    SHARED(uint32_t, words, [32]);
    uint32_t l = threadIdx.x;
    words[l] = in[l];
    __syncwarp();
    uint32_t x = words[(l + 5) % 32];
    __syncwarp();
    words[31 - l] = x;
    __syncwarp();
    out[l] = words[l];
}

// Two warps produce, two consume, through two buffers of 64 words: barriers 1 and 2 say "full", 3 and 4 "empty".
CASE(named_barriers) {
    SHARED(uint32_t, buffers, [2][64]);
    uint32_t t = threadIdx.x % 64;
    for (uint32_t round = 0; round < 6; round++) {
        uint32_t stage = round % 2;
        if (threadIdx.x < 64) {
            if (round >= 2) named_barrier_sync(3 + stage, 128);
            buffers[stage][t] = in[t] * (round + 1);
            named_barrier_arrive(1 + stage, 128);
        } else {
            named_barrier_sync(1 + stage, 128);
            out[round * 64 + t] = buffers[stage][63 - t];
            if (round < 4) named_barrier_arrive(3 + stage, 128);
        }
    }
}

CASE(atomics) {
    uint32_t x = in[blockIdx.x * blockDim.x + threadIdx.x];
    int* out_signed = reinterpret_cast<int*>(out);
    uint32_t before = atomicAdd(&out[0], 1u);
    atomicMax(&out[1], x);
    atomicMin(&out[2], x);
    atomicMax(&out_signed[3], int(x));
    atomicMin(&out_signed[4], int(x));
    atomicInc(&out[5], 6u);
    if (before == 0) out[7] = atomicExch(&out[6], 77u);
    atomicCAS(&out[8], 0u, 1u);
    atomicCAS(&out[8], 2u, 3u);
    // Nobody gets the same count as another.
    atomicAdd(&out[9 + before], 1u);
}

// The last block to come adds what all have written.
CASE(last_block) {
    uint32_t* parts = out + 2;
    SHARED(uint32_t, last);
    if (threadIdx.x < 32) {
        uint32_t sum = __reduce_add_sync(ALL_LANES, in[blockIdx.x * 32 + threadIdx.x]);
        if (threadIdx.x == 0) {
            parts[blockIdx.x] = sum;
            __threadfence();
            last = atomicInc(&out[0], gridDim.x - 1) == gridDim.x - 1;
        }
    }
    __syncthreads();
    if (!last || threadIdx.x) return;
    __threadfence();
    uint32_t total = 0;
    for (uint32_t b = 0; b < gridDim.x; b++) total += parts[b];
    out[1] = total;
}

// ---- one lane's bits and numbers ----

SHUFFLE(byte_perm, __byte_perm(x, in[(l + 1) % 32], in[(l + 2) % 32]))
SHUFFLE(funnelshift_r, __funnelshift_r(x, in[(l + 1) % 32], l + 20))
SHUFFLE(bit_counts, uint32_t(__popc(x) + 64 * __ffs(x) + 4096 * __clz(x)))
CASE(lop3) {
    uint32_t l = threadIdx.x, a = in[l], b = in[(l + 1) % 32], c = in[(l + 2) % 32];
    out[l] = lop3<0xea>(a, b, c);
    out[32 + l] = lop3<0x6a>(a, b, c);
    out[64 + l] = lop3<0x1b>(a, b, c);
}

// The input's floats stand in `in`; one word for each.
SHUFFLE(to_bf16, to_bf16(__uint_as_float(x)).bits)
SHUFFLE(to_f16, to_f16(__uint_as_float(x)).bits)
SHUFFLE(from_bf16, __float_as_uint(to_float(bf16{uint16_t(x)})))
SHUFFLE(from_f16, __float_as_uint(to_float(f16{uint16_t(x)})))
SHUFFLE(pack_bf16, pack_bf16(__uint_as_float(x), __uint_as_float(in[l ^ 1])))
SHUFFLE(pack_f16, pack_f16(__uint_as_float(x), __uint_as_float(in[l ^ 1])))
SHUFFLE(bf16x2_fma, bf16x2_fma(x, in[32 + l], in[64 + l]))
SHUFFLE(bf16x2_sub, bf16x2_sub(x, in[32 + l]))
SHUFFLE(bf16_halves, __float_as_uint(bf16_low(x) + 2.0f * bf16_high(x)))
SHUFFLE(exp2_approx, __float_as_uint(exp2_approx(__uint_as_float(x))))
SHUFFLE(tanh_approx, __float_as_uint(tanh_approx(__uint_as_float(x))))
CASE(load_streaming) {
    const uint4* from = reinterpret_cast<const uint4*>(in);
    prefetch_l2(from);
    uint4 v = load_streaming(from + threadIdx.x);
    reinterpret_cast<uint4*>(out)[threadIdx.x] = make_uint4(v.w, v.z, v.y, v.x);
}
