// Compares the products of a table of kernels with a triple loop in long double, over shapes, strides, sums of products,
// forms of CIN and what becomes of C, and checks that the bits of a row do not depend on how M is split; for tests/test_gemm.py.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "../../csrc/native/kernels.hpp"

using namespace fastmeta;

static const Kernels* kernels;
static uint64_t state;
static int64_t cases, tiled_cases, failures;
static void gemm(const GemmArgs<float>& g, const GemmData<float>& d) { kernels->gemm_f32(g, d); }
static void gemm(const GemmArgs<double>& g, const GemmData<double>& d) { kernels->gemm_f64(g, d); }
static GemmTiles<float> gemm_tiles(const GemmArgs<float>& g) { return kernels->gemm_tiles_f32(g); }
static GemmTiles<double> gemm_tiles(const GemmArgs<double>& g) { return kernels->gemm_tiles_f64(g); }

// C^T = B^T A^T
template <class T>
static void swap_roles(GemmArgs<T>& g, GemmData<T>& d) {
  std::swap(g.m, g.n);
  std::swap(g.cin_m, g.cin_n);
  std::swap(g.c_m, g.c_n);
  std::swap(g.gate_m, g.gate_n);
  for (int64_t p = 0; p < g.n_products; p++) {
    Product& f = g.products[p];
    f = {f.k, f.b_n, f.b_k, f.a_k, f.a_m};
    std::swap(d.factors[2 * p], d.factors[2 * p + 1]);
  }
}

static uint32_t next(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return uint32_t(state >> 33) % n;
}
template <class T>
static T sample() { return T(int(next(2001)) - 1000) / 500; }

// A matrix of `rows` x `cols` in a buffer that ends where the matrix ends, so that the sanitizer sees every overrun.
template <class T>
struct Matrix {
  std::vector<T> data;
  int64_t row, col;
  // form 0: row-major, 1: column-major, 2: row-major with gaps, 3: column-major with gaps, 4: no unit stride
  Matrix(int64_t rows, int64_t cols, int form) {
    const int64_t gap = form == 2 || form == 3 ? 3 : 0;
    row = form == 4 ? 2 * cols + 1 : form % 2 ? 1 : cols + gap;
    col = form == 4 ? 2 : form % 2 ? rows + gap : 1;
    data.resize(rows && cols ? (rows - 1) * row + (cols - 1) * col + 1 : 0);
    for (T& x : data) x = sample<T>();
  }
  T at(int64_t r, int64_t c) const { return data[r * row + c * col]; }
};

template <class T>
static bool check(int64_t M, int64_t N, const std::vector<int64_t>& Ks, const std::vector<int>& forms, int cin_form,
                  int64_t gap, T alpha, After after) {
  std::vector<Matrix<T>> as, bs;
  GemmArgs<T> g{};
  GemmData<T> d{};
  g.m = g.rows = M;
  g.n = N;
  g.n_products = int64_t(Ks.size());
  g.after = after;
  for (size_t p = 0; p < Ks.size(); p++) {
    as.emplace_back(M, Ks[p], forms[2 * p]);
    bs.emplace_back(Ks[p], N, forms[2 * p + 1]);
  }
  for (size_t p = 0; p < Ks.size(); p++)
    g.products[p] = {Ks[p], as[p].row, as[p].col, bs[p].row, bs[p].col};
  for (size_t p = 0; p < Ks.size(); p++) {
    d.factors[2 * p] = as[p].data.data();
    d.factors[2 * p + 1] = bs[p].data.data();
  }
  const Matrix<T> gate(M, N, N == 1 ? 0 : 2);
  d.gate = gate.data.data();
  g.gate_m = gate.row;
  g.alpha = alpha;
  const int64_t c_m = N + gap;
  std::vector<T> c((M - 1) * c_m + N, T(-99));
  // 0 none, 1 row bias, 2 column bias, 3 dense, 4 C itself, 5 transposed
  Matrix<T> cin(cin_form == 1 ? 1 : M, cin_form == 2 ? 1 : N, cin_form == 5);
  if (cin_form == 4)
    for (int64_t m = 0; m < M; m++)
      for (int64_t n = 0; n < N; n++) c[m * c_m + n] = cin.at(m, n);
  const std::vector<T> before = c;
  if (cin_form) {
    d.cin = cin_form == 4 ? c.data() : cin.data.data();
    g.cin_m = cin_form == 4 ? c_m : cin_form == 1 ? 0 : cin.row;
    g.cin_n = cin_form == 4 ? 1 : cin_form == 2 ? 0 : cin.col;
  }
  d.c = c.data();
  g.c_m = c_m;
  gemm(g, d);

  const double eps = sizeof(T) == 4 ? 6e-8 : 1.2e-16;
  for (int64_t m = 0; m < M; m++) {
    for (int64_t n = 0; n < N; n++) {
      long double sum = 0, size = 0;
      for (size_t p = 0; p < Ks.size(); p++)
        for (int64_t k = 0; k < Ks[p]; k++) {
          const long double x = (long double)as[p].at(m, k) * bs[p].at(k, n);
          sum += x;
          size += fabsl(x);
        }
      sum *= alpha;
      size *= fabsl((long double)alpha);
      if (cin_form) {
        const long double x = cin.at(cin_form == 1 ? 0 : m, cin_form == 2 ? 0 : n);
        sum += x;
        size += fabsl(x);
      }
      if (after == After::kRelu && sum < 0) sum = 0;
      if (is_gate(after) && !(gate.at(m, n) > 0)) sum = gate.at(m, n) == 0 && after == After::kHalfGate ? sum / 2 : 0;
      if (!(fabsl(c[m * c_m + n] - sum) <= eps * (4 + sqrtl(size)) * (size + 1))) {
        printf("wrong at (%d, %d): %g, expected %Lg\n", int(m), int(n), double(c[m * c_m + n]), sum);
        return false;
      }
    }
    for (int64_t n = N; n < c_m && m + 1 < M; n++)
      if (c[m * c_m + n] != before[m * c_m + n]) return printf("wrote between the rows\n"), false;
  }

  // The same by its tiles.
  const GemmTiles<T> tiles = gemm_tiles(g);
  if (tiles.count) {
    std::vector<T> tiled = before;
    GemmArgs<T> h = g;
    GemmData<T> there = d;
    if (tiles.swapped) swap_roles(h, there);
    there.c = tiled.data();
    if (cin_form == 4) there.cin = there.c;
    for (int t = 0; t < tiles.count; t++) tiles.tile[t].run(h, there, tiles.tile[t].m0, tiles.tile[t].m1, tiles.tile[t].n0, tiles.tile[t].tail);
    if (memcmp(tiled.data(), c.data(), c.size() * sizeof(T))) return printf("bits depend on how tiles are called\n"), false;
    tiled_cases++;
  }

  // The same in two or three calls of fewer rows.
  std::vector<T> split = before;
  for (int64_t m = 0; m < M;) {
    const int64_t rows = 1 + next(uint32_t(M - m));
    GemmArgs<T> h = g;
    GemmData<T> part = d;
    h.m = rows;
    for (int p = 0; p < int(g.n_products); p++) part.factors[2 * p] += m * g.products[p].a_m;
    part.c = split.data() + m * c_m;
    if (cin_form) part.cin = (cin_form == 4 ? split.data() : d.cin) + m * g.cin_m;
    part.gate += m * g.gate_m;
    gemm(h, part);
    m += rows;
  }
  if (memcmp(split.data(), c.data(), c.size() * sizeof(T))) return printf("bits depend on the split of M\n"), false;
  return true;
}

template <class T>
static void run(int64_t M, int64_t N, const std::vector<int64_t>& Ks, const std::vector<int>& forms, int cin_form) {
  if (failures > 20) return;
  static const T alphas[] = {1, T(-.01), T(.5)};
  const T alpha = alphas[next(3)];
  const int64_t gap = next(3) ? 0 : 5;
  cases++;
  const After after = After(next(4));
  if (check<T>(M, N, Ks, forms, cin_form, gap, alpha, after)) return;
  failures++;
  printf("  %s m %d n %d cin %d c gap %d after %d", sizeof(T) == 4 ? "float" : "double", int(M), int(N), cin_form, int(gap), int(after));
  for (size_t p = 0; p < Ks.size(); p++) printf(" [k %d a %d b %d]", int(Ks[p]), forms[2 * p], forms[2 * p + 1]);
  printf("\n");
}

template <class T>
static void all() {
  for (int64_t M = 1; M <= 50; M++)
    for (int64_t N = 1; N <= 50; N++) {
      const int64_t K = next(6) ? next(50) : next(200);
      run<T>(M, N, {K}, {int(next(5)), int(next(5))}, int(next(6)));
      run<T>(M, N, {K, int64_t(next(60))}, {int(next(5)), int(next(5)), int(next(5)), int(next(5))}, int(next(6)));
    }
  for (int a = 0; a < 5; a++)  // every form of strides
    for (int b = 0; b < 5; b++)
      for (int cin = 0; cin < 6; cin++)
        for (int64_t K : {0, 1, 2, 7, 40, 65, 130, 300})
          for (int64_t N : {1, 5, 40, 67}) {
            run<T>(1 + next(30), N, {K}, {a, b}, cin);
            run<T>(1 + next(30), N, {K, 40, 3, K}, {a, b, b, a, a, b, int(next(5)), int(next(5))}, cin);
          }
  run<T>(3, 7, {}, {}, 3);  // no product at all
  run<T>(3, 7, {}, {}, 0);
  for (int b = 0; b < 3; b++) {
    run<T>(131, 257, {301}, {b, b}, 3);
    run<T>(301, 131, {257}, {0, b}, 0);
    run<T>(5, 784, {256}, {0, b}, 1);
    run<T>(300, 300, {1100}, {1, b}, 3);
  }
}

// How many cases fail; the first are told.
extern "C" int64_t compare_products(const Kernels* table) {
  kernels = table;
  state = 1;
  cases = tiled_cases = failures = 0;
  all<float>();
  all<double>();
  printf("%s: %d of %d cases failed, %d of them by tiles\n", table->name, int(failures), int(cases), int(tiled_cases));
  fflush(stdout);
  return failures;
}
