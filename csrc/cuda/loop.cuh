// LOOP: where its bases point, and a team that runs whole tasks.
#pragma once
#include "stages.cuh"

namespace fastmeta {
namespace device {

struct LoopWords {
  int64_t block, length, n_slices, n_swaps, n_sums;
  bool parallel, reverse;
  const int64_t *slices, *swaps, *sums;  // sums: base, dtype, count, target base, target offset

  FM_BOTH explicit LoopWords(const int64_t* instr) {
    block = instr[3], length = instr[4], parallel = instr[5] != 0, reverse = instr[6] != 0;
    n_slices = instr[7];
    slices = instr + 8;
    n_swaps = slices[n_slices];
    swaps = slices + n_slices + 1;
    n_sums = swaps[2 * n_swaps];
    sums = swaps + 2 * n_swaps + 1;
  }
};

// A group of tasks is summed in order by one team. How many groups there are depends on T and the size summed only, so the
// bits of a result do not depend on the device; there are more than on a CPU, as a device runs more teams.
constexpr int64_t kMostGroups = 4096, kMostSumBytes = int64_t{256} << 20;

FM_BOTH int64_t group_count(int64_t length, int64_t sum_bytes) {
  const int64_t groups = least(length, kMostGroups);
  return sum_bytes > 0 ? least(groups, most(1, quotient(kMostSumBytes, sum_bytes))) : groups;
}
// The first task of a group.
FM_BOTH int64_t group_start(int64_t group, int64_t groups, int64_t length) { return quotient(group * length, groups); }

// Memory of the teams (or of the tasks in flight), one after another.
struct Slots {
  char* arenas;
  char** bases;
  char* partials;
  Status* statuses;
  int64_t arena_bytes, partial_bytes;
};

FM_DEVICE Frame frame_of(const Program& p, const Slots& slots, int64_t slot, int64_t task) {
  return {slots.bases + slot * p.n_bases, slots.partials + slot * slots.partial_bytes, slots.statuses + slot, task, slots.arenas + slot * slots.arena_bytes};
}

// Bases that hold for all tasks of a group: those of the call, this slot's arena and the group's sums.
FM_DEVICE void open_group(const Team& team, const Program& p, const LoopWords& loop, const Frame& frame, char* const* roots, char* arena, char* sums) {
  for (int64_t k = team.lane; k < p.n_bases; k += team.lanes) {
    const int64_t* base = base_words(p, k);
    frame.bases[k] = base[0] == kArena ? arena : base[0] <= kShared ? roots[k] : nullptr;
  }
  team.sync();
  for (int64_t k = team.lane; k < loop.n_sums; k += team.lanes) {
    const int64_t base = loop.sums[5 * k];
    frame.bases[base] = sums + base_words(p, base)[1];
  }
}

// Bases of iteration k.
FM_DEVICE void set_slices(const Team& team, const Program& p, const LoopWords& loop, const Frame& frame, int64_t k, int64_t length) {
  const int64_t at = loop.reverse ? length - 1 - k : k;
  for (int64_t s = team.lane; s < loop.n_slices; s += team.lanes) {
    const int64_t* base = base_words(p, loop.slices[s]);
    frame.bases[loop.slices[s]] = frame.bases[base[1]] + base[2] + at * base[3];
  }
}

FM_DEVICE void open_carries(const Team& team, const Program& p, const LoopWords& loop, const Frame& frame) {
  for (int64_t k = team.lane; k < 2 * loop.n_swaps; k += team.lanes) {
    const int64_t* base = base_words(p, loop.swaps[k]);
    frame.bases[loop.swaps[k]] = frame.bases[base[1]] + base[2];
  }
}

FM_DEVICE void swap_carries(const Team& team, const LoopWords& loop, const Frame& frame) {
  for (int64_t k = team.lane; k < loop.n_swaps; k += team.lanes) {
    char*& x = frame.bases[loop.swaps[2 * k]];
    char*& y = frame.bases[loop.swaps[2 * k + 1]];
    char* const kept = x;
    x = y;
    y = kept;
  }
}

// `count` instructions from word `first` on and the loops in them by one team, without recursion: a device's stack is small.
FM_DEVICE void run_instructions(const Team& team, const Program& p, const Frame& frame, int64_t first, int64_t count, int64_t tasks) {
  constexpr int kDeepest = 33;
  struct Level {
    int64_t at, left, loop, k;  // next instruction, how many are left; the loop that runs this block, its iteration
  } levels[kDeepest];
  int depth = 0;
  levels[0] = {first, count, -1, 0};
  while (true) {
    Level& level = levels[depth];
    if (frame.status->ended) return;
    if (level.left > 0) {
      const int64_t at = level.at;
      level.at += p.words[at + 1];
      --level.left;
      if (p.words[at] != kLoop) {
        run_instruction<false>(team, frame, p.words, at);
        continue;
      }
      const LoopWords loop(p.words + at);
      const int64_t length = loop.length < 0 ? tasks : loop.length;
      if (length == 0) continue;
      open_carries(team, p, loop, frame);
      set_slices(team, p, loop, frame, 0, length);
      team.sync();
      levels[++depth] = {p.blocks[2 * loop.block], p.blocks[2 * loop.block + 1], at, 0};
      continue;
    }
    if (depth == 0) return;
    const LoopWords loop(p.words + level.loop);
    const int64_t length = loop.length < 0 ? tasks : loop.length;
    if (++level.k == length) {
      --depth;
      continue;
    }
    swap_carries(team, loop, frame);
    set_slices(team, p, loop, frame, level.k, length);
    team.sync();
    level.at = p.blocks[2 * loop.block];
    level.left = p.blocks[2 * loop.block + 1];
  }
}

// How a team runs a block: as the words say.
struct Interpreter {
  static constexpr bool kOwnBases = false;
  FM_DEVICE static void block(const Team& team, const Program& p, const Frame& frame, int64_t block, int64_t tasks) {
    run_instructions(team, p, frame, p.blocks[2 * block], p.blocks[2 * block + 1], tasks);
  }
};

// All tasks of one group of the parallel loop at `at`, in order; its sums start as zeros.
template <class Run> FM_DEVICE void run_group(const Team& team, const Program& p, int64_t at, Frame frame, char* const* roots, char* arena, char* sums, int64_t group, int64_t groups,
                         int64_t length) {
  const LoopWords loop(p.words + at);
  open_group(team, p, loop, frame, roots, arena, sums);
  const int64_t end = group_start(group + 1, groups, length);
  for (int64_t task = group_start(group, groups, length); task < end; ++task) {
    frame.task = loop.reverse ? length - 1 - task : task;
    set_slices(team, p, loop, frame, task, length);
    if (team.lane == 0) frame.status->ended = 0;
    team.sync();
    Run::block(team, p, frame, loop.block, length);
    team.sync();
  }
}

// DST = the sums of the groups, for kSumColumns neighbouring elements from kSumColumns * part on, and so on for every
// `parts`-th part. Groups are added in order within kSumRows runs of them, whose sums then are: it depends on their number only.
constexpr int kSumColumns = 8, kSumRows = kTeamLanes / kSumColumns;
FM_DEVICE void add_groups(const Team& team, const Program& p, const LoopWords& loop, int64_t sum, char* const* roots, const char* sums, int64_t sum_bytes, int64_t groups,
                          int64_t part, int64_t parts) {
  const int64_t* s = loop.sums + 5 * sum;
  const int64_t type = s[1], item = item_bytes(type), rows = least(kSumRows, groups);
  char* target = roots[s[3]] + s[4];
  const char* from = sums + base_words(p, s[0])[1];
  Word* const partials = reinterpret_cast<Word*>(team.stage);
  for (; part * kSumColumns < s[2]; part += parts) {
    for (int id = team.lane; id < kSumColumns * kSumRows; id += team.lanes) {
      const int64_t k = part * kSumColumns + id % kSumColumns, row = id / kSumColumns;
      if (k >= s[2] || row >= rows) continue;
      const int64_t first = quotient(row * groups, rows), end = quotient((row + 1) * groups, rows);
      Word total = read_word(from + first * sum_bytes + k * item, type);
      FM_UNROLL_BY(8) for (int64_t g = first + 1; g < end; ++g) total = combine_words(kSumMode, type, total, read_word(from + g * sum_bytes + k * item, type));
      partials[id] = total;
    }
    team.sync();
    for (int id = team.lane; id < kSumColumns; id += team.lanes) {
      const int64_t k = part * kSumColumns + id;
      if (k >= s[2]) break;
      Word total = rows > 0 ? partials[id] : identity(kSumMode, type);
      for (int64_t row = 1; row < rows; ++row) total = combine_words(kSumMode, type, total, partials[row * kSumColumns + id]);
      write_word(target + k * item, type, total);
    }
    team.sync();
  }
}

}  // namespace device
}  // namespace fastmeta
