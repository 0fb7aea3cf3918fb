/* The kernel table: one function per (operation, format), reference versions first, overridden per CPU.
 *
 * Contract of numbers. At one CPU level, what a kernel writes for one (weight row, token) or one (query,
 * chunk) depends on that row and that token alone: never on how many rows or tokens the call has, on the
 * tile, the thread or the place of the data. Integer sums inside a block are exact; F32 across blocks follows
 * one order per level (src/kernels/README.md). Levels agree with ref within the bound that the
 * kernel tests state. No kernel reads outside its inputs or writes outside its output; no alignment is
 * assumed except where said. Kernels never allocate: scratch is on the stack (at most 64 KiB) or passed in.
 */
#ifndef COT_KERNELS_H
#define COT_KERNELS_H

#include "tensor/view.h"

/* How a token's activations stand in memory while a weight format meets them. */
typedef enum cot_act {
    COT_ACT_F32,    /* n floats */
    COT_ACT_Q8_32,  /* a scale for each 32 values: for the formats with blocks of 32 */
    COT_ACT_Q8_256, /* a scale for each 256: for the K formats and IQ4_XS */
    COT_ACT_BF16, /* n values rounded to BF16: for BF16 weights where the level multiplies these (avx512bf16)
                   */
    COT_ACT_COUNT
} cot_act;

/* Both are made of groups whose sizes are multiples of 64 bytes; what lies beyond the row is zero. q = −127 …
 * 127, value = d · q, d = amax / 127; a value that is not finite makes its block's d NaN. */
typedef struct cot__q8_32 { /* 320 bytes: eight blocks of 32 */
    int8_t q[256];
    float d[8];
    int32_t low[8]; /* −128 Σ q of a block */
} cot__q8_32;

/* Runs of 32 stand in the order 0 2 1 3 4 6 5 7, as 64 bytes of nibbles hold them: low ones of two runs, then
 * high ones. */
static inline int cot__run_place(int run) { return (run + 1) % 4 > 1 ? run ^ 3 : run; }
typedef struct cot__q8_256 { /* 1280 bytes: four blocks of 256 */
    int8_t q[4][256];
    int16_t sums[4][16], pairs[4][8]; /* Σ q of each 16; of each 32 */
    float d[4];
    int32_t unused[12];
} cot__q8_256;

#define COT_KV_CHUNK 64 /* positions per attention chunk = positions per KV block */

/* out[i · out_stride + r] = Σ_c w[r][c] · act_i[c] for r in [r0, r1) and i in [0, n);
 * act_i = act + (idx ? idx[i] : i) · act_stride bytes. Rows outside [r0, r1) are not touched. */
typedef void cot__gemm_fn(const cot_view *w, int64_t r0, int64_t r1, const void *act, size_t act_stride,
                          const int32_t *idx, int64_t n, float *out, size_t out_stride);

/* One chunk of keys and values of one KV head, as stored: type F32, F16 or Q8_0 (rows of Q8_0 are padded to
 * whole blocks of 32 with zeros). k: COT_KV_CHUNK rows of k_stride bytes; v likewise. */
typedef struct cot__kv_chunk {
    const void *k, *v;
    cot_type k_type, v_type;
    size_t k_stride, v_stride; /* bytes between positions */
    int dk, dv;                /* elements per position; v may alias k (MLA latent: dv ≤ dk) */
    const void *next;          /* the keys of the chunk that comes after this one, to be fetched; or NULL */
} cot__kv_chunk;

/* Partial softmax state of one query: acc holds Σ e^{z−m} v (dv floats), l = Σ e^{z−m}. Empty: m = −INF, l =
 * 0. */
typedef struct cot__attn_state {
    float m, l;
} cot__attn_state;

typedef enum cot_glu {
    COT_GLU_SILU,
    COT_GLU_GELU_TANH,
    COT_GLU_GELU_ERF,
    COT_GLU_RELU,
    COT_GLU_SWIGLU_CLAMPED
} cot_glu;

typedef struct cot_kernels {
    const char *level; /* "ref", "avx2", "avx512", "avx512bf16" */

    /* Activation rows. bytes = cot__act_bytes(act, n). */
    void (*act_encode[COT_ACT_COUNT])(const float *x, void *dst, int64_t n);

    /* Products, indexed by cot__kernel_slot(type). act[s] tells the activation format that gemm[s] takes;
     * gemm_f32[s] takes F32 activations (the truth path: each weight decoded to F32). NULL: not a weight
     * type. */
    cot_act act[32];
    cot__gemm_fn *gemm[32];
    cot__gemm_fn *gemm_f32[32];

    /* dX: out[c] += Σ_r x[r] · w[r][c] for r in [r0, r1), ascending r; used by absorbed MLA and by backward.
     */
    void (*gemv_t)(const cot_view *w, int64_t r0, int64_t r1, const float *x, float *out);

    /* Norms of one row of n: y may equal x; w, b may be NULL. RMS: y = x / sqrt(mean x² + eps) · w. Layer
     * norm subtracts the mean first and adds b. Sums in F32 lanes, order fixed per level. */
    void (*rms_norm)(float *y, const float *x, const float *w, int64_t n, float eps);
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, int64_t n, float eps);

    /* Rotates the first n_rot values of one head in place with cos/sin of n_rot / 2 pairs.
     * neox: pair (j, j + n_rot/2); norm: pair (2j, 2j + 1). */
    void (*rope_neox)(float *x, const float *cos, const float *sin, int n_rot);
    void (*rope_norm)(float *x, const float *cos, const float *sin, int n_rot);

    /* y = act(gate) · up; up NULL: y = act(gate). SWIGLU_CLAMPED (gpt-oss): g = min(gate, limit),
     * u = clamp(up, ±limit), y = (u + 1) · g · σ(alpha · g). y may equal gate. */
    void (*glu)(cot_glu kind, float *y, const float *gate, const float *up, int64_t n, float alpha,
                float limit);

    void (*add)(float *y, const float *x, int64_t n);                 /* y += x */
    void (*add_scaled)(float *y, const float *x, float a, int64_t n); /* y += a · x, one fused multiply-add */
    void (*scale)(float *y, float a, int64_t n);
    float (*dot_f32)(const float *a, const float *b, int64_t n); /* router rows, in the level's F32 order */

    /* KV rows: rounding to the cache type. Q8_0 pads n to a multiple of 32. */
    void (*kv_store)(cot_type type, void *dst, const float *x, int n);
    void (*kv_load)(cot_type type, float *dst, const void *src, int n);

    /* For each of n_q queries (dk floats each, q_stride floats apart), over its positions [from[i], to[i]) of
     * the chunk: z_j = scale · q·k_j, softcapped by cap·tanh(z/cap) when cap > 0; writes the chunk's own
     * state st[i] and acc[i · acc_stride …] (overwritten; an empty range gives the empty state, acc zeroed).
     */
    void (*attn_chunk)(const cot__kv_chunk *kv, const float *q, size_t q_stride, int n_q, const int *from,
                       const int *to, float scale, float softcap, cot__attn_state *st, float *acc,
                       size_t acc_stride);
    /* Folds (b, bacc) into (a, aacc); called in ascending chunk order. */
    void (*attn_merge)(cot__attn_state *a, float *aacc, const cot__attn_state *b, const float *bacc, int dv);
    /* Closes a query: adds the sink logit when not NULL, divides by l; out gets dv floats. l = 0 gives zeros.
     */
    void (*attn_finish)(const cot__attn_state *a, const float *aacc, const float *sink, float *out, int dv);

    /* x ← e^{x − max} / Σ; max and Σ in F32, ascending. */
    void (*softmax)(float *x, int64_t n);
    /* log Σ e^x of n values. */
    float (*log_sum_exp)(const float *x, int64_t n);
} cot_kernels;

/* Table for this machine, or for COTERIE_CPU=ref|avx2|avx512|avx512bf16 (an unknown or unsupported name is an
 * error). Static storage; chosen once, thread-safe. */
cot_status cot__kernels_get(const cot_kernels **out, cot_error *err);
/* By name, for tests: NULL when this machine cannot run it. */
const cot_kernels *cot__kernels_by_name(const char *level);

/* Index of a type in gemm[], −1 when it is no weight type. */
int cot__kernel_slot(cot_type type);
size_t cot__act_bytes(cot_act act, int64_t n);

/* Each level fills its entries over those of the level below; called once by kernels.c. */
void cot__kernels_init_ref(cot_kernels *k);
void cot__kernels_init_avx2(cot_kernels *k);
void cot__kernels_init_avx512(cot_kernels *k);
void cot__kernels_init_avx512bf16(cot_kernels *k);

#endif
