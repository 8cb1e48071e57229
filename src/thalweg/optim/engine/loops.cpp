// The program around the loops of a pass; names after a dollar sign are filled in by cpp.py.
#include <features.h>
#if defined(__GLIBC__) && defined(__x86_64__)
// There the C library has these for whole registers; its own headers say so only where sums may be taken in any order.
#define MANY_AT_ONCE extern "C" __attribute__((__simd__("notinbranch")))
MANY_AT_ONCE float expf(float) noexcept;
MANY_AT_ONCE float logf(float) noexcept;
MANY_AT_ONCE float powf(float, float) noexcept;
MANY_AT_ONCE float sinf(float) noexcept;
MANY_AT_ONCE float cosf(float) noexcept;
MANY_AT_ONCE double exp(double) noexcept;
MANY_AT_ONCE double log(double) noexcept;
MANY_AT_ONCE double pow(double, double) noexcept;
MANY_AT_ONCE double sin(double) noexcept;
MANY_AT_ONCE double cos(double) noexcept;
#endif
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>

namespace {

constexpr int SUMS = $sums, STORED = $stored;
constexpr int64_t BLOCK = 4096, LINE = 16;
constexpr int64_t CACHED = 1 << 20;  // elements of a tensor up to which it pays to store numbers rather than to work them out again

struct bfloat16 {
  uint16_t bits;
  explicit bfloat16(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    bits = x != x ? 0x7fc0 : uint16_t((b + 0x7fff + ((b >> 16) & 1)) >> 16);
  }
  explicit operator float() const {
    const uint32_t b = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &b, 4);
    return x;
  }
};

// All hand NaN on, as torch's do; but for sign, which is 0 there.
template <class T> inline T larger(T x, T y) { return x != x || x > y ? x : y; }
template <class T> inline T smaller(T x, T y) { return x != x || x < y ? x : y; }
template <class T> inline T from(T x, T low) { return x < low ? low : x; }
template <class T> inline T upto(T x, T high) { return x > high ? high : x; }
template <class T> inline T sign(T x) { return T(x > 0) - T(x < 0); }
template <class T> inline T mixed(T x, T y, T w) { return std::abs(w) < T(0.5) ? x + w * (y - x) : y - (y - x) * (1 - w); }
$functions
using Stage = void (*)(void* const*, int64_t, int64_t, int64_t, int64_t, const double*, const double*, double*, char*);
constexpr int COUNT = $count;
constexpr Stage STAGES[2][COUNT] = {{$stages}, {$storing}};

// Room for what is stored of a tensor; kept, for new memory is slow at first.
char* room(int64_t length, std::vector<char>& kept) {
  if (STORED == 0 || length > CACHED) return nullptr;
  if (int64_t(kept.size()) < STORED * length) kept.resize(STORED * length);
  return kept.data();
}

// All threads work on one tensor, each on its share of the blocks.
void together(void* const* q, int64_t stride, int64_t length, const double* v, std::vector<double>& parts, char* w) {
  const int64_t me = omp_get_thread_num(), threads = omp_get_num_threads();
  const int64_t blocks = (length + BLOCK - 1) / BLOCK, first = blocks * me / threads, last = blocks * (me + 1) / threads;
  double t[SUMS + 1] = {};
  for (Stage stage : STAGES[w != nullptr]) {
    double own[SUMS + 1];
    for (int64_t block = first; block < last; ++block) {
      std::fill(own, own + SUMS, 0.0);
      stage(q, stride, length, block * BLOCK, std::min((block + 1) * BLOCK, length), v, t, own, w);
      std::copy(own, own + SUMS, parts.begin() + block * SUMS);
    }
    #pragma omp barrier
    for (int64_t block = 0; block < blocks; ++block)
      for (int sum = 0; sum < SUMS; ++sum) t[sum] += parts[block * SUMS + sum];
    #pragma omp barrier
  }
}

// One thread works on one tensor.
void alone(void* const* q, int64_t stride, int64_t length, const double* v) {
  thread_local std::vector<char> kept;
  char* w = room(length, kept);
  double t[SUMS + 1] = {};
  for (Stage stage : STAGES[w != nullptr]) stage(q, stride, length, 0, length, v, t, t, w);
}

}  // namespace

// For count tensors: their lengths and, one array after the other, pointers to each tensor's. Those that come first in order are
// each shared by all threads.
extern "C" void run(int64_t count, const int64_t* lengths, const int64_t* order, int64_t shared, void* const* pointers,
                    const double* v, int64_t threads) {
  if (SUMS == 0) {
    int64_t total = 0;
    for (int64_t k = 0; k < count; ++k) total += lengths[k];
    #pragma omp parallel num_threads(threads)
    {
      const int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
      int64_t low = total / all * me, high = me + 1 < all ? low + total / all : total;
      for (int64_t k = 0; k < count && high > 0; ++k) {
        const int64_t first = std::max<int64_t>(low / LINE * LINE, 0), last = high < lengths[k] ? high / LINE * LINE : lengths[k];
        if (first < last) STAGES[0][0](pointers + k, count, lengths[k], first, last, v, nullptr, nullptr, nullptr);
        low -= lengths[k];
        high -= lengths[k];
      }
    }
    return;
  }
  thread_local std::vector<char> kept;
  std::vector<char>& common = kept;  // of the calling thread, also for the others
  int64_t longest = 0;
  for (int64_t j = 0; j < shared; ++j) longest = std::max(longest, lengths[order[j]]);
  std::vector<double> parts((longest + BLOCK - 1) / BLOCK * SUMS);
  for (int64_t j = 0; j < shared; ++j) room(lengths[order[j]], common);
  std::atomic<int64_t> next{shared};
  #pragma omp parallel num_threads(threads)
  {
    for (int64_t j = 0; j < shared; ++j) {
      const int64_t k = order[j];
      together(pointers + k, count, lengths[k], v, parts, room(lengths[k], common));
    }
    for (int64_t j = next++; j < count; j = next++) alone(pointers + order[j], count, lengths[order[j]], v);
  }
}
