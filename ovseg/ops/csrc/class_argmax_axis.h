// Interpolation along one axis: which inputs an output is mixed from, and which neighbours share them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

namespace ovseg::class_argmax {

// For each output of an axis, the inputs that it is mixed from.
struct Taps {
  std::vector<std::int64_t> first{0};  // of each output, and the end
  std::vector<std::int32_t> input;
  std::vector<float> weight;

  std::int64_t count(std::int64_t output) const { return first[output + 1] - first[output]; }
  std::int64_t most() const {
    std::int64_t found = 1;
    for (std::size_t i = 0; i + 1 < first.size(); ++i) found = std::max(found, count(i));
    return found;
  }
};

// Reads a matrix (outputs, inputs) row by row.
inline Taps find_taps(const float* matrix, std::int64_t outputs, std::int64_t inputs) {
  Taps taps;
  for (std::int64_t output = 0; output < outputs; ++output, matrix += inputs) {
    for (std::int64_t input = 0; input < inputs; ++input) {
      if (matrix[input] == 0) continue;
      taps.input.push_back(std::int32_t(input));
      taps.weight.push_back(matrix[input]);
    }
    if (std::int64_t(taps.input.size()) == taps.first.back()) {  // all zero
      taps.input.push_back(0);
      taps.weight.push_back(0);
    }
    taps.first.push_back(std::int64_t(taps.input.size()));
  }
  return taps;
}

// Neighbouring outputs that are mixed from the same few inputs.
struct Segment {
  std::int64_t begin, end;
  std::vector<std::int32_t> inputs;
  std::vector<float> weights;  // (end - begin, inputs)
};

inline std::vector<Segment> find_segments(const Taps& taps) {
  const std::size_t most = std::size_t(taps.most());
  std::vector<Segment> segments;
  std::vector<std::int32_t> both;
  for (std::int64_t output = 0; output + 1 < std::int64_t(taps.first.size()); ++output) {
    const auto begin = taps.input.begin() + taps.first[output], end = taps.input.begin() + taps.first[output + 1];
    both.assign(begin, end);
    if (!segments.empty()) {
      const auto& known = segments.back().inputs;
      both.clear();
      std::set_union(known.begin(), known.end(), begin, end, std::back_inserter(both));
    }
    if (segments.empty() || both.size() > most) {
      segments.push_back({output, output + 1, {begin, end}, {}});
    } else {
      segments.back().end = output + 1;
      segments.back().inputs = both;
    }
  }
  for (Segment& segment : segments) {
    const std::size_t count = segment.inputs.size();
    segment.weights.assign(std::size_t(segment.end - segment.begin) * count, 0.0f);
    for (std::int64_t output = segment.begin; output < segment.end; ++output) {
      float* own = segment.weights.data() + std::size_t(output - segment.begin) * count;
      for (std::int64_t tap = taps.first[output]; tap < taps.first[output + 1]; ++tap) {
        const auto place = std::lower_bound(segment.inputs.begin(), segment.inputs.end(), taps.input[tap]);
        own[place - segment.inputs.begin()] = taps.weight[tap];
      }
    }
  }
  return segments;
}

}  // namespace ovseg::class_argmax
