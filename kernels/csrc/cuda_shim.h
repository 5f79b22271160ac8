// What lets one source be a CUDA program and a plain C++ one: under nvcc its own words, elsewhere the same words for the CPU.
//
// On the CPU the threads of a grid run one after the other, so only kernels whose threads never talk to each other are
// the same program in both. That is what the tests without a GPU rest on.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__

#include <cuda_fp16.h>
#include <cuda_runtime.h>

// A loop that must be unrolled, or what is indexed by it lives in memory instead of registers; one that must not.
#define UNROLLED _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

namespace edgeseg::gpu {

using half = __half;

__device__ inline float read(const float* from) { return *from; }
__device__ inline float read(const half* from) { return __half2float(*from); }
__device__ inline void put(float* to, float x) { *to = x; }
__device__ inline void put(half* to, float x) { *to = __float2half(x); }

// Four neighbours in one load; `from` is a multiple of four elements from the start of a tensor.
__device__ inline void read4(const float* from, float* to) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}
__device__ inline void read4(const half* from, float* to) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  __half2 pairs[2];
  memcpy(pairs, &bits, sizeof bits);
  const float2 low = __half22float2(pairs[0]), high = __half22float2(pairs[1]);
  to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 blocks, dim3 threads, cudaStream_t stream, A... given) {
  kernel<<<blocks, threads, 0, stream>>>(given...);
}

}  // namespace edgeseg::gpu

#else

#include "vec.h"

#define __global__
#define __device__
#define __launch_bounds__(threads)
#define UNROLLED
#define ROLLED

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;
using cudaStream_t = void*;

inline float __int_as_float(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline int32_t __float_as_int(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __fdividef(float a, float b) { return a / b; }

namespace edgeseg::gpu {

using edgeseg::half;
using edgeseg::read;

inline void put(float* to, float x) { *to = x; }
inline void put(half* to, float x) { store_as(to, fill(x), 1); }

template <class T>
inline void read4(const T* from, float* to) {
  for (int i = 0; i < 4; ++i) to[i] = read(from + i);
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 blocks, dim3 threads, cudaStream_t, A... given) {
  gridDim = blocks, blockDim = threads;
  dim3 &b = blockIdx, &t = threadIdx;
  for (b.z = 0; b.z < blocks.z; ++b.z)
    for (b.y = 0; b.y < blocks.y; ++b.y)
      for (b.x = 0; b.x < blocks.x; ++b.x)
        for (t.z = 0; t.z < threads.z; ++t.z)
          for (t.y = 0; t.y < threads.y; ++t.y)
            for (t.x = 0; t.x < threads.x; ++t.x) kernel(given...);
}

}  // namespace edgeseg::gpu

#endif
