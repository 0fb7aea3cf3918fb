#!/usr/bin/env python3
"""Tokenizers compared with the `tokenizers` library (pinned in requirements.txt).

    vocabularies.py OUT             writes tests/golden/tokenizers: small vocabularies of every kind, texts, expected ids
    vocabularies.py --full COTERIE  compares build/coterie's library (libcoterie.so beside it; `cmake --build build` makes
                                    it) on 10,000 lines, for a larger vocabulary of every kind, by tokenizer.json and by
                                    GGUF metadata. --gguf FILE ... adds vocabularies of GGUF files that exist already (a
                                    FILE.inp and FILE.out beside it are compared too).

Vocabularies are trained here, on the text that Debian's packages leave on a machine (python3-doc, manpages-*, fortunes*,
translations of programs); what is committed of that text is no more than its frequent parts of words. The lines that are
committed are written below or drawn from characters.
"""
import argparse, base64, bz2, ctypes, glob, gettext, gzip, io, json, os, random, struct, subprocess, sys, time

import numpy as np
import tokenizers as tk
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

os.environ["TOKENIZERS_PARALLELISM"] = "false"
SPACE = "\u2581"

# ---- expressions, as the families ship them -------------------------------------------------------------------------

ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = ENDS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join([r"[^\r\n\p{L}\p{N}]?" + UP + "*" + LOW + "+" + ENDS + "?", r"[^\r\n\p{L}\p{N}]?" + UP + "+" + LOW + "*" + ENDS + "?",
                  r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
TEKKEN = "|".join([r"[^\r\n\p{L}\p{N}]?" + UP + "*" + LOW + "+", r"[^\r\n\p{L}\p{N}]?" + UP + "+" + LOW + "*",
                   r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
HAN = r"&&[^\p{Han}]]"
KIMI = "|".join([r"[\p{Han}]+", r"[^\r\n\p{L}\p{N}]?" + UP[:-1] + HAN + "*" + LOW[:-1] + HAN + "+" + ENDS + "?",
                 r"[^\r\n\p{L}\p{N}]?" + UP[:-1] + HAN + "+" + LOW[:-1] + HAN + "*" + ENDS + "?",
                 r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
# Escaped: some of these characters do not survive an editor that normalises.
CASED = ("[A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b"
         "-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-"
         "\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15"
         "\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc"
         "\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
         "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149"
         "\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f"
         "\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-"
         "\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-"
         "\U000118df\U0001e900-\U0001e943]")
DEEPSEEK = [r"[\r\n]", r"\s?" + CASED + "+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"]
DEEPSEEK_CODER = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"]
DEEPSEEK3 = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
             r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]


def split(*expressions, behavior="isolated", invert=False):
    return [pre_tokenizers.Split(Regex(e), behavior, invert) for e in expressions]


def byte_level(regex=False, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def steps(*parts):
    parts = [p for p in parts]
    return parts[0] if len(parts) == 1 else pre_tokenizers.Sequence(parts)


# name -> pre-tokenizer, and what else differs from the plain byte-level tokenizer.
# pre: GGUF's name of it; same: whether GGUF's words say all of it.
BYTE = {
    "gpt2": dict(pre=steps(byte_level(True)), gguf="gpt-2"),
    "llama3": dict(pre=steps(*split(LLAMA3), byte_level()), gguf="llama-bpe", ignore_merges=True, bos=True),
    "qwen2": dict(pre=steps(*split(QWEN2), byte_level()), gguf="qwen2", norm=normalizers.NFC(), user=["<think>", "</think>", "<tool_call>"]),
    "qwen35": dict(pre=steps(*split(QWEN35), byte_level()), gguf="qwen35", norm=normalizers.NFC()),
    "deepseek-llm": dict(pre=steps(*split(*DEEPSEEK), pre_tokenizers.Digits(individual_digits=True), byte_level()), gguf="deepseek-llm", bos=True),
    "deepseek-coder": dict(pre=steps(*split(*DEEPSEEK_CODER), pre_tokenizers.Digits(individual_digits=True), byte_level()), gguf="deepseek-coder", bos=True),
    "deepseek-v3": dict(pre=steps(*split(*DEEPSEEK3), byte_level()), gguf="deepseek-v3", norm=normalizers.Sequence([]), bos=True),
    "o200k": dict(pre=steps(*split(O200K), byte_level()), gguf="gpt-4o", extra=["<|start|>", "<|message|>", "<|channel|>"]),
    "bailing": dict(pre=steps(*split(BAILING), byte_level()), gguf="bailingmoe", norm=normalizers.NFC(), user=["<role>", "</role>"]),
    "tekken": dict(pre=steps(*split(TEKKEN), byte_level()), gguf="tekken", ignore_merges=True, bos=True),
    "kimi": dict(pre=steps(*split(KIMI, behavior="removed", invert=True), byte_level()), gguf="kimi-k2"),
    "starcoder": dict(pre=steps(pre_tokenizers.Digits(individual_digits=True), byte_level(True)), gguf="starcoder"),
    # Runs of spaces are tokens of their own, looked for before and after normalising.
    "olmo": dict(pre=steps(byte_level(True)), norm=normalizers.NFC(), spaces=True),
    "falcon": dict(pre=steps(pre_tokenizers.Punctuation("contiguous"), byte_level(True), pre_tokenizers.Digits(individual_digits=False), *split("[0-9][0-9][0-9]"))),
    "nfkc": dict(pre=steps(byte_level(True, True)), norm=normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()]), strips=True),
    "nfd": dict(pre=steps(pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_next"), byte_level(False, True)), norm=normalizers.NFD()),
}


class Vocab:
    """A tokenizer.json (dict) and, where GGUF has words for it, the metadata."""

    def __init__(self, name, doc, config=None, gguf=None, lossless=True, same=True):
        self.name, self.doc, self.config, self.gguf = name, doc, config, gguf
        self.lossless = lossless  # any bytes come back
        self.same = same          # the GGUF form cuts every text alike; else only text that normalising leaves alone
        self.sp = None
        self.unigram = doc["model"]["type"] == "Unigram"
        self.strips = any(t["lstrip"] or t["rstrip"] for t in doc["added_tokens"])
        self.hf = tk.Tokenizer.from_str(json.dumps(doc))

    def ids(self, text, parsed):
        self.hf.encode_special_tokens = not parsed
        return self.hf.encode(text, add_special_tokens=parsed).ids

    def specials(self):
        return [t["content"] for t in self.doc["added_tokens"]] or ["<none>"]


# ---- training -----------------------------------------------------------------------------------------------------

def train_byte(name, spec, corpus, size):
    t = tk.Tokenizer(models.BPE(ignore_merges=spec.get("ignore_merges", False)))
    if "norm" in spec:
        t.normalizer = spec["norm"]
    t.pre_tokenizer = spec["pre"]
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    A = tk.AddedToken
    t.add_special_tokens([A("<|endoftext|>", special=True, normalized=False), A("<|im_start|>", special=True, normalized=False), A("<|im_end|>", special=True, normalized=False)]
                         + [A(x, special=True, normalized=False) for x in spec.get("extra", [])])
    t.add_tokens([A(x, normalized=False) for x in spec.get("user", [])])
    if spec.get("spaces"):
        t.add_tokens([A(" " * k, normalized=k % 2 == 0) for k in (8, 4, 2, 3)] + [A("||word||", single_word=True), A("||left||", lstrip=True, normalized=False), A("||right||", rstrip=True)])
    config = {"eos_token": "<|im_end|>"}
    if spec.get("bos"):
        bos = "<|endoftext|>"
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single=bos + " $A", special_tokens=[(bos, t.token_to_id(bos))])])
        config["bos_token"] = bos
    else:
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    doc = json.loads(t.to_str())
    return byte_vocab(name, doc, config, spec)


def byte_vocab(name, doc, config, spec):
    gguf = None
    if "gguf" in spec:
        n = max(list(doc["model"]["vocab"].values()) + [t["id"] for t in doc["added_tokens"]]) + 1
        tokens, types = ["[PAD%d]" % i for i in range(n)], [5] * n
        for text, i in doc["model"]["vocab"].items():
            tokens[i], types[i] = text, 1
        for t in doc["added_tokens"]:
            tokens[t["id"]], types[t["id"]] = t["content"], 3 if t["special"] else 4
        merges = [m if isinstance(m, str) else " ".join(m) for m in doc["model"]["merges"]]
        gguf = dict(model="gpt2", pre=spec["gguf"], tokens=tokens, types=types, merges=merges, bos=tokens.index(config["bos_token"]) if "bos_token" in config else None,
                    eos=tokens.index(config["eos_token"]) if "eos_token" in config else None, add_bos="bos_token" in config)
    norm = doc["normalizer"] and doc["normalizer"] != {"type": "Sequence", "normalizers": []}
    plain_prefix = not any(s.get("add_prefix_space") for s in [doc["pre_tokenizer"]] + doc["pre_tokenizer"].get("pretokenizers", []))
    removes = any(s["type"] == "WhitespaceSplit" for s in doc["pre_tokenizer"].get("pretokenizers", []))
    return Vocab(name, doc, config, gguf, lossless=not norm and plain_prefix and not removes, same=not norm and not spec.get("spaces"))


def proto(data):
    """Fields of a protobuf message: number -> list of values."""
    out, at = {}, 0
    def varint():
        nonlocal at
        v = shift = 0
        while True:
            b = data[at]
            at += 1
            v |= (b & 127) << shift
            shift += 7
            if b < 128:
                return v
    while at < len(data):
        key = varint()
        if key & 7 == 0:
            v = varint()
        elif key & 7 == 2:
            n = varint()
            v, at = data[at:at + n], at + n
        else:
            n = 4 if key & 7 == 5 else 8
            v, at = data[at:at + n], at + n
        out.setdefault(key >> 3, []).append(v)
    return out


def merges_of(scores):
    """The merges that a SentencePiece vocabulary means: every cut of a piece into two pieces, best score first."""
    out = []
    index = {p: i for i, p in enumerate(scores)}
    for piece, score in scores.items():
        for k in range(1, len(piece)):
            if piece[:k] in scores and piece[k:] in scores:
                out.append((-score, index[piece[:k]], index[piece[k:]], piece[:k], piece[k:]))
    return [[a, b] for _, _, _, a, b in sorted(out)]


def sentencepiece(corpus, size, **options):
    import sentencepiece as spm
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=out, vocab_size=size, hard_vocab_limit=False, num_threads=1, minloglevel=2,
                                   max_sentence_length=20000, **options)
    sp = spm.SentencePieceProcessor(model_proto=out.getvalue())
    message = proto(out.getvalue())
    pieces = [proto(p) for p in message[1]]
    text = [p[1][0].decode() for p in pieces]
    score = [struct.unpack("<f", p[2][0])[0] if 2 in p else 0.0 for p in pieces]
    kind = [p.get(3, [1])[0] for p in pieces]
    return sp, text, score, kind, proto(message[3][0]).get(2, [b""])[0]


def added(i, content, special=True, rstrip=False, lstrip=False, normalized=False):
    return dict(id=i, content=content, single_word=False, lstrip=lstrip, rstrip=rstrip, normalized=normalized, special=special)


def template(before=(), after=()):
    item = lambda x: {"SpecialToken": {"id": x[0], "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [item(x) for x in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [item(x) for x in after], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in list(before) + list(after)}}


def document(model, normalizer=None, pre=None, post=None, decoder=None, tokens=()):
    return dict(version="1.0", truncation=None, padding=None, added_tokens=list(tokens), normalizer=normalizer, pre_tokenizer=pre, post_processor=post, decoder=decoder, model=model)


def replaced(a, b):
    return {"type": "Replace", "pattern": {"String": a}, "content": b}


def score_vocab(name, style, text, score, kind, extra=()):
    """SentencePiece BPE in the three forms of tokenizer.json that the families ship."""
    usable = {t: s for t, s, k in zip(text, score, kind) if k in (1, 4)}
    vocab = {t: i for i, t in enumerate(text)}
    model = dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=True, byte_fallback=True, ignore_merges=False, vocab=vocab, merges=merges_of(usable))
    tokens = [added(i, t) for i, (t, k) in enumerate(zip(text, kind)) if k in (2, 3)]
    tokens += [added(len(text) + i, t, special, rstrip=rstrip) for i, (t, special, rstrip) in enumerate(extra)]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    common = [replaced(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    bos = template([("<s>", vocab["<s>"])])
    if style == "legacy":    # llama-2, phi-3
        doc = document(model, {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replaced(" ", SPACE)]}, None, bos, {"type": "Sequence", "decoders": common + strip}, tokens)
    elif style == "first":   # mixtral as newer files have it
        doc = document(model, None, {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}, bos, {"type": "Sequence", "decoders": common + strip}, tokens)
    else:                    # gemma
        doc = document(model, replaced(" ", SPACE), {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, bos, {"type": "Sequence", "decoders": common}, tokens)
    gguf = dict(model="llama", pre="default", tokens=text + [e[0] for e in extra], scores=score + [-1000.0] * len(extra), types=kind + [3 if e[1] else 4 for e in extra], merges=None, bos=vocab["<s>"], eos=vocab["</s>"], unk=vocab["<unk>"],
                add_bos=True, add_space_prefix=style != "gemma")
    if style == "first":
        gguf = None  # no space in front of text that begins with one: GGUF's words always add it
    return Vocab(name, doc, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, gguf, lossless=style == "gemma" or (style, bool(extra)) == ("legacy", False), same=style == "gemma" or (style, bool(extra)) == ("legacy", False))


def train_scores(name, style, corpus, size, extra=(), **options):
    sp, text, score, kind, _ = sentencepiece(corpus, max(size, 2000), model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
                                             character_coverage=0.999 if size > 8000 else 0.98, allow_whitespace_only_pieces=True, add_dummy_prefix=style != "gemma", **options)
    v = score_vocab(name, style, text, score, kind, extra)
    v.sp = sp
    return v


def train_unigram(name, corpus, size, style):
    byte = style != "t5"
    sp, text, score, kind, charsmap = sentencepiece(corpus, max(size, 2000), model_type="unigram", byte_fallback=byte, character_coverage=0.998 if size > 8000 else 0.98, normalization_rule_name="nmt_nfkc" if style == "t5" else "identity",
                                                    remove_extra_whitespaces=style == "t5")
    model = dict(type="Unigram", unk_id=0, byte_fallback=byte, vocab=[[t, s] for t, s in zip(text, score)])
    tokens = [added(i, t) for i, (t, k) in enumerate(zip(text, kind)) if k in (2, 3)]
    meta = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always" if style == "t5" else "first", "split": True}
    if style == "t5":
        norm = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}, {"type": "Strip", "strip_left": False, "strip_right": True},
                                                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}]}
    else:
        norm = {"type": "NFKC"}
    decoder = meta if style == "t5" else {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, meta]}
    doc = document(model, norm, meta, template(after=[("</s>", 2)]), decoder, tokens)
    gguf = dict(model="t5", pre="default", tokens=text, scores=score, types=kind, merges=None, bos=1, eos=2, unk=0, add_bos=False, add_eos=True, add_space_prefix=True, remove_extra=style == "t5", charsmap=charsmap) if style == "t5" else None
    v = Vocab(name, doc, {"eos_token": "</s>", "unk_token": "<unk>"}, gguf, lossless=False, same=False)
    v.sp = sp
    return v


def all_vocabs(corpus, size, names=None):
    for name, spec in BYTE.items():
        if not names or name in names:
            yield train_byte(name, spec, corpus, size)
    for name, style, extra in (("llama2", "legacy", ()), ("phi3", "legacy", [("<|user|>", True, True), ("<|end|>", True, True), ("<|tool|>", False, False)]), ("mixtral", "first", ()), ("gemma", "gemma", [("<start_of_turn>", True, False), ("<b>", False, False)])):
        if not names or name in names:
            yield train_scores(name, style, corpus, size, extra)
    for name, style in (("t5", "t5"), ("unigram", "bytes")):
        if not names or name in names:
            yield train_unigram(name, corpus, size, style)


# ---- text -----------------------------------------------------------------------------------------------------------

def catalogues(languages, limit):
    for lang in languages:
        got = 0
        for path in sorted(glob.glob(f"/usr/share/locale/{lang}/LC_MESSAGES/*.mo")):
            try:
                with open(path, "rb") as f:
                    entries = gettext.GNUTranslations(f)._catalog
            except Exception:
                continue
            for key, text in sorted(entries.items(), key=str):
                if key and isinstance(text, str) and len(text) > 12 and got < limit:
                    got += 1
                    yield text


def manual_pages(languages, limit):
    for lang in languages:
        got = 0
        for path in sorted(glob.glob(f"/usr/share/man/{lang}/man*/*.gz"))[:400]:
            try:
                text = gzip.open(path).read().decode("utf-8")
            except Exception:
                continue
            for line in text.split("\n"):
                if len(line) > 30 and not line.startswith('.\\"') and got < limit:
                    got += 1
                    yield line


def files(pattern, limit, each=400):
    got = 0
    for path in sorted(glob.glob(pattern, recursive=True)):
        try:
            text = (gzip.open(path) if path.endswith(".gz") else open(path, "rb")).read().decode("utf-8")
        except Exception:
            continue
        for line in text.split("\n")[:each]:
            if len(line) > 3 and got < limit:
                got += 1
                yield line


def natural_lines(scale):
    """Languages and code. `scale`: lines per source."""
    groups = [list(catalogues(["de", "fr", "es", "pl", "cs", "tr", "vi", "fi", "hu"], scale)), list(catalogues(["ru", "uk", "el", "bg", "sr"], scale)), list(catalogues(["ja", "zh_CN", "zh_TW", "ko"], scale)),
              list(catalogues(["ar", "he", "fa", "hi", "bn", "ta", "te", "th", "ka", "hy", "am", "my", "km", "gu", "ml", "si", "lo"], scale // 2)),
              list(manual_pages(["de", "fr", "ja", "ru", "zh_CN", "zh_TW", "pl", "el", "ko", "es", "tr"], scale)), list(files("/usr/share/doc/debian/FAQ/*.txt.gz", scale * 2)), list(files("/usr/share/games/fortunes/**/*.u8", scale * 2)),
              list(files("/usr/share/doc/python3/html/_sources/**/*.rst.txt", scale * 4)), list(files("/usr/lib/python3.11/*.py", scale * 3)), list(files("/usr/include/*.h", scale)), list(files("/usr/share/vim/vim90/**/*.vim", scale))]
    return groups


SPACES = " \t\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u0085\x0b\x0c\x1c\x1f\r"
ODD = "\u200b\u200c\u200d\u2060\ufeff\u180e\u00ad\u202e\u061c\ufffd\ufffe\uffff\u0000\u0001\u007f\u0080\u009f\ue000\U000f0000\U0010ffff"
MARKS = "\u0300\u0301\u0308\u0327\u0323\u0345\u05b0\u0650\u093c\u0e38\u3099\u20d0\ufe0f\U0001d165"
PIECES = ["'s", "'S", "'T", "'ll", "'LL", "'re", "'ve", "'d", "’s", "'ſ", "'K", "  ", "   ", "\n", "\r\n", "\n\n", " \n ", "\t\t", "123", "1234567", "٣٤٥", "१२३", "①②", "Ⅻ", "½", "²", "x²", "ǅ", "ʰ", "ª", "_", "__init__", "::", "!=", "...", "——", "//", "/*", "//\n",
          "\u2581", "\u2581\u2581a", "<0x41>", "Ġ", "Ċ", "ｆｕｌｌ", "ﬁ", "ﷺ", "가", "\u1100\u1161", "A\u030a", "\u212b", "\u00c5", "e\u0301", "\u00e9", "\u2126", "\u1f7d", "ß", "ẞ", "İ", "ı", "Σς", "中文字", "日本語テキスト", "ｶﾞ", "ไทย", "हिन्दी", "नमस्ते", "עברית", "العربية", "😀", "👨‍👩‍👧", "🇩🇪", "❤️", "🏳️‍🌈", "𝒳", "𠀀", "𞤀", "ԱԲ", "Ꭰ", "ა", "ꙮ"]


def hostile(rng):
    """One line of characters that normalisers, expressions and merges treat in special ways."""
    how = rng.randrange(10)
    if how == 0:
        return "".join(chr(c if c < 0xd800 else c + 0x800) for c in (rng.randrange(1, 0x110000 - 0x800) for _ in range(rng.randrange(1, 20))) if c != 10)
    if how == 1:
        base = rng.choice([0x20, 0xa0, 0x370, 0x400, 0x590, 0x600, 0x900, 0xe00, 0x10a0, 0x1100, 0x1e00, 0x2000, 0x2100, 0x2460, 0x3000, 0x3040, 0x4e00, 0xa640, 0xac00, 0xf900, 0xfb00, 0xff00, 0x10400, 0x1d400, 0x1e900, 0x1f300, 0x1f900, 0x20000, 0x2f800])
        return "".join(chr(base + rng.randrange(0x100)) + (" " if rng.random() < 0.1 else "") for _ in range(rng.randrange(1, 24)))
    if how == 2:
        return "".join(rng.choice(SPACES) * rng.choice([1, 1, 2, 5]) + rng.choice(["", "a", "1", ".", "\n"]) for _ in range(rng.randrange(1, 10)))
    if how == 3:
        return "".join(rng.choice("aeoAK가ᄀ\u1161") + "".join(rng.choice(MARKS) for _ in range(rng.choice([0, 1, 2, 5]))) for _ in range(rng.randrange(1, 10)))
    if how == 4:
        return rng.choice(["a", " ", "A", "1", "é", "中", "😀", "-", "\n", "\u0301", "ab", "Aa", "\t"]) * rng.choice([3, 17, 64, 130])
    if how == 5:
        return "".join(rng.choice(ODD + "ab 1") for _ in range(rng.randrange(1, 16)))
    if how == 6:
        return "".join(rng.choice("ABCabcÀàΑαАа'’sStT0 1") for _ in range(rng.randrange(1, 40)))
    if how == 7:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ a1\n") for _ in range(rng.randrange(1, 40)))
    return "".join(rng.choice(PIECES) + rng.choice(["", "", " ", "a", "."]) for _ in range(rng.randrange(1, 12)))


def broken(rng, texts):
    """Bytes that are not UTF-8: random ones, and text with some bytes changed or cut."""
    if rng.random() < 0.3:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
    b = bytearray(rng.choice(texts).encode()[:200] or b"x")
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(b) + 1)
        b[at:at + rng.randrange(3)] = rng.choice([b"\xff", b"\xc3", b"\xe2\x96", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\xaf", b"\x80", b"\xf0\x9f\x98", b"\xff\xfe "])
    return bytes(b)


def valid(b):
    try:
        b.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


def with_specials(rng, text, specials):
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(["", " ", "  "]) + rng.choice(specials) + rng.choice(["", " ", "\n"]) + text[at:]
    return text


# ---- the committed set ------------------------------------------------------------------------------------------------

WRITTEN = """
Hello, world!
 The quick brown fox jumps over the lazy dog.
I'm sure they'll say we've been here since 1987, don't you think?
I'M SURE THEY'LL SAY WE'VE BEEN HERE; IT'S THE DOG'S BONE'D
Der schnelle braune Fuchs springt über den faulen Hund – täglich um 12:30 Uhr.
Où est la bibliothèque ? À côté de l'église, près de la gare.
El niño comió piñas mientras llovía en Córdoba.
Zażółć gęślą jaźń, powiedział źrebak.
Быстрая бурая лиса прыгает через ленивую собаку.
Съешь ещё этих мягких французских булок, да выпей чаю.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
הכלב הישן שוכב ליד הדלת
القط الصغير ينام على السرير كل يوم ٢٤ ساعة
छोटी बिल्ली दिन भर सोती है १२३
ছোট বিড়াল সারাদিন ঘুমায়
แมวตัวเล็กนอนทั้งวันบนเตียง
小さな猫は一日中ベッドで寝ています。１２３
小猫整天睡在床上，共有3只。
작은 고양이는 하루 종일 침대에서 잔다.
Con mèo nhỏ ngủ cả ngày trên giường.
პატარა კატა მთელი დღე სძინავს
Փոքրիկ կատուն ամբողջ օրը քնում է
ትንሽ ድመት ቀኑን ሙሉ ትተኛለች
int main(int argc, char **argv) { return argc > 1 ? atoi(argv[1]) : 0; }
\tfor (size_t i = 0; i < n; i++) sum += x[i] * y[i]; // dot product
def f(x, *args, **kwargs):\n    return {k: v**2 for k, v in kwargs.items() if v != x}
SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name ORDER BY 2 DESC;
<div class="a b"><p id='x'>&nbsp;text</p></div>
#!/bin/sh\nset -eu\necho "$HOME/${1:-none}" | sed 's/[^a-z]*//g'
{"key": [1, 2.5e-10, null, true], "\\u00e9": "\\n"}
\\frac{\\partial f}{\\partial x} = \\sum_{i=0}^{n} a_i x^{i-1}
https://example.org/path/to/file_name-2.tar.gz?query=value&other=%20#part
user.name+tag@example.com, 192.168.0.1:8080, 2001:db8::ff00:42:8329
camelCaseIdentifier SCREAMING_SNAKE_CASE kebab-case-name PascalCaseHTMLParser XMLHttpRequest2
1234567890 3.14159 1,000,000 0xDEADBEEF 1e-9 ½ ² ³ ① Ⅻ ١٢٣ १२३ １２３
   leading and   inner    spaces and trailing   
\t\ttabs\tand\tmore\t\n\nlines\r\nwith\rreturns \n  \n
a\u0301 is not \u00e1, nor is A\u030a \u212b or \u00c5, \u1f7d \u2126 \u1100\u1161 \uac00
ﬁne ligatures, ｆｕｌｌ ｗｉｄｔｈ, ㎏ and ㍿, ℌ and ℍ
😀😃 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇯🇵 ❤️ ☎︎ 🫠🫨
zero\u200bwidth\u200djoin\ufeffers and soft\u00adhyphens
no-break\u00a0space, thin\u2009space, ideographic\u3000space, line\u2028separator
“Quotes” ‘single’ «guillemets» „German“ 「日本」 — dashes – and … ellipsis
<s>not special</s> <unk> <0x41> <|endoftext|> <|im_start|>user\nHi<|im_end|>
<think>so</think><tool_call> <|start|>assistant<|channel|>final<|message|>ok <role>HUMAN</role>
 ||word|| a||word||b  ||left||  x  ||right||  y||word|| 
<|user|> \n text<|end|>  \n<|tool|> x <start_of_turn>model\n<b>bold</b>
\u2581\u2581already visible\u2581spaces\u2581
ĠGPT2 printable Ċ stand-ins ł and ½
''''s''t'S'T'LL'lL's's
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
________________________________________________________________________________
================================================================
"""


def escape(b):
    """Bytes as the committed file has them: printable ASCII and valid text as it is, else \\xNN."""
    out = ""
    try:
        for c in b.decode("utf-8"):
            out += c if c.isprintable() and c != "\\" and ord(c) < 0x2000 else "".join("\\x%02x" % k for k in c.encode())
    except UnicodeDecodeError:
        out = "".join(chr(k) if 32 <= k < 127 and k != 92 else "\\x%02x" % k for k in b)
    return out


def small_lines():
    rng = random.Random(7)
    written = [x.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r") for x in WRITTEN.strip("\n").split("\n")]
    lines = [""] + written
    lines += [a + b for a, b in zip(written[::3], written[1::3])][:14]
    while len(lines) < 240:
        lines.append(hostile(rng))
    specials = ["<|endoftext|>", "<|im_start|>", "<s>", "</s>", "<think>", "<|user|>", "||left||", "||right||", "||word||", "<unk>", "<b>"]
    while len(lines) < 270:
        lines.append(with_specials(rng, rng.choice(written)[:50], specials))
    lines = [x.encode() for x in lines]
    lines += [bytes(range(256)), bytes(range(255, -1, -1))]
    while len(lines) < 310:
        b = broken(rng, written)
        if not valid(b):
            lines.append(b)
    return lines


def write_small(out):
    os.makedirs(out, exist_ok=True)
    for old in glob.glob(out + "/*"):
        os.unlink(old)
    corpus = [x for g in natural_lines(150) for x in g]
    lines = small_lines()
    with open(out + "/lines.txt", "w", encoding="utf-8") as f:
        f.write("".join(escape(b) + "\n" for b in lines))
    for v in all_vocabs(corpus, 1200):
        with open(f"{out}/{v.name}.json", "w", encoding="utf-8") as f:
            json.dump(v.doc, f, ensure_ascii=False, separators=(",", ":"))
        facts = dict(config=v.config, lossless=v.lossless, same=v.same and bool(v.gguf))
        with open(f"{out}/{v.name}.ids", "w") as f:
            f.write(json.dumps(facts) + "\n")
            # Per line: ids as plain text; "|" and ids with special tokens read and added, where more than these differ.
            ends = v.ids("", True)
            for b in lines:
                if not valid(b):
                    f.write("-\n")
                    continue
                text = b.decode()
                plain, parsed = v.ids(text, False), v.ids(text, True)
                f.write(" ".join(map(str, plain)) + ("" if b and parsed in (ends[:1] + plain, plain + ends, plain) and len(parsed) == len(plain) + len(ends) else "|" + " ".join(map(str, parsed))) + "\n")
        print(v.name, v.hf.get_vocab_size(), "tokens")


# ---- the library under test ---------------------------------------------------------------------------------------------

class Library:
    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.cot_free.argtypes = [ctypes.c_void_p]
        self.c.cot_tokenize.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self.c.cot_detokenize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self.c.cot_model_open.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
        self.c.cot_model_close.argtypes = [ctypes.c_void_p]

    def open(self, path):
        m, err = ctypes.c_void_p(), ctypes.create_string_buffer(4096)
        if self.c.cot_model_open(ctypes.byref(m), path.encode(), None, err):
            raise RuntimeError(err.raw[4:].split(b"\0")[0].decode())
        return m

    def encode(self, m, b, special):
        p, n, err = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t(), ctypes.create_string_buffer(4096)
        if self.c.cot_tokenize(m, b, len(b), special, special, ctypes.byref(p), ctypes.byref(n), err):
            raise RuntimeError(err.raw[4:].split(b"\0")[0].decode())
        ids = p[:n.value]
        self.c.cot_free(p)
        return ids

    def decode(self, m, ids, special=True):
        p, n, err = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.create_string_buffer(4096)
        if self.c.cot_detokenize(m, (ctypes.c_int32 * len(ids))(*ids), len(ids), special, ctypes.byref(p), ctypes.byref(n), err):
            raise RuntimeError(err.raw[4:].split(b"\0")[0].decode())
        b = ctypes.string_at(p, n.value)
        self.c.cot_free(p)
        return b


HIDDEN = 32


def tensors(n):
    z = lambda *shape: np.zeros(shape, np.float16)
    return dict(embed=z(n, HIDDEN), norm=z(HIDDEN), q=z(HIDDEN, HIDDEN), ff=z(HIDDEN, HIDDEN))


def write_folder(path, v):
    from safetensors.numpy import save_file
    os.makedirs(path, exist_ok=True)
    n = v.hf.get_vocab_size(with_added_tokens=True)
    n = max(n, max(list(v.hf.get_vocab(with_added_tokens=True).values())) + 1)
    t, layer = tensors(n), "model.layers.0."
    out = {"model.embed_tokens.weight": t["embed"], "model.norm.weight": t["norm"], layer + "input_layernorm.weight": t["norm"], layer + "post_attention_layernorm.weight": t["norm"]}
    for x in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        out[layer + x + ".weight"] = t["q"].copy()
    save_file(out, path + "/model.safetensors")
    with open(path + "/config.json", "w") as f:
        json.dump(dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16, intermediate_size=HIDDEN, vocab_size=n, rms_norm_eps=1e-5,
                       max_position_embeddings=64, rope_theta=10000.0, tie_word_embeddings=True, hidden_act="silu"), f)
    with open(path + "/tokenizer.json", "w", encoding="utf-8") as f:
        json.dump(v.doc, f, ensure_ascii=False)
    with open(path + "/tokenizer_config.json", "w") as f:
        json.dump(v.config or {}, f)


def write_gguf(path, g):
    import gguf
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(64); w.add_embedding_length(HIDDEN); w.add_block_count(1); w.add_feed_forward_length(HIDDEN); w.add_head_count(2); w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-5); w.add_rope_dimension_count(16); w.add_vocab_size(len(g["tokens"]))
    w.add_tokenizer_model(g["model"]); w.add_tokenizer_pre(g["pre"]); w.add_token_list(g["tokens"]); w.add_token_types(g["types"])
    if g.get("scores") is not None:
        w.add_token_scores(g["scores"])
    if g.get("merges"):
        w.add_token_merges(g["merges"])
    for key, add in (("bos", w.add_bos_token_id), ("eos", w.add_eos_token_id), ("unk", w.add_unk_token_id), ("add_bos", w.add_add_bos_token), ("add_eos", w.add_add_eos_token), ("add_space_prefix", w.add_add_space_prefix),
                     ("remove_extra", w.add_remove_extra_whitespaces)):
        if g.get(key) is not None:
            add(g[key])
    if g.get("charsmap"):
        w.add_precompiled_charsmap(g["charsmap"])
    t = tensors(len(g["tokens"]))
    f32 = lambda x: x.astype(np.float32)
    w.add_tensor("token_embd.weight", t["embed"]); w.add_tensor("output_norm.weight", f32(t["norm"])); w.add_tensor("blk.0.attn_norm.weight", f32(t["norm"])); w.add_tensor("blk.0.ffn_norm.weight", f32(t["norm"]))
    for x in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        w.add_tensor(f"blk.0.{x}.weight", t["q"].copy())
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


# ---- GGUF files that exist ------------------------------------------------------------------------------------------------

PRES = {"gpt-2": steps(byte_level(True)), "mpt": steps(byte_level(True)), "llama-bpe": BYTE["llama3"]["pre"], "qwen2": BYTE["qwen2"]["pre"], "qwen35": BYTE["qwen35"]["pre"],
        "deepseek-llm": steps(*split(*DEEPSEEK, r"\p{N}+"), byte_level()), "deepseek-coder": steps(*split(*DEEPSEEK_CODER, r"\p{N}"), byte_level()), "starcoder": BYTE["starcoder"]["pre"], "refact": BYTE["starcoder"]["pre"],
        "command-r": BYTE["starcoder"]["pre"], "falcon": BYTE["falcon"]["pre"]}


def read_gguf(path):
    """The vocabulary of a GGUF file as metadata and, where its pre-tokenizer is known here, as a tokenizer.json."""
    import gguf
    r = gguf.GGUFReader(path)
    get = lambda k: r.fields["tokenizer.ggml." + k].contents() if "tokenizer.ggml." + k in r.fields else None
    g = dict(model=get("model"), pre=get("pre") or "default", tokens=get("tokens"), types=get("token_type"), scores=get("scores"), merges=get("merges"), bos=get("bos_token_id"), eos=get("eos_token_id"), unk=get("unknown_token_id"),
             add_bos=get("add_bos_token"), add_eos=get("add_eos_token"), add_space_prefix=get("add_space_prefix"))
    name = os.path.basename(path).replace("ggml-vocab-", "").replace(".gguf", "")
    if not g["tokens"]:
        return name, g, None
    types = g["types"] or [1] * len(g["tokens"])
    if g["model"] == "gpt2" and g["pre"] in PRES:
        t = tk.Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = PRES[g["pre"]], decoders.ByteLevel()
        doc = json.loads(t.to_str())
        doc["model"]["vocab"] = {x: i for i, x in enumerate(g["tokens"])}
        doc["model"]["merges"] = g["merges"]
        doc["model"]["ignore_merges"] = g["pre"] == "llama-bpe"
        doc["added_tokens"] = [added(i, x, types[i] != 4) for i, x in enumerate(g["tokens"]) if types[i] in (2, 3, 4)]
        if g["add_bos"] or (g["add_bos"] is None and g["pre"] == "llama-bpe"):
            doc["post_processor"] = template([(g["tokens"][g["bos"]], g["bos"])])
        usual = {x for x, k in zip(g["tokens"], types) if k in (1, 5)}
        every_byte = usual.issuperset(pre_tokenizers.ByteLevel.alphabet())  # some vocabularies lack bytes that UTF-8 never has
        return name, g, Vocab(name, doc, {}, g, lossless=every_byte)
    if g["model"] == "llama" and g["scores"]:
        usable = {t: s for t, s, k in zip(g["tokens"], g["scores"], types) if k in (1, 4)}
        prefix = g["add_space_prefix"] is not False
        model = dict(type="BPE", dropout=None, unk_token=g["tokens"][g["unk"] or 0], continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=True, byte_fallback=True, ignore_merges=False,
                     vocab={t: i for i, t in reversed(list(enumerate(g["tokens"])))}, merges=merges_of(usable))
        tokens = [added(i, x, types[i] != 4) for i, x in enumerate(g["tokens"]) if types[i] in (2, 3, 4)]
        norm = {"type": "Sequence", "normalizers": ([{"type": "Prepend", "prepend": SPACE}] if prefix else []) + [replaced(" ", SPACE)]}
        decoder = {"type": "Sequence", "decoders": [replaced(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}] + ([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else [])}
        v = Vocab(name, document(model, norm, None, template([(g["tokens"][g["bos"]], g["bos"])]) if g["add_bos"] is not False else None, decoder, tokens), {}, g, lossless=not (prefix and 4 in types))
        return name, g, v
    return name, g, None


# ---- the full run -----------------------------------------------------------------------------------------------------

def full_lines(n):
    rng = random.Random(11)
    groups = natural_lines(400)
    assert all(groups), "text is missing: apt install python3-doc manpages-{de,fr,ja,ru,zh,pl,el} fortunes fortunes-{ru,zh,bg} debian-faq-{ko,zh-cn} unicode-data"
    flat = [x for g in groups for x in g]
    lines = []
    forms = []
    for line in bz2.open("/usr/share/unicode/NormalizationTest.txt.bz2", "rt", encoding="utf-8"):
        if line[0] not in "#@":
            forms.append("".join(chr(int(x, 16)) for x in line.split(";")[0].split()))
    for _ in range(n * 45 // 100):
        g = rng.choice(groups)
        k = rng.choice([1, 1, 1, 1, 2, 6])
        at = rng.randrange(len(g))
        lines.append(rng.choice(["\n", "\n", "\r\n", " "]).join(g[at:at + k])[:1500])
    for _ in range(n * 10 // 100):
        a, b = rng.choice(flat), rng.choice(flat)
        lines.append(a[:rng.randrange(80)] + rng.choice(PIECES + [hostile(rng)]) + b[rng.randrange(len(b)):][:80])
    for _ in range(n * 5 // 100):
        lines.append(rng.choice(["", " "]).join(rng.sample(forms, rng.randrange(1, 6))))
    while len(lines) < n * 80 // 100:
        lines.append(hostile(rng))
    while len(lines) < n * 90 // 100:
        lines.append(None)  # a line with the vocabulary's own special tokens
    lines = [x if x is None else x.encode() for x in lines]
    while len(lines) < n:
        b = broken(rng, flat)
        if not valid(b):
            lines.append(b)
    return lines, flat


def show(what, text, want, got, v):
    k = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    name = lambda ids: [v.hf.id_to_token(i) for i in ids[max(0, k - 2):k + 4]]
    print(f"    {what}: {text[:120]!r}\n      at {k}: wanted {want[max(0, k - 2):k + 4]} {name(want)}\n              got {got[max(0, k - 2):k + 4]} {name(got)}")


def compare(lib, v, model, lines, route, shown=4):
    rng = random.Random(3)
    specials = v.specials()
    written = [b.decode() for b in lines[:3000] if b and valid(b)]
    count = dict(lines=0, ids=0, plain=0, parsed=0, trip=0, text=0, broken=0, sp=0)
    first = shown
    for b in lines:
        if b is None:
            b = with_specials(rng, rng.choice(written)[:100], specials).encode()
        count["lines"] += 1
        try:
            got = lib.encode(model, b, False)
        except RuntimeError as e:
            count["plain"] += 1
            print("    ", e, b[:60])
            continue
        back = lib.decode(model, got)
        if not valid(b):
            count["broken"] += 1
            if v.lossless and back != b and "\u2581".encode() not in b:
                count["trip"] += 1
                if shown > 0:
                    print("    round trip:", b[:100], back[:100])
                    shown -= 1
            continue
        text = b.decode()
        if v.unigram and ("<0x" in text or any(t in text for t in specials)):
            # The library's unigram model takes these from any text, trusted or not, and text that spells a byte does not come
            # back. Here they are read only where the caller says so.
            count["text"] += 1
            continue
        if route == "gguf" and v.sp and not v.unigram and not any(t in text for t in specials):
            # SentencePiece itself is the measure of its own vocabularies; but its unigram model adds in float and the
            # tokenizers library in double, which decides ties (runs of one character) differently: there the latter counts.
            want = v.sp.encode(text)
            count["sp"] += 1
            if got != want:
                count["plain"] += 1
                if shown > 0:
                    show("SentencePiece", text, want, got, v)
                    shown -= 1
        if route == "gguf" and not v.same and not v.lossless and v.hf.decode(v.ids(text, False), skip_special_tokens=False) != text:
            count["text"] += 1  # normalised: GGUF does not say so
            continue
        for parsed in (False, True):
            want = v.ids(text, parsed)
            if parsed and route == "gguf" and v.strips:
                continue  # GGUF does not say which tokens swallow spaces
            if parsed:
                got = lib.encode(model, b, True)
            count["ids"] += len(want)
            if got != want:
                count["parsed" if parsed else "plain"] += 1
                if shown > 0:
                    show("parsed" if parsed else "plain", text, want, got, v)
                    shown -= 1
        if v.lossless and (v.doc["pre_tokenizer"] is not None and "ByteLevel" in json.dumps(v.doc["pre_tokenizer"]) or SPACE not in text):
            bad = back != b
        else:
            want = v.hf.decode(v.ids(text, False), skip_special_tokens=False)
            bad = "\ufffd" not in want and route == "json" and back != want.encode()
        if bad:
            count["trip"] += 1
            if shown > 0:
                print("    text back:", b[:100], back[:100], v.hf.decode(v.ids(text, False), skip_special_tokens=False).encode()[:100])
                shown -= 1
    wrong = count["plain"] + count["parsed"] + count["trip"]
    print(f"  {v.name:16} {route:5} {count['lines']} lines, {count['ids']} ids, {count['broken']} not UTF-8: {'identical' if not wrong else 'DIFFERENT: %d plain, %d parsed, %d round trips' % (count['plain'], count['parsed'], count['trip'])}"
          + (f" ({count['text']} lines not compared)" if count["text"] else "") + (f", {count['sp']} with SentencePiece, too" if count["sp"] else ""), flush=True)
    return wrong


def expected_files(lib, model, path, name):
    """FILE.inp: texts between lines of __ggml_vocab_test__; FILE.out: their ids, a line each."""
    texts = open(path + ".inp", encoding="utf-8", newline="").read().split("\n__ggml_vocab_test__\n")
    wants = [[int(x) for x in line.split()] for line in open(path + ".out").read().split("\n")]
    wrong = 0
    for text, want in zip(texts, wants):
        got = lib.encode(model, text.encode(), False)
        if got != want:
            wrong += 1
            print("    ", repr(text)[:100], "\n       wanted", want[:24], "\n       got   ", got[:24])
    print(f"  {name:16} {'.out':5} {len(texts)} texts: {'identical' if not wrong else 'DIFFERENT: %d' % wrong}", flush=True)
    return wrong


def full(args):
    lib = Library(os.path.join(os.path.dirname(args.coterie) or ".", "libcoterie.so"))
    lines, corpus = full_lines(args.lines)
    os.makedirs(args.work, exist_ok=True)
    print(f"{len(lines)} lines, {sum(len(x or b'') for x in lines)} bytes, tokenizers {tk.__version__}")
    wrong = 0
    def both(v, routes=("json", "gguf")):
        bad = 0
        for route in routes:
            if route == "gguf" and not v.gguf:
                continue
            path = f"{args.work}/{v.name}" + (".gguf" if route == "gguf" else "")
            write_gguf(path, v.gguf) if route == "gguf" else write_folder(path, v)
            model = lib.open(path)
            try:
                bad += compare(lib, v, model, lines, route)
            finally:
                lib.c.cot_model_close(ctypes.byref(model))
        return bad
    if not args.no_trained:
        for v in all_vocabs(corpus, args.size, args.only):
            wrong += both(v)
    for path in args.gguf:
        try:
            name, g, v = read_gguf(path)
        except Exception as e:
            print("  ", path, "not read:", e)
            continue
        if args.only and name not in args.only:
            continue
        if g["model"] not in ("gpt2", "llama", "t5", "gemma4"):
            print(f"  {name:16} skipped: a {g['model']} vocabulary")
            continue
        if os.path.exists(path + ".inp"):
            write_gguf(f"{args.work}/{name}.gguf", g)
            try:
                model = lib.open(f"{args.work}/{name}.gguf")
                wrong += expected_files(lib, model, path, name)
                lib.c.cot_model_close(ctypes.byref(model))
            except RuntimeError as e:
                print("  ", e)
        if v:
            v.name = "file-" + name
            wrong += both(v)
        else:
            print(f"  {name:16} no tokenizer.json for model {g['model']}, pre {g['pre']}")
    print("all identical" if not wrong else f"{wrong} differences")
    return 1 if wrong else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", nargs="?")
    p.add_argument("--full", dest="coterie")
    p.add_argument("--lines", type=int, default=10000)
    p.add_argument("--size", type=int, default=16000)
    p.add_argument("--work", default="/tmp/coterie-tokenizers")
    p.add_argument("--gguf", nargs="*", default=[])
    p.add_argument("--only", nargs="*")
    p.add_argument("--no-trained", action="store_true")
    args = p.parse_args()
    if args.coterie:
        return full(args)
    if not args.out:
        p.error("OUT or --full COTERIE")
    write_small(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
