#include "executor.hpp"

#include <algorithm>

#include "convolution.hpp"
#include "depthwise.hpp"
#include "distance.hpp"
#include "index.hpp"
#include "inverse.hpp"
#include "loop.hpp"
#include "pass.hpp"
#include "product.hpp"
#include "proto.hpp"
#include "subnormals.hpp"
#include "winograd.hpp"

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace fastmeta {

namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(30);

template <class... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <class... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

std::unique_ptr<Instruction> bind(const Instr& instr, const Kernels& kernels, const Program& program) {
  const int tag = instr.tag;
  return std::visit(
      Overloaded{
          [&](const PassSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<Pass>(tag, s, kernels); },
          [&](const GemmSpec& s) -> std::unique_ptr<Instruction> {
            if (s.dtype == F32) return std::make_unique<Gemm<float>>(tag, s, kernels);
            return std::make_unique<Gemm<double>>(tag, s, kernels);
          },
          [&](const ConvSpec& s) -> std::unique_ptr<Instruction> {
            if (const int64_t side = program.winograd() ? Winograd::side(s) : 0) return std::make_unique<Winograd>(tag, s, kernels, side);
            if (s.dtype == F32) return std::make_unique<Convolution<float>>(tag, s, kernels);
            return std::make_unique<Convolution<double>>(tag, s, kernels);
          },
          [&](const GatherSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<Gather>(tag, s, kernels); },
          [&](const ScatterSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<Scatter>(tag, s, kernels); },
          [&](const CumsumSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<Cumsum>(tag, s); },
          [&](const ArgReduceSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<ArgReduce>(tag, s); },
          [&](const OrderSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<Order>(tag, s, kernels); },
          [&](const DistanceSpec& s) -> std::unique_ptr<Instruction> {
            if (s.dtype == F32) return std::make_unique<Distance<float>>(tag, s, kernels);
            return std::make_unique<Distance<double>>(tag, s, kernels);
          },
          [&](const PullSpec& s) -> std::unique_ptr<Instruction> {
            if (s.dtype == F32) return std::make_unique<Pull<float>>(tag, s, kernels, program.plan());
            return std::make_unique<Pull<double>>(tag, s, kernels, program.plan());
          },
          [&](const ProtoSpec& s) -> std::unique_ptr<Instruction> {
            if (s.dtype == F32) return std::make_unique<Proto<float>>(tag, s, kernels, program.plan());
            return std::make_unique<Proto<double>>(tag, s, kernels, program.plan());
          },
          [&](const InverseSpec& s) -> std::unique_ptr<Instruction> {
            if (s.dtype == F32) return std::make_unique<Inverse<float>>(tag, s, kernels);
            return std::make_unique<Inverse<double>>(tag, s, kernels);
          },
          [&](const DepthwiseSpec& s) -> std::unique_ptr<Instruction> {
            if (s.dtype == F32) return std::make_unique<Depthwise<float>>(tag, s, kernels);
            return std::make_unique<Depthwise<double>>(tag, s, kernels);
          },
          [&](const LoopSpec& s) -> std::unique_ptr<Instruction> { return std::make_unique<Loop>(tag, s, program); },
      },
      instr.body);
}

// A clock for single instructions: the time stamp counter where there is one, scaled once against the system's clock.
#if defined(__x86_64__)
uint64_t ticks() { return __rdtsc(); }
double ns_per_tick() {
  static const double ratio = [] {
    const auto start = std::chrono::steady_clock::now();
    const uint64_t first = ticks();
    std::chrono::nanoseconds passed{0};
    while (passed < std::chrono::milliseconds(5)) passed = std::chrono::steady_clock::now() - start;
    return double(passed.count()) / double(ticks() - first);
  }();
  return ratio;
}
#else
uint64_t ticks() { return uint64_t(std::chrono::steady_clock::now().time_since_epoch().count()); }
double ns_per_tick() { return 1e9 * double(std::chrono::steady_clock::period::num) / double(std::chrono::steady_clock::period::den); }
#endif

}  // namespace

void Worker::poll() {
  patience_ = kPatience;
  if (!caller || !call->poller) return;
  const auto now = std::chrono::steady_clock::now();
  if (next_poll_.time_since_epoch().count() == 0) next_poll_ = now + kPollInterval;
  if (now < next_poll_) return;
  if (call->poller->wants_stop()) call->stop.store(true);
  next_poll_ = std::chrono::steady_clock::now() + kPollInterval;
}

Program::Program(std::shared_ptr<const PlanSpec> plan, const char* consts, const Kernels* kernels, bool winograd)
    : plan_(std::move(plan)), consts_(consts), kernels_(kernels), winograd_(winograd), tape_(*kernels, int(plan_->bases.size())) {
  for (size_t k = 0; k < plan_->bases.size(); ++k)
    if (plan_->bases[k].kind == BaseKind::Arena) arenas_.push_back(int(k));
  for (const Block& block : plan_->blocks) {
    auto& bound = blocks_.emplace_back();
    for (const Instr& instr : block.instrs) {
      auto instruction = bind(instr, *kernels, *this);
      scratch_bytes_ = std::max(scratch_bytes_, instruction->scratch_bytes());
      packed_bytes_ = std::max(packed_bytes_, instruction->packed_bytes());
      const size_t begin = tape_.end();
      if (instruction->write(tape_)) instruction.reset();
      bound.push_back({std::move(instruction), begin, tape_.end()});
    }
  }
}

Program::~Program() = default;

void Program::run_block(int block, Worker& worker) const {
  const auto& steps = blocks_[block];
  if (!worker.profile) {
    for (const Step& step : steps) {
      run_step(step, worker);
      if (worker.stopped()) return;
    }
    return;
  }
  for (size_t k = 0; k < steps.size(); ++k) {
    const uint64_t start = ticks();
    run_step(steps[k], worker);
    double& least = worker.profile->nanoseconds[block][k];
    least = std::min(least, double(ticks() - start) * ns_per_tick());
    if (worker.stopped()) return;
  }
}

Footprint Program::footprint(int64_t length, int threads) const {
  Footprint f;
  f.shared = allocated_bytes(plan_->shared_bytes);
  f.constants = allocated_bytes(plan_->const_bytes);
  int64_t workers = 1;  // with an arena each; tasks or, without enough of them, parts of instructions occupy all threads
  bool team = true;
  for (const Instr& instr : plan_->blocks[0].instrs) {
    const LoopSpec* loop = std::get_if<LoopSpec>(&instr.body);
    if (!loop || !loop->parallel) continue;
    const int64_t groups = group_count(*loop, loop->length == kRuntimeLength ? length : loop->length);
    const GroupSums sums(groups, loop->sum_bytes, threads);
    f.sums = std::max(f.sums, sums.by_group ? allocated_bytes(sums.count * loop->sum_bytes) : sums.count * allocated_bytes(loop->sum_bytes));
    workers = std::max(workers, std::min<int64_t>(groups, threads));
    team = team && (groups <= 1 || shares_instructions(*plan_));
  }
  f.arenas = workers * allocated_bytes(plan_->arena_bytes);
  f.scratch = (team ? threads : workers) * (allocated_bytes(scratch_bytes_) + allocated_bytes(packed_bytes_));
  return f;
}

void Program::run(Call& call, char* const* pointers, PoolLease& pool, Profile* profile) const {
  const SubnormalsAsZero here;
  MemoryLease memory;
  const auto& bases = plan_->bases;
  call.pool = &pool;
  call.n_bases = int64_t(bases.size());
  call.scratch_bytes = scratch_bytes_;
  memory->bases.assign(bases.size() + 1, nullptr);
  Worker worker;
  worker.bases = memory->bases.data();
  worker.scratch = worker.bases[bases.size()] = memory->scratch.reserve(scratch_bytes_);
  worker.call = &call;
  worker.caller = true;
  worker.helped = Worker::Helped::ByPool;
  worker.memory = &*memory;
  worker.profile = profile;
  char* shared = plan_->shared_bytes > 0 ? memory->shared.reserve(plan_->shared_bytes) : nullptr;
  for (size_t k = 0; k < bases.size(); ++k) {
    switch (bases[k].kind) {
      case BaseKind::Input: worker.bases[k] = pointers[bases[k].a]; break;
      case BaseKind::Output: worker.bases[k] = pointers[plan_->inputs.size() + size_t(bases[k].a)]; break;
      case BaseKind::Const: worker.bases[k] = const_cast<char*>(consts_); break;  // the check lets nobody write there
      case BaseKind::Shared: worker.bases[k] = shared; break;
      default: break;  // set by their loop
    }
  }
  run_block(0, worker);
  if (call.error) std::rethrow_exception(call.error);
}

}  // namespace fastmeta
