// Upsampling, softmax over queries and the argmax over classes in one pass, a pixel a thread.
//
// The threads of a warp are neighbours in a row, so they read the same few patches of a query, which stay in the cache
// for the rows below. Nothing but labels and scores is written at the size of the output.
#pragma once

#include <cmath>

#include "class_argmax_cuda.h"

namespace ovseg::class_argmax {
namespace {

constexpr int kWide = 32, kHigh = 8, kThreads = kWide * kHigh;  // pixels of a block
constexpr float kLog2E = 1.44269504088896341f;

__global__ void find_taps(DeviceAxis axis) {
  const std::int64_t output = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (output >= axis.outputs) return;
  const std::int64_t start = output * axis.inputs;
  std::int32_t count = 0;
  for (std::int64_t input = 0; input < axis.inputs; ++input) {
    const float weight = axis.matrix[start + input];
    if (weight == 0) continue;
    axis.input[start + count] = std::int32_t(input);
    axis.weight[start + count++] = weight;
  }
  axis.count[output] = count;
}

// The running winner and the running sum of the softmax of a pixel; logits are in units of log 2.
struct Race {
  float peak = -INFINITY, total = 0, top = -INFINITY;
  std::int32_t winner = -1;

  __device__ void add(float logit, std::int32_t query, bool competes, bool softmax) {
    if (competes && logit > top) {
      top = logit;
      winner = query;
    }
    if (!softmax) return;
    if (logit > peak) {
      total = total * exp2f(peak - logit) + 1;
      peak = logit;
    } else {
      total += exp2f(logit - peak);
    }
  }
};

// Up to two taps along each axis, as in all upsampling without windows: four reads a query.
__device__ void race_of_four(const DeviceProblem& p, std::int64_t row, std::int64_t column, float factor, Race& race) {
  const std::int64_t r = row * p.rows.inputs, c = column * p.columns.inputs;
  const bool two_rows = p.rows.count[row] > 1, two_columns = p.columns.count[column] > 1;
  const std::int64_t above = p.rows.input[r] * p.strides[1], left = p.columns.input[c] * p.strides[2];
  const std::int64_t below = two_rows ? p.rows.input[r + 1] * p.strides[1] : above;
  const std::int64_t right = two_columns ? p.columns.input[c + 1] * p.strides[2] : left;
  const float upper = p.rows.weight[r] * factor, lower = two_rows ? p.rows.weight[r + 1] * factor : 0.0f;
  const float first = p.columns.weight[c], second = two_columns ? p.columns.weight[c + 1] : 0.0f;
  const float* source = p.logits;
  for (std::int32_t query = 0; query < p.queries; ++query, source += p.strides[0]) {
    const float top = source[above + left] * first + source[above + right] * second;
    const float bottom = source[below + left] * first + source[below + right] * second;
    race.add(top * upper + bottom * lower, query, p.competes[query], p.softmax);
  }
}

// Any number of taps, as where windows overlap.
__device__ void race_of_many(const DeviceProblem& p, std::int64_t row, std::int64_t column, float factor, Race& race) {
  const std::int64_t r = row * p.rows.inputs, c = column * p.columns.inputs;
  const std::int32_t rows = p.rows.count[row], columns = p.columns.count[column];
  const float* source = p.logits;
  for (std::int32_t query = 0; query < p.queries; ++query, source += p.strides[0]) {
    float logit = 0;
    for (std::int32_t i = 0; i < rows; ++i) {
      const float* line = source + p.rows.input[r + i] * p.strides[1];
      float mixed = 0;
      for (std::int32_t j = 0; j < columns; ++j) {
        mixed += line[p.columns.input[c + j] * p.strides[2]] * p.columns.weight[c + j];
      }
      logit += mixed * (p.rows.weight[r + i] * factor);
    }
    race.add(logit, query, p.competes[query], p.softmax);
  }
}

__global__ void __launch_bounds__(kThreads) label(DeviceProblem p) {
  const std::int64_t row = std::int64_t(blockIdx.x) * kHigh + threadIdx.x / kWide;
  const std::int64_t column = std::int64_t(blockIdx.y) * kWide + threadIdx.x % kWide;
  if (row >= p.rows.outputs || column >= p.columns.outputs) return;
  const float factor = p.softmax ? p.scale * kLog2E : p.scale;
  Race race;
  const std::int32_t rows = p.rows.count[row], columns = p.columns.count[column];
  if (rows >= 1 && rows <= 2 && columns >= 1 && columns <= 2) {
    race_of_four(p, row, column, factor, race);
  } else {
    race_of_many(p, row, column, factor, race);
  }
  const std::int64_t pixel = row * p.columns.outputs + column;
  p.labels[pixel] = race.winner < 0 ? -1 : p.classes[race.winner];
  p.scores[pixel] = p.softmax ? exp2f(race.top - race.peak) / race.total : race.top;
}

}  // namespace
}  // namespace ovseg::class_argmax
