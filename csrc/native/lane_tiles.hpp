// Products of small matrices of many tasks side by side: each element is a vector of tasks.
//
// Included INSIDE the target's namespace, after chain.hpp.  MR x NR elements of C are in registers; an element is a plain
// chain of FMAs, products in order, k ascending, whichever tile computes it.
#pragma once

// Rows of a tile by its columns: what leaves registers for a row of B and an element of A.
struct LaneTiles {
  static constexpr int columns = 4;
  static constexpr int rows[columns + 1] = {0, 8, FASTMETA_LANES_BYTES == 64 ? 6 : 4, FASTMETA_LANES_BYTES == 64 ? 6 : 3, FASTMETA_LANES_BYTES == 64 ? 6 : 2};
  static constexpr int most_rows = 8;
};

// Rows m0 .. m1 (a multiple of MR of them) of columns n0 .. n0 + NR, tasks from `task` on: `tail` of them, a vector if it is Whole.
template <class T, int MR, int NR, bool Whole>
__attribute__((noinline)) void lane_tile(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t n0, int64_t task, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  const TileRowOf<T, 1, Whole> tasks(tail);
  const V alpha = S::splat(g.alpha);
  for (; m0 < m1; m0 += MR) {
    V acc[MR][NR];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) acc[i][j] = V{};
    }
    for (int p = 0; p < g.n_products; p++) {
      const Product& f = g.products[p];
      const T *a[MR], *b[NR];
      FASTMETA_UNROLL
      for (int i = 0; i < MR; i++) a[i] = i ? a[i - 1] + f.a_m : d.factors[2 * p] + task + m0 * f.a_m;
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) b[j] = j ? b[j - 1] + f.b_n : d.factors[2 * p + 1] + task + n0 * f.b_n;
      int64_t a_at = 0, b_at = 0;
      for (int64_t k = f.k; k > 0; k--, a_at += f.a_k, b_at += f.b_k) {
        V y[NR];
        FASTMETA_UNROLL
        for (int j = 0; j < NR; j++) {
          y[j] = tasks.load(b[j] + b_at, 0);
          FASTMETA_PIN(y[j]);
        }
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) {
          V x = tasks.load(a[i] + a_at, 0);
          if (NR > 1) FASTMETA_PIN(x);
          FASTMETA_UNROLL
          for (int j = 0; j < NR; j++) acc[i][j] = S::fma(x, y[j], acc[i][j]);
        }
      }
    }
    const T* const cin = d.cin ? d.cin + task + m0 * g.cin_m + n0 * g.cin_n : nullptr;
    T* const c = d.c + task + m0 * g.c_m + n0 * g.c_n;
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        const V start = cin ? tasks.load(cin + i * g.cin_m + j * g.cin_n, 0) : V{};
        tasks.store(c + i * g.c_m + j * g.c_n, 0, S::fma(alpha, acc[i][j], start));
      }
    }
  }
}

template <class T>
using LaneTile = void (*)(const GemmArgs<T>&, const GemmData<T>&, int64_t m0, int64_t m1, int64_t n0, int64_t task, int tail);

template <class T>
struct LaneTable {
  LaneTile<T> fn[2][LaneTiles::columns + 1][LaneTiles::most_rows + 1] = {};  // [whole][columns][rows]

  constexpr LaneTable() { fill(FirstLanes<LaneTiles::columns>::type{}); }

 private:
  template <int... J>
  constexpr void fill(Lanes<J...>) { (fill_rows<J + 1>(typename FirstLanes<LaneTiles::rows[J + 1]>::type{}), ...); }
  template <int NR, int... I>
  constexpr void fill_rows(Lanes<I...>) {
    ((fn[0][NR][I + 1] = lane_tile<T, I + 1, NR, false>, fn[1][NR][I + 1] = lane_tile<T, I + 1, NR, true>), ...);
  }
};
template <class T>
constexpr LaneTable<T> lane_table{};

// Rows m0 .. m1 of all columns, of all tasks.
template <class T>
void lane_product(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t, int) {
  constexpr int width = Simd<T>::lanes;
  for (int64_t task = 0; task < g.lanes; task += width) {
    const int tail = int(g.lanes - task < width ? g.lanes - task : width);
    even_blocks(0, g.n, LaneTiles::columns, [&](uint32_t columns, int64_t left, int64_t right) {
      even_blocks(m0, m1, LaneTiles::rows[columns], [&](uint32_t rows, int64_t top, int64_t bottom) {
        const LaneTile<T> tile = lane_table<T>.fn[tail == width][columns][rows];
        for (int64_t n0 = left; n0 < right; n0 += columns) tile(g, d, top, bottom, n0, task, tail);
      });
    });
  }
}
