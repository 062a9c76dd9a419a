// Products of many matrices by cuBLAS, which is looked for where the loader finds it: what is built needs neither its headers
// nor its library.
#pragma once
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <string>

#include "large.hpp"

namespace fastmeta {

// The functions used, declared as cublas_v2.h does (handles and enumerations are a pointer and integers).
struct CublasFunctions {
  int (*create)(void**) = nullptr;
  int (*destroy)(void*) = nullptr;
  int (*set_stream)(void*, cudaStream_t) = nullptr;
  int (*set_workspace)(void*, void*, size_t) = nullptr;
  int (*multiply)(void*, int, int, int, int, int, const float*, const float* const*, int, const float* const*, int, const float*, float* const*, int, int) = nullptr;
  int (*multiply_wide)(void*, int, int, int, int, int, const double*, const double* const*, int, const double* const*, int, const double*, double* const*, int, int) = nullptr;

  // nullptr where there is none of the CUDA version that this was built with.
  static const CublasFunctions* get() {
    static const CublasFunctions found = [] {
      CublasFunctions f;
      void* library = dlopen(("libcublas.so." + std::to_string(CUDART_VERSION / 1000)).c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library) return f;
      const auto look = [&](auto& function, const char* name) { function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name)); };
      look(f.destroy, "cublasDestroy_v2");
      look(f.set_stream, "cublasSetStream_v2");
      look(f.set_workspace, "cublasSetWorkspace_v2");
      look(f.multiply, "cublasSgemmBatched");
      look(f.multiply_wide, "cublasDgemmBatched");
      if (f.destroy && f.set_stream && f.set_workspace && f.multiply && f.multiply_wide) look(f.create, "cublasCreate_v2");
      return f;
    }();
    return found.create ? &found : nullptr;
  }
};

// cuBLAS on the device that was current when this was made. Float32 products are not rounded to TF32: its default.
class Cublas {
 public:
  static constexpr size_t kWorkspace = size_t{32} << 20;  // what it asks for on the largest devices

  Cublas() {
    const CublasFunctions* f = CublasFunctions::get();
    if (!f || f->create(&handle_) != 0) handle_ = nullptr;
  }
  ~Cublas() {
    if (handle_) CublasFunctions::get()->destroy(handle_);
  }
  Cublas(const Cublas&) = delete;
  bool there() const { return handle_ != nullptr; }

  // The status, 0 where all is well. Memory for its own use is the caller's, so that a call may be recorded.
  int multiply(const Multiplication& x, cudaStream_t stream, void* workspace) const {
    const CublasFunctions& f = *CublasFunctions::get();
    if (const int status = f.set_stream(handle_, stream)) return status;
    if (const int status = f.set_workspace(handle_, workspace, kWorkspace)) return status;  // a new stream has forgotten it
    return x.wide ? call<double>(f.multiply_wide, x) : call<float>(f.multiply, x);
  }

 private:
  template <class T, class Function> int call(Function function, const Multiplication& x) const {
    const T alpha = T(x.alpha), beta = x.add ? T(1) : T(0);
    const auto matrices = [](char** at) { return reinterpret_cast<T**>(at); };
    return function(handle_, x.left.transposed, x.right.transposed, x.m, x.n, x.k, &alpha, matrices(x.left.at), x.left.ld, matrices(x.right.at), x.right.ld, &beta,
                    matrices(x.result), x.ld, x.count);
  }
  void* handle_ = nullptr;
};

}  // namespace fastmeta
