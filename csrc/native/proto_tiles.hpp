// The cross-entropy of a softmax over minus squared distances, and its derivatives, in one pass over the rows of x: a few of
// them at a time, and everything between the products stays in the first-level cache.
//
// Included INSIDE the target's namespace, after distance_panels.hpp and weighted_rows.hpp.
#pragma once

template <class T>
struct ProtoPanels {
  using S = Simd<T>;
  using V = typename S::V;
  using I = typename S::I;
  static constexpr int64_t L = S::lanes, W = Panel<T>::width, most = kProtoRows;  // a panel of x; rows of it at a time

  const ProtoArgs<T>& g;
  const int64_t m, row;  // rows of y; features in whole vectors
  // All rows are centred on the mean of y's rows that are there, which changes no difference.
  T *centre, *y, *addend;  // [row], [m, row] times 2, [m] what differences of a row's distances have besides 2 x y
  T *back, *sums;          // [m, row], [m, L]: weights times rows of x, and weights
  T *panel, *x, *z;        // [features, W] transposed, [most, row], [m, most] first minus distances, then weights
  alignas(64) T share[most];
  alignas(64) typename S::Int label[most];
  V loss{}, right{};

  FASTMETA_INLINE explicit ProtoPanels(const ProtoArgs<T>& g) : g(g), m(g.y_rows), row((g.features + L - 1) / L * L) {
    T* at = g.scratch;
    auto reserve = [&](int64_t n) __attribute__((always_inline)) {
      T* const here = at;
      at += (n + 64 / int64_t(sizeof(T)) - 1) / (64 / int64_t(sizeof(T))) * (64 / int64_t(sizeof(T)));
      return here;
    };
    centre = reserve(row);
    y = reserve(m * row);
    addend = reserve(m);
    back = reserve(m * row);
    sums = reserve(m * L);
    panel = reserve(g.features * W);
    x = reserve(most * row);
    z = reserve(m * most);
  }
  FASTMETA_INLINE bool there(int64_t j) const { return !g.absent[j * g.absent_step]; }

  // f(first feature, strip) for all strips of features.
  template <class F>
  FASTMETA_INLINE void strips(const F& f) const {
    for (int64_t k = 0; k < g.features; k += Strip<T>::width) f(k, Strip<T>(g.features - k));
  }
  void take_y() {
    int64_t count = 0;
    for (int64_t j = 0; j < m; j++) count += there(j);
    const V by = S::splat(1 / T(count > 0 ? count : 1));
    for (int64_t k = 0; k < g.features; k += L) {
      const auto mask = S::mask(g.features - k < L ? int(g.features - k) : int(L));
      V sum{};
      for (int64_t j = 0; j < m; j++)
        if (there(j)) sum += S::load(g.y + j * g.y_row + k, mask);
      S::store(centre + k, sum * by);
    }
    strips([&](int64_t k, const Strip<T>& strip) __attribute__((always_inline)) { centred_rows(g.y + k, g.y_row, m, strip, centre + k, T(2), y + k, row); });
    for (int64_t j = 0; j < m; j++) addend[j] = there(j) ? -squared_length(y + j * row, g.features, T(0.5)) : -T(__builtin_inff());
    for (int64_t k = 0; k < m * row; k += L) S::store(back + k, V{});
    for (int64_t k = 0; k < m * L; k += L) S::store(sums + k, V{});
  }
  // Rows of x, and zeros up to whole panels.
  void take_x(int64_t first, int64_t rows, int64_t padded) {
    strips([&](int64_t k, const Strip<T>& strip) __attribute__((always_inline)) {
      centred_rows(g.x + first * g.x_row + k, g.x_row, rows, strip, centre + k, T(1), x + k, row);
    });
    for (int64_t k = rows * row; k < padded * row; k += L) S::store(x + k, V{});
    for (int64_t i = 0; i < padded; i++) {
      share[i] = i < rows ? g.share[(first + i) * g.share_step] : T(0);
      label[i] = i < rows ? g.label[first + i] : 0;
    }
  }
  // From z = 2 x y to the weights that the derivatives give to rows of y, for the panel of rows of x from p on.
  template <bool Answers>
  void softmax(int64_t p, bool weights) {
    // Copies, since the compiler must take a store to change anything it finds by a pointer.
    T *const z = this->z + p, *const sums = this->sums;
    const T* const addend = this->addend;
    const int64_t m = this->m;
    const V factor = S::splat(g.factor), infinite = S::splat(T(__builtin_inff()));
    V largest[2], own[2], sum[2], part[2];
    I label[2], at[2];
    for (int h = 0; h < 2; h++) {
      part[h] = S::load(share + p + h * L);
      __builtin_memcpy(&label[h], this->label + p + h * L, sizeof label[h]);
      largest[h] = -infinite;
      own[h] = sum[h] = V{};
      at[h] = I{};
    }
    I now{};
    for (int64_t j = 0; j < m; j++, now += 1) {
      const V more = S::splat(addend[j]);
      FASTMETA_UNROLL
      for (int h = 0; h < 2; h++) {
        const V v = (S::load(z + j * most + h * L) + more) * factor;
        S::store(z + j * most + h * L, v);
        const I larger = ~(v <= largest[h]) & (largest[h] == largest[h]);  // the first of equals stays, and the first NaN
        largest[h] = larger ? v : largest[h];
        if constexpr (Answers) at[h] = larger ? now : at[h];
        own[h] = label[h] == now ? v : own[h];
      }
    }
    V top[2];
    for (int h = 0; h < 2; h++) top[h] = (largest[h] == infinite) | (largest[h] == -infinite) ? V{} : largest[h];
    for (int64_t j = 0; j < m; j++) {
      FASTMETA_UNROLL
      for (int h = 0; h < 2; h++) {
        const V e = exp(S::load(z + j * most + h * L) - top[h]);
        S::store(z + j * most + h * L, e);
        sum[h] += e;
      }
    }
    for (int h = 0; h < 2; h++) {
      const I counts = part[h] != V{};
      loss += counts ? part[h] * (log(sum[h]) + top[h] - own[h]) : V{};
      if constexpr (Answers) right += counts & (at[h] == label[h]) ? part[h] : V{};
    }
    if (!weights) return;
    V scale[2], less[2];
    for (int h = 0; h < 2; h++) {
      less[h] = part[h] * factor;
      scale[h] = less[h] / sum[h];
    }
    now = I{};
    for (int64_t j = 0; j < m; j++, now += 1) {
      V total = S::load(sums + j * L);
      FASTMETA_UNROLL
      for (int h = 0; h < 2; h++) {
        const V w = S::load(z + j * most + h * L) * scale[h] - (label[h] == now ? less[h] : V{});
        const V counted = part[h] != V{} ? w : V{};
        S::store(z + j * most + h * L, counted);
        total += counted;
      }
      S::store(sums + j * L, total);
    }
  }
  void derivatives(int64_t first, int64_t rows) {
    if (g.out_y)
      for (int64_t i = 0; i < rows; i++)
        if (share[i] == 0)  // what counts for nothing may be infinite
          for (int64_t k = 0; k < row; k += L) S::store(x + i * row + k, V{});
    strips([&](int64_t k, const Strip<T>& strip) __attribute__((always_inline)) {
      if (g.out) weighted_rows<T>(rows, strip, {z, 1, most, y + k, row, m}, {}, g.out + first * g.out_row + k, g.out_row);
      if (g.out_y) weighted_rows<T>(m, Strip<T>(strip.vectors * L), {z, most, 1, x + k, row, rows}, {back + k, row, nullptr}, back + k, row);
    });
  }
  void run() {
    take_y();
    for (int64_t first = 0; first < g.x_rows; first += most) {
      const int64_t rows = first + most < g.x_rows ? most : g.x_rows - first, padded = (rows + W - 1) / W * W;
      take_x(first, rows, padded);
      for (int64_t p = 0; p < padded; p += W) {
        transpose(x + p * row, row, panel, W, W, g.features);
        panel_rows<T, ProductOf>(panel, y, row, m, g.features, z + p, most);
        if (g.right) softmax<true>(p, g.out || g.out_y);
        else softmax<false>(p, g.out || g.out_y);
      }
      if (g.out || g.out_y) derivatives(first, rows);
    }
    if (g.loss) *g.loss = S::sum(loss);
    if (g.right) *g.right = S::sum(right);
    if (!g.out_y) return;
    for (int64_t j = 0; j < m; j++) {
      const V sum = S::splat(-S::sum(S::load(sums + j * L)));
      for (int64_t k = 0; k < g.features; k += L) {
        const auto mask = S::mask(g.features - k < L ? int(g.features - k) : int(L));
        const V twice = S::load(back + j * row + k);
        S::store(g.out_y + j * g.out_y_row + k, S::fma(sum, S::load(y + j * row + k), twice + twice), mask);
      }
    }
  }
};

template <class T>
void proto(const ProtoArgs<T>& g) { ProtoPanels<T>(g).run(); }

constexpr void fill_protos(Kernels& k) {
  k.proto_f32 = proto<float>;
  k.proto_f64 = proto<double>;
}
