// Upsampling, softmax over queries and the argmax over classes in one pass: the core for CPUs, free of torch.
//
// A row of the output is made at a time: the rows of patches that it lies between are mixed once, with all queries of a
// patch side by side, and the vector lanes run over the queries. Pixels that mix the same patches form a segment.
// Interpolation never exceeds the largest patch of a segment nor falls below its smallest, so most queries can be told
// to lose all of its pixels at once; and queries whose share of the softmax is below rounding are left out of the sum.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "class_argmax_axis.h"

namespace ovseg::class_argmax {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef float Four __attribute__((vector_size(4 * sizeof(float))));
typedef std::int32_t IntVec __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

inline constexpr float kLeast = -1e30f;      // what a place without a query has, and no logit falls below
inline constexpr float kRounding = 4e-6f;    // share by which rounding may lift an interpolated value
inline constexpr float kSmallShare = 24.0f;  // log2 of the sum's terms over what may be left out of it
inline constexpr float kLog2E = 1.44269504088896341f;

inline Vec splat(float value) { return value - Vec{}; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

// Bit i is set where lane i of `a` is at least that of `b`.
inline unsigned at_least(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ));
#else
  unsigned mask = 0;
  for (int lane = 0; lane < kLanes; ++lane) mask |= unsigned(a[lane] >= b[lane]) << lane;
  return mask;
#endif
}

// Folds the lanes of `a` to four; then there is little left to do one by one.
template <typename Combine>
inline Four fold(Vec a, Combine combine) {
  Four parts[kLanes / 4];
  std::memcpy(parts, &a, sizeof(a));
  for (int part = 1; part < kLanes / 4; ++part) parts[0] = combine(parts[0], parts[part]);
  return parts[0];
}

inline float largest_lane(Vec a) {
  const Four four = fold(a, [](Four x, Four y) { return x > y ? x : y; });
  return std::max(std::max(four[0], four[1]), std::max(four[2], four[3]));
}

inline float sum_of_lanes(Vec a) {
  const Four four = fold(a, [](Four x, Four y) { return x + y; });
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// 2 to the power of x, within 2e-7 of it; x is cut to -120 .. 126.
inline Vec power_of_two(Vec x) {
  x = smaller(larger(x, splat(-120.0f)), splat(126.0f));
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer, in the lowest bits
  const Vec shifted = x + magic;
  const Vec rest = x - (shifted - magic);
  Vec power = splat(1.326472615e-3f);  // least relative error on -0.5 .. 0.5 of polynomials that are 1 at 0
  power = power * rest + 9.671512991e-3f;
  power = power * rest + 5.550733581e-2f;
  power = power * rest + 2.402224243e-1f;
  power = power * rest + 6.931470037e-1f;
  power = power * rest + 1.0f;
  return (Vec)((IntVec)power + ((IntVec)shifted << 23));
}

// Queries in groups of kLanes: those that compete, then the others, each part filled up with places of no query (-1).
struct Order {
  std::vector<std::int32_t> query;
  std::int64_t competing = 0;  // groups
  std::int64_t groups = 0;

  Order(const bool* competes, std::int64_t count) {
    append(competes, count, true);
    competing = groups;
    append(competes, count, false);
  }

 private:
  void append(const bool* competes, std::int64_t count, bool wanted) {
    for (std::int64_t i = 0; i < count; ++i) {
      if (competes[i] == wanted) query.push_back(std::int32_t(i));
    }
    query.resize((query.size() + kLanes - 1) / kLanes * kLanes, -1);
    groups = std::int64_t(query.size()) / kLanes;
  }
};

struct Problem {
  const float* logits;              // (queries, height, width)
  std::int64_t strides[3];          // in elements
  std::int64_t height, width;       // of the patches
  const std::int32_t* classes;      // of each query
  float scale;                      // of the logits
  bool softmax;                     // else the score is the winner's own
  Taps rows;
  std::vector<Segment> segments;
  std::int64_t output_width;
  Order order;
  std::int32_t* labels;             // (rows, output_width)
  float* scores;                    // likewise
};

class Buffer {
 public:
  explicit Buffer(std::int64_t vectors) : data_(std::max<std::int64_t>(vectors, 1)) {}
  Vec* get() { return reinterpret_cast<Vec*>(data_.data()); }

 private:
  struct alignas(sizeof(Vec)) Cell {
    float lanes[kLanes];
  };
  std::vector<Cell> data_;
};

// What one thread needs to label rows of the output, one behind the other.
class Worker {
 public:
  explicit Worker(const Problem& problem)
      : problem_(problem),
        groups_(problem.order.groups),
        size_(problem.width * groups_),
        mixed_(size_),
        live_(std::size_t(groups_)) {
    std::size_t most = 1;
    for (const Segment& segment : problem.segments) most = std::max(most, segment.inputs.size());
    columns_.resize(most);
    rival_query_.resize(std::size_t(problem.order.competing + 1) * kLanes);
    for (std::size_t tap = 0; tap < most; ++tap) {
      rivals_.emplace_back(problem.order.competing + 1);
      rival_columns_.push_back(rivals_.back().get());
    }
    for (std::int64_t slot = problem.rows.most(); slot > 0; --slot) slots_.emplace_back(-1, Buffer(size_));
  }

  void label(std::int64_t row) {
    std::int32_t* labels = problem_.labels + row * problem_.output_width;
    float* scores = problem_.scores + row * problem_.output_width;
    if (problem_.order.competing == 0) {
      std::fill_n(labels, problem_.output_width, -1);
      std::fill_n(scores, problem_.output_width, problem_.softmax ? 0.0f : -std::numeric_limits<float>::infinity());
      return;
    }
    mix(row);
    for (const Segment& segment : problem_.segments) {
      switch (segment.inputs.size()) {
        case 1: run<1>(segment, labels, scores); break;
        case 2: run<2>(segment, labels, scores); break;
        case 3: run<3>(segment, labels, scores); break;
        case 4: run<4>(segment, labels, scores); break;
        case 5: run<5>(segment, labels, scores); break;
        case 6: run<6>(segment, labels, scores); break;
        default: run<0>(segment, labels, scores);
      }
    }
  }

 private:
  // Mixes the rows of patches that a row of the output lies between.
  void mix(std::int64_t row) {
    const Taps& rows = problem_.rows;
    Vec* mixed = mixed_.get();
    for (std::int64_t tap = rows.first[row]; tap < rows.first[row + 1]; ++tap) {
      const Vec* source = patches(rows.input[tap], row);
      const float weight = rows.weight[tap];
      if (tap == rows.first[row]) {
        for (std::int64_t i = 0; i < size_; ++i) mixed[i] = source[i] * weight;
      } else {
        for (std::int64_t i = 0; i < size_; ++i) mixed[i] += source[i] * weight;
      }
    }
  }

  // Returns a row of patches (width, groups); it takes the place of one that `row` does not need.
  const Vec* patches(std::int32_t input, std::int64_t row) {
    const auto begin = problem_.rows.input.begin() + problem_.rows.first[row];
    const auto end = problem_.rows.input.begin() + problem_.rows.first[row + 1];
    std::pair<std::int32_t, Buffer>* free = nullptr;
    for (auto& slot : slots_) {
      if (slot.first == input) return slot.second.get();
      if (std::find(begin, end, slot.first) == end) free = &slot;
    }
    free->first = input;
    read(input, free->second.get());
    return free->second.get();
  }

  void read(std::int32_t input, Vec* target) const {
    const float factor = problem_.softmax ? problem_.scale * kLog2E : problem_.scale;
    for (std::int64_t group = 0; group < groups_; ++group) {
      const std::int32_t* queries = problem_.order.query.data() + group * kLanes;
      for (std::int64_t column = 0; column < problem_.width; ++column) {
        const float* source = problem_.logits + input * problem_.strides[1] + column * problem_.strides[2];
        float lanes[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
          lanes[lane] = queries[lane] < 0 ? kLeast : source[queries[lane] * problem_.strides[0]] * factor;
        }
        Vec values;
        std::memcpy(&values, lanes, sizeof(values));
        target[column * groups_ + group] = smaller(larger(values, splat(kLeast)), splat(-kLeast));
      }
    }
  }

  // Finds the queries that may win in a segment, and those that count in the sum.
  template <int kTaps>
  void choose(std::int64_t taps) {
    const std::int64_t competing = problem_.order.competing;
    Vec sure = splat(kLeast);
    for (std::int64_t group = 0; group < competing; ++group) {
      Vec low = columns_[0][group];
      for (std::int64_t tap = 1; tap < taps; ++tap) low = smaller(low, columns_[tap][group]);
      sure = larger(sure, low);
    }
    const float reached = largest_lane(sure);
    const Vec bound = splat(reached - kRounding * std::fabs(reached));
    const Vec counts = bound - (kSmallShare + std::log2(float(groups_ * kLanes)));
    rival_count_ = live_count_ = 0;
    const std::int64_t last = problem_.softmax ? groups_ : competing;
    for (std::int64_t group = 0; group < last; ++group) {
      Vec high = columns_[0][group];
      for (std::int64_t tap = 1; tap < taps; ++tap) high = larger(high, columns_[tap][group]);
      if (at_least(high, counts)) live_[std::size_t(live_count_++)] = group;
      unsigned mask = group < competing ? at_least(high, bound) : 0;
      for (; mask; mask &= mask - 1) {
        const int lane = __builtin_ctz(mask);
        for (std::int64_t tap = 0; tap < taps; ++tap) rival(tap, rival_count_) = columns_[tap][group][lane];
        rival_query_[std::size_t(rival_count_++)] = problem_.order.query[group * kLanes + lane];
      }
    }
    for (std::int64_t place = rival_count_; place % kLanes; ++place) {
      for (std::int64_t tap = 0; tap < taps; ++tap) rival(tap, place) = kLeast;
      rival_query_[std::size_t(place)] = -1;
    }
  }

  float& rival(std::int64_t tap, std::int64_t place) {
    return reinterpret_cast<float*>(rivals_[std::size_t(tap)].get())[place];
  }

  // Mixes a group of queries; kTaps is the number of columns of patches, 0 where it is known only at run time.
  template <int kTaps>
  static Vec mix_columns(const Vec* const* columns, const float* weights, std::int64_t taps, std::int64_t group) {
    Vec value = columns[0][group] * weights[0];
    for (std::int64_t tap = 1; tap < (kTaps ? kTaps : taps); ++tap) value += columns[tap][group] * weights[tap];
    return value;
  }

  template <int kTaps>
  void run(const Segment& segment, std::int32_t* labels, float* scores) {
    const std::int64_t taps = kTaps ? kTaps : std::int64_t(segment.inputs.size());
    for (std::int64_t tap = 0; tap < taps; ++tap) columns_[tap] = mixed_.get() + segment.inputs[tap] * groups_;
    choose<kTaps>(taps);
    const float* weights = segment.weights.data();
    for (std::int64_t x = segment.begin; x < segment.end; ++x, weights += taps) {
      const auto [query, peak] = winner<kTaps>(weights, taps);
      labels[x] = problem_.classes[query];
      scores[x] = problem_.softmax ? 1.0f / sum<kTaps>(weights, taps, peak) : peak;
    }
  }

  // Returns the best of the rivals and its logit; of equal ones the first.
  template <int kTaps>
  std::pair<std::int32_t, float> winner(const float* weights, std::int64_t taps) {
    const std::int64_t last = (rival_count_ + kLanes - 1) / kLanes;
    Vec best = splat(-std::numeric_limits<float>::infinity());
    IntVec found{};
    IntVec group_of{};
    for (std::int64_t group = 0; group < last; ++group, group_of += 1) {
      const Vec value = mix_columns<kTaps>(rival_columns_.data(), weights, taps, group);
      const IntVec better = value > best;
      best = better ? value : best;
      found = better ? group_of : found;
    }
    const float peak = largest_lane(best);
    std::int32_t place = std::numeric_limits<std::int32_t>::max();
    for (unsigned mask = at_least(best, splat(peak)); mask; mask &= mask - 1) {
      const int lane = __builtin_ctz(mask);
      place = std::min(place, found[lane] * kLanes + lane);
    }
    return {rival_query_[std::size_t(place)], peak};
  }

  // Returns the sum over all queries of 2 to the power of (logit - peak).
  template <int kTaps>
  float sum(const float* weights, std::int64_t taps, float peak) const {
    Vec total{};
    for (std::int64_t i = 0; i < live_count_; ++i) {
      total += power_of_two(mix_columns<kTaps>(columns_.data(), weights, taps, live_[std::size_t(i)]) - peak);
    }
    return sum_of_lanes(total);
  }

  const Problem& problem_;
  const std::int64_t groups_, size_;
  Buffer mixed_;  // (width, groups)
  std::vector<std::pair<std::int32_t, Buffer>> slots_;
  std::vector<const Vec*> columns_;        // of the patches of a segment
  std::vector<Buffer> rivals_;             // likewise, of the queries that may win, side by side
  std::vector<const Vec*> rival_columns_;  // where they are
  std::vector<std::int32_t> rival_query_;
  std::vector<std::int64_t> live_;  // groups that count in the sum
  std::int64_t rival_count_ = 0, live_count_ = 0;
};

// Labels the rows [begin, end) of the output.
inline void label_rows(const Problem& problem, std::int64_t begin, std::int64_t end) {
  Worker worker(problem);
  for (std::int64_t row = begin; row < end; ++row) worker.label(row);
}

}  // namespace ovseg::class_argmax
