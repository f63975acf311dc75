// Mask pooling in the plainest words, in double precision, to compare with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

inline std::vector<float> random_numbers(int64_t count, int seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> found(count);
  for (float& x : found) x = normal(generator);
  return found;
}

inline double resized(const float* mask, int height, int width, int to_height, int to_width, int y, int x, int resize) {
  if (resize == 1) {
    double found = -INFINITY;
    for (int i = 0; i < height; ++i) {
      for (int j = 0; j < width; ++j) {
        const bool row = (i + 1) * to_height > y * height && i * to_height < (y + 1) * height;
        if (row && (j + 1) * to_width > x * width && j * to_width < (x + 1) * width) {
          found = std::max(found, double{mask[i * width + j]});
        }
      }
    }
    return found;
  }
  const double row = std::max((y + 0.5) * height / to_height - 0.5, 0.0);
  const double column = std::max((x + 0.5) * width / to_width - 0.5, 0.0);
  double found = 0;
  for (int i = 0; i < height; ++i) {
    for (int j = 0; j < width; ++j) {
      const double near = std::min<double>(row, height - 1), across = std::min<double>(column, width - 1);
      found += std::max(0.0, 1 - std::abs(near - i)) * std::max(0.0, 1 - std::abs(across - j)) * mask[i * width + j];
    }
  }
  return found;
}

inline double weight(double logit, int weights) {
  if (weights == 0) return logit > 0;
  return weights == 1 ? 1 / (1 + std::exp(-logit)) : std::exp(logit);
}

// Returns 1 and says so where two numbers differ.
inline int differs(double found, double expected, const char* what, int64_t place) {
  if (std::abs(found - expected) <= 1e-5 * (1 + std::abs(expected))) return 0;
  std::printf("%s: place %lld is %g, expected %g\n", what, static_cast<long long>(place), found, expected);
  return 1;
}
