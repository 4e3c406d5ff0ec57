"""Own kernels for the processor, compiled from the C sources in kernels/ when they are first asked for.

For machines with AVX-512 bf16 and a C compiler: `kernels="native"`. They read weights about as fast as the memory
gives them and convert quantised ones on the way; where the processor has a matrix unit (AMX) they multiply by it.
The products of PyTorch (linear.py) are their twin in the tests.
"""

import ctypes
import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llavakit.core.errors import ConfigError
from llavakit.engine.compiled import load
from llavakit.engine.linear import GROUP, Format, Linear, quantize_int4, quantize_int8

PANEL = 32  # outputs that stand together
PAIRS = {1: torch.int16, 2: torch.int32}  # two numbers of so many bytes as one
WIDEST = 1024 * GROUP  # inputs of a product
TOGETHER = 4  # query heads that are attended together
FORMATS: dict[Format, int] = {"as_is": 0, "int8": 1, "int4": 2}
FLAGS = (
    "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-fno-math-errno",
    "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
)  # fmt: skip
KERNELS = Path(__file__).with_name("kernels")


class ProductStruct(ctypes.Structure):
    """`Product` of kernels/kernels.h."""

    _fields_ = [
        ("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64), ("outputs", ctypes.c_int64), ("format", ctypes.c_int64),
    ]  # fmt: skip


def missing() -> str | None:
    """What this machine lacks for native kernels, None: nothing."""
    try:
        _load()
    except ConfigError as error:
        return str(error)
    return None


def has_amx() -> bool:
    """Whether the kernels multiply by the processor's matrix unit; it is used wherever there is one."""
    return bool(library().uses_amx())


def library() -> Any:
    """The compiled kernels."""
    lack = missing()
    if lack is not None:
        raise ConfigError(f"kernels='native' needs {lack}; use kernels='torch'")
    return _load()


@functools.cache
def _load() -> Any:
    """The library with the types of its functions. The error says what is missing."""
    if platform.system() != "Linux":
        raise ConfigError("Linux")
    if platform.machine() != "x86_64" or not torch.cpu._is_avx512_bf16_supported():
        raise ConfigError("a processor with AVX-512 bf16")
    loaded: Any = load(KERNELS, FLAGS)
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    loaded.before_attention.argtypes = [pointer] * 5 + [size, pointer, size, number]
    loaded.after_attention.argtypes = [pointer] * 4 + [size, pointer, size, number]
    loaded.attend_step.argtypes = [
        pointer,
        size,
        pointer,
        *[size] * 3,
        ctypes.c_float,
        pointer,
        pointer,
        number,
    ]
    loaded.attend_prompts.argtypes = [
        pointer, *[size] * 3, pointer, *[size] * 3, ctypes.c_float, pointer, pointer, number,
    ]  # fmt: skip
    loaded.prompts_bytes.argtypes, loaded.prompts_bytes.restype = [size, size, size, number], size
    loaded.decode_step.argtypes = [
        pointer, size, *[pointer] * 4, size, size, ctypes.c_float, pointer, size, number,
    ]  # fmt: skip
    loaded.product.argtypes = [pointer] * 3 + [size, size, pointer, number]
    loaded.likeliest.argtypes = [pointer, size, size, pointer, number]
    loaded.norm.argtypes = [pointer, pointer, ctypes.c_float, pointer, size, size, number]
    loaded.use_amx.argtypes = [number]
    loaded.uses_amx.restype = number
    for function in (
        loaded.before_attention, loaded.after_attention, loaded.attend_step, loaded.attend_prompts,
        loaded.decode_step, loaded.product, loaded.norm, loaded.rest, loaded.likeliest,
        loaded.use_amx,
    ):  # fmt: skip
        function.restype = None
    loaded.use_amx(True)
    return loaded


def rest() -> None:
    """End the threads that helped the calling one: where another thread runs the kernels from here on, they would
    count as busy, and its helpers would go to sleep after every product."""
    library().rest()


def misfit(inputs: int) -> str | None:
    """What a product of so many inputs would have to be, None: it can run."""
    if inputs % GROUP == 0 and inputs <= WIDEST:
        return None
    return (
        f"products whose inputs are multiples of {GROUP} and at most {WIDEST:,}, and this decoder has one with "
        f"{inputs:,}"
    )


class Workspace:
    """Memory that the kernels write intermediate rows into; one for all layers, it grows and never shrinks."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def room(self, size: int) -> int:
        """The address of `size` bytes, on a border of 64."""
        if len(self._bytes) < size + 64:
            self._bytes = torch.empty(size + 64, dtype=torch.uint8)
        return -(-self._bytes.data_ptr() // 64) * 64


class SlotsStruct(ctypes.Structure):
    """`Slots` of kernels/kernels.h."""

    _fields_ = [
        ("table", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("layer_stride", "kind_stride", "slot_stride", "head_stride")),
        ("lengths", ctypes.c_void_p), ("slots", ctypes.c_int64), ("longest", ctypes.c_int64),
    ]  # fmt: skip


class NativeSlots:
    """The first N slots of a cache, which get a token each. The tensors stay where they are while this lives."""

    def __init__(self, kv_L2SHKD: Tensor, lengths_N: Tensor, longest: int) -> None:
        """`lengths_N`: positions that the slots hold, int64; `longest` of them. All on the CPU, keys in bf16."""
        self.kv_L2SHKD, self.lengths_N = kv_L2SHKD, lengths_N
        self.struct = SlotsStruct(
            kv_L2SHKD.data_ptr(), *kv_L2SHKD.stride()[:4], lengths_N.data_ptr(), len(lengths_N), longest
        )
        self.address = ctypes.addressof(self.struct)
        self.score_bytes = 4 * TOGETHER * (longest + 32)  # that a thread needs

    def attend(self, qkv_NXW: Tensor, layer: int, scaling: float, into_NHW: Tensor, work: Workspace) -> None:
        """Write each row's key and value, and fill `into_NHW` with what its queries gather."""
        _, heads, width = into_NHW.shape
        threads = torch.get_num_threads()
        library().attend_step(
            self.address, layer, qkv_NXW.data_ptr(), heads, self.kv_L2SHKD.shape[3], width, scaling,
            into_NHW.data_ptr(), work.room(threads * self.score_bytes), threads,
        )  # fmt: skip


@dataclass(frozen=True)
class PromptRows:
    """Rows `row..row + tokens` of a step, which go on with a slot.

    `kv_L2HKW` is the slot, which holds `start` positions; or `source_L2HKW` does, and they are copied from there.
    """

    kv_L2HKW: Tensor
    start: int
    tokens: int
    row: int
    source_L2HKW: Tensor | None = None


class PromptStruct(ctypes.Structure):
    """`Prompt` of kernels/kernels.h."""

    _fields_ = [
        ("slot", ctypes.c_void_p), ("source", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("layer_stride", "kind_stride", "head_stride")),
        *((f"source_{name}", ctypes.c_int64) for name in ("layer_stride", "kind_stride", "head_stride")),
        *((name, ctypes.c_int64) for name in ("start", "tokens", "row")),
    ]  # fmt: skip


class NativePrompts:
    """Rows of prompts; who begins like a slot stands behind its rows. The slots stay where they are meanwhile."""

    def __init__(self, prompts: Sequence[PromptRows]) -> None:
        self.prompts, self.structs = prompts, (PromptStruct * len(prompts))()
        for struct, prompt in zip(self.structs, prompts, strict=True):
            struct.slot, struct.start = prompt.kv_L2HKW.data_ptr(), prompt.start
            struct.tokens, struct.row = prompt.tokens, prompt.row
            struct.layer_stride, struct.kind_stride, struct.head_stride = prompt.kv_L2HKW.stride()[:3]
            source = prompt.source_L2HKW
            if source is not None:
                struct.source = source.data_ptr()
                struct.source_layer_stride, struct.source_kind_stride, struct.source_head_stride = (
                    source.stride()[:3]
                )
        self.longest = max((prompt.start + prompt.tokens for prompt in prompts), default=0)

    def attend(self, qkv_TXW: Tensor, layer: int, scaling: float, into_THW: Tensor, work: Workspace) -> None:
        """Write each row's key and value, and fill `into_THW` with what its queries gather. T: the step's rows."""
        if not self.prompts:
            return
        _, heads, width = into_THW.shape
        key_heads = self.prompts[0].kv_L2HKW.shape[2]
        native, threads = library(), torch.get_num_threads()
        room = native.prompts_bytes(self.longest, key_heads, width, threads)
        native.attend_prompts(
            ctypes.addressof(self.structs), len(self.prompts), self.longest, layer, qkv_TXW.data_ptr(), heads,
            key_heads, width, scaling, into_THW.data_ptr(), work.room(room), threads,
        )  # fmt: skip


def likeliest(scores_SV: Tensor) -> list[int]:
    """What the sampler's `likeliest` finds, in rows of bf16 that stand one behind the other."""
    tokens_S = torch.empty(len(scores_SV), dtype=torch.int64)
    library().likeliest(scores_SV.data_ptr(), *scores_SV.shape, tokens_S.data_ptr(), torch.get_num_threads())
    return tokens_S.tolist()


class NativeLinear(Linear):
    """Panels of bf16, int8 or int4 weights; rows of bf16."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, format: Format, work: Workspace) -> None:
        self.format, self.work, self.struct = format, work, ProductStruct()
        self.library, self.address = library(), ctypes.addressof(self.struct)
        super().__init__(weight_OI, bias_O)

    def _pack(self, weight_OI: Tensor) -> None:
        self.outputs, self.inputs = weight_OI.shape
        lack = misfit(self.inputs)
        if lack is not None:
            raise ConfigError(f"kernels='native' needs {lack}; use kernels='torch'")
        padded_OI = F.pad(weight_OI, (0, 0, 0, -self.outputs % PANEL))
        self.scale: Tensor | None = None
        if self.format == "int4":
            codes_OI, scale_ON, zero_ON = quantize_int4(padded_OI)
            self.panels = pack_nibbles(codes_OI)
            both = torch.stack((scale_ON, zero_ON), dim=-1).view(-1, PANEL, self.inputs // GROUP, 2)
            self.scale = both.permute(0, 2, 3, 1).to(torch.bfloat16).contiguous()
        elif self.format == "int8":
            codes_OI, scale_O = quantize_int8(padded_OI)
            self.panels, self.scale = pack(codes_OI), scale_O.float()
        else:
            self.panels = pack(padded_OI.to(torch.bfloat16))
        bias = None if self.bias_O is None else F.pad(self.bias_O.float(), (0, -self.outputs % PANEL))
        self._bias = bias  # kept alive: the struct has its address only
        self.struct.weight = self.panels.data_ptr()
        self.struct.scale = 0 if self.scale is None else self.scale.data_ptr()
        self.struct.bias = 0 if bias is None else bias.data_ptr()
        self.struct.inputs, self.struct.outputs = self.inputs, len(padded_OI)
        self.struct.format = FORMATS[self.format]
        self.scratch = (
            0 if self.format == "as_is" else 4 * PANEL * self.inputs
        )  # bytes a thread converts into

    def __call__(self, x_TI: Tensor) -> Tensor:
        x_TI = x_TI.contiguous()
        y_TO = torch.empty(len(x_TI), self.outputs, dtype=torch.bfloat16)
        threads = torch.get_num_threads()
        self.library.product(
            self.address, x_TI.data_ptr(), y_TO.data_ptr(), self.outputs, len(x_TI),
            self.work.room(threads * self.scratch), threads,
        )  # fmt: skip
        return y_TO


def pack(weight_OI: Tensor) -> Tensor:
    """[panel][pair of inputs][output][2], the order in which a product reads them."""
    outputs, inputs = weight_OI.shape
    # A pair moves as one number: a third to a half of the time.
    pairs_PON = weight_OI.contiguous().view(PAIRS[weight_OI.element_size()]).view(-1, PANEL, inputs // 2)
    panels_PNO = pairs_PON.transpose(1, 2).contiguous()
    return panels_PNO.view(weight_OI.dtype).view(outputs // PANEL, inputs // 2, PANEL, 2)


def pack_nibbles(codes_OI: Tensor) -> Tensor:
    """Four rows of 16 outputs by two inputs in a row of 16-bit words: see kernels/kernels.h."""
    outputs, inputs = codes_OI.shape
    rows = codes_OI.view(outputs // PANEL, 2, 16, inputs // 4, 2, 2).permute(0, 3, 4, 1, 2, 5)
    rows = rows.reshape(outputs // PANEL, inputs // 4, 4, PANEL)
    words = rows[:, :, 0] | rows[:, :, 1] << 4 | rows[:, :, 2] << 8 | rows[:, :, 3] << 12
    return words.to(torch.uint16)
