"""Coterie from Python: load a model, generate, and read what every router decided. A thin layer over libcoterie.

    import coterie

    with coterie.Model("model.gguf") as model, model.session() as session:
        session.observe(lambda route: print(route.layer, route.experts(0)))
        print(session.generate("The old lighthouse keeper", max_tokens=40).text)

The library is found by the environment variable COTERIE_LIBRARY, else by the system's loader. Every failure raises
coterie.Error with the library's one-line message and its status name. Objects are used by one thread at a time; a
model may be shared by the sessions of several threads.
"""
import ctypes as c
import ctypes.util
import json
import os
import weakref
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

__all__ = ["Error", "Model", "Session", "Route", "Generation", "version"]


class Error(RuntimeError):
    """A call that failed. `status` is the name of the code ("FORMAT"), `file` and `field` say where, when known."""

    def __init__(self, err: "_Error"):
        super().__init__(err.message.decode("utf-8", "replace"))
        self.status = _lib.cot_status_name(err.status).decode()
        self.file, self.field = err.file.decode("utf-8", "replace"), err.field.decode("utf-8", "replace")


# ---- the C interface: include/coterie/*.h -----------------------------------------------------------------------------


class _Error(c.Structure):
    _fields_ = [("status", c.c_int), ("message", c.c_char * 768), ("file", c.c_char * 256), ("field", c.c_char * 128)]


_TEXT = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.POINTER(c.c_char), c.c_size_t, c.c_int32)
_LOGITS = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.c_size_t, c.POINTER(c.c_float), c.c_int64)
_PROGRESS = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.c_char_p, c.c_uint64, c.c_uint64)


class _Route(c.Structure):
    _fields_ = [(n, c.c_int32) for n in ("site", "layer", "bank", "n_experts", "n_units")] + [
        (n, c.POINTER(c.c_int32)) for n in ("sequence", "position", "first", "ids")] + [
        ("weights", c.POINTER(c.c_float)), ("flags", c.POINTER(c.c_uint8))]


_ROUTE = c.CFUNCTYPE(None, c.c_void_p, c.POINTER(_Route))


class _ModelOptions(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("arch_file", c.c_char_p), ("residency", c.c_int), ("progress", _PROGRESS),
                ("progress_user", c.c_void_p), ("memory", c.c_uint64), ("retention", c.c_char_p), ("predict", c.c_char_p),
                ("experts_lossy", c.c_char_p), ("repack", c.c_bool), ("sim_latency", c.c_double), ("sim_bandwidth", c.c_double),
                ("beside", c.c_void_p)]


class _ModelInfo(c.Structure):
    _fields_ = [("struct_size", c.c_size_t)] + [(n, c.c_char_p) for n in ("path", "arch", "description", "format")] + [
        (n, c.c_int64) for n in ("n_layers", "n_embd", "n_vocab", "n_ctx_train", "n_heads", "n_kv_heads", "head_dim", "n_sites",
                                 "n_experts", "n_experts_used")] + [
        (n, c.c_uint64) for n in ("params_total", "params_active", "bytes_total", "bytes_experts", "bytes_attention",
                                  "bytes_embedding", "bytes_other", "bytes_idle", "bytes_per_token", "kv_bytes_per_token_f16")] + [
        ("has_tokenizer", c.c_bool), ("has_chat_template", c.c_bool)]


class _SessionOptions(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("n_ctx", c.c_int32), ("n_sequences", c.c_int32), ("n_threads", c.c_int32),
                ("chunk", c.c_int32), ("kv_type", c.c_int), ("activation", c.c_int), ("experts_used", c.c_int32)]


class _Row(c.Structure):
    _fields_ = [("token", c.c_int32), ("sequence", c.c_int32), ("role", c.c_int), ("wants_logits", c.c_bool)]


class _Bias(c.Structure):
    _fields_ = [("token", c.c_int32), ("bias", c.c_float)]


class _Sample(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("temperature", c.c_float), ("top_k", c.c_int32)] + [
        (n, c.c_float) for n in ("top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty", "presence_penalty")] + [
        ("penalty_window", c.c_int32), ("seed", c.c_uint64), ("bias", c.POINTER(_Bias)), ("n_bias", c.c_size_t)]


class _GenerateOptions(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("max_tokens", c.c_int32), ("sample", _Sample), ("stop", c.POINTER(c.c_char_p)),
                ("n_stop", c.c_size_t), ("ignore_end", c.c_bool), ("beams", c.c_int32), ("beam_groups", c.c_int32),
                ("diversity", c.c_float), ("length_penalty", c.c_float), ("draft", c.c_int32),
                ("progress", _PROGRESS), ("progress_user", c.c_void_p)]


class _Result(c.Structure):
    _fields_ = [("prompt_tokens", c.c_int32), ("generated_tokens", c.c_int32), ("drafted", c.c_int32), ("accepted", c.c_int32), ("prompt_seconds", c.c_double),
                ("generate_seconds", c.c_double), ("stop", c.c_int)]


def _load() -> c.CDLL:
    name = os.environ.get("COTERIE_LIBRARY") or ctypes.util.find_library("coterie") or "libcoterie.so.0"
    try:
        lib = c.CDLL(name)
    except OSError as e:
        raise ImportError(f"libcoterie was not found ({e}); install it (`make install`) or set COTERIE_LIBRARY") from None
    p, size, err = c.c_void_p, c.c_size_t, c.POINTER(_Error)
    for name, result, arguments in (
        ("cot_version", c.c_char_p, []), ("cot_status_name", c.c_char_p, [c.c_int]), ("cot_free", None, [p]),
        ("cot_model_defaults", None, [c.POINTER(_ModelOptions)]), ("cot_model_open", c.c_int, [c.POINTER(p), c.c_char_p, c.POINTER(_ModelOptions), err]),
        ("cot_model_close", None, [c.POINTER(p)]), ("cot_model_get_info", None, [p, c.POINTER(_ModelInfo)]),
        ("cot_model_describe", c.c_int, [p, c.POINTER(p), err]),
        ("cot_tokenize", c.c_int, [p, c.c_char_p, size, c.c_bool, c.c_bool, c.POINTER(c.POINTER(c.c_int32)), c.POINTER(size), err]),
        ("cot_detokenize", c.c_int, [p, c.POINTER(c.c_int32), size, c.c_bool, c.POINTER(p), c.POINTER(size), err]),
        ("cot_chat_render", c.c_int, [p, c.c_char_p, c.c_bool, c.POINTER(p), c.POINTER(size), err]),
        ("cot_token_is_end", c.c_bool, [p, c.c_int32]), ("cot_session_defaults", None, [c.POINTER(_SessionOptions)]),
        ("cot_session_create", c.c_int, [c.POINTER(p), p, c.POINTER(_SessionOptions), err]), ("cot_session_free", None, [c.POINTER(p)]),
        ("cot_session_ctx", c.c_int32, [p]), ("cot_session_observe", None, [p, _ROUTE, p]),
        ("cot_forward", c.c_int, [p, c.POINTER(_Row), size, _LOGITS, p, err]), ("cot_sequence_length", c.c_int32, [p, c.c_int32]),
        ("cot_sequence_cut", c.c_int, [p, c.c_int32, c.c_int32, err]), ("cot_sequence_copy", c.c_int, [p, c.c_int32, c.c_int32, err]),
        ("cot_sequence_save", c.c_int, [p, c.c_int32, c.c_char_p, err]), ("cot_sequence_load", c.c_int, [p, c.c_int32, c.c_char_p, err]),
        ("cot_generate_defaults", None, [c.POINTER(_GenerateOptions)]),
        ("cot_generate", c.c_int, [p, c.POINTER(c.c_int32), size, c.POINTER(_GenerateOptions), _TEXT, p, c.POINTER(_Result), err]),
    ):
        f = getattr(lib, name)
        f.restype, f.argtypes = result, arguments
    return lib


_lib = _load()
_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_STOPS = ("end", "string", "length", "context", "cancelled")


def _call(name: str, *arguments) -> None:
    err = _Error()
    if getattr(_lib, name)(*arguments, c.byref(err)) != 0:
        raise Error(err)


def _taken(p: c.c_void_p, n: int) -> bytes:
    """The bytes of a result, which is then given back to the library."""
    try:
        return c.string_at(p.value, n)
    finally:
        _lib.cot_free(p)


def version() -> str:
    return _lib.cot_version().decode()


# ---- the Python side --------------------------------------------------------------------------------------------------


class Route:
    """What one router decided for the rows of one pass, copied, so that it may be kept."""

    def __init__(self, r: _Route):
        self.site, self.layer, self.bank, self.n_experts, self.n_rows = r.site, r.layer, r.bank, r.n_experts, r.n_units
        self.sequence, self.position = r.sequence[: r.n_units], r.position[: r.n_units]
        self.first = r.first[: r.n_units + 1]
        n = self.first[-1]
        self.ids, self.weights, self.flags = r.ids[:n], r.weights[:n], bytes(r.flags[:n])

    def experts(self, row: int) -> List[Tuple[int, float]]:
        """(expert, weight) of a row of the pass, in ascending expert."""
        return list(zip(self.ids[self.first[row] : self.first[row + 1]], self.weights[self.first[row] : self.first[row + 1]]))


class Generation(NamedTuple):
    text: str
    tokens: List[int]
    prompt_tokens: int
    prompt_seconds: float
    generate_seconds: float
    stop: str  # "end", "string", "length", "context" or "cancelled"


class _Handle:
    _p: c.c_void_p
    _free: str

    def close(self) -> None:
        """Frees it; more than once is allowed."""
        if self._p:
            getattr(_lib, self._free)(c.byref(self._p))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_p", None):
            self.close()

    def _need(self) -> c.c_void_p:
        if not self._p:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._p


class Model(_Handle):
    """An open model: a GGUF file, the first part of a split, or a Hugging Face folder. `arch` names a description of your
    own; residency is "mmap" or "memory"."""

    _free = "cot_model_close"

    def __init__(self, path: Union[str, os.PathLike], arch: Optional[str] = None, residency: str = "mmap"):
        self._p, o, self._sessions = c.c_void_p(), _ModelOptions(), weakref.WeakSet()
        _lib.cot_model_defaults(c.byref(o))
        o.arch_file = os.fsencode(arch) if arch else None
        o.residency = {"auto": 0, "mmap": 1, "memory": 2}[residency]
        _call("cot_model_open", c.byref(self._p), os.fsencode(path), c.byref(o))

    def close(self) -> None:
        """Frees the model and the sessions that are still open over it."""
        for session in list(self._sessions):
            session.close()
        super().close()

    @property
    def info(self) -> dict:
        """What the model is: layers, widths, experts, bytes by part. Keys are those of cot_model_info."""
        i = _ModelInfo(struct_size=c.sizeof(_ModelInfo))
        _lib.cot_model_get_info(self._need(), c.byref(i))
        values = ((n, getattr(i, n)) for n, _ in _ModelInfo._fields_[1:])
        return {n: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for n, v in values}

    def describe(self) -> dict:
        """The filled description: parameters and the steps of each layer."""
        p = c.c_void_p()
        _call("cot_model_describe", self._need(), c.byref(p))
        text = c.string_at(p.value)
        _lib.cot_free(p)
        return json.loads(text)

    def tokenize(self, text: Union[str, bytes], add_special: bool = True, parse_special: bool = False) -> List[int]:
        """Text to ids; special tokens in the text are parsed only when asked for."""
        data = text.encode() if isinstance(text, str) else text
        ids, n = c.POINTER(c.c_int32)(), c.c_size_t()
        _call("cot_tokenize", self._need(), data, len(data), add_special, parse_special, c.byref(ids), c.byref(n))
        try:
            return ids[: n.value]
        finally:
            _lib.cot_free(c.cast(ids, c.c_void_p))

    def detokenize(self, ids: Sequence[int], special: bool = False) -> bytes:
        """Ids to bytes, which need not be whole characters."""
        p, n = c.c_void_p(), c.c_size_t()
        _call("cot_detokenize", self._need(), (c.c_int32 * len(ids))(*ids), len(ids), special, c.byref(p), c.byref(n))
        return _taken(p, n.value)

    def chat(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """Messages ({"role", "content"}) as the model's chat template writes them."""
        p, n = c.c_void_p(), c.c_size_t()
        _call("cot_chat_render", self._need(), json.dumps(list(messages)).encode(), add_generation_prompt, c.byref(p), c.byref(n))
        return _taken(p, n.value).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        return _lib.cot_token_is_end(self._need(), token)

    def session(self, **options) -> "Session":
        return Session(self, **options)


class Session(_Handle):
    """Sequences over a model. Options: ctx, sequences, threads, chunk, kv ("f16", "q8_0", "f32"), f32_activations,
    experts_used; 0 or None leaves the default."""

    _free = "cot_session_free"

    def __init__(self, model: Model, ctx: int = 0, sequences: int = 1, threads: int = 0, chunk: int = 0, kv: str = "f16",
                 f32_activations: bool = False, experts_used: int = 0):
        self._p, self.model, o = c.c_void_p(), model, _SessionOptions()
        self._observer, self._failure = _ROUTE(), None
        _lib.cot_session_defaults(c.byref(o))
        o.n_ctx, o.n_sequences, o.n_threads, o.experts_used = ctx, sequences, threads, experts_used
        o.chunk, o.kv_type, o.activation = chunk or o.chunk, _TYPES[kv], int(f32_activations)
        _call("cot_session_create", c.byref(self._p), model._need(), c.byref(o))
        model._sessions.add(self)

    def _raise(self) -> None:
        """An exception of the user's function, kept while C code was on the stack."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def observe(self, fn: Optional[Callable[[Route], None]]) -> None:
        """fn is called with the Route of every router of every pass; None switches off."""

        def call(_, route):
            try:
                fn(Route(route.contents))
            except BaseException as e:  # must not cross the C frames
                self._failure = self._failure or e

        observer = _ROUTE(call) if fn else _ROUTE()
        _lib.cot_session_observe(self._need(), observer, None)
        self._observer = observer

    def forward(self, tokens: Iterable[int], sequence: int = 0, logits: str = "last") -> List[memoryview]:
        """Appends tokens to a sequence; gives the logits of "last", "all" or "none" of them, each a memoryview of floats
        (numpy.asarray takes it as it is)."""
        ids, out = list(tokens), []
        rows = (_Row * len(ids))(*((t, sequence, 0, logits == "all" or (logits == "last" and i + 1 == len(ids))) for i, t in enumerate(ids)))

        def take(_, row, values, n):
            out.append(memoryview(bytearray(c.string_at(values, n * 4))).cast("f"))
            return True

        _call("cot_forward", self._need(), rows, len(ids), _LOGITS(take), None)
        self._raise()
        return out

    def generate(self, prompt: Union[str, Sequence[int]], max_tokens: int = -1, on_text: Optional[Callable[[str], object]] = None,
                 stop: Sequence[str] = (), logit_bias: Optional[dict] = None, ignore_end: bool = False, beams: int = 1,
                 beam_groups: int = 1, diversity: float = 0.0, length_penalty: Optional[float] = None, draft: int = 0, **sample) -> Generation:
        """Continues sequence 0 with a prompt (text or ids) and what the model writes then. on_text gets the text as it comes
        and stops the generation by returning False. draft: tokens guessed ahead, 0 to 16; the text stays the same. Further options are those of sampling: temperature, top_k, top_p, min_p,
        typical_p, repetition_penalty, frequency_penalty, presence_penalty, penalty_window, seed."""
        ids = self.model.tokenize(prompt) if isinstance(prompt, (str, bytes)) else list(prompt)
        o, result, text, tokens = _GenerateOptions(), _Result(), [], []
        _lib.cot_generate_defaults(c.byref(o))
        for name, value in sample.items():
            if name not in (n for n, _ in _Sample._fields_[1:-2]):
                raise TypeError(f"generate() has no option {name}")
            setattr(o.sample, name, value)
        bias = (_Bias * len(logit_bias or {}))(*(logit_bias or {}).items())
        stops = (c.c_char_p * len(stop))(*(s.encode() for s in stop))
        o.max_tokens, o.ignore_end, o.beams, o.beam_groups, o.diversity = max_tokens, ignore_end, beams, beam_groups, diversity
        o.draft = draft
        o.length_penalty = o.length_penalty if length_penalty is None else length_penalty
        o.sample.bias, o.sample.n_bias, o.stop, o.n_stop = bias, len(bias), stops, len(stops)

        def take(_, data, n, token):
            try:
                piece = c.string_at(data, n).decode("utf-8", "replace") if n else ""
                text.append(piece)
                if token >= 0:
                    tokens.append(token)
                return (not on_text or not piece or on_text(piece) is not False) and not self._failure
            except BaseException as e:
                self._failure = self._failure or e
                return False

        _call("cot_generate", self._need(), (c.c_int32 * len(ids))(*ids), len(ids), c.byref(o), _TEXT(take), None, c.byref(result))
        self._raise()
        return Generation("".join(text), tokens, result.prompt_tokens, result.prompt_seconds, result.generate_seconds, _STOPS[result.stop])

    def length(self, sequence: int = 0) -> int:
        return _lib.cot_sequence_length(self._need(), sequence)

    def cut(self, n: int = 0, sequence: int = 0) -> None:
        """Forgets all but the first n positions."""
        _call("cot_sequence_cut", self._need(), sequence, n)

    def copy(self, source: int, target: int) -> None:
        _call("cot_sequence_copy", self._need(), source, target)

    def save(self, path: Union[str, os.PathLike], sequence: int = 0) -> None:
        _call("cot_sequence_save", self._need(), sequence, os.fsencode(path))

    def load(self, path: Union[str, os.PathLike], sequence: int = 0) -> None:
        _call("cot_sequence_load", self._need(), sequence, os.fsencode(path))
