// The products of matrices of one target.
#include "target.hpp"

namespace fastmeta {
namespace FASTMETA_TARGET {

void fill_gemm(Kernels& k) {
  k.gemm_f32 = gemm<float>;
  k.gemm_f64 = gemm<double>;
  k.gemm_tiles_f32 = gemm_tiles<float>;
  k.gemm_tiles_f64 = gemm_tiles<double>;
}

}  // namespace FASTMETA_TARGET
}  // namespace fastmeta
