#include "convolution.hpp"

#include <algorithm>

namespace fastmeta {

template <class T>
Convolution<T>::Convolution(int tag, const ConvSpec& spec, const Kernels& kernels) : Instruction(tag), spec_(spec) {
  for (const Phase& phase : spec.phases) {
    phases_.emplace_back(phase, kernels, false);
    phase_scratch_ = std::max(phase_scratch_, phases_.back().scratch_bytes());
  }
}

template <class T>
void Convolution<T>::multiply(Worker& worker) const {
  const ConvSpec& s = spec_;
  auto at = [&](const Operand& operand) { return reinterpret_cast<T*>(worker.bases[operand.base] + operand.offset); };
  auto index = [](const Operand& operand, int64_t a, int64_t b, int64_t c, int64_t d) {
    return a * operand.stride[0] + b * operand.stride[1] + c * operand.stride[2] + d * operand.stride[3];
  };
  const auto dims = s.target_dims();
  const int64_t cells = dims[0] * dims[1] * dims[2] * dims[3];
  T* out = at(s.target);
  const T* cin = s.has_cin ? at(s.cin) : nullptr;
  for (int64_t k = 0; k < cells; ++k) out[k] = cin ? cin[k] : T(0);
  for (const auto& [a, b] : s.products) {
    const T *pa = at(a), *pb = at(b);
    for (int64_t n = 0; n < s.n; ++n)
      for (int64_t p = 0; p < s.out[0]; ++p)
        for (int64_t q = 0; q < s.out[1]; ++q)
          for (int64_t i = 0; i < s.taps[0]; ++i)
            for (int64_t j = 0; j < s.taps[1]; ++j) {
              const int64_t h = p * s.stride[0] + i - s.pad[0], w = q * s.stride[1] + j - s.pad[1];
              if (h < 0 || h >= s.in[0] || w < 0 || w >= s.in[1]) continue;
              for (int64_t c = 0; c < s.c; ++c)
                for (int64_t o = 0; o < s.o; ++o) {
                  const int64_t x_at = ((n * s.in[0] + h) * s.in[1] + w) * s.c + c, y_at = ((n * s.out[0] + p) * s.out[1] + q) * s.o + o;
                  const int64_t w_at = ((i * s.taps[1] + j) * s.c + c) * s.o + o;
                  if (s.kind == 0) out[y_at] += pa[index(a, n, h, w, c)] * pb[w_at];
                  else if (s.kind == 1) out[x_at] += pa[index(a, n, p, q, o)] * pb[w_at];
                  else out[w_at] += pa[index(a, n, h, w, c)] * pb[index(b, n, p, q, o)];
                }
            }
    if (worker.stopped()) return;
  }
}

template <class T>
void Convolution<T>::run(Worker& worker) const {
  multiply(worker);
  for (const BoundPhase& phase : phases_) phase.run(worker);
}

template class Convolution<float>;
template class Convolution<double>;

}  // namespace fastmeta
