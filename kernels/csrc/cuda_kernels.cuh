// The operators for CUDA: wkv, selective_scan and label_map, defined as in wkv.h, selective_scan.h and label_map.h.
//
// The recurrences are cut into chunks of tokens: one thread per chunk and channel sums its chunk up, one per channel goes
// over the sums, one per chunk and channel gives the results. So work is linear in the number of tokens and there are
// threads enough. Neighbouring threads are neighbouring channels: what a warp reads lies side by side. No thread talks
// to another, so cuda_shim.h can run the same source on a CPU.
#pragma once

#include "cuda_shim.h"

namespace edgeseg::gpu {

constexpr int THREADS = 128;
constexpr int AHEAD = 8;             // sums that are fetched before the first is used: going over them waits for memory
constexpr float LOG2E = 1.44269504f;

// How many blocks of THREADS cover `count`.
inline dim3 blocks_for(long count) { return dim3(unsigned((count + THREADS - 1) / THREADS)); }

__device__ inline unsigned thread_number() { return blockIdx.x * blockDim.x + threadIdx.x; }

// ---------------------------------------------------------------------------------------------------------------- wkv

constexpr int WKV_CHUNK = 16;        // tokens whose states from the right fit the registers of a thread
constexpr float STEEPEST = 400.0f;   // decay per token beyond which the next but one is nothing, or all there is
constexpr float ROOM = 58.0f;        // bits that the weights of a chunk may lie apart in one frame
constexpr float NOTHING = -1e9f;     // frame of an empty state

// 2^x for whole numbers x; smaller than 2^-126 is 0.
__device__ inline float power(float x) {
  return __int_as_float((int(fminf(fmaxf(x, -127.0f), 127.0f)) + 127) << 23);
}

// The factor of some tokens' decay, (high + low) 2^bits. One float32 raised to the power of all chunks would be off by as
// many roundings.
struct Fade {
  float high, low, bits;
};

__device__ inline Fade fade_of(float decay, int tokens) {
  const float w = decay > STEEPEST ? STEEPEST : decay < -STEEPEST ? -STEEPEST : decay;  // NaN stays
  const double exact = -double(w) * tokens * 1.4426950408889634, whole = std::floor(exact), part = std::exp2(exact - whole);
  return {float(part), float(part - double(float(part))), float(whole)};
}

// Numerator and denominator as multiples of 2^frame, a whole number, so that changing frames is exact.
struct State {
  float n = 0, d = 0, frame = NOTHING;

  __device__ void into(float other) {
    const float by = power(frame - other);
    n *= by, d *= by, frame = other;
  }
  __device__ void fade(const Fade& by) { n = fmaf(n, by.high, n * by.low), d = fmaf(d, by.high, d * by.low), frame += by.bits; }
  __device__ void add(State other) {
    const float both = fmaxf(frame, other.frame);
    into(both), other.into(both);
    n += other.n, d += other.d;
    const float bits = float(((__float_as_int(d) >> 23) & 255) - 127), back = power(-bits);  // d into 1..2
    n *= back, d *= back, frame += bits;
  }
};

// One token; `more` is added to its key.
__device__ inline State token(float key, float value, float more = 0) {
  const float frame = fmaxf(rintf(fmaf(key, LOG2E, more * LOG2E)), NOTHING);
  const float e = exp2f(fmaf(key, LOG2E, fmaf(more, LOG2E, -frame)));
  return {e * value, e, frame};
}

struct WkvShape {
  int batch, tokens, channels;
  bool causal;

  __device__ int chunks() const { return (tokens + WKV_CHUNK - 1) / WKV_CHUNK; }
};

// Where the states of all chunks lie: first those from the left, then those from the right, each part by itself.
struct WkvStates {
  float* parts;
  long size;

  __device__ State load(int side, long at) const {
    const float* from = parts + 3 * side * size + at;
    return {from[0], from[size], from[2 * size]};
  }
  __device__ void store(int side, long at, const State& s) const {
    float* to = parts + 3 * side * size + at;
    to[0] = s.n, to[size] = s.d, to[2 * size] = s.frame;
  }
};

inline long wkv_chunks(const WkvShape& shape) { return (shape.tokens + WKV_CHUNK - 1) / WKV_CHUNK; }

// Bytes of workspace.
inline size_t wkv_workspace(const WkvShape& shape) {
  return sizeof(float) * (shape.causal ? 3 : 6) * size_t(shape.batch) * wkv_chunks(shape) * shape.channels;
}

// The tokens of one chunk and channel, and the frame of its largest key.
struct Chunk {
  float key[WKV_CHUNK], value[WKV_CHUNK];
  float frame, most = -INFINITY, least = INFINITY;

  template <class T>
  __device__ Chunk(const T* keys, const T* values, int stride, int count) {
    UNROLLED for (int t = 0; t < WKV_CHUNK; ++t) {
      const bool there = t < count;  // what is not there weighs nothing
      key[t] = there ? read(keys + long(t) * stride) : -INFINITY, value[t] = there ? read(values + long(t) * stride) : 0.0f;
      most = fmaxf(most, key[t]), least = there ? fminf(least, key[t]) : least;
    }
    frame = fmaxf(rintf(most * LOG2E), NOTHING);
  }

  // Keys become weights in the chunk's frame, values what they weigh.
  __device__ void weigh() {
    UNROLLED for (int t = 0; t < WKV_CHUNK; ++t) key[t] = exp2f(fmaf(key[t], LOG2E, -frame)), value[t] *= key[t];
  }
};

__device__ inline bool gentle(float decay) { return fabsf(decay) * (WKV_CHUNK * LOG2E) <= ROOM; }

struct Place {  // of a thread: its chunk and channel, its first token, and its place among the states
  int channel, chunk, batch;
  long first, at;

  __device__ Place(unsigned thread, int channels, int chunks, int tokens, int length) {
    channel = int(thread % unsigned(channels)), chunk = int(thread / unsigned(channels) % unsigned(chunks));
    batch = int(thread / unsigned(channels) / unsigned(chunks));
    first = (long(batch) * tokens + long(chunk) * length) * channels + channel, at = thread;
  }
};

template <class T>
__global__ void __launch_bounds__(THREADS) wkv_sums(const float* __restrict__ decay, const T* __restrict__ key, const T* __restrict__ value, WkvStates states, WkvShape shape) {
  const unsigned thread = thread_number();
  if (thread >= unsigned(states.size)) return;
  const Place place(thread, shape.channels, shape.chunks(), shape.tokens, WKV_CHUNK);
  const int left = shape.tokens - place.chunk * WKV_CHUNK, count = left < WKV_CHUNK ? left : WKV_CHUNK, stride = shape.channels;
  const float w = decay[place.channel];
  State onwards, back;
  if (gentle(w)) {
    Chunk chunk(key + place.first, value + place.first, stride, count);
    chunk.weigh();
    const float fade = expf(-w);
    UNROLLED for (int t = 0; t < WKV_CHUNK; ++t) {
      const int r = WKV_CHUNK - 1 - t;
      onwards.n = fmaf(onwards.n, fade, chunk.value[t]), onwards.d = fmaf(onwards.d, fade, chunk.key[t]);
      back.n = fmaf(back.n, fade, chunk.value[r]), back.d = fmaf(back.d, fade, chunk.key[r]);
    }
    onwards.frame = back.frame = chunk.frame;
  } else {
    const Fade fade = fade_of(w, 1);
    ROLLED for (int t = 0; t < count; ++t) {
      const long a = place.first + long(t) * stride, b = place.first + long(count - 1 - t) * stride;
      onwards.fade(fade), onwards.add(token(read(key + a), read(value + a)));
      back.fade(fade), back.add(token(read(key + b), read(value + b)));
    }
  }
  states.store(0, place.at, onwards);
  if (!shape.causal) states.store(1, place.at, back);
}

// From the sum of each chunk to the state before it: of what lies left of it, and of what lies right of it.
static __global__ void __launch_bounds__(THREADS) wkv_carry(const float* __restrict__ decay, WkvStates states, WkvShape shape) {
  const unsigned thread = thread_number(), rows = unsigned(shape.batch) * unsigned(shape.channels);
  if (thread >= (shape.causal ? rows : 2 * rows)) return;
  const int side = thread >= rows, channel = int(thread % unsigned(shape.channels)), chunks = shape.chunks();
  const long batch = thread % rows / unsigned(shape.channels), base = batch * chunks * shape.channels + channel;
  const Fade fade = fade_of(decay[channel], WKV_CHUNK);
  State state;
  for (int start = 0; start < chunks; start += AHEAD) {
    State sums[AHEAD];
    long at[AHEAD];
    UNROLLED for (int i = 0; i < AHEAD; ++i) {
      const int chunk = start + i < chunks ? start + i : chunks - 1;
      at[i] = base + long(side ? chunks - 1 - chunk : chunk) * shape.channels;
      sums[i] = states.load(side, at[i]);
    }
    UNROLLED for (int i = 0; i < AHEAD; ++i) {
      if (start + i >= chunks) break;
      states.store(side, at[i], state);
      state.fade(fade), state.add(sums[i]);
    }
  }
}

// The results of a chunk in one frame: both its decay and its keys allow that.
template <class T>
__device__ inline void wkv_plain(Chunk& chunk, State left, State right, float w, float bonus, T* out, int stride, int count, bool causal) {
  chunk.weigh();
  const float fade = expf(-w);
  left.into(fmaxf(left.frame, chunk.frame)), right.into(fmaxf(right.frame, chunk.frame));
  const float onwards = power(chunk.frame - left.frame), back = causal ? 0.0f : power(chunk.frame - right.frame);
  const float all = fmaxf(left.frame, right.frame);
  const float behind = power(left.frame - all), ahead = power(right.frame - all), own = expf(bonus) * power(chunk.frame - all);
  float N[WKV_CHUNK], D[WKV_CHUNK];
  UNROLLED for (int t = WKV_CHUNK - 1; t >= 0; --t) {
    N[t] = right.n, D[t] = right.d;
    right.n = fmaf(right.n, fade, chunk.value[t] * back), right.d = fmaf(right.d, fade, chunk.key[t] * back);
  }
  UNROLLED for (int t = 0; t < WKV_CHUNK; ++t) {
    const float num = fmaf(left.n, behind, fmaf(N[t], ahead, own * chunk.value[t]));
    const float den = fmaf(left.d, behind, fmaf(D[t], ahead, own * chunk.key[t]));
    if (t < count) put(out + long(t) * stride, __fdividef(num, den));
    left.n = fmaf(left.n, fade, chunk.value[t] * onwards), left.d = fmaf(left.d, fade, chunk.key[t] * onwards);
  }
}

// The same for any decay and any keys: every token has a frame of its own, and what lies right of a token is summed up
// anew for each. That is eight times the work, and no memory; networks have no use for such decays both ways.
template <class T>
__device__ inline void wkv_careful(const T* key, const T* value, State left, const State& right, float w, float bonus, T* out, int stride, int count, bool causal) {
  const Fade fade = fade_of(w, 1);
  ROLLED for (int t = 0; t < count; ++t) {
    const float k = read(key + long(t) * stride), v = read(value + long(t) * stride);
    State all = right;
    ROLLED for (int i = count - 1; i > t && !causal; --i) {
      all.fade(fade), all.add(token(read(key + long(i) * stride), read(value + long(i) * stride)));
    }
    all.add(left), all.add(token(k, v, bonus));
    put(out + long(t) * stride, all.n / all.d);
    left.fade(fade), left.add(token(k, v));
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS) wkv_results(const float* __restrict__ decay, const float* __restrict__ bonus, const T* __restrict__ key, const T* __restrict__ value, T* __restrict__ out, WkvStates states, WkvShape shape) {
  const unsigned thread = thread_number();
  if (thread >= unsigned(states.size)) return;
  const Place place(thread, shape.channels, shape.chunks(), shape.tokens, WKV_CHUNK);
  const int behind = shape.tokens - place.chunk * WKV_CHUNK, count = behind < WKV_CHUNK ? behind : WKV_CHUNK, stride = shape.channels;
  const float w = decay[place.channel], u = bonus[place.channel];
  const State left = states.load(0, place.at), right = shape.causal ? State() : states.load(1, place.at);
  Chunk chunk(key + place.first, value + place.first, stride, count);
  if (gentle(w) && (chunk.most - chunk.least + fabsf(u)) * LOG2E <= ROOM) {
    wkv_plain(chunk, left, right, w, u, out + place.first, stride, count, shape.causal);
  } else {
    wkv_careful(key + place.first, value + place.first, left, right, w, u, out + place.first, stride, count, shape.causal);
  }
}

// decay [C], bonus [C] per token, key and value [B, T, C] to out [B, T, C].
template <class T>
void wkv(const float* decay, const float* bonus, const T* key, const T* value, T* out, void* workspace, const WkvShape& shape, cudaStream_t stream) {
  const long size = shape.batch * wkv_chunks(shape) * shape.channels, rows = long(shape.batch) * shape.channels;
  if (!size) return;
  const WkvStates states{static_cast<float*>(workspace), size};
  launch(wkv_sums<T>, blocks_for(size), THREADS, stream, decay, key, value, states, shape);
  launch(wkv_carry, blocks_for(shape.causal ? rows : 2 * rows), THREADS, stream, decay, states, shape);
  launch(wkv_results<T>, blocks_for(size), THREADS, stream, decay, bonus, key, value, out, states, shape);
}

// ----------------------------------------------------------------------------------------------------- selective_scan

constexpr int SCAN_CHUNK = 32;
constexpr int TILE = 8;              // states that are worked on together where their number is not known beforehand

struct ScanShape {
  int batch, tokens, channels, states;
};

inline long scan_chunks(const ScanShape& shape) { return (shape.tokens + SCAN_CHUNK - 1) / SCAN_CHUNK; }

// Bytes of workspace: of each chunk all states, and the sum of its deltas.
inline size_t scan_workspace(const ScanShape& shape) {
  return sizeof(float) * size_t(shape.batch) * scan_chunks(shape) * shape.channels * (shape.states + 1);
}

// What lies side by side for a token: WIDE of the N numbers of B or C from the n-th on, 0 beyond the end.
template <int WIDE, bool KNOWN, class T>
__device__ inline void beside(const T* row, int n, int N, float* to) {
  if constexpr (KNOWN && WIDE % 4 == 0) {
    UNROLLED for (int i = 0; i < WIDE; i += 4) read4(row + n + i, to + i);
  } else {
    UNROLLED for (int i = 0; i < WIDE; ++i) to[i] = KNOWN || n + i < N ? read(row + n + i) : 0.0f;
  }
}

// A[channel, n] times log2(e), 0 beyond the end.
template <int WIDE, bool KNOWN>
__device__ inline void rates_of(const float* A, int channel, int n, int N, float* to) {
  UNROLLED for (int i = 0; i < WIDE; ++i) to[i] = KNOWN || n + i < N ? A[long(channel) * N + n + i] * LOG2E : 0.0f;
}

// The state at the end of each chunk if it began with nothing. STATES is `shape.states` where it is known when this is
// compiled, else 0. ends [B, chunks, N, D], deltas [B, chunks, D].
template <class T, int STATES>
__global__ void __launch_bounds__(THREADS) scan_sums(const T* __restrict__ u, const T* __restrict__ delta, const float* __restrict__ A, const T* __restrict__ B, float* __restrict__ ends, float* __restrict__ deltas, ScanShape shape, int chunks) {
  constexpr int WIDE = STATES ? STATES : TILE;
  const unsigned thread = thread_number();
  if (thread >= unsigned(shape.batch) * unsigned(chunks) * unsigned(shape.channels)) return;
  const Place place(thread, shape.channels, chunks, shape.tokens, SCAN_CHUNK);
  if (place.chunk == chunks - 1) return;  // nothing comes after it
  const int N = STATES ? STATES : shape.states;
  const T* rows = B + (long(place.batch) * shape.tokens + long(place.chunk) * SCAN_CHUNK) * N;
  for (int n = 0; n < N; n += WIDE) {
    float a[WIDE], h[WIDE], total = 0;
    rates_of<WIDE, STATES != 0>(A, place.channel, n, N, a);
    UNROLLED for (int i = 0; i < WIDE; ++i) h[i] = 0;
    for (int t = 0; t < SCAN_CHUNK; ++t) {
      const long at = place.first + long(t) * shape.channels;
      const float d = read(delta + at), dx = d * read(u + at);
      float b[WIDE];
      beside<WIDE, STATES != 0>(rows + long(t) * N, n, N, b);
      UNROLLED for (int i = 0; i < WIDE; ++i) h[i] = fmaf(exp2f(d * a[i]), h[i], dx * b[i]);
      total += d;
    }
    float* to = ends + ((long(place.batch) * chunks + place.chunk) * N + n) * shape.channels + place.channel;
    UNROLLED for (int i = 0; i < WIDE; ++i) {
      if (STATES || n + i < N) to[long(i) * shape.channels] = h[i];
    }
    deltas[place.at] = total;
  }
}

// From the states at the chunks' ends to those at their beginnings. The decays of a chunk multiply to exp(A sum(delta)).
static __global__ void __launch_bounds__(THREADS) scan_carry(const float* __restrict__ A, float* ends, const float* __restrict__ deltas, ScanShape shape, int chunks) {
  const unsigned thread = thread_number(), D = unsigned(shape.channels), N = unsigned(shape.states);
  if (thread >= unsigned(shape.batch) * N * D) return;
  const unsigned channel = thread % D, n = thread / D % N, batch = thread / D / N;
  const float a = A[long(channel) * N + n] * LOG2E;
  float state = 0;
  for (int start = 0; start < chunks; start += AHEAD) {
    float end[AHEAD], fade[AHEAD];
    long at[AHEAD];
    UNROLLED for (int i = 0; i < AHEAD; ++i) {
      const long chunk = long(batch) * chunks + (start + i < chunks ? start + i : chunks - 1);
      const bool sum = start + i < chunks - 1;  // the last chunk has none
      at[i] = (chunk * N + n) * D + channel;
      end[i] = sum ? ends[at[i]] : 0.0f, fade[i] = sum ? exp2f(a * deltas[chunk * D + channel]) : 0.0f;
    }
    UNROLLED for (int i = 0; i < AHEAD; ++i) {
      if (start + i >= chunks) break;
      ends[at[i]] = state;
      state = fmaf(fade[i], state, end[i]);
    }
  }
}

template <class T, int STATES>
__global__ void __launch_bounds__(THREADS) scan_results(const T* __restrict__ u, const T* __restrict__ delta, const float* __restrict__ A, const T* __restrict__ B, const T* __restrict__ C, const float* __restrict__ skip, T* __restrict__ y, const float* __restrict__ begins, ScanShape shape, int chunks) {
  constexpr int WIDE = STATES ? STATES : TILE;
  const unsigned thread = thread_number();
  if (thread >= unsigned(shape.batch) * unsigned(chunks) * unsigned(shape.channels)) return;
  const Place place(thread, shape.channels, chunks, shape.tokens, SCAN_CHUNK);
  const int N = STATES ? STATES : shape.states;
  const int left = shape.tokens - place.chunk * SCAN_CHUNK, count = left < SCAN_CHUNK ? left : SCAN_CHUNK;
  const long row = (long(place.batch) * shape.tokens + long(place.chunk) * SCAN_CHUNK) * N;
  const float through = skip[place.channel];
  float sums[STATES ? 1 : SCAN_CHUNK];  // what the tiles so far gave; a float16 result could not hold it
  for (int n = 0; n < N; n += WIDE) {
    float a[WIDE], h[WIDE];
    rates_of<WIDE, STATES != 0>(A, place.channel, n, N, a);
    const float* from = begins + ((long(place.batch) * chunks + place.chunk) * N + n) * shape.channels + place.channel;
    UNROLLED for (int i = 0; i < WIDE; ++i) h[i] = STATES || n + i < N ? from[long(i) * shape.channels] : 0.0f;
    for (int t = 0; t < count; ++t) {
      const long at = place.first + long(t) * shape.channels;
      const float x = read(u + at), d = read(delta + at), dx = d * x;
      float b[WIDE], c[WIDE];
      beside<WIDE, STATES != 0>(B + row + long(t) * N, n, N, b), beside<WIDE, STATES != 0>(C + row + long(t) * N, n, N, c);
      float sum[2] = {STATES || !n ? through * x : sums[STATES ? 0 : t], 0};  // two, so that one addition need not wait for the other
      UNROLLED for (int i = 0; i < WIDE; ++i) {
        h[i] = fmaf(exp2f(d * a[i]), h[i], dx * b[i]);
        sum[i & 1] = fmaf(h[i], c[i], sum[i & 1]);
      }
      if (STATES || n + WIDE >= N) put(y + at, sum[0] + sum[1]);
      else sums[STATES ? 0 : t] = sum[0] + sum[1];
    }
  }
}

template <class T, int STATES>
void scan_some(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* skip, T* y, float* workspace, const ScanShape& shape, cudaStream_t stream) {
  const long chunks = scan_chunks(shape), size = shape.batch * chunks * shape.channels, rows = long(shape.batch) * shape.states * shape.channels;
  float *ends = workspace, *deltas = workspace + size * shape.states;
  launch(scan_sums<T, STATES>, blocks_for(size), THREADS, stream, u, delta, A, B, ends, deltas, shape, int(chunks));
  launch(scan_carry, blocks_for(rows), THREADS, stream, A, ends, static_cast<const float*>(deltas), shape, int(chunks));
  launch(scan_results<T, STATES>, blocks_for(size), THREADS, stream, u, delta, A, B, C, skip, y, static_cast<const float*>(ends), shape, int(chunks));
}

// u and delta [B, T, D], A [D, N], B and C [B, T, N], skip [D] to y [B, T, D].
template <class T>
void selective_scan(const T* u, const T* delta, const float* A, const T* B, const T* C, const float* skip, T* y, void* workspace, const ScanShape& shape, cudaStream_t stream) {
  if (!shape.batch || !shape.tokens || !shape.channels || !shape.states) return;
  const auto run = shape.states == 16 ? scan_some<T, 16> : shape.states == 1 ? scan_some<T, 1> : scan_some<T, 0>;
  run(u, delta, A, B, C, skip, y, static_cast<float*>(workspace), shape, stream);
}

// ---------------------------------------------------------------------------------------------------------- label_map

constexpr int DOWN = 4;              // pixels down that share what is loaded for a class
constexpr int WIDEST = 32767;        // pixels along an axis, so that places are whole numbers of 32 bits

struct LabelShape {
  int batch, classes, h, w, H, W;
  bool align;
};

// Where a pixel of an axis looks: `part` of the way from `low` to the next sample. In whole numbers: exact, and a GPU for
// small devices has next to no float64.
struct Between {
  int low;
  float part;

  __device__ Between(int i, int inner, int outer, bool align) {
    const int top = align ? i * (inner - 1) : (2 * i + 1) * inner - outer, bottom = align ? (outer > 1 ? outer - 1 : 1) : 2 * outer;
    low = top > 0 ? top / bottom : 0;
    part = low + 1 < inner && top > 0 ? float(top - low * bottom) / float(bottom) : 0.0f;
    low = low < inner ? low : inner - 1;
  }
};

// logits [B, K, h, w] to labels [B, H, W]. Each thread has DOWN pixels of a column; the rows they look at are enlarged
// sideways once. All pixels of a warp look at the same rows, so its threads go the same way.
template <class T, class Label>
__global__ void __launch_bounds__(THREADS) label_map_pixels(const T* __restrict__ logits, Label* __restrict__ labels, LabelShape shape) {
  const int x = int(thread_number()), y = int(blockIdx.y) * DOWN;
  if (x >= shape.W) return;
  const Between across(x, shape.w, shape.W, shape.align);
  const int right = across.low + 1 < shape.w ? across.low + 1 : across.low;
  int low[DOWN], which[DOWN];
  float part[DOWN], best[DOWN];
  UNROLLED for (int r = 0; r < DOWN; ++r) {
    const Between down(y + r < shape.H ? y + r : shape.H - 1, shape.h, shape.H, shape.align);
    low[r] = down.low, part[r] = down.part, best[r] = -INFINITY, which[r] = 0;
  }
  const long size = long(shape.h) * shape.w;
  const T* image = logits + long(blockIdx.z) * shape.classes * size;
  const auto sideways = [&](int row) {
    const T* from = image + long(row) * shape.w;
    const float left = read(from + across.low);
    return fmaf(across.part, read(from + right) - left, left);
  };
  for (int k = 0; k < shape.classes; ++k, image += size) {
    float above = 0, step = 0;
    UNROLLED for (int r = 0; r < DOWN; ++r) {
      if (r == 0 || low[r] != low[r ? r - 1 : 0]) {
        above = sideways(low[r]);
        step = (low[r] + 1 < shape.h ? sideways(low[r] + 1) : above) - above;
      }
      const float value = fmaf(part[r], step, above);
      if (value > best[r]) best[r] = value, which[r] = k;  // of equal logits the first class wins; NaN never does
    }
  }
  Label* out = labels + (long(blockIdx.z) * shape.H + y) * shape.W + x;
  UNROLLED for (int r = 0; r < DOWN; ++r) {
    if (y + r < shape.H) out[long(r) * shape.W] = Label(which[r]);
  }
}

// Axes are at most WIDEST long.
template <class T, class Label>
void label_map(const T* logits, Label* labels, const LabelShape& shape, cudaStream_t stream) {
  if (!shape.batch) return;
  const dim3 blocks(blocks_for(shape.W).x, unsigned((shape.H + DOWN - 1) / DOWN), unsigned(shape.batch));
  launch(label_map_pixels<T, Label>, blocks, THREADS, stream, logits, labels, shape);
}

}  // namespace edgeseg::gpu
