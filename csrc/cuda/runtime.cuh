// What a host side without nvcc launches beside the text of a plan (fastmeta/backends/cupy.py).
#pragma once
#include "fixed.cuh"

FM_ENTRY(fastmeta_open, 256, 1, 16, fastmeta::device::OpenKernel)
FM_ENTRY(fastmeta_iterate, 256, 1, 16, fastmeta::device::IterateKernel)
FM_ENTRY(fastmeta_sums, 256, 1, 256 * sizeof(fastmeta::device::Word), fastmeta::device::SumsKernel)
