/* The entries that both x86 levels override, compiled for each; included once by each level's init file. */
#include "kernels/x86/attn.h"
#include "kernels/x86/q256.h"
#include "kernels/x86/q32.h"
#include "kernels/x86/rows.h"

static void fill(cot_kernels *k) {
    static const struct {
        cot_type type;
        cot__gemm_fn *gemm;
    } own[] = {{COT_Q8_0, gemm_q8_0},    {COT_Q4_0, gemm_q4_0}, {COT_Q4_1, gemm_q4_1},
               {COT_Q5_0, gemm_q5_0},    {COT_Q5_1, gemm_q5_1}, {COT_IQ4_NL, gemm_iq4_nl},
               {COT_MXFP4, gemm_mxfp4},  {COT_Q4_K, gemm_q4_k}, {COT_Q5_K, gemm_q5_k},
               {COT_Q6_K, gemm_q6_k},    {COT_Q2_K, gemm_q2_k}, {COT_Q3_K, gemm_q3_k},
               {COT_IQ4_XS, gemm_iq4_xs}};
    for (size_t s = 0; s < sizeof k->gemm / sizeof *k->gemm; s++) {
        if (!k->gemm[s]) continue;
        k->gemm[s] = k->gemm_f32[s] = gemm_f32; /* what is not listed has F32 activations */
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        k->gemm[cot__kernel_slot(own[i].type)] = own[i].gemm;
    k->act_encode[COT_ACT_Q8_32] = act_q8_32;
    k->act_encode[COT_ACT_Q8_256] = act_q8_256;
    k->gemv_t = gemv_t;
    k->rms_norm = rms_norm;
    k->layer_norm = layer_norm;
    k->rope_neox = rope_neox;
    k->glu = glu;
    k->add = add;
    k->add_scaled = add_scaled;
    k->scale = scale;
    k->dot_f32 = dot_f32;
    k->kv_load = kv_load;
    k->attn_chunk = attn_chunk;
    k->attn_merge = attn_merge;
    k->kv_store = kv_store;
}
