// `ovseg::class_argmax` on the CPU.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "class_argmax.h"

namespace {

using at::Tensor;

std::tuple<Tensor, Tensor> class_argmax_cpu(const Tensor& logits, const Tensor& rows, const Tensor& columns,
                                            const Tensor& query_to_class, const Tensor& competes, double scale,
                                            bool softmax) {
  TORCH_CHECK(logits.dim() == 3 && logits.numel() > 0, "class_argmax: logits are (T, h, w) and not empty");
  TORCH_CHECK(rows.dim() == 2 && columns.dim() == 2 && rows.size(1) == logits.size(1) &&
                  columns.size(1) == logits.size(2),
              "class_argmax: matrices are (H, h) and (W, w)");
  TORCH_CHECK(query_to_class.dim() == 1 && competes.dim() == 1 && query_to_class.size(0) == logits.size(0) &&
                  competes.size(0) == logits.size(0) && competes.scalar_type() == at::kBool,
              "class_argmax: a class and a bool for each query");
  const Tensor values = logits.to(at::kFloat);
  const Tensor down = rows.to(at::kFloat).contiguous(), across = columns.to(at::kFloat).contiguous();
  const Tensor classes = query_to_class.to(at::kInt).contiguous(), kept = competes.contiguous();
  Tensor labels = at::empty({rows.size(0), columns.size(0)}, logits.options().dtype(at::kInt));
  Tensor scores = at::empty({rows.size(0), columns.size(0)}, logits.options().dtype(at::kFloat));
  if (labels.numel() == 0) return {labels, scores};
  namespace core = ovseg::class_argmax;
  const core::Problem problem{
      values.const_data_ptr<float>(),
      {values.stride(0), values.stride(1), values.stride(2)},
      values.size(1),
      values.size(2),
      classes.const_data_ptr<std::int32_t>(),
      float(scale),
      softmax,
      core::find_taps(down.const_data_ptr<float>(), down.size(0), down.size(1)),
      core::find_segments(core::find_taps(across.const_data_ptr<float>(), across.size(0), across.size(1))),
      columns.size(0),
      core::Order(kept.const_data_ptr<bool>(), kept.numel()),
      labels.data_ptr<std::int32_t>(),
      scores.data_ptr<float>(),
  };
  const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{1} << 18) / (columns.size(0) * logits.size(0)));
  at::parallel_for(0, rows.size(0), grain,
                   [&](std::int64_t begin, std::int64_t end) { core::label_rows(problem, begin, end); });
  return {labels, scores};
}

}  // namespace

TORCH_LIBRARY_IMPL(ovseg, CPU, m) { m.impl("class_argmax", class_argmax_cpu); }
