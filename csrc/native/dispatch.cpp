// Which kernels a program runs with: each target says itself whether this processor has what it needs.
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "executor.hpp"

namespace fastmeta {

#ifdef FASTMETA_NO_AVX2  // not compiled in this build
const Kernels* kernels_avx2() { return nullptr; }
#endif
#ifdef FASTMETA_NO_AVX512
const Kernels* kernels_avx512() { return nullptr; }
#endif

namespace {

// For processors that run a 512-bit instruction in two halves, so that an empty half takes as long as a full one: products
// of fewer than four full vectors, whose last would be at most half full, are avx2's; in longer rows the larger tiles of
// avx512 are worth more.  N decides, or how many tasks are side by side, which is the same for every part of a product.
template <class T>
const Kernels& for_product(const GemmArgs<T>& args) {
  constexpr int64_t lanes = 64 / sizeof(T);
  const int64_t n = args.lanes > 1 ? args.lanes : args.n;
  static const Kernels &narrow = *kernels_avx2(), &wide = *kernels_avx512();
  return n < 4 * lanes && (n - 1) % lanes < lanes / 2 ? narrow : wide;
}

Kernels make_halves() {
  Kernels k = *kernels_avx512();
  k.name = "avx512-halves";
  k.gemm_f32 = [](const GemmArgs<float>& args, const GemmData<float>& data) { for_product(args).gemm_f32(args, data); };
  k.gemm_f64 = [](const GemmArgs<double>& args, const GemmData<double>& data) { for_product(args).gemm_f64(args, data); };
  k.gemm_tiles_f32 = [](const GemmArgs<float>& args) { return for_product(args).gemm_tiles_f32(args); };
  k.gemm_tiles_f64 = [](const GemmArgs<double>& args) { return for_product(args).gemm_tiles_f64(args); };
  return k;
}

const Kernels* kernels_halves() {
  if (!kernels_avx512() || !kernels_avx2()) return nullptr;
  static const Kernels table = make_halves();
  return &table;
}

// AMD's Zen 4 is its only family 25 with AVX-512.
bool runs_in_halves() {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx) return false;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const unsigned family = (a >> 8 & 15) + (a >> 20 & 255);
  return family == 25;
#else
  return false;
#endif
}

}  // namespace

const Kernels* best_kernels() {
  if (const Kernels* kernels = runs_in_halves() ? kernels_halves() : kernels_avx512()) return kernels;
  if (const Kernels* kernels = kernels_avx2()) return kernels;
  return kernels_baseline();
}

const Kernels* kernels_by_name(const char* name) {
  if (std::strcmp(name, "baseline") == 0) return kernels_baseline();
  if (std::strcmp(name, "avx2") == 0) return kernels_avx2();
  if (std::strcmp(name, "avx512") == 0) return kernels_avx512();
  if (std::strcmp(name, "avx512-halves") == 0) return kernels_halves();
  return nullptr;
}

}  // namespace fastmeta
