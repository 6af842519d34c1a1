//! Activation functions (mod.rs has the formulas).
#pragma once

namespace activation {

/// SiLU (0) or GELU's tanh form (1), which is x * sigmoid(2 y).
DEVICE float apply(float x, uint32_t gelu) {
    float y = gelu ? x * fmaf(x * x, 2.0f * 0.7978845608f * 0.044715f, 2.0f * 0.7978845608f) : x;
    return x / (1.0f + __expf(-y));
}

}  // namespace activation
