// Multi-scale deformable attention for CUDA tensors.

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "ms_deform_attn_check.h"
#include "ms_deform_attn_cuda.h"

namespace ovseg::ms_deform_attn {
namespace {

using at::Tensor;

Kind kind_of(const Tensor& value) {
  switch (value.scalar_type()) {
    case at::kFloat:
      return Kind::SINGLE;
    case at::kDouble:
      return Kind::DOUBLE;
    case at::kHalf:
      return Kind::HALF;
    default:
      TORCH_CHECK_TYPE(value.scalar_type() == at::kBFloat16, "ms_deform_attn got ", value.scalar_type(), " on CUDA");
      return Kind::BFLOAT;
  }
}

DeviceSizes on_device(const Sizes& n) {
  constexpr int64_t LIMIT = std::numeric_limits<int32_t>::max();
  TORCH_CHECK_VALUE(n.levels <= MAX_LEVELS, "ms_deform_attn got ", n.levels, " levels; expected up to ", MAX_LEVELS);
  TORCH_CHECK_VALUE(n.tokens * n.row() <= LIMIT && n.batch * n.queries * n.row() <= LIMIT / 2 && n.points <= LIMIT,
                    "ms_deform_attn got too many values or queries for one call; expected less than 2^30 outputs");
  DeviceSizes found{static_cast<int>(n.batch), static_cast<int>(n.tokens),  static_cast<int>(n.heads),
                    static_cast<int>(n.dim),   static_cast<int>(n.queries), static_cast<int>(n.levels),
                    static_cast<int>(n.points), {}, {}, {}};
  for (int level = 0, start = 0; level < found.levels; ++level) {
    found.height[level] = static_cast<int>(n.shapes[2 * level]);
    found.width[level] = static_cast<int>(n.shapes[2 * level + 1]);
    found.start[level] = start;
    start += found.height[level] * found.width[level];
  }
  return found;
}

Tensor forward_cuda(const Tensor& value, at::IntArrayRef shapes, const Tensor& locations, const Tensor& weights) {
  const Sizes n = check(value, shapes, locations, weights);
  const DeviceSizes sizes = on_device(n);
  const c10::cuda::CUDAGuard guard(value.device());
  const auto type = working_type(value);
  const Tensor values = value.contiguous(), places = dense(locations, type), shares = dense(weights, type);
  const Tensor out = at::empty({n.batch, n.queries, n.row()}, value.options());
  if (out.numel() == 0) return out;
  Problem problem{sizes, values.const_data_ptr(), places.const_data_ptr(), shares.const_data_ptr()};
  problem.out = out.mutable_data_ptr();
  C10_CUDA_CHECK(launch(kind_of(value), problem, c10::cuda::getCurrentCUDAStream()));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward_cuda(const Tensor& grad, const Tensor& value, at::IntArrayRef shapes,
                                                 const Tensor& locations, const Tensor& weights) {
  at::globalContext().alertNotDeterministic("ms_deform_attn_backward");
  const Sizes n = check(value, shapes, locations, weights);
  check_gradient(grad, value, n);
  const DeviceSizes sizes = on_device(n);
  const c10::cuda::CUDAGuard guard(value.device());
  const auto type = working_type(value);
  const Tensor grads = dense(grad, value.scalar_type()), values = value.contiguous();
  const Tensor places = dense(locations, type), shares = dense(weights, type);
  const Tensor to_value = at::zeros(values.sizes(), values.options().dtype(type));
  const Tensor to_places = at::zeros_like(places), to_shares = at::zeros_like(shares);
  if (grads.numel() != 0) {
    Problem problem{sizes, values.const_data_ptr(), places.const_data_ptr(), shares.const_data_ptr()};
    problem.grad = grads.const_data_ptr();
    problem.grad_value = to_value.mutable_data_ptr();
    problem.grad_locations = to_places.mutable_data_ptr();
    problem.grad_weights = to_shares.mutable_data_ptr();
    C10_CUDA_CHECK(launch(kind_of(value), problem, c10::cuda::getCurrentCUDAStream()));
  }
  return {to_value.to(value.scalar_type()), to_places.to(locations.scalar_type()),
          to_shares.to(weights.scalar_type())};
}

}  // namespace
}  // namespace ovseg::ms_deform_attn

TORCH_LIBRARY_IMPL(ovseg, CUDA, m) {
  m.impl("ms_deform_attn", ovseg::ms_deform_attn::forward_cuda);
  m.impl("ms_deform_attn_backward", ovseg::ms_deform_attn::backward_cuda);
}
