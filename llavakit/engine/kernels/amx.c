/* Products by the matrix unit of the processor (AMX), where it has one: up to 32 rows times one panel at a time.

   A panel already lies as the unit wants its right side: 16 input pairs of 16 outputs are a tile of it. A row gives the
   same bits in any company here too, so with the unit all rows of bf16 and int8 weights go through it, single ones
   as well. The instructions are written out, since compilers disagree on what their own names for them promise. */

#include "kernels.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ASK_FOR_STATE = 0x1023, TILE_STATE = 18 }; /* arch_prctl: Linux keeps tiles only for programs that asked */

int deepest = ROWS;

#define LOAD(tile, from, apart)                                                                                       \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(from), "r"((int64_t)(apart)) : "memory")
#define STORE(tile, into, apart)                                                                                      \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(into), "r"((int64_t)(apart)) : "memory")
#define CLEAR(tile) __asm__ volatile("tilezero %%tmm" #tile : : : "memory")
#define MULTIPLY(sums, left, right)                                                                                   \
    __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sums : : : "memory")

/* Whether the processor has the unit and the system lets this program use it. */
static int can_use(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    int has = (d >> 22 & 1) && (d >> 24 & 1); /* bf16 and the tiles themselves */
    return has && syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_STATE) == 0;
}

EXPORT void use_amx(int wanted) { deepest = wanted && can_use() ? DEEP : ROWS; }
EXPORT int uses_amx(void) { return deepest == DEEP; }

/* Tiles for `rows` rows: sums in 0 to 3, rows in 4 and 5, weights in 6 and 7. */
static void shape_tiles(int rows) {
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = {1};
    int first = rows < 16 ? rows : 16, second = rows - first;
    for (int tile = 0; tile < 8; tile++) {
        int high = tile == 2 || tile == 3 || tile == 5;
        shape.rows[tile] = (uint8_t)(tile > 5 ? 16 : high ? second : first);
        shape.bytes[tile] = shape.rows[tile] ? 64 : 0;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(shape));
}

void amx_release(void) { __asm__ volatile("tilerelease"); }

void amx_tile(const bf16 *w, const bf16 *x, int64_t inputs, int rows, int *shaped, float *sums) {
    if (*shaped != rows) shape_tiles(*shaped = rows);
    const bf16 *lower = x + 16 * inputs;
    CLEAR(0);
    CLEAR(1);
    if (rows <= 16) {
        for (int64_t i = 0; i < inputs; i += 32, w += 1024) {
            LOAD(6, w, 128);
            LOAD(7, w + 32, 128);
            LOAD(4, x + i, inputs * 2);
            MULTIPLY(0, 4, 6);
            MULTIPLY(1, 4, 7);
        }
    } else {
        CLEAR(2);
        CLEAR(3);
        for (int64_t i = 0; i < inputs; i += 32, w += 1024) {
            LOAD(6, w, 128);
            LOAD(4, x + i, inputs * 2);
            MULTIPLY(0, 4, 6);
            LOAD(7, w + 32, 128);
            MULTIPLY(1, 4, 7);
            LOAD(5, lower + i, inputs * 2);
            MULTIPLY(2, 5, 6);
            MULTIPLY(3, 5, 7);
        }
        STORE(2, sums + 16 * WIDE, WIDE * 4);
        STORE(3, sums + 16 * WIDE + 16, WIDE * 4);
    }
    STORE(0, sums, WIDE * 4);
    STORE(1, sums + 16, WIDE * 4);
}
