// Entry points for a build at run time (fastmeta/backends/cupy.py): way (a) only, since there is no compiled host side that
// could walk the instructions. Arguments are plain numbers and addresses.
#pragma once
#include "kernels.cuh"

#if defined(__CUDACC__)
using fastmeta::device::Status;

// What stands outside the parallel loops: `count` instructions from word `at` on, by one team.
extern "C" __global__ void __launch_bounds__(256) fastmeta_block(const int64_t* words, const int64_t* blocks, int64_t bases_at, int64_t n_bases, char** roots,
                                                                 char* partials, Status* statuses, int64_t at, int64_t count, int64_t length) {
  using namespace fastmeta::device;
  __shared__ __align__(16) char stage[kStageBytes];
  const Program program{words, blocks, bases_at, n_bases};
  const Frame frame{roots, partials, statuses, -1};
  run_instructions(Team{int(threadIdx.x), int(blockDim.x), stage}, program, frame, at, count, length);
}

// The parallel loop at word `at`; with `fast` the arena is the block's own memory.
extern "C" __global__ void __launch_bounds__(256) fastmeta_tasks(const int64_t* words, const int64_t* blocks, int64_t bases_at, int64_t n_bases, char** roots,
                                                                 char* arenas, char** bases, char* partials, Status* statuses, int64_t arena_bytes, char* sums,
                                                                 int64_t sum_bytes, int64_t groups, int64_t at, int64_t length, int64_t fast) {
  using namespace fastmeta::device;
  extern __shared__ __align__(256) char arena[];
  __shared__ __align__(16) char stage[kStageBytes];
  const Program program{words, blocks, bases_at, n_bases};
  const TasksKernel<Interpreter> kernel{{program, at, roots, Slots{arenas, bases, partials, statuses, arena_bytes, kPartials * 8}, sums, sum_bytes, groups, length}};
  kernel(Team{int(threadIdx.x), int(blockDim.x), stage}, Grid{blockIdx.x, blockIdx.y, gridDim.x, gridDim.y}, fast ? arena : nullptr);
}

// The sums of the parallel loop at word `at` over its groups, number y of them.
extern "C" __global__ void __launch_bounds__(256) fastmeta_sums(const int64_t* words, const int64_t* blocks, int64_t bases_at, int64_t n_bases, char** roots,
                                                                const char* sums, int64_t sum_bytes, int64_t groups, int64_t at) {
  using namespace fastmeta::device;
  __shared__ __align__(16) char stage[kTeamLanes * sizeof(Word)];
  const SumsKernel kernel{Program{words, blocks, bases_at, n_bases}, at, roots, sums, sum_bytes, groups};
  kernel(Team{int(threadIdx.x), int(blockDim.x), stage}, Grid{blockIdx.x, blockIdx.y, gridDim.x, gridDim.y}, nullptr);
}
#endif
