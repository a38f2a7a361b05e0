"""Where compiled kernels are kept, which process compiles them, and when they are compiled again."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numba
import pytest

from alexnet_fast.kernel_cache import folders, kernel, lock
from alexnet_fast.kernel_cache.lock import CompileLock
from alexnet_fast.kernel_cache.store import KEPT
from kernels import ended, forbid_writing, read_only, run, start, write_package

PROCESSES = 4


def stored(place: Path) -> list[Path]:
    """The files of the outer kernel below a folder."""
    return sorted(place.rglob("work.outer-*"))


def test_a_kernel_is_compiled_once_on_a_machine_and_loaded_at_every_later_start(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    first, second = run(package), run(package)
    assert (first.cached_before, first.cached_after, first.hits, first.misses) == (False, True, 0, 1)
    assert (second.cached_before, second.hits, second.misses) == (True, 1, 0)
    assert second.inner == [0, 0], "what is inlined need not be loaded"
    assert first.value == second.value == 12
    assert len(stored(package / "__pycache__" / "kernels")) == 1


def test_a_change_of_any_source_that_is_inlined_compiles_again_and_a_change_of_another_does_not(
    tmp_path: Path,
) -> None:
    package = write_package(tmp_path)
    run(package)
    (package / "unrelated.py").write_text("FACTOR = 4\n")
    assert run(package).misses == 0
    (package / "constants.py").write_text("FACTOR = 3\n")
    changed = run(package)
    assert (changed.cached_before, changed.misses, changed.value) == (False, 1, 18)


def test_settings_that_change_the_code_have_their_own_files(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    run(package)
    assert run(package, env={"NUMBA_BOUNDSCHECK": "1"}).misses == 1
    assert run(package).misses == 0


def test_of_processes_that_start_at_once_one_compiles_and_the_others_load(tmp_path: Path) -> None:
    package, gate = write_package(tmp_path), tmp_path / "gate"
    gate.mkdir()
    processes = [start(package, gate=gate, lock={"PATIENCE_S": 600.0}) for _ in range(PROCESSES)]
    while len(list(gate.iterdir())) < PROCESSES:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (gate / "open").touch()
    found = ended(processes)
    assert sum(one.misses for one in found) == 1
    assert sum(one.hits for one in found) == PROCESSES - 1
    assert sum(one.inner[1] for one in found) == 1
    assert {one.value for one in found} == {12}
    assert not any(one.said for one in found)


def test_the_wait_for_a_process_that_never_releases_the_lock_is_logged_and_times_out(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    place = package / "__pycache__" / "kernels"
    place.mkdir(parents=True)
    with open(place / "compiling.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = run(package, lock={"PATIENCE_S": 0.1, "MAX_WAIT_S": 0.3})
    assert (found.misses, found.value) == (1, 12)
    assert f"waiting for another process to compile the kernels; it holds {place}" in found.said
    assert "compiling here too" in found.said
    assert run(package).misses == 0


def test_a_child_that_is_forked_during_a_compilation_can_compile() -> None:
    """The compiling thread does not exist in the child, where it would hold numba's lock for ever."""
    started = threading.Event()

    def compiles() -> None:
        with lock.compile_lock():
            started.set()
            time.sleep(0.3)

    compiler = threading.Thread(target=compiles)
    compiler.start()
    started.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends it if it never gets the lock
        with lock.compile_lock():
            os._exit(lock._depth)
    compiler.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_compilation_that_fails_releases_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    # Cached for each folder of sources, and this folder's holds other tests' kernels.
    monkeypatch.setattr(folders, "writable_folder", folders.writable_folder.__wrapped__)

    @kernel
    def wrong(x):
        return x.no_such_attribute

    with pytest.raises(numba.TypingError):
        wrong(1)
    (lock,) = tmp_path.rglob("compiling.lock")
    other = CompileLock(lock.parent)
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert other.wait(lambda: None) is None
    other.release()


def test_where_the_package_cannot_be_written_code_is_kept_in_the_users_cache(tmp_path: Path) -> None:
    package, home = write_package(tmp_path), tmp_path / "home"
    forbid_writing(package)
    first, second = (run(package, env={"HOME": str(home)}) for _ in range(2))
    assert (first.misses, second.misses, first.said, second.said) == (1, 0, "", "")
    assert len(stored(home / ".cache" / "alexnet_fast")) == 1


def test_the_code_of_an_installed_package_is_kept_in_the_users_cache_so_that_pip_can_remove_the_package(
    tmp_path: Path,
) -> None:
    package, home = write_package(tmp_path / "site-packages"), tmp_path / "home"
    environment = {"HOME": str(home)}
    run(package, env=environment)  # as a checkout, which leaves code in it
    (package.parent / "small-1.0.dist-info").mkdir()
    found = run(package, env=environment)
    assert (found.misses, found.said) == (0, "") and not home.exists(), "code in the package is used"
    shutil.rmtree(package / "__pycache__")
    assert [run(package, env=environment).misses for _ in range(2)] == [1, 0]
    assert len(stored(home / ".cache" / "alexnet_fast")) == 1 and not (package / "__pycache__").exists()
    chosen = environment | {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert [run(package, env=chosen).misses for _ in range(2)] == [1, 0]
    assert len(stored(tmp_path / "xdg" / "alexnet_fast")) == 1


def test_an_installed_package_without_a_home_uses_a_temporary_folder_and_not_the_package(
    tmp_path: Path,
) -> None:
    package = write_package(tmp_path / "site-packages")
    (package.parent / "small-1.0.dist-info").mkdir()
    found = run(package, env={"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)})
    assert found.misses == 1 and "set NUMBA_CACHE_DIR" in found.said
    assert not (package / "__pycache__").exists()


def test_a_package_on_a_read_only_file_system_uses_the_code_in_it_or_code_kept_at_home(
    tmp_path: Path,
) -> None:
    package, home = write_package(tmp_path), tmp_path / "home"
    through, environment = read_only(package), {"HOME": str(home)}
    assert [run(package, through=through, env=environment).misses for _ in range(2)] == [1, 0]
    assert len(stored(home)) == 1 and not stored(package)
    shutil.rmtree(home)
    run(package)
    assert run(package, through=through, env=environment).misses == 0
    assert not home.exists()


def test_without_a_home_code_is_kept_in_a_private_temporary_folder_with_one_sentence(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    forbid_writing(package)
    environment = {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    first, second = run(package, env=environment), run(package, env=environment)
    assert (first.misses, second.misses) == (1, 0)
    assert first.said.count("\n") == 1 and "set NUMBA_CACHE_DIR to a folder that can be written" in first.said
    assert str(package / "__pycache__" / "kernels") in first.said and "/proc/nowhere" in first.said
    assert second.said == ""
    private = tmp_path / f"alexnet_fast-{os.getuid()}"
    assert private.stat().st_mode & 0o777 == 0o700


def test_code_in_a_temporary_folder_that_others_can_write_is_not_run(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    forbid_writing(package)
    environment = {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path)}
    run(package, env=environment)
    (tmp_path / f"alexnet_fast-{os.getuid()}").chmod(0o777)
    found = run(package, env=environment)
    assert (found.misses, found.value) == (1, 12)
    assert "each process compiles them for itself" in found.said


def test_a_folder_from_the_environment_comes_first(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "chosen")}
    assert [run(package, env=environment).misses for _ in range(2)] == [1, 0]
    assert len(stored(tmp_path / "chosen")) == 1 and not (package / "__pycache__").exists()


def test_corrupt_code_is_compiled_again(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    run(package)
    (path,) = stored(package)
    content = path.read_bytes()
    for corrupt in (content[:-1], content[:100] + bytes([content[100] ^ 1]) + content[101:]):
        path.write_bytes(corrupt)
        assert run(package).misses == 1
    assert path.stat().st_size > len(content) // 2 and run(package).misses == 0


def test_the_least_recently_used_versions_are_deleted(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    place = package / "__pycache__" / "kernels"
    for age_days in range(1, KEPT + 3):
        old = place / f"work-{age_days:012}"
        old.mkdir(parents=True)
        (old / f"work.outer-x-{age_days}").write_bytes(b"code")
        os.utime(old, (time.time() - 86_400 * age_days,) * 2)
    (place / f"other-{1:012}").mkdir()
    run(package)
    left = {path.name for path in place.glob("work-*")}
    assert len(left) == KEPT and {f"work-{age_days:012}" for age_days in range(1, KEPT)} < left
    assert (place / f"other-{1:012}").exists()
    used = place / f"work-{KEPT - 1:012}"
    newest = next(place / name for name in left if not name.startswith("work-00"))
    os.utime(newest, (0, 0))
    run(package)
    assert newest.stat().st_mtime > used.stat().st_mtime, "a version that is loaded counts as used"
