"""What a target is: in the file, in a batch, and what each task asks of it.

Without torch, so that the doctor and the packer can import it.  What is learned from a target is in engine/tasks.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .columns import ARRAYS, FLOAT_TYPE, INT_TYPE, ColumnType, array_type

if TYPE_CHECKING:
    from .reader import Beton


@dataclass(frozen=True)
class TargetField:
    """How the targets of one of FFCV's field types are stored and handed out.

    name: in messages and in a sidecar.
    stored: in the file.
    dtype: in the host buffer and on the device.
    shape: of one target there; () for a number.
    """

    name: str
    stored: ColumnType
    dtype: np.dtype

    @property
    def type_id(self) -> int:
        """Of the field in the file; ``format.METADATA`` has its dtype there."""
        return self.stored.type_id

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape


INT = TargetField("int", INT_TYPE, np.dtype(np.int64))
# float32, although FFCV's FloatDecoder gives the file's float64: outputs are float32 and a loss expects one dtype, an NPU has no
# float64, and a copy would transfer twice the bytes, only for the step to cast them.
FLOAT = TargetField("float", FLOAT_TYPE, np.dtype(np.float32))

TARGET_FIELDS = {each.type_id: each for each in (INT, FLOAT)}
"""Those of one number, by the type id in the file."""
LABEL_TYPES = (*TARGET_FIELDS, *ARRAYS)
"""What a label may be.  If no field is named, the label is the file's only field of the first of these types that it has."""


def vector(length: int) -> TargetField:
    """Vectors of so many numbers; in a batch they are float32, for the reasons of FLOAT, whatever the file stores."""
    return _vector(array_type("float32", length))


def _vector(stored: ColumnType) -> TargetField:
    return TargetField("vector", stored, np.dtype(np.float32))


VECTOR = vector(1)
"""Of any length."""


def target_field_of(stored: ColumnType) -> TargetField:
    """What targets of a stored type are.

    Raises:
        ValueError: no target is stored so; the text goes behind the field's name.
    """
    if stored.is_array:
        if len(stored.shape) != 1:
            raise ValueError(
                f"is an array of the shape {list(stored.shape)}, and a label is a number or a vector"
            )
        return _vector(stored)
    return TARGET_FIELDS[stored.type_id]


@dataclass(frozen=True)
class Misfit:
    """Why a task cannot learn from a file, and what to do: "FILE has `has`, but `but`: `remedy`".

    sets: keys of the recipe that would fix it.  otherwise: what to do if no key would, or instead.
    """

    has: str
    but: str
    sets: Mapping[str, object] = field(default_factory=dict)
    otherwise: str = ""

    @property
    def remedy(self) -> str:
        """For a sentence: set model.num_classes = 3."""
        keys = [f"{key} = {json.dumps(value)}" for key, value in self.sets.items()]
        return self._or_otherwise(f"set {' and '.join(keys)}" if keys else "")

    @property
    def flags(self) -> str:
        """For the command line: --set model.num_classes=3."""
        return self._or_otherwise(" ".join(f"--set {key}={value}" for key, value in self.sets.items()))

    def _or_otherwise(self, keys: str) -> str:
        return ", or ".join(part for part in (keys, self.otherwise) if part)


class Target(Protocol):
    """What a task asks of a file's targets."""

    @property
    def field(self) -> TargetField:
        """Their type in the file and in a batch; of vectors, one of any length."""

    def field_for(self, num_outputs: int) -> TargetField:
        """The same for a model with so many outputs."""

    def takes(self, stored: TargetField) -> bool:
        """Whether they may be of a type."""

    @property
    def are_classes(self) -> bool:
        """Whether a target is one of the classes 0, 1, ..., whose names are compared between files."""

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        """Why a model with ``num_outputs`` outputs cannot learn from ``labels``, (N,) or (N, K) as stored; None if it can."""

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        """``count`` targets, (count,) or (count, K) of the field's dtype, spread over the possible values: for synthetic images."""


@dataclass(frozen=True)
class ClassTarget:
    """A class: an int from 0 to one less than there are outputs."""

    field: TargetField = INT
    are_classes: bool = True

    def field_for(self, num_outputs: int) -> TargetField:
        return self.field

    def takes(self, stored: TargetField) -> bool:
        return stored == INT

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        lowest, classes = int(labels.min(initial=0)), int(labels.max(initial=0)) + 1
        if lowest >= 0 and classes <= num_outputs:
            return None
        wrong = lowest if lowest < 0 else classes - 1
        leaves = f"model.num_classes = {num_outputs} allows 0 to {num_outputs - 1}"
        if lowest < 0:
            return Misfit(f"a label {wrong}", leaves, otherwise="pack the set again")
        return Misfit(f"a label {wrong}", leaves, {"model.num_classes": classes})

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        return np.arange(count, dtype=self.field.dtype) * num_outputs // count


@dataclass(frozen=True)
class NumberTarget:
    """One number for each image, or a vector of as many as there are outputs; finite as float32."""

    field: TargetField = FLOAT
    are_classes: bool = False

    def field_for(self, num_outputs: int) -> TargetField:
        return FLOAT if num_outputs == 1 else vector(num_outputs)

    def takes(self, stored: TargetField) -> bool:
        return stored == FLOAT or stored.stored.is_array

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        if other := _other_length(labels, num_outputs):
            return other
        with np.errstate(over="ignore"):
            finite = np.isfinite(labels.astype(self.field.dtype))
        if (first := _first(labels, ~finite)) is None:
            return None
        has, number = first
        if np.isfinite(number):
            largest = f"{np.finfo(self.field.dtype).max:.1e}"
            remedy = "write the labels in another unit and pack the set again"
            return Misfit(has, f"labels are learned as {self.field.dtype}, up to {largest}", otherwise=remedy)
        return Misfit(
            has,
            "only a finite number can be learned",
            otherwise="correct or remove it, and pack the set again",
        )

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        if num_outputs == 1:
            return (np.arange(count) / count).astype(self.field.dtype)
        rows = np.arange(count)[:, None] + np.arange(num_outputs)
        return (rows / (count + num_outputs)).astype(self.field.dtype)


@dataclass(frozen=True)
class LabelsTarget:
    """Several labels for each image: a vector of 0 and 1, or of what lies between, one for each output."""

    field: TargetField = VECTOR
    are_classes: bool = False

    def field_for(self, num_outputs: int) -> TargetField:
        return vector(num_outputs)

    def takes(self, stored: TargetField) -> bool:
        return stored.stored.is_array

    def misfit(self, labels: np.ndarray, num_outputs: int) -> Misfit | None:
        if other := _other_length(labels, num_outputs):
            return other
        if (first := _first(labels, ~((labels >= 0) & (labels <= 1)))) is None:
            return None
        return Misfit(
            first[0],
            'model.task = "multilabel" learns from 0 to 1 for each label',
            {"model.task": "regression"},
            otherwise="pack the set again",
        )

    def examples(self, count: int, num_outputs: int) -> np.ndarray:
        rows = np.arange(count)[:, None] + np.arange(num_outputs)
        return (rows % 3 == 0).astype(self.field.dtype)


def _other_length(labels: np.ndarray, num_outputs: int) -> Misfit | None:
    """The misfit of a model with another number of outputs than there are numbers for each image."""
    numbers = labels.shape[1] if labels.ndim == 2 else 1
    if numbers == num_outputs:
        return None
    has = "one number for each image" if labels.ndim == 1 else f"{numbers:,} numbers for each image"
    outputs = f"model.num_classes = {num_outputs} gives {num_outputs} output{'s' * (num_outputs > 1)}"
    return Misfit(has, outputs, {"model.num_classes": numbers})


def _first(labels: np.ndarray, bad: np.ndarray) -> tuple[str, float] | None:
    """The first of some labels in words, and that number; None where there is none."""
    samples = np.flatnonzero(bad if bad.ndim == 1 else bad.any(1))
    if not len(samples):
        return None
    first = int(samples[0])
    number = float(np.ravel(labels[first])[np.argmax(np.ravel(bad[first]))])
    more = f" and {len(samples) - 1:,} more like it" if len(samples) > 1 else ""
    return f"a label {number} (sample {first}){more}", number


TARGETS: dict[str, Target] = {
    "classification": ClassTarget(),
    "regression": NumberTarget(),
    "multilabel": LabelsTarget(),
}
"""By model.task.  recipe.py lists the names itself, because it must load without numpy."""


def misfit(beton: Beton, task: str, num_outputs: int) -> Misfit | None:
    """Why a task cannot learn from a file with a model with ``num_outputs`` outputs; None if it can."""
    target, stored = TARGETS[task], beton.target_field
    if target.takes(stored):
        return target.misfit(beton.labels, num_outputs)
    has = f"a label field {beton.label_field!r} of type {stored.name}"
    but = f"model.task = {json.dumps(task)} learns from type {target.field.name}"
    kinds = ARRAYS if target.field.stored.is_array else (target.field.type_id,)
    if named := [each.name for each in beton.fields if each.type_id in kinds]:
        return Misfit(has, but, {"data.label_field": named[0]})
    pack = {FLOAT.name: "pack it from a list with --label-type float", INT.name: ""}.get(
        target.field.name, f"pack it with the field label:float32[{num_outputs}]"
    )
    return Misfit(has, but, _fitting(beton, num_outputs), pack)


def _fitting(beton: Beton, num_outputs: int) -> dict[str, object]:
    """The keys of a recipe that learns from a file's label."""
    stored = beton.target_field
    if stored == INT:
        return {"model.task": "classification"}
    outputs = stored.shape[0] if stored.shape else 1
    are_labels = bool(stored.shape) and TARGETS["multilabel"].misfit(beton.labels, outputs) is None
    task: dict[str, object] = {"model.task": "multilabel" if are_labels else "regression"}
    return task if outputs == num_outputs else {**task, "model.num_classes": outputs}


def described(beton: Beton) -> str:
    """The targets of a file in words: labels 0 to 9."""
    lowest, highest = beton.labels.min(), beton.labels.max()
    if beton.target_field == INT:
        return f"labels {lowest} to {highest}"
    of = f"{beton.target_field.shape[0]} labels each, " if beton.target_field.shape else "labels "
    return f"{of}{lowest:g} to {highest:g}"
