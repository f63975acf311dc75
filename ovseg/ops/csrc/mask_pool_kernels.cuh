// Kernels of mask_pool. `weigh_masks` looks at every mask once: the sum of its weights and, for the mean over pixels
// inside, one bit for each pixel. `multiply` is a matrix product (queries x pixels) * (pixels x channels) whose left
// side is made in shared memory from those bits, or from the logits for soft weights, so that no mask is ever written.
// `finish` adds the shares of the pixels and divides. Sums are in single precision and in the same order every time.
#pragma once

#include "mask_pool_cuda.h"

namespace ovseg::mask_pool {

constexpr int kThreads = 256, kWarp = 32;
constexpr int kTile = 128;   // queries and channels of a block of `multiply`
constexpr int kDepth = 16;   // pixels of a step of it
constexpr int kOwn = 8;      // queries and channels of a thread, as two runs of four
constexpr int kPad = 4;      // floats between rows in shared memory; rows stay aligned to float4
constexpr int kLoads = kTile * kDepth / kThreads;
static_assert((kTile / kOwn) * (kTile / kOwn) == kThreads && kLoads == 8 && kDepth == 2 * kLoads);

// A logit of a mask (mask_height, mask_width) at pixel `n` of the grid of the features.
template <class L>
__device__ inline float resized_logit(const Problem& p, const L* mask, int n) {
  const int y = n / p.width, x = n - y * p.width;
  if (p.mask_height == p.height && p.mask_width == p.width) return static_cast<float>(mask[n]);
  if (p.resize == 1) {
    const int top = static_cast<int>(int64_t{y} * p.mask_height / p.height);
    const int left = static_cast<int>(int64_t{x} * p.mask_width / p.width);
    const int bottom = static_cast<int>(((y + int64_t{1}) * p.mask_height + p.height - 1) / p.height);
    const int right = static_cast<int>(((x + int64_t{1}) * p.mask_width + p.width - 1) / p.width);
    float found = static_cast<float>(mask[int64_t{top} * p.mask_width + left]);
    for (int i = top; i < bottom; ++i) {
      for (int j = left; j < right; ++j) found = fmaxf(found, static_cast<float>(mask[int64_t{i} * p.mask_width + j]));
    }
    return found;
  }
  const float down = static_cast<float>(p.mask_height) / static_cast<float>(p.height);
  const float across = static_cast<float>(p.mask_width) / static_cast<float>(p.width);
  const float row = fmaxf(down * (y + 0.5f) - 0.5f, 0.0f), column = fmaxf(across * (x + 0.5f) - 0.5f, 0.0f);
  const int top = min(static_cast<int>(row), p.mask_height - 1), left = min(static_cast<int>(column), p.mask_width - 1);
  const int right = left < p.mask_width - 1, below = top < p.mask_height - 1 ? p.mask_width : 0;
  const float lower = fminf(row - top, 1.0f), later = fminf(column - left, 1.0f);
  const L* corner = mask + int64_t{top} * p.mask_width + left;
  const float above = static_cast<float>(corner[0]) * (1 - later) + static_cast<float>(corner[right]) * later;
  const float under = static_cast<float>(corner[below]) * (1 - later) + static_cast<float>(corner[below + right]) * later;
  return above * (1 - lower) + under * lower;
}

__device__ inline float weight_of(float logit, int weights, float shift) {
  if (weights == 0) return logit > 0 ? 1.0f : 0.0f;
  return weights == 1 ? 1.0f / (1.0f + expf(-logit)) : expf(logit - shift);
}

// Adds or finds the largest of the values of all threads; `scratch` has kThreads floats.
template <bool largest>
__device__ inline float over_block(float value, float* scratch) {
  scratch[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const float other = scratch[threadIdx.x + half];
      scratch[threadIdx.x] = largest ? fmaxf(scratch[threadIdx.x], other) : scratch[threadIdx.x] + other;
    }
    __syncthreads();
  }
  const float found = scratch[0];
  __syncthreads();
  return found;
}

// Grid: one block for each mask of each image.
template <class L>
__global__ void __launch_bounds__(kThreads) weigh_masks(Problem p) {
  __shared__ float scratch[kThreads];
  const int pixels = p.height * p.width, words = (pixels + kWarp - 1) / kWarp;
  const L* mask = static_cast<const L*>(p.logits) + int64_t{blockIdx.x} * p.mask_height * p.mask_width;
  float shift = 0;
  if (p.weights == 2) {
    float top = -INFINITY;
    for (int n = threadIdx.x; n < pixels; n += kThreads) top = fmaxf(top, resized_logit(p, mask, n));
    shift = over_block<true>(top, scratch);
    if (threadIdx.x == 0) p.shift[blockIdx.x] = shift;
  }
  float sum = 0;
  for (int from = 0; from < pixels; from += kThreads) {  // all lanes take part in the ballot
    const int n = from + threadIdx.x;
    const float weight = n < pixels ? weight_of(resized_logit(p, mask, n), p.weights, shift) : 0.0f;
    sum += weight;
    if (p.weights == 0) {
      const uint32_t word = __ballot_sync(0xffffffffu, weight > 0);
      if (threadIdx.x % kWarp == 0 && n / kWarp < words) p.bits[int64_t{blockIdx.x} * words + n / kWarp] = word;
    }
  }
  sum = over_block<false>(sum, scratch);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = sum;
}

// The bits from pixel `n` on, which is a multiple of `kLoads`, so that the next `kLoads` lie in one word.
__device__ inline uint32_t bring_bits(const Problem& p, int image, int query, int n, int end) {
  if (query >= p.queries || n >= end) return 0;
  const int words = (p.height * p.width + kWarp - 1) / kWarp;
  return p.bits[(int64_t{image} * p.queries + query) * words + n / kWarp] >> (n % kWarp);
}

template <class L>
__device__ inline float soft_weight(const Problem& p, int image, int query, int n, int end) {
  if (query >= p.queries || n >= end) return 0;
  const int64_t mask = int64_t{image} * p.queries + query;
  const L* logits = static_cast<const L*>(p.logits) + mask * p.mask_height * p.mask_width;
  return weight_of(resized_logit(p, logits, n), p.weights, p.weights == 2 ? p.shift[mask] : 0.0f);
}

// Which features of a step a thread brings: one at (channel, pixel), and `kLoads` - 1 more with steps from one to the
// next. Neighbours in memory go to neighbouring threads.
struct Share {
  int channel, pixel, channel_step, pixel_step;
};

__device__ inline Share share_of_thread(bool pixels_first) {
  const int thread = threadIdx.x;
  if (pixels_first) return {thread / kDepth, thread % kDepth, kThreads / kDepth, 0};
  return {thread % kTile, thread / kTile, 0, kThreads / kTile};
}

template <class F>
__device__ inline void bring_features(const Problem& p, const Share& own, const F* source, int channels, int pixels,
                                      float* found) {
  const int64_t step = own.channel_step * p.channel_step + own.pixel_step * p.pixel_step;
#pragma unroll
  for (int i = 0; i < kLoads; ++i, source += step) {
    const bool there = own.channel + i * own.channel_step < channels && own.pixel + i * own.pixel_step < pixels;
    found[i] = there ? static_cast<float>(*source) : 0.0f;
  }
}

// Grid: (tiles of channels, tiles of queries, images * splits).
template <class F, class L, bool bits>
__global__ void __launch_bounds__(kThreads, bits ? 2 : 1) multiply(Problem p) {
  __shared__ __align__(16) float left[kDepth][kTile + kPad];
  __shared__ __align__(16) float right[kDepth][kTile + kPad];
  const int image = blockIdx.z % p.images, split = blockIdx.z / p.images;
  const int query = blockIdx.y * kTile, channel = blockIdx.x * kTile, pixels = p.height * p.width;
  const int steps = (pixels + kDepth - 1) / kDepth;
  const int first = static_cast<int>(int64_t{steps} * split / p.splits) * kDepth;
  const int end = min(static_cast<int>(int64_t{steps} * (split + 1) / p.splits) * kDepth, pixels);
  const int own_query = threadIdx.x % kTile, own_pixel = threadIdx.x / kTile * kLoads;
  const int down = threadIdx.x / (kTile / kOwn) * 4, across = threadIdx.x % (kTile / kOwn) * 4;
  const Share own = share_of_thread(p.pixel_step == 1);
  const F* source = static_cast<const F*>(p.features) + image * p.image_step + (channel + own.channel) * p.channel_step +
                    (first + own.pixel) * p.pixel_step;
  float total[kOwn][kOwn] = {}, features[kLoads];
  uint32_t word = bits ? bring_bits(p, image, query + own_query, first + own_pixel, end) : 0;
  bring_features(p, own, source, p.channels - channel, end - first, features);
  for (int n = first; n < end; n += kDepth) {
    if (bits) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) left[own_pixel + i][own_query] = word >> i & 1u ? 1.0f : 0.0f;
    } else {
#pragma unroll 1
      for (int i = 0; i < kLoads; ++i) {
        left[own_pixel + i][own_query] = soft_weight<L>(p, image, query + own_query, n + own_pixel + i, end);
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      right[own.pixel + i * own.pixel_step][own.channel + i * own.channel_step] = features[i];
    }
    __syncthreads();
    if (n + kDepth < end) {  // on their way while the product is made
      if (bits) word = bring_bits(p, image, query + own_query, n + kDepth + own_pixel, end);
      source += kDepth * p.pixel_step;
      bring_features(p, own, source, p.channels - channel, end - n - kDepth, features);
    }
#pragma unroll 2
    for (int k = 0; k < kDepth; ++k) {
      float a[kOwn], b[kOwn];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *reinterpret_cast<float4*>(a + 4 * half) = *reinterpret_cast<const float4*>(&left[k][down + half * kTile / 2]);
        *reinterpret_cast<float4*>(b + 4 * half) = *reinterpret_cast<const float4*>(&right[k][across + half * kTile / 2]);
      }
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) total[i][j] += a[i] * b[j];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int q = query + down + i % 4 + i / 4 * kTile / 2;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int c = channel + across + j % 4 + j / 4 * kTile / 2;
      if (q < p.queries && c < p.channels) {
        p.parts[((int64_t{split} * p.images + image) * p.queries + q) * p.channels + c] = total[i][j];
      }
    }
  }
}

template <class F>
__global__ void __launch_bounds__(kThreads) finish(Problem p) {
  const int64_t size = int64_t{p.images} * p.queries * p.channels;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= size) return;
  float total = 0;
  for (int split = 0; split < p.splits; ++split) total += p.parts[split * size + index];
  const float sum = p.sums[index / p.channels];
  static_cast<F*>(p.pooled)[index] = static_cast<F>(sum == 0 ? 0.0f : total / sum);
}

}  // namespace ovseg::mask_pool
