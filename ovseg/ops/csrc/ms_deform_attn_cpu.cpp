// Multi-scale deformable attention for CPU tensors. Half precision is computed in single.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>

#include "ms_deform_attn.h"

namespace ovseg {
namespace {

using at::Tensor;

constexpr int64_t QUERIES_AT_ONCE = 64;

at::ScalarType working_type(const Tensor& value) {
  return value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor dense(const Tensor& x, at::ScalarType type) { return x.to(type).contiguous(); }

DeformSizes check(const Tensor& value, at::IntArrayRef shapes, const Tensor& locations, const Tensor& weights) {
  TORCH_CHECK_VALUE(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5,
                    "ms_deform_attn got ", value.dim(), ", ", locations.dim(), " and ", weights.dim(),
                    " axes; expected 4 of values, 6 of locations and 5 of weights");
  const DeformSizes n{value.size(0),     value.size(1),     value.size(2),    value.size(3),
                      locations.size(1), locations.size(3), locations.size(4), shapes.data()};
  int64_t tokens = 0;
  for (size_t i = 0; i + 1 < shapes.size(); i += 2) tokens += shapes[i] * shapes[i + 1];
  TORCH_CHECK_VALUE(shapes.size() == static_cast<size_t>(2 * n.levels) && tokens == n.tokens,
                    "ms_deform_attn got levels ", shapes, " for ", n.tokens, " tokens and ", n.levels, " levels");
  TORCH_CHECK_VALUE(locations.size(0) == n.batch && locations.size(2) == n.heads && locations.size(5) == 2 &&
                        weights.sizes() == locations.sizes().slice(0, 5),
                    "ms_deform_attn got values ", value.sizes(), ", locations ", locations.sizes(), " and weights ",
                    weights.sizes(), ", which do not fit");
  return n;
}

Tensor forward(const Tensor& value, at::IntArrayRef shapes, const Tensor& locations, const Tensor& weights) {
  const DeformSizes n = check(value, shapes, locations, weights);
  const auto type = working_type(value);
  const Tensor values = dense(value, type), places = dense(locations, type), shares = dense(weights, type);
  const Tensor out = at::empty({n.batch, n.queries, n.row()}, values.options());
  AT_DISPATCH_FLOATING_TYPES(type, "ms_deform_attn", [&] {
    const auto* v = values.const_data_ptr<scalar_t>();
    const auto* p = places.const_data_ptr<scalar_t>();
    const auto* w = shares.const_data_ptr<scalar_t>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, n.batch * n.queries, QUERIES_AT_ONCE,
                     [&](int64_t begin, int64_t end) { deform_forward(n, v, p, w, o, begin, end); });
  });
  return out.to(value.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value, at::IntArrayRef shapes,
                                            const Tensor& locations, const Tensor& weights) {
  const DeformSizes n = check(value, shapes, locations, weights);
  TORCH_CHECK_VALUE(grad.sizes() == at::IntArrayRef({n.batch, n.queries, n.row()}), "ms_deform_attn got a gradient ",
                    grad.sizes(), "; expected ", at::IntArrayRef({n.batch, n.queries, n.row()}));
  const auto type = working_type(value);
  const Tensor grads = dense(grad, type), values = dense(value, type);
  const Tensor places = dense(locations, type), shares = dense(weights, type);
  const Tensor to_value = at::zeros_like(values), to_places = at::empty_like(places), to_shares = at::empty_like(shares);
  AT_DISPATCH_FLOATING_TYPES(type, "ms_deform_attn_backward", [&] {
    const auto* g = grads.const_data_ptr<scalar_t>();
    const auto* v = values.const_data_ptr<scalar_t>();
    const auto* p = places.const_data_ptr<scalar_t>();
    const auto* w = shares.const_data_ptr<scalar_t>();
    auto* gv = to_value.mutable_data_ptr<scalar_t>();
    auto* gp = to_places.mutable_data_ptr<scalar_t>();
    auto* gw = to_shares.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, n.batch * n.heads * n.levels, 1, [&](int64_t begin, int64_t end) {
      deform_backward(n, g, v, p, w, gv, gp, gw, begin, end);
    });
  });
  return {to_value.to(value.scalar_type()), to_places.to(locations.scalar_type()),
          to_shares.to(weights.scalar_type())};
}

}  // namespace
}  // namespace ovseg

TORCH_LIBRARY_IMPL(ovseg, CPU, m) {
  m.impl("ms_deform_attn", ovseg::forward);
  m.impl("ms_deform_attn_backward", ovseg::backward);
}
