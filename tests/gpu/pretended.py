"""A pretended GPU: tensors that say `cuda:0` and keep their values in the memory of the CPU.

All of the product runs on it with real values. Operations whose tensors CUDA would refuse to mix raise
`OtherDevice`, and everything for which the host waits for the device is noted with its place in the package.
What it cannot show: kernels, their time and rounding, memory, graphs, and several streams.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

PACKAGE = str(Path(__file__).parents[2] / "revit_video") + "/"
GPU = torch.device("cuda", 0)
STAGED = 1 << 16  # bytes that a copy from pageable memory may have and still only be noted down by the driver


class OtherDevice(RuntimeError):
    """An operation on tensors of several devices, which CUDA refuses."""


class Wait(NamedTuple):
    """One time that the host waits for the device.

    Attributes:
        why: what for.
        stack: the functions of the package that are running, `train/loop.py fit`, innermost first.
    """

    why: str
    stack: tuple[str, ...]

    @property
    def stage(self) -> str:
        return _stage(self.stack)

    def within(self, function: str) -> bool:
        return any(each.split()[-1] == function for each in self.stack)

    def __str__(self) -> str:
        return f"{self.why}: {' < '.join(self.stack[:3]) or 'no function of the package'}"


waits: list[Wait] = []
steps: list[tuple[str, int]] = []  # after each optimiser step: the stage, and how often was waited so far
contexts: list[tuple[str, ...]] = []  # where a context of the GPU was asked for
_arriving: list[
    tuple[Tensor, Tensor]
] = []  # copies to the host that nothing has waited for: where to, values


def _wait(why: str) -> None:
    waits.append(Wait(why, _stack()))
    _arrive()


def _stack() -> tuple[str, ...]:
    stack, frame = [], sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            stack.append(f"{file.removeprefix(PACKAGE)} {frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(stack)


def _stage(stack: tuple[str, ...]) -> str:
    """The stage that is running: the name of the outermost file in stages/ that is not run.py."""
    own = [each for each in stack if each.startswith("stages/") and not each.startswith("stages/run.py")]
    return own[-1].removeprefix("stages/").partition(".py")[0] if own else ""


def _arrive() -> None:
    for target, values in _arriving:
        target.copy_(values)
    _arriving.clear()


class OnGpu(Tensor):
    """Says `cuda:0`; its values are those of `held`, a tensor of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=GPU,
        )
        made.held = real
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"OnGpu({tuple(self.shape)}, {self.dtype})"

    def __reduce_ex__(self, protocol: int) -> Any:
        _wait("copied to the host to be saved")
        return self.held.detach().clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = self.detach().clone().requires_grad_(self.requires_grad)
            copied._is_param = getattr(self, "_is_param", False)
            memo[id(self)] = copied
        return memo[id(self)]

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: OnGpu) -> None:
        Tensor.data.__set__(self, value)
        self.held = value.held

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        _wait("values are read (tolist)")
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def record_stream(self, stream: Any) -> None:
        pass


class Gpu(TorchDispatchMode):
    """Within this block, `device="cuda"` makes pretended tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not kwargs and OnGpu not in types:
            return func(*args)  # of the CPU alone
        return _run(func, args, kwargs or {})


@contextmanager
def gpu() -> Iterator[None]:
    """A block in which a GPU is there."""
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # torch.tensor(..., device="cuda") is made on the CPU and copied
    try:
        with Gpu():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


# ---- One operation ---------------------------------------------------------------------------------------

# Take values of the CPU beside those of the GPU, whatever their shape.
_COPIES = {"copy_", "_to_copy"}
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
# Wait for what the tags do not tell.
_WAITING = {"_linalg_check_errors", "equal", "is_nonzero", "multinomial", "_local_scalar_dense"}


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the real values; refuse what CUDA would, and note what waits."""
    leaves, form = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    space, _, name = func._schema.name.partition("::")
    device = kwargs.get("device")
    on_gpu = (
        any(isinstance(t, OnGpu) for t in tensors) if device is None else torch.device(device).type == "cuda"
    )
    if name == "_fused_sdp_choice" and on_gpu:
        return 0  # written out: kernels of attention show nothing of devices
    if space == "aten":
        _check(func, name, tensors, leaves, on_gpu)
        _note_waits(func, name, args, kwargs, on_gpu)

    wrapped: dict[int, OnGpu] = {}

    def real(leaf: Any) -> Any:
        if isinstance(leaf, OnGpu):
            wrapped[id(leaf.held)] = leaf
            return leaf.held
        return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == "cuda" else leaf

    host = {id(t) for t in tensors if not isinstance(t, OnGpu)}

    def on_device(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or id(leaf) in host:
            return leaf
        if id(leaf) in wrapped:
            return wrapped[id(leaf)]
        return OnGpu(leaf) if on_gpu else leaf

    real_args, real_kwargs = tree_unflatten([real(leaf) for leaf in leaves], form)
    pinned = real_kwargs.pop("pin_memory", False)
    result = tree_map(on_device, func(*real_args, **real_kwargs))
    if pinned and not on_gpu:
        _pin(result)
    if name == "_to_copy" and isinstance(args[0], OnGpu) and not on_gpu and kwargs.get("non_blocking"):
        _arriving.append((result, result.clone()))  # not there before something is waited for
        result.fill_(torch.nan if result.is_floating_point() else 0)
    for tensor in wrapped.values():
        assert tensor.shape == tensor.held.shape, f"{func} resized a pretended tensor"
    return result


def _check(func: Any, name: str, tensors: list[Tensor], leaves: list[Any], on_gpu: bool) -> None:
    """OtherDevice where CUDA would refuse the operation."""
    for leaf in leaves:
        if on_gpu and isinstance(leaf, torch._C.Generator):  # those of the GPU are not told apart
            raise OtherDevice(f"{func}: a generator of the CPU for a tensor of the GPU")
    ours = [t for t in tensors if isinstance(t, OnGpu)]
    theirs = [t for t in tensors if not isinstance(t, OnGpu)]
    if not ours or not theirs or name in _COPIES:
        return
    if name in _INDEXING and isinstance(tensors[0], OnGpu):
        return
    # An operation on each element takes numbers from the CPU, as tensors without axes too.
    by_element = torch.Tag.pointwise in func.tags or name.startswith("_foreach") or name in ("fill_", "fill")
    if by_element and all(t.dim() == 0 for t in theirs):
        return
    raise OtherDevice(f"{func}: tensors of the CPU {[tuple(t.shape) for t in theirs]} among those of the GPU")


def _note_waits(func: Any, name: str, args: Any, kwargs: dict[str, Any], on_gpu: bool) -> None:
    source = args[0] if args else None
    if name == "_to_copy":
        if isinstance(source, OnGpu) and not on_gpu and not kwargs.get("non_blocking"):
            _wait("copied to the host")
        elif not isinstance(source, OnGpu) and on_gpu:
            _note_upload(source, bool(kwargs.get("non_blocking")))
    elif name == "copy_":
        non_blocking = bool(args[2]) if len(args) > 2 else bool(kwargs.get("non_blocking"))
        if isinstance(source, OnGpu) and not isinstance(args[1], OnGpu):
            _note_upload(args[1], non_blocking)
        elif isinstance(args[1], OnGpu) and not isinstance(source, OnGpu):
            assert not non_blocking, "not pretended yet: copy_ to the host without waiting"
            _wait("copied to the host")
    elif name in _INDEXING and isinstance(source, OnGpu):
        for index in (each for each in args[1] if each is not None):
            if index.dtype in (torch.bool, torch.uint8):
                _wait("indexed by a mask, whose size is unknown")
            elif not isinstance(index, OnGpu):
                _wait("indexed by a tensor of the CPU")
    elif isinstance(source, OnGpu) and (name in _WAITING or _depends_on_values(func)):
        _wait(f"values are read ({name})")


def _depends_on_values(func: Any) -> bool:
    return torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags


def _note_upload(source: Tensor, non_blocking: bool) -> None:
    if not non_blocking:
        _wait("copied to the device")
    elif not source.is_pinned() and source.nbytes > STAGED:
        _wait("copied to the device from pageable memory")


def _pin(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().is_page_locked = True
    return tensor


# ---- torch.cuda ------------------------------------------------------------------------------------------


class _Generator(torch._C.Generator):
    """All draw on the CPU."""

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        return super().__new__(cls, device="cpu")


class _Event:
    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    wait = record

    def query(self) -> bool:
        _arrive()
        return True

    def synchronize(self) -> None:
        _wait("an event")

    def elapsed_time(self, end: _Event) -> float:
        return 1.0


class _Stream:
    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self.device = GPU

    def wait_stream(self, stream: Any) -> None:
        pass

    wait_event = wait_stream

    def record_event(self, event: Any = None) -> _Event:
        return event or _Event()

    def synchronize(self) -> None:
        _wait("a stream")


@cache
def install(driver: str, count: int) -> None:
    """Pretend `count` GPUs in this process, into which `driver` was loaded before libtorch."""
    ctypes.CDLL(driver).guard_one_gpu()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    cuda = torch.cuda
    told = SimpleNamespace(
        name="pretended", major=9, minor=0, total_memory=80 << 30, multi_processor_count=132, warp_size=32
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": count,
        "current_device": 0,
        "is_initialized": False,  # so that seeds are only noted down
        "get_device_name": told.name,
        "get_device_capability": (told.major, told.minor),
        "get_device_properties": told,
        "is_bf16_supported": True,
        "mem_get_info": (told.total_memory, told.total_memory),
        "max_memory_allocated": 0,
        "memory_allocated": 0,
        "is_current_stream_capturing": False,
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, _answer=answer, **__: _answer)
    for name in (
        "reset_peak_memory_stats",
        "empty_cache",
        "manual_seed",
        "manual_seed_all",
    ):
        setattr(cuda, name, lambda *_, **__: None)
    for name in ("_lazy_init", "set_device"):
        setattr(cuda, name, lambda *_, **__: contexts.append(_stack()))
    for name in ("_cuda_getDevice", "_cuda_exchangeDevice", "_cuda_maybeExchangeDevice", "_cuda_setDevice"):
        setattr(torch._C, name, lambda *_: 0)
    for place in (cuda, cuda.random):
        place.get_rng_state = lambda *_: torch.get_rng_state()
        place.set_rng_state = lambda state, *_: torch.set_rng_state(state)
    cuda.synchronize = lambda *_: _wait("torch.cuda.synchronize")
    cuda.Event, cuda.Stream, cuda.stream = _Event, _Stream, lambda stream: nullcontext()
    cuda.current_stream = cuda.default_stream = lambda *_: _Stream()
    Tensor.pin_memory = lambda self, *_: _pin(self.clone())
    Tensor.is_pinned = lambda self, *_: getattr(self.untyped_storage(), "is_page_locked", False)
    # Tensors of inference mode cannot be wrapped; of devices it says nothing more than no_grad.
    torch.inference_mode.__enter__ = lambda self: (
        setattr(self, "_off", torch.no_grad()) or self._off.__enter__()
    )
    torch.inference_mode.__exit__ = lambda self, *error: self._off.__exit__(*error)
    torch.Generator = _Generator
    optimizers._foreach_supported_types.append(OnGpu)
    optimizers.register_optimizer_step_post_hook(lambda *_: steps.append((_stage(_stack()), len(waits))))
    join = dist.init_process_group

    def joined(backend: str, **how: Any) -> None:
        assert backend == "cpu:gloo,cuda:nccl", backend
        join("cpu:gloo,cuda:gloo", **how)

    dist.init_process_group = joined
