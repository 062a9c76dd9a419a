// The places of a few values in their order, by counting: no branch depends on them.
//
// Included INSIDE the target's namespace, after simd.hpp.
#pragma once

// at[i] = how many of n keys are before key i, for i from `start` on: those that are less, and of equal ones those with a lower index.
template <class T, int64_t kVectors>
FASTMETA_INLINE void ranks_from(const T* key, int64_t n, int64_t start, T* at) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  V mine[kVectors], count[kVectors], index[kVectors];
  FASTMETA_UNROLL
  for (int64_t v = 0; v < kVectors; v++) {
    mine[v] = S::load(key + start + v * L);
    count[v] = V{};
    for (int64_t l = 0; l < L; l++) index[v][l] = T(start + v * L + l);
  }
  const int64_t end = start + kVectors * L < n ? start + kVectors * L : n;
  int64_t j = 0;
  for (; j < start; j++) {
    const V x = S::splat(key[j]);
    FASTMETA_UNROLL
    for (int64_t v = 0; v < kVectors; v++) count[v] -= V(x <= mine[v]);
  }
  for (; j < end; j++) {
    const V x = S::splat(key[j]), before = S::splat(T(j));
    FASTMETA_UNROLL
    for (int64_t v = 0; v < kVectors; v++) count[v] -= V((x < mine[v]) | ((x == mine[v]) & (before < index[v])));
  }
  for (; j < n; j++) {
    const V x = S::splat(key[j]);
    FASTMETA_UNROLL
    for (int64_t v = 0; v < kVectors; v++) count[v] -= V(x < mine[v]);
  }
  FASTMETA_UNROLL
  for (int64_t v = 0; v < kVectors; v++) S::store(at + start + v * L, count[v]);
}

// Room for kMostRanks keys and places, so that the last vectors may be read and written whole.
template <class T>
void ranks(const T* key, int64_t n, T* at) {
  constexpr int64_t L = Simd<T>::lanes;
  static_assert(kMostRanks % (4 * L) == 0, "whole vectors");
  int64_t start = 0;
  for (; n - start > 2 * L; start += 4 * L) ranks_from<T, 4>(key, n, start, at);
  if (n - start > L) ranks_from<T, 2>(key, n, start, at);
  else if (n > start) ranks_from<T, 1>(key, n, start, at);
}

constexpr void fill_ranks(Kernels& k) {
  k.ranks4 = ranks<int32_t>;
  k.ranks8 = ranks<int64_t>;
  k.vector_bytes = FASTMETA_LANES_BYTES;
}
