// Runs the core of ms_deform_attn for CPUs on odd sizes, in ranges, and compares with the definition.
#include "ms_deform_attn.h"

#include "ms_deform_attn_reference.h"

using namespace ovseg::ms_deform_attn;

namespace {

template <class T>
int check(const Case& c, double tolerance) {
  Arrays<T> a(c);
  const Sizes n{c.batch, c.tokens(), c.heads, c.dim, c.queries, c.levels(), c.points, c.shapes.data()};
  const int64_t queries = n.batch * n.queries, parts = n.batch * n.heads * n.levels;
  for (const int64_t middle : {queries / 3, queries}) {
    forward<T>(n, a.value.data(), a.locations.data(), a.weights.data(), a.out.data(), middle, queries);
    forward<T>(n, a.value.data(), a.locations.data(), a.weights.data(), a.out.data(), 0, middle);
  }
  for (const auto& [begin, end] : {std::pair{parts / 2, parts}, std::pair{int64_t{0}, parts / 2}}) {
    backward<T>(n, a.grad.data(), a.value.data(), a.locations.data(), a.weights.data(), a.to_value.data(),
                a.to_locations.data(), a.to_weights.data(), begin, end);
  }
  return compare(c, a, tolerance);
}

}  // namespace

int main() {
  int wrong = 0;
  for (const int dim : {1, 3, 16, 32, 37, 80}) {
    for (const Case& c : {Case{2, 2, dim, 5, 3, {3, 4, 2, 5, 1, 1}}, Case{1, 1, dim, 7, 1, {6, 5}}}) {
      wrong += check<float>(c, 1e-5) + check<double>(c, 1e-12);
    }
  }
  for (const Case& c : {Case{0, 2, 4, 5, 2, {2, 2}}, Case{1, 2, 4, 0, 2, {2, 2}}, Case{1, 2, 0, 3, 2, {2, 2}},
                        Case{1, 2, 4, 3, 0, {2, 2}}, Case{1, 2, 4, 3, 2, {}}}) {
    wrong += check<float>(c, 1e-5);
  }
  return wrong != 0;
}
