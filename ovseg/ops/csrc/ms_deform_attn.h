// Multi-scale deformable attention on the CPU, without PyTorch: what one range of work items computes.
//
// Arrays are dense and row-major: value (batch, tokens, heads, dim), locations (batch, queries, heads, levels, points,
// 2) as (x, y), weights (batch, queries, heads, levels, points), out (batch, queries, heads, dim).

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ovseg::ms_deform_attn {

struct Sizes {
  int64_t batch, tokens, heads, dim, queries, levels, points;
  const int64_t* shapes;  // rows and columns of each level; their products add up to `tokens`

  int64_t row() const { return heads * dim; }
  int64_t samples() const { return levels * points; }
};

// The pixels around a place: the one above and to the left of it, and how far the place lies from that one.
template <typename T>
struct Cell {
  int64_t left, top;
  T x, y;
};

// Finds the cell of a place in a level, rounding as `grid_sample` does: single precision places pixels of large levels
// to some 1e-5 only. False for places without a pixel around, and for those that are no numbers.
template <typename T>
inline bool find_cell(const T* place, int64_t height, int64_t width, Cell<T>& cell) {
  const T x = ((2 * place[0] - 1) + 1) * (static_cast<T>(width) / 2) - T(0.5);
  const T y = ((2 * place[1] - 1) + 1) * (static_cast<T>(height) / 2) - T(0.5);
  if (!(x > T(-1) && y > T(-1) && x < static_cast<T>(width) && y < static_cast<T>(height))) return false;
  const T left = std::floor(x), top = std::floor(y);
  cell = {static_cast<int64_t>(left), static_cast<int64_t>(top), x - left, y - top};
  return true;
}

// Calls f(token within the level, share along x, share along y, whether right, whether below) for every pixel of the
// four that exists.
template <typename T, typename F>
inline void each_corner(const Cell<T>& cell, int64_t height, int64_t width, F&& f) {
  for (int right = 0; right < 2; ++right) {
    const int64_t column = cell.left + right;
    if (column < 0 || column >= width) continue;
    for (int below = 0; below < 2; ++below) {
      const int64_t line = cell.top + below;
      if (line < 0 || line >= height) continue;
      f(line * width + column, right ? cell.x : 1 - cell.x, below ? cell.y : 1 - cell.y, right, below);
    }
  }
}

// The widest vector that the compiler's target has in registers. Vectors are spelled out because a loop over channels
// inside a loop over rows is otherwise turned around, and sums go through memory.
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <typename T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr int COUNT = VECTOR_BYTES / sizeof(T);
};

template <typename T>
struct Term {
  const T* row;
  T share;
};

// Adds up some vectors of channels over all rows; the sums stay in registers.
template <int VECTORS, typename T>
inline void add_rows(const Term<T>* terms, int64_t count, int64_t channel, T* out) {
  typename Lanes<T>::Vector sums[VECTORS] = {}, values;
  for (int64_t i = 0; i < count; ++i) {
    for (int v = 0; v < VECTORS; ++v) {
      std::memcpy(&values, terms[i].row + channel + v * Lanes<T>::COUNT, sizeof values);
      sums[v] += terms[i].share * values;
    }
  }
  std::memcpy(out + channel, sums, sizeof sums);
}

template <typename T>
inline void add_all_channels(const Term<T>* terms, int64_t count, int64_t dim, T* out) {
  constexpr int LANES = Lanes<T>::COUNT, VECTORS = LANES < 32 ? 32 / LANES : 1;  // heads have 32 channels as a rule
  int64_t channel = 0;
  for (; channel + VECTORS * LANES <= dim; channel += VECTORS * LANES) add_rows<VECTORS>(terms, count, channel, out);
  for (; channel + LANES <= dim; channel += LANES) add_rows<1>(terms, count, channel, out);
  for (; channel < dim; ++channel) {
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += terms[i].share * terms[i].row[channel];
    out[channel] = sum;
  }
}

// Outputs of the queries [begin, end) out of batch * queries.
template <typename T>
void forward(const Sizes& n, const T* value, const T* locations, const T* weights, T* out, int64_t begin,
             int64_t end) {
  std::vector<Term<T>> terms(4 * n.samples());
  for (int64_t item = begin; item < end; ++item) {
    for (int64_t head = 0; head < n.heads; ++head) {
      const int64_t first = (item * n.heads + head) * n.samples();
      const T* level_value = value + item / n.queries * n.tokens * n.row() + head * n.dim;
      int64_t count = 0;
      for (int64_t level = 0; level < n.levels; ++level) {
        const int64_t height = n.shapes[2 * level], width = n.shapes[2 * level + 1];
        for (int64_t point = 0; point < n.points; ++point) {
          const int64_t sample = first + level * n.points + point;
          Cell<T> cell;
          if (!find_cell(locations + 2 * sample, height, width, cell)) continue;
          each_corner(cell, height, width, [&](int64_t token, T share_x, T share_y, int, int) {
            terms[count++] = {level_value + token * n.row(), weights[sample] * share_x * share_y};
          });
        }
        level_value += height * width * n.row();
      }
      add_all_channels(terms.data(), count, n.dim, out + (item * n.heads + head) * n.dim);
    }
  }
}

// Returns the product of a gradient with a row of values, and adds the gradient's share to the gradient of that row.
template <typename T>
inline T product_and_add(const T* __restrict grad, const T* __restrict row, T share, T* __restrict grad_row,
                         int64_t dim) {
  constexpr int LANES = Lanes<T>::COUNT;
  typename Lanes<T>::Vector products = {}, own, values, sums;
  int64_t channel = 0;
  for (; channel + LANES <= dim; channel += LANES) {
    std::memcpy(&own, grad + channel, sizeof own);
    std::memcpy(&values, row + channel, sizeof values);
    std::memcpy(&sums, grad_row + channel, sizeof sums);
    products += own * values;
    sums += share * own;
    std::memcpy(grad_row + channel, &sums, sizeof sums);
  }
  T total = 0;
  for (int lane = 0; lane < LANES; ++lane) total += products[lane];
  for (; channel < dim; ++channel) {
    total += grad[channel] * row[channel];
    grad_row[channel] += share * grad[channel];
  }
  return total;
}

// Gradients of the levels [begin, end) out of batch * heads * levels. Each owns its part of every gradient, so that no
// two ranges write to one place, and sums do not depend on the number of threads. `grad_value` comes filled with zeros.
template <typename T>
void backward(const Sizes& n, const T* grad, const T* value, const T* locations, const T* weights, T* grad_value,
              T* grad_locations, T* grad_weights, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t level = item % n.levels, head = item / n.levels % n.heads, image = item / n.levels / n.heads;
    const int64_t height = n.shapes[2 * level], width = n.shapes[2 * level + 1];
    int64_t start = image * n.tokens;
    for (int64_t i = 0; i < level; ++i) start += n.shapes[2 * i] * n.shapes[2 * i + 1];
    const int64_t offset = start * n.row() + head * n.dim;
    for (int64_t query = image * n.queries; query < (image + 1) * n.queries; ++query) {
      const T* own_grad = grad + (query * n.heads + head) * n.dim;
      for (int64_t point = 0; point < n.points; ++point) {
        const int64_t sample = ((query * n.heads + head) * n.levels + level) * n.points + point;
        T to_x = 0, to_y = 0, to_weight = 0;
        Cell<T> cell;
        if (find_cell(locations + 2 * sample, height, width, cell)) {
          each_corner(cell, height, width, [&](int64_t token, T share_x, T share_y, int right, int below) {
            const int64_t place = offset + token * n.row();
            const T share = weights[sample] * share_x * share_y;
            const T product = product_and_add(own_grad, value + place, share, grad_value + place, n.dim);
            to_weight += share_x * share_y * product;
            to_x += (right ? share_y : -share_y) * product;
            to_y += (below ? share_x : -share_x) * product;
          });
        }
        grad_locations[2 * sample] = weights[sample] * static_cast<T>(width) * to_x;
        grad_locations[2 * sample + 1] = weights[sample] * static_cast<T>(height) * to_y;
        grad_weights[sample] = to_weight;
      }
    }
  }
}

}  // namespace ovseg::ms_deform_attn
