#include "plan.hpp"

#include <algorithm>
#include <memory>

#include "checked.hpp"
#include "generated/opcodes.hpp"
#include "scope.hpp"

namespace fastmeta {

namespace {

constexpr int64_t kMagic = 0x464D504C, kVersion = 1;
constexpr int64_t kMaxCount = 1 << 16;  // of arrays, bases, blocks, instructions of a block
constexpr int kMaxBlocks = 1 << 10;
constexpr int kMaxPhases = 64, kMaxLoads = 64, kMaxMicroOps = 256, kMaxStores = 32;
constexpr int64_t kMaxDim = int64_t{1} << 40;
constexpr int64_t kMaxBand = int64_t{1} << 31;  // dims of CONV, and elements of what one row of its result reads

// The words in order; every read is within the array, every value within the range that its reader names.
class Reader {
 public:
  Reader(const int64_t* words, size_t size) : words_(words), size_(int64_t(size)), end_(size_) {}

  int64_t next(const char* what) {
    if (at_ >= end_) refuse(place(what), "another word", "the end");
    return words_[at_++];
  }
  int64_t next(const char* what, int64_t low, int64_t high) {
    const int64_t value = next(what);
    if (value < low || value > high) {
      --at_;
      refuse(place(what), range_text(low, high), std::to_string(value));
    }
    return value;
  }
  bool flag(const char* what) { return next(what, 0, 1) != 0; }
  double real(const char* what) {
    const int64_t bits = next(what);
    double value;
    static_assert(sizeof value == sizeof bits, "a double is one word");
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  }
  int64_t at() const { return at_; }
  // The next `words` words belong to one part; leave(end) demands that the part used them all.
  int64_t enter(int64_t words, const char* what) {
    if (words < 0 || words > end_ - at_) refuse(place(what), "at most " + std::to_string(end_ - at_) + " words", std::to_string(words));
    const int64_t outer = end_;
    end_ = at_ + words;
    return outer;
  }
  void leave(int64_t outer, const char* what) {
    if (at_ != end_) refuse(place(what), "its end at word " + std::to_string(end_), "its end here");
    end_ = outer;
  }
  std::string place(const std::string& what) const { return "word " + std::to_string(at_) + ", " + what; }

 private:
  const int64_t* words_;
  int64_t size_, end_, at_ = 0;
};

// Work saturates instead of overflowing: beyond the bound all is equally refused.
int64_t add_work(int64_t x, Checked y) {
  const Checked sum = Checked(x) + y;
  return sum.within(0, 2 * kMaxWork) ? sum.value() : 2 * kMaxWork;
}

class Decoder {
 public:
  Decoder(const int64_t* words, size_t n_words, size_t const_bytes) : in_(words, n_words), n_words_(n_words), const_bytes_(const_bytes) {}

  PlanSpec decode() {
    header();
    for (auto& array : plan_.inputs) read_array(array);
    for (auto& array : plan_.outputs) read_array(array);
    for (auto& base : plan_.bases) {
      base.kind = BaseKind(in_.next("kind of base", 0, 7));
      base.a = in_.next("base");
      base.b = in_.next("base");
      base.c = in_.next("base");
    }
    scope_ = std::make_unique<Scope>(plan_);
    work_.assign(plan_.blocks.size(), 1);
    for (block_ = 0; block_ < int(plan_.blocks.size()); ++block_) read_block();
    if (in_.at() != int64_t(n_words_)) refuse(in_.place("end"), "the last word", std::to_string(n_words_ - in_.at()) + " more");
    count_work();
    return std::move(plan_);
  }

 private:
  void header() {
    in_.next("magic", kMagic, kMagic);
    in_.next("version", kVersion, kVersion);
    in_.next("n_words", n_words_, n_words_);
    // Counts are held to the words there are before anything is allocated for them.
    const int64_t most = std::min<int64_t>(kMaxCount, n_words_);
    const int64_t n_inputs = in_.next("n_inputs", 0, most), n_outputs = in_.next("n_outputs", 0, most);
    const int64_t n_bases = in_.next("n_bases", 0, most), n_blocks = in_.next("n_blocks", 1, std::min<int64_t>(most, kMaxBlocks));
    plan_.const_bytes = in_.next("const_bytes", const_bytes_, const_bytes_);
    plan_.shared_bytes = in_.next("shared_bytes", 0, kMaxMemory);
    plan_.arena_bytes = in_.next("arena_bytes", 0, kMaxMemory);
    declared_work_ = in_.next("work", 0, kMaxWork);
    plan_.inputs.resize(n_inputs);
    plan_.outputs.resize(n_outputs);
    plan_.bases.resize(n_bases);
    plan_.blocks.resize(n_blocks);
  }

  void read_array(ArraySpec& array) {
    array.dtype = DType(in_.next("dtype of array", 0, 3));
    array.rank = int(in_.next("rank of array", 0, kMaxRank));
    array.per_task = false;
    Checked bytes = item_size(array.dtype);
    for (int d = 0; d < array.rank; ++d) {
      array.dims[d] = in_.next("dim of array", d == 0 ? kRuntimeLength : 0, kMaxDim);
      if (array.dims[d] == kRuntimeLength) array.per_task = true;
      else bytes = bytes * array.dims[d];
    }
    if (!bytes.within(0, int64_t{1} << 48)) refuse(in_.place("array"), "at most 2^48 bytes", "more");
    array.bytes = bytes.value();
    plan_.has_runtime_length |= array.per_task;
  }

  void read_block() {
    if (!scope_->is_owned(block_)) refuse(in_.place("block"), "a loop that names block " + std::to_string(block_), "none");
    Block& block = plan_.blocks[block_];
    const int64_t n_instrs = in_.next("instructions of block", 0, kMaxCount);
    const int64_t outer = in_.enter(in_.next("words of block"), "words of block");
    for (index_ = 0; index_ < n_instrs; ++index_) block.instrs.push_back(read_instr());
    in_.leave(outer, "block");
  }

  std::string where(const std::string& what) const {
    return "block " + std::to_string(block_) + ", instruction " + std::to_string(index_) + ", " + what;
  }

  Instr read_instr() {
    const int64_t opcode = in_.next("opcode", 1, 14);
    const int64_t n_words = in_.next("words of instruction", 3, int64_t(n_words_));
    Instr instr;
    const int64_t outer = in_.enter(n_words - 2, "words of instruction");
    instr.tag = int(in_.next("tag", INT32_MIN, INT32_MAX));
    count(1);
    switch (opcode) {
      case 1: instr.body = read_pass(); break;
      case 2: instr.body = read_gemm(); break;
      case 3: instr.body = read_gather(); break;
      case 4: instr.body = read_scatter(); break;
      case 5: instr.body = read_cumsum(); break;
      case 6: instr.body = read_argreduce(); break;
      case 7: instr.body = read_loop(); break;
      case 8: instr.body = read_conv(); break;
      case 9: instr.body = read_order(); break;
      case 10: instr.body = read_distance(); break;
      case 11: instr.body = read_pull(); break;
      case 12: instr.body = read_proto(); break;
      case 13: instr.body = read_inverse(); break;
      default: instr.body = read_depthwise(); break;
    }
    in_.leave(outer, "instruction");
    return instr;
  }

  void count(Checked work) { work_[block_] = add_work(work_[block_], work); }

  static Checked product(const int64_t* dims, int rank) {
    Checked out = 1;
    for (int d = 0; d < rank; ++d) out = out * dims[d];
    return out;
  }

  Operand read_operand(int rank) {
    Operand operand{};
    operand.base = int(in_.next("base of operand", 0, int64_t(plan_.bases.size()) - 1));
    operand.offset = in_.next("offset of operand");
    operand.dtype = DType(in_.next("dtype of operand", 0, 3));
    for (int d = 0; d < rank; ++d) operand.stride[d] = in_.next("stride of operand");
    return operand;
  }

  // An operand over `dims` whose type must be `dtype`.
  Operand read_operand(int rank, const int64_t* dims, Access access, DType dtype, const char* what) {
    const Operand operand = read_operand(rank);
    if (operand.dtype != dtype) refuse(where(what), "dtype " + std::to_string(dtype), std::to_string(operand.dtype));
    scope_->check(operand, rank, dims, access, block_, where(what));
    return operand;
  }

  Phase read_phase() {
    Phase phase;
    phase.rowwise = in_.flag("rowwise");
    phase.rank = int(in_.next("rank of phase", 0, kMaxRank));
    for (int d = 0; d < phase.rank; ++d) phase.dims[d] = in_.next("dim of phase", 0, kMaxDim);
    std::vector<DType> types;  // by value id
    const int n_loads = int(in_.next("loads", 0, kMaxLoads));
    for (int k = 0; k < n_loads; ++k) {
      phase.loads.push_back(read_operand(phase.rank));
      scope_->check(phase.loads[k], phase.rank, phase.dims, Access::Read, block_, where("load " + std::to_string(k)));
      types.push_back(phase.loads[k].dtype);
    }
    const int n_ops = int(in_.next("micro-ops", 0, kMaxMicroOps));
    for (int k = 0; k < n_ops; ++k) {
      phase.ops.push_back(read_micro_op(types));
      types.push_back(phase.ops[k].type);
    }
    const int n_stores = int(in_.next("stores", 1, kMaxStores));
    for (int k = 0; k < n_stores; ++k) phase.stores.push_back(read_store(phase, types));
    check_registers(phase);
    count(product(phase.dims, phase.rank) * (n_loads + n_ops + n_stores));
    for (const Store& store : phase.stores) {  // the fill, where the phase is empty
      if (store.mode != kStore) count(extent_of_target(phase, store));
    }
    return phase;
  }

  static Checked extent_of_target(const Phase& phase, const Store& store) {
    Checked out = 1;
    for (int d = 0; d < phase.rank; ++d)
      if (store.target.stride[d] != 0) out = out * phase.dims[d];
    return out;
  }

  MicroOp read_micro_op(const std::vector<DType>& types) {
    MicroOp op{};
    op.op = int(in_.next("micro-op", 0, kCast));
    op.type = DType(in_.next("type of micro-op", 0, op.op == kCast ? 3 : 2));
    op.reg = int(in_.next("register", -kMaxStores, kMaxRegisters - 1));
    const int n_values = op.op == kCast ? 1 : kOpArity[op.op];
    op.n_args = n_values;
    in_.next("arguments of micro-op", op.op == kCast ? 2 : n_values, op.op == kCast ? 2 : n_values);
    for (int k = 0; k < n_values; ++k) op.args[k] = int(in_.next("value id", 0, int64_t(types.size()) - 1));
    op.source = op.op == kCast ? DType(in_.next("source type of cast", 0, 3)) : op.type;
    if (op.op != kCast && !(kOpTypes[op.op] >> op.type & 1))
      refuse(where("micro-op " + std::string(kOpNames[op.op])), "a dtype it has", std::to_string(op.type));
    for (int k = 0; k < n_values; ++k)
      if (types[op.args[k]] != op.source)
        refuse(where("argument of micro-op " + std::to_string(op.op)), "dtype " + std::to_string(op.source), std::to_string(types[op.args[k]]));
    return op;
  }

  Store read_store(const Phase& phase, const std::vector<DType>& types) {
    Store store{};
    store.value = int(in_.next("value id of store", 0, int64_t(types.size()) - 1));
    store.mode = int(in_.next("mode of store", 0, 4));
    const DType dtype = types[store.value];
    if (store.mode != kStore && dtype == BOOL) refuse(where("reducing store"), "dtype 0..2", "3");
    store.target = read_operand(phase.rank, phase.dims, store.mode == kStore ? Access::Write : Access::Accumulate, dtype, "store");
    return store;
  }

  // Each argument must still be where its op left it: registers are reused.
  void check_registers(const Phase& phase) const {
    int holder[kMaxRegisters];
    std::fill_n(holder, kMaxRegisters, -1);
    const int n_loads = int(phase.loads.size());
    auto check_alive = [&](int value) {
      if (value < n_loads) return;
      const int reg = phase.ops[value - n_loads].reg;
      if (reg >= 0 && holder[reg] != value)
        refuse(where("value " + std::to_string(value)), "its register " + std::to_string(reg) + " untouched", "value " + std::to_string(holder[reg]) + " in it");
    };
    for (int k = 0; k < int(phase.ops.size()); ++k) {
      const MicroOp& op = phase.ops[k];
      for (int a = 0; a < op.n_args; ++a) check_alive(op.args[a]);
      if (op.reg >= 0) {
        holder[op.reg] = n_loads + k;
        continue;
      }
      const int s = -1 - op.reg;
      const bool plain = s < int(phase.stores.size()) && phase.stores[s].value == n_loads + k && phase.stores[s].mode == kStore;
      if (!plain) refuse(where("micro-op into store " + std::to_string(s)), "a plain store of this value", "another");
    }
    for (const Store& store : phase.stores) check_alive(store.value);
  }

  std::vector<Phase> read_phases(int fewest) {
    std::vector<Phase> phases;
    const int n = int(in_.next("phases", fewest, kMaxPhases));
    for (int k = 0; k < n; ++k) phases.push_back(read_phase());
    return phases;
  }

  PassSpec read_pass() {
    PassSpec pass{read_phases(1)};
    for (const Phase& phase : pass.phases)
      if (phase.rowwise) refuse(where("phase of PASS"), "rowwise 0", "1");
    return pass;
  }

  GemmSpec read_gemm() {
    GemmSpec gemm{};
    gemm.dtype = DType(in_.next("dtype of GEMM", 0, 1));
    gemm.batch_rank = int(in_.next("batch dims", 0, kMaxRank - 2));
    const int rank = gemm.batch_rank + 2, rb = gemm.batch_rank;
    for (int d = 0; d < rank; ++d) gemm.dims[d] = in_.next("dim of GEMM", 0, kMaxDim);
    gemm.alpha = in_.real("alpha");
    const int n_products = int(in_.next("products", 1, kMaxProducts));
    const Checked cells = product(gemm.dims, rank);
    for (int p = 0; p < n_products; ++p) {
      Factors factors{};
      factors.k = in_.next("K", 0, kMaxDim);
      int64_t dims[kMaxRank];
      std::copy_n(gemm.dims, rank, dims);
      dims[rb + 1] = factors.k;
      factors.a = read_operand(rank, dims, Access::Read, gemm.dtype, "A");
      dims[rb] = factors.k;
      dims[rb + 1] = gemm.dims[rb + 1];
      factors.b = read_operand(rank, dims, Access::Read, gemm.dtype, "B");
      gemm.products.push_back(factors);
      count(cells * factors.k);
    }
    gemm.c = read_operand(rank, gemm.dims, Access::Write, gemm.dtype, "C");
    gemm.has_cin = in_.flag("has CIN");
    if (gemm.has_cin) gemm.cin = read_operand(rank, gemm.dims, Access::Read, gemm.dtype, "CIN");
    count(cells);
    gemm.phases = read_phases(0);
    for (const Phase& phase : gemm.phases)
      if (phase.rowwise && (phase.rank != rank || !std::equal(phase.dims, phase.dims + rank, gemm.dims)))
        refuse(where("rowwise phase"), "the dims of the GEMM", "others");
    return gemm;
  }

  ConvSpec read_conv() {
    ConvSpec conv{};
    conv.dtype = DType(in_.next("dtype of CONV", 0, 1));
    conv.kind = int(in_.next("kind of CONV", 0, 2));
    for (int64_t* dim : {&conv.n, &conv.in[0], &conv.in[1], &conv.c, &conv.taps[0], &conv.taps[1], &conv.o, &conv.out[0], &conv.out[1], &conv.stride[0], &conv.stride[1]})
      *dim = in_.next("dim of CONV", 1, kMaxBand);
    for (int64_t& pad : conv.pad) pad = in_.next("padding", 0, kMaxBand);
    Checked band = std::max(conv.c, conv.o);
    for (int d : {0, 1}) {
      // Of the padded map less than a stride is left over at its end: so every part of the work is bounded by its count.
      const int64_t rest = conv.in[d] + conv.pad[d] - conv.taps[d] - (conv.out[d] - 1) * conv.stride[d];
      if (rest >= conv.stride[d]) refuse(where("CONV"), "windows up to the end of the map", std::to_string(rest) + " more in dim " + std::to_string(d));
      band = band * conv.taps[d];
    }
    band = band * (conv.out[1] + 2);
    if (!band.within(0, kMaxBand)) refuse(where("CONV"), "at most 2^31 elements read for one row", "more");
    const auto x = conv.x_dims(), w = conv.w_dims(), y = conv.y_dims(), target = conv.target_dims();
    const int n_products = int(in_.next("products", 1, kMaxProducts));
    const Checked cells = product(y.data(), 4);
    for (int p = 0; p < n_products; ++p) {
      const Operand a = read_channels(conv.kind == 1 ? y : x, Access::Read, conv.dtype, "A");
      const Operand b = conv.kind == 2 ? read_channels(y, Access::Read, conv.dtype, "B") : read_dense(w, Access::Read, conv.dtype, "B");
      conv.products.emplace_back(a, b);
      count(cells * conv.taps[0] * conv.taps[1] * conv.c);
    }
    conv.target = read_dense(target, Access::Write, conv.dtype, "OUT");
    conv.has_cin = in_.flag("has CIN");
    if (conv.has_cin) conv.cin = read_dense(target, Access::Read, conv.dtype, "CIN");
    count(cells);
    conv.phases = read_phases(0);
    for (const Phase& phase : conv.phases)
      if (phase.rowwise && (phase.rank != 4 || !std::equal(target.begin(), target.end(), phase.dims)))
        refuse(where("rowwise phase"), "the dims of OUT", "others");
    return conv;
  }

  Operand read_dense(const std::array<int64_t, 4>& dims, Access access, DType dtype, const char* what) {
    const Operand operand = read_operand(4, dims.data(), access, dtype, what);
    Checked stride = 1;
    for (int d = 3; d >= 0; --d) {
      if (dims[d] > 1 && operand.stride[d] != stride.value()) refuse(where(what), "a dense array", "stride " + std::to_string(operand.stride[d]) + " in dim " + std::to_string(d));
      stride = stride * dims[d];
      if (!stride.within(0, kMaxDim)) refuse(where(what), "at most 2^40 elements", "more");
    }
    return operand;
  }

  GatherSpec read_gather() {
    GatherSpec out{};
    out.dtype = DType(in_.next("dtype of GATHER", 0, 3));
    read_index_dims(out.o, out.n, out.j, out.i);
    const int64_t whole[] = {out.o, out.n, out.i}, picked[] = {out.o, out.j, out.i};
    out.x = read_operand(3, whole, Access::Read, out.dtype, "X");
    out.index = read_operand(3, picked, Access::Read, I32, "IDX");
    out.out = read_operand(3, picked, Access::Write, out.dtype, "OUT");
    count(product(picked, 3));
    return out;
  }

  ScatterSpec read_scatter() {
    ScatterSpec out{};
    out.dtype = DType(in_.next("dtype of SCATTER", 0, 2));
    read_index_dims(out.o, out.n, out.j, out.i);
    const int64_t whole[] = {out.o, out.n, out.i}, picked[] = {out.o, out.j, out.i};
    out.ct = read_operand(3, picked, Access::Read, out.dtype, "CT");
    out.index = read_operand(3, picked, Access::Read, I32, "IDX");
    out.out = read_operand(3, whole, Access::Write, out.dtype, "OUT");
    out.adds = in_.next("adds of SCATTER", 0, 1) != 0;
    count(product(picked, 3) + (out.adds ? Checked(0) : product(whole, 3)));
    return out;
  }

  void read_index_dims(int64_t& o, int64_t& n, int64_t& j, int64_t& i) {
    o = in_.next("dim O", 0, kMaxDim);
    n = in_.next("dim N", 0, INT32_MAX);
    j = in_.next("dim J", 0, kMaxDim);
    i = in_.next("dim I", 0, kMaxDim);
  }

  CumsumSpec read_cumsum() {
    CumsumSpec out{};
    out.dtype = DType(in_.next("dtype of CUMSUM", 0, 2));
    const int64_t dims[] = {out.o = in_.next("dim O", 0, kMaxDim), out.n = in_.next("dim N", 0, kMaxDim), out.i = in_.next("dim I", 0, kMaxDim)};
    out.reverse = in_.flag("reverse");
    out.x = read_operand(3, dims, Access::Read, out.dtype, "X");
    out.out = read_operand(3, dims, Access::Write, out.dtype, "OUT");
    count(product(dims, 3));
    return out;
  }

  ArgReduceSpec read_argreduce() {
    ArgReduceSpec out{};
    out.dtype = DType(in_.next("dtype of ARGREDUCE", 0, 2));
    const int64_t dims[] = {out.o = in_.next("dim O", 0, kMaxDim), out.n = in_.next("dim N", 1, INT32_MAX), out.i = in_.next("dim I", 0, kMaxDim)};
    const int64_t outer[] = {out.o, out.i};
    out.smallest = in_.flag("which");
    out.x = read_operand(3, dims, Access::Read, out.dtype, "X");
    out.out = read_operand(2, outer, Access::Write, I32, "OUT");
    count(product(dims, 3));
    return out;
  }

  OrderSpec read_order() {
    OrderSpec out{};
    out.dtype = DType(in_.next("dtype of ORDER", 0, 2));
    const int64_t dims[] = {out.o = in_.next("dim O", 0, kMaxDim), out.n = in_.next("dim N", 0, INT32_MAX), out.i = in_.next("dim I", 0, kMaxDim)};
    const int64_t first[] = {out.o, out.k = in_.next("dim K", 0, out.n), out.i};
    out.descending = in_.flag("descending");
    out.x = read_operand(3, dims, Access::Read, out.dtype, "X");
    out.out = read_operand(3, first, Access::Write, I32, "OUT");
    int64_t levels = 1;  // of the heap
    while (levels < 31 && int64_t{1} << levels < out.k) ++levels;
    count(product(dims, 3) * levels);
    return out;
  }

  DistanceSpec read_distance() {
    DistanceSpec out{};
    out.metric = read_rows(out, 2);
    const int64_t dims[] = {out.n, out.m};
    out.out = read_operand(2, dims, Access::Write, out.dtype, "OUT");
    return out;
  }

  PullSpec read_pull() {
    PullSpec out{};
    out.metric = read_rows(out, 2);
    const int64_t x[] = {out.n, out.features}, y[] = {out.m, out.features}, dims[] = {out.n, out.m};
    out.weight = read_operand(2, dims, Access::Read, out.dtype, "WEIGHT");
    out.has_x = in_.flag("has OUT_X");
    if (out.has_x) out.out_x = read_features(x, Access::Write, out.dtype, "OUT_X");
    out.has_y = in_.flag("has OUT_Y");
    if (out.has_y) out.out_y = read_features(y, Access::Write, out.dtype, "OUT_Y");
    if (!out.has_x && !out.has_y) refuse(where("PULL"), "a result", "none");
    return out;
  }

  ProtoSpec read_proto() {
    ProtoSpec out{};
    out.dtype = DType(in_.next("dtype", 0, 1));
    read_shape(out);
    out.factor = in_.real("factor");
    const int64_t x[] = {out.n, out.features}, y[] = {out.m, out.features};
    out.x = read_features(x, Access::Read, out.dtype, "X");
    out.y = read_features(y, Access::Read, out.dtype, "Y");
    out.label = read_operand(1, &out.n, Access::Read, I32, "LABEL");
    out.share = read_operand(1, &out.n, Access::Read, out.dtype, "SHARE");
    out.absent = read_operand(1, &out.m, Access::Read, BOOL, "ABSENT");
    out.has_loss = in_.flag("has LOSS");
    if (out.has_loss) out.loss = read_operand(0, nullptr, Access::Write, out.dtype, "LOSS");
    out.has_right = in_.flag("has RIGHT");
    if (out.has_right) out.right = read_operand(0, nullptr, Access::Write, out.dtype, "RIGHT");
    out.has_x = in_.flag("has OUT_X");
    if (out.has_x) out.out_x = read_features(x, Access::Write, out.dtype, "OUT_X");
    out.has_y = in_.flag("has OUT_Y");
    if (out.has_y) out.out_y = read_features(y, Access::Write, out.dtype, "OUT_Y");
    if (!out.has_loss && !out.has_right && !out.has_x && !out.has_y) refuse(where("PROTO"), "a result", "none");
    const int64_t dims[] = {out.n, out.m};
    count(product(dims, 2) * (Checked(out.features) * 3 + 1));
    return out;
  }

  InverseSpec read_inverse() {
    InverseSpec out{};
    out.dtype = DType(in_.next("dtype of INVERSE", 0, 1));
    const int64_t dims[] = {out.count = in_.next("matrices", 1, kMaxDim), out.n = in_.next("dim N", 1, kMaxDim), out.n};
    out.x = read_operand(3, dims, Access::Read, out.dtype, "X");
    out.out = read_operand(3, dims, Access::Write, out.dtype, "OUT");
    if (out.n > 1 && out.out.stride[2] != 1) refuse(where("OUT"), "rows side by side", "stride " + std::to_string(out.out.stride[2]));
    out.has_pivots = in_.flag("has PIVOTS");
    if (out.has_pivots) out.pivots = read_operand(2, dims, Access::Write, out.dtype, "PIVOTS");
    count(product(dims, 3) * (Checked(out.n) + 1));
    return out;
  }

  DepthwiseSpec read_depthwise() {
    DepthwiseSpec out{};
    out.dtype = DType(in_.next("dtype of DEPTHWISE", 0, 1));
    out.weight = in_.flag("weight of DEPTHWISE");
    for (int64_t* dim : {&out.n, &out.in[0], &out.in[1], &out.c, &out.taps[0], &out.taps[1], &out.out[0], &out.out[1], &out.stride[0], &out.stride[1], &out.dilation[0], &out.dilation[1]})
      *dim = in_.next("dim of DEPTHWISE", 1, kMaxDim);
    for (int d : {0, 1}) {
      const Checked reach = Checked(out.out[d] - 1) * out.stride[d] + Checked(out.taps[d] - 1) * out.dilation[d];
      if (!reach.within(0, out.in[d] - 1)) refuse(where("DEPTHWISE"), "windows inside of the map", "more in dim " + std::to_string(d));
    }
    const std::array<int64_t, 4> x{out.n, out.in[0], out.in[1], out.c}, y{out.n, out.out[0], out.out[1], out.c};
    const std::array<int64_t, 3> w{out.taps[0], out.taps[1], out.c};
    out.x = read_channels(x, Access::Read, out.dtype, "X");
    out.other = out.weight ? read_channels(y, Access::Read, out.dtype, "Y") : read_channels(w, Access::Read, out.dtype, "W");
    out.target = out.weight ? read_channels(w, Access::Write, out.dtype, "OUT") : read_channels(y, Access::Write, out.dtype, "OUT");
    count(product(y.data(), 4) * out.taps[0] * out.taps[1]);
    return out;
  }

  // An operand whose last axis lies side by side.
  template <size_t rank>
  Operand read_channels(const std::array<int64_t, rank>& dims, Access access, DType dtype, const char* what) {
    const Operand operand = read_operand(int(rank), dims.data(), access, dtype, what);
    if (dims[rank - 1] > 1 && operand.stride[rank - 1] != 1) refuse(where(what), "channels with unit stride", std::to_string(operand.stride[rank - 1]));
    return operand;
  }

  // Rows whose features lie side by side.
  Operand read_features(const int64_t* dims, Access access, DType dtype, const char* what) {
    const Operand operand = read_operand(2, dims, access, dtype, what);
    if (dims[1] > 1 && operand.stride[1] != 1) refuse(where(what), "features side by side", "stride " + std::to_string(operand.stride[1]));
    return operand;
  }

  template <class Spec>
  void read_shape(Spec& out) {
    out.n = in_.next("dim N", 1, kMaxDim);
    out.m = in_.next("dim M", 1, kMaxDim);
    out.features = in_.next("features", 1, kMaxDim);
  }

  // What DISTANCE and PULL begin with; gives the metric.
  template <class Spec>
  int read_rows(Spec& out, int last_metric) {
    out.dtype = DType(in_.next("dtype", 0, 1));
    const int metric = int(in_.next("metric", 0, last_metric));
    read_shape(out);
    const int64_t x[] = {out.n, out.features}, y[] = {out.m, out.features}, dims[] = {out.n, out.m};
    out.x = read_features(x, Access::Read, out.dtype, "X");
    out.y = read_features(y, Access::Read, out.dtype, "Y");
    count(product(dims, 2) * (Checked(out.features) + 1) + product(x, 2) + product(y, 2));
    return metric;
  }

  LoopSpec read_loop() {
    LoopSpec loop{};
    const int n_bases = int(plan_.bases.size());
    loop.block = int(in_.next("block of LOOP", block_ + 1, int64_t(plan_.blocks.size()) - 1));
    loop.length = in_.next("length of LOOP", block_ == 0 ? kRuntimeLength : 0, kMaxWork);
    if (loop.length == kRuntimeLength && !plan_.has_runtime_length) refuse(where("LOOP"), "an array whose dim 0 is -1", "none");
    loop.parallel = in_.next("parallel", 0, block_ == 0 ? 1 : 0) != 0;
    loop.reverse = in_.flag("reverse");
    const int64_t most = n_bases;
    for (int64_t n = in_.next("slices", 0, most); n > 0; --n) loop.slices.push_back(read_base());
    for (int64_t n = in_.next("swaps", 0, loop.parallel ? 0 : most); n > 0; --n) {
      const int first = read_base();
      loop.swaps.emplace_back(first, read_base());
    }
    Checked sum_bytes = 0;
    for (int64_t n = in_.next("sums", 0, loop.parallel ? most : 0); n > 0; --n) {
      SumSpec sum{};
      sum.base = read_base();
      sum.dtype = DType(in_.next("dtype of sum", 0, 2));
      sum.count = in_.next("count of sum", 0, kMaxDim);
      sum.target = read_base();
      sum.target_offset = in_.next("offset of sum");
      loop.sums.push_back(sum);
      count(sum.count);
      const Base& base = plan_.bases[sum.base];
      if (base.kind == BaseKind::Sum) sum_bytes = std::max(sum_bytes.value(), base.a + base.b);  // each at most kMaxMemory
    }
    loop.sum_bytes = (sum_bytes.value() + 63) / 64 * 64;
    scope_->bind_loop(loop, block_, where("LOOP"));
    nested_.push_back({block_, loop.block, loop.length == kRuntimeLength ? 1 : loop.length});
    return loop;
  }

  int read_base() { return int(in_.next("base", 0, int64_t(plan_.bases.size()) - 1)); }

  void count_work() {
    // The block of a loop has a higher number than its own, so the innermost come last.
    std::sort(nested_.begin(), nested_.end(), [](const Nested& x, const Nested& y) { return x.inner > y.inner; });
    for (const Nested& loop : nested_) work_[loop.outer] = add_work(work_[loop.outer], Checked(work_[loop.inner]) * loop.times);
    plan_.work = work_[0];
    for (Instr& instr : plan_.blocks[0].instrs)
      if (LoopSpec* loop = std::get_if<LoopSpec>(&instr.body)) loop->work = work_[loop->block];
    if (plan_.work > declared_work_) refuse("work", "at most the declared " + std::to_string(declared_work_), std::to_string(plan_.work));
  }

  struct Nested {
    int outer, inner;
    int64_t times;
  };

  Reader in_;
  int64_t n_words_, const_bytes_, declared_work_ = 0;
  PlanSpec plan_{};
  std::unique_ptr<Scope> scope_;
  std::vector<int64_t> work_;  // by block
  std::vector<Nested> nested_;
  int block_ = 0;
  int64_t index_ = 0;
};

}  // namespace

PlanSpec decode_plan(const int64_t* words, size_t n_words, size_t const_bytes) {
  return Decoder(words, n_words, const_bytes).decode();
}

}  // namespace fastmeta
