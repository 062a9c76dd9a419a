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
    centred_rows(g.x + first * g.x_row, g.x_row, rows, g.features, centre, T(1), x, row);
    for (int64_t k = rows * row; k < padded * row; k += L) S::store(x + k, V{});
  }
  void derivatives(int64_t first, int64_t rows) {
    if (g.out_y)
      for (int64_t i = 0; i < rows; i++)
        if (share[i] == 0)  // what counts for nothing may be infinite
          for (int64_t k = 0; k < row; k += L) S::store(x + i * row + k, V{});
    Base::derivatives(rows, x, row, nullptr, g.out ? g.out + first * g.out_row : nullptr, false);
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
// A copy of them would cost as much as half of the products.

template <class T>
struct ProtoLongRows : ProtoRows<T> {
  using Base = ProtoRows<T>;
  using Base::Base, Base::W, Base::most, Base::g, Base::m, Base::row, Base::centre, Base::y, Base::z;

  // Rows that count, up to `most` from `first` on.
  int64_t counting(int64_t first) const {
    int64_t i = first;
    while (i < g.x_rows && i < first + most && g.share[i * g.share_step] != 0) i++;
    return i - first;
  }
  void run() {
    const bool streamed = g.streamed && (int64_t(g.out) | g.out_row * int64_t(sizeof(T))) % Base::S::bytes == 0;
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
      if (this->derived()) this->derivatives(rows, x, g.x_row, centre, out, streamed);
      first += rows;
    }
    if (streamed) Base::S::end_streams();
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
