// Launches the kernels of `class_argmax` on CUDA.
#include "class_argmax_kernels.cuh"

namespace ovseg::class_argmax {
namespace {

unsigned blocks(std::int64_t count, int size) { return static_cast<unsigned>((count + size - 1) / size); }

}  // namespace

cudaError_t launch(const DeviceProblem& problem, cudaStream_t stream) {
  for (const DeviceAxis& axis : {problem.rows, problem.columns}) {
    find_taps<<<blocks(axis.outputs, kThreads), kThreads, 0, stream>>>(axis);
  }
  // Blocks come one below the other, which read the same patches.
  const dim3 grid(blocks(problem.rows.outputs, kHigh), blocks(problem.columns.outputs, kWide));
  label<<<grid, kThreads, 0, stream>>>(problem);
  return cudaGetLastError();
}

}  // namespace ovseg::class_argmax
