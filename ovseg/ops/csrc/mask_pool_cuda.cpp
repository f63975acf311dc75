// mask_pool on CUDA: checks, memory, and the call of the kernels in mask_pool.cu.
#include "mask_pool_cuda.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

namespace {

using namespace ovseg::mask_pool;

Element element_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Element::single;
    case at::kHalf:
      return Element::half;
    case at::kBFloat16:
      return Element::bfloat16;
    default:
      TORCH_CHECK(false, "mask_pool on CUDA: got ", tensor.scalar_type(),
                  "; expected float32, float16 or bfloat16 (the plain form takes float64)");
  }
}

// Features whose pixels follow one another row by row, and with a step of one from pixel to pixel or channel to channel.
at::Tensor dense(const at::Tensor& features) {
  const bool rows = features.stride(2) == features.size(3) * features.stride(3);
  return rows && (features.stride(3) == 1 || features.stride(1) == 1) ? features : features.contiguous();
}

at::Tensor mask_pool(const at::Tensor& given, const at::Tensor& given_logits, int64_t weights, int64_t resize) {
  TORCH_CHECK(given.dim() == 4 && given_logits.dim() == 4 && given.size(0) == given_logits.size(0) &&
                  given.device() == given_logits.device(),
              "mask_pool: features ", given.sizes(), " on ", given.device(), " and mask logits ",
              given_logits.sizes(), " on ", given_logits.device(), " do not fit");
  const c10::cuda::CUDAGuard guard(given.device());
  const int64_t images = given.size(0), queries = given_logits.size(1), channels = given.size(1);
  const auto options = given.options();
  if (given.numel() == 0 || given_logits.numel() == 0) return at::zeros({images, queries, channels}, options);
  const int64_t pixels = given.size(2) * given.size(3), largest = std::numeric_limits<int>::max();
  TORCH_CHECK(images * queries < largest && given_logits.size(2) * given_logits.size(3) < largest && pixels < largest,
              "mask_pool: ", images * queries, " masks of ", given_logits.sizes(), " are too many or too large");
  const at::Tensor features = dense(given);
  const bool alike = given_logits.scalar_type() == given.scalar_type();
  const at::Tensor logits = (alike ? given_logits : given_logits.to(at::kFloat)).contiguous();
  int device = 0, multiprocessors = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  const int splits = choose_splits(images, queries, channels, pixels, multiprocessors);
  TORCH_CHECK(images * splits <= 65535, "mask_pool: got ", images, " images; expected fewer at once");
  const at::Tensor pooled = at::empty({images, queries, channels}, options);
  const at::Tensor parts = at::empty({splits, images, queries, channels}, options.dtype(at::kFloat));
  const at::Tensor sums = at::empty({2, images, queries}, options.dtype(at::kFloat));
  const at::Tensor bits = at::empty({weights == 0 ? images * queries * ((pixels + 31) / 32) : 0}, options.dtype(at::kInt));
  Problem problem{};
  problem.features = features.const_data_ptr();
  problem.logits = logits.const_data_ptr();
  problem.pooled = pooled.mutable_data_ptr();
  problem.bits = static_cast<uint32_t*>(bits.mutable_data_ptr());
  problem.sums = sums.mutable_data_ptr<float>();
  problem.shift = problem.sums + images * queries;
  problem.parts = parts.mutable_data_ptr<float>();
  problem.feature_type = element_of(features);
  problem.logit_type = element_of(logits);
  problem.image_step = features.stride(0), problem.channel_step = features.stride(1);
  problem.pixel_step = features.stride(3);
  problem.images = images, problem.queries = queries, problem.channels = channels;
  problem.height = features.size(2), problem.width = features.size(3);
  problem.mask_height = logits.size(2), problem.mask_width = logits.size(3);
  problem.weights = weights, problem.resize = resize, problem.splits = splits;
  launch(problem, c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return pooled;
}

}  // namespace

TORCH_LIBRARY_IMPL(ovseg, CUDA, m) { m.impl("mask_pool", mask_pool); }
