"""How a command imports torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import command_line
import components
from alexnet_fast.torch_import import why_torch_fails

SETTING = "; import os; print(os.environ.get('OMP_WAIT_POLICY'))"


def say_setting(code: str, policy: str | None = None) -> tuple[str, str]:
    """OMP_WAIT_POLICY as the process sees it after `code`, and its stderr."""
    done = command_line.finish(command_line.start("-c", code + SETTING, env={"OMP_WAIT_POLICY": policy}))
    assert done.code == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_importing_only_the_engine_sets_nothing() -> None:
    assert say_setting("import alexnet_fast.engine, sys; assert 'torch' not in sys.modules") == ("None", "")


def test_the_training_command_makes_openmp_threads_sleep_before_it_imports_torch() -> None:
    assert say_setting("import alexnet_fast.train") == ("PASSIVE", "")


def test_a_users_wait_policy_is_kept() -> None:
    code = "from alexnet_fast.torch_import import prefer_passive_openmp as prefer; prefer()"
    assert say_setting(code, "ACTIVE") == ("ACTIVE", "")


def test_after_torch_it_is_too_late_and_a_warning_says_what_to_do() -> None:
    code = "import torch; from alexnet_fast.torch_import import prefer_passive_openmp as prefer; prefer()"
    setting, said = say_setting(code)
    assert setting == "None" and "or set OMP_WAIT_POLICY=PASSIVE" in said
    assert say_setting(code, "PASSIVE") == ("PASSIVE", ""), "the advice of the warning works"


def test_torch_npu_without_cann_is_distinguished_from_other_failures() -> None:
    cause = OSError("libhccl.so: cannot open shared object file: No such file or directory")
    error = RuntimeError(
        "Failed to load the backend extension: torch_npu. ... TORCH_DEVICE_BACKEND_AUTOLOAD=0."
    )
    error.__cause__ = cause
    sentence = why_torch_fails(error)
    assert "CANN" in sentence and "libhccl.so" in sentence and "\n" not in sentence
    assert "torch is not installed" in why_torch_fails(ModuleNotFoundError("No module", name="torch"))
    assert "does not load (broken)" in why_torch_fails(ImportError("broken\nmore"))


def run_beside(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with `folder` on its import path."""
    path = os.pathsep.join((str(folder), str(components.ROOT)))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )


@pytest.mark.parametrize(
    ("raised", "command"),
    [
        ("OSError", ["-m", "alexnet_fast.train", "x.toml"]),
        ("ImportError", ["-c", "from alexnet_fast.torch_import import import_torch; import_torch()"]),
    ],
)
def test_torch_npu_without_cann_ends_with_one_sentence(
    raised: str, command: list[str], tmp_path: Path
) -> None:
    """torch autoloads any package with a torch.backends entry point; this one fails as torch_npu does."""
    text = "libhccl.so: cannot open shared object file: No such file or directory"
    info = tmp_path / "torch_npu-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-npu\nVersion: 2.13.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
    (tmp_path / "torch_npu").mkdir()
    (tmp_path / "torch_npu" / "__init__.py").write_text(f"raise {raised}({text!r})\n")
    done = run_beside(tmp_path, *command)
    *above, sentence = done.stderr.strip().splitlines()
    assert "source CANN's set_env.sh" in sentence and text in sentence
    if command[0] == "-m":
        assert done.returncode == 2 and sentence.startswith("error: torch_npu is installed") and not above
    else:
        assert sentence.startswith("alexnet_fast.errors.UserError: torch_npu is installed")
        do_without = run_beside(tmp_path, *command, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
        assert do_without.returncode == 0, "the advice of the sentence works"
