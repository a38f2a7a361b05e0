#!/bin/sh
# Builds wheel and sdist into dist/ and checks them: sh .ci/dist.sh PYTHON
#
# - The wheel is built out of the sdist, so the sdist is complete; its tests are collected.
# - The wheel is installed in an empty environment outside of the checkout, at the pinned versions, and used as a newcomer would.
# - Nothing of it may be left when it is uninstalled.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH NUMBA_CACHE_DIR XDG_CACHE_HOME ALEXNET_FAST_DATA

say() {
    echo "-- $*"
}

fail() {
    echo "error: $*" >&2
    exit 1
}

say "build: from a copy, since a build leaves files in its folder"
mkdir "$work/source"
cd "$root"
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --ignore-failed-read -cf - | tar -xf - -C "$work/source"
rm -rf dist
"$python" -m build --no-isolation --outdir dist "$work/source" >"$work/build.log" 2>&1 || {
    tail -40 "$work/build.log" >&2
    fail "the build failed"
}
"$python" -m twine check --strict dist/*

say "the sdist's tests can be collected"
mkdir "$work/sdist"
tar -xzf dist/*.tar.gz -C "$work/sdist" --strip-components=1
(cd "$work/sdist" && "$python" -m pytest --collect-only -q -p no:cacheprovider >"$work/collect.log" 2>&1) || {
    tail -20 "$work/collect.log" >&2
    fail "the sdist's tests cannot be collected"
}
tail -1 "$work/collect.log"

say "an empty environment, outside of the checkout"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --constraint "$root/requirements.txt" "$root"/dist/*.whl
before=$(find "$work/venv" -name 'alexnet[-_]fast*' | wc -l)
[ "$before" -gt 1 ] || fail "pip installed nothing"

mkdir "$work/home" "$work/here"
cd "$work/here"
export HOME="$work/home" PATH="$work/venv/bin:$PATH"
set -x
alexnet-fast --version
alexnet-fast recipes
alexnet-fast sample --train 24 --val 8
alexnet-fast pack --data data/quickstart-images --out data/quickstart
alexnet-fast pack --verify data/quickstart --source data/quickstart-images
alexnet-fast inspect data/quickstart/train.beton --out pictures
alexnet-fast train quickstart --device cpu --set schedule.epochs=1 --set data.global_batch_size=32
alexnet-fast train quickstart --device cpu --set data.global_batch_size=32 --eval
python -c 'from alexnet_fast import Loader; print(len(list(Loader("data/quickstart/val.beton", 8, train=False))), "batches")'
alexnet-fast doctor quickstart
set +x

say "uninstall leaves nothing"
pip uninstall --quiet --yes alexnet_fast
left=$(find "$work/venv" -name 'alexnet[-_]fast*')
[ -z "$left" ] || fail "left behind: $left"
[ -d "$HOME/.cache/alexnet_fast" ] || fail "the compiled kernels of an installed package are expected in ~/.cache/alexnet_fast"
ls -l "$root/dist"
