// Runs the core of class_argmax for CPUs on odd sizes and layouts and compares with the definition.
#include "class_argmax.h"

#include "class_argmax_reference.h"

namespace core = ovseg::class_argmax;

void run(const Input& input, std::vector<std::int32_t>& labels, std::vector<float>& scores) {
  const auto count = static_cast<std::int64_t>(input.classes.size());
  const core::Problem problem{
      input.logits.data(),
      {input.strides[0], input.strides[1], input.strides[2]},
      input.height,
      input.width,
      input.classes.data(),
      input.scale,
      input.softmax,
      core::find_taps(input.rows.data(), input.output_height, input.height),
      core::find_segments(core::find_taps(input.columns.data(), input.output_width, input.width)),
      input.output_width,
      core::Order(input.competes, count),
      labels.data(),
      scores.data(),
  };
  core::label_rows(problem, 0, input.output_height / 2);  // as two threads share the work
  core::label_rows(problem, input.output_height / 2, input.output_height);
}

int main() { return check_all({1, 3, 16, 17, 53}, {1, 2, 3, 4, 5, 6, 9}); }
