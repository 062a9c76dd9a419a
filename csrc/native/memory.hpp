// Memory that grows and never shrinks until it is dropped, and the memory that a thread keeps between calls.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace fastmeta {

// There is not so much memory: a MemoryError in Python.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(int64_t bytes);
  const char* what() const noexcept override { return text_; }

 private:
  char text_[128];
};

// 64-byte aligned, not initialised, contents lost when it grows. Pages are first touched by whoever writes them, and are
// huge where the size is worth it: an arena is walked through again and again, and TLB misses would cost a few percent.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }
  char* reserve(int64_t bytes);  // throws NoMemory
  void release();
  char* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  int64_t size_ = 0;
};

char* allocate_aligned(int64_t bytes);  // throws NoMemory; freed by std::free
int64_t allocated_bytes(int64_t bytes);  // what that takes: large blocks are whole huge pages

// What one thread needs to run tasks. Kept by the thread, since fresh pages cost more than they hold, unless all threads
// together keep more than a gigabyte and more than an eighth of the machine's memory.
struct WorkerMemory {
  Buffer arena, scratch;
  Buffer shared, sums;  // of a call: used on the calling thread only
  std::vector<char*> bases, before, lent;  // of a task, of none yet, and of one that its thread helps
  bool in_use = false;
  int64_t counted = 0;  // bytes of this in the total kept

  ~WorkerMemory();
  void settle();  // after a call: counts itself, and lets go if the total is too high
};

// The thread's own memory for the length of a scope; a fresh one if that is in use (a signal handler calling in again).
class MemoryLease {
 public:
  MemoryLease();
  ~MemoryLease();
  MemoryLease(const MemoryLease&) = delete;
  MemoryLease& operator=(const MemoryLease&) = delete;
  WorkerMemory& operator*() const { return *memory_; }
  WorkerMemory* operator->() const { return memory_; }

 private:
  WorkerMemory* memory_;
  bool fresh_;
};

}  // namespace fastmeta
