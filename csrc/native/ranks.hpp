// The places of a few values in their order, by counting: no branch depends on them.
//
// Included INSIDE the target's namespace, after simd.hpp.
#pragma once

// at[i] = how many keys are before key i: those that are less, and of equal ones those with a lower index.  Room for whole
// blocks of keys and places, kMostRanks at most.
template <class T>
void ranks(const T* key, int64_t n, T* at) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes, kVectors = 4, kBlock = kVectors * L;
  static_assert(kMostRanks % kBlock == 0, "whole blocks");
  V lane;
  for (int64_t l = 0; l < L; l++) lane[l] = T(l);
  for (int64_t start = 0; start < n; start += kBlock) {
    V mine[kVectors], count[kVectors], index[kVectors];
    FASTMETA_UNROLL
    for (int64_t v = 0; v < kVectors; v++) mine[v] = S::load(key + start + v * L), count[v] = V{}, index[v] = lane + T(start + v * L);
    const int64_t end = start + kBlock < n ? start + kBlock : n;
    int64_t j = 0;
    for (; j < start; j++) {
      const T x = key[j];
      FASTMETA_UNROLL
      for (int64_t v = 0; v < kVectors; v++) count[v] -= x <= mine[v];
    }
    for (; j < end; j++) {
      const T x = key[j], before = T(j);
      FASTMETA_UNROLL
      for (int64_t v = 0; v < kVectors; v++) count[v] -= (x < mine[v]) | ((x == mine[v]) & (before < index[v]));
    }
    for (; j < n; j++) {
      const T x = key[j];
      FASTMETA_UNROLL
      for (int64_t v = 0; v < kVectors; v++) count[v] -= x < mine[v];
    }
    FASTMETA_UNROLL
    for (int64_t v = 0; v < kVectors; v++) S::store(at + start + v * L, count[v]);
  }
}

constexpr void fill_ranks(Kernels& k) {
  k.ranks4 = ranks<int32_t>;
  k.ranks8 = ranks<int64_t>;
  k.vector_bytes = FASTMETA_LANES_BYTES;
}
