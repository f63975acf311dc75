// The definition of multi-scale deformable attention, as a loop over all pixels of all levels, and its gradients.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

struct Case {
  int batch, heads, dim, queries, points;
  std::vector<int64_t> shapes;

  int levels() const { return static_cast<int>(shapes.size() / 2); }
  int tokens() const {
    int64_t found = 0;
    for (int i = 0; i < levels(); ++i) found += shapes[2 * i] * shapes[2 * i + 1];
    return static_cast<int>(found);
  }
};

// Numbers between `low` and `high`, always the same.
template <class T>
std::vector<T> numbers(int64_t count, double low, double high, uint32_t seed) {
  std::vector<T> found(count);
  for (T& x : found) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<T>(low + (high - low) * (seed >> 8) / (1 << 24));
  }
  return found;
}

// All arrays of a case; places reach far outside of the levels, and one is no number.
template <class T>
struct Arrays {
  std::vector<T> value, locations, weights, grad, out, to_value, to_locations, to_weights;

  explicit Arrays(const Case& c) {
    const int64_t samples = int64_t{c.batch} * c.queries * c.heads * c.levels() * c.points;
    value = numbers<T>(int64_t{c.batch} * c.tokens() * c.heads * c.dim, -1, 1, 1);
    locations = numbers<T>(2 * samples, -0.4, 1.4, 2);
    if (samples > 1) locations[1] = NAN, locations[2] = static_cast<T>(1e30);
    weights = numbers<T>(samples, 0, 1, 3);
    out.resize(int64_t{c.batch} * c.queries * c.heads * c.dim);
    grad = numbers<T>(static_cast<int64_t>(out.size()), -1, 1, 4);
    to_value.resize(value.size());
    to_locations.resize(locations.size());
    to_weights.resize(weights.size());
  }
};

template <class T>
int count_wrong(const std::vector<T>& found, const std::vector<double>& expected, double tolerance, const char* what) {
  int wrong = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::abs(found[i] - expected[i]) <= tolerance * (1 + std::abs(expected[i]))) continue;
    if (!wrong++) std::printf("%s[%zu] is %g, expected %g\n", what, i, double(found[i]), expected[i]);
  }
  return wrong;
}

// Compares with the definition: a pixel counts by how near it is to a place, less than 1 away in both directions.
template <class T>
int compare(const Case& c, const Arrays<T>& a, double tolerance) {
  std::vector<double> out(a.out.size()), to_value(a.value.size()), to_places(a.locations.size()),
      to_weights(a.weights.size());
  const int64_t row = int64_t{c.heads} * c.dim;
  int64_t sample = 0;
  for (int64_t item = 0; item < int64_t{c.batch} * c.queries * c.heads; ++item) {
    const int64_t image = item / c.heads / c.queries, head = item % c.heads;
    int64_t token = image * c.tokens();
    for (int level = 0; level < c.levels(); ++level) {
      const int64_t height = c.shapes[2 * level], width = c.shapes[2 * level + 1];
      for (int point = 0; point < c.points; ++point, ++sample) {
        const double weight = a.weights[sample];
        const double x = static_cast<T>(a.locations[2 * sample] * width - T(0.5));
        const double y = static_cast<T>(a.locations[2 * sample + 1] * height - T(0.5));
        for (int64_t i = 0; i < height; ++i) {
          for (int64_t j = 0; j < width; ++j) {
            if (!(std::abs(x - j) < 1 && std::abs(y - i) < 1)) continue;
            const double near_x = 1 - std::abs(x - j), near_y = 1 - std::abs(y - i);
            for (int64_t channel = 0; channel < c.dim; ++channel) {
              const int64_t at = (token + i * width + j) * row + head * c.dim + channel;
              const double grad = a.grad[item * c.dim + channel], product = grad * a.value[at];
              out[item * c.dim + channel] += weight * near_x * near_y * a.value[at];
              to_value[at] += weight * near_x * near_y * grad;
              to_weights[sample] += near_x * near_y * product;
              to_places[2 * sample] += weight * width * (j > x ? near_y : -near_y) * product;
              to_places[2 * sample + 1] += weight * height * (i > y ? near_x : -near_x) * product;
            }
          }
        }
      }
      token += height * width;
    }
  }
  return count_wrong(a.out, out, tolerance, "out") + count_wrong(a.to_value, to_value, tolerance, "to_value") +
         count_wrong(a.to_locations, to_places, 10 * tolerance, "to_locations") +
         count_wrong(a.to_weights, to_weights, tolerance, "to_weights");
}
