//! Functions of one lane: bits, conversions, arithmetic. Formats that C++ lacks are computed bit by bit, as the hardware
//! rounds them: to the nearest, ties to even.
#pragma once

#include "types.h"

namespace emu {

template <class To, class From> inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

inline uint16_t to_bf16_bits(float x) {
    uint32_t bits = bits_as<uint32_t>(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff; // the NaN that the hardware makes
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float from_bf16_bits(uint16_t x) { return bits_as<float>(uint32_t(x) << 16); }

inline float from_f16_bits(uint16_t x) {
    // The exponent's bias is mended by a product, which also brings numbers below the normal range to their value.
    uint32_t sign = uint32_t(x & 0x8000) << 16;
    float magnitude = bits_as<float>(uint32_t(x & 0x7fff) << 13) * 0x1p112f;
    uint32_t bits = bits_as<uint32_t>(magnitude);
    if ((x & 0x7c00) == 0x7c00) bits |= 0x7f800000;
    return bits_as<float>(bits | sign);
}

inline uint16_t to_f16_bits(float x) {
    uint32_t bits = bits_as<uint32_t>(x), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return 0x7fff;
    if (bits >= 0x477ff000) return uint16_t(sign | 0x7c00); // from here on the nearest is infinity
    if (bits < 0x38800000) // below the normal range: the sum's last bit is worth what the result's is
        return uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(bits) + 0.5f) - 0x3f000000));
    return uint16_t(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13));
}

/// `a * b + c` rounded to bf16 once.
inline uint16_t bf16_fma_bits(uint16_t a, uint16_t b, uint16_t c) {
    double product = double(from_bf16_bits(a)) * from_bf16_bits(b), addend = from_bf16_bits(c);
    double sum = product + addend;
    // Rounded to odd first, in as many bits as there are: a second rounding then does no harm.
    double back = sum - product;
    double lost = (product - (sum - back)) + (addend - back);
    uint64_t bits = bits_as<uint64_t>(sum);
    if (std::isfinite(sum) && lost != 0 && !(bits & 1)) bits += (lost > 0) == (sum > 0) ? 1 : -1;
    double odd = bits_as<double>(bits);
    float narrow = float(odd);
    uint32_t narrow_bits = bits_as<uint32_t>(narrow);
    if (std::isfinite(narrow) && narrow != odd && !(narrow_bits & 1))
        narrow_bits += (odd > narrow) == (narrow > 0 || (narrow == 0 && odd > 0)) ? 1 : -1;
    return to_bf16_bits(bits_as<float>(narrow_bits));
}

} // namespace emu

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}

/// Byte `i` of the result is the byte of `y:x` that nibble `i` names; a nibble's high bit asks for copies of its sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t bytes = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> 4 * i & 15;
        unsigned byte = unsigned(bytes >> 8 * (nibble & 7)) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
}

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
    return c;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }

inline unsigned __float_as_uint(float x) { return emu::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return emu::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return emu::bits_as<float>(x); }
inline float __int_as_float(int x) { return emu::bits_as<float>(x); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

// Rounded on their own, never joined to a fused operation.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

template <class T> T __ldg(const T* p) { return *p; }

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline size_t min(size_t a, size_t b) { return a < b ? a : b; }
inline size_t max(size_t a, size_t b) { return a > b ? a : b; }
