// The DiT's blocks, in two passes over their tokens each, and the pixel decoder, in one, on a CPU.
//
// Sixteen tokens lie side by side in `lanes`, one for each channel, so that a norm, a rotation or an
// activation is written as for one number, and a linear layer reads every weight once for sixteen
// tokens:
//
//     out[j] += weight[k][j] * in[k]
//
// Attention is two such layers whose weights are keys and values, in float32. So are all sums. Where
// W is `pair`, weights and what they multiply are bfloat16, rows 2k and 2k + 1 of them in 32 bits.

#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#if defined(__x86_64__) && !defined(__AVX2__)
#error "the processor has no AVX2"
#endif

constexpr int LANES = 16;
// Floats in one of the processor's vectors, and columns of a weight whose sums the registers hold.
#if defined(__AVX512F__)
constexpr int SIZE = 16, COLUMNS = 16;
#elif defined(__AVX2__)
constexpr int SIZE = 8, COLUMNS = 6;
#else
constexpr int SIZE = 4, COLUMNS = 6;
#endif
constexpr int PARTS = LANES / SIZE;
constexpr int64_t TOGETHER = 48;  // columns that are finished together, a multiple of COLUMNS

typedef float vector __attribute__((vector_size(4 * SIZE), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * SIZE)));
struct pair { int32_t bits; };

struct __attribute__((may_alias)) lanes {
    vector part[PARTS];
    lanes() = default;
    lanes(float value) {
        for (vector& each : part) each = value - vector{};
    }
    template <class F> static inline lanes of(F function) {
        lanes out;
        for (int i = 0; i < PARTS; i++) out.part[i] = function(i);
        return out;
    }
};

static inline lanes operator+(lanes a, lanes b) {
    return lanes::of([&](int i) { return a.part[i] + b.part[i]; });
}
static inline lanes operator-(lanes a, lanes b) {
    return lanes::of([&](int i) { return a.part[i] - b.part[i]; });
}
static inline lanes operator*(lanes a, lanes b) {
    return lanes::of([&](int i) { return a.part[i] * b.part[i]; });
}
static inline lanes operator/(lanes a, lanes b) {
    return lanes::of([&](int i) { return a.part[i] / b.part[i]; });
}
// Of a NaN on the left, the right: in softmax it reaches the result through the values alone.
static inline lanes larger(lanes a, lanes b) {
    return lanes::of([&](int i) { return a.part[i] > b.part[i] ? a.part[i] : b.part[i]; });
}

// e^x within 2e-7 of its value for x from -87 to 88: 2^n by the bits of its exponent, the rest by
// the polynomial of the Cephes library.
static inline vector exponential(vector x) {
    const vector rounding = 12582912.0f - vector{};  // 1.5 * 2^23
    const vector shifted = x * 1.44269504f + rounding;
    const vector n = shifted - rounding;
    const vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vector p = 1.9875691500e-4f - vector{};
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vector)((integers)p + ((integers)shifted << 23));
}

static inline lanes exponential(lanes x) {
    x = larger(x, -87.0f);
    return lanes::of([&](int i) { return exponential(x.part[i]); });
}

// Below -87, e^-x is held at e^87, so that it is finite: of -1e4, this is -2e-34.
static inline lanes silu(lanes x) { return x / (1.0f + exponential(-1.0f * larger(x, -87.0f))); }

static inline lanes inverse_root(lanes x) {
    return lanes::of([&](int i) {
        vector root;
        for (int l = 0; l < SIZE; l++) root[l] = __builtin_sqrtf(x.part[i][l]);
        return 1.0f / root;
    });
}

// What a layer multiplies: the vectors themselves, or pairs of them in bfloat16.
template <class W> struct Operand;

template <> struct Operand<float> {
    typedef lanes type;
    static constexpr int ROWS = 1;
    static const lanes* of(lanes* in, int64_t) { return in; }
    static inline void add(lanes& sum, float weight, const lanes& in) {
        for (int i = 0; i < PARTS; i++) sum.part[i] += weight * in.part[i];
    }
};

#ifdef __AVX512BF16__
template <> struct Operand<pair> {
    typedef __m512bh type;
    static constexpr int ROWS = 2;
    // In place: vector k of the result is made of vectors 2k and 2k + 1, which are read before.
    static const type* of(lanes* in, int64_t K) {
        const __m512i order = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
            23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        for (int64_t k = 0; k < K / 2; k++) {
            const __m512 low = (__m512)in[2 * k].part[0], high = (__m512)in[2 * k + 1].part[0];
            const __m512bh two = _mm512_cvtne2ps_pbh(high, low);
            in[k].part[0] = (vector)_mm512_permutexvar_epi16(order, (__m512i)two);
        }
        return (const type*)in;
    }
    static inline void add(lanes& sum, pair weight, type in) {
        const __m512bh both = (__m512bh)_mm512_set1_epi32(weight.bits);
        sum.part[0] = (vector)_mm512_dpbf16_ps((__m512)sum.part[0], both, in);
    }
};
#endif

// out[j] = bias[j] + sum over k of weight[k][j] * in[k], for J columns of `stride`
template <int J, class W>
static inline void columns(lanes* out, const typename Operand<W>::type* in, const W* weight,
                           const float* bias, int64_t K, int64_t stride) {
    lanes sum[J];
    for (int j = 0; j < J; j++) sum[j] = bias ? bias[j] : 0.0f;
    for (int64_t k = 0; k < K / Operand<W>::ROWS; k++) {
        const auto& value = in[k];
        const W* row = weight + k * stride;
        for (int j = 0; j < J; j++) Operand<W>::add(sum[j], row[j], value);
    }
    for (int j = 0; j < J; j++) out[j] = sum[j];
}

template <class W>
static void linear(lanes* out, const typename Operand<W>::type* in, const W* weight,
                   const float* bias, int64_t K, int64_t J, int64_t stride) {
    int64_t j = 0;
    for (; j + COLUMNS <= J; j += COLUMNS)
        columns<COLUMNS>(out + j, in, weight + j, bias ? bias + j : nullptr, K, stride);
    for (; j + 2 <= J; j += 2)
        columns<2>(out + j, in, weight + j, bias ? bias + j : nullptr, K, stride);
    for (; j < J; j++)
        columns<1>(out + j, in, weight + j, bias ? bias + j : nullptr, K, stride);
}

// The same for many vectors and columns, shared between threads by columns.
template <class W>
static void layer(
    float* out,         // (groups, J, 16)
    const float* in,    // (groups, K, 16)
    const W* weight,    // (K, J)
    const float* bias,  // (J)
    int64_t groups, int64_t K, int64_t J, int threads) {
#pragma omp parallel num_threads(threads)
    for (int64_t group = 0; group < groups; group++) {
        lanes given[K];
        memcpy(given, in + group * K * LANES, sizeof given);
        const auto* operands = Operand<W>::of(given, K);
#pragma omp for schedule(static) nowait
        for (int64_t j = 0; j < J; j += TOGETHER)
            linear((lanes*)out + group * J + j, operands, weight + j, bias + j, K,
                   J - j < TOGETHER ? J - j : TOGETHER, J);
    }
}

// ---------------------------------------------------------------------------------- the DiT

// RMSNorm and AdaLN: x / rms(x) * A + C, where A holds the norm's weight
static inline void modulated(lanes* out, const lanes* x, const float* C, const float* A, int64_t D) {
    lanes square = {};
    for (int64_t c = 0; c < D; c++) square = square + x[c] * x[c];
    const lanes scale = inverse_root(square * (1.0f / D) + 1e-6f);
    for (int64_t c = 0; c < D; c++) out[c] = x[c] * scale * A[c] + C[c];
}

// A head's RMSNorm, and the rotation of its pairs of channels; cos and sin hold the norm's weight
static inline void turned(lanes* out, const lanes* x, const lanes* cos, const lanes* sin, int64_t d) {
    lanes square = {};
    for (int64_t c = 0; c < d; c++) square = square + x[c] * x[c];
    const lanes scale = inverse_root(square * (1.0f / d) + 1e-6f);
    for (int64_t c = 0; c < d; c++) out[c] = (x[c] * cos[c] + x[c ^ 1] * sin[c]) * scale;
}

template <class W>
static void blocks(
    float* tokens,             // (images, groups, D, 16), in and out
    float* queries,            // (images, groups, D, 16), scratch
    float* keys,               // (images, D, groups * 16), scratch
    float* values,             // (images, heads, groups * 16, D / heads), scratch
    const float* modulation,   // (depth, images, 6, D): C, A and gate of attention and of MLP
    const float* rotation,     // (depth, 2, 2, groups, D / heads, 16): of q and k, cos and sin
    const W* qkv,              // (depth, D, 3 * D)
    const W* output,           // (depth, D, D)
    const float* output_bias,  // (depth, D)
    const W* gate,             // (depth, D, I)
    const W* value,            // (depth, D, I)
    const W* last,             // (depth, I, D)
    int64_t images, int64_t N, int64_t D, int64_t heads, int64_t I, int64_t depth, int threads) {
    typedef Operand<W> operand;
    const int64_t groups = (N + LANES - 1) / LANES, d = D / heads, rows = operand::ROWS;
    const int64_t padded = groups * LANES;
#pragma omp parallel num_threads(threads)
    for (int64_t block = 0; block < depth; block++) {
        const float* steering = modulation + block * images * 6 * D;
        const lanes* tables = (const lanes*)rotation + block * 4 * groups * d;
#pragma omp for collapse(2) schedule(static)
        for (int64_t image = 0; image < images; image++)
            for (int64_t group = 0; group < groups; group++) {
                const float* C = steering + image * 6 * D;
                const int64_t place = image * groups + group;
                lanes inner[D], three[3 * D], one[d];
                modulated(inner, (const lanes*)tokens + place * D, C, C + D, D);
                linear(three, operand::of(inner, D), qkv + block * D / rows * 3 * D, nullptr, D,
                       3 * D, 3 * D);
                for (int64_t head = 0; head < heads; head++) {
                    const lanes* table = tables + group * d;
                    turned((lanes*)queries + place * D + head * d, three + head * d, table,
                           table + groups * d, d);
                    table += 2 * groups * d;
                    turned(one, three + D + head * d, table, table + groups * d, d);
                    const int64_t first = image * D + head * d;
                    for (int64_t c = 0; c < d; c++)
                        memcpy(keys + (first + c) * padded + group * LANES, one + c, sizeof *one);
                    float* own = values + first * padded + group * LANES * d;
                    for (int64_t c = 0; c < d; c++)
                        for (int l = 0; l < LANES; l++)
                            own[l * d + c] = ((const float*)(three + 2 * D + head * d + c))[l];
                }
            }
#pragma omp for collapse(2) schedule(static)
        for (int64_t image = 0; image < images; image++)
            for (int64_t group = 0; group < groups; group++) {
                const float* C = steering + image * 6 * D;
                const int64_t place = image * groups + group;
                lanes inner[D], mixed[D], scores[padded], hidden[I];
                lanes* x = (lanes*)tokens + place * D;
                for (int64_t head = 0; head < heads; head++) {
                    const int64_t first = image * D + head * d;
                    linear(scores, (const lanes*)queries + place * D + head * d,
                           keys + first * padded, nullptr, d, padded, padded);
                    lanes most = scores[0], sum = {};
                    for (int64_t n = 1; n < N; n++) most = larger(most, scores[n]);
                    for (int64_t n = 0; n < N; n++) {
                        scores[n] = exponential(scores[n] - most);
                        sum = sum + scores[n];
                    }
                    linear(mixed + head * d, scores, values + first * padded, nullptr, N, d, d);
                    for (int64_t c = 0; c < d; c++) mixed[head * d + c] = mixed[head * d + c] / sum;
                }
                linear(inner, operand::of(mixed, D), output + block * D / rows * D,
                       output_bias + block * D, D, D, D);
                for (int64_t c = 0; c < D; c++) x[c] = x[c] + C[2 * D + c] * inner[c];
                modulated(inner, x, C + 3 * D, C + 4 * D, D);
                const auto* given = operand::of(inner, D);
                linear(hidden, given, gate + block * D / rows * I, nullptr, D, I, I);
                const W* other = value + block * D / rows * I;
                for (int64_t i = 0; i < I; i += TOGETHER) {
                    lanes others[TOGETHER];
                    const int64_t count = I - i < TOGETHER ? I - i : TOGETHER;
                    linear(others, given, other + i, nullptr, D, count, I);
                    for (int64_t j = 0; j < count; j++) hidden[i + j] = silu(hidden[i + j]) * others[j];
                }
                linear(mixed, operand::of(hidden, I), last + block * I / rows * D, nullptr, I, D, D);
                for (int64_t c = 0; c < D; c++) x[c] = x[c] + C[5 * D + c] * mixed[c];
            }
    }
}

// ------------------------------------------------------------------------- the pixel decoder

static inline void normalised(lanes* out, const lanes* h, int64_t d) {
    lanes mean = {}, square = {};
    for (int64_t c = 0; c < d; c++) mean = mean + h[c];
    mean = mean * (1.0f / d);
    for (int64_t c = 0; c < d; c++) out[c] = h[c] - mean;
    for (int64_t c = 0; c < d; c++) square = square + out[c] * out[c];
    const lanes scale = inverse_root(square * (1.0f / d) + 1e-6f);
    for (int64_t c = 0; c < d; c++) out[c] = out[c] * scale;
}

template <class W>
static void decoder(
    float* velocity,               // (groups, places, values, 16)
    const float* units,            // (groups, places, values, 16)
    const float* tokens,           // (groups, D, 16)
    const float* embed,            // (values, d)
    const float* table,            // (places, d)
    const W* project,              // (places, D, d)
    const float* project_bias,     // (places, d)
    const W* modulation,           // (depth, d, 3 * d): C, A and gate
    const float* modulation_bias,  // (depth, 3 * d)
    const W* mlp,                  // (depth, 2, d, d)
    const float* mlp_bias,         // (depth, 2, d)
    const float* head,             // (d, values)
    const float* head_bias,        // (values)
    int64_t groups, int64_t places, int64_t values, int64_t D, int64_t d, int64_t depth,
    int threads) {
    typedef Operand<W> operand;
    const int64_t rows = operand::ROWS;
#pragma omp parallel num_threads(threads)
    {
        lanes s[D], y[d], h[d], n[d], z[d], steering[3 * d], out[values];
        int64_t current = -1;
        const typename operand::type* given = nullptr;
#pragma omp for collapse(2) schedule(static)
        for (int64_t group = 0; group < groups; group++)
            for (int64_t place = 0; place < places; place++) {
                if (group != current) {
                    memcpy(s, tokens + group * D * LANES, sizeof s);
                    given = operand::of(s, D);
                    current = group;
                }
                const int64_t unit = (group * places + place) * values * LANES;
                linear(h, (const lanes*)(units + unit), embed, table + place * d, values, d, d);
                linear(y, given, project + place * D / rows * d, project_bias + place * d, D, d, d);
                for (int64_t c = 0; c < d; c++) y[c] = silu(y[c]);
                const auto* steered = operand::of(y, d);
                for (int64_t block = 0; block < depth; block++) {
                    linear(steering, steered, modulation + block * d / rows * 3 * d,
                           modulation_bias + block * 3 * d, d, 3 * d, 3 * d);
                    normalised(n, h, d);
                    for (int64_t c = 0; c < d; c++) n[c] = n[c] * steering[d + c] + steering[c];
                    const W* weight = mlp + block * 2 * d / rows * d;
                    const float* bias = mlp_bias + block * 2 * d;
                    linear(z, operand::of(n, d), weight, bias, d, d, d);
                    for (int64_t c = 0; c < d; c++) z[c] = silu(z[c]);
                    linear(n, operand::of(z, d), weight + d / rows * d, bias + d, d, d, d);
                    for (int64_t c = 0; c < d; c++) h[c] = h[c] + steering[2 * d + c] * n[c];
                }
                normalised(n, h, d);
                linear(out, n, head, head_bias, d, values, values);
                memcpy(velocity + unit, out, sizeof out);
            }
    }
}

// What Python calls: every pointer and size in the order of the functions above.
#define EXPORT(SUFFIX, W)                                                                         \
    extern "C" void layer_##SUFFIX(float* a, const float* b, const W* c, const float* d,          \
                                   const int64_t* n) {                                            \
        layer(a, b, c, d, n[0], n[1], n[2], n[3]);                                                \
    }                                                                                             \
    extern "C" void blocks_##SUFFIX(float* a, float* b, float* c, float* d, const float* e,        \
                                   const float* f, const W* g, const W* h, const float* i,        \
                                   const W* j, const W* k, const W* l, const int64_t* n) {        \
        blocks(a, b, c, d, e, f, g, h, i, j, k, l, n[0], n[1], n[2], n[3], n[4], n[5], n[6]);      \
    }                                                                                             \
    extern "C" void decoder_##SUFFIX(float* a, const float* b, const float* c, const float* d,    \
                                     const float* e, const W* f, const float* g, const W* h,      \
                                     const float* i, const W* j, const float* k, const float* l,  \
                                     const float* m, const int64_t* n) {                          \
        decoder(a, b, c, d, e, f, g, h, i, j, k, l, m, n[0], n[1], n[2], n[3], n[4], n[5], n[6]); \
    }

EXPORT(float32, float)
#ifdef __AVX512BF16__
EXPORT(bfloat16, pair)
#endif
