// A team runs one piece of work together: a thread block on a device; one lane, or a few threads, on the host.
//
// All device text is written against this file, so that it compiles by nvcc, by NVRTC (no standard headers there) and as
// plain C++, which is how it is tested where there is no GPU.
#pragma once
#if defined(__CUDACC_RTC__)
typedef int int32_t;
typedef long long int64_t;
typedef unsigned int uint32_t;
typedef unsigned char uint8_t;
typedef unsigned long long uint64_t;
#else
#include <cmath>
#include <cstdint>
#endif

#if defined(__CUDACC__)
#define FM_DEVICE __device__ inline
#define FM_BOTH __host__ __device__ inline
#define FM_NOINLINE __device__ __noinline__  // a copy for each caller would take a compiler minutes
#define FM_BOTH_NOINLINE __host__ __device__ __noinline__
#else
#define FM_DEVICE inline
#define FM_BOTH inline
#define FM_NOINLINE inline
#define FM_BOTH_NOINLINE inline
#endif
#if defined(__CUDA_ARCH__)
#define FM_UNROLL _Pragma("unroll")
#define FM_NO_UNROLL _Pragma("unroll 1")
#define FM_UNROLL_BY(n) FM_PRAGMA_(unroll n)
#define FM_PRAGMA_(text) _Pragma(#text)
#else
#define FM_UNROLL_BY(n)
#define FM_UNROLL
#define FM_NO_UNROLL
#endif

namespace fastmeta {
namespace device {

constexpr int kTeamLanes = 256;  // of a thread block
#if defined(__CUDACC__)
constexpr int kFewestLanes = kTeamLanes;
#else
constexpr int kFewestLanes = 1;
#endif
constexpr int kTileDepth = 16, kTileWidth = 65;                              // of a product's tile, one column of padding
constexpr int kStageBytes = 2 * kTileDepth * kTileWidth * int(sizeof(double));  // fast memory of a team: two such tiles

struct Team {
  int lane, lanes;
  char* stage;  // kStageBytes, shared by the lanes
#if !defined(__CUDACC__)
  void (*wait)(void*) = nullptr;  // the barrier of a team of several threads
  void* barrier = nullptr;
#endif
  // All lanes arrive before any goes on, and see what the others wrote.
  FM_DEVICE void sync() const {
#if defined(__CUDA_ARCH__)
    __syncthreads();
#elif !defined(__CUDACC__)
    if (wait) wait(barrier);
#endif
  }
};

FM_DEVICE void atomic_most(unsigned long long* at, unsigned long long value) {
#if defined(__CUDA_ARCH__)
  atomicMax(at, value);
#elif !defined(__CUDACC__)
  unsigned long long old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (value > old && !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
#endif
}

FM_BOTH int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
FM_BOTH int64_t most(int64_t x, int64_t y) { return x > y ? x : y; }
FM_BOTH_NOINLINE int64_t quotient(int64_t n, int64_t d) { return n / d; }

// n becomes n / d; the remainder. 64-bit division is slow on a GPU, and seldom needed.
FM_BOTH int64_t split(int64_t& n, int64_t d) {
  if (((n | d) >> 32) == 0) {
    const uint32_t whole = uint32_t(n) / uint32_t(d), rest = uint32_t(n) - whole * uint32_t(d);
    n = whole;
    return rest;
  }
  const int64_t whole = quotient(n, d), rest = n - whole * d;
  n = whole;
  return rest;
}

FM_BOTH int64_t parts_of(int64_t n, int64_t size) {
  n += size - 1;
  split(n, size);
  return n;
}

}  // namespace device
}  // namespace fastmeta
