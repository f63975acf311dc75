// What the CUDA kernels of multi-scale deformable attention are given, without PyTorch. Arrays are as on the CPU.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ovseg::ms_deform_attn {

constexpr int MAX_LEVELS = 8;

enum class Kind { SINGLE, DOUBLE, HALF, BFLOAT };  // of values and outputs

// Products of sizes within an image, and the number of threads, fit 32 bits.
struct DeviceSizes {
  int batch, tokens, heads, dim, queries, levels, points;
  int height[MAX_LEVELS], width[MAX_LEVELS], start[MAX_LEVELS];  // of each level; `start` is its first token
};

// Goes to a kernel by value. Forward has `out`, backward has the gradients; the others are null. `value`, `grad` and
// `out` are of the kind, everything else is double for doubles, else single. `grad_value` comes filled with zeros; its
// sums are made by atomic additions, in any order.
struct Problem {
  DeviceSizes sizes;
  const void *value, *locations, *weights;
  void* out;
  const void* grad;
  void *grad_value, *grad_locations, *grad_weights;
  int group;  // for the launcher: threads of a head of a query in the kernel of backward
};

cudaError_t launch(Kind kind, const Problem& problem, cudaStream_t stream);

}  // namespace ovseg::ms_deform_attn
