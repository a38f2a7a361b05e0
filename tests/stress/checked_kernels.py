"""Kernels run as Python, on memory that raises IndexError where compiled code would read or write anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


class Strict:
    """An array as kernels use it; it raises IndexError for every index outside of it."""

    def __init__(self, content: bytes | list[int]) -> None:
        self.content: Any = bytearray(content) if isinstance(content, bytes) else content
        self.ctypes = SimpleNamespace(data=Address(self, 0))

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, at: int | slice) -> Any:
        return self.content[self._checked(at)]

    def __setitem__(self, at: int | slice, value: Any) -> None:
        if isinstance(at, slice) and at.stop - at.start != len(value):
            raise IndexError(f"{len(value)} values for {at}")
        self.content[self._checked(at)] = value

    def _checked(self, at: int | slice) -> int | slice:
        first, last = (at.start, at.stop) if isinstance(at, slice) else (at, at + 1)
        if not 0 <= first <= last <= len(self.content):
            raise IndexError(f"{at} of {len(self.content)}")
        return at


@dataclass(frozen=True)
class Address:
    """A place in a Strict."""

    array: Strict
    at: int

    def __add__(self, count: int) -> Address:
        return Address(self.array, self.at + count)


def copied(source: Address, target: Address, count: int) -> None:
    """``lanes.copy_bytes``."""
    target.array[target.at : target.at + count] = source.array[source.at : source.at + count]


def python_form(module: ModuleType, **others: Any) -> SimpleNamespace:
    """The kernels of a module as plain functions that call each other, with some of its names bound to something else."""
    namespace = dict(vars(module))
    for name, value in vars(module).items():
        if hasattr(value, "py_func"):
            namespace[name] = FunctionType(value.py_func.__code__, namespace, name)
    namespace.update(others)
    return SimpleNamespace(**namespace)
