//! Runs CUDA kernels on the CPU: what ptx.cuh includes where g++ reads it.
//!
//! types.h   keywords and vector types            math.h    functions of one lane
//! fiber.h   stacks and switches between them     warp.h    barriers, shuffles, votes, atomics
//! engine.h  lanes, warps, meets, kernels         async.h   cp.async
//! launch.cpp  how a block is run                 mma.h     ldmatrix, mma.sync
//!                                                hopper.h  mbarrier, TMA, wgmma
//!
//! Shared memory, dynamic (DYNAMIC_SHARED) or of a fixed size (SHARED), is NaN when a block begins; CUDA's own word for
//! the latter, which would give memory that nobody poisons, does not compile here.
#pragma once

#include "async.h"
#include "engine.h"
#include "fiber.h"
#include "hopper.h"
#include "math.h"
#include "mma.h"
#include "types.h"
#include "warp.h"
