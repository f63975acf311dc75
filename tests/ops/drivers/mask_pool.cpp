// Runs the core of mask_pool for CPUs on odd sizes and layouts and compares with the definition.
#include "mask_pool.h"

#include "mask_pool_reference.h"

using namespace ovseg::mask_pool;

namespace {

// Steps of the logits' layout: dense, or with a gap behind every number and rows from the last to the first.
template <class T, class A>
int check(int queries, int height, int width, int mask_height, int mask_width, int weights, int resize, bool odd) {
  const int gap = odd ? 3 : 1;
  const int64_t area = int64_t{mask_height} * mask_width;
  const std::vector<float> numbers = random_numbers(queries * area, 3);
  std::vector<T> stored(queries * area * gap + 1);
  for (int q = 0; q < queries; ++q) {
    for (int i = 0; i < mask_height; ++i) {
      for (int j = 0; j < mask_width; ++j) {
        const int row = odd ? mask_height - 1 - i : i;
        stored[(q * area + row * mask_width + j) * gap] = static_cast<T>(numbers[q * area + i * mask_width + j]);
      }
    }
  }
  const int64_t row_step = int64_t{mask_width} * gap;
  const T* first = stored.data() + (odd ? (mask_height - 1) * row_step : 0);
  const Logits<T> logits{first, mask_height, mask_width, area * gap, odd ? -row_step : row_step, gap};
  const Resizer<T, A> resizer(logits, height, width, static_cast<Resize>(resize));
  std::vector<A> largest(queries), sums(queries);
  find_largest(resizer, height, width, 0, queries, largest.data());
  int wrong = 0;
  for (int top = 0; top < height; top += 2) {
    const int bottom = std::min(top + 2, height), half = queries / 2;
    std::vector<A> tile(queries * (bottom - top) * width);
    for (const auto& [begin, end] : {std::pair{0, half}, std::pair{half, half}, std::pair{half, queries}}) {
      fill_tile(resizer, width, static_cast<Weights>(weights), largest.data(), top, bottom, begin, end, tile.data(),
                sums.data());
    }
    for (size_t place = 0; place < tile.size(); ++place) {
      const int x = place % width, y = top + place / width % (bottom - top), q = place / width / (bottom - top);
      const double logit =
          resized(numbers.data() + q * area, mask_height, mask_width, height, width, y, x, resize);
      const double expected = weight(weights == 2 ? logit - largest[q] : logit, weights);
      wrong += differs(tile[place], expected, "weight", place);
    }
  }
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int weights = 0; weights < 3; ++weights) {
    for (int resize = 0; resize < 2; ++resize) {
      for (const bool odd : {false, true}) {
        wrong += check<float, float>(3, 5, 7, 11, 13, weights, resize, odd);
        wrong += check<float, double>(2, 9, 19, 4, 3, weights, resize, odd);
        wrong += check<double, double>(1, 1, 1, 5, 5, weights, resize, odd);
        wrong += check<float, float>(2, 6, 33, 6, 33, weights, resize, odd);
        wrong += check<float, float>(0, 3, 3, 5, 5, weights, resize, odd);
      }
    }
  }
  return wrong != 0;
}
