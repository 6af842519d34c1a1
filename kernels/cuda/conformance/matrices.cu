//! Conformance: copies to shared memory, and matrices spread over lanes. Every kernel maps words to words; mod.rs has the
//! formulas.

#include "ptx.cuh"

#include "common.cuh"

#define CASE(name) KERNEL(conform_##name, const uint32_t* in, uint32_t* out)

// ---- cp.async: every thread moves sixteen bytes ----

CASE(cp_async) {
    DYNAMIC_SHARED(shared);
    uint32_t t = threadIdx.x;
    cp_async16(shared + 16 * t, in + 4 * t);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    store16(out + 4 * t, load16(shared + 16 * ((t + 7) % blockDim.x)));
}

// Four groups are started; each is read when as many as must be are done. The last holds two copies.
CASE(cp_async_groups) {
    DYNAMIC_SHARED(shared);
    uint32_t t = threadIdx.x, n = blockDim.x;
    for (uint32_t group = 0; group < 4; group++) {
        cp_async16(shared + 16 * (group * n + t), in + 4 * (group * n + t));
        if (group == 3) cp_async16(shared + 16 * (4 * n + t), in + 4 * (4 * n + t));
        cp_async_commit();
    }
    cp_async_wait<3>();
    store16(out + 4 * t, load16(shared + 16 * t));
    cp_async_wait<1>();
    store16(out + 4 * (n + t), load16(shared + 16 * (n + t)));
    store16(out + 4 * (2 * n + t), load16(shared + 16 * (2 * n + t)));
    cp_async_wait<0>();
    store16(out + 4 * (3 * n + t), load16(shared + 16 * (3 * n + t)));
    store16(out + 4 * (4 * n + t), load16(shared + 16 * (4 * n + t)));
}

CASE(cp_async_or_zero) {
    DYNAMIC_SHARED(shared);
    uint32_t t = threadIdx.x;
    cp_async16_or_zero(shared + 16 * t, in + 4 * t, t % 3 != 1);
    cp_async_commit();
    cp_async_wait<0>();
    store16(out + 4 * t, load16(shared + 16 * t));
}

// ---- ldmatrix: rows of sixteen bytes, 24 bytes of others between them; lane l names row (5 l) % 32 ----

template <class F> DEVICE void with_rows(const uint32_t* in, F load) {
    DYNAMIC_SHARED(shared);
    uint32_t l = threadIdx.x;
    store16(shared + 48 * l, load16(in + 4 * l));
    __syncwarp();
    load(shared + 48 * (5 * l % 32));
}

CASE(ldmatrix_x4) {
    uint32_t r[4];
    with_rows(in, [&](const void* row) { ldmatrix_x4(r, row); });
    store16(out + 4 * threadIdx.x, make_uint4(r[0], r[1], r[2], r[3]));
}
CASE(ldmatrix_x4_trans) {
    uint32_t r[4];
    with_rows(in, [&](const void* row) { ldmatrix_x4_trans(r, row); });
    store16(out + 4 * threadIdx.x, make_uint4(r[0], r[1], r[2], r[3]));
}
CASE(ldmatrix_x2) {
    uint32_t r[2];
    with_rows(in, [&](const void* row) { ldmatrix_x2(r, row); });
    out[2 * threadIdx.x] = r[0], out[2 * threadIdx.x + 1] = r[1];
}
CASE(ldmatrix_x2_trans) {
    uint32_t r[2];
    with_rows(in, [&](const void* row) { ldmatrix_x2_trans(r, row); });
    out[2 * threadIdx.x] = r[0], out[2 * threadIdx.x + 1] = r[1];
}

// ---- mma.sync: each lane's registers, A (4 words), B (2) and C (4) ----

template <class T, class F> DEVICE void with_fragments(const uint32_t* in, uint32_t* out, F multiply) {
    const uint32_t* words = in + 10 * threadIdx.x;
    uint32_t a[4], b[2];
    T c[4];
    for (int i = 0; i < 4; i++) a[i] = words[i];
    for (int i = 0; i < 2; i++) b[i] = words[4 + i];
    for (int i = 0; i < 4; i++) c[i] = reinterpret_cast<const T*>(words)[6 + i];
    multiply(c, a, b);
    for (int i = 0; i < 4; i++) reinterpret_cast<T*>(out)[4 * threadIdx.x + i] = c[i];
}

#define MULTIPLY(name, T)                                                                                              \
    CASE(name) {                                                                                                       \
        with_fragments<T>(in, out, [](T(&c)[4], uint32_t(&a)[4], uint32_t(&b)[2]) { name(c, a, b); });                 \
    }
MULTIPLY(mma_bf16, float)
MULTIPLY(mma_f16, float)
MULTIPLY(mma_s8, int32_t)

// ---- sm_90: mbarrier, TMA, wgmma ----

// One warp fills two buffers by turns, three others read them.
CASE(mbarriers) {
    SHARED(uint32_t, buffers, [2][32]);
    SHARED(uint64_t, full, [2]);
    SHARED(uint64_t, empty, [2]);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            mbarrier_init(&full[i], 32);
            mbarrier_init(&empty[i], 96);
        }
        mbarrier_fence_init();
    }
    __syncthreads();
    for (uint32_t round = 0; round < 7; round++) {
        uint32_t stage = round % 2, phase = round / 2;
        if (threadIdx.x < 32) {
            if (phase) mbarrier_wait(&empty[stage], (phase - 1) & 1);
            buffers[stage][threadIdx.x] = in[threadIdx.x] + round;
            mbarrier_arrive(&full[stage]);
        } else {
            mbarrier_wait(&full[stage], phase & 1);
            out[round * 96 + threadIdx.x - 32] = buffers[stage][(threadIdx.x + 9) % 32];
            mbarrier_arrive(&empty[stage]);
        }
    }
}

// Two boxes of 16 rows of 64 halves, swizzled; the first word of `in` is where the second begins. The map follows at 128.
CASE(tma_load_2d) {
    DYNAMIC_SHARED(shared);
    SHARED(uint64_t, full);
    const TensorMap* map = reinterpret_cast<const TensorMap*>(in + 32);
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_fence_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&full, 2 * 2048);
        tma_load_2d(shared, map, &full, 0, 0);
        tma_load_2d(shared + 2048, map, &full, int(in[0]), int(in[1]));
    }
    mbarrier_wait(&full, 0);
    for (uint32_t i = threadIdx.x; i < 1024; i += blockDim.x) out[i] = reinterpret_cast<uint32_t*>(shared)[i];
}

/// A's 64 rows and B's N of 64 halves (128 bytes) come from `in`; D's registers go to `out`, those of a lane side by side.
template <int N> DEVICE void multiply_warpgroup(const uint32_t* in, uint32_t* out) {
    DYNAMIC_SHARED(shared);
    for (uint32_t i = threadIdx.x; i < (64 + N) * 8; i += 128) {
        uint32_t row = i / 8, group = i % 8;
        store16(shared + row * 128 + (group ^ row % 8) * 16, load16(in + 4 * i));
    }
    async_proxy_fence();
    __syncthreads();
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = 1.0f;
    wgmma_fence();
    for (int step = 0; step < 4; step++)
        wgmma_bf16<N>(d, wgmma_descriptor(shared) + 2 * step, wgmma_descriptor(shared + 64 * 128) + 2 * step);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; i++) out[threadIdx.x * (N / 2) + i] = __float_as_uint(d[i]);
}
KERNEL_BOUNDS(128, 1, conform_wgmma_n32, const uint32_t* in, uint32_t* out) { multiply_warpgroup<32>(in, out); }
KERNEL_BOUNDS(128, 1, conform_wgmma_n64, const uint32_t* in, uint32_t* out) { multiply_warpgroup<64>(in, out); }
KERNEL_BOUNDS(128, 1, conform_wgmma_n128, const uint32_t* in, uint32_t* out) { multiply_warpgroup<128>(in, out); }
