// The kernels that run on tiles in the first-level cache: micro-ops, casts, reductions, transposes.
//
// Included inside a target's namespace after vmath.hpp.  Nothing is read outside the arguments' columns or written
// outside dst's.  The end of a row that is no whole number of vectors is done by a vector that ends with the row and
// overlaps its neighbour; its arguments are loaded before anything is stored, so that dst may be an argument.
#pragma once

#include "transpose.hpp"

// ---- pieces of fewer than one vector: n elements, 0 < n < lanes.  Lanes beyond hold 1 or elements of the piece again
// (load_repeating: surely the latter).

template <class T> struct Piece {
  using S = Simd<T>;
  using V = typename S::V;
#if FASTMETA_LANES_BYTES == 64
  static FASTMETA_INLINE V load(const T* p, int n, V beyond) {
    if constexpr (sizeof(T) == 4) return (V)_mm512_mask_loadu_ps((__m512)beyond, (__mmask16)S::mask(n), p);
    else return (V)_mm512_mask_loadu_pd((__m512d)beyond, (__mmask8)S::mask(n), p);
  }
  static FASTMETA_INLINE V load(const T* p, int n) { return load(p, n, S::splat(T(1))); }
  static FASTMETA_INLINE V load_repeating(const T* p, int n) { return load(p, n, S::splat(*p)); }
  static FASTMETA_INLINE void store(T* p, V v, int n) { S::store(p, v, S::mask(n)); }
#else
  // As two halves, or two words of 8 bytes, that may overlap; or one element.
  typedef double Words __attribute__((vector_size(FASTMETA_LANES_BYTES)));
  static constexpr int word = 8 / int(sizeof(T));
#if FASTMETA_LANES_BYTES == 32
  typedef double Half __attribute__((vector_size(16)));
  static constexpr int half = 16 / int(sizeof(T));
#endif
  static FASTMETA_INLINE V load(const T* p, int n) {
#if FASTMETA_LANES_BYTES == 32
    if (n >= half) {
      Half a, b;
      __builtin_memcpy(&a, p, 16);
      __builtin_memcpy(&b, p + n - half, 16);
      return (V)__builtin_shufflevector(a, b, 0, 1, 2, 3);
    }
#endif
    if (sizeof(T) == 4 && n >= word) {
      double a, b;
      __builtin_memcpy(&a, p, 8);
      __builtin_memcpy(&b, p + n - word, 8);
#if FASTMETA_LANES_BYTES == 32
      return (V)Words{a, b, a, b};
#else
      return (V)Words{a, b};
#endif
    }
    return S::splat(*p);
  }
  static FASTMETA_INLINE V load_repeating(const T* p, int n) { return load(p, n); }
  static FASTMETA_INLINE void store(T* p, V v, int n) {
    const Words w = (Words)v;
#if FASTMETA_LANES_BYTES == 32
    if (n >= half) {
      const Half a = __builtin_shufflevector(w, w, 0, 1), b = __builtin_shufflevector(w, w, 2, 3);
      __builtin_memcpy(p, &a, 16);
      __builtin_memcpy(p + n - half, &b, 16);
      return;
    }
#endif
    if (sizeof(T) == 4 && n >= word) {
      const double a = w[0], b = w[1];
      __builtin_memcpy(p, &a, 8);
      __builtin_memcpy(p + n - word, &b, 8);
      return;
    }
    *p = v[0];
  }
#endif
};

// ---- micro-ops

// One row: bit i of Variant set means argument i is one value.
template <class Op, class T, int Variant> struct TileRow {
  using S = Simd<T>;
  using V = typename S::V;
  static constexpr int64_t L = S::lanes;
  const T *x, *y, *z;
  V sx, sy, sz;

  FASTMETA_INLINE TileRow(const T* x, const T* y, const T* z) : x(x), y(y), z(z) {
    if constexpr (Variant & 1) sx = S::splat(*x);
    if constexpr (Variant & 2) sy = S::splat(*y);
    if constexpr (Variant & 4) sz = S::splat(*z);
  }
  static FASTMETA_INLINE V apply(V x, V y, V z) {
    if constexpr (Op::arity == 1) return Op::template apply<V>(x);
    else if constexpr (Op::arity == 2) return Op::template apply<V>(x, y);
    else return Op::template apply<V>(x, y, z);
  }
  FASTMETA_INLINE V load_x(int64_t i) const { if constexpr (Variant & 1) return sx; else return S::load(x + i); }
  FASTMETA_INLINE V load_y(int64_t i) const {
    if constexpr (Op::arity < 2) return V{};
    else if constexpr (Variant & 2) return sy;
    else return S::load(y + i);
  }
  FASTMETA_INLINE V load_z(int64_t i) const {
    if constexpr (Op::arity < 3) return V{};
    else if constexpr (Variant & 4) return sz;
    else return S::load(z + i);
  }
  FASTMETA_INLINE V at(int64_t i) const { return apply(load_x(i), load_y(i), load_z(i)); }
  FASTMETA_INLINE V piece_x(int n) const { if constexpr (Variant & 1) return sx; else return Piece<T>::load(x, n); }
  FASTMETA_INLINE V piece_y(int n) const {
    if constexpr (Op::arity < 2) return V{};
    else if constexpr (Variant & 2) return sy;
    else return Piece<T>::load(y, n);
  }
  FASTMETA_INLINE V piece_z(int n) const {
    if constexpr (Op::arity < 3) return V{};
    else if constexpr (Variant & 4) return sz;
    else return Piece<T>::load(z, n);
  }

  FASTMETA_INLINE void run(T* d, int64_t n) const {
    if constexpr (Op::heavy) {  // one copy of the body
      const bool small = n < L;
      V ex{}, ey{}, ez{};
      if (small) ex = piece_x(int(n)), ey = piece_y(int(n)), ez = piece_z(int(n));
      else ex = load_x(n - L), ey = load_y(n - L), ez = load_z(n - L);
      for (int64_t i = 0; i < n; i += L) {
        const bool whole = i + L <= n;
        V vx = ex, vy = ey, vz = ez;
        if (whole) vx = load_x(i), vy = load_y(i), vz = load_z(i);
        const V v = apply(vx, vy, vz);
        if (whole) S::store(d + i, v);
        else if (small) Piece<T>::store(d, v, int(n));
        else S::store(d + n - L, v);
      }
    } else {
      if (n < L) {
        Piece<T>::store(d, apply(piece_x(int(n)), piece_y(int(n)), piece_z(int(n))), int(n));
        return;
      }
      V e{};
      if (n % L != 0) e = at(n - L);
      int64_t i = 0;
      for (; i + 4 * L <= n; i += 4 * L) {
        const V a = at(i), b = at(i + L), c = at(i + 2 * L), f = at(i + 3 * L);
        S::store(d + i, a);
        S::store(d + i + L, b);
        S::store(d + i + 2 * L, c);
        S::store(d + i + 3 * L, f);
      }
      for (; i + L <= n; i += L) S::store(d + i, at(i));
      if (i < n) S::store(d + n - L, e);
    }
  }
};

template <class Op> constexpr bool has_variant(int v) {
  return v < (1 << Op::arity) && (v == 0 || v != (1 << Op::arity) - 1);
}

template <class Op, class T, int Variant> void tile(const TileArgs& a);

// A column whose values lie one after another is a row.
template <class Op, class T> TileFn as_row(TileArgs& a) {
  const int64_t rows[3] = {a.x_row, a.y_row, a.z_row};
  int v = 0;
  if (a.dst_row != 1) return nullptr;
  for (int i = 0; i < Op::arity; ++i) {
    if (rows[i] != 0 && rows[i] != 1) return nullptr;
    v |= int(rows[i] == 0) << i;
  }
  a.cols = a.rows;
  a.rows = 1;
  static constexpr auto table = [] {
    struct { TileFn fn[kVariants]; } t{};
    t.fn[0] = tile<Op, T, 0>;
    if constexpr (has_variant<Op>(1)) t.fn[1] = tile<Op, T, 1>;
    if constexpr (has_variant<Op>(2)) t.fn[2] = tile<Op, T, 2>;
    if constexpr (has_variant<Op>(3)) t.fn[3] = tile<Op, T, 3>;
    if constexpr (has_variant<Op>(4)) t.fn[4] = tile<Op, T, 4>;
    if constexpr (has_variant<Op>(5)) t.fn[5] = tile<Op, T, 5>;
    if constexpr (has_variant<Op>(6)) t.fn[6] = tile<Op, T, 6>;
    return t;
  }();
  return table.fn[v];
}

template <int N> struct Count { static constexpr int value = N; };

template <class Op, class T, int Variant> void tile(const TileArgs& a) {
  T* d = static_cast<T*>(a.dst);
  const T *x = static_cast<const T*>(a.x), *y = static_cast<const T*>(a.y), *z = static_cast<const T*>(a.z);
  int64_t rows = a.rows, n = a.cols;
  if (rows <= 0 || n <= 0) return;
  if (rows > 1) {
    bool dense = a.dst_row == n && a.x_row == (Variant & 1 ? 0 : n);
    if constexpr (Op::arity > 1) dense &= a.y_row == (Variant & 2 ? 0 : n);
    if constexpr (Op::arity > 2) dense &= a.z_row == (Variant & 4 ? 0 : n);
    if (dense) {
      n *= rows;
      rows = 1;
    } else if (n == 1) {
      TileArgs b = a;
      if (TileFn fn = as_row<Op, T>(b)) return fn(b);
    }
  }
  const int64_t d_row = a.dst_row, x_row = a.x_row, y_row = a.y_row, z_row = a.z_row;  // by value: read once, whatever is stored
  auto next_row = [&] {
    d += d_row;
    x += x_row;
    if constexpr (Op::arity > 1) y += y_row;
    if constexpr (Op::arity > 2) z += z_row;
  };
  if constexpr (!Op::heavy) {  // what surrounds a row of so few vectors would cost as much as the row
    constexpr int64_t L = Simd<T>::lanes;
    auto walk = [&](auto count) __attribute__((always_inline)) {
      for (; rows > 0; --rows, next_row()) {
        const TileRow<Op, T, Variant> row(x, y, z);
        FASTMETA_UNROLL
        for (int j = 0; j < decltype(count)::value; j++) Simd<T>::store(d + j * L, row.at(j * L));
      }
    };
    if (n == L) return walk(Count<1>{});
    if (n == 2 * L) return walk(Count<2>{});
  }
  for (;;) {
    TileRow<Op, T, Variant>(x, y, z).run(d, n);
    if (--rows == 0) return;
    next_row();
  }
}

template <class Op, class T> constexpr void fill_variants(TileFn (&fn)[kVariants]) {
  fn[0] = tile<Op, T, 0>;
  if constexpr (has_variant<Op>(1)) fn[1] = tile<Op, T, 1>;
  if constexpr (has_variant<Op>(2)) fn[2] = tile<Op, T, 2>;
  if constexpr (has_variant<Op>(3)) fn[3] = tile<Op, T, 3>;
  if constexpr (has_variant<Op>(4)) fn[4] = tile<Op, T, 4>;
  if constexpr (has_variant<Op>(5)) fn[5] = tile<Op, T, 5>;
  if constexpr (has_variant<Op>(6)) fn[6] = tile<Op, T, 6>;
}
template <class Op> constexpr void fill_tile(TileFn (&fn)[3][kVariants]) {
  if constexpr (Op::types & 1) fill_variants<Op, float>(fn[F32]);
  if constexpr (Op::types & 2) fill_variants<Op, double>(fn[F64]);
  if constexpr (Op::types & 4) fill_variants<Op, int32_t>(fn[I32]);
}

// ---- casts: numbers to integers are cut off, anything to bool is != 0, bool to anything is 0 or 1.  dst may be x
// itself where both types have the same size, and must not overlap it otherwise.

template <class From, class To, bool ToBool> void cast(const TileArgs& a) {
  int64_t rows = a.rows, n = a.cols;
  if (a.dst_row == n && a.x_row == n) {
    n *= rows;
    rows = 1;
  }
  for (int64_t r = 0; r < rows; ++r) {
    To* d = static_cast<To*>(a.dst) + r * a.dst_row;
    const From* x = static_cast<const From*>(a.x) + r * a.x_row;
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (ToBool) d[i] = x[i] != 0;
      else d[i] = static_cast<To>(x[i]);
    }
  }
}
template <class From> constexpr void fill_cast(TileFn (&fn)[4]) {
  fn[F32] = cast<From, float, false>;
  fn[F64] = cast<From, double, false>;
  fn[I32] = cast<From, int32_t, false>;
  fn[BOOL] = cast<From, uint8_t, true>;
}

// ---- reductions.  The order of a sum depends on the shape alone.

// Their micro-ops, in elementwise.hpp.
struct Add;
struct Maximum;
struct Minimum;

struct Sum {
  using Elementwise = Add;
  static constexpr bool repeats = false;  // taking an element twice changes nothing
  template <class V> static FASTMETA_INLINE V apply(V x, V y) { return x + y; }
  template <class T> static FASTMETA_INLINE T scalar(T x, T y) { return x + y; }
};
struct Max {
  using Elementwise = Maximum;
  static constexpr bool repeats = true;
  template <class V> static FASTMETA_INLINE V apply(V x, V y) { return max(x, y); }
  template <class V> static FASTMETA_INLINE V without_nan(V x, V y) { return greater_of(x, y); }
  template <class T> static FASTMETA_INLINE T scalar(T x, T y) { return y != y || y > x ? y : x; }
};
struct Min {
  using Elementwise = Minimum;
  static constexpr bool repeats = true;
  template <class V> static FASTMETA_INLINE V apply(V x, V y) { return min(x, y); }
  template <class V> static FASTMETA_INLINE V without_nan(V x, V y) { return lesser_of(x, y); }
  template <class T> static FASTMETA_INLINE T scalar(T x, T y) { return y != y || y < x ? y : x; }
};

// The n >= lanes elements at x, down to one vector.
template <class R, class T> FASTMETA_INLINE typename Simd<T>::V reduce_row(const T* x, int64_t n) {
  using S = Simd<T>;
  using V = typename S::V;
  constexpr int64_t L = S::lanes;
  int64_t i = L;
  V a = S::load(x);
  if (n >= 4 * L) {
    V b = S::load(x + L), c = S::load(x + 2 * L), d = S::load(x + 3 * L);
    for (i = 4 * L; i + 4 * L <= n; i += 4 * L) {
      a = R::apply(a, S::load(x + i));
      b = R::apply(b, S::load(x + i + L));
      c = R::apply(c, S::load(x + i + 2 * L));
      d = R::apply(d, S::load(x + i + 3 * L));
    }
    a = R::apply(R::apply(a, b), R::apply(c, d));
  }
  for (; i + L <= n; i += L) a = R::apply(a, S::load(x + i));
  if (i < n) a = R::apply(a, R::repeats ? S::load(x + n - L) : S::load(x + i, S::mask(int(n - i))));
  return a;
}
// All lanes of a vector to one, by halves.
template <int Size, class V, int... I> FASTMETA_INLINE V swap_halves(V v, Lanes<I...>) {  // of every group of Size lanes
  return __builtin_shufflevector(v, v, (I ^ (Size / 2))...);
}
template <class R, int Size, class V> FASTMETA_INLINE V fold_lanes(V v) {
  if constexpr (Size == 1) return v;
  else
    return fold_lanes<R, Size / 2>(
        R::without_nan(v, swap_halves<Size>(v, typename FirstLanes<Simd<Elem<V>>::lanes>::type{})));
}
template <class R, class T> FASTMETA_INLINE T reduce_lanes(typename Simd<T>::V v) {
  if constexpr (!R::repeats) return Simd<T>::sum(v);
  else {
    using V = typename Simd<T>::V;
    if constexpr (!kIsInt<V>)
      if (FASTMETA_UNLIKELY(any(v != v))) return T(__builtin_nan(""));
    return fold_lanes<R, Simd<T>::lanes>(v)[0];
  }
}
// A row shorter than a vector.
template <class R, class T> FASTMETA_INLINE T reduce_short(const T* x, int64_t n) {
  if constexpr (R::repeats) {
    return n == 1 ? *x : reduce_lanes<R, T>(Piece<T>::load_repeating(x, int(n)));
  } else {
    T t = x[0];
    for (int64_t i = 1; i < n; ++i) t = R::scalar(t, x[i]);
    return t;
  }
}
// Columns [c, c + W vectors) of all rows, added to `start`, which is dst or a row before them; G rows at a time in accumulators
// of their own.
template <class R, class T, int W, int G> FASTMETA_INLINE void reduce_columns(T* d, const T* start, const T* x, int64_t x_row, int64_t rows) {
  using S = Simd<T>;
  using V = typename S::V;
  V acc[G][W];
  FASTMETA_UNROLL for (int w = 0; w < W; ++w) acc[0][w] = S::load(start + w * S::lanes);
  int64_t r = 0;
  if (G > 1 && rows >= 2 * G) {
    FASTMETA_UNROLL for (int g = 1; g < G; ++g)
      FASTMETA_UNROLL for (int w = 0; w < W; ++w) acc[g][w] = S::load(x + (g - 1) * x_row + w * S::lanes);
    for (r = G - 1; r + G <= rows; r += G)
      FASTMETA_UNROLL for (int g = 0; g < G; ++g)
        FASTMETA_UNROLL for (int w = 0; w < W; ++w) acc[g][w] = R::apply(acc[g][w], S::load(x + (r + g) * x_row + w * S::lanes));
    FASTMETA_UNROLL for (int g = 1; g < G; ++g)
      FASTMETA_UNROLL for (int w = 0; w < W; ++w) acc[0][w] = R::apply(acc[0][w], acc[g][w]);
  }
  for (; r < rows; ++r)
    FASTMETA_UNROLL for (int w = 0; w < W; ++w) acc[0][w] = R::apply(acc[0][w], S::load(x + r * x_row + w * S::lanes));
  FASTMETA_UNROLL for (int w = 0; w < W; ++w) S::store(d + w * S::lanes, acc[0][w]);
}
// n < lanes columns of all rows, added to `start`.
template <class R, class T> FASTMETA_INLINE void reduce_columns_short(T* d, const T* start, int n, const T* x, int64_t x_row, int64_t rows) {
  using V = typename Simd<T>::V;
  V a = Piece<T>::load(start, n);
  int64_t r = 0;
  if (rows >= 4) {
    V b = Piece<T>::load(x, n);
    for (r = 1; r + 2 <= rows; r += 2) {
      a = R::apply(a, Piece<T>::load(x + r * x_row, n));
      b = R::apply(b, Piece<T>::load(x + (r + 1) * x_row, n));
    }
    a = R::apply(a, b);
  }
  for (; r < rows; ++r) a = R::apply(a, Piece<T>::load(x + r * x_row, n));
  Piece<T>::store(d, a, n);
}

template <class R, class T> void reduce(const ReduceArgs& a) {
  using S = Simd<T>;
  constexpr int64_t L = S::lanes;
  T* d = static_cast<T*>(a.dst);
  const T* x = static_cast<const T*>(a.x);
  int64_t rows = a.rows, n = a.cols, x_row = a.x_row, dst_row = a.dst_row, dst_col = a.dst_col;
  if (rows <= 0 || n <= 0) return;
  if (n == 1) {
    dst_col = 0;
    if (x_row == 1 && (dst_row == 0 || dst_row == 1)) {  // a column whose values lie one after another is a row
      n = rows;
      rows = 1;
      dst_col = dst_row;
    }
  }
  if (rows == 1) dst_row = 0;
  const bool fresh = a.fresh;
  auto add = [fresh](T& to, T t) { to = fresh ? t : R::scalar(to, t); };
  if (dst_col == 0 && dst_row == 0) {  // everything to one value
    if (x_row == n) {
      n *= rows;
      rows = 1;
    }
    if (n < L) {
      T t = reduce_short<R>(x, n);
      for (int64_t r = 1; r < rows; ++r) t = R::scalar(t, reduce_short<R>(x + r * x_row, n));
      add(*d, t);
    } else {
      auto t = reduce_row<R>(x, n);
      for (int64_t r = 1; r < rows; ++r) t = R::apply(t, reduce_row<R>(x + r * x_row, n));
      add(*d, reduce_lanes<R, T>(t));
    }
  } else if (dst_col == 0) {  // every row to one value
    if (n < L)
      for (int64_t r = 0; r < rows; ++r) add(d[r * dst_row], reduce_short<R>(x + r * x_row, n));
    else
      for (int64_t r = 0; r < rows; ++r) add(d[r * dst_row], reduce_lanes<R, T>(reduce_row<R>(x + r * x_row, n)));
  } else if (dst_row == 0) {  // every column to one value
    const T* start = d;
    if (fresh) {
      start = x;
      x += x_row;
      --rows;
    }
    int64_t c = 0;
    for (; c + 4 * L <= n; c += 4 * L) reduce_columns<R, T, 4, 1>(d + c, start + c, x + c, x_row, rows);
    if (c + 2 * L <= n) {
      reduce_columns<R, T, 2, 2>(d + c, start + c, x + c, x_row, rows);
      c += 2 * L;
    }
    if (c + L <= n) {
      reduce_columns<R, T, 1, 4>(d + c, start + c, x + c, x_row, rows);
      c += L;
    }
    if (c < n) reduce_columns_short<R>(d + c, start + c, int(n - c), x + c, x_row, rows);
  } else if (fresh) {  // nothing is reduced: dst = x, moved, since plans are not checked for overlap
    for (; rows > 0; --rows, d += dst_row, x += x_row) __builtin_memmove(d, x, size_t(n) * sizeof(T));
  } else {  // dst op= x
    tile<typename R::Elementwise, T, 0>({d, d, x, nullptr, dst_row, dst_row, x_row, 0, rows, n});
  }
}
template <class R> constexpr void fill_reduce(ReduceFn (&fn)[3]) {
  fn[F32] = reduce<R, float>;
  fn[F64] = reduce<R, double>;
  fn[I32] = reduce<R, int32_t>;
}

// ---- transposes

template <class T> void transpose_tile(const void* src, int64_t src_row, void* dst, int64_t dst_col, int64_t rows, int64_t cols) {
  transpose(static_cast<const T*>(src), src_row, static_cast<T*>(dst), dst_col, rows, cols);
}

constexpr void fill_tiles(Kernels& k) {
  fill_cast<float>(k.cast[F32]);
  fill_cast<double>(k.cast[F64]);
  fill_cast<int32_t>(k.cast[I32]);
  fill_cast<uint8_t>(k.cast[BOOL]);
  fill_reduce<Sum>(k.reduce[1]);
  fill_reduce<Max>(k.reduce[2]);
  fill_reduce<Min>(k.reduce[3]);
  k.transpose4 = transpose_tile<float>;
  k.transpose8 = transpose_tile<double>;
}
