/* Owns: rotation frequencies and their scalings: linear, YaRN (Peng et al. 2023), llama3, LongRoPE, or
 * divisors that the file stores. Formulas: card "YaRN", "LongRoPE", "llama3 scaling"; base and factor from
 * the description. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/bind.h"
#include "model/internal.h"

typedef struct yarn {
    double factor, original, beta_fast, beta_slow;
    bool truncate;
} yarn;

static double yarn_corner(double rotations, int d, double base, double original) {
    return d * log(original / (rotations * 2 * M_PI)) / (2 * log(base));
}

static void yarn_apply(const yarn *y, int d, double base, double *theta) {
    double low = yarn_corner(y->beta_fast, d, base, y->original),
           high = yarn_corner(y->beta_slow, d, base, y->original);
    if (y->truncate) low = floor(low), high = ceil(high);
    low = low < 0 ? 0 : low;
    high = high > d - 1 ? d - 1 : high;
    double width = high - low > 0.001 ? high - low : 0.001;
    for (int i = 0; i < d / 2; i++) {
        double ramp = (i - low) / width;
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        theta[i] = theta[i] * (1 - ramp) + theta[i] / y->factor * ramp;
    }
}

static double mscale(double factor, double m) { return factor > 1 ? 0.1 * m * log(factor) + 1 : 1; }

/* Numbers of the spec by name, with defaults; one place for all scalings. */
static cot_status number(const cot_model *m, const json_t *spec, const char *field, double fallback,
                         double *out, cot_error *err) {
    bool found;
    *out = fallback;
    return cot__arch_number(m->arch, json_object_get(spec, field), field, -1, out, &found, err);
}

static cot_status llama3_apply(const cot_model *m, const json_t *spec, double factor, double original,
                               int half, double *theta, cot_error *err) {
    double lo, hi;
    COT_TRY(number(m, spec, "low_freq_factor", 1, &lo, err));
    COT_TRY(number(m, spec, "high_freq_factor", 4, &hi, err));
    if (!(hi > lo))
        return cot__fail(err, COT_FORMAT, m->source->path, "rope",
                         "high_freq_factor must exceed low_freq_factor");
    for (int i = 0; i < half; i++) {
        double wave = 2 * M_PI / theta[i];
        if (wave < original / hi) continue;
        if (wave > original / lo) theta[i] /= factor;
        else {
            double u = (original / wave - lo) / (hi - lo);
            theta[i] = (1 - u) * theta[i] / factor + u * theta[i];
        }
    }
    return COT_OK;
}

/* Divisors of LongRoPE: a list of the config or a tensor of the file. */
static cot_status divisors(const cot_model *m, const json_t *spec, const char *list_field, const char *slot,
                           int half, const double *theta, float **out, cot_error *err) {
    const double *list = NULL;
    const float *vec = NULL;
    size_t n = 0;
    cot__bind b = {.arch = m->arch, .store = m->store};
    COT_TRY(cot__arch_list(m->arch, json_object_get(spec, list_field), list_field, &list, &n, err));
    if (!n) COT_TRY(cot__slot_vector(&b, slot, false, -1, half, &vec, NULL, err));
    if (!n && !vec) return COT_OK;
    if (n && n != (size_t)half)
        return cot__fail(err, COT_FORMAT, m->source->path, list_field, "has %zu values, must have %d", n,
                         half);
    float *f = cot__arena_alloc(m->arena, (size_t)half * sizeof *f);
    if (!f) return cot__fail_memory(err, (size_t)half * sizeof *f);
    for (int i = 0; i < half; i++) f[i] = (float)(theta[i] / (n ? list[i] : (double)vec[i]));
    *out = f;
    return COT_OK;
}

static cot_status longrope(cot_model *m, const json_t *spec, int half, const double *theta, double original,
                           cot__rope *r, cot_error *err) {
    double ctx = (double)m->n_ctx_train, s, formula, attn, mul, mul_long;
    float *shorter = NULL;
    COT_TRY(divisors(m, spec, "short_factor", "rope_factors_short", half, theta, &shorter, err));
    COT_TRY(divisors(m, spec, "long_factor", "rope_factors_long", half, theta, &r->freq_long, err));
    if (shorter) r->freq = shorter;
    COT_TRY(number(m, spec, "long_factor_ratio", original > 0 ? ctx / original : 1, &s, err));
    formula = s > 1 && original > 1 ? sqrt(1 + log(s) / log(original)) : 1;
    COT_TRY(number(m, spec, "attn_factor", formula, &attn, err));
    COT_TRY(number(m, spec, "short_mscale", attn, &mul, err));
    COT_TRY(number(m, spec, "long_mscale", attn, &mul_long, err));
    r->mul = (float)mul;
    r->mul_long = (float)mul_long;
    r->original_ctx = (int64_t)original;
    return COT_OK;
}

static cot_status scale(cot_model *m, const json_t *spec, double base, double *theta, cot__rope *r,
                        cot_error *err) {
    const char *type = "none";
    double factor, original, attn;
    int half = r->n_rot / 2;
    COT_TRY(cot__arch_string(m->arch, json_object_get(spec, "scaling"), "scaling", &type, err));
    COT_TRY(number(m, spec, "factor", 1, &factor, err));
    COT_TRY(number(m, spec, "original_ctx", (double)m->n_ctx_train, &original, err));
    if (!(factor > 0) || !(original > 0))
        return cot__fail(err, COT_FORMAT, m->source->path, "rope scaling",
                         "factor and original context must be positive");
    if (strcmp(type, "none") == 0) return COT_OK;
    if (strcmp(type, "linear") == 0) {
        for (int i = 0; i < half; i++) theta[i] /= factor;
    } else if (strcmp(type, "llama3") == 0) {
        COT_TRY(llama3_apply(m, spec, factor, original, half, theta, err));
    } else if (strcmp(type, "yarn") == 0) {
        yarn y = {.factor = factor, .original = original, .truncate = true};
        double m1, m_all;
        COT_TRY(number(m, spec, "beta_fast", 32, &y.beta_fast, err));
        COT_TRY(number(m, spec, "beta_slow", 1, &y.beta_slow, err));
        COT_TRY(cot__arch_flag(m->arch, spec, "truncate", -1, &y.truncate, err));
        COT_TRY(number(m, spec, "mscale", 0, &m1, err));
        COT_TRY(number(m, spec, "mscale_all", 0, &m_all, err));
        COT_TRY(number(m, spec, "attn_factor",
                       m1 != 0 && m_all != 0 ? mscale(factor, m1) / mscale(factor, m_all) : mscale(factor, 1),
                       &attn, err));
        yarn_apply(&y, r->n_rot, base, theta);
        r->mul = r->mul_long = (float)attn;
    } else if (strcmp(type, "longrope") == 0) {
        return longrope(m, spec, half, theta, original, r, err);
    } else
        return cot__fail(err, COT_UNSUPPORTED, m->source->path, "rope scaling", "type \"%s\" is not known",
                         type);
    return COT_OK;
}

cot_status cot__rope_build(cot_model *m, const char *name, const json_t *spec, cot__rope *r, cot_error *err) {
    int64_t dim = 0;
    double base = 10000;
    const char *pairing = "neox";
    const float *stored = NULL;
    cot__bind b = {.arch = m->arch, .store = m->store};
    *r = (cot__rope){.name = name, .mul = 1, .mul_long = 1};
    COT_TRY(cot__arch_int(m->arch, spec, "dim", -1, 0, 65536, &dim, err));
    COT_TRY(number(m, spec, "base", 10000, &base, err));
    COT_TRY(cot__arch_string(m->arch, json_object_get(spec, "pairing"), "pairing", &pairing, err));
    if (dim % 2)
        return cot__fail(err, COT_FORMAT, m->source->path, "rope dimension", "%lld is odd", (long long)dim);
    if (!(base > 1))
        return cot__fail(err, COT_FORMAT, m->source->path, "rope base", "%g must exceed 1", base);
    if (strcmp(pairing, "neox") != 0 && strcmp(pairing, "norm") != 0)
        return cot__fail(err, COT_FORMAT, m->arch->file, "pairing", "must be neox or norm");
    r->neox = pairing[1] == 'e';
    r->n_rot = (int)dim;
    if (!dim) return COT_OK;
    int half = (int)dim / 2;
    double *theta = cot__alloc_array((size_t)half, sizeof *theta);
    r->freq = cot__arena_alloc(m->arena, (size_t)half * sizeof *r->freq);
    cot_status s = theta && r->freq ? COT_OK : cot__fail_memory(err, (size_t)half * 8);
    float *plain = r->freq;
    for (int i = 0; s == COT_OK && i < half; i++) theta[i] = 1.0 / pow(base, (double)(2 * i) / (double)dim);
    if (s == COT_OK) s = scale(m, spec, base, theta, r, err);
    if (s == COT_OK) s = cot__slot_vector(&b, "rope_freqs", false, -1, half, &stored, NULL, err);
    for (int i = 0; s == COT_OK && r->freq == plain && i < half; i++)
        plain[i] = (float)(stored ? theta[i] / (double)stored[i] : theta[i]);
    cot__free(theta);
    return s;
}
