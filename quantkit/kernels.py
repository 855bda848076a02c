"""Functions compiled once by numba; later processes load their machine code without numba.

numba caches compiled code between processes too, but a lookup imports numba, scipy.linalg and cffi: 0.7 s of processor
time, more than the rest of a command on a small model. Here numba compiles a function to LLVM IR, LLVM generates the
machine code, which is cached in a file, and ctypes calls it. Later processes import LLVM only.

A kernel is a function of pointers and numbers: arrays are passed as pointers, their sizes as numbers. It must not
allocate or raise, so its arguments are checked by the caller. The GIL is released while it runs.

The file name is a digest of everything that the machine code depends on: the function, the functions and constants it
refers to, the processor, and the versions of Python and LLVM. The file is in ``__pycache__`` of the package, or in the
user's cache folder if the package is read-only.
"""

import contextlib
import ctypes
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from quantkit.errors import OutputError
from quantkit.files import replacing, user_cache_folder

_C_TYPES: Mapping[str, Any] = {
    "void": None,
    "uint32": ctypes.c_uint32,
    "int32": ctypes.c_int32,
    "int64": ctypes.c_int64,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class Inlined:
    """A function that kernels call; see `inlined`."""

    function: FunctionType


def inlined(function: Callable[..., Any]) -> Any:
    """Mark a function as part of the kernels of its module that call it."""
    assert isinstance(function, FunctionType)
    return Inlined(function)


@dataclass(eq=False)
class Kernel:
    """A compiled function; see `kernel`.

    Attributes:
        function: the Python function, with the same arguments.
        result: type of the result.
        arguments: types of the arguments; pointers end in ``*``.
        fastmath: relaxations of the arithmetic, numba's names.
        names: returns global names of the function that need numba, by name; called before compilation.
    """

    function: FunctionType
    result: str
    arguments: tuple[str, ...]
    fastmath: frozenset[str] = frozenset()
    names: Callable[[], Mapping[str, Any]] | None = None
    _native: Callable[..., Any] | None = field(default=None, init=False)
    _native_at: Callable[..., Any] | None = field(default=None, init=False)
    _engine: Any = field(default=None, init=False)  # owns the machine code
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __call__(self, *arguments: Any) -> Any:
        """Run the machine code; arrays must have the declared types and be contiguous.

        Raises:
            ctypes.ArgumentError: an argument has another type.
        """
        if self._native is None:
            self._load()
        return self._native(*arguments)  # type: ignore[misc]

    def at(self, *arguments: Any) -> Any:
        """Run the machine code on addresses (see `address`) in place of arrays: faster by microseconds, unchecked."""
        if self._native_at is None:
            self._load()
        return self._native_at(*arguments)  # type: ignore[misc]

    def _load(self) -> None:
        with self._lock:
            if self._native is None:
                code, result = self._code(), _C_TYPES[self.result]
                pointers = [ctypes.c_void_p if name.endswith("*") else _C_TYPES[name] for name in self.arguments]
                self._native_at = ctypes.CFUNCTYPE(result, *pointers)(code)
                self._native = ctypes.CFUNCTYPE(result, *map(_c_type, self.arguments))(code)

    def _code(self) -> int:
        """Return the address of the machine code."""
        name = self.function.__name__
        path = f"{self.function.__module__.rpartition('.')[2]}.{name}-{self._key()}.o"
        machine, code = _target_machine(), _read(path)
        if code is None:
            compiled = self._compiled()
            code = _object_code(compiled, name, machine)
            if code is None:  # slower to start, with the same results
                self._engine = compiled
                return int(compiled.address)
            _keep(path, code)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        return int(self._engine.get_function_address(name))

    def _compiled(self) -> Any:
        """Return the function as numba compiles it."""
        import numba  # takes 0.7 s, and is needed only if no machine code is cached

        def numba_type(name: str) -> Any:
            types: Any = numba.types
            plain = getattr(types, name.removesuffix("*"))
            return types.CPointer(plain) if name.endswith("*") else plain

        names = dict(self.function.__globals__) | dict(self.names() if self.names is not None else {})
        for name, value in names.items():
            if isinstance(value, Inlined):
                names[name] = numba.njit(FunctionType(value.function.__code__, names, value.function.__name__))
        function = FunctionType(self.function.__code__, names, self.function.__name__)
        signature = numba_type(self.result)(*map(numba_type, self.arguments))
        return numba.cfunc(signature, error_model="numpy", fastmath=set(self.fastmath))(function)

    def _key(self) -> str:
        """Return a digest of everything that the machine code depends on."""
        parts = (
            *_meaning(self.function),
            *(_meaning(self.names) if isinstance(self.names, FunctionType) else ()),
            self.result,
            *self.arguments,
            *sorted(self.fastmath),
            sys.version,
            llvmlite.__version__,
            llvm.get_process_triple(),
            llvm.get_host_cpu_name(),
            llvm.get_host_cpu_features().flatten(),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _object_code(compiled: Any, name: str, machine: Any) -> bytes | None:
    """Return the machine code of a function compiled by numba, under a name of its own.

    None if it needs numba at run time, because it allocates or raises, or if this llvmlite has other passes.
    """
    module = llvm.parse_assembly(compiled.inspect_llvm())
    # The code that reports exceptions needs numba; it is unreachable, and removed, if the function raises none.
    for one in module.functions:
        if not one.is_declaration and one.name != compiled.native_name:
            one.linkage = "internal"
    module.get_function(compiled.native_name).name = name
    try:
        passes = llvm.create_new_module_pass_manager()
        passes.add_ipsccp_pass()
        passes.add_simplify_cfg_pass()
        passes.add_global_dead_code_eliminate_pass()
        passes.add_strip_dead_prototype_pass()
        passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    except AttributeError:
        return None
    if any(one.is_declaration and not one.name.startswith("llvm.") for one in module.functions):
        return None
    code: bytes = machine.emit_object(module)
    return code


def kernel(
    result: str,
    *arguments: str,
    fastmath: frozenset[str] = frozenset(),
    names: Callable[[], Mapping[str, Any]] | None = None,
) -> Callable[[Callable[..., Any]], Kernel]:
    """Return a decorator that makes a function a `Kernel`.

    Args:
        result: type of the result, such as ``float64``; ``void`` for none.
        arguments: types of the arguments; ``float64*`` is an array of them.
        fastmath: relaxations of the arithmetic, numba's names.
        names: returns global names of the function that need numba, by name; called before compilation.
    """

    def decorate(function: Callable[..., Any]) -> Kernel:
        assert isinstance(function, FunctionType)
        return Kernel(function, result, arguments, fastmath, names)

    return decorate


def _meaning(function: FunctionType) -> Iterator[str]:
    """Yield the code of a function, and the constants and functions it refers to."""
    yield from _code(function.__code__)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Inlined):
            yield from _meaning(value.function)
        elif isinstance(value, int | float | np.generic):
            yield f"{name} {type(value).__name__} {value!r}"


def _code(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)


def address(array: npt.NDArray[Any]) -> int:
    """Return the address of a contiguous array."""
    if not array.flags.c_contiguous:
        raise TypeError("the array is not contiguous")
    if array.flags.writeable and array.size:  # twice as fast
        buffer: Any = array
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return int(array.__array_interface__["data"][0])


def _c_type(name: str) -> Any:
    if not name.endswith("*"):
        return _C_TYPES[name]
    dtype = np.dtype(name.removesuffix("*"))

    class Pointer:
        """Takes an array as the address of its first value."""

        @classmethod
        def from_param(cls, array: npt.NDArray[Any]) -> ctypes.c_void_p:
            if array.dtype != dtype:
                raise TypeError(f"an array of {dtype} is needed, not {array.dtype}")
            return ctypes.c_void_p(address(array))

    return Pointer


def _target_machine() -> Any:
    """Return a code generator for this processor; each engine owns one."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, jit=True
    )


def _folders() -> tuple[Path, Path]:
    return Path(__file__).parent / "__pycache__", user_cache_folder() / "kernels"


def _read(name: str) -> bytes | None:
    """Return cached machine code; None if there is none, or it is damaged."""
    for folder in _folders():
        with contextlib.suppress(OSError):
            content = (folder / name).read_bytes()
            code = content[_DIGEST_BYTES:]
            if hashlib.sha256(code).digest() == content[:_DIGEST_BYTES]:
                return code
    return None


def _keep(name: str, code: bytes) -> None:
    """Cache machine code in the first writable folder; without one, each process compiles."""
    for folder in _folders():
        with contextlib.suppress(OutputError), replacing(folder / name, durable=False) as temporary:
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
            return
