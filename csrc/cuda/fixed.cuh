// What the text written for one plan stands on (fastmeta/backends/codegen): products whose shapes the compiler knows, and
// entry points. Every element of a product is one chain of multiply-adds over k, in order, whatever the tile.
#pragma once
#include "kernels.cuh"

// With FM_FAST_ARENA arenas are a block's own memory, and the compiler shall know it.
#if defined(__CUDACC__) && defined(FM_FAST_ARENA)
extern __shared__ __align__(256) char fm_arena[];
#endif

namespace fastmeta {
namespace device {

FM_DEVICE double infinity() { return 1e308 * 10; }

// An instruction whose operands begin where its words say.
struct ByWords {
  const Frame& frame;
  const int64_t* words;
  char* partials;
};
template <class T> FM_DEVICE T* far(const ByWords& w, int at) { return reinterpret_cast<T*>(address(w.frame, w.words + at)); }
// Operands that a body is told: an address, or a place in the arena.
template <class T> FM_DEVICE T* far(char* at) { return reinterpret_cast<T*>(at); }
#if defined(__CUDACC__) && defined(FM_FAST_ARENA)
template <class T> FM_DEVICE T* near(int at) { return reinterpret_cast<T*>(fm_arena + at); }
#endif
// A body's team, of which the compiler knows how large it is; lanes are counted from number `shift` on, so that bodies that
// do not wait for each other take different lanes.
#if defined(__CUDACC__) && defined(FM_LANES)
FM_DEVICE Team known(const Team&, int shift) { return {int(threadIdx.x + FM_LANES - shift) & (FM_LANES - 1), FM_LANES, nullptr}; }
#else
FM_DEVICE Team known(const Team& team, int shift) {
  Team out = team;
  out.lane = (team.lane + team.lanes - shift % team.lanes) % team.lanes;
  return out;
}
#endif

template <class T, int N> struct alignas(N * sizeof(T)) Pack {
  T x[N];
};
template <int N, class T> FM_DEVICE void load(const T* from, T* to) {
  constexpr int each = N * int(sizeof(T)) > 16 ? 16 / int(sizeof(T)) : N;
  FM_UNROLL for (int k = 0; k < N; k += each) {
    const Pack<T, each> pack = *reinterpret_cast<const Pack<T, each>*>(from + k);
    FM_UNROLL for (int e = 0; e < each; ++e) to[k + e] = pack.x[e];
  }
}
template <int N, class T> FM_DEVICE void store(const T* from, T* to) {
  Pack<T, N> pack;
  FM_UNROLL for (int e = 0; e < N; ++e) pack.x[e] = from[e];
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}
// A load from where there may be nothing.
template <class F, int N, class T> FM_DEVICE void load_or_zero(const T* from, T* to) {
  if (F::kHoles && !from) {
    FM_UNROLL for (int e = 0; e < N; ++e) to[e] = T(0);
  } else load<N>(from, to);
}

// Where CONV's elements are: dims and strides are those of the instruction, kinds as there.
constexpr int kHole = -2147483647 - 1;
template <int Kind, int N, int H, int W, int C, int KH, int KW, int O, int OH, int OW, int SH, int SW, int PH, int PW> struct Windows {
  struct Row {
    int base, y, x;
  };
  FM_DEVICE static Row row(int m, int image, int step, int pixel) {
    if (Kind == 2) {  // a tap and its channel
      const int c = m % C, j = m / C % KW, i = m / (C * KW);
      return {i * step + j * pixel + c, i - PH, j - PW};
    }
    constexpr int height = Kind == 0 ? OH : H, width = Kind == 0 ? OW : W;
    const int q = m % width, p = m / width % height, n = m / (width * height);
    if (Kind == 0) return {n * image + (p * SH - PH) * step + (q * SW - PW) * pixel, p * SH - PH, q * SW - PW};
    return {n * image, p + PH, q + PW};
  }
  // Of A under term k.
  FM_DEVICE static int under(const Row& row, int k, int image, int step, int pixel) {
    if (Kind == 0) {
      const int c = k % C, j = k / C % KW, i = k / (C * KW), y = row.y + i, x = row.x + j;
      return unsigned(y) < unsigned(H) && unsigned(x) < unsigned(W) ? row.base + i * step + j * pixel + c : kHole;
    }
    if (Kind == 1) {  // the window that has the pixel under tap (i, j), where there is one
      const int o = k % O, j = k / O % KW, i = k / (O * KW);
      int y = row.y - i, x = row.x - j;
      if (y < 0 || x < 0 || y % SH != 0 || x % SW != 0) return kHole;
      y /= SH, x /= SW;
      return y < OH && x < OW ? row.base + y * step + x * pixel + o : kHole;
    }
    const int q = k % OW, p = k / OW % OH, n = k / (OW * OH), y = row.y + p * SH, x = row.x + q * SW;
    return unsigned(y) < unsigned(H) && unsigned(x) < unsigned(W) ? row.base + n * image + (p * SH - PH) * step + (q * SW - PW) * pixel : kHole;
  }
  // Of the weights in column n.
  FM_DEVICE static int weight(int n, int k) {
    if (Kind == 0) return k * O + n;
    return (k / O * C + n) * O + k % O;
  }
  FM_DEVICE static int pixel(int k, int image, int step, int pixel) { return k / (OW * OH) * image + k / OW % OH * step + k % OW * pixel; }
};

// A product whose factors are read where they lie: a lane takes blocks of TM x TN elements.
template <class F, int TM, int TN, int P> FM_DEVICE void near_terms(const F& f, int m0, int n0, typename F::T (&sum)[TM][TN]) {
  using T = typename F::T;
  if constexpr (P < F::kProducts) {
    constexpr bool a_deep = F::a_deep(P), b_deep = F::b_deep(P);
    constexpr int a_vector = F::a_vector(P), b_vector = F::b_vector(P), wide = 16 / int(sizeof(T));
    constexpr int step = (a_deep && a_vector > 1) || (b_deep && b_vector > 1) ? wide : 1, depth = F::depth(P);
    constexpr bool a_block = !a_deep && TM > 1 && TM <= a_vector, b_block = !b_deep && TN > 1 && TN <= b_vector;
    typename F::Row rows[TM];
    typename F::Col cols[TN];
    FM_UNROLL for (int i = 0; i < TM; ++i) rows[i] = f.row(P, m0 + i < F::kRows ? m0 + i : F::kRows - 1);
    FM_UNROLL for (int j = 0; j < TN; ++j) cols[j] = f.col(P, n0 + j < F::kCols ? n0 + j : F::kCols - 1);
    FM_UNROLL_BY((step > 1 ? 2 : 8)) for (int k = 0; k < depth; k += step) {
      T x[TM][step], y[TN][step];
      if constexpr (a_block) {
        FM_UNROLL for (int v = 0; v < step; ++v) {
          T t[TM];
          load_or_zero<F, TM>(f.a_at(P, rows[0], k + v), t);
          FM_UNROLL for (int i = 0; i < TM; ++i) x[i][v] = t[i];
        }
      } else if constexpr (a_deep && a_vector > 1) {
        FM_UNROLL for (int i = 0; i < TM; ++i) load_or_zero<F, step>(f.a_at(P, rows[i], k), x[i]);
      } else {
        FM_UNROLL for (int i = 0; i < TM; ++i)
          FM_UNROLL for (int v = 0; v < step; ++v) load_or_zero<F, 1>(f.a_at(P, rows[i], k + v), &x[i][v]);
      }
      if constexpr (b_block) {
        FM_UNROLL for (int v = 0; v < step; ++v) {
          T t[TN];
          load<TN>(f.b_at(P, cols[0], k + v), t);
          FM_UNROLL for (int j = 0; j < TN; ++j) y[j][v] = t[j];
        }
      } else if constexpr (b_deep && b_vector > 1) {
        FM_UNROLL for (int j = 0; j < TN; ++j) load<step>(f.b_at(P, cols[j], k), y[j]);
      } else {
        FM_UNROLL for (int j = 0; j < TN; ++j)
          FM_UNROLL for (int v = 0; v < step; ++v) y[j][v] = *f.b_at(P, cols[j], k + v);
      }
      FM_UNROLL for (int v = 0; v < step; ++v)
        FM_UNROLL for (int i = 0; i < TM; ++i)
          FM_UNROLL for (int j = 0; j < TN; ++j) sum[i][j] += x[i][v] * y[j][v];
    }
    near_terms<F, TM, TN, P + 1>(f, m0, n0, sum);
  }
}

template <class F, int TM, int TN, class W> FM_DEVICE void near_product(const Team& team, const W& w, int first, int end) {
  constexpr int across = (F::kCols + TN - 1) / TN, down = (F::kRows + TM - 1) / TM;
  for (int item = first + team.lane; item < end; item += team.lanes) {
    const int n0 = item % across * TN, m0 = item / across % down * TM;
    const F f(w, item / (across * down));
    typename F::T sum[TM][TN] = {};
    near_terms<F, TM, TN, 0>(f, m0, n0, sum);
    FM_UNROLL for (int i = 0; i < TM; ++i)
      FM_UNROLL for (int j = 0; j < TN; ++j)
        if (m0 + i < F::kRows && n0 + j < F::kCols) f.write(m0 + i, n0 + j, sum[i][j]);
  }
}

// A product through shared memory: LM x LN lanes take TM x TN elements each, four neighbours at a time. What the next step
// needs is fetched while this one is multiplied. Where k is cut into segments, their sums are partials that meet afterwards.
template <class F, int TM, int TN, int LM, int LN, int Segments> struct Tile {
  using T = typename F::T;
  static constexpr int kHigh = TM * LM, kWide = TN * LN, kLanes = LM * LN, kDeep = 64 / int(sizeof(T));
  static constexpr int kHighStep = kHigh + 4, kWideStep = kWide + 4;
  static constexpr int kBytes = kDeep * (kHighStep + kWideStep) * int(sizeof(T));
  static constexpr int kShares = kFewestLanes == 1 ? kLanes : 1;  // the host's lanes take several's work

  // How kLanes lanes fetch `side` x kDeep numbers of a factor, `vector` at a time along k or across it.
  template <bool Deep, int Vector, int Extent> struct Fetch {
    static constexpr int kAlong = (Deep ? kDeep : Extent) / Vector, kCount = Extent * kDeep / Vector, kEach = (kCount + kLanes - 1) / kLanes;
    FM_DEVICE static int k(int item) { return Deep ? item % kAlong * Vector : item / kAlong; }
    FM_DEVICE static int side(int item) { return Deep ? item / kAlong : item % kAlong * Vector; }
    template <int Step> FM_DEVICE static void put(T* tile, int lane, const T (&x)[kEach][Vector]) {
      FM_UNROLL for (int e = 0; e < kEach; ++e) {
        const int item = lane + e * kLanes;
        if (kCount % kLanes != 0 && item >= kCount) break;
        T* const to = tile + k(item) * Step + side(item);
        FM_UNROLL for (int v = 0; v < Vector; ++v) to[Deep ? v * Step : v] = x[e][v];
      }
    }
  };

  // What a lane holds while it goes through product P.
  template <int P> struct Lane {
    using A = Fetch<F::a_deep(P), F::a_vector(P), kHigh>;
    using B = Fetch<F::b_deep(P), F::b_vector(P), kWide>;
    typename F::Row rows[A::kEach];
    typename F::Col cols[B::kEach];
    T a[A::kEach][F::a_vector(P)], b[B::kEach][F::b_vector(P)];

    FM_DEVICE void begin(const F& f, int lane, int m0, int n0) {
      FM_UNROLL for (int e = 0; e < A::kEach; ++e) rows[e] = f.row(P, inside(m0 + A::side(lane + e * kLanes), F::kRows, F::a_deep(P) ? 1 : F::a_vector(P)));
      FM_UNROLL for (int e = 0; e < B::kEach; ++e) cols[e] = f.col(P, inside(n0 + B::side(lane + e * kLanes), F::kCols, F::b_deep(P) ? 1 : F::b_vector(P)));
    }
    // Results outside are not written: whatever is multiplied there.
    FM_DEVICE static int inside(int at, int end, int vector) { return at + vector <= end ? at : end - vector; }
    FM_DEVICE void fetch(const F& f, int lane, int k0) {
      FM_UNROLL for (int e = 0; e < A::kEach; ++e) {
        const int k = k0 + A::k(lane + e * kLanes);
        if (k < F::depth(P)) load_or_zero<F, F::a_vector(P)>(f.a_at(P, rows[e], k), a[e]);
        else FM_UNROLL for (int v = 0; v < F::a_vector(P); ++v) a[e][v] = T(0);
      }
      FM_UNROLL for (int e = 0; e < B::kEach; ++e) {
        const int k = k0 + B::k(lane + e * kLanes);
        if (k < F::depth(P)) load<F::b_vector(P)>(f.b_at(P, cols[e], k), b[e]);
        else FM_UNROLL for (int v = 0; v < F::b_vector(P); ++v) b[e][v] = T(0);
      }
    }
  };

  FM_DEVICE static int row(int lane, int i) { return i / 4 * (4 * LM) + lane / LN * 4 + i % 4; }
  FM_DEVICE static int col(int lane, int j) { return j / 4 * (4 * LN) + lane % LN * 4 + j % 4; }

  template <int P> FM_DEVICE static void terms(const Team& team, const F& f, int m0, int n0, T* a, T* b, int segment, T (&sums)[kShares][TM][TN]) {
    if constexpr (P < F::kProducts) {
      using L = Lane<P>;
      constexpr int each = ((F::depth(P) + Segments - 1) / Segments + kDeep - 1) / kDeep * kDeep;
      const int from = segment * each, to = from + each < F::depth(P) ? from + each : F::depth(P);
      L parts[kShares];
      FM_UNROLL for (int s = 0; s < kShares; ++s) {
        const int lane = team.lane + s * team.lanes;
        if (kShares > 1 && lane >= kLanes) break;
        parts[s].begin(f, lane, m0, n0);
        parts[s].fetch(f, lane, from);
      }
      for (int k0 = from; k0 < to; k0 += kDeep) {
        team.sync();  // the last step has been used
        FM_UNROLL for (int s = 0; s < kShares; ++s) {
          const int lane = team.lane + s * team.lanes;
          if (kShares > 1 && lane >= kLanes) break;
          L::A::template put<kHighStep>(a, lane, parts[s].a);
          L::B::template put<kWideStep>(b, lane, parts[s].b);
        }
        team.sync();
        FM_UNROLL for (int s = 0; s < kShares; ++s) {
          const int lane = team.lane + s * team.lanes;
          if (kShares > 1 && lane >= kLanes) break;
          if (k0 + kDeep < to) parts[s].fetch(f, lane, k0 + kDeep);
          FM_UNROLL for (int k = 0; k < kDeep; ++k) {
            T x[TM], y[TN];
            FM_UNROLL for (int i = 0; i < TM; i += 4) load<4>(a + k * kHighStep + row(lane, i), x + i);
            FM_UNROLL for (int j = 0; j < TN; j += 4) load<4>(b + k * kWideStep + col(lane, j), y + j);
            FM_UNROLL for (int i = 0; i < TM; ++i)
              FM_UNROLL for (int j = 0; j < TN; ++j) sums[s][i][j] += x[i] * y[j];
          }
        }
      }
      terms<P + 1>(team, f, m0, n0, a, b, segment, sums);
    }
  }

  // Tiles first..end, counted over columns, rows, batch elements and segments.
  template <class W> FM_DEVICE static void run(const Team& team, const W& w, int first, int end) {
    constexpr int across = (F::kCols + kWide - 1) / kWide, down = (F::kRows + kHigh - 1) / kHigh;
    T* const a = reinterpret_cast<T*>(team.stage);
    for (int tile = first; tile < end; ++tile) {
      const int n0 = tile % across * kWide, m0 = tile / across % down * kHigh;
      const int segment = Segments > 1 ? tile / (across * down * F::kBatch) : 0, batch = tile / (across * down) - segment * F::kBatch;
      const F f(w, batch);
      T sums[kShares][TM][TN] = {};
      terms<0>(team, f, m0, n0, a, a + kDeep * kHighStep, segment, sums);
      FM_UNROLL for (int s = 0; s < kShares; ++s) {
        const int lane = team.lane + s * team.lanes;
        if (kShares > 1 && lane >= kLanes) break;
        FM_UNROLL for (int i = 0; i < TM; ++i)
          FM_UNROLL for (int j = 0; j < TN; ++j) {
            const int m = m0 + row(lane, i), n = n0 + col(lane, j);
            if (m >= F::kRows || n >= F::kCols) continue;
            if (Segments == 1) f.write(m, n, sums[s][i][j]);
            else partial(w, batch * F::kRows + m, n, segment) = sums[s][i][j];
          }
      }
    }
  }

  // Elements first..end of the result, from their partials.
  template <class W> FM_DEVICE static void meet(const Team& team, const W& w, int first, int end) {
    for (int element = first + team.lane; element < end; element += team.lanes) {
      const int n = element % F::kCols, row = element / F::kCols;
      T sum = partial(w, row, n, 0);
      FM_UNROLL_BY(8) for (int segment = 1; segment < Segments; ++segment) sum += partial(w, row, n, segment);
      F(w, row / F::kRows).write(row % F::kRows, n, sum);
    }
  }
  template <class W> FM_DEVICE static T& partial(const W& w, int row, int n, int segment) {
    return reinterpret_cast<T*>(w.partials)[(segment * F::kBatch * F::kRows + row) * F::kCols + n];
  }
};

// One stage of an instruction over many tasks: slot y's part of units x, x + width, ...
struct FixedArguments {
  Program program;
  int64_t at;
  Slots slots;
  const int64_t* tasks;
};
template <class Stage> struct FixedKernel : FixedArguments {
  FM_DEVICE void operator()(const Team& team, const Grid& grid, char*) const {
    const Frame frame = frame_of(program, slots, grid.y, tasks ? tasks[grid.y] : -1);
    if (frame.status->ended) return;
    const ByWords w{frame, program.words + at, frame.partials};
    for (int64_t unit = grid.x; unit * Stage::kUnit < Stage::kElements; unit += grid.width)
      Stage::part(team, w, int(unit * Stage::kUnit), int(least(Stage::kElements, (unit + 1) * Stage::kUnit)));
  }
};

}  // namespace device
}  // namespace fastmeta

// With FM_BY_ADDRESS what a kernel is told lies in device memory.
#if defined(FM_BY_ADDRESS)
#define FM_TOLD(...) const __VA_ARGS__* const told
#define FM_KERNEL (*told)
#else
#define FM_TOLD(...) const __VA_ARGS__ told
#define FM_KERNEL told
#endif
#if defined(__CUDACC__)
#define FM_ENTRY(name, lanes, teams, bytes, ...) \
  extern "C" __global__ void __launch_bounds__(lanes, teams) name(FM_TOLD(__VA_ARGS__)) { \
    __shared__ __align__(16) char stage[bytes]; \
    FM_KERNEL(fastmeta::device::Team{int(threadIdx.x), lanes, stage}, fastmeta::device::Grid{blockIdx.x, blockIdx.y, gridDim.x, gridDim.y}, FM_ARENA); \
  }
#if defined(FM_FAST_ARENA)
#define FM_ARENA fm_arena
#else
#define FM_ARENA nullptr
#endif
#else
#define FM_ENTRY(name, lanes, teams, bytes, ...) \
  extern "C" void name(const void* kernel, const fastmeta::device::Team& team, const fastmeta::device::Grid& grid) { \
    (*static_cast<const __VA_ARGS__*>(kernel))(team, grid, nullptr); \
  }
#endif
