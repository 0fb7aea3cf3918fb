#!/usr/bin/env python3
"""Writes tests/golden/types/<TYPE>.bin: random blocks of every quantised format, then what gguf-py (pinned in
requirements.txt) decodes them to, as float32; F8_E4M3 by torch. The number of values is the first 8 bytes.
Usage: number_formats.py OUT"""
import os, struct, sys
import numpy as np
import torch
import gguf

TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 BF16 F16".split()

os.makedirs(sys.argv[1], exist_ok=True)
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    per, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = max(1536 // per, 1)
    rng, out = np.random.default_rng(sum(name.encode())), []
    while len(out) < blocks:
        raw = rng.integers(0, 256, size, dtype=np.uint8)
        if len(out) % 4 == 3:  # extremes: every code at its largest or smallest
            raw[rng.integers(0, size) :] = rng.choice([0, 255])
        with np.errstate(all="ignore"):
            if np.isfinite(gguf.quants.dequantize(raw.reshape(1, -1), kind)).all():
                out.append(raw)
    raw = np.concatenate(out)
    values = gguf.quants.dequantize(raw.reshape(1, -1), kind).astype(np.float32).ravel()
    open(os.path.join(sys.argv[1], name + ".bin"), "wb").write(struct.pack("<q", len(values)) + raw.tobytes() + values.tobytes())
    print(name, len(raw), len(values), float(np.abs(values).max()))
codes = np.array([c for c in range(256) if c & 127 != 127], np.uint8)
values = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
open(os.path.join(sys.argv[1], "F8_E4M3.bin"), "wb").write(struct.pack("<q", len(values)) + codes.tobytes() + values.tobytes())
