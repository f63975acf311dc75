// Multi-scale deformable attention for CPU tensors.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>

#include "ms_deform_attn.h"
#include "ms_deform_attn_check.h"

namespace ovseg::ms_deform_attn {
namespace {

using at::Tensor;

constexpr int64_t QUERIES_AT_ONCE = 64;

Tensor forward_cpu(const Tensor& value, at::IntArrayRef shapes, const Tensor& locations, const Tensor& weights) {
  const Sizes n = check(value, shapes, locations, weights);
  const auto type = working_type(value);
  const Tensor values = dense(value, type), places = dense(locations, type), shares = dense(weights, type);
  const Tensor out = at::empty({n.batch, n.queries, n.row()}, values.options());
  AT_DISPATCH_FLOATING_TYPES(type, "ms_deform_attn", [&] {
    const auto* v = values.const_data_ptr<scalar_t>();
    const auto* p = places.const_data_ptr<scalar_t>();
    const auto* w = shares.const_data_ptr<scalar_t>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, n.batch * n.queries, QUERIES_AT_ONCE,
                     [&](int64_t begin, int64_t end) { forward<scalar_t>(n, v, p, w, o, begin, end); });
  });
  return out.to(value.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> backward_cpu(const Tensor& grad, const Tensor& value, at::IntArrayRef shapes,
                                                const Tensor& locations, const Tensor& weights) {
  const Sizes n = check(value, shapes, locations, weights);
  check_gradient(grad, value, n);
  const auto type = working_type(value);
  const Tensor grads = dense(grad, type), values = dense(value, type);
  const Tensor places = dense(locations, type), shares = dense(weights, type);
  const Tensor to_value = at::zeros_like(values);
  const Tensor to_places = at::empty_like(places), to_shares = at::empty_like(shares);
  AT_DISPATCH_FLOATING_TYPES(type, "ms_deform_attn_backward", [&] {
    const auto* g = grads.const_data_ptr<scalar_t>();
    const auto* v = values.const_data_ptr<scalar_t>();
    const auto* p = places.const_data_ptr<scalar_t>();
    const auto* w = shares.const_data_ptr<scalar_t>();
    auto* gv = to_value.mutable_data_ptr<scalar_t>();
    auto* gp = to_places.mutable_data_ptr<scalar_t>();
    auto* gw = to_shares.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, n.batch * n.heads * n.levels, 1, [&](int64_t begin, int64_t end) {
      backward<scalar_t>(n, g, v, p, w, gv, gp, gw, begin, end);
    });
  });
  return {to_value.to(value.scalar_type()), to_places.to(locations.scalar_type()),
          to_shares.to(weights.scalar_type())};
}

}  // namespace
}  // namespace ovseg::ms_deform_attn

TORCH_LIBRARY_IMPL(ovseg, CPU, m) {
  m.impl("ms_deform_attn", ovseg::ms_deform_attn::forward_cpu);
  m.impl("ms_deform_attn_backward", ovseg::ms_deform_attn::backward_cpu);
}
