// Weights of pixels in masks whose logits have another size: the core of mask_pool on the CPU. No PyTorch in here.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

namespace ovseg::mask_pool {

enum class Weights : int64_t { inside, sigmoid, softmax };
enum class Resize : int64_t { bilinear, max };

// Logits (queries, height, width) of type T at `data`; steps between neighbours in elements, of any sign or zero.
template <class T>
struct Logits {
  const T* data;
  int64_t height, width;
  int64_t query_step, row_step, column_step;
};

// What an output coordinate reads: the entries first and second with shares of them (bilinear), or first..second (max).
template <class A>
struct Taps {
  std::vector<int32_t> first, second;
  std::vector<A> first_share, second_share;

  Taps(int64_t from, int64_t to, Resize resize) : first(to), second(to), first_share(to), second_share(to) {
    const A scale = static_cast<A>(from) / static_cast<A>(to);
    for (int64_t i = 0; i < to; ++i) {
      if (resize == Resize::max) {
        first[i] = static_cast<int32_t>(i * from / to);
        second[i] = static_cast<int32_t>(((i + 1) * from + to - 1) / to);
        continue;
      }
      // Step by step as PyTorch computes it, so that no pixel lies on the other side of a threshold.
      const A place = std::max<A>(scale * (static_cast<A>(i) + A(0.5)) - A(0.5), A(0));
      const int64_t low = std::min<int64_t>(static_cast<int64_t>(place), from - 1);
      first[i] = static_cast<int32_t>(low);
      second[i] = static_cast<int32_t>(low + (low < from - 1));
      second_share[i] = std::min<A>(std::max<A>(place - static_cast<A>(low), A(0)), A(1));
      first_share[i] = A(1) - second_share[i];
    }
  }
};

// exp(x) for x <= 0 in steps that compilers turn into vectors (libm's call is none): 2^k times a polynomial on the rest.
inline float exp_of_negative(float from) {
  const float x = from > -87.0f ? from : -87.0f;
  const float turns = std::floor(x * 1.44269504f + 0.5f);
  const float rest = std::fma(turns, 2.12194440e-4f, std::fma(turns, -0.693359375f, x));
  float found = std::fma(1.9875691500e-4f, rest, 1.3981999507e-3f);
  found = std::fma(found, rest, 8.3334519073e-3f);
  found = std::fma(found, rest, 4.1665795894e-2f);
  found = std::fma(found, rest, 1.6666665459e-1f);
  found = std::fma(found, rest, 0.5f);
  found = std::fma(found, rest * rest, rest + 1.0f);
  found *= std::bit_cast<float>((static_cast<int32_t>(turns) + 127) << 23);
  return from >= -87.0f ? found : from < -87.0f ? 0.0f : from;  // the last is not a number
}

inline double exp_of_negative(double x) { return std::exp(x); }

template <class A>
A sigmoid(A x) {
  const A small = exp_of_negative(-std::abs(x));
  return (x < 0 ? small : A(1)) / (A(1) + small);
}

// Rows of one query's logits at the output size, before any weight function.
template <class T, class A>
class Resizer {
 public:
  Resizer(const Logits<T>& logits, int64_t height, int64_t width, Resize resize)
      : logits_(logits), resize_(resize), same_(logits.height == height && logits.width == width), width_(width),
        rows_(logits.height, height, resize), columns_(logits.width, width, resize), buffer_(2 * logits.width) {}

  // Writes row `y` of `query` to out[0 .. width).
  void row(int64_t query, int64_t y, A* out) {
    if (same_) {
      const A* source = line(query, y, 0);
      std::copy(source, source + width_, out);
    } else if (resize_ == Resize::max) {
      largest(query, y, out);
    } else {
      blend(query, y, out);
    }
  }

 private:
  // A row of the logits as it lies in memory where that will do, else a converted copy in a slot of the buffer.
  const A* line(int64_t query, int64_t y, int slot) {
    const T* source = logits_.data + query * logits_.query_step + y * logits_.row_step;
    if constexpr (std::is_same_v<T, A>) {
      if (logits_.column_step == 1) return source;
    }
    A* copy = buffer_.data() + slot * logits_.width;
    const int64_t step = logits_.column_step;
    if (step == 1) {
      for (int64_t x = 0; x < logits_.width; ++x) copy[x] = static_cast<A>(source[x]);
    } else {
      for (int64_t x = 0; x < logits_.width; ++x) copy[x] = static_cast<A>(source[x * step]);
    }
    return copy;
  }

  void blend(int64_t query, int64_t y, A* out) {
    const A *upper = line(query, rows_.first[y], 0), *lower = line(query, rows_.second[y], 1);
    const A upper_share = rows_.first_share[y], lower_share = rows_.second_share[y];
    const int32_t *left = columns_.first.data(), *right = columns_.second.data();
    const A *left_share = columns_.first_share.data(), *right_share = columns_.second_share.data();
#pragma omp simd  // nothing written is read: the output does not overlap the logits
    for (int64_t x = 0; x < width_; ++x) {
      const A above = upper[left[x]] * left_share[x] + upper[right[x]] * right_share[x];
      const A below = lower[left[x]] * left_share[x] + lower[right[x]] * right_share[x];
      out[x] = above * upper_share + below * lower_share;
    }
  }

  void largest(int64_t query, int64_t y, A* out) {
    std::fill(out, out + width_, -std::numeric_limits<A>::infinity());
    for (int64_t from = rows_.first[y]; from < rows_.second[y]; ++from) {
      const A* source = line(query, from, 0);
      for (int64_t x = 0; x < width_; ++x) {
        for (int32_t i = columns_.first[x]; i < columns_.second[x]; ++i) out[x] = std::max(out[x], source[i]);
      }
    }
  }

  Logits<T> logits_;
  Resize resize_;
  bool same_;
  int64_t width_;
  Taps<A> rows_, columns_;
  std::vector<A> buffer_;
};

// Writes the largest resized logit of each query of [begin, end) to largest[query].
template <class T, class A>
void find_largest(Resizer<T, A> resizer, int64_t height, int64_t width, int64_t begin, int64_t end, A* largest) {
  std::vector<A> row(width);
  for (int64_t query = begin; query < end; ++query) {
    largest[query] = -std::numeric_limits<A>::infinity();
    for (int64_t y = 0; y < height; ++y) {
      resizer.row(query, y, row.data());
      for (const A x : row) largest[query] = std::max(largest[query], x);
    }
  }
}

// Turns resized logits into weights, in place; returns their sum. `largest` is that of the query, for the softmax.
template <class A>
A weigh(A* row, int64_t width, Weights weights, A largest) {
  if (weights == Weights::inside) {
    for (int64_t x = 0; x < width; ++x) row[x] = row[x] > 0 ? A(1) : A(0);
  } else if (weights == Weights::sigmoid) {
    for (int64_t x = 0; x < width; ++x) row[x] = sigmoid(row[x]);
  } else {
    for (int64_t x = 0; x < width; ++x) row[x] = exp_of_negative(row[x] - largest);
  }
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t x = 0; x < width; ++x) sum += row[x];
  return sum;
}

// Writes the weights of queries [begin, end) in rows [top, bottom) to tile (queries, rows, width), and adds each
// query's sum to sums[query]: what does not grow there has no weight in the tile.
template <class T, class A>
void fill_tile(Resizer<T, A> resizer, int64_t width, Weights weights, const A* largest, int64_t top, int64_t bottom,
               int64_t begin, int64_t end, A* tile, A* sums) {
  for (int64_t query = begin; query < end; ++query) {
    A* out = tile + query * (bottom - top) * width;
    for (int64_t y = top; y < bottom; ++y, out += width) {
      resizer.row(query, y, out);
      sums[query] += weigh(out, width, weights, largest ? largest[query] : A(0));
    }
  }
}

}  // namespace ovseg::mask_pool
