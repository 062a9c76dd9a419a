// What the sources of one target begin with: they are compiled once per target with -DFASTMETA_TARGET=baseline, avx2 or
// avx512 and its flags.
//
// Everything behind these includes lives in the target's namespace; no inline library function may be called there, or the
// linker could take the copy of another target.
#pragma once
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

namespace fastmeta {
namespace FASTMETA_TARGET {

#include "simd.hpp"
#include "vmath.hpp"
#include "gemm.hpp"

void fill_gemm(Kernels& kernels);  // gemm_kernels.cpp: apart, so that two cores share the compiling

}  // namespace FASTMETA_TARGET
}  // namespace fastmeta
