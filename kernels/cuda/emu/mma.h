//! ldmatrix and mma.sync: matrices whose elements are spread over the lanes of a warp, as the PTX ISA lays them out.
//!
//! Products of 16-bit floats are exact in f32; their sum runs over k in ascending order and is then added to the
//! accumulator. (The hardware's own order and rounding are not published; it differs from this in the last bits.)
#pragma once

#include "math.h"
#include "warp.h"

namespace emu {

/// Four numbers, as one vector instruction has them.
typedef float Float4 __attribute__((vector_size(16)));

struct LoadedMatrices {
    uint4 row; // this lane's row, to be spread
    uint32_t* results;
};

/// Lane `l` gets elements `2 (l % 4)` and the next of row `l / 4` of each matrix, or the transpose's.
template <int COUNT, bool TRANSPOSED> EMU_UNSEEN void load_matrices(LoadedMatrices* const* lanes, uint32_t) {
    for (unsigned l = 0; l < WARP; l++)
        for (int m = 0; m < COUNT; m++) {
            if (TRANSPOSED) {
                // (Not by a lambda: that would be seen.)
                auto even = reinterpret_cast<const uint16_t*>(&lanes[m * 8 + l % 4 * 2]->row);
                auto odd = reinterpret_cast<const uint16_t*>(&lanes[m * 8 + l % 4 * 2 + 1]->row);
                lanes[l]->results[m] = even[l / 4] | uint32_t(odd[l / 4]) << 16;
            } else {
                lanes[l]->results[m] = reinterpret_cast<const uint32_t*>(&lanes[m * 8 + l / 4]->row)[l % 4];
            }
        }
}

template <int COUNT, bool TRANSPOSED> void load_matrix(uint32_t* results, const void* row, Site site) {
    LoadedMatrices lane{{}, results};
    if (engine->lane->thread.x % WARP < COUNT * 8) {
        if (reinterpret_cast<uintptr_t>(row) & 15) fail(site, "ldmatrix of the row at %p: not aligned to 16 bytes", row);
        lane.row = *static_cast<const uint4*>(row);
    }
    meet<LoadedMatrices>(EVERY_LANE, lane, load_matrices<COUNT, TRANSPOSED>, "ldmatrix", site);
}

template <class T> struct Fragments {
    T* c;
    const uint32_t* a;
    const uint32_t* b;
};

inline float low_bf16(uint32_t pair) { return bits_as<float>(pair << 16); }
inline float high_bf16(uint32_t pair) { return bits_as<float>(pair & 0xffff0000); }
inline float low_f16(uint32_t pair) { return from_f16_bits(uint16_t(pair)); }
inline float high_f16(uint32_t pair) { return from_f16_bits(uint16_t(pair >> 16)); }

/// m16n8k16. Lane `4 g + t` has rows g and g + 8 of A and C, column g of B, and of each pairs that begin at 2 t.
template <float (*LOW)(uint32_t), float (*HIGH)(uint32_t)>
EMU_UNSEEN void multiply_f32(Fragments<float>* const* lanes, uint32_t) {
    float a[16][16];
    alignas(16) float b[16][8];
    for (unsigned l = 0; l < WARP; l++) {
        const uint32_t *from_a = lanes[l]->a, *from_b = lanes[l]->b;
        unsigned group = l / 4, pair = l % 4 * 2;
        for (int j = 0; j < 4; j++) {
            float* to = &a[group + (j & 1) * 8][pair + (j >> 1) * 8];
            to[0] = LOW(from_a[j]);
            to[1] = HIGH(from_a[j]);
        }
        for (int j = 0; j < 2; j++) {
            b[pair + j * 8][group] = LOW(from_b[j]);
            b[pair + j * 8 + 1][group] = HIGH(from_b[j]);
        }
    }
    for (unsigned row = 0; row < 16; row++) {
        Float4 left = {}, right = {};
        for (int k = 0; k < 16; k++) {
            left += a[row][k] * *reinterpret_cast<const Float4*>(&b[k][0]);
            right += a[row][k] * *reinterpret_cast<const Float4*>(&b[k][4]);
        }
        for (unsigned t = 0; t < 4; t++) {
            float* c = lanes[row % 8 * 4 + t]->c + row / 8 * 2;
            c[0] += t < 2 ? left[t * 2] : right[t * 2 - 4];
            c[1] += t < 2 ? left[t * 2 + 1] : right[t * 2 - 3];
        }
    }
}

/// m16n8k32 of signed bytes; sums wrap round. As above, with four bytes where it has a pair.
EMU_UNSEEN inline void multiply_s8(Fragments<int32_t>* const* lanes, uint32_t) {
    int8_t a[16][32], b[8][32];
    for (unsigned l = 0; l < WARP; l++) {
        unsigned group = l / 4, four = l % 4 * 4;
        for (int j = 0; j < 4; j++) __builtin_memcpy(&a[group + (j & 1) * 8][four + (j >> 1) * 16], &lanes[l]->a[j], 4);
        for (int j = 0; j < 2; j++) __builtin_memcpy(&b[group][four + j * 16], &lanes[l]->b[j], 4);
    }
    for (unsigned l = 0; l < WARP; l++)
        for (unsigned j = 0; j < 4; j++) {
            const int8_t *row = a[l / 4 + j / 2 * 8], *column = b[l % 4 * 2 + j % 2];
            int sum = 0;
            for (int k = 0; k < 32; k++) sum += row[k] * column[k];
            lanes[l]->c[j] = int32_t(uint32_t(lanes[l]->c[j]) + uint32_t(sum));
        }
}

template <class T>
inline void multiply(T* c, const uint32_t* a, const uint32_t* b, void (*how)(Fragments<T>* const*, uint32_t),
                     const char* what, Site site) {
    Fragments<T> lane{c, a, b};
    meet<Fragments<T>>(EVERY_LANE, lane, how, what, site);
}

} // namespace emu

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_SITE) { emu::load_matrix<4, false>(r, row, site); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, EMU_SITE) { emu::load_matrix<2, false>(r, row, site); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_SITE) { emu::load_matrix<4, true>(r, row, site); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, EMU_SITE) { emu::load_matrix<2, true>(r, row, site); }

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_SITE) {
    emu::multiply<float>(c, a, b, emu::multiply_f32<emu::low_bf16, emu::high_bf16>, "mma", site);
}
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_SITE) {
    emu::multiply<float>(c, a, b, emu::multiply_f32<emu::low_f16, emu::high_f16>, "mma", site);
}
inline void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_SITE) {
    emu::multiply<int32_t>(c, a, b, emu::multiply_s8, "mma", site);
}
