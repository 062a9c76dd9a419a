// What is launched. Each kernel is a function object, called once by every team of a grid: blocks of a device, or a loop.
#pragma once
#include "loop.cuh"

namespace fastmeta {
namespace device {

struct Grid {
  int64_t x, y, width, height;  // this team's place, and how many there are
};

// Way (a), resident: each team runs whole groups of tasks, one after another.
struct TasksArguments {
  Program program;
  int64_t loop;
  char** roots;
  Slots slots;
  char* sums;
  int64_t sum_bytes, groups, length;
};
template <class Run> struct TasksKernel : TasksArguments {
  FM_DEVICE void operator()(const Team& team, const Grid& grid, char* fast_arena) const {
    char* arena = fast_arena ? fast_arena : slots.arenas + grid.x * slots.arena_bytes;
    Frame frame = frame_of(program, slots, grid.x, -1);
    if (Run::kOwnBases) frame.bases = reinterpret_cast<char**>(team.stage);
    for (int64_t group = grid.x; group < groups; group += grid.width) {
      run_group<Run>(team, program, loop, frame, roots, arena, sums + group * sum_bytes, group, groups, length);
      team.sync();
    }
  }
};

// Way (b), instruction by instruction: slot y holds task `round` of group `first_group + y`; teams along x share its units.
struct OpenKernel {
  Program program;
  int64_t loop;
  char** roots;
  Slots slots;
  char* sums;
  int64_t sum_bytes, groups, length, first_group, round;
  int64_t* tasks;  // by slot

  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    const Frame frame = frame_of(program, slots, grid.y, -1);
    const LoopWords words(program.words + loop);
    const int64_t group = first_group + grid.y, task = group_start(group, groups, length) + round;
    const bool there = task < group_start(group + 1, groups, length);
    open_group(team, program, words, frame, roots, slots.arenas + grid.y * slots.arena_bytes, sums + group * sum_bytes);
    if (there) set_slices(team, program, words, frame, task, length);
    if (team.lane != 0) return;
    frame.status->ended = !there;
    tasks[grid.y] = words.reverse ? length - 1 - task : task;
  }
};

// Iteration k of a loop inside a task.
struct IterateKernel {
  Program program;
  int64_t loop, k, length;
  Slots slots;

  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    // Also where the task has ended: whoever looks at all slots finds addresses.
    const Frame frame = frame_of(program, slots, grid.y, -1);
    const LoopWords words(program.words + loop);
    if (k == 0) open_carries(team, program, words, frame);
    else swap_carries(team, words, frame);
    set_slices(team, program, words, frame, k, length);
  }
};

struct StageKernel {
  Program program;
  Stage stage;
  Slots slots;
  const int64_t* tasks;

  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    const Frame frame = frame_of(program, slots, grid.y, tasks ? tasks[grid.y] : -1);
    if (frame.status->ended) return;
    for (int64_t unit = grid.x; unit < stage.units; unit += grid.width) run_unit(team, frame, program.words, stage, unit);
  }
};

// Bases of the call: `count` from number `first` on.
struct RootsKernel {
  static constexpr int kMost = 64;
  char* values[kMost];
  int64_t first, count;
  char** roots;

  FM_DEVICE void operator()(const Team& team, const Grid&, char*) const {
    for (int64_t k = team.lane; k < count; k += team.lanes) roots[first + k] = values[k];
  }
};

// Sum number y of the loop.
struct SumsKernel {
  Program program;
  int64_t loop;
  char** roots;
  const char* sums;
  int64_t sum_bytes, groups;

  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    add_groups(team, program, LoopWords(program.words + loop), grid.y, roots, sums, sum_bytes, groups, grid.x, grid.width);
  }
};

}  // namespace device
}  // namespace fastmeta
