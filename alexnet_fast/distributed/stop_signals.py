"""SIGTERM and SIGINT: all ranks stop after the same step, and no step waits for the agreement.

A signal may reach one rank, some or all.  At each boundary (the end of a step, a batch of an evaluation) every rank starts an
all-reduce (a maximum, in the background, over gloo) of the signal that it received, 0 for none.  It also reads the
all-reduce of the previous boundary: its result is the same on all ranks, so all stop together, one step after the first
rank contributed the signal.  A single rank stops after its current step.

    rank 0   step 7 | step 8 | step 9 |          each | starts one all-reduce and reads the previous one
    rank 1   step 7 | step 8 | step 9 |
                 ^SIGTERM    ^ started    ^ read: both stop here

A second signal follows one rule, in a single rank and, for several, in their launcher:

    SIGTERM   changes nothing: timeout sends it twice, and cluster managers send it to a launcher and to its ranks
    SIGINT    (Ctrl-C) ends the run at once, without a save

A rank that a launcher started reacts to the first signal only: the cluster manager's and the launcher's may both reach it, and
it cannot distinguish them.  Our launcher counts its own signals and kills its ranks (launcher.py); torchrun waits for them.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from .world import World, is_joined, is_torchruns

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Catches the signals that ask a run to stop, while its body runs; `agreed` returns when to stop.

    A signal that is ignored (by nohup or a shell's &) stays ignored.

    saves: whether the run saves when it is stopped, for the line that it prints on a signal.
    """

    def __init__(self, world: World, saves: bool = True) -> None:
        self._world, self._saves = world, saves
        self._received = 0
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A rank that received a signal keeps its handlers: its launcher's SIGTERM, which may come after the cluster manager's, would
        # end it before it has reported how it ended.
        if not (self._received and is_joined()):
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if kind is None and self._pending is not None:  # after an error the others may be gone
            self._pending[0].wait()

    def agreed(self) -> int:
        """The signal for which all ranks stop here, 0 for none.  Every rank must call this at every boundary."""
        if self._world.world_size == 1:
            return self._received
        before = self._pending
        own = torch.tensor(self._received)
        self._pending = dist.all_reduce(own, dist.ReduceOp.MAX, async_op=True), own
        if before is None:
            return 0
        before[0].wait()
        return int(before[1])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            return
        self._received = number
        handles_ctrl_c = signal.SIGINT in self._before
        if handles_ctrl_c and not is_joined():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process even while no Python code runs
        if self._world.is_rank0:  # not with print: the signal may have interrupted a print
            does = "saves what it has and stops" if self._saves else "stops, and saves nothing"
            if handles_ctrl_c and not is_torchruns():
                does += "; Ctrl-C from now on ends it at once" + (", without a save" if self._saves else "")
            line = "\n" if os.isatty(2) else ""  # below the live line of a terminal
            with suppress(OSError):  # the same Ctrl-C may have ended the reader, as in `2>&1 | tee log`
                os.write(2, f"{line}{signal.Signals(number).name}: the run {does}\n".encode())
