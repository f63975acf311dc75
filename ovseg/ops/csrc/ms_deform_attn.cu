// Launches the kernels of multi-scale deformable attention.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "ms_deform_attn_kernels.cuh"

namespace ovseg::ms_deform_attn {
namespace {

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename T, typename A, int COUNT>
void launch_width(Problem p, cudaStream_t stream) {
  const DeviceSizes& n = p.sizes;
  p.group = 1;
  while (p.group < WARP && p.group * COUNT < n.dim) p.group *= 2;
  const bool forward = p.out != nullptr;
  const int64_t threads = static_cast<int64_t>(n.batch) * n.queries * n.heads * (forward ? n.dim / COUNT : p.group);
  const auto blocks = static_cast<unsigned>((threads + THREADS - 1) / THREADS);
  if (forward) {
    forward_kernel<T, A, COUNT><<<blocks, THREADS, 0, stream>>>(p);
  } else {
    backward_kernel<T, A, COUNT><<<blocks, THREADS, 0, stream>>>(p);
  }
}

// Values of type T, sums of type A; vectors of 16 bytes where numbers allow it.
template <typename T, typename A>
cudaError_t launch_type(const Problem& p, cudaStream_t stream) {
  constexpr int COUNT = 16 / sizeof(T);
  const bool wide = aligned(p.value) && aligned(p.out) && aligned(p.grad) && aligned(p.grad_value);
  if (wide && p.sizes.dim % COUNT == 0) {
    launch_width<T, A, COUNT>(p, stream);
  } else {
    launch_width<T, A, 1>(p, stream);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch(Kind kind, const Problem& p, cudaStream_t stream) {
  switch (kind) {
    case Kind::SINGLE:
      return launch_type<float, float>(p, stream);
    case Kind::DOUBLE:
      return launch_type<double, double>(p, stream);
    case Kind::HALF:
      return launch_type<__half, float>(p, stream);
    case Kind::BFLOAT:
      return launch_type<__nv_bfloat16, float>(p, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ovseg::ms_deform_attn
