#include "tape.hpp"

#include <cstring>
#include <type_traits>

namespace fastmeta {

template <class U>
void Tape::put(const U* values, int64_t count) {
  static_assert(std::is_trivially_copyable_v<U> && alignof(U) <= 8);
  const char* from = reinterpret_cast<const char*>(values);
  bytes_.insert(bytes_.end(), from, from + count * int64_t(sizeof(U)));
}

class Tape::Reader {
 public:
  explicit Reader(const char* at) : at(at) {}
  template <class U>
  const U* take(int64_t count = 1) {
    const U* const found = reinterpret_cast<const U*>(at);
    at += count * int64_t(sizeof(U));
    return found;
  }
  const char* at;
};

namespace {

struct ProductCall {
  int64_t tiles, products;
  bool has_cin, has_gate;
  Spot c, cin, gate;
  // then: the tiles, the spots of the factors, the arguments without the products that are not there
};

template <class T>
constexpr int64_t used_bytes(int64_t products) { return int64_t(sizeof(GemmArgs<T>)) - (kMaxProducts - products) * int64_t(sizeof(Product)); }

struct TileCall {
  TileFn fn;
  Spot dst, x, y, z;
  TileArgs args;
};

struct ReduceCall {
  ReduceFn fn;
  Spot dst, x;
  ReduceArgs args;
};

struct CopyCall {
  Spot dst, src;
  PlaneCopy copy;
};

}  // namespace

template <class T>
void Tape::product(const GemmArgs<T>& args, const GemmTiles<T>& tiles, Spot c, const Spot* cin, Spot gate, const Spot* factors) {
  put(sizeof(T) == 4 ? Kind::Product32 : Kind::Product64);
  put(ProductCall{tiles.count, args.n_products, cin != nullptr, is_gate(args.after), c, cin ? *cin : Spot(), gate});
  put(tiles.tile, tiles.count);
  put(factors, 2 * args.n_products);
  put(reinterpret_cast<const char*>(&args), used_bytes<T>(args.n_products));
}

template <class T>
void Tape::run_product(Reader& from, char* const* bases) {
  const ProductCall& call = *from.take<ProductCall>();
  const GemmTile<T>* const tile = from.take<GemmTile<T>>(call.tiles);
  const Spot* const factors = from.take<Spot>(2 * call.products);
  const GemmArgs<T>& args = *reinterpret_cast<const GemmArgs<T>*>(from.take<char>(used_bytes<T>(call.products)));
  auto pointer = [bases](Spot spot) { return reinterpret_cast<T*>(spot.in(bases)); };
  GemmData<T> data;
  data.c = pointer(call.c);
  data.cin = call.has_cin ? pointer(call.cin) : nullptr;
  if (call.has_gate) data.gate = pointer(call.gate);
  for (int64_t k = 0; k < 2 * call.products; ++k) data.factors[k] = pointer(factors[k]);
  for (int64_t t = 0; t < call.tiles; ++t) tile[t].run(args, data, tile[t].m0, tile[t].m1, tile[t].n0, tile[t].tail);
}

void Tape::tile(TileFn fn, const TileArgs& args, Spot dst, Spot x, Spot y, Spot z) {
  put(Kind::Tile);
  put(TileCall{fn, dst, x, y, z, args});
}

void Tape::reduce(ReduceFn fn, const ReduceArgs& args, Spot dst, Spot x) {
  put(Kind::Reduce);
  put(ReduceCall{fn, dst, x, args});
}

void Tape::copy(const PlaneCopy& copy, Spot dst, Spot src) {
  put(Kind::Copy);
  put(CopyCall{dst, src, copy});
}

void Tape::run(Worker& worker, size_t from, size_t to) const {
  char* const* const bases = worker.bases;
  const char* const end = bytes_.data() + to;
  for (Reader reader(bytes_.data() + from); reader.at < end;) {
    switch (*reader.take<Kind>()) {
      case Kind::Product32: run_product<float>(reader, bases); break;
      case Kind::Product64: run_product<double>(reader, bases); break;
      case Kind::Tile: {
        const TileCall& call = *reader.take<TileCall>();
        const TileArgs& a = call.args;
        call.fn({call.dst.in(bases), call.x.in(bases), call.y.in(bases), call.z.in(bases), a.dst_row, a.x_row, a.y_row, a.z_row, a.rows, a.cols});
        break;
      }
      case Kind::Reduce: {
        const ReduceCall& call = *reader.take<ReduceCall>();
        const ReduceArgs& a = call.args;
        call.fn({call.dst.in(bases), call.x.in(bases), a.dst_row, a.dst_col, a.x_row, a.rows, a.cols, a.fresh});
        break;
      }
      case Kind::Copy: {
        const CopyCall& call = *reader.take<CopyCall>();
        PlaneCopy copy = call.copy;
        copy.dst = call.dst.in(bases);
        copy.src = call.src.in(bases);
        copy_plane(*kernels_, copy);
        break;
      }
    }
  }
}

template void Tape::product(const GemmArgs<float>&, const GemmTiles<float>&, Spot, const Spot*, Spot, const Spot*);
template void Tape::product(const GemmArgs<double>&, const GemmTiles<double>&, Spot, const Spot*, Spot, const Spot*);

}  // namespace fastmeta
