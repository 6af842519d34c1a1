//! The instructions that CUDA C++ has no name for: the only inline PTX, each with a twin in the emulator (emu/).
//!
//! Every kernel file includes this first. nvcc reads the PTX here; g++ reads emu/emu.h, where functions of the same names
//! do the same on the CPU. conformance/ runs both against formulas of its own.
#pragma once

#include <stdint.h>

/// Sixteen bits of a float, to be converted (below) before one computes with them.
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

#ifndef __CUDACC__

#include "emu/emu.h"

#define DEVICE inline
/// A kernel: KERNEL(name, parameters...) { body }. Parameters are pointers, uint32_t, int32_t and float.
#define KERNEL(name, ...) EMU_KERNEL(1024, name, __VA_ARGS__)
/// As KERNEL, for blocks of at most `threads` threads, of which `blocks` are to fit into a multiprocessor.
#define KERNEL_BOUNDS(threads, blocks, name, ...) EMU_KERNEL(threads, name, __VA_ARGS__)
/// The dynamic shared memory of a block, aligned to 1024 bytes.
#define DYNAMIC_SHARED(name) unsigned char* name = emu::engine->shared
/// A variable that a block shares: SHARED(float, sums, [8]). `__shared__` itself is not to be used.
#define SHARED(type, name, ...)                                                                                        \
    using name##_type = type __VA_ARGS__;                                                                              \
    static const char name##_key = 0;                                                                                  \
    name##_type& name = *static_cast<name##_type*>(emu::shared_variable(&name##_key, sizeof(name##_type)))

DEVICE bf16 to_bf16(float x) { return {emu::to_bf16_bits(x)}; }
DEVICE f16 to_f16(float x) { return {emu::to_f16_bits(x)}; }
DEVICE float to_float(bf16 x) { return emu::from_bf16_bits(x.bits); }
DEVICE float to_float(f16 x) { return emu::from_f16_bits(x.bits); }

DEVICE uint32_t pack_bf16(float low, float high) {
    return emu::to_bf16_bits(low) | uint32_t(emu::to_bf16_bits(high)) << 16;
}
DEVICE uint32_t pack_f16(float low, float high) {
    return emu::to_f16_bits(low) | uint32_t(emu::to_f16_bits(high)) << 16;
}

DEVICE uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
    return emu::bf16_fma_bits(a, b, c) | uint32_t(emu::bf16_fma_bits(a >> 16, b >> 16, c >> 16)) << 16;
}

template <int LUT> DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t result = 0;
    for (int i = 0; i < 8; i++)
        if (LUT >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return result;
}

DEVICE float exp2_approx(float x) { return exp2f(x); }
DEVICE float tanh_approx(float x) { return tanhf(x); }
DEVICE uint4 load_streaming(const uint4* p) { return *p; }
DEVICE void prefetch_l2(const void*) {}

#else // nvcc

#define DEVICE __device__ __forceinline__
#define KERNEL(name, ...) extern "C" __global__ void name(__VA_ARGS__)
#define KERNEL_BOUNDS(threads, blocks, name, ...) extern "C" __global__ void __launch_bounds__(threads, blocks) name(__VA_ARGS__)
#define DYNAMIC_SHARED(name) unsigned char* name = dynamic_shared
extern __shared__ __align__(1024) unsigned char dynamic_shared[];
#define SHARED(type, name, ...) __shared__ type name __VA_ARGS__

/// The address of shared memory as instructions take it.
DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// ---- conversions and arithmetic ----

DEVICE bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
DEVICE f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
DEVICE float to_float(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
DEVICE uint32_t pack_f16(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

DEVICE uint32_t bf16x2_fma(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

template <int LUT> DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(LUT));
    return d;
}

DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float tanh_approx(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Read once: what stays in the L1 cache is not to make room for it.
DEVICE uint4 load_streaming(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
DEVICE void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// ---- barriers of some of a block's warps ----

DEVICE void named_barrier_sync(uint32_t id, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
DEVICE void named_barrier_arrive(uint32_t id, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- cp.async ----

DEVICE void cp_async16(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
/// Zeros where not `valid`; `global` is not read then.
DEVICE void cp_async16_or_zero(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for all groups but the last `LEFT`.
template <int LEFT> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// ---- ldmatrix and mma.sync ----

DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

/// `c += a b`: m16n8k16.
DEVICE void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// m16n8k32.
DEVICE void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#include "ptx_hopper.cuh"

#endif

// ---- the same for both ----

DEVICE float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

/// By a fused operation, which sm_80 has and which rounds the difference once, as a subtraction would.
DEVICE uint32_t bf16x2_sub(uint32_t a, uint32_t b) { return bf16x2_fma(b, 0xbf80bf80u, a); }
