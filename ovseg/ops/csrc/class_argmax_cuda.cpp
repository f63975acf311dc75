// `ovseg::class_argmax` on CUDA.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "class_argmax_cuda.h"

namespace {

using at::Tensor;
namespace core = ovseg::class_argmax;

// An axis with its workspace; the tensors must outlive the launch.
struct Axis {
  Tensor matrix, count, input, weight;

  explicit Axis(const Tensor& given) : matrix(given.to(at::kFloat).contiguous()) {
    const auto whole = matrix.options().dtype(at::kInt);
    count = at::empty({matrix.size(0)}, whole);
    input = at::empty(matrix.sizes(), whole);
    weight = at::empty(matrix.sizes(), matrix.options());
  }

  core::DeviceAxis view() const {
    return {matrix.const_data_ptr<float>(), matrix.size(0),        matrix.size(1), count.data_ptr<std::int32_t>(),
            input.data_ptr<std::int32_t>(), weight.data_ptr<float>()};
  }
};

std::tuple<Tensor, Tensor> class_argmax_cuda(const Tensor& logits, const Tensor& rows, const Tensor& columns,
                                             const Tensor& query_to_class, const Tensor& competes, double scale,
                                             bool softmax) {
  TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0, "class_argmax: logits are (T, h, w) and not empty");
  TORCH_CHECK(rows.dim() == 2 && columns.dim() == 2 && rows.size(1) == logits.size(1) &&
                  columns.size(1) == logits.size(2),
              "class_argmax: matrices are (H, h) and (W, w)");
  TORCH_CHECK(query_to_class.dim() == 1 && competes.dim() == 1 && query_to_class.size(0) == logits.size(0) &&
                  competes.size(0) == logits.size(0) && competes.scalar_type() == at::kBool,
              "class_argmax: a class and a bool for each query");
  for (const Tensor* own : {&rows, &columns, &query_to_class, &competes}) {
    TORCH_CHECK(own->device() == logits.device(), "class_argmax: all tensors are on one device");
  }
  const c10::cuda::CUDAGuard guard(logits.device());
  const Tensor values = logits.to(at::kFloat);
  const Tensor classes = query_to_class.to(at::kInt).contiguous(), kept = competes.contiguous();
  const Axis down(rows), across(columns);
  Tensor labels = at::empty({rows.size(0), columns.size(0)}, logits.options().dtype(at::kInt));
  Tensor scores = at::empty({rows.size(0), columns.size(0)}, logits.options().dtype(at::kFloat));
  if (labels.numel() == 0) return {labels, scores};
  const core::DeviceProblem problem{
      values.const_data_ptr<float>(),
      {values.stride(0), values.stride(1), values.stride(2)},
      values.size(0),
      down.view(),
      across.view(),
      classes.const_data_ptr<std::int32_t>(),
      kept.const_data_ptr<bool>(),
      float(scale),
      softmax,
      labels.data_ptr<std::int32_t>(),
      scores.data_ptr<float>(),
  };
  C10_CUDA_CHECK(core::launch(problem, c10::cuda::getCurrentCUDAStream()));
  return {labels, scores};
}

}  // namespace

TORCH_LIBRARY_IMPL(ovseg, CUDA, m) { m.impl("class_argmax", class_argmax_cuda); }
