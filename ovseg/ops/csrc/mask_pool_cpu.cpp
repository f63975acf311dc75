// mask_pool on the CPU: tiles of weights that stay in the cache, times the features below them.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "mask_pool.h"

namespace {

using namespace ovseg::mask_pool;

constexpr int64_t kTile = int64_t{1} << 18;  // weights in a tile: 1 MiB, which the second-level cache holds

// Adds weights (Q, P) times pixels (C, P) to sums of features (Q, C); `active` are the queries with any weight.
template <class A>
void add_product(at::Tensor& total, const at::Tensor& tile, const at::Tensor& pixels,
                 const std::vector<int64_t>& active) {
  if (static_cast<int64_t>(active.size()) == tile.size(0)) {
    total.addmm_(tile, pixels.t());
    return;
  }
  if (active.empty()) return;
  const int64_t size = tile.size(1), channels = total.size(1);
  A* weights = tile.mutable_data_ptr<A>();
  for (size_t i = 0; i < active.size(); ++i) {
    if (static_cast<int64_t>(i) != active[i]) std::copy_n(weights + active[i] * size, size, weights + i * size);
  }
  const at::Tensor part = at::mm(tile.narrow(0, 0, active.size()), pixels.t());
  const A* source = part.const_data_ptr<A>();
  A* target = total.mutable_data_ptr<A>();
  for (size_t i = 0; i < active.size(); ++i) {
    for (int64_t c = 0; c < channels; ++c) target[active[i] * channels + c] += source[i * channels + c];
  }
}

// Fills total (Q, C) with the weighted means of features (C, h, w) under logits (Q, H, W).
template <class T, class A>
void pool_image(const at::Tensor& features, const at::Tensor& logits, Weights weights, Resize resize,
                at::Tensor total) {
  const int64_t queries = logits.size(0), height = features.size(1), width = features.size(2);
  const Logits<T> source{logits.const_data_ptr<T>(), logits.size(1), logits.size(2),
                         logits.stride(0),           logits.stride(1), logits.stride(2)};
  const Resizer<T, A> resizer(source, height, width, resize);
  std::vector<A> largest(weights == Weights::softmax ? queries : 0), sums(queries);
  if (weights == Weights::softmax) {
    at::parallel_for(0, queries, 1, [&](int64_t begin, int64_t end) {
      find_largest(resizer, height, width, begin, end, largest.data());
    });
  }
  const at::Tensor flat = features.flatten(1);
  const int64_t rows = std::clamp<int64_t>(kTile / (queries * width), 1, height);
  const at::Tensor buffer = at::empty({queries * rows * width}, total.options());
  std::vector<int64_t> active;
  for (int64_t top = 0; top < height; top += rows) {
    const int64_t bottom = std::min(top + rows, height), size = (bottom - top) * width;
    const at::Tensor tile = buffer.narrow(0, 0, queries * size).view({queries, size});
    const std::vector<A> before = sums;
    at::parallel_for(0, queries, 1, [&](int64_t begin, int64_t end) {
      fill_tile(resizer, width, weights, largest.empty() ? nullptr : largest.data(), top, bottom, begin, end,
                tile.mutable_data_ptr<A>(), sums.data());
    });
    active.clear();
    for (int64_t query = 0; query < queries; ++query) {
      if (!(sums[query] == before[query])) active.push_back(query);
    }
    add_product<A>(total, tile, flat.narrow(1, top * width, size).to(total.scalar_type()), active);
  }
  A* out = total.mutable_data_ptr<A>();
  for (int64_t query = 0; query < queries; ++query, out += total.size(1)) {
    const A share = sums[query] == 0 ? A(0) : A(1) / sums[query];
    for (int64_t c = 0; c < total.size(1); ++c) out[c] *= share;
  }
}

template <class A>
void pool_by_type(const at::Tensor& features, const at::Tensor& logits, Weights weights, Resize resize,
                  const at::Tensor& total) {
  if constexpr (std::is_same_v<A, double>) {
    return pool_image<double, double>(features, logits.to(at::kDouble), weights, resize, total);
  } else {
    switch (logits.scalar_type()) {
      case at::kFloat:
        return pool_image<float, float>(features, logits, weights, resize, total);
      case at::kHalf:
        return pool_image<c10::Half, float>(features, logits, weights, resize, total);
      case at::kBFloat16:
        return pool_image<c10::BFloat16, float>(features, logits, weights, resize, total);
      default:
        TORCH_CHECK(false, "mask_pool: mask logits are ", logits.scalar_type(), "; expected floating point numbers");
    }
  }
}

at::Tensor mask_pool(const at::Tensor& features, const at::Tensor& logits, int64_t weights, int64_t resize) {
  TORCH_CHECK(features.dim() == 4 && logits.dim() == 4 && features.size(0) == logits.size(0),
              "mask_pool: features ", features.sizes(), " and mask logits ", logits.sizes(), " do not fit");
  const c10::impl::ExcludeDispatchKeyGuard single_stays_single(c10::autocast_dispatch_keyset);
  const bool wide = features.scalar_type() == at::kDouble || logits.scalar_type() == at::kDouble;
  const at::Tensor total =
      at::zeros({features.size(0), logits.size(1), features.size(1)}, features.options().dtype(wide ? at::kDouble : at::kFloat));
  if (total.numel() != 0 && features.numel() != 0 && logits.numel() != 0) {
    for (int64_t image = 0; image < features.size(0); ++image) {
      const auto pool = wide ? pool_by_type<double> : pool_by_type<float>;
      pool(features[image], logits[image], static_cast<Weights>(weights), static_cast<Resize>(resize), total[image]);
    }
  }
  return total.to(features.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(ovseg, CPU, m) { m.impl("mask_pool", mask_pool); }
