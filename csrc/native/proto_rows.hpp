// The cross-entropy of a softmax over minus squared distances, and its derivatives, in one pass over the rows of x: a few of
// them at a time, and everything between the products stays in the first-level cache.
//
// A softmax depends on differences of its terms only, and the derivatives in them add up to 0.  So one row of y, the
// reference, need not be multiplied: with r it and c_j another row, for each row of x
//   |x - r|^2 - |x - c_j|^2 = (x - r) u_j - |u_j / 2|^2,  u_j = 2 (c_j - r)
// and with w_j the derivatives in minus the distances, of x  sum_j w_j u_j,  of c_j  2 b_j - (sum of w_j) u_j,  of r  -2 sum_j b_j,
// where b_j is the sum over rows of x of w_j (x - r).
//
// Included INSIDE the target's namespace, after packed_rows.hpp, weighted_rows.hpp and pull_tiles.hpp.
#pragma once

// What rows of any length share.
template <class T>
struct ProtoRows {
  using S = Simd<T>;
  using V = typename S::V;
  using I = typename S::I;
  static constexpr int64_t L = S::lanes, W = 2 * L, most = kProtoRows;  // rows of x: of a softmax; at a time

  const ProtoArgs<T>& g;
  const int64_t m, row;  // rows of y but the reference, at least one: a row that is nowhere if need be; features in whole vectors
  int64_t reference = 0;
  T *centre, *y, *addend;  // the reference [row]; u [m, row]; [m] minus |u / 2|^2, times the factor
  T *back, *sums;          // b [m, row]; [m, L] that add up to the sums of weights
  T* z;                    // [m, most] products, then weights
  T* rest;                 // of the scratch
  alignas(64) T share[most];
  alignas(64) typename S::Int label[most];
  V loss{}, right{};

  FASTMETA_INLINE explicit ProtoRows(const ProtoArgs<T>& g) : g(g), m(g.y_rows > 1 ? g.y_rows - 1 : 1), row(proto_row(g.features, sizeof(T))), rest(g.scratch) {
    centre = reserve(row);
    y = reserve(m * row);
    addend = reserve(m);
    back = reserve(m * row);
    sums = reserve(m * L);
    z = reserve((m + 3) * most);  // and what fills vectors up
  }
  FASTMETA_INLINE T* reserve(int64_t n) {
    T* const here = rest;
    rest += (n + 64 / int64_t(sizeof(T)) - 1) / (64 / int64_t(sizeof(T))) * (64 / int64_t(sizeof(T)));
    return here;
  }
  FASTMETA_INLINE bool there(int64_t j) const { return !g.absent[j * g.absent_step]; }
  FASTMETA_INLINE int64_t row_of(int64_t j) const { return j + (j >= reference); }

  // f(first feature, mask) for all vectors of features.
  template <class F>
  FASTMETA_INLINE void vectors(const F& f) const {
    const auto whole = S::mask(int(L));
    int64_t k = 0;
    for (; k + L <= g.features; k += L) f(k, whole);
    if (k < g.features) f(k, S::mask(int(g.features - k)));
  }
  // f(first, end) for the rows of x that count, one by the other; what counts for nothing may be infinite.
  template <class F>
  FASTMETA_INLINE void counting(int64_t rows, const F& f) const {
    for (int64_t i = 0, end; i < rows; i = end + 1) {
      for (end = i; end < rows && share[end] != 0;) end++;
      if (end > i) f(i, end);
    }
  }
  // The derivatives of `rows` rows of x, and what they add to y's: in one pass where all rows of y are passed at once, else by two
  // products.
  void derivatives(int64_t rows, const T* x, T* out, bool streamed) const {
    static_assert(most <= kPassingRows);
    if (out && g.out_y && m <= kPassedRows) {
      counting(rows, [&](int64_t i, int64_t end) {
        pull_both_rows<T, PullCentred>({end - i, m, g.features, x + i * g.x_row, centre, y, z + i, g.x_row, row, 1, most, out + i * g.out_row, back, g.out_row, row, false, T(1), streamed});
      });
      for (int64_t i = 0; i < rows; i++)
        if (share[i] == 0) vectors([&](int64_t k, const auto& mask) __attribute__((always_inline)) { S::store(out + i * g.out_row + k, V{}, mask); });
      return;
    }
    constexpr int64_t piece = 128;  // features: of y they stay in the first-level cache, and what is written comes in between
    for (int64_t k = 0; k < g.features; k += piece) {
      const int64_t some = k + piece < g.features ? piece : g.features - k;
      if (out) weighted_rows<T>(rows, some, {z, 1, most, y + k, row, m, out + k, g.out_row, {}, nullptr, streamed});
      if (g.out_y)
        counting(rows, [&](int64_t i, int64_t end) {
          weighted_rows<T>(m, some, {z + i, most, 1, x + i * g.x_row + k, g.x_row, end - i, back + k, row, {back + k, row}, centre + k});
        });
    }
  }
  // The row nearest to the mean of those that are there: products with differences from an outlier would leave few digits.
  void choose_reference() {
    int64_t count = 0;
    for (int64_t j = 0; j < g.y_rows; j++) count += there(j);
    const V by = S::splat(1 / T(count > 0 ? count : 1));
    vectors([&](int64_t k, const auto& mask) __attribute__((always_inline)) {
      V sum{};
      for (int64_t j = 0; j < g.y_rows; j++)
        if (there(j)) sum += S::load(g.y + j * g.y_row + k, mask);
      S::store(centre + k, sum * by);
    });
    T *const far = back, least = T(__builtin_inff());
    distances_of_long_rows<T, SquaredDifference>({1, g.y_rows, g.features, centre, g.y, row, g.y_row, nullptr, far, 0, 1});
    for (int64_t j = 0; j < g.y_rows; j++)
      if (there(j) && far[j] < least) least = far[j], reference = j;
    vectors([&](int64_t k, const auto& mask) __attribute__((always_inline)) { S::store(centre + k, S::load(g.y + reference * g.y_row + k, mask)); });
  }
  void take_y() {
    choose_reference();
    const T* const r = g.y + reference * g.y_row;
    const int64_t before = reference, after = g.y_rows - 1 - reference;
    centred_rows(g.y, g.y_row, before, g.features, centre, T(2), y, row);
    centred_rows(r + g.y_row, g.y_row, after, g.features, centre, T(2), y + before * row, row);
    if (g.y_rows == 1)
      for (int64_t k = 0; k < row; k += L) S::store(y + k, V{});
    for (int64_t j = 0; j < m; j++) addend[j] = g.y_rows > 1 && there(row_of(j)) ? -squared_length(y + j * row, g.features, T(0.5)) * g.factor : -T(__builtin_inff());
    for (int64_t k = 0; k < m * row; k += L) S::store(back + k, V{});
    for (int64_t k = 0; k < m * L; k += L) S::store(sums + k, V{});
  }
  // Labels and shares of rows of x, and none up to what a softmax takes.
  void take_labels(int64_t first, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
      share[i] = g.share[(first + i) * g.share_step];
      label[i] = g.label[first + i];
    }
    for (int64_t i = rows; i % W != 0; i++) share[i] = label[i] = 0;
  }
  // From z = (x - r) u to the weights, for the rows of x from p on.
  template <bool Answers>
  void softmax(int64_t p, bool weights) {
    // Copies, since the compiler must take a store to change anything it finds by a pointer.
    T *const z = this->z + p, *const sums = this->sums;
    const T* const addend = this->addend;
    const int64_t m = this->m, before = reference;
    const V factor = S::splat(g.factor), infinite = S::splat(T(__builtin_inff()));
    V zero[2], largest[2], own[2], sum[2], part[2];  // zero: what the reference has, or NaN
    I label[2], at[2];
    for (int h = 0; h < 2; h++) {
      part[h] = S::load(share + p + h * L);
      __builtin_memcpy(&label[h], this->label + p + h * L, sizeof label[h]);
      zero[h] = S::load(z + h * L) * V{};
      largest[h] = -infinite;
      own[h] = V{};
      at[h] = I{};
    }
    I now{};
    auto look = [&](int h, V v) __attribute__((always_inline)) {
      if constexpr (Answers) {
        const I larger = ~(v <= largest[h]) & (largest[h] == largest[h]);  // the first of equals stays, and the first NaN
        largest[h] = larger ? v : largest[h];
        at[h] = larger ? now : at[h];
      } else {
        largest[h] = v > largest[h] ? v : largest[h];  // a NaN shows in the sum
      }
      own[h] = label[h] == now ? v : own[h];
    };
    auto look_at_rows = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
      for (int64_t j = from; j < to; j++, now += 1) {
        const V more = S::splat(addend[j]);
        FASTMETA_UNROLL
        for (int h = 0; h < 2; h++) {
          const V v = S::fma(S::load(z + j * most + h * L), factor, more);
          S::store(z + j * most + h * L, v);
          look(h, v);
        }
      }
    };
    look_at_rows(0, before);
    for (int h = 0; h < 2; h++) look(h, zero[h]);
    now += 1;
    look_at_rows(before, m);
    V top[2];
    for (int h = 0; h < 2; h++) {
      top[h] = (largest[h] == infinite) | (largest[h] == -infinite) ? V{} : largest[h];
      sum[h] = exp(zero[h] - top[h]);
    }
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
    auto weigh_rows = [&](int64_t from, int64_t to) __attribute__((always_inline)) {
      for (int64_t j = from; j < to; j++, now += 1) {
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
    };
    weigh_rows(0, before);
    now += 1;
    weigh_rows(before, m);
  }
  void softmax(int64_t p) {
    if (g.right) softmax<true>(p, derived());
    else softmax<false>(p, derived());
  }
  FASTMETA_INLINE bool derived() const { return g.out || g.out_y; }

  void finish() {
    if (g.loss) *g.loss = S::sum(loss);
    if (g.right) *g.right = S::sum(right);
    if (!g.out_y) return;
    for (int64_t j = 0; j < m; j++) addend[j] = -S::sum(S::load(sums + j * L));
    vectors([&](int64_t k, const auto& mask) __attribute__((always_inline)) {
      V all{};
      for (int64_t j = 0; j < g.y_rows - 1; j++) {
        const V twice = S::load(back + j * row + k) * S::splat(T(2));
        S::store(g.out_y + row_of(j) * g.out_y_row + k, S::fma(S::splat(addend[j]), S::load(y + j * row + k), twice), mask);
        all -= twice;
      }
      S::store(g.out_y + reference * g.out_y_row + k, all, mask);
    });
  }
};
