//! The part of ptx.cuh that needs sm_90a: mbarrier, TMA, wgmma. Elsewhere it compiles, and traps.
#pragma once

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER(...) __VA_ARGS__
#else
#define HOPPER(...) __trap()
#endif

/// What the driver encodes.
struct alignas(64) TensorMap {
    uint8_t opaque[128];
};

DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    HOPPER(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory"));
}
/// Makes the initialisation known to the units that copy.
DEVICE void mbarrier_fence_init() { HOPPER(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory")); }
DEVICE void mbarrier_arrive(uint64_t* barrier) {
    HOPPER(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory"));
}
/// Arrives, and lets the phase wait for `bytes` bytes of copies too.
DEVICE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
    HOPPER(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                        : "memory"));
}
/// Waits until the phase of this parity has ended.
DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    HOPPER(asm volatile("{\n"
                        ".reg .pred done;\n"
                        "again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                        "@!done bra again_%=;\n"
                        "}" ::"r"(shared_address(barrier)),
                        "r"(parity)
                        : "memory"));
}

/// Copies the box of `map` whose first element is at column `x` and row `y` to `shared`; `barrier` counts its bytes.
DEVICE void tma_load_2d(void* shared, const TensorMap* map, uint64_t* barrier, int x, int y) {
    HOPPER(asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                        "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
                        "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
                        : "memory"));
}

/// Makes what threads have written to shared memory known to wgmma and TMA.
DEVICE void async_proxy_fence() { HOPPER(asm volatile("fence.proxy.async.shared::cta;" ::: "memory")); }

/// Names an operand of wgmma: rows of 128 bytes, swizzled, from `p` on in dynamic shared memory. Add 2 for 16 further k.
DEVICE uint64_t wgmma_descriptor(const void* p) {
    return uint64_t((shared_address(p) & 0x3ffff) >> 4) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
DEVICE void wgmma_fence() { HOPPER(asm volatile("wgmma.fence.sync.aligned;" ::: "memory")); }
DEVICE void wgmma_commit() { HOPPER(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")); }
/// Waits for all wgmmas but those of the last `LEFT` groups.
template <int LEFT> DEVICE void wgmma_wait() {
    HOPPER(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"));
}

/// `d += a b'` for 64 rows of a, N of b and 16 columns of both, in bf16. Lanes hold `d` as they do an mma's, 8 columns after 8.
template <int N> DEVICE void wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b);

// Eight registers of an accumulator from `i` on, as operands of an instruction.
#define EIGHT(i)                                                                                                       \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

template <> DEVICE void wgmma_bf16<32>(float (&d)[16], uint64_t a, uint64_t b) {
    HOPPER(asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, 1, 1, 1, 0, 0;"
                        : EIGHT(0), EIGHT(8)
                        : "l"(a), "l"(b)));
}
template <> DEVICE void wgmma_bf16<64>(float (&d)[32], uint64_t a, uint64_t b) {
    HOPPER(asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                        "%32, %33, 1, 1, 1, 0, 0;"
                        : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24)
                        : "l"(a), "l"(b)));
}
template <> DEVICE void wgmma_bf16<128>(float (&d)[64], uint64_t a, uint64_t b) {
    HOPPER(asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                        "%64, %65, 1, 1, 1, 0, 0;"
                        : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)
                        : "l"(a), "l"(b)));
}
#undef EIGHT

/// Takes registers from, or gives them back to, the other warpgroups of the block.
template <int COUNT> DEVICE void registers_raise() {
    HOPPER(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)));
}
template <int COUNT> DEVICE void registers_lower() {
    HOPPER(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)));
}

#undef HOPPER
