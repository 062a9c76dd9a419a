// Cycles and percent of the FMA peak for the shapes that matter, float32.  Rounds over all shapes are interleaved; the
// peak is measured right before and after each shape, because clocks drift: the median of the ratio, and the least cycles.
//   g++ -std=c++17 -O2 -ffp-contract=fast -I csrc/native -mavx2 -mfma bench/cpp/gemm_bench.cpp && ./a.out [filter]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>
#include <string>
#include <vector>
#include <x86intrin.h>
#include "kernels.hpp"

namespace fastmeta {
namespace target {
#include "simd.hpp"
#include "vmath.hpp"
#include "gemm.hpp"
}  // namespace target
}  // namespace fastmeta
using namespace fastmeta;
using target::Simd;

// FMAs per cycle of the clock, times 2 * lanes: floating-point operations per cycle
static double peak() {
  using S = Simd<float>;
  S::V acc[12], x = S::splat(.5f), y = S::splat(1e-3f);
  FASTMETA_UNROLL
  for (int j = 0; j < 12; j++) acc[j] = S::splat(1);
  const uint64_t start = __rdtsc();
  for (int i = 0; i < 500; i++) {
    FASTMETA_UNROLL
    for (int j = 0; j < 12; j++) {
      acc[j] = S::fma(acc[j], x, y);
      FASTMETA_PIN(acc[j]);
    }
    FASTMETA_PIN(x);
    FASTMETA_PIN(y);
  }
  const double cycles = double(__rdtsc() - start);
  volatile float sink = 0;
  FASTMETA_UNROLL
  for (int j = 0; j < 12; j++) sink = sink + acc[j][0];
  return 500. * 12 * 2 * S::lanes / cycles;
}

struct Case {
  const char* what;
  int64_t m, n, k;
  char form;  // N: A and B row-major; A: A^T B; B: A B^T
  int products;
  int cin;  // 0 none, 1 row, 2 dense
  std::vector<float> data;
  GemmArgs<float> g{};
  GemmData<float> d{};
  double best = 1e30;
  std::vector<double> of_peak;

  void prepare() {
    // Matrices start on cache lines, rows are dense.
    auto whole = [](int64_t size) { return (size + 15) / 16 * 16; };
    data.resize(size_t(products * (whole(m * k) + whole(k * n)) + 2 * whole(m * n) + 16));
    for (size_t i = 0; i < data.size(); i++) data[i] = float(int(i * 7919 % 2001) - 1000) / 1000;
    float* p = (float*)((uintptr_t(data.data()) + 63) / 64 * 64);
    g.m = m, g.n = n, g.n_products = products, g.alpha = cin == 2 ? -.01f : 1;
    for (int i = 0; i < products; i++) {
      d.factors[2 * i] = p, d.factors[2 * i + 1] = p + whole(m * k);
      g.products[i] = {k, k, 1, n, 1};
      if (form == 'A') g.products[i].a_m = 1, g.products[i].a_k = m;
      if (form == 'B') g.products[i].b_k = 1, g.products[i].b_n = k;
      p += whole(m * k) + whole(k * n);
    }
    d.c = p, g.c_m = n;
    if (cin) d.cin = p + whole(m * n), g.cin_m = cin == 1 ? 0 : n, g.cin_n = 1;
  }
  double flops() const { return 2. * double(m * n * k) * products; }
  void round() {
    int repeats = int(4e4 / (flops() / 32 + 100)) + 1;
    for (int i = 0; i < (repeats > 20 ? 3 : 1); i++) target::gemm(g, d);
    const double before = peak();
    const uint64_t start = __rdtsc();
    for (int i = 0; i < repeats; i++) target::gemm(g, d);
    const double cycles = double(__rdtsc() - start) / repeats;
    const double after = peak();
    of_peak.push_back(100 * flops() / cycles / (before > after ? before : after));
    if (cycles < best) best = cycles;
  }
};

int main(int argc, char** argv) {
  std::vector<Case> cases = {
      {"forward", 10, 40, 40, 'N', 1, 1}, {"R-forward", 10, 40, 40, 'N', 2, 1}, {"backward data", 10, 40, 40, 'B', 1, 0},
      {"R-backward data", 10, 40, 40, 'B', 2, 0}, {"weight gradient", 40, 40, 10, 'A', 1, 2},
      {"R-weight gradient", 40, 40, 10, 'A', 2, 2}, {"outer", 10, 40, 1, 'N', 1, 1}, {"outer^T", 10, 40, 1, 'B', 1, 0},
      {"first layer", 1, 40, 10, 'A', 1, 2}, {"last layer gradient", 40, 1, 10, 'A', 1, 2},
      {"last layer", 10, 1, 40, 'N', 1, 1}, {"", 5, 40, 40, 'N', 1, 1}, {"", 10, 64, 64, 'N', 1, 1}, {"", 64, 64, 10, 'A', 1, 2},
      {"", 10, 128, 128, 'N', 1, 1}, {"", 10, 128, 128, 'B', 1, 0}, {"", 128, 128, 10, 'A', 1, 2}, {"", 5, 32, 32, 'N', 1, 1},
      {"", 25, 5, 64, 'N', 1, 1}, {"", 64, 5, 25, 'A', 1, 2}, {"", 25, 64, 5, 'B', 1, 0}, {"", 20, 10, 20, 'N', 1, 1},
      {"", 25, 20, 50, 'N', 1, 1}, {"", 25, 50, 20, 'N', 1, 1},
      {"", 5, 256, 784, 'N', 1, 1}, {"", 10, 256, 784, 'N', 1, 1}, {"", 784, 256, 5, 'A', 1, 2}, {"", 25, 256, 784, 'N', 1, 1}, {"", 784, 256, 25, 'A', 1, 2},
      {"", 5, 784, 256, 'B', 1, 0}, {"", 25, 784, 256, 'B', 1, 0}, {"", 25, 128, 256, 'N', 1, 1},
      {"", 256, 128, 25, 'A', 1, 2}, {"", 60, 64, 64, 'N', 1, 1}, {"", 60, 64, 64, 'B', 1, 0},
      {"", 256, 256, 256, 'N', 1, 0}, {"", 256, 256, 256, 'A', 1, 0}, {"", 256, 256, 256, 'B', 1, 0},
      {"", 512, 512, 512, 'N', 1, 0}, {"", 512, 512, 512, 'A', 1, 0}, {"", 512, 512, 512, 'B', 1, 0},
      {"", 1024, 1024, 1024, 'N', 1, 0}, {"", 1024, 1024, 1024, 'A', 1, 0}, {"", 1024, 1024, 1024, 'B', 1, 0}};
  std::vector<Case*> chosen;
  for (Case& c : cases) {
    char name[100];
    snprintf(name, sizeof name, "%dx%dx%d%c", int(c.m), int(c.n), int(c.k), c.form);
    if (argc > 1 && !strstr(name, argv[1])) continue;
    c.prepare();
    chosen.push_back(&c);
  }
  double best = 0;
  for (int r = 0; r < 300; r++) {
    const double p = peak();
    if (p > best) best = p;
    for (Case* c : chosen)
      if (c->flops() * r < 8e9) c->round();
  }
  printf("%d-byte vectors, peak %.1f flop per tsc cycle\n%-22s %-18s %12s %8s %8s\n", FASTMETA_LANES_BYTES, best, "",
         "m x n x k", "cycles", "of peak", "best");
  for (Case* c : chosen) {
    std::sort(c->of_peak.begin(), c->of_peak.end());
    printf("%-22s %4dx%4dx%4d %c P%d %12.0f %7.1f%% %7.1f%%\n", c->what, int(c->m), int(c->n), int(c->k), c->form, c->products,
           c->best, c->of_peak[c->of_peak.size() / 2], c->of_peak.back());
  }
}
