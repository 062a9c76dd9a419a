// The kernel of PROTO: rows of x a few at a time, short ones by packed rows of y, long ones as they are.
//
// Included INSIDE the target's namespace, after proto_rows.hpp.
#pragma once

// Short rows: by packed rows of y.

template <class T>
struct ProtoShortRows : ProtoRows<T> {
  using Base = ProtoRows<T>;
  using Base::L, Base::W, Base::most, Base::g, Base::m, Base::row, Base::centre, Base::y, Base::back, Base::z, Base::share;
  using typename Base::S;
  using typename Base::V;
  T *packed, *x;  // u; [most, row] less the reference

  FASTMETA_INLINE explicit ProtoShortRows(const ProtoArgs<T>& g) : Base(g), packed(this->reserve(packed_size(m, g.features, sizeof(T)))), x(this->reserve(most * row)) {}

  // Rows of x, and zeros up to what a softmax takes.
  void take_x(int64_t first, int64_t rows, int64_t padded) {
    this->strips([&](int64_t k, const Strip<T>& strip) __attribute__((always_inline)) {
      centred_rows(g.x + first * g.x_row + k, g.x_row, rows, strip, centre + k, T(1), x + k, row);
    });
    for (int64_t k = rows * row; k < padded * row; k += L) S::store(x + k, V{});
  }
  void derivatives(int64_t first, int64_t rows) {
    if (g.out_y)
      for (int64_t i = 0; i < rows; i++)
        if (share[i] == 0)  // what counts for nothing may be infinite
          for (int64_t k = 0; k < row; k += L) S::store(x + i * row + k, V{});
    T* const out = g.out ? g.out + first * g.out_row : nullptr;
    this->strips([&](int64_t k, const Strip<T>& strip) { Base::derivatives(k, strip, x + k, row, rows, out); });
  }
  void multiply(int64_t rows) const {
    using P = Packed<T>;
    P::tiles(m, g.features, [&](const PackedTile& tile) {
      pass_by<T, ProductOf>(x, row, rows, packed, tile, g.features,
                            [to = z + tile.row * most](int64_t i, int v, V sums) __attribute__((always_inline)) { P::put(sums, to + v * P::parts * most + i, most); });
    });
  }
  void run() {
    this->take_y();
    Packed<T>::pack(y, row, m, g.features, nullptr, packed);
    for (int64_t first = 0; first < g.x_rows; first += most) {
      const int64_t rows = first + most < g.x_rows ? most : g.x_rows - first, padded = (rows + W - 1) / W * W;
      this->take_labels(first, rows, padded);
      take_x(first, rows, padded);
      multiply(rows);
      for (int64_t p = 0; p < padded; p += W) this->softmax(p);
      if (this->derived()) derivatives(first, rows);
    }
    this->finish();
  }
};

// ---- Long rows: vectors along the features, and rows of x where they are; the second time they come from the second-level cache.

template <class T>
struct ProtoLongRows : ProtoRows<T> {
  using Base = ProtoRows<T>;
  using Base::W, Base::most, Base::g, Base::m, Base::row, Base::centre, Base::y, Base::back, Base::z;
  static constexpr int64_t few = 10;
  T* nowhere;  // a row for derivatives that nobody asks for

  FASTMETA_INLINE explicit ProtoLongRows(const ProtoArgs<T>& g) : Base(g), nowhere(this->reserve(row)) {}

  // Row by row, or where there are many rows of y by tiles of products.
  void derivatives(const T* x, T* out, int64_t rows) const {
    if (m <= few)
      return pull_both_rows<T, PullCentred>({x, centre, y, z, g.x_row, row, 1, most, out ? out : nowhere, back, out ? g.out_row : 0, row, rows, m, g.features, out && g.streamed});
    alignas(64) T some[most * Strip<T>::width];
    this->strips([&](int64_t k, const Strip<T>& strip) {
      centred_rows(x + k, g.x_row, rows, strip, centre + k, T(1), some, Strip<T>::width);
      Base::derivatives(k, strip, some, Strip<T>::width, rows, out);
    });
  }
  // Rows that count, up to `most` from `first` on.
  int64_t counting(int64_t first) const {
    int64_t i = first;
    while (i < g.x_rows && i < first + most && g.share[i * g.share_step] != 0) i++;
    return i - first;
  }
  void run() {
    this->take_y();
    for (int64_t first = 0; first < g.x_rows;) {
      const int64_t rows = counting(first);
      T* const out = g.out ? g.out + first * g.out_row : nullptr;
      if (rows == 0) {  // what counts for nothing may be infinite
        if (out)
          for (int64_t k = 0; k < g.features; k++) out[k] = 0;
        first++;
        continue;
      }
      const T* const x = g.x + first * g.x_row;
      const int64_t padded = (rows + W - 1) / W * W;
      this->take_labels(first, rows, padded);
      distances_of_long_rows<T, CentredProduct>({rows, m, g.features, x, y, g.x_row, row, nullptr, z, 1, most, centre});
      for (int64_t p = 0; p < padded; p += W) this->softmax(p);
      if (this->derived()) derivatives(x, out, rows);
      first += rows;
    }
    this->finish();
  }
};

template <class T>
void proto(const ProtoArgs<T>& g) {
  if (short_rows(g.features, sizeof(T))) ProtoShortRows<T>(g).run();
  else ProtoLongRows<T>(g).run();
}

constexpr void fill_protos(Kernels& k) {
  k.proto_f32 = proto<float>;
  k.proto_f64 = proto<double>;
}
