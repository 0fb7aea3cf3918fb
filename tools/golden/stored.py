#!/usr/bin/env python3
"""Golden cases of checkpoints that are stored in other ways than transformers saves them: FP8 with block scales (DeepSeek),
MXFP4 blocks and scales (gpt-oss), BF16, and a next-token-prediction block that is not part of the model (GLM); and
"noise", a BF16 model with a tokenizer and a chat template, for tests and for the demo without a network. The reference
is transformers in float32 on the weights as a reader must decode them.

Usage: stored.py OUT [case ...]
"""
import json, os, sys
import numpy as np
import torch
import transformers as tf
from safetensors.torch import save_file

import generate as g

FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def fp8(name, w, block, store):
    """w as E4M3 with a scale for each block of the matrix; returns what a reader sees."""
    rows, cols = w.shape
    nr, nc = -(-rows // block[0]), -(-cols // block[1])
    scale, q, back = torch.empty(nr, nc), torch.empty(w.shape, dtype=torch.float8_e4m3fn), torch.empty_like(w)
    for i in range(nr):
        for j in range(nc):
            part = (slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1]))
            scale[i, j] = w[part].abs().max() / 448
            q[part] = (w[part] / scale[i, j]).to(torch.float8_e4m3fn)
            back[part] = q[part].float() * scale[i, j]
    store[name] = q
    store[name + "_scale_inv"] = scale
    return back


def mxfp4(name, w, store):
    """w [experts, in, out] as blocks of 32 along `in` for each row `out`, a shared power of two each."""
    t = w.transpose(1, 2).contiguous()
    e, rows, cols = t.shape
    b = t.reshape(e, rows, cols // 32, 32)
    exponent = torch.floor(torch.log2(b.abs().amax(-1).clamp_min(1e-30))) - 2
    s = torch.exp2(exponent)[..., None]
    code = (b[..., None] / s[..., None] - FP4).abs().argmin(-1)
    back = (FP4[code] * s).reshape(e, rows, cols).transpose(1, 2).contiguous()
    store[name + "_blocks"] = (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8)
    store[name + "_scales"] = (exponent + 127).to(torch.uint8)
    return back


def store_fp8(model, config, store):
    config |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}  # as released; transformers 5 leaves them out
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 32]}
    for name, p in model.state_dict().items():
        if name.endswith("mlp.experts.gate_up_proj"):  # released files hold one matrix per expert
            for e in range(len(p)):
                half = p.shape[1] // 2
                for part, rows in (("gate_proj", slice(0, half)), ("up_proj", slice(half, None))):
                    p[e, rows] = fp8(name.replace("gate_up_proj", f"{e}.{part}.weight"), p[e, rows].contiguous(), (16, 32), store)
        elif name.endswith("mlp.experts.down_proj"):
            for e in range(len(p)):
                p[e] = fp8(name.replace("down_proj", f"{e}.down_proj.weight"), p[e].contiguous(), (16, 32), store)
        elif p.dim() == 2 and "_proj" in name:
            p.copy_(fp8(name, p.clone(), (16, 32), store))
        else:
            store[name] = p.clone()


def store_mxfp4(model, config, store):
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}
    for name, p in model.state_dict().items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            p.copy_(mxfp4(name, p.clone(), store))
        else:
            store[name] = p.clone()


def store_bf16(model, config, store):
    for name, p in model.state_dict().items():
        p.copy_(p.to(torch.bfloat16).float())
        if name.endswith("mlp.experts.gate_up_proj"):
            half = p.shape[1] // 2
            for e in range(len(p)):
                store[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = p[e, :half].to(torch.bfloat16).contiguous()
                store[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = p[e, half:].to(torch.bfloat16).contiguous()
        elif name.endswith("mlp.experts.down_proj"):
            for e in range(len(p)):
                store[name.replace("down_proj", f"{e}.down_proj.weight")] = p[e].to(torch.bfloat16).contiguous()
        else:
            store[name] = p.to(torch.bfloat16)
    config["dtype"] = config["torch_dtype"] = "bfloat16"


def store_nextn(model, config, store, source):
    """The checkpoint of another case with one block more, which predicts the token after the next."""
    from safetensors.torch import load_file
    store.update(load_file(source))
    n, h = config["num_hidden_layers"], config["hidden_size"]
    gen = torch.Generator().manual_seed(5)
    for name in [k for k in store if k.startswith(f"model.layers.{n - 1}.")]:
        store[name.replace(f"layers.{n - 1}.", f"layers.{n}.")] = torch.randn(store[name].shape, generator=gen)
    for name, shape in (("eh_proj.weight", (h, 2 * h)), ("enorm.weight", (h,)), ("hnorm.weight", (h,)), ("shared_head.norm.weight", (h,)),
                        ("shared_head.head.weight", (config["vocab_size"], h)), ("embed_tokens.weight", (config["vocab_size"], h))):
        store[f"model.layers.{n}.{name}"] = torch.randn(shape, generator=gen)
    config["num_nextn_predict_layers"] = 1


def store_multimodal(model, config, store):
    """The language model of a multimodal folder, named as the released Gemma 3 ones are."""
    for name, t in model.state_dict().items():
        if name != "lm_head.weight":  # tied
            store["language_model." + name] = t
    text = dict(config)
    config.clear()
    config |= {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}


CHATML = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}"""


def vocabulary(folder):
    """A byte-level BPE as Qwen's, trained on the repository's own documents."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from vocabularies import QWEN2
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    t.train([os.path.join(root, "docs", "architecture.md"), os.path.join(root, "docs", "dependencies.md")],
            trainers.BpeTrainer(vocab_size=381, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens(names)
    assert t.get_vocab_size() == 384
    t.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
                   "chat_template": CHATML}, f, indent=1)


g.CASES["noise"] = ("Qwen3Moe", {**g.BASE, **g.MOE, "vocab_size": 384, "hidden_size": 64, "head_dim": 16, "num_experts": 8, "moe_intermediate_size": 32,
                                 "norm_topk_prob": True, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 383, "pad_token_id": 381,
                                 "max_position_embeddings": 512, **g.rope(1e6)})
STORED = {"noise": ("noise", store_bf16), "deepseek3-fp8": ("deepseek3", store_fp8), "gpt-oss-mxfp4": ("gpt-oss", store_mxfp4), "qwen3moe-bf16": ("qwen3moe", store_bf16), "glm4moe-nextn": ("glm4moe-plain", store_nextn),
          "gemma3-multimodal": ("gemma3", store_multimodal)}


def make(out, case):
    base, how = STORED[case]
    family, cfg = g.CASES[base]
    seed = sum(ord(c) * (i + 1) for i, c in enumerate(base if how is store_nextn else case))
    torch.manual_seed(seed)
    name = {"Gemma3Text": "Gemma3ForCausalLM"}.get(family, family + "ForCausalLM")
    model = getattr(tf, name)(getattr(tf, family + "Config")(**cfg)).eval().float()
    g.redraw(model, torch.Generator().manual_seed(seed))
    if case == "noise":  # its embedding is its head: smaller, so that it does not repeat its input
        model.model.embed_tokens.weight.data *= 0.15
    store, config = {}, json.loads(json.dumps(model.config.to_dict(), default=str)) | {"architectures": [family + "ForCausalLM"]}
    with torch.no_grad():
        how(model, config, store, os.path.join(out, base, "hf", "model.safetensors")) if how is store_nextn else how(model, config, store)
    ids = np.random.default_rng(seed).integers(3, g.V, g.N_PROMPT).tolist()
    logits, greedy = g.reference(model, ids, g.N_GREEDY)
    folder = os.path.join(out, case)
    os.makedirs(os.path.join(folder, "hf"), exist_ok=True)
    save_file({k: v.contiguous() for k, v in store.items()}, os.path.join(folder, "hf", "model.safetensors"), metadata={"format": "pt"})
    if case == "noise":
        vocabulary(os.path.join(folder, "hf"))
    ends = {"eos_token_id": [383, 381], "pad_token_id": 381} if case == "noise" else {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    for name, text in (("config.json", config), ("generation_config.json", ends)):
        with open(os.path.join(folder, "hf", name), "w") as f:
            json.dump(text, f, indent=1)
    g.finish(folder, ids, logits, greedy, {"family": family + "ForCausalLM", "reference": f"transformers {tf.__version__}, float32, eager attention, on the decoded weights"})
    print(f"{case:20s} spread {logits.std():.2f}")


if __name__ == "__main__":
    for name in sys.argv[2:] or STORED:
        make(sys.argv[1], name)
