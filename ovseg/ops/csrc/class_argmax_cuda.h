// What launches the kernels of `class_argmax.cu`; free of torch.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

namespace ovseg::class_argmax {

// An interpolation matrix, and room for what its rows are mixed from.
struct DeviceAxis {
  const float* matrix;         // (outputs, inputs)
  std::int64_t outputs, inputs;
  std::int32_t* count;         // (outputs): how many inputs an output is mixed from
  std::int32_t* input;         // (outputs, inputs): which, first ones first
  float* weight;               // likewise
};

struct DeviceProblem {
  const float* logits;         // (queries, height, width)
  std::int64_t strides[3];     // in elements
  std::int64_t queries;
  DeviceAxis rows, columns;
  const std::int32_t* classes;  // of each query
  const bool* competes;         // likewise
  float scale;
  bool softmax;
  std::int32_t* labels;        // (rows.outputs, columns.outputs)
  float* scores;               // likewise
};

cudaError_t launch(const DeviceProblem& problem, cudaStream_t stream);

}  // namespace ovseg::class_argmax
