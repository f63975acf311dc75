// Runs the CUDA kernels of mask_pool on the CPU and compares with the definition.
#include "mask_pool_kernels.cuh"

#include "mask_pool_reference.h"

using namespace ovseg::mask_pool;

namespace {

struct Sizes {
  int images, queries, channels, height, width, mask_height, mask_width, splits;
};

int check(const Sizes& s, int weights, int resize, bool channels_last) {
  const int pixels = s.height * s.width, words = (pixels + kWarp - 1) / kWarp;
  const std::vector<float> features = random_numbers(int64_t{s.images} * s.channels * pixels, 1);
  std::vector<float> logits = random_numbers(int64_t{s.images} * s.queries * s.mask_height * s.mask_width, 2);
  std::fill_n(logits.begin(), s.mask_height * s.mask_width, -1.0f);  // the first mask is empty
  const int64_t masks = int64_t{s.images} * s.queries;
  std::vector<float> pooled(masks * s.channels), sums(masks), shift(masks), parts(pooled.size() * s.splits, NAN);
  std::vector<uint32_t> bits(masks * words);
  Problem p{};
  p.features = features.data(), p.logits = logits.data(), p.pooled = pooled.data(), p.bits = bits.data();
  p.shift = shift.data(), p.sums = sums.data(), p.parts = parts.data();
  p.image_step = int64_t{s.channels} * pixels;
  p.channel_step = channels_last ? 1 : pixels, p.pixel_step = channels_last ? s.channels : 1;
  p.images = s.images, p.queries = s.queries, p.channels = s.channels, p.height = s.height, p.width = s.width;
  p.mask_height = s.mask_height, p.mask_width = s.mask_width;
  p.weights = weights, p.resize = resize, p.splits = s.splits;

  const auto tiles = [](int count) { return static_cast<unsigned>((count + kTile - 1) / kTile); };
  const dim3 grid{tiles(s.channels), tiles(s.queries), static_cast<unsigned>(s.images * s.splits)};
  emulation::run({static_cast<unsigned>(masks)}, kThreads, weigh_masks<float>, p);
  emulation::run(grid, kThreads, weights == 0 ? multiply<float, float, true> : multiply<float, float, false>, p);
  emulation::run({static_cast<unsigned>((pooled.size() + kThreads - 1) / kThreads)}, kThreads, finish<float>, p);

  int wrong = 0;
  for (int64_t mask = 0; mask < masks; ++mask) {
    std::vector<double> expected(s.channels);
    double sum = 0;
    for (int n = 0; n < pixels; ++n) {
      const float* own = logits.data() + mask * s.mask_height * s.mask_width;
      const double found = weight(
          resized(own, s.mask_height, s.mask_width, s.height, s.width, n / s.width, n % s.width, resize), weights);
      sum += found;
      for (int c = 0; c < s.channels; ++c) {
        expected[c] += found * features[mask / s.queries * p.image_step + c * p.channel_step + n * p.pixel_step];
      }
    }
    for (int c = 0; c < s.channels; ++c) {
      wrong += differs(pooled[mask * s.channels + c], sum == 0 ? 0 : expected[c] / sum, "pooled", mask * s.channels + c);
    }
  }
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int weights = 0; weights < 3; ++weights) {
    for (int resize = 0; resize < 2; ++resize) wrong += check({1, 2, 5, 5, 9, 11, 13, 2}, weights, resize, resize == 1);
  }
  wrong += check({1, 130, 131, 3, 7, 6, 4, 1}, 0, 0, false);  // more than one tile
  wrong += check({2, 1, 1, 6, 7, 6, 7, 3}, 2, 0, false);
  wrong += check({1, 2, 3, 1, 1, 5, 5, 1}, 0, 0, true);
  return wrong != 0;
}
