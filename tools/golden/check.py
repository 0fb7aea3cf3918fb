#!/usr/bin/env python3
"""Compares a coterie binary with the reference logits of tests/golden: check.py BINARY [case ...]"""
import json, os, subprocess, sys, tempfile
import numpy as np

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
binary, cases = sys.argv[1], sys.argv[2:] or sorted(d for d in os.listdir(root) if os.path.exists(os.path.join(root, d, "tokens.json")))
bad = 0
with tempfile.TemporaryDirectory() as tmp:
    for case in cases:
        folder = os.path.join(root, case)
        tokens, want = json.load(open(os.path.join(folder, "tokens.json"))), np.load(os.path.join(folder, "logits.npy"))
        ids = tokens["prompt"] + tokens["greedy"]
        for kind in ("hf", "model.gguf"):
            model, out = os.path.join(folder, kind), os.path.join(tmp, "out.npy")
            if not os.path.exists(model):
                continue
            arch = os.path.join(folder, "gguf.arch.json")
            more = ["--arch", arch] if kind == "model.gguf" and os.path.exists(arch) else []
            if os.path.exists(os.path.join(folder, "arch.json")):
                more = ["--arch", os.path.join(folder, "arch.json")]
            def run(ids):
                return subprocess.run([binary, "logits", model, *more, "--tokens", ",".join(map(str, ids)), "-o", out], capture_output=True, text=True)
            r = run(tokens["prompt"])
            if r.returncode:
                print(f"{case:20s} {kind:10s} FAILED {r.stderr.strip()}")
                bad += 1
                continue
            got = np.load(out)
            err = np.abs(got - want).max() / np.abs(want).max()
            run(ids)
            n = len(tokens["prompt"])
            greedy = np.load(out)[n - 1:-1].argmax(1).tolist() == tokens["greedy"]
            ok = err <= 1e-4 and greedy
            bad += not ok
            print(f"{case:20s} {kind:10s} {err:.2e} greedy {'same' if greedy else 'DIFFERS'}{'' if ok else '  <-- BAD'}")
sys.exit(bad > 0)
