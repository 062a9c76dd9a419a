// Subnormal numbers count as zero while a program runs: below 1.2e-38 in float32 and 2.2e-308 in float64, in operands and
// in results. Softmax of certain answers is full of them, and processors handle each apart, many times slower. JAX does the same.
#pragma once
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fastmeta {

// For this thread, for the length of a scope.
class SubnormalsAsZero {
 public:
  SubnormalsAsZero() : before_(mode()) { set(before_ | kZero); }
  ~SubnormalsAsZero() { set(before_); }
  SubnormalsAsZero(const SubnormalsAsZero&) = delete;
  SubnormalsAsZero& operator=(const SubnormalsAsZero&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kZero = 0x8040;  // results, operands
  static uint64_t mode() { return _mm_getcsr(); }
  static void set(uint64_t mode) { _mm_setcsr(uint32_t(mode)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kZero = 1 << 24;
  static uint64_t mode() {
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(uint64_t mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#else
  static constexpr uint64_t kZero = 0;
  static uint64_t mode() { return 0; }
  static void set(uint64_t) {}
#endif
  uint64_t before_;
};

}  // namespace fastmeta
