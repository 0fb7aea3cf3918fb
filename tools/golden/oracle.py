#!/usr/bin/env python3
"""Golden cases of the families that transformers lacks: DeepSeek-MoE v1 and Bailing (Ling) 1 and 2. Checkpoints have the
tensor and config names of the released ones; logits come from this file's own double-precision forward pass, written
from the families' published modelling code in the plainest way (every expert computed alone, full score matrices).

Usage: oracle.py OUT [case ...]
"""
import json, os, sys
import numpy as np
from safetensors.numpy import save_file

V, N_PROMPT, N_GREEDY = 131, 24, 8
COMMON = dict(vocab_size=V, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, intermediate_size=40,
              moe_intermediate_size=20, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-6, tie_word_embeddings=False,
              bos_token_id=1, eos_token_id=2, pad_token_id=0, torch_dtype="float32", use_cache=True)
CASES = {
    "deepseek": dict(COMMON, architectures=["DeepseekForCausalLM"], model_type="deepseek", hidden_size=96, num_key_value_heads=6, n_routed_experts=10,
                     n_shared_experts=2, num_experts_per_tok=3, first_k_dense_replace=1, moe_layer_freq=1, norm_topk_prob=False, scoring_func="softmax",
                     rope_theta=10000.0, rope_scaling=None, attention_bias=False),
    "bailingmoe": dict(COMMON, architectures=["BailingMoeForCausalLM"], model_type="bailing_moe", head_dim=16, num_experts=6, num_shared_experts=2,
                       num_experts_per_tok=2, first_k_dense_replace=0, norm_topk_prob=True, norm_head=True, norm_softmax=False, use_bias=False,
                       use_qkv_bias=False, rope_theta=600000.0, rope_scaling=None),
    "bailingmoe2": dict(COMMON, architectures=["BailingMoeV2ForCausalLM"], model_type="bailing_moe_v2", num_hidden_layers=3, head_dim=16, num_experts=12,
                        num_shared_experts=1, num_experts_per_tok=3, first_k_dense_replace=1, norm_topk_prob=True, routed_scaling_factor=2.5, n_group=4,
                        topk_group=2, score_function="sigmoid", moe_router_enable_expert_bias=True, moe_shared_expert_intermediate_size=20,
                        partial_rotary_factor=0.5, rotary_dim=8, use_qk_norm=True, use_bias=False, use_qkv_bias=False, norm_head=False,
                        num_nextn_predict_layers=0, router_dtype="fp32", rope_theta=600000.0, rope_scaling=None),
}


def silu(x):
    return x / (1 + np.exp(-x))


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotate(x, theta, dims):
    """The first `dims` of each head; pairs are (j, j + dims/2). x: [tokens, heads, head_dim]"""
    half = dims // 2
    angle = np.arange(x.shape[0])[:, None, None] * theta ** (-np.arange(half) * 2.0 / dims)
    a, b = x[..., :half], x[..., half:dims]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle), x[..., dims:]], -1)


class Model:
    def __init__(self, c, seed):
        self.c, self.w, rng = c, {}, np.random.default_rng(seed)
        h, heads, kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
        self.hd = c.get("head_dim", h // heads)
        self.bailing, self.v2 = "bailing" in c["model_type"], c["model_type"] == "bailing_moe_v2"
        self.n_expert = c.get("n_routed_experts") or c["num_experts"]
        self.n_shared = c.get("n_shared_experts") or c["num_shared_experts"]

        def put(name, *shape, mean=0.0, scale=None):
            scale = 1.2 / np.sqrt(shape[-1]) if scale is None else scale
            self.w[name] = (rng.standard_normal(shape) * scale + mean).astype(np.float32)

        def norm(name, n):
            self.w[name] = (0.4 + 1.2 * rng.random(n)).astype(np.float32)

        def ffn(p, width):
            put(p + ".gate_proj.weight", width, h), put(p + ".up_proj.weight", width, h), put(p + ".down_proj.weight", h, width)

        put("model.word_embeddings.weight" if self.bailing else "model.embed_tokens.weight", V, h, mean=0.3, scale=1.0)
        put("lm_head.weight", V, h), norm("model.norm.weight", h)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            norm(p + "input_layernorm.weight", h), norm(p + "post_attention_layernorm.weight", h)
            if self.bailing:
                put(p + "attention.query_key_value.weight", (heads + 2 * kv) * self.hd, h), put(p + "attention.dense.weight", h, heads * self.hd)
            else:
                for n, k in (("q", heads), ("k", kv), ("v", kv)):
                    put(f"{p}self_attn.{n}_proj.weight", k * self.hd, h)
                put(p + "self_attn.o_proj.weight", h, heads * self.hd)
            if self.v2:
                norm(p + "attention.query_layernorm.weight", self.hd), norm(p + "attention.key_layernorm.weight", self.hd)
            if i < c["first_k_dense_replace"]:
                ffn(p + "mlp", c["intermediate_size"])
                continue
            put(p + "mlp.gate.weight", self.n_expert, h, scale=2.0 / np.sqrt(h))
            if self.v2:
                self.w[p + "mlp.gate.expert_bias"] = (rng.random(self.n_expert) - 0.5).astype(np.float32)
            for e in range(self.n_expert):
                ffn(f"{p}mlp.experts.{e}", c["moe_intermediate_size"])
            ffn(p + "mlp.shared_experts", c["moe_intermediate_size"] * self.n_shared)

    def get(self, name):
        return self.w[name].astype(np.float64)

    def ffn(self, p, x):
        return (silu(x @ self.get(p + ".gate_proj.weight").T) * (x @ self.get(p + ".up_proj.weight").T)) @ self.get(p + ".down_proj.weight").T

    def attention(self, p, x):
        c, heads, kv, hd = self.c, self.c["num_attention_heads"], self.c["num_key_value_heads"], self.hd
        n, cut = len(x), [heads * hd, (heads + kv) * hd]
        if self.bailing:
            q, k, v = np.split(x @ self.get(p + "attention.query_key_value.weight").T, cut, -1)
        else:
            q, k, v = (x @ self.get(f"{p}self_attn.{t}_proj.weight").T for t in "qkv")
        q, k, v = q.reshape(n, heads, hd), k.reshape(n, kv, hd), v.reshape(n, kv, hd)
        if self.v2:
            q = rms(q, self.get(p + "attention.query_layernorm.weight"), c["rms_norm_eps"])
            k = rms(k, self.get(p + "attention.key_layernorm.weight"), c["rms_norm_eps"])
        dims = int(hd * c.get("partial_rotary_factor", 1))
        q, k = rotate(q, c["rope_theta"], dims), rotate(k, c["rope_theta"], dims)
        out = np.zeros((n, heads, hd))
        for h in range(heads):
            g = h // (heads // kv)
            s = q[:, h] @ k[:, g].T / np.sqrt(hd)
            out[:, h] = softmax(np.where(np.tri(n, dtype=bool), s, -np.inf)) @ v[:, g]
        return out.reshape(n, -1) @ self.get(p + ("attention.dense.weight" if self.bailing else "self_attn.o_proj.weight")).T

    def route(self, p, x):
        """(expert, weight) pairs of one token, and how far the choice is from a tie."""
        c, logits = self.c, self.get(p + "mlp.gate.weight") @ x
        k = c["num_experts_per_tok"]
        if not self.v2:
            s = key = softmax(logits)
        else:
            s = 1 / (1 + np.exp(-logits))
            key = s + self.get(p + "mlp.gate.expert_bias")
            groups = key.reshape(c["n_group"], -1)
            best = np.sort(groups, -1)[:, -2:].sum(-1)
            kept = np.argsort(-best)[: c["topk_group"]]
            mask = np.isin(np.arange(c["n_group"]), kept).repeat(groups.shape[1])
            key = np.where(mask, key, -np.inf)
        order = np.argsort(-key)
        gap = key[order[k - 1]] - key[order[k]]
        w = s[order[:k]]
        if c["norm_topk_prob"]:
            w = w / (w.sum() + 1e-20)
        return list(zip(order[:k], w * c.get("routed_scaling_factor", 1.0))), gap

    def logits(self, ids):
        c, self.gap = self.c, np.inf
        x = self.get("model.word_embeddings.weight" if self.bailing else "model.embed_tokens.weight")[ids]
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            x = x + self.attention(p, rms(x, self.get(p + "input_layernorm.weight"), c["rms_norm_eps"]))
            y = rms(x, self.get(p + "post_attention_layernorm.weight"), c["rms_norm_eps"])
            if i < c["first_k_dense_replace"]:
                x = x + self.ffn(p + "mlp", y)
                continue
            out = self.ffn(p + "mlp.shared_experts", y)
            for t in range(len(y)):
                chosen, gap = self.route(p, y[t])
                self.gap = min(self.gap, gap)
                for e, w in chosen:
                    out[t] += w * self.ffn(f"{p}mlp.experts.{e}", y[t])
            x = x + out
        head = self.get("lm_head.weight")
        if c.get("norm_head"):  # each hidden column over the vocabulary
            head = head / (np.sqrt((head * head).sum(0, keepdims=True)) + 1e-7)
        return rms(x, self.get("model.norm.weight"), c["rms_norm_eps"]) @ head.T


def make(out, case):
    c, seed = CASES[case], sum(ord(ch) * (i + 1) for i, ch in enumerate(case))
    m = Model(c, seed)
    ids = np.random.default_rng(seed).integers(3, V, N_PROMPT).tolist()
    logits, line = m.logits(ids), list(ids)
    assert m.gap > 1e-4, f"{case}: a choice of experts is nearly a tie ({m.gap:.1e}); change the seed"
    for _ in range(N_GREEDY):
        line.append(int(m.logits(line)[-1].argmax()))
    folder = os.path.join(out, case)
    os.makedirs(os.path.join(folder, "hf"), exist_ok=True)
    save_file(m.w, os.path.join(folder, "hf", "model.safetensors"), metadata={"format": "pt"})
    for name, text in (("config.json", c), ("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})):
        with open(os.path.join(folder, "hf", name), "w") as f:
            json.dump(text, f, indent=1)
    np.save(os.path.join(folder, "logits.npy"), logits.astype(np.float32))
    json.dump({"prompt": ids, "greedy": line[N_PROMPT:]}, open(os.path.join(folder, "tokens.json"), "w"))
    json.dump({"family": c["architectures"][0], "reference": "tools/golden/oracle.py, double precision"}, open(os.path.join(folder, "meta.json"), "w"), indent=1)
    print(f"{case:20s} spread {logits.std():.2f} gap {m.gap:.1e}")


if __name__ == "__main__":
    for name in sys.argv[2:] or CASES:
        make(sys.argv[1], name)
