// C [M, N] = after(alpha * sum_p A_p B_p + CIN) for small and middling matrices of any strides.
//
// Included INSIDE the target's namespace, after kernels.hpp, simd.hpp (see there) and vmath.hpp and, at file scope, <cstdlib>.
//
// Two kernels do the arithmetic (and `outer`, the chain of one or two k):
//   chain  vectors along n; one accumulator per element of C, a plain chain of FMAs, products in order, k ascending
//          (two of them, of even and odd k, for the last columns where a vector takes two k).  Needs B with unit stride
//          along n: a B that has not is packed (transposed) panel by panel.
//   dot    vectors along k, for B with unit stride along k: no packing, but lane sums at the end of each element.
// Which of them runs depends on N, K, the strides and the number of rows of the whole product, never on M, and within
// each the bits of an element do not depend on the tile that computes it.  So a caller may split M as it likes and gets
// the same bits.
#pragma once

#include "chain.hpp"
#include "dot.hpp"
#include "transpose.hpp"

// ---------------------------------------------------------------------------------------------------------------
// What stays in which cache: chosen on a core with 48 KB and 2 MB, mild enough for 32 KB and 512 KB.
constexpr int64_t kLargeBytes = 128 << 10;  // from here on B is packed, if there are rows enough to pay for it
constexpr int64_t kBlockBytes = 256 << 10;  // a block of rows of A (chain) or of columns of B (dot)
constexpr int64_t kChunkBytes = 4 << 20;    // packed B
constexpr int64_t kPanelBytes = 18 << 10;   // a panel of B that several tiles of few rows read, one after the other

// Scratch for packed panels: one growing buffer per thread.
struct Scratch {
  void* data = nullptr;
  size_t size = 0;
  ~Scratch() { free(data); }
  // nullptr if there is no memory
  void* reserve(size_t bytes) {
    if (bytes > size) {
      free(data);
      size = bytes < 65536 ? 65536 : bytes;
      data = aligned_alloc(64, (size + 63) / 64 * 64);
      if (!data) size = 0;
    }
    return data;
  }
};

// Width of the panels, in vectors, for M rows by a given number of vectors: least cycles per k, by what the ports
// (2 FMAs and 2 loads a cycle) and the latency of an FMA allow, over the full and the remaining tiles.
struct Widths {
  static constexpr int rows = 24, vectors = 16;
  uint8_t width[rows + 1][vectors + 1] = {};

  constexpr Widths() {
    for (int m = 1; m <= rows; m++)
      for (int v = 1; v <= vectors; v++) {
        int best = 1 << 30;
        for (int w = 1; w <= Tiles<float>::max_nv && w <= v; w++) {
          const int panels = (v + w - 1) / w, wide = v % panels, narrow = v / panels;
          const int cost = wide * panel(m, narrow + 1) + (panels - wide) * panel(m, narrow);
          if (cost <= best) {
            best = cost;
            width[m][v] = uint8_t(w);
          }
        }
      }
  }

 private:
  static constexpr int larger(int a, int b) { return a > b ? a : b; }
  // In sixteenths of a cycle.  Fewer than 12 chains leave gaps, fewer than 8 cannot hide an FMA's latency of 4.
  static constexpr int tile(int r, int w) {
    return larger(larger(r * w < 12 ? 17 * r * w / 2 : 8 * r * w, 8 * (r + w)), 60) + 8;
  }
  static constexpr int panel(int m, int w) {
    if (w > Tiles<float>::max_nv) return 1 << 24;
    const int blocks = (m + Tiles<float>::max_rows[w] - 1) / Tiles<float>::max_rows[w];
    const int tall = m % blocks, low = m / blocks;
    const int calls = 10 * (1 + (tall > 0));
    return tall * tile(low + 1, w) + (blocks - tall) * tile(low, w) + calls;
  }
};
constexpr Widths widths{};

// Rows m0 .. m1 in blocks of `most` at most that differ by one row: call(rows of a block, first, last).
template <class Call>
FASTMETA_INLINE void even_blocks(int64_t m0, int64_t m1, uint32_t most, Call call) {
  const uint32_t rows = uint32_t(m1 - m0);
  uint32_t blocks = 1, low = rows, tall = 0;
  if (rows > most) {
    blocks = (rows + most - 1) / most;
    low = rows / blocks;
    tall = rows % blocks;
  }
  const int64_t middle = m0 + tall * (low + 1);
  if (tall) call(low + 1, m0, middle);
  call(low, middle, m1);
}

// One panel of w vectors.
template <class T, class Call>
FASTMETA_INLINE void chain_rows(int64_t m0, int64_t m1, int64_t n0, int w, int tail, Call call) {
  even_blocks(m0, m1, Tiles<T>::max_rows[w], [&](uint32_t rows, int64_t from, int64_t to) {
    call(tiles<T>.fn[tail == Simd<T>::lanes][w][rows], from, to, n0, tail);
  });
}

// What may share the vectors of the last columns.
enum class Twos { kNone, kOfK, kOfRows };

template <class T, class Call>
FASTMETA_INLINE void chain_twos(Twos twos, int64_t m0, int64_t m1, int64_t n0, int tail, Call call) {
  if (twos == Twos::kOfK)
    return even_blocks(m0, m1, Tiles<T>::max_two_k, [&](uint32_t rows, int64_t from, int64_t to) {
      call(tiles<T>.two_k[rows], from, to, n0, tail);
    });
  const int64_t pairs = (m1 - m0) / 2;
  if (pairs)
    even_blocks(0, pairs, Tiles<T>::max_two_rows, [&](uint32_t rows, int64_t from, int64_t to) {
      call(tiles<T>.two_rows[rows], m0 + 2 * from, m0 + 2 * to, n0, tail);
    });
  if (m0 + 2 * pairs < m1) call(tiles<T>.fn[false][1][1], m1 - 1, m1, n0, tail);
}

// Where there is enough to share.  As with the kernels, M must not decide where bits depend on it.
template <class T>
FASTMETA_INLINE Twos twos_of(const GemmArgs<T>& g, int64_t k) {
  constexpr int L = Simd<T>::lanes;
  const int64_t tail = g.n % L;
  if (!Simd<T>::has_splat_pair || tail == 0 || tail > L / 2 || k * g.n >= kLargeBytes / int64_t(sizeof(T))) return Twos::kNone;
  bool of_k = true, of_rows = true;
  for (int p = 0; p < g.n_products; p++) {
    const Product& f = g.products[p];
    of_k &= f.a_k == 1 && f.k >= 16;
    of_rows &= f.a_m == 1;
  }
  if (of_rows) return g.m * k < 128 ? Twos::kNone : Twos::kOfRows;  // the same bits
  return of_k ? Twos::kOfK : Twos::kNone;
}

// Runs each tile as it is found.
template <class T>
FASTMETA_INLINE auto run_tile_of(const GemmArgs<T>& g, const GemmData<T>& d) {
  return [&g, &d](TileOfC<T> tile, int64_t m0, int64_t m1, int64_t n0, int tail) { tile(g, d, m0, m1, n0, tail); };
}

// Packs columns n0 .. n0 + width of B into rows of `padded` elements.
template <class T>
inline void pack_panel(const Product& f, const T* all, int64_t n0, int64_t width, T* to, int64_t padded) {
  const T* b = all + n0 * f.b_n;
  if (f.b_n == 1)
    for (int64_t k = 0; k < f.k; k++) __builtin_memcpy(to + k * padded, b + k * f.b_k, width * sizeof(T));
  else if (f.b_k == 1)
    transpose(b, f.b_n, to, padded, width, f.k);
  else
    for (int64_t k = 0; k < f.k; k++)
      for (int64_t n = 0; n < width; n++) to[k * padded + n] = b[k * f.b_k + n * f.b_n];
}

// The meaning, and the way out where there is no memory to pack: the same chain, one element at a time.
template <class T>
inline void gemm_plain(const GemmArgs<T>& g, const GemmData<T>& d) {
  for (int64_t m = 0; m < g.m; m++)
    for (int64_t n = 0; n < g.n; n++) {
      T sum = 0;
      for (int p = 0; p < g.n_products; p++) {
        const Product& f = g.products[p];
        for (int64_t k = 0; k < f.k; k++)
          sum = Simd<T>::fma_scalar(d.factors[2 * p][m * f.a_m + k * f.a_k], d.factors[2 * p + 1][k * f.b_k + n * f.b_n], sum);
      }
      const T* cin = d.cin + m * g.cin_m + n * g.cin_n;
      d.c[m * g.c_m + n] = after(g, d, d.cin ? Simd<T>::fma_scalar(g.alpha, sum, *cin) : g.alpha * sum, m, n);
    }
}

// Rows m0 .. m1 of A, row by row, with k contiguous and no row at a multiple of a page from another.
template <class T>
inline T* pack_rows(const Product& f, const T* all, int64_t m0, int64_t m1, T* to, Product& packed, const T*& packed_a) {
  const T* a = all + m0 * f.a_m;
  const int64_t padded = f.k + (f.k * sizeof(T) % 1024 ? 0 : 64 / sizeof(T));
  if (f.a_m == 1 && f.a_k != 1)
    transpose(a, f.a_k, to, padded, f.k, m1 - m0);
  else if (f.a_k == 1)
    for (int64_t m = 0; m < m1 - m0; m++) __builtin_memcpy(to + m * padded, a + m * f.a_m, f.k * sizeof(T));
  else
    for (int64_t m = 0; m < m1 - m0; m++)
      for (int64_t k = 0; k < f.k; k++) to[m * padded + k] = a[m * f.a_m + k * f.a_k];
  packed_a = to - m0 * padded;
  packed.a_m = padded;
  packed.a_k = 1;
  return to + (m1 - m0) * padded;
}

// The panels of N columns: `count` of them, `narrow` vectors wide, the first `wide` of them one vector more.
template <class T>
struct Panels {
  static constexpr int L = Simd<T>::lanes;
  int64_t n, count, narrow, wide;

  FASTMETA_INLINE Panels(int64_t m, int64_t n, int64_t k) : n(n) {
    const int64_t vectors = (n + L - 1) / L;
    if (vectors == 0) {
      count = narrow = wide = 0;
      return;
    }
    uint32_t most = widths.width[m < Widths::rows ? m : Widths::rows]
                                [vectors < Widths::vectors ? vectors : Widths::vectors];
    // 16 registers hold few rows of wide panels.  A row of a panel may begin inside of a cache line: one vector more.
    if (FASTMETA_LANES_BYTES < 64)
      while (most > 2 && (most + 1) * k * FASTMETA_LANES_BYTES > kPanelBytes) most--;
    count = vectors <= most ? 1 : (uint32_t(vectors) + most - 1) / most;
    narrow = count == 1 ? vectors : uint32_t(vectors) / uint32_t(count);
    wide = vectors - narrow * count;
  }
  FASTMETA_INLINE int vectors(int64_t i) const { return int(narrow + (i < wide)); }
  FASTMETA_INLINE int64_t first(int64_t i) const { return (narrow * i + (i < wide ? i : wide)) * L; }
  FASTMETA_INLINE int tail(int64_t i) const { return i + 1 < count ? L : int(n - first(i)) - (vectors(i) - 1) * L; }
};

// What is packed at a time: `chunk` panels of B, as many as kChunkBytes hold; with `large` a block of rows of A too, which
// stays in the second-level cache while the panels pass by.
template <class T>
struct Packing {
  int64_t block, panel_size, chunk, bytes;
  Packing(const GemmArgs<T>& g, const Panels<T>& panels, int64_t k, bool large) {
    constexpr int64_t L = Simd<T>::lanes, item = sizeof(T);
    const int64_t most = kBlockBytes / item / (k + 1);
    block = !large || g.m <= most ? g.m : most < 48 ? 48 : most;
    panel_size = (panels.narrow + 1) * L * k + L;
    // What all rows of A pass by at once is multiplied as soon as it is packed, still in the first-level cache.
    chunk = large ? kChunkBytes / item / panel_size + 1 : 1;
    if (chunk > panels.count) chunk = panels.count;
    bytes = item * (chunk * panel_size + (large ? block * (k + g.n_products * 64 / item) : 0));
  }
};

template <class T>
inline void chain_packed(const GemmArgs<T>& g, const GemmData<T>& d, const Panels<T>& panels, int64_t k, bool large) {
  constexpr int L = Simd<T>::lanes;
  static thread_local Scratch scratch;
  const auto [block, panel_size, chunk, bytes] = Packing<T>(g, panels, k, large);
  T* const packed_b = (T*)scratch.reserve(size_t(bytes));
  if (!packed_b) return gemm_plain(g, d);
  T* const packed_a = packed_b + chunk * panel_size;
  GemmArgs<T> packed = g;
  GemmData<T> at = d;
  for (int64_t first = 0; first < panels.count; first += chunk) {
    const int64_t end = first + chunk < panels.count ? first + chunk : panels.count;
    T* to = packed_b;
    for (int64_t i = first; i < end; i++) {
      const int nv = panels.vectors(i);
      for (int p = 0; p < g.n_products; p++) {
        pack_panel(g.products[p], d.factors[2 * p + 1], panels.first(i), (nv - 1) * L + panels.tail(i), to, nv * L);
        to += g.products[p].k * nv * L;
      }
    }
    for (int64_t m0 = 0; m0 < g.m; m0 += block) {
      const int64_t m1 = m0 + block < g.m ? m0 + block : g.m;
      to = packed_a;
      if (large)
        for (int p = 0; p < g.n_products; p++) to = pack_rows(g.products[p], d.factors[2 * p], m0, m1, to, packed.products[p], at.factors[2 * p]);
      const T* b = packed_b;
      for (int64_t i = first; i < end; i++) {
        const int nv = panels.vectors(i);
        for (int p = 0; p < g.n_products; p++) {
          at.factors[2 * p + 1] = b - panels.first(i);
          packed.products[p].b_k = nv * L;
          b += g.products[p].k * nv * L;
        }
        chain_rows<T>(m0, m1, panels.first(i), nv, panels.tail(i), run_tile_of(packed, at));
      }
    }
  }
}

// B has unit stride along n, and the K of all products together is `terms`.
template <class T, class Call>
inline void outer_tiles(const GemmArgs<T>& g, int64_t terms, Call call) {
  constexpr int64_t width = Tiles<T>::max_nv * Simd<T>::lanes;
  for (int64_t n = 0; n < g.n; n += width) {
    const int64_t columns = g.n - n < width ? g.n - n : width, vectors = (columns + Simd<T>::lanes - 1) / Simd<T>::lanes;
    const int tail = int(columns - (vectors - 1) * Simd<T>::lanes);
    call(tiles<T>.outer_fn[tail == Simd<T>::lanes][terms][vectors], 0, g.m, n, tail);
  }
}

// B has unit stride along n.
template <class T, class Call>
inline void chain_tiles(const GemmArgs<T>& g, Twos twos, int64_t k, Call call) {
  if (k >= 1 && k <= Tiles<T>::max_terms) return outer_tiles(g, k, call);
  const int tail = twos == Twos::kNone ? 0 : int(g.n % Simd<T>::lanes);
  const Panels<T> panels(g.m, g.n - tail, k);
  // Blocks of rows whose part of A stays in the cache while the panels pass by.
  const int64_t block = panels.count + (tail > 0) <= 1 ? g.m : kBlockBytes / int64_t(sizeof(T)) / (k + 1) + 32;
  for (int64_t m0 = 0; m0 < g.m; m0 += block) {
    const int64_t m1 = m0 + block < g.m ? m0 + block : g.m;
    for (int64_t i = 0; i < panels.count; i++) chain_rows<T>(m0, m1, panels.first(i), panels.vectors(i), panels.tail(i), call);
    if (tail) chain_twos<T>(twos, m0, m1, g.n - tail, tail, call);
  }
}

// A and B have unit stride along k.
template <class T, class Call>
inline void dot_tiles(const GemmArgs<T>& g, int64_t k, Call call) {
  // Where B is large: blocks of it that stay in the second-level cache, for a dozen rows of A at a time.
  const int64_t most = kBlockBytes / int64_t(sizeof(T)) / (k + 1);
  if (g.n <= most || g.m <= 12) return dot_columns<T>(0, g.m, 0, g.n, call);
  const int64_t step = most < 32 ? 32 : most / 4 * 4;
  for (int64_t n = 0; n < g.n; n += step)
    for (int64_t m = 0; m < g.m; m += 12)
      dot_columns<T>(m, m + 12 < g.m ? m + 12 : g.m, n, n + step < g.n ? n + step : g.n, call);
}

// ---------------------------------------------------------------------------------------------------------------

// C^T = B^T A^T
template <class T>
inline GemmArgs<T> swap_roles(const GemmArgs<T>& g) {
  GemmArgs<T> out{g.n, g.m, g.n_products, g.alpha, g.cin_n, g.cin_m, g.c_n, g.c_m, g.after, g.gate_n, g.gate_m};
  for (int p = 0; p < g.n_products; p++) {
    const Product& f = g.products[p];
    out.products[p] = {f.k, f.b_n, f.b_k, f.a_k, f.a_m};
  }
  return out;
}
template <class T>
inline GemmData<T> swap_roles(const GemmData<T>& d) {
  GemmData<T> out = d;
  for (int k = 0; k < 2 * kMaxProducts; k++) out.factors[k] = d.factors[k ^ 1];
  return out;
}

// With unit strides along k: do the lane sums of `dot` cost less than transposing B and the lanes that `chain` leaves
// empty?  In half cycles; what a sum and a transposed element take was fitted to measurements with AVX2 and AVX-512.
template <class T>
inline bool dot_pays(int64_t rows, int64_t n, int64_t k) {
  constexpr int64_t L = Simd<T>::lanes, lane_sum = 1 + 3 * L / 8;
  return rows * n * ((k + L - 1) / L + lane_sum) < rows * ((n + L - 1) / L) * k + k * n / 2;
}

// How a product is computed.
template <class T>
struct Way {
  enum { kChain, kDot, kPacked } kernel = kPacked;
  Twos twos = Twos::kNone;
  bool swapped = false, large = false;
  int64_t k = 0;  // of all products

  FASTMETA_INLINE explicit Way(const GemmArgs<T>& g) {
    bool b_rows = true, dots = true, a_columns = true;
    for (int p = 0; p < g.n_products; p++) {
      const Product& f = g.products[p];
      b_rows &= f.b_n == 1;
      a_columns &= f.a_m == 1;
      dots &= f.a_k == 1 && f.b_k == 1;
      k += f.k;
    }
    swapped = g.n == 1 && (dots || (a_columns && g.c_m == 1));
    if (swapped) kernel = dots ? kDot : kChain;
    else if (b_rows && g.n > 1) kernel = kChain;
    else if (dots && dot_pays<T>(g.rows ? g.rows : g.m, g.n, k)) kernel = kDot;
    large = !swapped && kernel != kDot && g.m >= 32 && k * g.n >= kLargeBytes / int64_t(sizeof(T));
    if (large) kernel = kPacked;
    if (kernel == kChain && !swapped) twos = twos_of(g, k);
  }
};

template <class T>
inline void gemm(const GemmArgs<T>& given, const GemmData<T>& data) {
  if (given.m <= 0 || given.n <= 0) return;
  const Way<T> way(given);
  auto run = [&way](const GemmArgs<T>& g, const GemmData<T>& d) {
    if (way.kernel == way.kChain) chain_tiles(g, way.twos, way.k, run_tile_of(g, d));
    else if (way.kernel == way.kDot) dot_tiles(g, way.k, run_tile_of(g, d));
    else chain_packed(g, d, Panels<T>(g.m, g.n, way.k), way.k, way.large);
  };
  if (way.swapped) run(swap_roles(given), swap_roles(data));
  else run(given, data);
}

#include "lane_tiles.hpp"

template <class T>
inline GemmTiles<T> gemm_tiles(const GemmArgs<T>& given) {
  GemmTiles<T> found{};
  if (given.m <= 0 || given.n <= 0) return found;
  if (given.lanes > 1) {  // long columns: tiles have more rows than columns
    found.swapped = given.m < given.n;
    found.tile[0] = {lane_product<T>, 0, found.swapped ? given.n : given.m, 0, 0};
    found.count = 1;
    return found;
  }
  const Way<T> way(given);
  const GemmArgs<T> g = way.swapped ? swap_roles(given) : given;
  int64_t count = 0;
  auto note = [&](TileOfC<T> tile, int64_t m0, int64_t m1, int64_t n0, int tail) {
    if (count < found.most) found.tile[count] = {tile, m0, m1, n0, tail};
    count++;
  };
  if (way.kernel == way.kChain) chain_tiles(g, way.twos, way.k, note);
  else if (way.kernel == way.kDot) dot_tiles(g, way.k, note);
  else found.packed = Packing<T>(g, Panels<T>(g.m, g.n, way.k), way.k, way.large).bytes;
  found.swapped = way.swapped;
  found.count = count <= found.most ? int(count) : 0;
  return found;
}
