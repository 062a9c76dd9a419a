// Sums over the features of short rows without transposing any: a vector holds a piece, 16 bytes, of each of several rows of y, and
// each of them meets the same piece of a row of x.  What is left to add are the elements of a piece.
//
// Included INSIDE the target's namespace, after distance_panels.hpp.  A sum depends on its two rows alone.
#pragma once

// A few rows of y, in vectors; of a vector each row has so many parts of 16 bytes one after the other, a piece of its features.
struct PackedTile {
  int64_t row, rows, vectors, parts;  // the first row, rows that are there
  int64_t at;                         // where it begins among what is packed
};

template <class T>
struct Packed {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t L = S::lanes, part = 16 / int64_t(sizeof(T)), parts = L / part;  // elements of a part; parts of a vector
  static constexpr int rows = 4;  // of x at a time
  static constexpr int most = FASTMETA_LANES_BYTES == 64 ? 6 : FASTMETA_LANES_BYTES == 32 ? 3 : 2;  // vectors of y at a time: what fills the registers
  static constexpr int finer = FASTMETA_LANES_BYTES == 64 ? 2 : FASTMETA_LANES_BYTES == 32 ? 1 : 0;  // rows of 2, 4, .. parts, as many as fill a vector

  // f(tile) for all tiles: rows of one part, in tiles of nearly the same size, and what is left of long rows in longer pieces.
  template <class F>
  static FASTMETA_INLINE void tiles(int64_t y_rows, int64_t features, const F& f) {
    int64_t left = y_rows % parts, longer = 1;
    while (left > 0 && 2 * longer * left <= parts && 4 * longer * part < features) longer *= 2;
    if (longer == 1) left = 0;
    const int64_t vectors = (y_rows - left + parts - 1) / parts, n = (vectors + most - 1) / most, vector = (features + part - 1) / part * L;
    for (int64_t i = 0; i < n; i++) {
      const int64_t v = vectors * i / n, end = vectors * (i + 1) / n;
      f(PackedTile{v * parts, (end * parts < y_rows ? end * parts : y_rows) - v * parts, end - v, 1, v * vector});
    }
    if (left > 0) f(PackedTile{y_rows - left, left, 1, longer, vectors * vector});
  }

  // Rows of y, each times its scale if there are any; what fills vectors up is zeros.  to: packed_size() elements.
  static void pack(const T* y, int64_t y_row, int64_t y_rows, int64_t features, const T* scale, T* to) {
    tiles(y_rows, features, [&](const PackedTile& t) {
      const int64_t piece = t.parts * part, each = parts / t.parts, pieces = (features + piece - 1) / piece, step = t.vectors * L;
      for (int64_t v = 0; v < t.vectors; v++) {
        const int64_t row = t.row + v * each, there = t.rows - v * each < each ? t.rows - v * each : each;
        const T* const from = y + row * y_row;
        T* const first = to + t.at + v * L;
        int64_t k = 0;
        if (t.parts == 1 && there == each)
          for (; (k + 1) * piece <= features; k++) S::store(first + k * step, (V)sixteen_of_each<S::bytes>(from + k * piece, y_row));
        for (; k < pieces; k++)
          for (int64_t c = 0; c < each; c++)
            for (int64_t e = 0; e < piece; e++) first[k * step + c * piece + e] = c < there && k * piece + e < features ? from[c * y_row + k * piece + e] : T(0);
        if (!scale) continue;
        alignas(64) T by[L];
        for (int64_t c = 0; c < L; c++) by[c] = c / piece < there ? scale[row + c / piece] : T(0);
        for (k = 0; k < pieces; k++) S::store(first + k * step, S::load(first + k * step) * S::load(by));
      }
    });
  }

  // A row, each piece as often as a vector holds one.  to: whole pieces of a vector each.
  static void spread(const T* row, int64_t features, T* to) { pack(row, 0, parts, features, nullptr, to); }

  // What becomes of vectors of sums, one for each row of x, as many as a part has elements: their parts' sums, in the parts of
  // one vector.
  static FASTMETA_INLINE V sums(const V* v) {
    using Words = Turns<int32_t, S::bytes>;
    using Longs = Turns<int64_t, S::bytes>;
    using W = typename Words::V;
    using D = typename Longs::V;
    if constexpr (part == 4) {
      const V a = (V)Words::first((W)v[0], (W)v[1]) + (V)Words::second((W)v[0], (W)v[1]);
      const V b = (V)Words::first((W)v[2], (W)v[3]) + (V)Words::second((W)v[2], (W)v[3]);
      return (V)Longs::first((D)a, (D)b) + (V)Longs::second((D)a, (D)b);
    } else {
      return (V)Longs::first((D)v[0], (D)v[1]) + (V)Longs::second((D)v[0], (D)v[1]);
    }
  }
  // The sums of every two parts, and again up to a whole vector.
  template <int... I>
  static FASTMETA_INLINE V sum_parts(V v, Lanes<I...>) {
    return __builtin_shufflevector(v, v, (2 * (I / part) % parts * part + I % part)...) + __builtin_shufflevector(v, v, ((2 * (I / part) + 1) % parts * part + I % part)...);
  }
  static FASTMETA_INLINE V sum_parts(V v) { return sum_parts(v, typename FirstLanes<L>::type{}); }
  // The parts of a vector, to rows that are `apart`.
  static FASTMETA_INLINE void put(V v, T* to, int64_t apart) {
    FASTMETA_UNROLL
    for (int c = 0; c < parts; c++) __builtin_memcpy(to + c * apart, (const T*)&v + c * part, 16);
  }
  // The first n elements again and again.
  template <int N, int... I>
  static FASTMETA_INLINE V repeat(V v, Lanes<I...>) {
    return __builtin_shufflevector(v, v, (I % N)...);
  }
};

// Rows of x, a few at a time, against N vectors of packed rows of y, each a piece of Parts parts.  Of row i of x and those behind
// it, as many as a part has elements, it puts(i, v, sums) what vector v makes: in part c what its row c does.  What stands behind
// the last row of x are copies of it.  Where the metric is centred, the centre is taken off x: as it is, or spread for pieces of
// one part.
template <class T, template <class> class Metric, class Put, int N, int Parts>
__attribute__((noinline)) void packed_tile(const T* x, int64_t x_row, int64_t x_rows, const T* y, int64_t features, const Put& put, const T* centre) {
  using S = Simd<T>;
  using V = typename S::V;
  using P = Packed<T>;
  constexpr int64_t L = S::lanes, piece = P::part * Parts;
  constexpr int R = P::rows;
  const auto mask = S::mask(int(features % piece));
  const Put to = put;  // a copy, since the compiler must take a store to change anything it finds by a pointer
  for (int64_t i = 0; i < x_rows; i += R, x += R * x_row) {
    const T* row[R];
    V acc[N][R];
    FASTMETA_UNROLL
    for (int r = 0; r < R; r++) {
      row[r] = x + (i + r < x_rows ? r : x_rows - 1 - i) * x_row;
      FASTMETA_UNROLL
      for (int v = 0; v < N; v++) acc[v][r] = V{};
    }
    const T* at = y;
    auto step = [&](int64_t k, auto load) __attribute__((always_inline)) {
      V b[N];
      FASTMETA_UNROLL
      for (int v = 0; v < N; v++) {
        b[v] = S::load(at + v * L);
        FASTMETA_PIN(b[v]);
      }
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++) {
        V a = load(row[r] + k);
        if constexpr (Metric<T>::centred) a -= Parts == 1 ? S::load(centre + k * P::parts) : load(centre + k);
        FASTMETA_PIN(a);
        FASTMETA_UNROLL
        for (int v = 0; v < N; v++) acc[v][r] = Metric<T>::add(a, b[v], V{}, acc[v][r]);
      }
      at += N * L;
    };
    int64_t k = 0;
    for (; k + piece <= features; k += piece) step(k, [](const T* p) __attribute__((always_inline)) { return S::template splat_bytes<16 * Parts>(p); });
    if (k < features)
      step(k, [&](const T* p) __attribute__((always_inline)) { return P::template repeat<piece>(S::load(p, mask), typename FirstLanes<L>::type{}); });
    FASTMETA_UNROLL
    for (int v = 0; v < N; v++) {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r += P::part) {
        V sums = P::sums(acc[v] + r);
        FASTMETA_UNROLL
        for (int parts = 1; parts < Parts; parts *= 2) sums = P::sum_parts(sums);
        to(i + r, v, sums);
      }
    }
  }
}

template <class T, template <class> class Metric, class Put>
struct PackedTiles {
  using P = Packed<T>;
  void (*of[P::most + P::finer])(const T*, int64_t, int64_t, const T*, int64_t, const Put&, const T*);  // by vectors, less 1; of longer pieces
  template <int N = 1>
  constexpr void fill() {
    of[N - 1] = packed_tile<T, Metric, Put, N, 1>;
    if constexpr (N < P::most) fill<N + 1>();
    if constexpr (N <= P::finer) of[P::most + N - 1] = packed_tile<T, Metric, Put, 1, 1 << N>;
  }
  auto operator[](const PackedTile& t) const { return of[t.parts == 1 ? t.vectors - 1 : P::most + t.parts / 2 - 1]; }
};
template <class T, template <class> class Metric, class Put>
static constexpr PackedTiles<T, Metric, Put> kPackedTiles = [] {
  PackedTiles<T, Metric, Put> tiles{};
  tiles.fill();
  return tiles;
}();

// Rows of x against one tile of packed rows.
template <class T, template <class> class Metric, class Put>
inline void pass_by(const T* x, int64_t x_row, int64_t x_rows, const T* packed, const PackedTile& tile, int64_t features, const Put& put, const T* centre = nullptr) {
  kPackedTiles<T, Metric, Put>[tile](x, x_row, x_rows, packed + tile.at, features, put, centre);
}
