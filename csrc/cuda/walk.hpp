// The host's side of a run: memory, which kernels are launched, and over what. `Device` launches them (executor.cu) or
// calls them (host.cpp), so all of this is tested without a GPU.
#pragma once
#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "executor.hpp"
#include "fixed.cuh"
#include "large.hpp"

namespace fastmeta {

// Device memory that is kept between calls. Whoever holds an address of it must look at `moves`.
template <class Device> class DeviceBuffer {
 public:
  DeviceBuffer(Device& device, const char* what) : device_(device), what_(what) {}
  ~DeviceBuffer() { device_.release(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  // True where the memory has moved.
  bool reserve(int64_t bytes) {
    if (data_ && bytes <= size_) return false;
    device_.release(data_);
    data_ = nullptr;
    size_ = 0;
    data_ = device_.allocate(std::max<int64_t>(bytes, 256), what_);
    size_ = bytes;
    return true;
  }
  template <class T = char> T* data() const { return reinterpret_cast<T*>(data_); }
  int64_t size() const { return size_; }

 private:
  Device& device_;
  const char* what_;
  char* data_ = nullptr;
  int64_t size_ = 0;
};

template <class Device> class Walker final : public Runner {
 public:
  Walker(std::shared_ptr<const PlanSpec> plan, const int64_t* words, size_t n_words, const char* consts, Way way, int lanes, std::optional<FixedText> fixed)
      : plan_(std::move(plan)), words_(words, words + n_words), fixed_(std::move(fixed)), device_(lanes) {
    find_blocks();
    // A task's memory that stays near a team makes it worth running it whole; beyond that single instructions fill a device.
    resident_ = way == Way::Resident || (way == Way::Auto && plan_->arena_bytes <= kResidentArena);
    find_large_products();
    words_there_.reserve(int64_t(n_words) * 8);
    blocks_there_.reserve(int64_t(blocks_.size()) * 8);
    consts_.reserve(plan_->const_bytes);
    device_.upload(words_there_.data(), words_.data(), int64_t(n_words) * 8);
    device_.upload(blocks_there_.data(), blocks_.data(), int64_t(blocks_.size()) * 8);
    device_.upload(consts_.data(), consts, plan_->const_bytes);
    if (fixed_) load();
    partial_bytes_ = std::max<int64_t>(device::kPartials * 8, fixed_ ? (fixed_->partial_bytes + 255) / 256 * 256 : 0);
    device_.finish();
  }

  int device() const override { return device_.number(); }

  void run(char* const* arrays, bool on_host, int64_t length, uintptr_t stream, bool wait) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const typename Device::Call call(device_, stream);
    now_ = -1;
    try {
      std::vector<char*> there(arrays, arrays + plan_->inputs.size() + plan_->outputs.size());
      if (on_host) copy_in(arrays, length, there);
      prepare(length);
      set_roots(there);
      device_.clear(statuses_.data(), statuses_.size());
      if (const Run now{length, slots_}; now != counted_) launches_ = launches(length), counted_ = now;
      if (launches_ <= kMostNodes) device_.replay(length, [&] { walk(0, root_slots(), 1, nullptr, length, true); });
      else walk(0, root_slots(), 1, nullptr, length, true);
      now_ = -1;
      if (on_host) copy_out(arrays, length, there);
      if (has_indices_) check_indices();
      else if (wait) device_.finish();
    } catch (const DeviceMemoryError&) {
      throw;
    } catch (const DeviceError& error) {
      throw DeviceError(place() + error.what(), tag());
    }
  }

 private:
  static constexpr int64_t kResidentArena = 256 << 10;
  static constexpr int64_t kMostNodes = 1 << 14;   // of a recorded graph
  static constexpr int64_t kMostTeams = 1 << 12;   // that share an instruction of one task
  static constexpr int64_t kMostMatrices = 65535;  // of one call of a library, which may make them a side of its grid
  static constexpr int64_t kMostSlots = 1 << 15;   // tasks in flight: a grid is at most 65535 high

  void find_blocks() {
    int64_t at = 11;
    for (size_t k = 0; k < plan_->inputs.size() + plan_->outputs.size(); ++k) at += 2 + words_[at + 1];
    program_ = {nullptr, nullptr, at, int64_t(plan_->bases.size())};
    at += 4 * program_.n_bases;
    for (const Block& block : plan_->blocks) {
      blocks_.push_back(at + 2);
      blocks_.push_back(int64_t(block.instrs.size()));
      at += 2 + words_[at + 1];
      for (const Instr& instr : block.instrs)
        if (is_fused(instr)) throw std::invalid_argument("[plan] fused forms: expected their expansion on this backend, got an instruction");
      for (const Instr& instr : block.instrs) has_indices_ |= std::holds_alternative<GatherSpec>(instr.body) || std::holds_alternative<ScatterSpec>(instr.body);
    }
  }

  // About how many launches a run takes; no more than twice kMostNodes are counted.
  int64_t launches(int64_t length) const {
    // Loops name blocks of higher numbers: from the last block on, what is inside has been counted.
    std::vector<int64_t> count(plan_->blocks.size(), 0);
    for (size_t b = count.size(); b-- > 0;)
      for (const Instr& instr : plan_->blocks[b].instrs) {
        const auto* loop = std::get_if<LoopSpec>(&instr.body);
        int64_t times = 1;
        if (loop && !loop->parallel) times = tasks_of(*loop, length);
        else if (loop && !resident_) {
          const int64_t n = tasks_of(*loop, length), groups = std::max<int64_t>(1, device::group_count(n, loop->sum_bytes));
          times = device::parts_of(n, groups) * device::parts_of(groups, slots_);
        }
        count[b] += !loop ? 3 : (count[size_t(loop->block)] + 1) * std::clamp<int64_t>(times, 1, kMostNodes);
        count[b] = std::min<int64_t>(count[b], 2 * kMostNodes);
      }
    return count[0];
  }

  // The functions of the plan's text.
  void load() {
    for (const std::string& code : fixed_->codes) device_.load(code);
    for (size_t b = 0; b < fixed_->stages.size(); ++b)
      for (size_t s = 0; s < fixed_->stages[b].size(); ++s) functions_[{b, s}] = device_.find(fixed_->stages[b][s].code, "fastmeta_" + std::to_string(b) + "_" + std::to_string(s));
    if (resident_) team_ = device_.find(int(fixed_->codes.size()) - 1, "fastmeta_tasks", fixed_->near_bytes);
  }
  int body_of(int64_t at) const { return fixed_ ? fixed_->bodies[size_t(at)] : 0; }

  void find_large_products() {
    for (size_t b = 0; b < plan_->blocks.size(); ++b) {
      int64_t at = blocks_[2 * b];
      for (int64_t k = 0; k < blocks_[2 * b + 1]; ++k, at += words_[size_t(at) + 1]) {
        if (words_[size_t(at)] != device::kGemm || (b > 0 && resident_)) continue;
        if (body_of(at) > 0 && !fixed_->alone[size_t(body_of(at))]) continue;
        auto found = LargeProduct::of(&words_[size_t(at)], Device::kLeastProduct);
        if (!found) continue;
        addresses_ = std::max(addresses_, found->addresses());
        large_.emplace(at, std::move(*found));
      }
    }
    if (large_.empty() || device_.multiplies()) return;
    large_.clear();
    addresses_ = 0;
  }

  // Memory for `length` tasks, and how many run at once.
  void prepare(int64_t length) {
    bool moved = shared_.reserve(plan_->shared_bytes);
    moved |= roots_.reserve(program_.n_bases * 8);
    moved |= root_partials_.reserve(partial_bytes_);
    int64_t slots = 0, sums = 0;
    for (const Instr& instr : plan_->blocks[0].instrs) {
      const auto* loop = std::get_if<LoopSpec>(&instr.body);
      if (!loop || !loop->parallel) continue;
      const int64_t groups = device::group_count(tasks_of(*loop, length), loop->sum_bytes);
      sums = std::max(sums, groups * loop->sum_bytes);
      slots = std::max(slots, groups);
    }
    moved |= sums_.reserve(sums);
    arena_step_ = (plan_->arena_bytes + 255) / 256 * 256;
    fast_bytes_ = !resident_ ? 0 : fixed_ ? fixed_->near_bytes : device_.fast_arena(plan_->arena_bytes);
    const int64_t far = fast_bytes_ < plan_->arena_bytes ? arena_step_ : 0, own = far + partial_bytes_ + program_.n_bases * 8 + int64_t(sizeof(device::Status)) + 8 + addresses_ * 8;
    if (resident_) slots = std::min(slots, fixed_ ? device_.teams(team_, fixed_->lanes, fast_bytes_) : device_.teams(fast_bytes_));
    const int64_t there = std::exchange(room_, 0);  // and none where memory is refused below
    slots = std::clamp<int64_t>(slots, 1, kMostSlots);
    if (slots > there) slots = std::clamp<int64_t>(there + device_.available() / 5 * 4 / own, 1, slots);
    moved |= arenas_.reserve(slots * far);
    moved |= partials_.reserve(slots * partial_bytes_);
    moved |= bases_.reserve(slots * program_.n_bases * 8);
    moved |= tasks_.reserve(slots * 8);
    moved |= addresses_there_.reserve(slots * addresses_ * 8);
    moved |= statuses_.reserve((slots + 1) * int64_t(sizeof(device::Status)));
    slots_ = slots;
    room_ = std::max(there, slots);
    program_.words = words_there_.template data<int64_t>();
    program_.blocks = blocks_there_.template data<int64_t>();
    if (moved) device_.forget();
  }

  int64_t tasks_of(const LoopSpec& loop, int64_t length) const { return loop.length == kRuntimeLength ? length : loop.length; }

  // As arguments of kernels, which the driver copies at once: a copy of our memory could be read when the next call has changed it.
  void set_roots(const std::vector<char*>& arrays) {
    const auto value = [&](const Base& base) -> char* {
      if (base.kind == BaseKind::Input) return arrays[size_t(base.a)];
      if (base.kind == BaseKind::Output) return arrays[plan_->inputs.size() + size_t(base.a)];
      return base.kind == BaseKind::Const ? consts_.data() : base.kind == BaseKind::Shared ? shared_.data() : nullptr;
    };
    device::RootsKernel kernel{};
    kernel.roots = roots_.template data<char*>();
    for (; kernel.first < program_.n_bases; kernel.first += kernel.count) {
      kernel.count = std::min<int64_t>(device::RootsKernel::kMost, program_.n_bases - kernel.first);
      for (int64_t k = 0; k < kernel.count; ++k) kernel.values[k] = value(plan_->bases[size_t(kernel.first + k)]);
      device_.launch(kernel, 1, 1);
    }
  }

  device::Slots root_slots() { return {nullptr, roots_.template data<char*>(), root_partials_.data(), statuses_.template data<device::Status>(), 0, partial_bytes_}; }
  device::Slots task_slots() {
    return {arenas_.data(), bases_.template data<char*>(), partials_.data(), statuses_.template data<device::Status>() + 1, arena_step_, partial_bytes_};
  }

  // The instructions of a block for all slots, one launch for each stage; `full`: every slot holds a task.
  void walk(int64_t block, const device::Slots& slots, int64_t n_slots, const int64_t* tasks, int64_t length, bool full) {
    int64_t at = blocks_[2 * block];
    for (int64_t k = 0; k < blocks_[2 * block + 1]; ++k, at += words_[at + 1]) {
      now_ = at;
      if (words_[at] == device::kLoop) {
        const device::LoopWords loop(&words_[at]);
        const int64_t n = loop.length == kRuntimeLength ? length : loop.length;
        if (loop.parallel) run_tasks(at, n);
        else
          for (int64_t i = 0; i < n; ++i) {
            device_.launch(device::IterateKernel{program_, at, i, n, slots}, 1, n_slots);
            walk(loop.block, slots, n_slots, tasks, length, full);
          }
        continue;
      }
      if (const int body = body_of(at)) {
        for (size_t s = 0; s < fixed_->stages[size_t(body)].size(); ++s) {
          const FixedText::Stage& stage = fixed_->stages[size_t(body)][s];
          if (s == 0 && full && large_.count(at) > 0) multiply(at, slots, n_slots);
          else if (stage.units > 0) device_.call(functions_.at({size_t(body), s}), device::FixedArguments{program_, at, slots, tasks}, stage.lanes, std::min(stage.units, kMostTeams), n_slots);
        }
        continue;
      }
      device::Stages stages(words_.data(), at);
      for (device::Stage stage; stages.next(stage);)
        if (stage.kind == device::kGemmStage && full && large_.count(at) > 0) multiply(at, slots, n_slots);
        else if (stage.units > 0) device_.launch(device::StageKernel{program_, stage, slots, tasks}, std::min(stage.units, kMostTeams), n_slots);
    }
  }

  // By the library, whatever has become of a task: after a bad index nobody looks at results.
  void multiply(int64_t at, const device::Slots& slots, int64_t n_slots) {
    const LargeProduct& product = large_.at(at);
    char** addresses = addresses_there_.template data<char*>();
    const int64_t row = product.batch * n_slots;
    const auto teams = [](int64_t lanes) { return std::clamp<int64_t>(lanes / device::kTeamLanes, 1, kMostTeams); };
    device_.launch(device::AddressesKernel{program_, at, product.batch, slots, addresses}, teams(product.batch), n_slots);
    if (product.copy_first)
      device_.launch(device::StartKernel{program_, at, product.batch, slots}, teams(product.batch * product.calls[0].m * product.calls[0].n), n_slots);
    for (Multiplication call : product.calls) {
      call.left.at = addresses + (product.turned ? row : 0);
      call.right.at = addresses + (product.turned ? 0 : row);
      addresses += 2 * row;
      call.result = addresses_there_.template data<char*>() + int64_t(2 * product.calls.size()) * row;
      for (int64_t left = row; left > 0; left -= call.count) {
        call.count = int(std::min(left, kMostMatrices));
        device_.multiply(call);
        call.left.at += call.count, call.right.at += call.count, call.result += call.count;
      }
    }
  }

  void run_tasks(int64_t at, int64_t length) {
    const device::LoopWords loop(&words_[at]);
    int64_t sum_bytes = 0;
    for (int64_t s = 0; s < loop.n_sums; ++s) {
      const Base& base = plan_->bases[size_t(loop.sums[5 * s])];
      sum_bytes = std::max(sum_bytes, base.a + base.b);
    }
    sum_bytes = (sum_bytes + 63) / 64 * 64;
    const int64_t groups = device::group_count(length, sum_bytes);
    char* sums = sums_.data();
    char** roots = roots_.template data<char*>();
    device_.clear(sums, groups * sum_bytes);
    if (resident_ && groups > 0) {
      const device::TasksArguments arguments{program_, at, roots, task_slots(), sums, sum_bytes, groups, length};
      if (fixed_) device_.call(team_, arguments, fixed_->lanes, std::min(groups, slots_), 1, fast_bytes_);
      else device_.launch(device::TasksKernel<device::Interpreter>{arguments}, std::min(groups, slots_), 1, fast_bytes_);
    } else {
      int64_t* tasks = tasks_.template data<int64_t>();
      const int64_t rounds = groups > 0 ? (length + groups - 1) / groups : 0;
      for (int64_t first = 0; first < groups; first += slots_) {
        const int64_t n = std::min(slots_, groups - first);
        for (int64_t round = 0; round < rounds; ++round) {
          now_ = at;
          device_.launch(device::OpenKernel{program_, at, roots, task_slots(), sums, sum_bytes, groups, length, first, round, tasks}, 1, n);
          walk(loop.block, task_slots(), n, tasks, length, round < length / groups);
        }
      }
    }
    now_ = at;
    int64_t longest = 0;
    for (int64_t s = 0; s < loop.n_sums; ++s) longest = std::max(longest, loop.sums[5 * s + 2]);
    if (longest > 0) device_.launch(device::SumsKernel{program_, at, roots, sums, sum_bytes, groups}, std::min(device::parts_of(longest, device::kSumColumns), kMostTeams), loop.n_sums);
  }

  int64_t bytes_of(const ArraySpec& array, int64_t length) const { return array.bytes * (array.per_task ? length : 1); }

  void copy_in(char* const* arrays, int64_t length, std::vector<char*>& there) {
    const size_t n = plan_->inputs.size();
    std::vector<int64_t> at(there.size() + 1, 0);
    for (size_t k = 0; k < there.size(); ++k) at[k + 1] = at[k] + (bytes_of(k < n ? plan_->inputs[k] : plan_->outputs[k - n], length) + 255) / 256 * 256;
    staged_.reserve(at.back());
    for (size_t k = 0; k < there.size(); ++k) {
      there[k] = staged_.data() + at[k];
      if (k < n) device_.upload(there[k], arrays[k], bytes_of(plan_->inputs[k], length));
    }
  }
  void copy_out(char* const* arrays, int64_t length, const std::vector<char*>& there) {
    const size_t n = plan_->inputs.size();
    for (size_t k = n; k < there.size(); ++k) device_.download(arrays[k], there[k], bytes_of(plan_->outputs[k - n], length));
    device_.finish();
  }

  void check_indices() {
    // All there are: a recorded graph may be of more slots than this call would take.
    std::vector<device::Status> found(size_t(statuses_.size()) / sizeof(device::Status));
    device_.download(reinterpret_cast<char*>(found.data()), statuses_.data(), int64_t(found.size() * sizeof(device::Status)));
    device_.finish();
    const device::Status* first = nullptr;
    for (const auto& status : found)
      if (status.recorded && (!first || status.task < first->task)) first = &status;
    if (first) throw BadIndexError(int(first->tag), first->task, first->index, first->bound);
  }

  static bool is_fused(const Instr& instr) {
    return std::visit(
        [](const auto& spec) {
          using Spec = std::decay_t<decltype(spec)>;
          return (std::is_same_v<Spec, DistanceSpec> || std::is_same_v<Spec, PullSpec> || std::is_same_v<Spec, ProtoSpec> || std::is_same_v<Spec, InverseSpec> || std::is_same_v<Spec, DepthwiseSpec>);
        },
        instr.body);
  }

  int tag() const { return now_ < 0 ? -1 : int(words_[size_t(now_) + 2]); }
  std::string place() const {
    static const char* const names[] = {"", "PASS", "GEMM", "GATHER", "SCATTER", "CUMSUM", "ARGREDUCE", "LOOP", "CONV", "ORDER"};
    return now_ < 0 ? "" : std::string(names[words_[size_t(now_)]]) + " at word " + std::to_string(now_) + " of the plan: ";
  }

  std::shared_ptr<const PlanSpec> plan_;
  std::vector<int64_t> words_, blocks_;
  const std::optional<FixedText> fixed_;
  Device device_;
  std::map<std::pair<size_t, size_t>, typename Device::Function> functions_;  // by body and stage
  typename Device::Function team_{};
  device::Program program_{};
  bool resident_, has_indices_ = false;
  std::map<int64_t, LargeProduct> large_;  // by word of the instruction
  int64_t addresses_ = 0;                  // of a slot, at most
  using Run = std::pair<int64_t, int64_t>;  // tasks, tasks in flight
  Run counted_{0, 0};
  int64_t launches_ = 0;          // of that run
  int64_t slots_ = 0, room_ = 0;  // tasks in flight; how many there is memory for
  int64_t arena_step_ = 0, fast_bytes_ = 0, partial_bytes_ = 0;
  int64_t now_ = -1;  // word of the instruction that is launched
  std::mutex mutex_;
  using Buffer = DeviceBuffer<Device>;
  Buffer words_there_{device_, "the plan"}, blocks_there_{device_, "the plan"}, consts_{device_, "constants"}, shared_{device_, "values shared by the tasks"},
      roots_{device_, "addresses"}, root_partials_{device_, "partial sums"}, sums_{device_, "sums over tasks"}, arenas_{device_, "the tasks' memory"},
      partials_{device_, "partial sums"}, bases_{device_, "addresses"}, tasks_{device_, "task numbers"}, addresses_there_{device_, "addresses"}, statuses_{device_, "index checks"},
      staged_{device_, "copies of host arrays"};
};

}  // namespace fastmeta
