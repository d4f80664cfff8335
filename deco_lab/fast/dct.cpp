// D X D^T of 8 x 8 blocks X, from images to blocks in order or from blocks in order to images.
//
// In order, a block is 64 numbers in a row. In an image its rows lie a line apart; a band is eight
// lines, that is a row of blocks.

#include <cstdint>

constexpr int N = 8;
typedef float row __attribute__((vector_size(4 * N), aligned(4), may_alias));

extern "C" void blocks(
    float* out,
    const float* in,
    const float* left,   // D
    const float* right,  // D^T
    const int64_t* n) {  // bands, blocks in a band, whether from images, threads
    const int64_t bands = n[0], columns = n[1], line = N * columns;
    const int64_t read = n[2] ? line : N, write = n[2] ? N : line;
    const int64_t next_read = n[2] ? N : N * N, next_write = n[2] ? N * N : N;
#pragma omp parallel for num_threads(n[3]) schedule(static)
    for (int64_t band = 0; band < bands; band++)
        for (int64_t column = 0; column < columns; column++) {
            const float* x = in + band * N * line + column * next_read;
            float* y = out + band * N * line + column * next_write;
            row half[N];  // X D^T
            for (int r = 0; r < N; r++) {
                half[r] = row{};
                for (int c = 0; c < N; c++) half[r] += x[r * read + c] * ((const row*)right)[c];
            }
            for (int u = 0; u < N; u++) {
                row sum = {};
                for (int r = 0; r < N; r++) sum += left[N * u + r] * half[r];
                *(row*)(y + u * write) = sum;
            }
        }
}
