// Odd sizes and strides for class_argmax, and the definition of its results in double. What includes this has run().
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

struct Input {
  const std::vector<float>& logits;
  std::int64_t strides[3];
  const std::vector<float>&rows, &columns;
  const std::vector<std::int32_t>& classes;
  const bool* competes;
  float scale;
  bool softmax;
  std::int64_t height, width, output_height, output_width;
};

void run(const Input& input, std::vector<std::int32_t>& labels, std::vector<float>& scores);

inline std::mt19937 generator(0);

// Rows with `taps` neighbours that add up to one; every third row has a single one.
inline std::vector<float> matrix(std::int64_t outputs, std::int64_t inputs, std::int64_t taps) {
  std::vector<float> found(std::size_t(outputs * inputs));
  std::uniform_real_distribution<float> weight(0.1f, 1.0f);
  for (std::int64_t output = 0; output < outputs; ++output) {
    const std::int64_t count = output % 3 == 2 ? 1 : std::min(taps, inputs);
    const std::int64_t first = outputs > 1 ? output * (inputs - count) / (outputs - 1) : 0;
    float total = 0;
    for (std::int64_t tap = 0; tap < count; ++tap) {
      total += found[std::size_t(output * inputs + first + tap)] = weight(generator);
    }
    for (std::int64_t tap = 0; tap < count; ++tap) found[std::size_t(output * inputs + first + tap)] /= total;
  }
  return found;
}

struct Case {
  std::int64_t queries, height, width, output_height, output_width, taps;
  float scale;
  bool softmax;
  int competing;  // of three queries; 3 is all
  bool channels_last;
};

inline bool right(const Case& c) {
  const std::int64_t patches = c.height * c.width, gap = 3;  // elements between queries or patches that are not read
  const std::int64_t pitch = c.queries + gap;
  const std::int64_t strides[3] = {c.channels_last ? 1 : patches + gap, c.channels_last ? c.width * pitch : c.width,
                                   c.channels_last ? pitch : 1};
  std::vector<float> logits(std::size_t(c.channels_last ? patches * pitch : c.queries * (patches + gap)));
  std::normal_distribution<float> normal(0.0f, 0.3f);
  for (float& value : logits) value = normal(generator);
  const auto rows = matrix(c.output_height, c.height, c.taps), columns = matrix(c.output_width, c.width, c.taps);
  std::vector<std::int32_t> classes(std::size_t(c.queries)), labels(std::size_t(c.output_height * c.output_width), -7);
  std::vector<float> scores(labels.size(), NAN);
  const auto competes = std::make_unique<bool[]>(std::size_t(c.queries));
  for (std::int64_t query = 0; query < c.queries; ++query) {
    classes[std::size_t(query)] = std::int32_t(query);
    competes[std::size_t(query)] = query % 3 < c.competing;
  }
  run({logits, {strides[0], strides[1], strides[2]}, rows, columns, classes, competes.get(), c.scale, c.softmax, c.height,
       c.width, c.output_height, c.output_width},
      labels, scores);
  for (std::int64_t y = 0; y < c.output_height; ++y) {
    for (std::int64_t x = 0; x < c.output_width; ++x) {
      std::vector<double> values(std::size_t(c.queries), 0.0);
      for (std::int64_t query = 0; query < c.queries; ++query) {
        for (std::int64_t i = 0; i < c.height; ++i) {
          for (std::int64_t j = 0; j < c.width; ++j) {
            const double share = double(rows[std::size_t(y * c.height + i)]) * columns[std::size_t(x * c.width + j)];
            const double value = logits[std::size_t(query * strides[0] + i * strides[1] + j * strides[2])];
            values[std::size_t(query)] += share * value * c.scale;
          }
        }
      }
      double best = -INFINITY, peak = -INFINITY, total = 0;
      for (std::int64_t query = 0; query < c.queries; ++query) {
        peak = std::max(peak, values[std::size_t(query)]);
        if (competes[std::size_t(query)]) best = std::max(best, values[std::size_t(query)]);
      }
      for (const double value : values) total += std::exp(value - peak);
      const std::int32_t label = labels[std::size_t(y * c.output_width + x)];
      const double score = scores[std::size_t(y * c.output_width + x)];
      if (best == -INFINITY) {
        if (label != -1 || score != (c.softmax ? 0.0 : -INFINITY)) return false;
        continue;
      }
      const double wanted = c.softmax ? std::exp(best - peak) / total : best;
      if (label < 0 || label >= c.queries || !competes[std::size_t(label)]) return false;
      if (!(values[std::size_t(label)] >= best - 1e-5 * c.scale)) return false;
      if (!(std::fabs(score - wanted) <= 1e-5 * (c.softmax ? 1.0f : c.scale))) return false;
    }
  }
  return true;
}

inline int check_all(const std::vector<std::int64_t>& all_queries, const std::vector<std::int64_t>& all_taps) {
  int failed = 0, count = 0;
  for (std::int64_t queries : all_queries) {
    for (std::int64_t taps : all_taps) {
      for (int variant = 0; variant < 12; ++variant) {
        const std::int64_t high = variant % 4 == 3 ? 0 : 11, wide = variant == 7 ? 0 : 1 + 9 * (variant % 5);
        const Case c{queries, 1 + variant % 5, 9 - variant % 7, high, wide, taps, variant % 2 ? 1.0f : 60.0f,
                     variant % 3 != 0, variant % 4, variant % 2 == 0};
        ++count;
        if (!right(c)) {
          ++failed;
          std::printf("wrong: %ld queries, %ld taps, variant %d\n", long(queries), long(taps), variant);
        }
      }
    }
  }
  std::printf("%d cases, %d wrong\n", count, failed);
  return failed != 0;
}
