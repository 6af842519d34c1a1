//! Choosing tokens from rows of logits: one block of threads for each draw, no sort. mod.rs and draws.rs have the contract.
//!
//! Logits are compared as integers in the same order (`key_of`), and weights are integers too, in units of 2^-44 of the
//! greatest: their sums are exact, so they have no order, and atomics may add them up. What this loses, a token less
//! likely than that, weighs less than the rounding of a float sum. Tokens are found by radix: a histogram of weights
//! over the keys' upper bits tells in which part the wanted one lies, and what is below that part is left behind.

#include "ptx.cuh"

#include "common.cuh"

namespace sample {

constexpr uint32_t THREADS = 1024;
constexpr uint32_t BUCKETS = 2048; // 11 bits of a key
constexpr uint32_t LIST = 1024;
constexpr uint32_t BEST = 20;
constexpr uint32_t NONE = 0xffffffffu;
constexpr float WEIGHT_ONE = 0x1p44f; // times the largest vocabulary, 2^19, it fits 64 bits
constexpr float LOG2_E = 1.44269504f;

/// What one draw asks for, as cuda.rs packs it. Lists are places in the same buffer.
struct Draw {
    uint32_t row;
    uint32_t given;           // the token to score; NONE: choose one
    uint32_t reports;         // 0: no log-probabilities; else how many of the best to name, plus 1
    uint32_t scratch;         // the row of scratch memory for changed logits; NONE: they are not changed
    uint32_t greedy;
    uint32_t top_k;           // 0: all
    uint64_t share;           // top-p in units of 2^-64; 0: all
    uint64_t uniform;         // likewise
    float slope;              // log2(e) / temperature
    float floor;              // what min-p adds to the greatest logit
    float repetition, presence, frequency;
    uint32_t seen, seen_end;  // pairs: token, how often it is in the output
    uint32_t bias, bias_end;  // pairs: token, what to add; minus infinity bans it
    uint32_t unused;
};

/// The answer, as cuda.rs reads it.
struct Drawn {
    uint32_t token;
    float logit;
    float logprob;
    uint32_t count;
    uint32_t ids[BEST];
    float logprobs[BEST];
};

struct Memory {
    uint64_t sums[32];
    uint32_t keys[32], ids[32];
    uint32_t count;
    uint32_t low[BUCKETS], high[BUCKETS]; // a histogram, or an unordered list: keys and ids
    uint32_t list_keys[LIST], list_ids[LIST];
};

// ---- logits as keys, and their weights ----

/// Greater for greater logits; 0 for what is no number. Both zeros are one.
DEVICE uint32_t key_of(float x) {
    if (x != x) return 0;
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float logit_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

constexpr uint32_t MINUS_INFINITY = 0x007fffffu, INFINITY_KEY = 0xff800000u;

DEVICE bool is_finite(uint32_t key) { return key > MINUS_INFINITY && key < INFINITY_KEY; }

/// What a token with this key counts for: 1 each, or in proportion to its probability.
struct Weight {
    float greatest, slope; // slope 0: 1 each
    DEVICE uint64_t operator()(uint32_t key) const {
        if (slope == 0) return 1;
        return uint64_t(exp2f((logit_of(key) - greatest) * slope) * WEIGHT_ONE);
    }
};

/// `x` times `share` 2^-64.
DEVICE uint64_t portion(uint64_t x, uint64_t share) { return uint64_t((unsigned __int128)x * share >> 64); }

// ---- tokens to choose from ----

/// A row, or a part of one in ascending order of ids, in shared memory.
struct Source {
    const float* row;
    const uint32_t* keys; // null: all of the row
    const uint32_t* ids;
    uint32_t count;
    DEVICE uint32_t key(uint32_t i) const { return keys ? keys[i] : key_of(row[i]); }
    DEVICE uint32_t id(uint32_t i) const { return keys ? ids[i] : i; }
};

/// Keeps what is above `key`, and of those that have it the first, up to place `last`.
struct Filter {
    uint32_t key, last;
    DEVICE bool keeps(uint32_t k, uint32_t i) const { return k > key || (k == key && i <= last); }
};

// ---- what all threads find out together; each gets the answer ----

DEVICE uint64_t shuffle_xor(uint64_t x, int with) {
    uint32_t low = __shfl_xor_sync(ALL_LANES, uint32_t(x), with);
    uint32_t high = __shfl_xor_sync(ALL_LANES, uint32_t(x >> 32), with);
    return uint64_t(high) << 32 | low;
}

DEVICE uint64_t shuffle_up(uint64_t x, uint32_t by) {
    uint32_t low = __shfl_up_sync(ALL_LANES, uint32_t(x), by);
    uint32_t high = __shfl_up_sync(ALL_LANES, uint32_t(x >> 32), by);
    return uint64_t(high) << 32 | low;
}

DEVICE uint64_t from_lane(uint64_t x, uint32_t lane) {
    uint32_t low = __shfl_sync(ALL_LANES, uint32_t(x), lane);
    uint32_t high = __shfl_sync(ALL_LANES, uint32_t(x >> 32), lane);
    return uint64_t(high) << 32 | low;
}

DEVICE uint64_t sum_of_warp(uint64_t x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += shuffle_xor(x, step);
    return x;
}

/// Each lane's sum of those up to its own.
DEVICE uint64_t sums_of_warp(uint64_t x) {
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint64_t before = shuffle_up(x, step);
        if (lane_id() >= step) x += before;
    }
    return x;
}

struct Peak {
    uint32_t key; // 0: the row holds no number
    uint32_t id;
    bool all_numbers;
};

/// The greatest of a row, the first of equals.
DEVICE Peak peak(Memory& m, const float* row, uint32_t count) {
    uint32_t key = 0, id = NONE, least = NONE;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        uint32_t k = key_of(row[i]);
        if (k > key) key = k, id = i;
        least = min(least, k);
    }
    // What is no number has key 0, which no other has.
    least = __reduce_min_sync(ALL_LANES, least);
    uint32_t greatest = __reduce_max_sync(ALL_LANES, key);
    id = __reduce_min_sync(ALL_LANES, key == greatest ? id : NONE);
    if (lane_id() == 0) {
        m.keys[warp_id()] = greatest;
        m.ids[warp_id()] = id;
        m.sums[warp_id()] = least;
    }
    __syncthreads();
    key = m.keys[lane_id()];
    greatest = __reduce_max_sync(ALL_LANES, key);
    id = __reduce_min_sync(ALL_LANES, key == greatest ? m.ids[lane_id()] : NONE);
    least = __reduce_min_sync(ALL_LANES, uint32_t(m.sums[lane_id()]));
    __syncthreads();
    return {greatest, greatest == 0 ? 0 : id, least != 0};
}

struct Place {
    uint32_t index;
    uint64_t weight; // of what stands there
    uint64_t rest;   // of the aim, after all that stands before
};

/// The first place, of `count`, at which the sum of `weight(0..=place)` exceeds `aim(sum of all)`.
template <class W, class A> DEVICE Place locate(Memory& m, uint32_t count, W weight, A aim) {
    uint32_t begin = 0, end = count;
    uint64_t rest = 0;
    bool aimed = false;
    // Each warp adds up a part; the part where the aim lies is divided again, until a warp has it at one glance.
    while (!aimed || end - begin > 32) {
        uint32_t part = 32 * ceil_div(end - begin, THREADS);
        uint32_t from = begin + warp_id() * part, to = min(from + part, end);
        uint64_t sum = 0;
#pragma unroll 4
        for (uint32_t i = from + lane_id(); i < to; i += 32) sum += weight(i);
        sum = sum_of_warp(sum);
        if (lane_id() == 0) m.sums[warp_id()] = sum;
        __syncthreads();
        sum = m.sums[lane_id()];
        uint64_t sums = sums_of_warp(sum);
        if (!aimed) rest = aim(from_lane(sums, 31));
        aimed = true;
        uint32_t over = __ballot_sync(ALL_LANES, sums > rest);
        uint32_t there = over ? __ffs(over) - 1 : 31;
        rest -= from_lane(sums - sum, there);
        begin += there * part;
        end = min(begin + part, end);
        __syncthreads();
    }
    uint32_t i = begin + lane_id();
    uint64_t own = i < end ? weight(i) : 0;
    uint64_t sums = sums_of_warp(own);
    uint32_t over = __ballot_sync(ALL_LANES, sums > rest);
    uint32_t there = over ? __ffs(over) - 1 : 31;
    return {begin + there, from_lane(own, there), rest - from_lane(sums - own, there)};
}

/// Lists what the filter keeps, if that fits; then it is all there is to choose from.
DEVICE void narrow(Memory& m, Source& source, Filter& filter) {
    if (threadIdx.x == 0) m.count = 0;
    __syncthreads();
#pragma unroll 4
    for (uint32_t first = 32 * warp_id(); first < source.count; first += THREADS) {
        uint32_t i = first + lane_id();
        uint32_t key = i < source.count ? source.key(i) : 0;
        bool kept = i < source.count && filter.keeps(key, i);
        uint32_t lanes = __ballot_sync(ALL_LANES, kept), begin = 0;
        if (lanes == 0) continue;
        if (lane_id() == 0) begin = atomicAdd(&m.count, uint32_t(__popc(lanes)));
        uint32_t at = __shfl_sync(ALL_LANES, begin, 0) + __popc(lanes & ((1u << lane_id()) - 1));
        if (kept && at < LIST) m.low[at] = key, m.high[at] = source.id(i);
    }
    __syncthreads();
    uint32_t count = m.count;
    if (count > LIST) return;
    // They came in any order; an id's place is the number of lesser ids.
    for (uint32_t i = threadIdx.x; i < count; i += THREADS) {
        uint32_t id = m.high[i], place = 0;
        for (uint32_t j = 0; j < count; j++) place += m.high[j] < id;
        m.list_keys[place] = m.low[i];
        m.list_ids[place] = id;
    }
    __syncthreads();
    source = {nullptr, m.list_keys, m.list_ids, count};
    filter.last = NONE;
}

/// Adds to bucket `b` of the histogram. In which order does not matter: a carry is made by whichever addition overflows.
DEVICE void add(Memory& m, uint32_t b, uint64_t weight) {
    uint32_t low = uint32_t(weight), before = atomicAdd(&m.low[b], low);
    uint32_t high = uint32_t(weight >> 32) + (before + low < before);
    if (high) atomicAdd(&m.high[b], high);
}

/// Keeps the fewest of the greatest whose sum of weights exceeds `aim(sum of all that were kept)`.
template <class A> DEVICE void select(Memory& m, Source& source, Filter& filter, Weight weight, A aim) {
    uint32_t known = 0, found = 0; // bits of the least key to keep
    Place place{0, 0, 0};
    for (int shift = 21; shift >= 0; shift = shift == 21 ? 10 : shift - 10) {
        for (uint32_t b = threadIdx.x; b < BUCKETS; b += THREADS) m.low[b] = m.high[b] = 0;
        __syncthreads();
        uint32_t mask = shift ? 2047u : 1023u;
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < source.count; i += THREADS) {
            uint32_t key = source.key(i);
            if ((key & known) == found && filter.keeps(key, i)) add(m, key >> shift & mask, weight(key));
        }
        __syncthreads();
        uint64_t rest = place.rest;
        auto bucket = [&](uint32_t i) { return uint64_t(m.high[BUCKETS - 1 - i]) << 32 | m.low[BUCKETS - 1 - i]; };
        place = locate(m, BUCKETS, bucket, [&](uint64_t all) { return known ? rest : aim(all); });
        found |= (BUCKETS - 1 - place.index) << shift;
        known |= mask << shift;
        __syncthreads();
        // What lies below this bucket is out.
        if (found > filter.key) filter = {found, NONE};
        if (shift && !source.keys) narrow(m, source, filter);
    }
    uint32_t last = found == filter.key ? filter.last : NONE;
    if (place.weight > weight(found)) { // several have this key
        Filter old = filter;
        uint64_t rest = place.rest;
        auto equal = [&](uint32_t i) {
            uint32_t key = source.key(i);
            return key == found && old.keeps(key, i) ? weight(key) : uint64_t(0);
        };
        last = locate(m, source.count, equal, [&](uint64_t) { return rest; }).index;
    }
    filter = {found, last};
}

/// The logits that a draw chooses from, where they are not those of its row.
DEVICE void change(const Draw& d, const uint32_t* lists, const float* row, uint32_t vocab, float* to) {
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < vocab; i += THREADS) to[i] = row[i];
    __syncthreads();
    // Each stands there once. Roundings are those of the host: nothing is fused.
    for (uint32_t j = d.seen + 2 * threadIdx.x; j < d.seen_end; j += 2 * THREADS) {
        uint32_t id = lists[j], times = lists[j + 1];
        if (id >= vocab) continue;
        float x = to[id];
        x = x > 0 ? x / d.repetition : __fmul_rn(x, d.repetition);
        if (times) x = __fadd_rn(x, -__fadd_rn(d.presence, __fmul_rn(d.frequency, float(times))));
        to[id] = x;
    }
    __syncthreads();
    // A token may stand there more than once, and then the order counts: it is one thread's.
    for (uint32_t j = d.bias; j < d.bias_end; j += 2) {
        uint32_t id = lists[j];
        float bias = __uint_as_float(lists[j + 1]);
        if (id < vocab && id % THREADS == threadIdx.x) to[id] = bias == -INFINITY ? bias : to[id] + bias;
    }
    __syncthreads();
}

DEVICE uint32_t choose(Memory& m, const Draw& d, const float* row, uint32_t vocab, Peak top) {
    if (d.greedy || !is_finite(top.key)) return top.id;
    float greatest = logit_of(top.key);
    Source source{row, nullptr, nullptr, vocab};
    Filter filter{key_of(greatest + d.floor), NONE};
    if (d.top_k && d.top_k < vocab) {
        uint64_t k = d.top_k;
        select(m, source, filter, Weight{0, 0}, [&](uint64_t all) { return (k < all ? k : all) - 1; });
    }
    Weight weight{greatest, d.slope};
    if (d.share) {
        // As much as the share, or more: that is, more than the last whole number below it.
        uint64_t share = d.share;
        select(m, source, filter, weight, [&](uint64_t all) {
            return portion(all, share) - (all * share == 0);
        });
    }
    uint64_t uniform = d.uniform;
    auto kept = [&](uint32_t i) {
        uint32_t key = source.key(i);
        return filter.keeps(key, i) ? weight(key) : uint64_t(0);
    };
    return source.id(locate(m, source.count, kept, [&](uint64_t all) { return portion(all, uniform); }).index);
}

/// What turns the row's logits into log-probabilities by subtraction; no number where one of them is none.
DEVICE float log_sum_exp(Memory& m, const float* row, uint32_t vocab, Peak top) {
    Weight weight{logit_of(top.key), LOG2_E};
    if (!top.all_numbers || !is_finite(top.key)) return NAN;
    uint64_t sum = 0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < vocab; i += THREADS) sum += weight(key_of(row[i]));
    sum = sum_of_warp(sum);
    if (lane_id() == 0) m.sums[warp_id()] = sum;
    __syncthreads();
    sum = sum_of_warp(m.sums[lane_id()]);
    __syncthreads();
    return weight.greatest + logf(float(sum) / WEIGHT_ONE);
}

/// Writes down the `n` best of a row that holds a number. Returns how many there are.
DEVICE uint32_t name_best(Memory& m, const float* row, uint32_t vocab, uint32_t n, float total, Drawn* answer) {
    Source source{row, nullptr, nullptr, vocab};
    Filter filter{1, NONE};
    uint32_t count = 0;
    select(m, source, filter, Weight{0, 0}, [&](uint64_t all) {
        count = n < all ? n : uint32_t(all);
        return uint64_t(count - 1);
    });
    if (!source.keys) narrow(m, source, filter);
    for (uint32_t i = threadIdx.x; i < source.count; i += THREADS) {
        uint32_t key = source.key(i), place = 0;
        if (!filter.keeps(key, i)) continue;
        for (uint32_t j = 0; j < source.count; j++) {
            uint32_t other = source.key(j);
            place += other > key || (other == key && j < i);
        }
        answer->ids[place] = source.id(i);
        answer->logprobs[place] = logit_of(key) - total;
    }
    __syncthreads();
    return count;
}

} // namespace sample

/// Answers one draw with each block: `packed` holds the draws and behind them their lists, `scratch` a row for each draw
/// that changes logits.
KERNEL_BOUNDS(1024, 1, sample_draws, const float* logits, uint32_t stride, uint32_t vocab, const uint32_t* packed,
              float* scratch, uint32_t* answers) {
    using namespace sample;
    SHARED(Memory, m);
    const Draw& d = reinterpret_cast<const Draw*>(packed)[blockIdx.x];
    Drawn* answer = reinterpret_cast<Drawn*>(answers) + blockIdx.x;
    const float* row = logits + size_t(d.row) * stride;
    Peak top = peak(m, row, vocab);
    float total = 0;
    uint32_t count = 0;
    if (d.reports) total = log_sum_exp(m, row, vocab, top);
    if (d.reports > 1 && top.key) count = name_best(m, row, vocab, d.reports - 1, total, answer);
    uint32_t token = d.given;
    if (token == NONE) {
        const float* changed = row;
        if (d.scratch != NONE) {
            float* to = scratch + size_t(d.scratch) * vocab;
            change(d, packed, row, vocab, to);
            top = peak(m, to, vocab);
            changed = to;
        }
        token = choose(m, d, changed, vocab, top);
    }
    if (threadIdx.x == 0) {
        answer->token = token;
        answer->logit = row[token];
        answer->logprob = d.reports ? row[token] - total : 0;
        answer->count = count;
    }
}

KERNEL_BOUNDS(1024, 1, sample_soft_cap, float* logits, uint32_t count, float cap) {
    uint32_t i = blockIdx.x * sample::THREADS + threadIdx.x;
    if (i < count) logits[i] = cap * tanhf(logits[i] / cap);
}
