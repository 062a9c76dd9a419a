// Sums over the features of short rows, whose lane sums would cost as much as their products: a vector holds a piece, 16 bytes,
// of each of several rows of y, and each of them meets the same piece of a row of x.  No row has to be transposed, no lane
// stays empty, and what is left to add are the elements of a piece.
//
// Included INSIDE the target's namespace, after transpose.hpp and distance_tiles.hpp.  A sum depends on its two rows alone.
#pragma once

template <class T>
struct ProductOf {
  using V = typename Simd<T>::V;
  static FASTMETA_INLINE V add(V x, V y, V, V sum) { return Simd<T>::fma(x, y, sum); }
};

template <class T>
struct Packed {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t L = S::lanes, piece = 16 / int64_t(sizeof(T)), each = L / piece;  // elements of a vector, of a piece; rows of y in a vector
  static constexpr int rows = 4;  // of x at a time
  static constexpr int most = FASTMETA_LANES_BYTES == 64 ? 6 : FASTMETA_LANES_BYTES == 32 ? 3 : 2;  // vectors of y at a time: what fills the registers

  static constexpr int64_t padded(int64_t y_rows) { return (y_rows + each - 1) / each * each; }
  static constexpr int64_t size(int64_t y_rows, int64_t features) { return padded(y_rows) * ((features + piece - 1) / piece * piece); }

  // f(first vector, vectors) for all tiles of rows of y, of nearly the same size.
  template <class F>
  static FASTMETA_INLINE void tiles(int64_t y_rows, const F& f) {
    const int64_t vectors = padded(y_rows) / each, n = (vectors + most - 1) / most;
    for (int64_t i = 0; i < n; i++) f(vectors * i / n, vectors * (i + 1) / n - vectors * i / n);
  }

  // The first n elements of a piece, and zeros.
  static FASTMETA_INLINE void copy_some(const T* from, int64_t n, T* to) {
    for (int64_t k = 0; k < piece; k++) to[k] = k < n ? from[k] : T(0);
  }

  // Rows of y, each times its scale if there are any; and zeros up to whole vectors.
  static void pack(const T* y, int64_t y_row, int64_t y_rows, int64_t features, const T* scale, T* to) {
    const int64_t whole = features / piece, pieces = (features + piece - 1) / piece;
    tiles(y_rows, [&](int64_t first, int64_t vectors) {
      for (int64_t v = 0; v < vectors; v++) {
        const int64_t row = (first + v) * each, step = vectors * L;
        const T* const from = y + row * y_row;
        T* const tile = to + first * pieces * L + v * L;
        int64_t k = 0;
        if (row + each <= y_rows)
          for (; k < whole; k++) S::store(tile + k * step, (V)sixteen_of_each<S::bytes>(from + k * piece, y_row));
        for (; k < pieces; k++)
          for (int64_t c = 0; c < each; c++) copy_some(from + c * y_row + k * piece, row + c < y_rows ? features - k * piece : 0, tile + k * step + c * piece);
        if (!scale) continue;
        alignas(64) T by[L];
        for (int64_t c = 0; c < L; c++) by[c] = row + c / piece < y_rows ? scale[row + c / piece] : T(0);
        for (k = 0; k < pieces; k++) S::store(tile + k * step, S::load(tile + k * step) * S::load(by));
      }
    });
  }

  // The sums of the pieces of vectors, one for each row of x, as many as a piece has elements: in the parts of one vector.
  static FASTMETA_INLINE V sums(const V* v) {
    using Words = Turns<int32_t, S::bytes>;
    using Longs = Turns<int64_t, S::bytes>;
    using W = typename Words::V;
    using D = typename Longs::V;
    if constexpr (piece == 4) {
      const V a = (V)Words::first((W)v[0], (W)v[1]) + (V)Words::second((W)v[0], (W)v[1]);
      const V b = (V)Words::first((W)v[2], (W)v[3]) + (V)Words::second((W)v[2], (W)v[3]);
      return (V)Longs::first((D)a, (D)b) + (V)Longs::second((D)a, (D)b);
    } else {
      return (V)Longs::first((D)v[0], (D)v[1]) + (V)Longs::second((D)v[0], (D)v[1]);
    }
  }
  // Such a vector row of x by row of x.
  template <int... I>
  static FASTMETA_INLINE V turned(V v, Lanes<I...>) {
    return __builtin_shufflevector(v, v, (I % each * piece + I / each)...);
  }
  static FASTMETA_INLINE V turned(V v) { return turned(v, typename FirstLanes<L>::type{}); }
};

// Rows of x, a few at a time, against N vectors of packed rows of y.  Of row i and those behind it, as many as a piece has
// elements, and of vector v it puts(i, v, sums), which has the sums of the vector's rows one after the other; what stands
// behind the last row of x are copies of it.
template <class T, template <class> class Metric, class Put, int N>
__attribute__((noinline)) void packed_tile(const T* x, int64_t x_row, int64_t x_rows, const T* y, int64_t features, const Put& put) {
  using S = Simd<T>;
  using V = typename S::V;
  using P = Packed<T>;
  constexpr int64_t L = S::lanes, piece = P::piece;
  constexpr int R = P::rows;
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
    auto step = [&](auto load) __attribute__((always_inline)) {
      V b[N];
      FASTMETA_UNROLL
      for (int v = 0; v < N; v++) {
        b[v] = S::load(at + v * L);
        FASTMETA_PIN(b[v]);
      }
      FASTMETA_UNROLL
      for (int r = 0; r < R; r++) {
        V a = load(row[r]);
        FASTMETA_PIN(a);
        FASTMETA_UNROLL
        for (int v = 0; v < N; v++) acc[v][r] = Metric<T>::add(a, b[v], V{}, acc[v][r]);
      }
      at += N * L;
    };
    int64_t k = 0;
    for (; k + piece <= features; k += piece) step([&](const T* p) __attribute__((always_inline)) { return S::splat_16(p + k); });
    if (k < features)
      step([&](const T* p) __attribute__((always_inline)) {
        T some[piece];
        P::copy_some(p + k, features - k, some);
        return S::splat_16(some);
      });
    FASTMETA_UNROLL
    for (int v = 0; v < N; v++) {
      FASTMETA_UNROLL
      for (int r = 0; r < R; r += piece) to(i + r, v, P::sums(acc[v] + r));
    }
  }
}

template <class T, template <class> class Metric, class Put>
struct PackedTiles {
  void (*of[Packed<T>::most])(const T*, int64_t, int64_t, const T*, int64_t, const Put&);  // by vectors, less 1
  template <int N = 1>
  constexpr void fill() {
    of[N - 1] = packed_tile<T, Metric, Put, N>;
    if constexpr (N < Packed<T>::most) fill<N + 1>();
  }
};
template <class T, template <class> class Metric, class Put>
static constexpr PackedTiles<T, Metric, Put> kPackedTiles = [] {
  PackedTiles<T, Metric, Put> tiles{};
  tiles.fill();
  return tiles;
}();

// The same against all packed rows, put_of(first vector) for each tile of them.
template <class T, template <class> class Metric, class PutOf>
inline void packed_rows(const T* x, int64_t x_row, int64_t x_rows, const T* packed, int64_t y_rows, int64_t features, const PutOf& put_of) {
  using P = Packed<T>;
  const int64_t vector = P::size(P::each, features);
  P::tiles(y_rows, [&](int64_t first, int64_t vectors) {
    kPackedTiles<T, Metric, decltype(put_of(first))>.of[vectors - 1](x, x_row, x_rows, packed + first * vector, features, put_of(first));
  });
}
