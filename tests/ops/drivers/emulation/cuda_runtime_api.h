// Enough of CUDA to run kernels on the CPU, one thread for each of theirs, block after block. It stands in for CUDA's
// header of this name, so that sanitizers can watch kernels: a missing barrier is a data race there.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __align__(size) __attribute__((aligned(size)))

typedef void* cudaStream_t;
typedef int cudaError_t;
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct int2 {
  int x, y;
};
struct float4 {
  float x, y, z, w;
};

inline thread_local dim3 threadIdx, blockIdx;
using std::max;
using std::min;

namespace emulation {

constexpr unsigned kWarpSize = 32;
inline pthread_barrier_t block_barrier, warp_barriers[1024 / kWarpSize];
inline bool votes[1024];
inline double shuffled[1024];

inline void wait(pthread_barrier_t& barrier) { pthread_barrier_wait(&barrier); }

// Runs kernel(argument) for all blocks of a grid.
template <class Kernel, class Argument>
void run(dim3 grid, unsigned size, Kernel kernel, const Argument& argument) {
  pthread_barrier_init(&block_barrier, nullptr, size);
  for (unsigned warp = 0; warp * kWarpSize < size; ++warp) {
    pthread_barrier_init(&warp_barriers[warp], nullptr, std::min(kWarpSize, size - warp * kWarpSize));
  }
  std::vector<std::thread> threads;
  for (unsigned own = 0; own < size; ++own) {
    threads.emplace_back([=] {
      threadIdx = {own, 0, 0};
      for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
          for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, z};
            kernel(argument);
            wait(block_barrier);  // what blocks share here is each block's own on a GPU
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace emulation

inline void __syncthreads() { emulation::wait(emulation::block_barrier); }

inline uint32_t __ballot_sync(uint32_t, bool vote) {
  const unsigned warp = threadIdx.x / emulation::kWarpSize, first = warp * emulation::kWarpSize;
  emulation::votes[threadIdx.x] = vote;
  emulation::wait(emulation::warp_barriers[warp]);
  uint32_t word = 0;
  for (unsigned lane = 0; lane < emulation::kWarpSize; ++lane) word |= uint32_t{emulation::votes[first + lane]} << lane;
  emulation::wait(emulation::warp_barriers[warp]);
  return word;
}

// Only with all threads of a warp.
template <class T>
T __shfl_xor_sync(uint32_t, T x, int step) {
  pthread_barrier_t& barrier = emulation::warp_barriers[threadIdx.x / emulation::kWarpSize];
  emulation::shuffled[threadIdx.x] = x;
  emulation::wait(barrier);
  const T found = static_cast<T>(emulation::shuffled[threadIdx.x ^ step]);
  emulation::wait(barrier);
  return found;
}

template <class T>
T atomicAdd(T* place, T x) {
  T before;
  __atomic_load(place, &before, __ATOMIC_RELAXED);
  T after = before + x;
  while (!__atomic_compare_exchange(place, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    after = before + x;
  }
  return before;
}
