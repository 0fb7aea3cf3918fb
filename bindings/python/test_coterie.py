"""Tests of the binding on tests/golden: python3 test_coterie.py (COTERIE_LIBRARY names the library)."""
import array
import ast
import json
import os
import tempfile
import unittest

import coterie

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
MODEL = os.path.join(GOLDEN, "noise", "model.gguf")


def npy(path):
    """float32 arrays of two axes, row by row."""
    with open(path, "rb") as f:
        data = f.read()
    n = data[8] + 256 * data[9] + 10
    rows, cols = ast.literal_eval(data[10:n].decode())["shape"]
    values = array.array("f", data[n:])
    return [values[i * cols : (i + 1) * cols] for i in range(rows)]


class Binding(unittest.TestCase):
    def test_logits_are_the_reference(self):
        for case, file in (("qwen3moe", "hf"), ("qwen3moe", "model.gguf"), ("deepseek3", "hf"), ("gpt-oss-mxfp4", "model.gguf")):
            want = npy(os.path.join(GOLDEN, case, "logits.npy"))
            with open(os.path.join(GOLDEN, case, "tokens.json")) as f:
                ids = json.load(f)["prompt"]
            with coterie.Model(os.path.join(GOLDEN, case, file)) as m, m.session(kv="f32", f32_activations=True) as s:
                got = s.forward(ids, logits="all")
                self.assertEqual((len(got), len(got[0])), (len(want), len(want[0])))
                most = max(abs(x) for row in want for x in row)
                self.assertLess(max(abs(a - b) for g, w in zip(got, want) for a, b in zip(g, w)), 1e-4 * most)
                self.assertEqual(s.length(), len(ids))

    def test_text(self):
        with coterie.Model(MODEL) as m:
            self.assertEqual((m.info["n_experts"], m.info["n_experts_used"], m.info["arch"]), (8, 2, "qwen3moe"))
            self.assertEqual(m.detokenize(m.tokenize("Größe 你好")).decode(), "Größe 你好")
            self.assertEqual(m.tokenize("<|im_end|>", parse_special=True), [383])
            self.assertGreater(len(m.tokenize("<|im_end|>")), 1)
            self.assertTrue(m.is_end(383))
            self.assertEqual(m.chat([{"role": "user", "content": "a"}]), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
            self.assertIn("params", m.describe())

    def test_generation_and_routes(self):
        with coterie.Model(MODEL) as m, m.session(threads=1) as s:
            routes, pieces = [], []
            s.observe(routes.append)
            g = s.generate("The expert", max_tokens=12, temperature=0, on_text=pieces.append)
            self.assertEqual((len(g.tokens), g.stop, "".join(pieces)), (12, "length", g.text))
            self.assertEqual({r.layer for r in routes}, {0, 1})
            for r in routes:
                for row in range(r.n_rows):
                    self.assertEqual(len(r.experts(row)), 2)
                    self.assertAlmostEqual(sum(w for _, w in r.experts(row)), 1, places=5)
            s.observe(None)
            seen = len(routes)
            s.cut()
            again = s.generate(m.tokenize("The expert"), max_tokens=12, temperature=0)
            self.assertEqual((again.tokens, len(routes)), (g.tokens, seen))
            s.cut()
            self.assertEqual(s.generate("a", max_tokens=5, temperature=0, logit_bias={11: 100.0}).text, ",,,,,")
            s.cut()
            a = s.generate("a", max_tokens=30, temperature=1.0, seed=3).tokens
            s.cut()
            b = s.generate("a", max_tokens=30, temperature=1.0, seed=3, on_text=lambda t: False).tokens
            self.assertEqual((len(b), b[0]), (1, a[0]))

    def test_state(self):
        with coterie.Model(MODEL) as m, m.session(sequences=2) as s, tempfile.TemporaryDirectory() as folder:
            s.forward([1, 2, 3], logits="none")
            s.save(os.path.join(folder, "state"))
            s.copy(0, 1)
            a = s.forward([4])[0].tolist()
            b = s.forward([4], sequence=1)[0].tolist()
            s.load(os.path.join(folder, "state"))
            self.assertEqual(s.length(), 3)
            self.assertEqual((a, a), (b, s.forward([4])[0].tolist()))

    def test_errors(self):
        with self.assertRaises(coterie.Error) as e:
            coterie.Model("/nothing/here.gguf")
        self.assertIn("/nothing/here.gguf", str(e.exception))
        self.assertEqual(e.exception.status, "NOT_FOUND")
        m = coterie.Model(MODEL)
        with m.session() as s:
            with self.assertRaises(coterie.Error):
                s.forward([99999])
            with self.assertRaises(coterie.Error) as e:
                s.generate("a", top_p=7.0)
            self.assertEqual(e.exception.field, "top_p")
            with self.assertRaises(TypeError):
                s.generate("a", tpyo=1)
            s.observe(lambda r: 1 / 0)
            with self.assertRaises(ZeroDivisionError):
                s.forward([1])
        left_open = m.session()
        m.close()
        m.close()
        with self.assertRaises(ValueError):
            left_open.length()
        with self.assertRaises(ValueError):
            m.tokenize("a")
        with self.assertRaises(ValueError):
            s.length()


if __name__ == "__main__":
    unittest.main()
