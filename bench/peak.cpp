// The fused multiply-add rate of this machine: independent chains of LANES-wide FMAs in registers, one thread per core.
#include <sched.h>

#include <chrono>
#include <thread>
#include <vector>

typedef float Vector __attribute__((vector_size(4 * LANES)));
constexpr int kChains = 10;  // latency 4 x 2 ports needs 8; 16 registers hold 10, two factors and a spare
constexpr long kRounds = 20'000'000;

static void chains(int core, float* out) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  sched_setaffinity(0, sizeof set, &set);  // left alone, a scheduler may keep short-lived threads on one core
  Vector a = Vector{} + 0.999f, b = Vector{} + 0.001f;
  Vector v0 = b, v1 = b, v2 = b, v3 = b, v4 = b, v5 = b, v6 = b, v7 = b, v8 = b, v9 = b;
  for (long r = 0; r < kRounds; ++r) {
    v0 = v0 * a + b, v1 = v1 * a + b, v2 = v2 * a + b, v3 = v3 * a + b, v4 = v4 * a + b;
    v5 = v5 * a + b, v6 = v6 * a + b, v7 = v7 * a + b, v8 = v8 * a + b, v9 = v9 * a + b;
    asm volatile("" : "+x"(v0), "+x"(v1), "+x"(v2), "+x"(v3), "+x"(v4));  // ten different chains, kept in registers
    asm volatile("" : "+x"(v5), "+x"(v6), "+x"(v7), "+x"(v8), "+x"(v9));
  }
  *out = (v0 + v1 + v2 + v3 + v4 + v5 + v6 + v7 + v8 + v9)[0];
}

extern "C" double peak_gflops(const int* cores, int count) {
  std::vector<float> out(count);
  std::vector<std::thread> pool;
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) pool.emplace_back(chains, cores[i], &out[i]);
  for (auto& thread : pool) thread.join();
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return 2e-9 * LANES * kChains * kRounds * count / seconds.count();
}
