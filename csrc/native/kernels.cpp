// The kernels of one target.  Compiled once per target with -DFASTMETA_TARGET=baseline, avx2 or avx512 and its flags.
//
// Everything below the includes lives in the target's namespace; no inline library function may be called there, or the
// linker could take the copy of another target.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.hpp"

#ifndef FASTMETA_TARGET
#define FASTMETA_TARGET baseline
#endif
#define FASTMETA_JOIN_NAMES_(a, b) a##b
#define FASTMETA_JOIN_NAMES(a, b) FASTMETA_JOIN_NAMES_(a, b)
#define FASTMETA_STRING_(a) #a
#define FASTMETA_STRING(a) FASTMETA_STRING_(a)

namespace fastmeta {
namespace FASTMETA_TARGET {

#include "simd.hpp"
#include "gemm.hpp"
#include "conv.hpp"
#include "winograd_tiles.hpp"
#include "vmath.hpp"
#include "distance_tiles.hpp"
#include "distance_panels.hpp"
#include "weighted_rows.hpp"
#include "pull_products.hpp"
#include "pull_tiles.hpp"
#include "proto_tiles.hpp"
#include "rows.hpp"
#include "tiles.hpp"
#include "../generated/elementwise.hpp"

constexpr Kernels make_kernels() {
  Kernels k{};
  k.name = FASTMETA_STRING(FASTMETA_TARGET);
  k.gemm_f32 = gemm<float>;
  k.gemm_f64 = gemm<double>;
  k.gemm_tiles_f32 = gemm_tiles<float>;
  k.gemm_tiles_f64 = gemm_tiles<double>;
  k.conv_f32 = conv<float>;
  k.conv_f64 = conv<double>;
  fill_winograd(k);
  fill_distances(k);
  fill_pulls(k);
  fill_pulls_by_products(k);
  fill_protos(k);
  fill_rows(k);
  fill_elementwise(k);
  fill_tiles(k);
  return k;
}
static constexpr Kernels table = make_kernels();

// Whether this machine runs what this build of the file contains, and the file contains what its name says.
static bool available(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (name[0] == 'b') return true;
#if FASTMETA_LANES_BYTES == 64
  return name[3] == '5' && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#elif FASTMETA_LANES_BYTES == 32
  return name[3] == '2' && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
#else
  return name[0] == 'b';
#endif
}

}  // namespace FASTMETA_TARGET

const Kernels* FASTMETA_JOIN_NAMES(kernels_, FASTMETA_TARGET)() {
  return FASTMETA_TARGET::available(FASTMETA_TARGET::table.name) ? &FASTMETA_TARGET::table : nullptr;
}

}  // namespace fastmeta
