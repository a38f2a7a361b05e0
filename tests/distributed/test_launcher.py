"""Starting ranks: what happens to a run in which one of them fails, and how it is reported."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import ranked
import ranks_that_end
from alexnet_fast.distributed import launcher
from alexnet_fast.distributed.exit_records import is_collective_error
from alexnet_fast.distributed.launcher import LaunchConfig
from alexnet_fast.errors import UserError
from called_as_ranks import launch
from components import ROOT

TWO = LaunchConfig(nproc=2)


def test_one_rank_runs_in_this_process() -> None:
    seen: list[int] = []
    assert launch(LaunchConfig(), seen.append, os.getpid()) == 0
    assert seen == [os.getpid()]


def test_ranks_agree_on_sums_weights_overflows_and_what_differs(capfd: Any) -> None:
    assert launch(TWO, ranked.everything_that_ranks_say_to_each_other, 2) == 0, capfd.readouterr().err


def test_three_ranks_average_gradients_in_flat_buffers_as_ddp_does_and_as_one_rank_trains(capfd: Any) -> None:
    ranks = LaunchConfig(nproc=3)
    assert launch(ranks, ranked.three_ranks_average_as_one_rank_trains, 3) == 0, capfd.readouterr().err


@pytest.mark.parametrize(
    ("entry", "reported"),
    [
        (
            ranks_that_end.raises_on,
            ["rank 1 on", "failed", "Traceback", "LookupError: the cat sat on the cable"],
        ),
        (ranks_that_end.kills_itself_on, ["rank 1 on", "was killed by SIGKILL", "memory"]),
        (ranks_that_end.leaves_with_3_on, ["rank 1 on", "ended with exit code 3"]),
        (
            ranks_that_end.hangs_on,
            ["rank 1 on", "did not respond to rank 0", "Stack of rank 1", "in gone_fishing"],
        ),
    ],
)
def test_the_rank_at_fault_is_named_with_its_error_and_nothing_is_left(
    entry: Any, reported: list[str], capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    started, before = time.monotonic(), children()
    assert launch(TWO, entry, 1) == 1
    error = capfd.readouterr().err
    assert all(words in error for words in reported), error
    assert error.startswith("error: ") and error.count("error: rank") == 1, "reported once"
    assert "rank 0 on" not in error, "the rank that only lost the other is not blamed"
    assert not list(tmp_path.iterdir())
    assert children() <= before
    assert time.monotonic() - started < 60


def test_a_users_mistake_on_any_rank_is_one_sentence(capfd: Any) -> None:
    with pytest.raises(UserError, match=r"^there is no room: make some$"):
        launch(TWO, ranks_that_end.user_error_on, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("when", ["while they import", "while they train"])
def test_ctrl_c_ends_every_rank_with_130_and_one_word(when: str, tmp_path: Path) -> None:
    launcher = launched(tmp_path, "waits")
    pids = await_ranks(tmp_path, launcher) if when == "while they train" else await_processes(launcher)
    os.killpg(launcher.pid, signal.SIGINT)  # as the terminal does
    out, error = launcher.communicate(timeout=120)
    assert (launcher.returncode, out, error) == (130, "", "interrupted\n")
    await_their_end(pids)


def test_ctrl_c_while_a_rank_is_being_started_is_one_word_too(tmp_path: Path) -> None:
    """The rank's process exists, but Popen has not returned in its launcher."""
    launcher = launched(
        tmp_path,
        "waits",
        "import os, signal, subprocess, time\n"
        "class Interrupted(subprocess.Popen):\n"
        "    def _execute_child(self, *arguments):\n"
        "        super()._execute_child(*arguments)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.2)\n"
        "if 'RANK' not in os.environ:\n"
        "    subprocess.Popen = Interrupted\n",
    )
    out, error = launcher.communicate(timeout=120)
    assert (launcher.returncode, out, error) == (130, "", "interrupted\n")


def test_under_nohup_ranks_outlive_their_terminal_and_a_sigterm_after_the_last_step_is_no_failure(
    tmp_path: Path,
) -> None:
    launcher = launched(
        tmp_path, "is_done_at_sigterm", "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    )
    pids = await_ranks(tmp_path, launcher)
    os.killpg(launcher.pid, signal.SIGHUP)
    assert all(ignores(pid, signal.SIGHUP) for pid in (launcher.pid, *pids))
    launcher.terminate()
    out, error = launcher.communicate(timeout=TWO.stop_s - 10)  # they are not waited for
    assert (launcher.returncode, out, error) == (0, "", "")


def test_what_keeps_a_rank_from_saving_as_it_is_stopped_is_reported(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "cannot_save_at_sigterm")
    await_ranks(tmp_path, launcher)
    launcher.terminate()
    out, error = launcher.communicate(timeout=120)
    assert (launcher.returncode, out, error) == (2, "", "error: there is no room: make some\n")


SAVES = "the run saves what it has and stops; Ctrl-C from now on ends it at once, without a save\n"


def test_any_number_of_sigterms_leaves_ranks_that_save_alone(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "saves_when_it_may")
    pids = await_ranks(tmp_path, launcher)
    launcher.terminate()  # as timeout does: twice at once, to its child and to the group of both
    os.killpg(launcher.pid, signal.SIGTERM)
    await_files(tmp_path, "*.saving", launcher)
    for _ in range(2):
        os.killpg(launcher.pid, signal.SIGTERM)
        time.sleep(0.3)  # for a launcher that would kill them
    assert all(lives(pid) for pid in pids)
    (tmp_path / "may_save").touch()
    out, error = launcher.communicate(timeout=120)
    assert (launcher.returncode, out, error) == (143, "", f"SIGTERM: {SAVES}stopped by SIGTERM in order\n")
    assert len(list(tmp_path.glob("*.saved"))) == 2


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_either_signal_ends_ranks_that_save_at_once(
    first: signal.Signals, tmp_path: Path
) -> None:
    launcher = launched(tmp_path, "saves_when_it_may")
    pids = await_ranks(tmp_path, launcher)
    os.killpg(launcher.pid, first)
    await_files(tmp_path, "*.saving", launcher)
    launcher.terminate()
    time.sleep(0.3)
    assert all(lives(pid) for pid in pids)
    os.killpg(launcher.pid, signal.SIGINT)
    out, error = launcher.communicate(timeout=TWO.stop_s - 10)  # they are not waited for
    assert (launcher.returncode, out, error) == (130, "", f"{first.name}: {SAVES}interrupted\n")
    assert not list(tmp_path.glob("*.saved"))
    await_their_end(pids)


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process is running and ignores a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return lives(pid) and bool(int(mask, 16) >> (number - 1) & 1)


def test_ranks_that_are_done_when_their_launcher_is_killed_end_too(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "ends_behind_its_killed_launcher")
    pids = await_ranks(tmp_path, launcher)
    assert launcher.wait(timeout=120) == -signal.SIGKILL
    await_their_end(pids)


def test_ranks_whose_launcher_is_killed_while_they_import_end_too(tmp_path: Path) -> None:
    launcher = launched(tmp_path, "waits")
    pids = await_processes(launcher)
    launcher.kill()
    await_their_end(pids)
    assert not list(tmp_path.glob("*.waiting"))


def test_where_ctrl_c_is_ignored_as_by_a_shells_background_ranks_of_a_killed_launcher_save_and_end_too(
    tmp_path: Path,
) -> None:
    launcher = launched(
        tmp_path, "saves_when_it_may", "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    )
    pids = await_ranks(tmp_path, launcher)
    (tmp_path / "may_save").touch()
    launcher.kill()
    await_their_end(pids)
    assert len(list(tmp_path.glob("*.saved"))) == 2


def await_their_end(pids: list[int]) -> None:
    """Wait for ranks whose launcher has ended to end."""
    deadline = time.monotonic() + 120
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "processes outlive their launcher"
        time.sleep(0.05)


def test_a_host_that_is_signalled_stops_the_others_after_the_same_step(tmp_path: Path) -> None:
    hosts = two_hosts(tmp_path, "saves_when_it_may", tmp_path)
    pids = await_ranks(tmp_path, hosts[0])
    hosts[1].terminate()
    await_files(tmp_path, "*.saving", hosts[0])
    (tmp_path / "may_save").touch()
    for host in hosts:
        _, error = host.communicate(timeout=120)
        assert host.returncode == 143 and error.endswith("stopped by SIGTERM in order\n"), error
    await_their_end(pids)


def test_of_two_hosts_each_says_where_the_rank_at_fault_is(tmp_path: Path) -> None:
    hosts = two_hosts(tmp_path, "raises_on", 1)
    (_, first), (_, second) = (host.communicate(timeout=120) for host in hosts)
    assert [host.returncode for host in hosts] == [1, 1]
    assert f"error: rank 0 on {socket.gethostname()} lost a rank on another host, whose output gives" in first
    assert "error: rank 1 on" in second and "LookupError: the cat sat on the cable" in second


def test_an_address_at_which_another_program_listens_is_named(capfd: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UserError, match=r"^host 0 of 2 could not connect to the others .* that the port is free$"
        ):
            launch(LaunchConfig(nnodes=2, address=address), ranks_that_end.raises_on, 0)


def test_a_command_that_exits_with_0_but_never_ran_as_a_rank_is_a_failure(capfd: Any) -> None:
    assert launcher.launch(TWO, list, (sys.executable, "-c", "")) == 1
    assert "ended with exit code 0" in capfd.readouterr().err


def two_hosts(folder: Path, entry: str, argument: object) -> list[subprocess.Popen[str]]:
    """The launchers of two hosts with one rank each, which run a function of ranks_that_end.py."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    configs = [f"LaunchConfig(1, 2, {number}, {address!r})" for number in range(2)]
    return [launched(folder, entry, config=config, argument=argument) for config in configs]


def launched(
    folder: Path, entry: str, first: str = "", config: str = "LaunchConfig(2)", argument: object = None
) -> subprocess.Popen[str]:
    """A process that runs `first`, then, as two ranks, a function of ranks_that_end.py with an argument (default: `folder`)."""
    code = (
        "import sys\nfrom functools import partial\nfrom pathlib import Path, PosixPath\nimport ranks_that_end\n"
        "from alexnet_fast.distributed.launcher import LaunchConfig, launch\nfrom alexnet_fast.errors import exit_code\n"
        f"{first}"
        f"entry = partial(ranks_that_end.{entry}, {argument or folder!r})\n"
        f"sys.exit(exit_code(lambda: launch({config}, entry)))\n"
    )
    script = folder / f"go{len(list(folder.glob('go*.py')))}.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tools")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"nnodes": 2, "node_rank": 2, "address": "a:1"}, "distributed.host = 2 is out of range"),
        ({"nnodes": 2}, "distributed.address = '' is not an address for 2 hosts"),
        ({"nnodes": 2, "address": "10.0.0.1"}, "as 10.0.0.1:29500"),
        ({"nnodes": 2, "address": "10.0.0.1:65536"}, "as 10.0.0.1:29500"),
    ],
)
def test_hosts_that_could_not_meet_are_refused(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LaunchConfig(nproc=2, **config)


def test_a_host_whose_wait_times_out_says_for_whom_and_where_it_waited(monkeypatch: Any, capfd: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(launcher, "GATHERING_S", 2)
    with pytest.raises(
        UserError, match=r"^host 1 of 2 could not connect to the others at distributed.address = "
    ):
        launch(LaunchConfig(nproc=1, nnodes=2, node_rank=1, address=address), ranks_that_end.raises_on, 0)
    assert capfd.readouterr().err.startswith(f"host 1 of 2 waits for the others at {address}\n")


def test_a_failed_collective_is_distinguished_from_an_error_of_the_rank_itself() -> None:
    for text in (
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1",
        "NCCL error: remote process exited or there was a network error",
        "Broken pipe",
    ):
        assert is_collective_error(RuntimeError(text))
    assert not is_collective_error(RuntimeError("CUDA out of memory")) and not is_collective_error(
        ValueError("gloo")
    )


def await_ranks(folder: Path, launcher: subprocess.Popen[str]) -> list[int]:
    """Process ids of the two ranks, once each has written its file."""
    await_files(folder, "*.waiting", launcher)
    deadline = time.monotonic() + 120
    while not all(found := [path.read_text() for path in folder.glob("*.waiting")]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int(pid) for pid in found]


def await_files(folder: Path, pattern: str, launcher: subprocess.Popen[str]) -> None:
    """Return when both ranks have created theirs."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < 2:
        assert time.monotonic() < deadline and launcher.poll() is None, launcher.communicate()
        time.sleep(0.05)


def await_processes(launcher: subprocess.Popen[str]) -> list[int]:
    """Process ids of the two ranks as soon as they exist: they import torch then, or Python still starts."""
    deadline = time.monotonic() + 120
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    while len(found := children.read_text().split()) < 2:
        assert time.monotonic() < deadline and launcher.poll() is None, launcher.communicate()
        time.sleep(0.005)
    return [int(pid) for pid in found]


def lives(pid: int) -> bool:
    """Whether it runs: one that ended stays in the process table until its parent, or the process that adopted it, waits for it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


def children() -> set[int]:
    """This process's children, whichever of its threads started them."""
    found: set[int] = set()
    for table in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found.update(map(int, table.read_text().split()))
    return found
