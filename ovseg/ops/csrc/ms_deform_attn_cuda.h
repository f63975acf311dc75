// Launchers of the CUDA kernels of multi-scale deformable attention, without PyTorch. Arrays are as on the CPU.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ovseg::ms_deform_attn {

constexpr int MAX_LEVELS = 8;

enum class Kind { SINGLE, DOUBLE, HALF, BFLOAT };  // of values and outputs

// Goes to a kernel by value. Products of sizes within an image, and the number of threads, fit 32 bits.
struct DeviceSizes {
  int batch, tokens, heads, dim, queries, levels, points;
  int height[MAX_LEVELS], width[MAX_LEVELS], start[MAX_LEVELS];  // of each level; `start` is its first token
};

// `locations` and `weights` are double for doubles, else single.
cudaError_t launch_forward(Kind kind, const DeviceSizes& n, const void* value, const void* locations,
                           const void* weights, void* out, cudaStream_t stream);

// `grad` and `value` are of the kind; all gradients that are written are double for doubles, else single. `grad_value`
// comes filled with zeros; its sums are made by atomic additions, in any order.
cudaError_t launch_backward(Kind kind, const DeviceSizes& n, const void* grad, const void* value,
                            const void* locations, const void* weights, void* grad_value, void* grad_locations,
                            void* grad_weights, cudaStream_t stream);

}  // namespace ovseg::ms_deform_attn
