// Runs the CUDA kernels of class_argmax on the CPU and compares with the definition.
using cudaError_t = int;
#include "class_argmax_kernels.cuh"

#include "class_argmax_reference.h"

using namespace ovseg::class_argmax;

// Room for the taps of an axis.
struct Axis {
  std::vector<std::int32_t> count, input;
  std::vector<float> weight;
  DeviceAxis view;

  Axis(const std::vector<float>& matrix, std::int64_t outputs, std::int64_t inputs)
      : count(outputs), input(matrix.size()), weight(matrix.size()) {
    view = {matrix.data(), outputs, inputs, count.data(), input.data(), weight.data()};
    emulation::run({blocks(outputs, kThreads)}, kThreads, find_taps, view);
  }

  static unsigned blocks(std::int64_t count, int size) { return static_cast<unsigned>((count + size - 1) / size); }
};

void run(const Input& input, std::vector<std::int32_t>& labels, std::vector<float>& scores) {
  if (labels.empty()) return;
  const Axis rows(input.rows, input.output_height, input.height);
  const Axis columns(input.columns, input.output_width, input.width);
  const DeviceProblem problem{
      input.logits.data(),
      {input.strides[0], input.strides[1], input.strides[2]},
      static_cast<std::int64_t>(input.classes.size()),
      rows.view,
      columns.view,
      input.classes.data(),
      input.competes,
      input.scale,
      input.softmax,
      labels.data(),
      scores.data(),
  };
  const dim3 grid{Axis::blocks(input.output_height, kHigh), Axis::blocks(input.output_width, kWide)};
  emulation::run(grid, kThreads, label, problem);
}

int main() { return check_all({3, 17}, {2, 5}); }
