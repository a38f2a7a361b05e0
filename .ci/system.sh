#!/bin/sh
# What pip cannot install. As root on a system with apt-get it installs what is missing; otherwise it says what to do.
#
#   sh .ci/system.sh base PYTHON    venv, and libturbojpeg if it can be had
#   sh .ci/system.sh codec PYTHON   libturbojpeg, by pip where there was no other way; says what is missing where there is none
#   sh .ci/system.sh peers PYTHON   what building ffcv and making foreign JPEGs needs; ends with 1 where something is missing
set -u
stage=$1
python=$2

complain() {
    echo "error: $*" >&2
    exit 2
}

can_apt() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null
}

apt_updated=
apt_install() {
    can_apt || return 1
    echo "apt-get install $*"
    export DEBIAN_FRONTEND=noninteractive
    if [ -z "$apt_updated" ]; then
        apt_get update -qq || echo "apt-get update failed; the lists that are here are used" >&2
        apt_updated=yes
    fi
    apt_get install -y -qq --no-install-recommends "$@"
}

# Waits for another apt or dpkg to end (a machine that has just started runs its own updates), up to LOCK_WAIT_S. apt's own timeout
# is for dpkg's lock only, and not for those of the lists and of the downloads.
LOCK_WAIT_S=${LOCK_WAIT_S:-600}
apt_get() {
    waited=0
    while :; do
        said=$(apt-get -o DPkg::Lock::Timeout="$LOCK_WAIT_S" "$@" 2>&1 >/dev/null) && return 0
        case $said in
        *"Could not get lock"* | *"Unable to lock"* | *"Unable to acquire the dpkg"*) ;;
        *) break ;;
        esac
        [ "$waited" -lt "$LOCK_WAIT_S" ] || break
        [ "$waited" -gt 0 ] || echo "waiting for another apt or dpkg to end" >&2
        sleep 5
        waited=$((waited + 5))
    done
    echo "$said" >&2
    return 1
}

# Whether .venv is there and works: then the package that makes one is not needed.
has_made_venv() {
    [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1
}

CODEC="libturbojpeg0 (Debian), libturbojpeg (Ubuntu) or turbojpeg (openEuler, RHEL)"

has_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null
}

# As the package itself looks for it: a file that was named, else the system's library, else the wheel's.
has_turbojpeg() {
    "$python" - 2>/dev/null <<'PY'
import ctypes, glob, os, sys, sysconfig

wheel = glob.glob(os.path.join(sysconfig.get_path("platlib"), "turbojpeg.*libs", "libturbojpeg*"))  # .libs, on macOS .dylibs
for name in [os.environ.get("ALEXNET_FAST_TURBOJPEG") or "libturbojpeg.0.dylib" if sys.platform == "darwin" else "libturbojpeg.so.0", *wheel]:
    try:
        ctypes.CDLL(name)
        sys.exit(0)
    except OSError:
        pass
sys.exit(1)
PY
}

has_python_headers() {
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

case $stage in
base)
    command -v "$python" >/dev/null || complain "$python was not found; install Python 3.11 or later, or name one: make PYTHON=python3.12"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        complain "$("$python" -V) is too old; install Python 3.11 or later, or name one: make PYTHON=python3.12"
    has_turbojpeg || apt_install libturbojpeg0 || apt_install libturbojpeg || true
    has_made_venv || has_venv || apt_install python3-venv || true
    # Both in one message, and before anything is downloaded.
    also=
    has_turbojpeg || also="; libturbojpeg was not found either: install $CODEC too"
    has_made_venv || has_venv ||
        complain "$("$python" -V) cannot make virtual environments; install the package python3-venv (apt-get install python3-venv), or name another Python: make PYTHON=...$also"
    [ -z "$also" ] ||
        echo "note: libturbojpeg was not found. Without it unusual JPEGs (progressive, say) cannot be decoded, and corrupt ones are not found when packing; install $CODEC" >&2
    ;;
codec)
    has_turbojpeg || {
        [ "$(uname -m)" = x86_64 ] && echo "no libturbojpeg on this system: taking the one in the PyPI package turbojpeg" &&
            "$python" -m pip install --quiet --no-deps turbojpeg==0.0.2
    } || true
    has_turbojpeg ||
        echo "note: there is no libturbojpeg; tests that compare with it are skipped. Install $CODEC, or name the file in ALEXNET_FAST_TURBOJPEG" >&2
    ;;
peers)
    missing=
    command -v c++ >/dev/null || missing="$missing g++"
    command -v pkg-config >/dev/null || missing="$missing pkg-config"
    pkg-config --exists opencv4 2>/dev/null || missing="$missing libopencv-dev"
    pkg-config --exists libturbojpeg 2>/dev/null || missing="$missing libturbojpeg0-dev"
    has_python_headers || missing="$missing python3-dev"
    command -v cjpeg >/dev/null && command -v jpegtran >/dev/null || missing="$missing libjpeg-turbo-progs"
    [ -z "$missing" ] && exit 0
    # shellcheck disable=SC2086  # a list of packages
    apt_install $missing || {
        echo "building ffcv, and the tests of foreign JPEGs, need:$missing" >&2
        exit 1
    }
    ;;
*)
    complain "unknown stage $stage; expected base, codec or peers"
    ;;
esac
