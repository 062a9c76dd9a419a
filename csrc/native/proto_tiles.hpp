// The kernel of PROTO: short rows by packed rows of y, long ones along the features.
//
// Included INSIDE the target's namespace, after proto_rows.hpp.
#pragma once

// Short rows: by packed rows of y.
template <class T>
struct ProtoShortRows : ProtoRows<T> {
  using Base = ProtoRows<T>;
  using P = Packed<T>;
  using Base::most, Base::g, Base::m, Base::row, Base::centre, Base::y, Base::z;
  T *packed, *spread;  // u; the reference

  FASTMETA_INLINE explicit ProtoShortRows(const ProtoArgs<T>& g)
      : Base(g), packed(this->reserve(packed_size(m, g.features, sizeof(T)))), spread(this->reserve(packed_size(1, g.features, sizeof(T)))) {}

  void prepare() const {
    P::pack(y, row, m, g.features, nullptr, packed);
    P::spread(centre, g.features, spread);
  }
  void multiply(const T* x, int64_t rows) const {
    P::tiles(m, g.features, [&](const PackedTile& tile) {
      auto put = [to = z + tile.row * most](int64_t i, int v, typename Base::V sums) __attribute__((always_inline)) { P::put(sums, to + v * P::parts * most + i, most); };
      pass_by<T, CentredProduct>(x, g.x_row, rows, packed, tile, g.features, put, tile.parts == 1 ? spread : centre);
    });
  }
};

// Long rows: vectors along the features.
template <class T>
struct ProtoLongRows : ProtoRows<T> {
  using Base = ProtoRows<T>;
  using Base::Base, Base::most, Base::g, Base::m, Base::row, Base::centre, Base::y, Base::z;

  void prepare() const {}
  void multiply(const T* x, int64_t rows) const { distances_of_long_rows<T, CentredProduct>({rows, m, g.features, x, y, g.x_row, row, nullptr, z, 1, most, centre}); }
};

// Rows of x a few at a time, where they are: a copy of them costs more than it saves when they come by for the second time, from
// the first- or second-level cache.
template <class T, template <class> class Rows>
void pass_by_prototypes(const ProtoArgs<T>& g) {
  using P = Rows<T>;
  P self(g);
  const bool streamed = g.streamed && Simd<T>::on_lines(g.out, g.out_row);
  self.take_y();
  self.prepare();
  for (int64_t first = 0; first < g.x_rows; first += P::most) {
    const int64_t rows = first + P::most < g.x_rows ? P::most : g.x_rows - first;
    const T* const x = g.x + first * g.x_row;
    self.take_labels(first, rows);
    self.multiply(x, rows);
    for (int64_t p = 0; p < rows; p += P::W) self.softmax(p);
    if (self.derived()) self.derivatives(rows, x, g.out ? g.out + first * g.out_row : nullptr, streamed);
  }
  if (streamed) Simd<T>::end_streams();
  self.finish();
}

template <class T>
void proto(const ProtoArgs<T>& g) {
  if (short_rows(g.features, sizeof(T))) pass_by_prototypes<T, ProtoShortRows>(g);
  else pass_by_prototypes<T, ProtoLongRows>(g);
}

constexpr void fill_protos(Kernels& k) {
  k.proto_f32 = proto<float>;
  k.proto_f64 = proto<double>;
}
