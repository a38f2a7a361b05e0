"""One longest side: pack its inputs, start its contestants, let them take turns, stop them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from alexnet_fast.common.cpus import allowed_cores
from bench.competitors import CONTESTANTS, OURS, PEERS, RAW_INPUTS, Contestant
from bench.inputs import InputAbsent, Inputs, Photos
from bench.peer import Task
from bench.runner import Entry, PeerFailed, Process, run_rounds


class Side:
    """All contestants and thread counts at one longest side: they are alive together and take turns."""

    def __init__(
        self,
        side_px: int,
        options: argparse.Namespace,
        photos: Photos,
        cores: list[int],
        out: Path,
        console: Console,
    ) -> None:
        self.side_px, self.options, self.photos, self.cores = side_px, options, photos, cores
        self.out, self.console = out, console
        self.pythons = dict.fromkeys(PEERS, sys.executable) | dict(options.python)
        self.absent: dict[str, str] = {}
        self.stored_bytes: dict[str, int] = {}
        self.inputs = Inputs(
            photos,
            options.work or out / "inputs",
            side_px,
            options.quality,
            options.restart_mcus,
            self.pythons["ffcv"],
            allowed_cores(),
        )

    def run(self) -> list[Entry]:
        """Pack, start, run all rounds, stop. -> what was measured"""
        packed = self._packed([c for c in CONTESTANTS if self._takes_part(c)])
        processes: list[Process] = []
        try:
            for contestant, path in packed:
                for threads in self.options.threads:
                    if contestant.name not in self.absent and (
                        threads == 1 or not contestant.one_thread_only
                    ):
                        self._start(contestant, path, threads, processes)
            self._run_rounds(processes)
        finally:
            for process in processes:
                process.close()
        return [process.entry for process in processes]

    def _takes_part(self, contestant: Contestant) -> bool:
        return contestant.name in self.options.peers and (
            contestant.input not in RAW_INPUTS or self.side_px in self.options.raw_sides
        )

    def _packed(self, contestants: list[Contestant]) -> list[tuple[Contestant, Path]]:
        """The contestants whose input is available, each with its input."""
        found = []
        # Ours first: our packer refuses an image that cannot be read; FFCV's writer would hang on it.
        for contestant in sorted(contestants, key=lambda c: c.input.startswith("ffcv")):
            with self.console.status(f"{self.side_px} px: packing {contestant.input}"):
                try:
                    path = self.inputs.get(contestant.input)
                except InputAbsent as reason:
                    self._leave_out(contestant, str(reason))
                    continue
            self.stored_bytes[f"{contestant.input} at {self.side_px} px"] = self.inputs.bytes_of(
                contestant.input
            )
            found.append((contestant, path))
        return sorted(found, key=lambda pair: CONTESTANTS.index(pair[0]))

    def _start(self, contestant: Contestant, path: Path, threads: int, processes: list[Process]) -> None:
        entry = Entry(contestant, self.side_px, threads)
        cores = tuple(self.cores[:threads])
        task = Task(contestant.peer, contestant.variant, str(path), self.options.batch, threads, cores)
        log = self.out / "logs" / f"{contestant.name}-{self.side_px}px-{threads}.log"
        process = Process(entry, task, self.pythons[contestant.peer], log)
        processes.append(process)
        with self.console.status(f"starting {entry.name}"):
            try:
                absent = process.start()
            except PeerFailed as failure:
                if contestant.peer in OURS:
                    raise
                absent = str(failure)  # installed, but not for this machine
        if absent:
            processes.remove(process)
            process.close()
            self._leave_out(contestant, absent)

    def _leave_out(self, contestant: Contestant, reason: str) -> None:
        self.absent[contestant.name] = reason
        self.console.print(f"[yellow]absent: {contestant.name}[/] ({reason})")

    def _run_rounds(self, processes: list[Process]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("warm-up", total=(self.options.rounds + 2) * len(processes))
            run_rounds(
                processes,
                images=len(self.photos.split.paths),
                labels_sum=self.photos.labels_sum,
                rounds=self.options.rounds,
                epochs=self.options.epochs,
                done=lambda what: bar.update(task, advance=1, description=what),
            )
