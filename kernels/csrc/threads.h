// Work shared out on threads that are made for each call: for runtimes that lend a kernel none of their own.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

namespace edgeseg {

// A few microseconds each, and none are left that a fork would lose.
struct Threads {
  long threads;

  template <class F>
  void operator()(long count, const F& f) const {
    const long used = std::min(threads, count);
    const auto share = [&](long worker) {
      for (long i = worker; i < count; i += used) f(i);
    };
    std::vector<std::thread> others;
    for (long worker = 1; worker < used; ++worker) others.emplace_back(share, worker);
    if (count > 0) share(0);
    for (auto& other : others) other.join();
  }
};

}  // namespace edgeseg
