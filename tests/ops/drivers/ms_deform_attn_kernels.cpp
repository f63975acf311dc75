// Runs the CUDA kernels of ms_deform_attn on the CPU and compares with the definition.
#include "ms_deform_attn_kernels.cuh"

#include "ms_deform_attn_reference.h"

using namespace ovseg::ms_deform_attn;

namespace {

template <class T, int COUNT>
int check(const Case& c, int group, double tolerance) {
  Arrays<T> a(c);
  DeviceSizes n{c.batch, c.tokens(), c.heads, c.dim, c.queries, c.levels(), c.points, {}, {}, {}};
  for (int level = 0, start = 0; level < n.levels; ++level) {
    n.height[level] = static_cast<int>(c.shapes[2 * level]);
    n.width[level] = static_cast<int>(c.shapes[2 * level + 1]);
    n.start[level] = start;
    start += n.height[level] * n.width[level];
  }
  Problem p{n, a.value.data(), a.locations.data(), a.weights.data()};
  p.out = a.out.data(), p.grad = a.grad.data(), p.group = group;
  p.grad_value = a.to_value.data(), p.grad_locations = a.to_locations.data(), p.grad_weights = a.to_weights.data();
  const auto blocks = [&](int each) {
    return dim3{static_cast<unsigned>((c.batch * c.queries * c.heads * each + THREADS - 1) / THREADS)};
  };
  emulation::run(blocks(c.dim / COUNT), THREADS, forward_kernel<T, T, COUNT>, p);
  emulation::run(blocks(group), THREADS, backward_kernel<T, T, COUNT>, p);
  return compare(c, a, tolerance);
}

}  // namespace

int main() {
  int wrong = 0;
  wrong += check<float, 4>({2, 2, 8, 5, 2, {3, 4, 2, 5}}, 2, 1e-5);
  wrong += check<float, 1>({1, 3, 3, 4, 1, {2, 3}}, 4, 1e-5);    // more threads than channels
  wrong += check<double, 2>({1, 2, 12, 3, 2, {1, 1, 3, 2}}, 4, 1e-12);  // channels in two turns
  wrong += check<float, 4>({1, 5, 4, 60, 1, {2, 2}}, 1, 1e-5);    // more than one block
  return wrong != 0;
}
