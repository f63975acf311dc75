// Chooses and starts the kernels of mask_pool for the types at hand.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "mask_pool_kernels.cuh"

namespace ovseg::mask_pool {

namespace {

int tiles(int count) { return (count + kTile - 1) / kTile; }

template <class F, class L>
void launch_all(const Problem& p, cudaStream_t stream) {
  const dim3 grid(tiles(p.channels), tiles(p.queries), p.images * p.splits);
  const int64_t size = int64_t{p.images} * p.queries * p.channels;
  weigh_masks<L><<<p.images * p.queries, kThreads, 0, stream>>>(p);
  if (p.weights == 0) {
    multiply<F, L, true><<<grid, kThreads, 0, stream>>>(p);
  } else {
    multiply<F, L, false><<<grid, kThreads, 0, stream>>>(p);
  }
  finish<F><<<static_cast<unsigned>((size + kThreads - 1) / kThreads), kThreads, 0, stream>>>(p);
}

template <class F>
void launch_features(const Problem& p, cudaStream_t stream) {
  return p.logit_type == Element::single ? launch_all<F, float>(p, stream) : launch_all<F, F>(p, stream);
}

}  // namespace

int choose_splits(int images, int queries, int channels, int pixels, int multiprocessors) {
  const int blocks = std::max(1, images * tiles(queries) * tiles(channels));
  const int longest = std::max(1, pixels / (8 * kDepth));  // fewer than eight steps do not repay the extra sums
  return std::clamp((2 * multiprocessors + blocks - 1) / blocks, 1, longest);
}

void launch(const Problem& p, cudaStream_t stream) {
  switch (p.feature_type) {
    case Element::single:
      return launch_all<float, float>(p, stream);
    case Element::half:
      return launch_features<__half>(p, stream);
    case Element::bfloat16:
      return launch_features<__nv_bfloat16>(p, stream);
  }
}

}  // namespace ovseg::mask_pool
