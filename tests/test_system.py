""".ci/system.sh: what it installs, waits for and says, with an apt-get and a Python that only pretend."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from components import ROOT

SCRIPT = ROOT / ".ci/system.sh"
PYTHON = """#!/bin/sh
case "$*" in
*ensurepip*) test -e {here}/python3-venv ;;
-V) echo Python 3.11.0 ;;
-) test -e {here}/libturbojpeg0 ;;
*) exit 0 ;;
esac
"""
APT = """#!/bin/sh
echo "$@" >>{here}/asked
if [ "$(grep -c . {here}/asked)" -le {locked} ]; then
    echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (apt-get)" >&2
    exit 100
fi
for last; do :; done
case "$*" in *install*) touch {here}/"$last" ;; esac
"""


def base(
    folder: Path, *, root: bool, locked: int = 0, wait_s: int = 600, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the first stage as root or as a user; the first `locked` calls of apt-get find its lock held."""
    fakes = {
        "python": PYTHON.format(here=folder),
        "apt-get": APT.format(here=folder, locked=locked),
        "id": f"#!/bin/sh\necho {0 if root else 1000}\n",
        "sleep": "#!/bin/sh\n",
    }
    (folder / "bin").mkdir()
    for name, text in fakes.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    env = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "LOCK_WAIT_S": str(wait_s)}
    return subprocess.run(
        ["sh", SCRIPT, "base", "python"], cwd=cwd or folder, env=env, capture_output=True, text=True
    )


def test_it_waits_for_another_apt_to_end_and_then_installs(tmp_path: Path) -> None:
    done = base(tmp_path, root=True, locked=3)
    assert done.returncode == 0 and "waiting for another apt or dpkg to end" in done.stderr, done
    assert (tmp_path / "libturbojpeg0").exists() and (tmp_path / "python3-venv").exists()
    asked = (tmp_path / "asked").read_text().splitlines()
    assert all("DPkg::Lock::Timeout=600" in line for line in asked) and len(asked) == 6


def test_a_lock_that_is_never_released_ends_the_wait_with_apts_own_words(tmp_path: Path) -> None:
    done = base(tmp_path, root=True, locked=10_000, wait_s=10)
    assert done.returncode == 2 and "Could not get lock /var/lib/dpkg/lock-frontend" in done.stderr


def test_a_user_hears_of_all_that_is_missing_in_one_message(tmp_path: Path) -> None:
    done = base(tmp_path, root=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "python3-venv" in done.stderr and "libturbojpeg0 (Debian)" in done.stderr
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("ready", [True, False])
def test_an_environment_that_is_ready_needs_no_python3_venv(ready: bool, tmp_path: Path) -> None:
    (tmp_path / "here/.venv/bin").mkdir(parents=True)
    python = tmp_path / "here/.venv/bin/python"
    python.write_text(f"#!/bin/sh\nexit {0 if ready else 1}\n")
    python.chmod(0o755)
    done = base(tmp_path, root=False, cwd=tmp_path / "here")
    assert done.returncode == (0 if ready else 2), done
    assert "libturbojpeg" in done.stderr, "which is only a note where the rest is ready"
