// An instruction as stages, one after another; a stage is units of work that do not depend on each other. How many there
// are is a function of shapes, so one team that takes all of them and many that take one each give the same bits.
#pragma once
#include "conv.cuh"
#include "gemm.cuh"
#include "index.cuh"
#include "pass.cuh"

namespace fastmeta {
namespace device {

enum StageKind { kStoreStage = 0, kReduceStage, kCombineStage, kGemmStage, kConvStage, kCheckStage, kEndStage, kGatherStage, kColumnStage, kOrderStage };

struct Stage {
  int kind;
  int store = 0;  // of a reduction
  int64_t at;     // word of the phase, else of the instruction
  int64_t units;
};

// The stages of the instruction at `at`, in order. Loops have none.
class Stages {
 public:
  FM_BOTH Stages(const int64_t* words, int64_t at) : words_(words), instr_(at) {
    const int64_t* instr = words + at;
    if (instr[0] == kPass) set_phases(instr + 3);
    else if (instr[0] == kGemm) set_phases(GemmWords(instr).phases);
    else if (instr[0] == kConv) set_phases(ConvWords(instr).phases);
  }
  FM_BOTH bool next(Stage& stage) {
    const int64_t* instr = words_ + instr_;
    if (step_ == 0 && instr[0] != kPass) return head(stage, instr);
    while (phase_ < n_phases_) {
      const PhaseWords p(words_ + at_);
      if (phase_stage(stage, p)) return true;
      ++phase_;
      store_ = 0;
      combine_ = false;
      at_ = p.end - words_;
    }
    return false;
  }

 private:
  FM_BOTH void set_phases(const int64_t* words) {
    n_phases_ = words[0];
    at_ = words + 1 - words_;
  }
  // What comes before the phases.
  FM_BOTH bool head(Stage& stage, const int64_t* instr) {
    const int step = head_++;
    stage.at = instr_;
    switch (instr[0]) {
      case kGemm:
        step_ = 1;
        stage.kind = kGemmStage;
        stage.units = GemmWords(instr).units();
        return true;
      case kConv:
        step_ = 1;
        stage.kind = kConvStage;
        stage.units = ConvWords(instr).units();
        return true;
      case kGather:
      case kScatter:
        if (step < 2) {
          stage.kind = step == 0 ? kCheckStage : kEndStage;
          stage.units = step == 0 ? parts_of(IndexWords(instr).indices(), kIndexUnit) : 1;
          return true;
        }
        step_ = 1;
        stage.kind = instr[0] == kGather ? kGatherStage : kColumnStage;
        stage.units = parts_of(instr[0] == kGather ? IndexWords(instr).indices() : column_count(instr), kIndexUnit);
        return true;
      case kCumsum:
      case kArgReduce:
        step_ = 1;
        stage.kind = kColumnStage;
        stage.units = parts_of(column_count(instr), kIndexUnit);
        return true;
      case kOrder:
        step_ = 1;
        stage.kind = kOrderStage;
        stage.units = parts_of(OrderWords(instr).elements(), kIndexUnit);
        return true;
      default: return false;
    }
  }
  // Each reducing store, and its second half where it is cut; then the plain stores at once.
  FM_BOTH bool phase_stage(Stage& stage, const PhaseWords& p) {
    stage.at = at_;
    const Space space(p);
    while (store_ < p.n_stores && p.mode(store_) == kStoreMode) plain_ = true, ++store_;
    if (store_ < p.n_stores) {
      const Reduction r(space, p.target(store_));
      stage.store = store_;
      stage.kind = combine_ ? kCombineStage : kReduceStage;
      stage.units = parts_of(combine_ ? r.kept : r.kept * r.segments, kTeamLanes);
      if (r.segments > 1 && !combine_) combine_ = true;
      else combine_ = false, ++store_;
      return true;
    }
    if (!plain_) return false;
    plain_ = false;
    stage.store = 0;
    stage.kind = kStoreStage;
    stage.units = parts_of(space.elements(), kUnitElements);
    return true;
  }

  const int64_t* words_;
  int64_t instr_, at_ = 0, n_phases_ = 0, phase_ = 0;
  int step_ = 0, head_ = 0, store_ = 0;
  bool combine_ = false, plain_ = false;
};

FM_NOINLINE void run_index_unit(const Team& team, const Frame& frame, const int64_t* instr, int kind, int64_t unit) {
  switch (kind) {
    case kCheckStage: return check_unit(team, frame, instr, unit);
    case kEndStage: return end_at_bad_index(team, frame, instr);
    case kGatherStage: return gather_unit(team, frame, instr, unit);
    case kOrderStage: return order_unit(team, frame, instr, unit);
    default: return column_unit(team, frame, instr, unit);
  }
}

FM_NOINLINE void run_unit(const Team& team, const Frame& frame, const int64_t* words, const Stage& stage, int64_t unit) {
  const int64_t* at = words + stage.at;
  switch (stage.kind) {
    case kStoreStage: return store_unit(team, frame, at, unit);
    case kReduceStage: return reduce_unit(team, frame, at, stage.store, unit);
    case kCombineStage: return combine_unit(team, frame, at, stage.store, unit);
    case kGemmStage: return at[3] == kF32 ? gemm_unit<float>(team, frame, at, unit) : gemm_unit<double>(team, frame, at, unit);
    case kConvStage: return at[3] == kF32 ? conv_unit<float>(team, frame, at, unit) : conv_unit<double>(team, frame, at, unit);
    default: return run_index_unit(team, frame, at, stage.kind, unit);
  }
}

// The whole instruction by one team; `OfIndices`: it is one of index.cuh's.
template <bool OfIndices> FM_NOINLINE void run_instruction(const Team& team, const Frame& frame, const int64_t* words, int64_t at) {
  Stages stages(words, at);
  for (Stage stage; stages.next(stage);) {
    for (int64_t unit = 0; unit < stage.units; ++unit) {
      if constexpr (OfIndices) run_index_unit(team, frame, words + stage.at, stage.kind, unit);
      else run_unit(team, frame, words, stage, unit);
    }
    team.sync();
    if (stage.kind == kEndStage && frame.status->ended) return;
  }
}


}  // namespace device
}  // namespace fastmeta
