// Drives the host library on another machine: arrays come on stdin, behind a header of 64-bit numbers; the result goes to stdout.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

int main(int, char** words) {
  void* library = dlopen(words[1], RTLD_NOW);
  if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  const std::string name = words[2];
  int64_t count = 0;
  if (std::fread(&count, 8, 1, stdin) != 1) return 2;
  std::vector<int64_t> sizes(count), x(name == "label_map" ? 7 : 4);
  if (std::fread(sizes.data(), 8, count, stdin) != size_t(count) || std::fread(x.data(), 8, x.size(), stdin) != x.size()) return 2;
  std::vector<std::vector<float>> in;
  for (const int64_t size : sizes) {
    in.emplace_back(size);
    if (std::fread(in.back().data(), 4, size, stdin) != size_t(size)) return 2;
  }
  void* f = dlsym(library, ("edgeseg_" + name).c_str());
  if (!f) return 3;
  if (name == "label_map") {
    std::vector<uint8_t> out(x[0] * x[4] * x[5]);
    reinterpret_cast<void (*)(long, const void*, uint8_t*, long, long, long, long, long, long, long, long)>(f)(0, in[0].data(), out.data(), x[0], x[1], x[2], x[3], x[4], x[5], x[6], 2);
    return std::fwrite(out.data(), 1, out.size(), stdout) == out.size() ? 0 : 4;
  }
  std::vector<float> out(x[0] * x[1] * x[2]);
  if (name == "wkv") {
    reinterpret_cast<void (*)(long, const float*, const float*, const void*, const void*, void*, long, long, long, long, long)>(f)(0, in[0].data(), in[1].data(), in[2].data(), in[3].data(), out.data(), x[0], x[1], x[2], x[3], 2);
  } else {
    reinterpret_cast<void (*)(const float*, const float*, const float*, const float*, const float*, const float*, float*, long, long, long, long, long)>(f)(in[0].data(), in[1].data(), in[2].data(), in[3].data(), in[4].data(), in[5].data(), out.data(), x[0], x[1], x[2], x[3], 2);
  }
  return std::fwrite(out.data(), 4, out.size(), stdout) == out.size() ? 0 : 4;
}
