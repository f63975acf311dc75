// CUDA kernels of multi-scale deformable attention.
//
// Forward: a thread owns 16 bytes of channels of one head of one query, so that neighbouring threads read neighbouring
// channels of the same pixels. Backward: a group of threads of one warp owns a head of a query and adds up over its
// channels by shuffles; only gradients of values, which many queries share, take atomic additions.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "ms_deform_attn_cuda.h"

namespace ovseg::ms_deform_attn {
namespace {

constexpr int THREADS = 256;
constexpr int WARP = 32;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void narrow(float x, float& out) { out = x; }
__device__ inline void narrow(double x, double& out) { out = x; }
__device__ inline void narrow(float x, __half& out) { out = __float2half_rn(x); }
__device__ inline void narrow(float x, __nv_bfloat16& out) { out = __float2bfloat16_rn(x); }

template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Pack {
  T x[COUNT];
};

template <typename T, typename A, int COUNT>
__device__ inline void load(const T* from, A (&to)[COUNT]) {
  const auto pack = *reinterpret_cast<const Pack<T, COUNT>*>(from);
#pragma unroll
  for (int c = 0; c < COUNT; ++c) to[c] = widen(pack.x[c]);
}

#if __CUDA_ARCH__ >= 900
constexpr bool WIDE_ATOMICS = true;
#else
constexpr bool WIDE_ATOMICS = false;
#endif

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
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const __grid_constant__ DeviceSizes n, const T* __restrict__ value,
                   const A* __restrict__ locations, const A* __restrict__ weights, T* __restrict__ out) {
  const int parts = n.dim / COUNT, thread = blockIdx.x * THREADS + threadIdx.x;
  const int item = thread / parts;  // (image, query, head)
  if (item >= n.batch * n.queries * n.heads) return;
  const int head = item % n.heads, image = item / n.heads / n.queries, row = n.heads * n.dim;
  const int samples = n.levels * n.points, channel = thread % parts * COUNT;
  const T* own = value + static_cast<int64_t>(image) * n.tokens * row + head * n.dim + channel;
  const A* place = locations + 2 * static_cast<int64_t>(item) * samples;
  const A* weight = weights + static_cast<int64_t>(item) * samples;
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
  for (int c = 0; c < COUNT; ++c) narrow(sums[c], pack.x[c]);
  *reinterpret_cast<Pack<T, COUNT>*>(out + static_cast<int64_t>(item) * n.dim + channel) = pack;
}

template <typename A>
__device__ inline A group_sum(A x, int group, unsigned mask) {
  for (int step = group / 2; step > 0; step /= 2) x += __shfl_xor_sync(mask, x, step);
  return x;
}

// `group` threads, a power of two up to a warp, share a head of a query.
template <typename T, typename A, int COUNT>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(const __grid_constant__ DeviceSizes n, int group, const T* __restrict__ grad,
                    const T* __restrict__ value, const A* __restrict__ locations, const A* __restrict__ weights,
                    A* __restrict__ grad_value, A* __restrict__ grad_locations, A* __restrict__ grad_weights) {
  const int thread = blockIdx.x * THREADS + threadIdx.x, item = thread / group, lane = thread % group;
  if (item >= n.batch * n.queries * n.heads) return;
  const unsigned all = group == WARP ? ~0u : (1u << group) - 1;
  const unsigned mask = all << (threadIdx.x % WARP / group * group);
  const int head = item % n.heads, image = item / n.heads / n.queries, row = n.heads * n.dim;
  const int64_t base = static_cast<int64_t>(image) * n.tokens * row + head * n.dim;
  const T* own_grad = grad + static_cast<int64_t>(item) * n.dim;
  int64_t sample = static_cast<int64_t>(item) * n.levels * n.points;
  for (int level = 0; level < n.levels; ++level) {
    const int height = n.height[level], width = n.width[level];
    for (int point = 0; point < n.points; ++point, ++sample) {
      const Cell<A> cell(locations[2 * sample], locations[2 * sample + 1], height, width);
      const A share = weights[sample];
      A to_x = 0, to_y = 0, to_weight = 0;
      for (int channel = lane * COUNT; channel < n.dim; channel += group * COUNT) {
        A above[COUNT];
        load(own_grad + channel, above);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const int right = corner & 1, below = corner >> 1;
          if (!cell.has(right, below, height, width)) continue;
          const int pixel = n.start[level] + (cell.top + below) * width + cell.left + right;
          const int64_t at = base + static_cast<int64_t>(pixel) * row + channel;
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
      to_weight = group_sum(to_weight, group, mask);
      to_x = group_sum(to_x, group, mask);
      to_y = group_sum(to_y, group, mask);
      if (lane == 0) {
        grad_weights[sample] = to_weight;
        grad_locations[2 * sample] = share * width * to_x;
        grad_locations[2 * sample + 1] = share * height * to_y;
      }
    }
  }
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

unsigned blocks(int64_t threads) { return static_cast<unsigned>((threads + THREADS - 1) / THREADS); }

template <typename T, typename A, int COUNT>
void forward(const DeviceSizes& n, const void* value, const void* locations, const void* weights, void* out,
             cudaStream_t stream) {
  const int64_t threads = static_cast<int64_t>(n.batch) * n.queries * n.heads * (n.dim / COUNT);
  forward_kernel<T, A, COUNT><<<blocks(threads), THREADS, 0, stream>>>(
      n, static_cast<const T*>(value), static_cast<const A*>(locations), static_cast<const A*>(weights),
      static_cast<T*>(out));
}

template <typename T, typename A, int COUNT>
void backward(const DeviceSizes& n, const void* grad, const void* value, const void* locations, const void* weights,
              void* grad_value, void* grad_locations, void* grad_weights, cudaStream_t stream) {
  int group = 1;
  while (group < WARP && group * COUNT < n.dim) group *= 2;
  const int64_t threads = static_cast<int64_t>(n.batch) * n.queries * n.heads * group;
  backward_kernel<T, A, COUNT><<<blocks(threads), THREADS, 0, stream>>>(
      n, group, static_cast<const T*>(grad), static_cast<const T*>(value), static_cast<const A*>(locations),
      static_cast<const A*>(weights), static_cast<A*>(grad_value), static_cast<A*>(grad_locations),
      static_cast<A*>(grad_weights));
}

// Calls f with a value of the kind's type, of the type that sums are made in, and the channels in 16 bytes, or 1.
template <typename T, typename A, typename F>
cudaError_t with_width(bool wide, int dim, F&& f) {
  constexpr int COUNT = 16 / sizeof(T);
  if (wide && dim % COUNT == 0) {
    f(T{}, A{}, std::integral_constant<int, COUNT>{});
  } else {
    f(T{}, A{}, std::integral_constant<int, 1>{});
  }
  return cudaGetLastError();
}

template <typename F>
cudaError_t dispatch(Kind kind, bool wide, int dim, F&& f) {
  switch (kind) {
    case Kind::SINGLE:
      return with_width<float, float>(wide, dim, f);
    case Kind::DOUBLE:
      return with_width<double, double>(wide, dim, f);
    case Kind::HALF:
      return with_width<__half, float>(wide, dim, f);
    case Kind::BFLOAT:
      return with_width<__nv_bfloat16, float>(wide, dim, f);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t launch_forward(Kind kind, const DeviceSizes& n, const void* value, const void* locations,
                           const void* weights, void* out, cudaStream_t stream) {
  return dispatch(kind, aligned(value) && aligned(out), n.dim, [&](auto x, auto sum, auto count) {
    forward<decltype(x), decltype(sum), decltype(count)::value>(n, value, locations, weights, out, stream);
  });
}

cudaError_t launch_backward(Kind kind, const DeviceSizes& n, const void* grad, const void* value,
                            const void* locations, const void* weights, void* grad_value, void* grad_locations,
                            void* grad_weights, cudaStream_t stream) {
  const bool wide = aligned(grad) && aligned(value) && aligned(grad_value);
  return dispatch(kind, wide, n.dim, [&](auto x, auto sum, auto count) {
    backward<decltype(x), decltype(sum), decltype(count)::value>(n, grad, value, locations, weights, grad_value,
                                                                 grad_locations, grad_weights, stream);
  });
}

}  // namespace ovseg::ms_deform_attn
