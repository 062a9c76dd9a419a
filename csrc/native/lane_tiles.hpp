// Products of small matrices of many tasks side by side: each element is a row of tasks.
//
// Included INSIDE the target's namespace by gemm.hpp, after even_blocks().  MR x NR elements of C, NV vectors of tasks of each, are in
// registers; an element is a plain chain of FMAs, products in order, k ascending, whichever tile computes it.
#pragma once

// The sizes of tiles: what leaves registers for a row of B and an element of A.
struct LaneTiles {
  static constexpr int columns = 4, vectors = 4;
  static constexpr bool many = FASTMETA_LANES_BYTES == 64;  // registers
  static constexpr int rows[columns + 1] = {0, 8, many ? 6 : 4, many ? 6 : 3, many ? 6 : 2};  // of one vector, by columns
  static constexpr int rows_of_one[vectors + 1] = {0, 8, 4, 3, 2};  // of one column, by vectors: rows of A are read in order then
  static constexpr int most_rows = 8;
};

// Rows m0 .. m1 (a multiple of MR of them) of columns n0 .. n0 + NR, of (NV - 1) * lanes + tail tasks from `task` on.
template <class T, int MR, int NR, int NV, bool Whole>
__attribute__((noinline)) void lane_tile(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t n0, int64_t task, int tail) {
  using S = Simd<T>;
  using V = typename S::V;
  const TileRowOf<T, NV, Whole> tasks(tail);
  const V alpha = S::splat(g.alpha);
  for (; m0 < m1; m0 += MR) {
    V acc[MR][NR][NV];
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        FASTMETA_UNROLL
        for (int v = 0; v < NV; v++) acc[i][j][v] = V{};
      }
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
        V y[NR][NV];
        FASTMETA_UNROLL
        for (int j = 0; j < NR; j++) {
          FASTMETA_UNROLL
          for (int v = 0; v < NV; v++) {
            y[j][v] = tasks.load(b[j] + b_at, v);
            FASTMETA_PIN(y[j][v]);
          }
        }
        FASTMETA_UNROLL
        for (int i = 0; i < MR; i++) {
          FASTMETA_UNROLL
          for (int v = 0; v < NV; v++) {
            V x = tasks.load(a[i] + a_at, v);
            if (NR > 1) FASTMETA_PIN(x);
            FASTMETA_UNROLL
            for (int j = 0; j < NR; j++) acc[i][j][v] = S::fma(x, y[j][v], acc[i][j][v]);
          }
        }
      }
    }
    const T* const cin = d.cin ? d.cin + task + m0 * g.cin_m + n0 * g.cin_n : nullptr;
    T* const c = d.c + task + m0 * g.c_m + n0 * g.c_n;
    FASTMETA_UNROLL
    for (int i = 0; i < MR; i++) {
      FASTMETA_UNROLL
      for (int j = 0; j < NR; j++) {
        FASTMETA_UNROLL
        for (int v = 0; v < NV; v++) {
          const V start = cin ? tasks.load(cin + i * g.cin_m + j * g.cin_n, v) : V{};
          tasks.store(c + i * g.c_m + j * g.c_n, v, S::fma(alpha, acc[i][j][v], start));
        }
      }
    }
  }
}

template <class T>
using LaneTile = void (*)(const GemmArgs<T>&, const GemmData<T>&, int64_t m0, int64_t m1, int64_t n0, int64_t task, int tail);

template <class T>
struct LaneTable {
  LaneTile<T> fn[2][LaneTiles::columns + 1][LaneTiles::most_rows + 1] = {};      // of one vector: [whole][columns][rows]
  LaneTile<T> of_one[2][LaneTiles::vectors + 1][LaneTiles::most_rows + 1] = {};  // of one column: [whole][vectors][rows]

  constexpr LaneTable() {
    fill(typename FirstLanes<LaneTiles::columns>::type{});
    fill_of_one(typename FirstLanes<LaneTiles::vectors>::type{});
  }

 private:
  template <int... J>
  constexpr void fill(Lanes<J...>) { (rows<J + 1>(typename FirstLanes<LaneTiles::rows[J + 1]>::type{}), ...); }
  template <int... J>
  constexpr void fill_of_one(Lanes<J...>) { (rows_of_one<J + 1>(typename FirstLanes<LaneTiles::rows_of_one[J + 1]>::type{}), ...); }
  template <int NR, int... I>
  constexpr void rows(Lanes<I...>) {
    ((fn[0][NR][I + 1] = lane_tile<T, I + 1, NR, 1, false>, fn[1][NR][I + 1] = lane_tile<T, I + 1, NR, 1, true>), ...);
  }
  template <int NV, int... I>
  constexpr void rows_of_one(Lanes<I...>) {
    ((of_one[0][NV][I + 1] = lane_tile<T, I + 1, 1, NV, false>, of_one[1][NV][I + 1] = lane_tile<T, I + 1, 1, NV, true>), ...);
  }
};
template <class T>
constexpr LaneTable<T> lane_table{};

// Rows m0 .. m1 of all columns, of all tasks.
template <class T>
void lane_product(const GemmArgs<T>& g, const GemmData<T>& d, int64_t m0, int64_t m1, int64_t, int) {
  constexpr int width = Simd<T>::lanes;
  const int64_t vectors = (g.lanes + width - 1) / width;
  const int rest = int(g.lanes - (vectors - 1) * width);  // of the last
  even_blocks(0, vectors, g.n == 1 ? LaneTiles::vectors : 1, [&](uint32_t some, int64_t first, int64_t last) {
    for (int64_t v = first; v < last; v += some) {
      const int tail = v + some == vectors ? rest : width;
      if (g.n == 1) {
        even_blocks(m0, m1, LaneTiles::rows_of_one[some], [&](uint32_t rows, int64_t top, int64_t bottom) {
          lane_table<T>.of_one[tail == width][some][rows](g, d, top, bottom, 0, v * width, tail);
        });
        continue;
      }
      even_blocks(0, g.n, LaneTiles::columns, [&](uint32_t columns, int64_t left, int64_t right) {
        even_blocks(m0, m1, LaneTiles::rows[columns], [&](uint32_t rows, int64_t top, int64_t bottom) {
          for (int64_t n0 = left; n0 < right; n0 += columns) lane_table<T>.fn[tail == width][columns][rows](g, d, top, bottom, n0, v * width, tail);
        });
      });
    }
  });
}
