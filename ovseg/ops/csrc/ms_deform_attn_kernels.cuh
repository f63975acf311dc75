// CUDA kernels of multi-scale deformable attention.
//
// Forward: a thread owns 16 bytes of channels of one head of one query, so that neighbouring threads read neighbouring
// channels of the same pixels. Backward: a group of threads of one warp owns a head of a query and adds up over its
// channels by shuffles; only gradients of values, which many queries share, take atomic additions.

#pragma once

#include "ms_deform_attn_cuda.h"

namespace ovseg::ms_deform_attn {

constexpr int THREADS = 256, WARP = 32;

#if __CUDA_ARCH__ >= 900
constexpr bool WIDE_ATOMICS = true;
#else
constexpr bool WIDE_ATOMICS = false;
#endif

template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Pack {
  T x[COUNT];
};

template <typename T, typename A, int COUNT>
__device__ inline void load(const T* from, A (&to)[COUNT]) {
  const auto pack = *reinterpret_cast<const Pack<T, COUNT>*>(from);
#pragma unroll
  for (int c = 0; c < COUNT; ++c) to[c] = static_cast<A>(pack.x[c]);
}

template <typename A, int COUNT>
__device__ inline void add(A* to, const A (&grad)[COUNT], A share) {
  if constexpr (WIDE_ATOMICS && sizeof(A) == 4 && COUNT % 4 == 0) {
#if __CUDA_ARCH__ >= 900
#pragma unroll
    for (int c = 0; c < COUNT; c += 4) {
      atomicAdd(reinterpret_cast<float4*>(to + c),
                make_float4(share * grad[c], share * grad[c + 1], share * grad[c + 2], share * grad[c + 3]));
    }
#endif
  } else {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) atomicAdd(to + c, share * grad[c]);
  }
}

// Where a place lies in a level: the pixel above and to the left of it, and the way from there. Pixels may be outside;
// all are for places far away and those that are no numbers.
template <typename A>
struct Cell {
  int left, top;
  A x, y;

  __device__ Cell(A place_x, A place_y, int height, int width) {
    const A across = place_x * width - A(0.5), down = place_y * height - A(0.5);
    const bool near = across > A(-1) && down > A(-1) && across < width && down < height;
    const A left_edge = floor(across), top_edge = floor(down);
    left = near ? static_cast<int>(left_edge) : -2;
    top = near ? static_cast<int>(top_edge) : -2;
    x = near ? across - left_edge : A(0);
    y = near ? down - top_edge : A(0);
  }

  __device__ bool has(int right, int below, int height, int width) const {
    return left + right >= 0 && left + right < width && top + below >= 0 && top + below < height;
  }
};

template <typename T, typename A, int COUNT>
__global__ void __launch_bounds__(THREADS) forward_kernel(const __grid_constant__ Problem p) {
  const DeviceSizes& n = p.sizes;
  const int parts = n.dim / COUNT, thread = blockIdx.x * THREADS + threadIdx.x;
  const int item = thread / parts;  // (image, query, head)
  if (item >= n.batch * n.queries * n.heads) return;
  const int head = item % n.heads, image = item / n.heads / n.queries, row = n.heads * n.dim;
  const int samples = n.levels * n.points, channel = thread % parts * COUNT;
  const T* own = static_cast<const T*>(p.value) + static_cast<int64_t>(image) * n.tokens * row + head * n.dim + channel;
  const A* place = static_cast<const A*>(p.locations) + 2 * static_cast<int64_t>(item) * samples;
  const A* weight = static_cast<const A*>(p.weights) + static_cast<int64_t>(item) * samples;
  A sums[COUNT] = {};
  for (int level = 0; level < n.levels; ++level) {
    const int height = n.height[level], width = n.width[level];
    const T* map = own + n.start[level] * row;
#pragma unroll 1
    for (int point = 0; point < n.points; ++point, place += 2, ++weight) {
      const Cell<A> cell(place[0], place[1], height, width);
      const A share = *weight;
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const int right = corner & 1, below = corner >> 1;
        A found[COUNT] = {};
        if (cell.has(right, below, height, width)) {
          load(map + ((cell.top + below) * width + cell.left + right) * row, found);
        }
        const A part = share * (right ? cell.x : 1 - cell.x) * (below ? cell.y : 1 - cell.y);
#pragma unroll
        for (int c = 0; c < COUNT; ++c) sums[c] += part * found[c];
      }
    }
  }
  Pack<T, COUNT> pack;
#pragma unroll
  for (int c = 0; c < COUNT; ++c) pack.x[c] = static_cast<T>(sums[c]);
  T* out = static_cast<T*>(p.out) + static_cast<int64_t>(item) * n.dim + channel;
  *reinterpret_cast<Pack<T, COUNT>*>(out) = pack;
}

// Adds up over neighbouring threads; all of a warp take part.
template <typename A>
__device__ inline A group_sum(A x, int group) {
  for (int step = group / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffff, x, step);
  return x;
}

// `p.group` threads, a power of two up to a warp, share a head of a query.
template <typename T, typename A, int COUNT>
__global__ void __launch_bounds__(THREADS) backward_kernel(const __grid_constant__ Problem p) {
  const DeviceSizes& n = p.sizes;
  const int thread = blockIdx.x * THREADS + threadIdx.x, lane = thread % p.group, items = n.batch * n.queries * n.heads;
  const bool exists = thread / p.group < items;  // those behind the end go along for the sums of their warp
  const int item = exists ? thread / p.group : items - 1;
  const int head = item % n.heads, image = item / n.heads / n.queries, row = n.heads * n.dim;
  const int64_t base = static_cast<int64_t>(image) * n.tokens * row + head * n.dim;
  const A *locations = static_cast<const A*>(p.locations), *weights = static_cast<const A*>(p.weights);
  const T* value = static_cast<const T*>(p.value) + base;
  const T* own_grad = static_cast<const T*>(p.grad) + static_cast<int64_t>(item) * n.dim;
  A* grad_value = static_cast<A*>(p.grad_value) + base;
  A *grad_locations = static_cast<A*>(p.grad_locations), *grad_weights = static_cast<A*>(p.grad_weights);
  int64_t sample = static_cast<int64_t>(item) * n.levels * n.points;
  for (int level = 0; level < n.levels; ++level) {
    const int height = n.height[level], width = n.width[level];
    for (int point = 0; point < n.points; ++point, ++sample) {
      const Cell<A> cell(locations[2 * sample], locations[2 * sample + 1], height, width);
      const A share = weights[sample];
      A to_x = 0, to_y = 0, to_weight = 0;
      for (int channel = lane * COUNT; exists && channel < n.dim; channel += p.group * COUNT) {
        A above[COUNT];
        load(own_grad + channel, above);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const int right = corner & 1, below = corner >> 1;
          if (!cell.has(right, below, height, width)) continue;
          const int pixel = n.start[level] + (cell.top + below) * width + cell.left + right;
          const int at = pixel * row + channel;
          A found[COUNT], product = 0;
          load(value + at, found);
#pragma unroll
          for (int c = 0; c < COUNT; ++c) product += above[c] * found[c];
          const A along_x = right ? cell.x : 1 - cell.x, along_y = below ? cell.y : 1 - cell.y;
          add(grad_value + at, above, share * along_x * along_y);
          to_weight += along_x * along_y * product;
          to_x += right ? along_y * product : -along_y * product;
          to_y += below ? along_x * product : -along_x * product;
        }
      }
      to_weight = group_sum(to_weight, p.group);
      to_x = group_sum(to_x, p.group);
      to_y = group_sum(to_y, p.group);
      if (exists && lane == 0) {
        grad_weights[sample] = to_weight;
        grad_locations[2 * sample] = share * width * to_x;
        grad_locations[2 * sample + 1] = share * height * to_y;
      }
    }
  }
}

}  // namespace ovseg::ms_deform_attn
