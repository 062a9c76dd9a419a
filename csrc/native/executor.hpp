// Runs a plan: blocks, loops, groups of tasks, workers.
#pragma once
#include <memory>
#include <vector>

#include "../plan.hpp"
#include "kernels.hpp"
#include "tape.hpp"
#include "worker.hpp"

namespace fastmeta {

const Kernels* kernels_by_name(const char* name);  // nullptr where this build or processor lacks them
const Kernels* best_kernels();

// Bytes that a run holds besides inputs and outputs. Arenas and scratch belong to the workers.
struct Footprint {
  int64_t arenas = 0, scratch = 0, shared = 0, sums = 0, constants = 0;
};

// A plan with kernels chosen for one instruction set. Immutable: any number of calls may run it at once.
class Program {
 public:
  Program(std::shared_ptr<const PlanSpec> plan, const char* consts, const Kernels* kernels, bool winograd);
  ~Program();

  const Kernels* kernels() const { return kernels_; }
  const PlanSpec& plan() const { return *plan_; }
  bool winograd() const { return winograd_; }  // may convolutions use it?

  // `pointers`: one per input, then one per output; all as the plan says, with T = call.length. Afterwards `call` tells
  // of a bad index; other errors are thrown.
  void run(Call& call, char* const* pointers, PoolLease& pool, Profile* profile = nullptr) const;
  // What run reserves and touches for T = length, with `threads` threads.
  Footprint footprint(int64_t length, int threads) const;
  // Bases that are the arena: they differ from worker to worker.
  const std::vector<int>& arenas() const { return arenas_; }
  void run_block(int block, Worker& worker) const;

 private:
  std::shared_ptr<const PlanSpec> plan_;
  const char* consts_;
  const Kernels* kernels_;
  bool winograd_;
  struct Step {
    std::unique_ptr<Instruction> instruction;  // nullptr: it is on the tape
    size_t begin, end;                         // there
  };
  void run_step(const Step& step, Worker& worker) const {
    if (step.instruction) step.instruction->run(worker);
    else tape_.run(worker, step.begin, step.end);
  }
  std::vector<std::vector<Step>> blocks_;
  Tape tape_;
  std::vector<int> arenas_;
  int64_t scratch_bytes_ = 0, packed_bytes_ = 0;
};

}  // namespace fastmeta
