//! Decoders: how a lane gets its part of a block (16 rows by 32 columns) of each format, as A operands of mma.m16n8k16.
//!
//! A record holds whole blocks of 16 rows in exactly the bytes that the file has for them (cuda_pack.rs writes them):
//! first the codes, block by block, a lane's together; then what is above four bits of each code, likewise; then
//! scales. Codes become bf16 integers, exactly: 128 + n has n in its mantissa's low bits, and 128 + zero is subtracted.
//! With lane = 4 g + t, a lane has rows g and g + 8, and columns 8 t .. 8 t + 8 (SUB 32) or 4 t .. 4 t + 4 of each half
//! (SUB 16), so that it finds its share of x side by side.
#pragma once

namespace linear {

/// What a lane has of a block: the operands of its two k16 steps; scales of rows g and g + 8, for the block or for each
/// step; minima, which stand for m * sum(x).
template <int SCALES> struct Block {
    uint32_t a[2][4];
    float d[SCALES][2];
    float m[2];
};

/// lop3: (a & b) | c.
constexpr int AND_OR = 0xEA;
/// Two bf16 of 128.
constexpr uint32_t BASE = 0x43004300;

/// The upper bits of pair `j` of a lane's codes, moved to bit 4 of both halves; a word holds the pairs' first codes
/// below and their second ones above.
template <int BITS> DEVICE uint32_t upper(uint32_t word, int j) {
    constexpr uint32_t mask = ((1u << BITS) - 1) * 0x00100010u;
    int shift = BITS * j - 4;
    return (shift < 0 ? word << -shift : word >> shift) & mask;
}

/// Sixteen codes of 4 bits and BITS more: a word a row, pair p in nibbles p and p + 4. `zero[h]` holds twice 128 + the
/// code that stands for zero.
template <int BITS>
DEVICE void codes(uint32_t (&a)[2][4], uint2 words, uint32_t high, const uint32_t (&zero)[2]) {
    uint32_t rows[2] = {words.x, words.y};
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int p = 0; p < 4; p++) {
            uint32_t code = lop3<AND_OR>(rows[h] >> (4 * p), 0x000f000fu, BASE);
            if (BITS > 0) code |= upper<BITS>(high, 4 * h + p);
            a[p / 2][p % 2 * 2 + h] = bf16x2_sub(code, zero[h]);
        }
    }
}

/// 16 bits, the first codes' in the lower byte, as `upper` wants them.
DEVICE uint32_t spread(uint16_t bits) { return __byte_perm(bits, 0, 0x4140); }

template <class T> DEVICE T at(const unsigned char* p, uint32_t index) {
    return reinterpret_cast<const T*>(p)[index];
}

/// Two f16, the lower one first.
DEVICE void halves(float (&out)[2], uint32_t word) {
    out[0] = to_float(f16{uint16_t(word)});
    out[1] = to_float(f16{uint16_t(word >> 16)});
}

/// 2^23: a float whose mantissa's low bits are an integer's.
constexpr uint32_t MAGIC = 0x4B000000;

/// Byte `i` of a word, less `zero`.
DEVICE float byte_of(uint32_t word, int i, float zero) {
    return __uint_as_float(__byte_perm(word, MAGIC, 0x7440 | i)) - (8388608.0f + zero);
}

/// The six bits from `shift` on.
DEVICE float six_bits(uint32_t word, int shift) {
    return __uint_as_float(lop3<AND_OR>(word >> shift, 63u, MAGIC)) - 8388608.0f;
}

/// 32 codes of 4 or 5 bits a block, with a scale and perhaps a minimum: Q4_0, Q4_1, Q5_0, Q5_1.
template <int HIGH, bool MIN> struct Simple {
    static constexpr int COLS = 32, BYTES = 16 * (18 + 4 * HIGH + 2 * MIN), STAGE = 256, SUB = 32;
    static constexpr bool SCALED = true, MINIMA = MIN;

    DEVICE static Block<1> block(const unsigned char* record, uint32_t, uint32_t lane) {
        Block<1> out;
        const unsigned char* scales = record + 256 + 64 * HIGH;
        uint32_t high = HIGH ? spread(at<uint16_t>(record + 256, lane)) : 0;
        const uint32_t z = BASE + (MIN ? 0 : HIGH ? 0x00100010 : 0x00080008);
        codes<HIGH>(out.a, at<uint2>(record, lane), high, {z, z});
        if (MIN) {
            uint2 dm = at<uint2>(scales, lane / 4);
            halves(out.d[0], dm.x);
            halves(out.m, dm.y);
        } else {
            halves(out.d[0], at<uint32_t>(scales, lane / 4));
        }
        return out;
    }
};
using q4_0 = Simple<0, false>;
using q4_1 = Simple<0, true>;
using q5_0 = Simple<1, false>;
using q5_1 = Simple<1, true>;

/// 32 codes of 8 bits with a sign, pairs in bytes p and p + 2 of a word. The sign bit's weight of -128 is subtracted.
struct q8_0 {
    static constexpr int COLS = 32, BYTES = 16 * 34, STAGE = 128, SUB = 32;
    static constexpr bool SCALED = true, MINIMA = false;

    DEVICE static Block<1> block(const unsigned char* record, uint32_t, uint32_t lane) {
        Block<1> out;
        uint4 words = at<uint4>(record, lane);
        uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int h = i / 4, p = i % 4;
            uint32_t pair = word[2 * h + p / 2] >> (8 * (p % 2));
            uint32_t low = lop3<AND_OR>(pair, 0x007f007fu, BASE), sign = lop3<AND_OR>(pair, 0x00800080u, BASE);
            out.a[p / 2][p % 2 * 2 + h] = bf16x2_sub(low, sign);
        }
        halves(out.d[0], at<uint32_t>(record + 512, lane / 4));
        return out;
    }
};

/// 256 codes of 4 or 5 bits in blocks of 32, whose scales and minima of 6 bits are multiples of the record's: Q4_K,
/// Q5_K. A block's fields of rows g and g + 8 (two scales, two minima) are 24 bits: 16 in one array, 8 in the next.
template <int HIGH> struct K {
    static constexpr int COLS = 256, BYTES = 16 * (144 + 32 * HIGH), STAGE = 256, SUB = 32;
    static constexpr bool SCALED = true, MINIMA = true;

    DEVICE static Block<1> block(const unsigned char* record, uint32_t b, uint32_t lane) {
        Block<1> out;
        const unsigned char* scales = record + 8 * (256 + 64 * HIGH);
        uint32_t high = HIGH ? spread(at<uint16_t>(record + 2048, 32 * b + lane)) : 0;
        codes<HIGH>(out.a, at<uint2>(record, 32 * b + lane), high, {BASE, BASE});
        uint32_t g = lane / 4, low = at<uint16_t>(scales, 8 * b + g), top = scales[128 + 8 * b + g];
        uint32_t fields = low | top << 16;
        uint2 dm = at<uint2>(scales + 192, g);
        halves(out.d[0], dm.x);
        halves(out.m, dm.y);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            out.d[0][h] *= six_bits(fields, 6 * h);
            out.m[h] *= -six_bits(fields, 12 + 6 * h);
        }
        return out;
    }
};
using q4_k = K<0>;
using q5_k = K<1>;

/// 256 codes of 6 bits, with a scale of 8 bits for each 16.
struct q6_k {
    static constexpr int COLS = 256, BYTES = 16 * 210, STAGE = 256, SUB = 16;
    static constexpr bool SCALED = true, MINIMA = false;

    DEVICE static Block<2> block(const unsigned char* record, uint32_t b, uint32_t lane) {
        Block<2> out;
        const unsigned char* scales = record + 8 * (256 + 128);
        const uint32_t z = BASE + 0x00200020;
        codes<2>(out.a, at<uint2>(record, 32 * b + lane), at<uint32_t>(record + 2048, 32 * b + lane), {z, z});
        // Signed bytes, moved by 128: step 0 of rows g and g + 8, step 1 of both.
        uint32_t bytes = at<uint32_t>(scales, 8 * b + lane / 4) ^ 0x80808080u;
        float d[2];
        halves(d, at<uint32_t>(scales + 256, lane / 4));
#pragma unroll
        for (int i = 0; i < 4; i++) out.d[i / 2][i % 2] = d[i % 2] * byte_of(bytes, i, 128.0f);
        return out;
    }
};

/// GROUP codes of 4 bits with a scale and an integer that stands for zero: GPTQ and AWQ.
template <int GROUP> struct Int4 {
    static constexpr int COLS = GROUP, BYTES = 8 * GROUP + 48, STAGE = 256, SUB = 32;
    static constexpr bool SCALED = true, MINIMA = false;

    DEVICE static Block<1> block(const unsigned char* record, uint32_t b, uint32_t lane) {
        Block<1> out;
        const unsigned char* scales = record + 8 * GROUP;
        uint32_t zeros = at<uint16_t>(scales + 32, lane / 4);
        uint32_t z[2] = {BASE + (zeros & 255) * 0x00010001u, BASE + (zeros >> 8) * 0x00010001u};
        codes<0>(out.a, at<uint2>(record, 32 * b + lane), 0, z);
        halves(out.d[0], at<uint32_t>(scales, lane / 4));
        return out;
    }
};
using int4_32 = Int4<32>;
using int4_128 = Int4<128>;

/// bf16 as it is: a lane's operands of the first step, then those of the second.
struct bf16_rows {
    static constexpr int COLS = 32, BYTES = 16 * 64, STAGE = 64, SUB = 32;
    static constexpr bool SCALED = false, MINIMA = false;

    DEVICE static Block<1> block(const unsigned char* record, uint32_t, uint32_t lane) {
        Block<1> out;
#pragma unroll
        for (int s = 0; s < 2; s++) {
            uint4 operands = at<uint4>(record, 32 * s + lane);
            out.a[s][0] = operands.x;
            out.a[s][1] = operands.y;
            out.a[s][2] = operands.z;
            out.a[s][3] = operands.w;
        }
        return out;
    }
};

}  // namespace linear
