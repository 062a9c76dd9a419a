#include "memory.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fastmeta {

namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
std::atomic<int64_t> kept{0};  // bytes kept by all threads
thread_local WorkerMemory own_memory;

int64_t most_kept() {
  int64_t most = int64_t{1} << 30;
#ifdef __linux__
  static const int64_t memory = int64_t(sysconf(_SC_PHYS_PAGES)) * int64_t(sysconf(_SC_PAGESIZE));
  most = std::max(most, memory / 8);
#endif
  return most;
}

int64_t alignment(int64_t bytes) { return bytes >= kHugePage ? kHugePage : 64; }

}  // namespace

NoMemory::NoMemory(int64_t bytes) {
  std::snprintf(text_, sizeof text_, "[native] expected %.1f MB of memory more, got none. fm.memory_estimate tells what a call takes", double(bytes) / (1 << 20));
}

int64_t allocated_bytes(int64_t bytes) {
  const int64_t align = alignment(bytes);
  return (bytes + align - 1) / align * align;
}

char* allocate_aligned(int64_t bytes) {
  const int64_t align = alignment(bytes), rounded = allocated_bytes(bytes);
  void* data = std::aligned_alloc(size_t(align), size_t(rounded > 0 ? rounded : align));
  if (!data) throw NoMemory(bytes);
#ifdef __linux__
  if (align == kHugePage) madvise(data, size_t(rounded), MADV_HUGEPAGE);  // a wish: failure changes nothing
#endif
  return static_cast<char*>(data);
}

char* Buffer::reserve(int64_t bytes) {
  if (bytes > size_ || !data_) {
    release();
    data_ = allocate_aligned(bytes);
    size_ = bytes;
  }
  return data_;
}

void Buffer::release() {
  std::free(data_);
  data_ = nullptr;
  size_ = 0;
}

void WorkerMemory::settle() {
  int64_t now = arena.size() + scratch.size() + shared.size() + sums.size();
  const int64_t total = kept.fetch_add(now - counted) + now - counted;
  counted = now;
  if (total <= most_kept()) return;
  for (Buffer* buffer : {&arena, &scratch, &shared, &sums}) buffer->release();
  kept.fetch_sub(counted);
  counted = 0;
}

WorkerMemory::~WorkerMemory() { kept.fetch_sub(counted); }

MemoryLease::MemoryLease() : fresh_(own_memory.in_use) {
  memory_ = fresh_ ? new WorkerMemory : &own_memory;
  memory_->in_use = true;
}

MemoryLease::~MemoryLease() {
  if (fresh_) {
    delete memory_;
  } else {
    memory_->in_use = false;
    memory_->settle();
  }
}

}  // namespace fastmeta
