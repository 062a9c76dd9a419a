// Which kernels a program runs with: each target says itself whether this processor has what it needs.
#include <cstring>

#include "executor.hpp"

namespace fastmeta {

#ifdef FASTMETA_NO_AVX2  // not compiled in this build
const Kernels* kernels_avx2() { return nullptr; }
#endif
#ifdef FASTMETA_NO_AVX512
const Kernels* kernels_avx512() { return nullptr; }
#endif

const Kernels* best_kernels() {
  if (const Kernels* kernels = kernels_avx512()) return kernels;
  if (const Kernels* kernels = kernels_avx2()) return kernels;
  return kernels_baseline();
}

const Kernels* kernels_by_name(const char* name) {
  if (std::strcmp(name, "baseline") == 0) return kernels_baseline();
  if (std::strcmp(name, "avx2") == 0) return kernels_avx2();
  if (std::strcmp(name, "avx512") == 0) return kernels_avx512();
  return nullptr;
}

}  // namespace fastmeta
