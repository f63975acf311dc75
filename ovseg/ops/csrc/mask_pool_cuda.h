// What mask_pool_cuda.cpp asks of the kernels in mask_pool.cu. No PyTorch in here.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ovseg::mask_pool {

enum class Element { single, half, bfloat16 };

struct Problem {
  const void* features;   // (images, channels, pixels), steps below; pixels of a row of the grid follow one another
  const void* logits;     // (images, queries, mask_height, mask_width), dense
  void* pooled;           // (images, queries, channels), dense, as the features
  uint32_t* bits;         // (images, queries, ceil(pixels / 32)): where a logit is positive; for weights 0 alone
  float* shift;           // (images, queries): what is taken off a logit, for weights 2
  float* sums;            // (images, queries): of the weights
  float* parts;           // (splits, images, queries, channels): sums over a share of the pixels each
  Element feature_type;
  Element logit_type;     // as feature_type, or single
  int64_t image_step, channel_step, pixel_step;  // of the features, in elements
  int images, queries, channels, height, width, mask_height, mask_width;
  int weights;            // 0 inside, 1 sigmoid, 2 softmax
  int resize;             // 0 bilinear, 1 largest
  int splits;             // of the pixels
};

// Returns into how many shares the pixels are best split, so that all multiprocessors have work.
int choose_splits(int images, int queries, int channels, int pixels, int multiprocessors);

void launch(const Problem& problem, cudaStream_t stream);

}  // namespace ovseg::mask_pool
