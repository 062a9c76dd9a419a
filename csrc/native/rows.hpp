// Rows of a table, picked and added to by indices.
//
// Included INSIDE the target's namespace, after simd.hpp.
#pragma once

template <class T>
struct CopyRow {
  using S = Simd<T>;
  using V = typename S::V;
  static FASTMETA_INLINE void at(T* table, T* row) { S::store(row, S::load(table)); }
  template <class Mask>
  static FASTMETA_INLINE void at(T* table, T* row, const Mask& m) { S::store(row, S::load(table, m), m); }
};
template <class T>
struct AddRow {
  using S = Simd<T>;
  using V = typename S::V;
  static FASTMETA_INLINE void at(T* table, T* row) { S::store(table, S::load(table) + S::load(row)); }
  template <class Mask>
  static FASTMETA_INLINE void at(T* table, T* row, const Mask& m) { S::store(table, S::load(table, m) + S::load(row, m), m); }
};

template <class T, template <class> class Do>
int64_t indexed_rows(const RowsArgs& a) {
  constexpr int64_t L = Simd<T>::lanes;
  const int64_t whole = a.cols / L * L, table_row = a.table_row, index_step = a.index_step, row_step = a.row, n = a.n;
  const auto mask = Simd<T>::mask(int(a.cols - whole));
  const char* index = a.index;
  char *rows = a.rows, *table = a.table;
  for (int64_t j = 0; j < a.count; j++, index += index_step, rows += row_step) {
    int32_t i;
    __builtin_memcpy(&i, index, sizeof i);
    if (i < 0 || i >= n) return j;
    T *t = (T*)(table + i * table_row), *r = (T*)rows;
    int64_t k = 0;
    for (; k + 4 * L <= whole; k += 4 * L) {
      FASTMETA_UNROLL
      for (int64_t v = k; v < k + 4 * L; v += L) Do<T>::at(t + v, r + v);
    }
    for (; k < whole; k += L) Do<T>::at(t + k, r + k);
    if (whole < a.cols) Do<T>::at(t + k, r + k, mask);
  }
  return a.count;
}

constexpr void fill_rows(Kernels& k) {
  k.gather_rows[0] = indexed_rows<int32_t, CopyRow>;
  k.gather_rows[1] = indexed_rows<int64_t, CopyRow>;
  k.scatter_rows[F32] = indexed_rows<float, AddRow>;
  k.scatter_rows[F64] = indexed_rows<double, AddRow>;
  k.scatter_rows[I32] = indexed_rows<int32_t, AddRow>;
}
