#!/usr/bin/env python3
"""Writes tests/golden/<case>: a tiny random checkpoint as transformers saves it, token ids, and the reference's logits.

Usage: generate.py OUT [case ...]        (pinned versions: requirements.txt)

The sizes are awkward on purpose: heads * head_dim differs from the hidden size, expert counts are no powers of two, the
vocabulary is odd, norms and biases are redrawn, embeddings have a mean. Weights are drawn so that routing is far from ties
and logits vary strongly, so that a flipped flag of a description shows far above the tolerance.
"""
import json, os, sys
import numpy as np
import torch
import transformers as tf

V, N_PROMPT, N_GREEDY = 131, 24, 8
BASE = dict(vocab_size=V, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
            max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager")
HD = dict(head_dim=16)
MOE = dict(num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20)
FF = dict(intermediate_size=40)
MLA = dict(num_attention_heads=3, num_key_value_heads=3, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, rope_theta=10000.0)


def rope(theta=10000.0, **more):
    return dict(rope_parameters=dict(dict(rope_type="default", rope_theta=theta), **more))


CASES = {
    "llama": ("Llama", {**BASE, **HD, **FF, **rope()}),
    "llama-llama3": ("Llama", {**BASE, **HD, **FF, "tie_word_embeddings": True, **rope(5e5, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)}),
    "llama-linear": ("Llama", {**BASE, **HD, **FF, "attention_bias": True, **rope(1e4, rope_type="linear", factor=4.0)}),
    "phi3": ("Phi3", {**BASE, "hidden_size": 96, **FF, "num_hidden_layers": 2, "sliding_window": 8, "pad_token_id": 0, **rope()}),  # described in examples/arch, not built in
    "mixtral": ("Mixtral", {**BASE, **HD, "intermediate_size": 24, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": None, **rope(1e6)}),
    "mixtral-window": ("Mixtral", {**BASE, **HD, "intermediate_size": 24, "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 8, "tie_word_embeddings": True, **rope(1e6)}),
    "llama-bias": ("Llama", {**BASE, **FF, "num_attention_heads": 3, "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu", **rope()}),
    "qwen2": ("Qwen2", {**BASE, "hidden_size": 96, **FF, **rope(1e6)}),
    "qwen2-window": ("Qwen2", {**BASE, **FF, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 3, "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, **rope(1e6)}),
    "qwen3": ("Qwen3", {**BASE, **HD, **FF, "tie_word_embeddings": True, **rope(1e6)}),
    "qwen3-yarn": ("Qwen3", {**BASE, **HD, **FF, **{"rope_parameters": dict(YARN, rope_theta=1e6)}}),
    "qwen2moe": ("Qwen2Moe", {**BASE, "hidden_size": 96, **FF, **MOE, "shared_expert_intermediate_size": 28, "norm_topk_prob": False, **rope(1e6)}),
    "qwen2moe-norm": ("Qwen2Moe", {**BASE, "hidden_size": 96, **FF, **MOE, "num_hidden_layers": 3, "decoder_sparse_step": 2, "shared_expert_intermediate_size": 28, "norm_topk_prob": True, **rope(1e6)}),
    "qwen3moe": ("Qwen3Moe", {**BASE, **HD, **FF, **MOE, "norm_topk_prob": True, **rope(1e6)}),
    "qwen3moe-plain": ("Qwen3Moe", {**BASE, **HD, **FF, **MOE, "num_experts": 10, "num_experts_per_tok": 3, "num_hidden_layers": 3, "mlp_only_layers": [1], "norm_topk_prob": False, "tie_word_embeddings": True, **rope(1e6)}),
    "olmo2": ("Olmo2", {**BASE, "hidden_size": 96, **FF, **rope(5e5)}),
    "olmoe": ("Olmoe", {**BASE, "hidden_size": 96, "intermediate_size": 20, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": False, **rope()}),
    "olmoe-clip": ("Olmoe", {**BASE, "hidden_size": 96, "intermediate_size": 20, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True, "clip_qkv": 0.6, **rope()}),
    "gemma3": ("Gemma3Text", {**BASE, **HD, **FF, "num_hidden_layers": 4, "sliding_window": 8, "query_pre_attn_scalar": 20, "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
                              "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    "gemma3-softcap": ("Gemma3Text", {**BASE, **HD, **FF, "num_hidden_layers": 2, "sliding_window": 8, "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 20.0,
                                      "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    "gemma2": ("Gemma2", {**BASE, **HD, **FF, "num_hidden_layers": 3, "sliding_window": 8, "query_pre_attn_scalar": 20, "final_logit_softcapping": 20.0, "attn_logit_softcapping": 3.0, **rope()}),  # described beside its files, not built in
    "granitemoe": ("GraniteMoe", {**BASE, "hidden_size": 96, "intermediate_size": 20, "num_local_experts": 6, "num_experts_per_tok": 2, "embedding_multiplier": 6.0, "attention_multiplier": 0.15, "residual_multiplier": 0.4,
                                  "logits_scaling": 3.0, "tie_word_embeddings": True, **rope()}),
    "granitemoe-shared": ("GraniteMoeShared", {**BASE, "hidden_size": 96, "intermediate_size": 20, "shared_intermediate_size": 28, "num_local_experts": 6, "num_experts_per_tok": 2, "embedding_multiplier": 6.0,
                                               "attention_multiplier": 0.15, "residual_multiplier": 0.4, "logits_scaling": 3.0, "tie_word_embeddings": False, **rope()}),
    "phimoe": ("Phimoe", {**BASE, "hidden_size": 96, "intermediate_size": 20, "num_local_experts": 6, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.01, "sliding_window": None,
                          "original_max_position_embeddings": 64, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.5 + 0.4 * i for i in range(8)],
                                                                                     "short_mscale": 1.1, "long_mscale": 1.3, "original_max_position_embeddings": 64}}),
    "phimoe-long": ("Phimoe", {**BASE, "hidden_size": 96, "intermediate_size": 20, "num_local_experts": 6, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.05, "sliding_window": None,
                               "original_max_position_embeddings": 16, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0 + 0.1 * i for i in range(8)],
                                                                                          "long_factor": [1.5 + 0.4 * i for i in range(8)], "short_mscale": 1.1, "long_mscale": 1.3, "original_max_position_embeddings": 16}}),
    "gpt-oss": ("GptOss", {**BASE, "hidden_size": 64, "head_dim": 16, "intermediate_size": 32, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
                           "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 64}}),
    "glm4moe": ("Glm4Moe", {**BASE, **HD, **FF, "num_hidden_layers": 3, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": True,
                            "attention_bias": True, "norm_topk_prob": True, "routed_scaling_factor": 1.7, "n_group": 1, "topk_group": 1, "partial_rotary_factor": 0.5, **rope(1e6, partial_rotary_factor=0.5)}),
    "glm4moe-plain": ("Glm4Moe", {**BASE, **HD, **FF, "num_hidden_layers": 2, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "n_shared_experts": 1, "first_k_dense_replace": 1, "use_qk_norm": False,
                                  "attention_bias": True, "norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1, "partial_rotary_factor": 0.5, **rope(1e6, partial_rotary_factor=0.5)}),
    "deepseek2": ("DeepseekV2", {**BASE, **MLA, **FF, "num_hidden_layers": 3, "q_lora_rank": 20, "n_routed_experts": 12, "n_shared_experts": 2, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
                                 "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": False, **rope()}),
    "deepseek2-lite": ("DeepseekV2", {**BASE, **MLA, **FF, "q_lora_rank": None, "n_routed_experts": 10, "n_shared_experts": 2, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
                                      "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False, **{"rope_parameters": dict(YARN, mscale=0.707, mscale_all_dim=0.707)}}),
    "deepseek2-norm": ("DeepseekV2", {**BASE, **MLA, **FF, "q_lora_rank": 20, "n_routed_experts": 9, "n_shared_experts": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
                                      "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True, **rope()}),
    "deepseek3": ("DeepseekV3", {**BASE, **MLA, **FF, "num_hidden_layers": 3, "q_lora_rank": 20, "n_routed_experts": 12, "n_shared_experts": 1, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
                                 "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "rope_interleave": True, **{"rope_parameters": dict(YARN, mscale=1.0, mscale_all_dim=1.0)}}),
    "deepseek3-plain": ("DeepseekV3", {**BASE, **MLA, **FF, "q_lora_rank": None, "n_routed_experts": 9, "n_shared_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 0, "n_group": 1, "topk_group": 1,
                                       "routed_scaling_factor": 1.5, "norm_topk_prob": False, "attention_bias": True, "rope_interleave": True, **rope()}),
}


def redraw(model, gen):
    """Every parameter anew, by its role."""
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if "bias" in n]:
            draw = torch.randn(p.shape, generator=gen)
            last = name.split(".")[-1]
            if "norm" in name and last == "weight":
                p.copy_(0.4 + 1.2 * torch.rand(p.shape, generator=gen))
            elif "correction_bias" in name or last == "expert_bias":
                p.copy_(torch.rand(p.shape, generator=gen) - 0.5)
            elif "bias" in last:
                p.copy_(0.3 * draw)
            elif "sinks" in name:
                p.copy_(draw)
            elif "embed" in name:
                p.copy_(draw + 0.3)
            elif ".gate.weight" in name or "router" in name:
                p.copy_(draw * 2.0 / p.shape[-1] ** 0.5)
            else:
                p.copy_(draw * 1.2 / p.shape[-2 if p.dim() == 3 and "GptOss" in type(model).__name__ else -1] ** 0.5)


def oldcfg(folder):
    """config.old.json: the same model in the spelling of older releases."""
    cfg = json.load(open(os.path.join(folder, "hf", "config.json")))
    rp = cfg.pop("rope_parameters")
    cfg["rope_theta"] = rp.pop("rope_theta")
    rp["type"] = rp.pop("rope_type")
    cfg["rope_scaling"] = rp if rp["type"] != "default" else None
    cfg.pop("layer_types", None)
    if "dtype" in cfg:
        cfg["torch_dtype"] = cfg.pop("dtype")
    json.dump(cfg, open(os.path.join(folder, "config.old.json"), "w"), indent=1)


def reference(model, ids, n_greedy):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].float().numpy()
        out = list(ids)
        for _ in range(n_greedy):
            out.append(int(model(torch.tensor([out])).logits[0, -1].argmax()))
    return logits, out[len(ids):]


def make(out, case):
    family, cfg = CASES[case]
    seed = sum(ord(c) * (i + 1) for i, c in enumerate(case))
    config = getattr(tf, family + "Config")(**cfg)
    name = {"Gemma3Text": "Gemma3ForCausalLM"}.get(family, family + "ForCausalLM")
    torch.manual_seed(seed)
    model = getattr(tf, name)(config).eval().float()
    redraw(model, torch.Generator().manual_seed(seed))
    if case == "deepseek2-norm":  # this version of transformers does not read norm_topk_prob; the released code normalises instead of scaling
        for router in (layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")):
            router.register_forward_hook(lambda m, args, out: (out[0], out[1] / (out[1].sum(-1, keepdim=True) + 1e-20), out[2]))
    if case == "phimoe-long":  # this version of transformers asks for the short factors at every length; the released code does not
        rotary = model.model.rotary_emb
        init = rotary.rope_init_fn
        rotary.rope_init_fn = lambda config: init(config, None, 1 << 20)
    ids = np.random.default_rng(seed).integers(3, V, N_PROMPT).tolist()
    logits, greedy = reference(model, ids, N_GREEDY)
    folder = os.path.join(out, case)
    model.save_pretrained(os.path.join(folder, "hf"), max_shard_size="100KB" if case == "mixtral" else "5GB")
    if case in ("llama-llama3", "qwen3-yarn", "deepseek2-lite", "llama-linear", "qwen3moe", "qwen2-window"):
        oldcfg(folder)
    finish(folder, ids, logits, greedy, {"family": name, "reference": f"transformers {tf.__version__}, float32, eager attention"})
    print(f"{case:20s} spread {logits.std():.2f}")


def finish(folder, ids, logits, greedy, meta):
    np.save(os.path.join(folder, "logits.npy"), logits.astype(np.float32))
    json.dump({"prompt": ids, "greedy": greedy}, open(os.path.join(folder, "tokens.json"), "w"))
    json.dump(meta, open(os.path.join(folder, "meta.json"), "w"), indent=1)


if __name__ == "__main__":
    for case in sys.argv[2:] or CASES:
        try:
            make(sys.argv[1], case)
        except Exception as e:  # one family's trouble must not hide the others
            print(f"{case}: FAILED: {type(e).__name__}: {e}")
            if len(sys.argv) > 2:
                raise
