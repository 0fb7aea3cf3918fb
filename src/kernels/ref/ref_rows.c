/* The truth of row-wise operations: norms, rotation, activations, sums, softmax. Sums in double. */
#include <math.h>

#include "kernels/ref/ref.h"

static void rms_norm(float *y, const float *x, const float *w, int64_t n, float eps) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float s = (float)(1.0 / sqrt(sum / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * s * (w ? w[i] : 1.0f);
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, int64_t n, float eps) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < n; i++) mean += x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    double s = 1.0 / sqrt(var / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++) y[i] = (float)((x[i] - mean) * s) * (w ? w[i] : 1.0f) + (b ? b[i] : 0.0f);
}

static void rotate(float *a, float *b, float c, float s) {
    float x = *a, y = *b;
    *a = x * c - y * s;
    *b = y * c + x * s;
}
static void rope_neox(float *x, const float *cos, const float *sin, int n_rot) {
    for (int j = 0; j < n_rot / 2; j++) rotate(&x[j], &x[j + n_rot / 2], cos[j], sin[j]);
}
static void rope_norm(float *x, const float *cos, const float *sin, int n_rot) {
    for (int j = 0; j < n_rot / 2; j++) rotate(&x[2 * j], &x[2 * j + 1], cos[j], sin[j]);
}

static float activate(cot_glu kind, float g, float alpha, float limit) {
    switch (kind) {
    case COT_GLU_SILU: return g / (1.0f + expf(-g));
    case COT_GLU_GELU_TANH:
        return 0.5f * g * (1.0f + tanhf(0.7978845608028654f * (g + 0.044715f * g * g * g)));
    case COT_GLU_GELU_ERF: return 0.5f * g * (1.0f + erff(g * 0.70710678118654752f));
    case COT_GLU_RELU: return g > 0 ? g : 0;
    case COT_GLU_SWIGLU_CLAMPED: g = g > limit ? limit : g; return g / (1.0f + expf(-alpha * g));
    }
    return 0;
}
static void glu(cot_glu kind, float *y, const float *gate, const float *up, int64_t n, float alpha,
                float limit) {
    for (int64_t i = 0; i < n; i++) {
        float a = activate(kind, gate[i], alpha, limit), u = up ? up[i] : 1.0f;
        if (kind == COT_GLU_SWIGLU_CLAMPED && up) u = (u > limit ? limit : u < -limit ? -limit : u) + 1.0f;
        y[i] = a * u;
    }
}

static void add(float *y, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}
static void add_scaled(float *y, const float *x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = fmaf(a, x[i], y[i]);
}
static void scale(float *y, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] *= a;
}
static float dot_f32(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return (float)sum;
}

static void softmax(float *x, int64_t n) {
    float max = x[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < n; i++) sum += x[i] = expf(x[i] - max);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(x[i] / sum);
}
static float log_sum_exp(const float *x, int64_t n) {
    float max = x[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return (float)(max + log(sum));
}

void cot__kernels_init_ref(cot_kernels *k) {
    *k = (cot_kernels){.level = "ref",
                       .rms_norm = rms_norm,
                       .layer_norm = layer_norm,
                       .rope_neox = rope_neox,
                       .rope_norm = rope_norm,
                       .glu = glu,
                       .add = add,
                       .add_scaled = add_scaled,
                       .scale = scale,
                       .dot_f32 = dot_f32,
                       .softmax = softmax,
                       .log_sum_exp = log_sum_exp};
    cot__ref_gemm_init(k);
    cot__ref_attn_init(k);
}
