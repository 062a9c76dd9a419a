// The kernels of one target, in one table.
#include "target.hpp"

#define FASTMETA_JOIN_NAMES_(a, b) a##b
#define FASTMETA_JOIN_NAMES(a, b) FASTMETA_JOIN_NAMES_(a, b)
#define FASTMETA_STRING_(a) #a
#define FASTMETA_STRING(a) FASTMETA_STRING_(a)

namespace fastmeta {
namespace FASTMETA_TARGET {

#include "conv.hpp"
#include "winograd_tiles.hpp"
#include "depthwise_tiles.hpp"
#include "distance_tiles.hpp"
#include "distance_panels.hpp"
#include "long_cosines.hpp"
#include "packed_rows.hpp"
#include "packed_distances.hpp"
#include "distances.hpp"
#include "weighted_rows.hpp"
#include "inverse_tiles.hpp"
#include "pull_products.hpp"
#include "pull_tiles.hpp"
#include "proto_rows.hpp"
#include "proto_tiles.hpp"
#include "ranks.hpp"
#include "rows.hpp"
#include "tiles.hpp"
#include "../generated/elementwise.hpp"

__attribute__((noinline)) static Kernels make_kernels() {
  Kernels k{};
  k.name = FASTMETA_STRING(FASTMETA_TARGET);
  fill_gemm(k);
  k.conv_f32 = conv<float>;
  k.conv_f64 = conv<double>;
  fill_winograd(k);
  fill_depthwise(k);
  fill_distances(k);
  fill_pulls(k);
  fill_pulls_by_products(k);
  fill_protos(k);
  fill_inverses(k);
  fill_ranks(k);
  fill_rows(k);
  fill_elementwise(k);
  fill_tiles(k);
  return k;
}

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

// Made when it is asked for, and never where it could not run: this file's instructions are the target's.
const Kernels* FASTMETA_JOIN_NAMES(kernels_, FASTMETA_TARGET)() {
  if (!FASTMETA_TARGET::available(FASTMETA_STRING(FASTMETA_TARGET))) return nullptr;
  static const Kernels table = FASTMETA_TARGET::make_kernels();
  return &table;
}

}  // namespace fastmeta
