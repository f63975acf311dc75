// What both devices ask of their tensors. `ovseg.ops.ms_deform_attn` says the same in kinder words beforehand; this is
// for those who call the operator by itself, so that it never reads where there is nothing.

#pragma once

#include <ATen/core/Tensor.h>

#include "ms_deform_attn.h"

namespace ovseg::ms_deform_attn {

// Half precision is computed in single.
inline at::ScalarType working_type(const at::Tensor& value) {
  return value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

inline at::Tensor dense(const at::Tensor& x, at::ScalarType type) { return x.to(type).contiguous(); }

inline Sizes check(const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations,
                   const at::Tensor& weights) {
  for (const at::Tensor& x : {value, locations, weights}) {
    TORCH_CHECK_TYPE(x.is_floating_point() && x.device() == value.device(), "ms_deform_attn got ", x.scalar_type(),
                     " on ", x.device(), "; expected floating point numbers on ", value.device());
  }
  TORCH_CHECK_VALUE(value.dim() == 4 && locations.dim() == 6 && weights.dim() == 5, "ms_deform_attn got ", value.dim(),
                    ", ", locations.dim(), " and ", weights.dim(),
                    " axes; expected 4 of values, 6 of locations and 5 of weights");
  const Sizes n{value.size(0),     value.size(1),     value.size(2),    value.size(3),
                locations.size(1), locations.size(3), locations.size(4), shapes.data()};
  TORCH_CHECK_VALUE(shapes.size() == static_cast<size_t>(2 * n.levels), "ms_deform_attn got levels ", shapes,
                    "; expected rows and columns of ", n.levels);
  int64_t tokens = 0;
  for (int64_t level = 0; level < n.levels; ++level) {
    TORCH_CHECK_VALUE(shapes[2 * level] > 0 && shapes[2 * level + 1] > 0, "ms_deform_attn got an empty level");
    tokens += shapes[2 * level] * shapes[2 * level + 1];
  }
  TORCH_CHECK_VALUE(tokens == n.tokens, "ms_deform_attn got levels ", shapes, " for ", n.tokens, " values");
  TORCH_CHECK_VALUE(locations.size(0) == n.batch && locations.size(2) == n.heads && locations.size(5) == 2 &&
                        weights.sizes() == locations.sizes().slice(0, 5),
                    "ms_deform_attn got values ", value.sizes(), ", locations ", locations.sizes(), " and weights ",
                    weights.sizes(), ", which do not fit");
  return n;
}

inline void check_gradient(const at::Tensor& grad, const at::Tensor& value, const Sizes& n) {
  TORCH_CHECK_VALUE(grad.device() == value.device() && grad.dim() == 3 && grad.size(0) == n.batch &&
                        grad.size(1) == n.queries && grad.size(2) == n.row(),
                    "ms_deform_attn got a gradient ", grad.sizes(), " on ", grad.device());
}

}  // namespace ovseg::ms_deform_attn
