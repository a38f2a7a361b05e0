#!/bin/sh
# Tries the wheel where users are: in empty Debian chroots, as a user without root and without libturbojpeg, and with the oldest and
# newest dependencies. As root on Debian or Ubuntu, with debootstrap (and qemu-user-static for arm64):
#
#   sh .ci/matrix.sh PYTHON            all cells
#   sh .ci/matrix.sh PYTHON CELL...    some of them
#
#   debian12   Debian 12, Python 3.11        debian13   Debian 13, Python 3.13
#   debian14   Debian 14 (testing), Python 3.14, Debian's own torch: a CPU build without libuv, and the newest of all else
#   arm64      Debian 13 for aarch64 in qemu's emulation: Loader, pack, a short training; pixels equal to this machine's
#   oldest     this machine's Python with the lowest versions that setup.cfg allows
#   newest     this machine's Python with the newest
#   sources12, sources13    `make quickstart` from the sources, as root and as a user
#   container  the lines of the Containerfile, in Debian 12 (no engine is needed)
#
# Variables: MIRROR (of Debian), CHROOTS (where they are kept; default build/chroots), TORCH (the requirement to install, default
# torch==2.13.0: where the registry has a CUDA build of it and you want the CPU's, name a folder with that in PIP_FIND_LINKS), and pip's
# own PIP_*, whose files and folders are shown to the chroots at the same place.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
root=$(cd "$(dirname "$0")/.." && pwd)
mirror=${MIRROR:-http://deb.debian.org/debian}
chroots=${CHROOTS:-$root/build/chroots}
torch=${TORCH:-torch==2.13.0}
cells=${*:-debian12 debian13 debian14 arm64 oldest newest sources12 sources13 container}

say() {
    echo "== $*"
}

fail() {
    echo "error: $*" >&2
    exit 1
}

[ "$(id -u)" -eq 0 ] || fail "chroots need root"
command -v debootstrap >/dev/null || fail "debootstrap was not found; install it: apt-get install debootstrap"
mkdir -p "$chroots"

# bootstrap NAME SUITE PACKAGES [debootstrap's options]: makes the chroot once.
bootstrap() {
    name=$1 suite=$2 packages=$3
    shift 3
    [ ! -e "$chroots/$name/made" ] || return 0
    rm -rf "${chroots:?}/$name"
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    debootstrap --variant=minbase --include="$packages" "$@" "$suite" "$chroots/$name" "$mirror" "$script" >"$chroots/$name.log" 2>&1 || {
        tail -20 "$chroots/$name.log" >&2
        fail "$suite cannot be installed from $mirror"
    }
    touch "$chroots/$name/made"
}

# inside NAME USER SCRIPT [ARGUMENT...]: runs a script of $work as that user. The mounts and processes end with it.
inside() {
    name=$1 user=$2 script=$3
    shift 3
    target=$chroots/$name
    cp /etc/resolv.conf "$target/etc/resolv.conf"
    grep -q '^tester:' "$target/etc/passwd" || chroot "$target" useradd --create-home --shell /bin/sh tester
    rm -rf "$target/work"
    mkdir "$target/work"
    cp -r "$work/." "$target/work"
    home=/root
    [ "$user" = root ] || home=/home/$user
    find "$target$home" -mindepth 1 -delete
    chroot "$target" chown -R "$user" /work "$home"
    # What pip was told to use: files and folders, which may be outside of what the chroot has.
    given=$(env | sed -n 's/^\(PIP_[A-Z_]*\|SSL_CERT_FILE\)=\(.*\)$/\2/p' | tr ' ' '\n' | sed 's,^file://,,' | grep '^/' | sort -u || true)
    export target given user home
    unshare --mount --pid --fork --kill-child sh -ec '
        mount -t proc proc "$target/proc"
        mount --bind /dev "$target/dev"
        mount -t tmpfs tmpfs "$target/dev/shm"
        for path in $given; do
            [ ! -d "$path" ] || { mkdir -p "$target$path"; mount --bind -o ro "$path" "$target$path"; }
            [ ! -f "$path" ] || { mkdir -p "$target$(dirname "$path")"; [ -e "$target$path" ] && mount --bind "$path" "$target$path" || cp "$path" "$target$path"; }
        done
        exec chroot --userspec="$user" "$target" env -u LD_LIBRARY_PATH -u PYTHONPATH -u ALEXNET_FAST_DATA -u ALEXNET_FAST_TURBOJPEG -u NUMBA_CACHE_DIR -u XDG_CACHE_HOME \
            HOME="$home" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LANG=C.UTF-8 \
            sh "$@"
    ' inside "/work/$script" "$@"
}

# Every package of the chroot that is libturbojpeg would hide what a user without it sees.
without_turbojpeg() {
    ! chroot "$chroots/$1" sh -c 'ldconfig -p | grep -q turbojpeg' || fail "$1 has libturbojpeg, so this proves nothing"
}

work=$(mktemp -d)
emulation=
cleanup() {
    rm -rf "$work"
    [ -z "$emulation" ] || echo -1 >"$emulation"
}
trap cleanup EXIT

# Lets this kernel run programs for aarch64, in chroots too, until this script ends; nothing to do where it does already.
emulate_aarch64() {
    formats=/proc/sys/fs/binfmt_misc
    [ -e "$formats/register" ] || mount -t binfmt_misc binfmt_misc "$formats"
    [ ! -e "$formats/qemu-aarch64" ] || return 0
    rule=/usr/lib/binfmt.d/qemu-aarch64.conf
    [ -e "$rule" ] || fail "qemu's emulation was not found; install it: apt-get install qemu-user-static"
    cat "$rule" >"$formats/register"
    emulation=$formats/qemu-aarch64
}

say "wheel"
mkdir "$work/source"
(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --ignore-failed-read -cf - | tar -xf - -C "$work/source")
cp -r "$work/source" "$work/build"
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --use-pep517 --wheel-dir "$work" "$work/build"
rm -rf "$work/build"

# What a newcomer does. Arguments: options of venv, then requirements for pip next to the wheel. Two ranks train at O1, since Debian's
# gloo does not know bfloat16.
cat >"$work/walk.sh" <<'WALK'
set -eu
cd
venv=$1
shift
python3 -V
id -un
python3 -m venv $venv env
. env/bin/activate
pip install --quiet "$@" /work/alexnet_fast-*.whl
pip list 2>/dev/null | grep -i -E '^(torch|numpy|numba|pillow|pydantic|rich|alexnet) '
set -x
alexnet-fast --version
alexnet-fast sample --train 24 --val 8
alexnet-fast pack --data data/quickstart-images --out data/quickstart
alexnet-fast train quickstart --device cpu --set schedule.epochs=1 --set data.global_batch_size=32
alexnet-fast train quickstart --device cpu --set schedule.epochs=1 --set data.global_batch_size=32 --set distributed.nproc=2 --set run.name=ranks --set precision.level=O1
alexnet-fast inspect data/quickstart/train.beton
alexnet-fast profile quickstart --device cpu --seconds 5 --set data.global_batch_size=32
alexnet-fast doctor quickstart || [ $? -eq 1 ]
set +x
WALK

# The pixels of a few batches, as one number; the Loader, packing and a short training.
cat >"$work/pixels.py" <<'PIXELS'
import hashlib, sys
from alexnet_fast import Loader

digest = hashlib.sha256()
for train in (True, False):
    with Loader(sys.argv[1], 8, train=train, size=64, seed=1) as loader:
        for images, labels in loader:
            digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
print("pixels", digest.hexdigest())
PIXELS
cat >"$work/arm64.sh" <<'ARM'
set -eu
cd
uname -m
python3 -m venv env
. env/bin/activate
grep -v '^torch==' /work/source/requirements.txt >constraints.txt  # of PyPI's torch for aarch64, 2.10.0 is the last CPU build
pip install --quiet --constraint constraints.txt "$1" /work/alexnet_fast-*.whl
set -x
alexnet-fast sample --classes 4 --train 8 --val 4
alexnet-fast pack --data data/quickstart-images --out data/quickstart --workers 1
sha256sum data/quickstart/train.beton
python /work/pixels.py data/quickstart/train.beton
alexnet-fast train quickstart --device cpu --set schedule.epochs=1 --set data.global_batch_size=8 --set precision.level=O0 --set eval.global_batch_size=8
set +x
ARM

# The sources, as somebody who cloned them.
cat >"$work/sources.sh" <<'SOURCES'
set -eu
cp -r /work/source ~/source
cd ~/source
make quickstart ARGS="--set schedule.epochs=1"
SOURCES

for cell in $cells; do
    say "$cell"
    case $cell in
    debian12)
        bootstrap debian12 bookworm python3,python3-venv,ca-certificates,passwd
        without_turbojpeg debian12
        inside debian12 tester walk.sh "" --constraint /work/source/requirements.txt "$torch"
        ;;
    debian13)
        bootstrap debian13 trixie python3,python3-venv,ca-certificates,passwd
        without_turbojpeg debian13
        inside debian13 tester walk.sh "" --constraint /work/source/requirements.txt "$torch"
        ;;
    debian14)
        bootstrap debian14 forky python3,python3-venv,ca-certificates,passwd
        chroot "$chroots/debian14" sh -c '[ -e /usr/lib/python3/dist-packages/torch ] || { apt-get -o Acquire::Check-Valid-Until=false update -qq && apt-get install -y -qq --no-install-recommends python3-torch; }' >"$chroots/debian14-torch.log" 2>&1
        without_turbojpeg debian14
        inside debian14 tester walk.sh --system-site-packages
        ;;
    arm64)
        emulate_aarch64
        bootstrap arm64 trixie python3,python3-venv,ca-certificates,passwd --arch=arm64
        without_turbojpeg arm64
        inside arm64 tester arm64.sh "torch==2.10.0" >"$work/arm64.log" || { cat "$work/arm64.log"; fail "it does not work on aarch64"; }
        cat "$work/arm64.log"
        mkdir "$work/here"
        cp -r "$chroots/arm64/home/tester/data" "$work/here"
        (cd "$work/here" && PYTHONPATH=$root "$python" "$work/pixels.py" data/quickstart/train.beton) >"$work/here.log"
        grep -qxFf "$work/here.log" "$work/arm64.log" || fail "aarch64's pixels differ from this machine's"
        say "the pixels of aarch64 and of this machine are equal"
        ;;
    oldest | newest)
        mkdir -p "$work/home-$cell"
        versions=$("$python" - "$root/setup.cfg" "$cell" <<'BOUNDS'
import configparser, re, sys

config = configparser.ConfigParser()
config.read(sys.argv[1])
for line in config["options"]["install_requires"].split("\n"):
    if found := re.match(r"(\S+) >=(\S+)", line):
        print(found[1] + (f"~={found[2]}.0" if sys.argv[2] == "oldest" else ""))
BOUNDS
        )
        # shellcheck disable=SC2086  # a list of requirements
        HOME=$work/home-$cell env -u PYTHONPATH PATH="$(dirname "$python"):$PATH" sh "$work/walk.sh" "" $versions
        ;;
    sources12 | sources13)
        number=${cell#sources}
        suite=bookworm
        [ "$number" = 12 ] || suite=trixie
        for user in root tester; do
            # A user finds python3-venv; root finds nothing, and make installs it.
            packages=python3,make,ca-certificates,passwd
            [ "$user" = root ] || packages=$packages,python3-venv
            bootstrap "$cell-$user" "$suite" "$packages"
            say "$cell as $user"
            inside "$cell-$user" "$user" sources.sh
        done
        ;;
    container)
        bootstrap container bookworm python3,python3-venv,ca-certificates,passwd
        "$python" "$root/.ci/container_lines.py" "$root/Containerfile" /work/source >"$work/container.sh"
        cat >>"$work/container.sh" <<'USED'
cd /work
runuser -u alexnet -- env HOME=/home/alexnet sh -ec 'cd && alexnet-fast --version && alexnet-fast sample --train 8 --val 4 && alexnet-fast pack --data data/quickstart-images --out data/quickstart --workers 1 && { alexnet-fast doctor || [ $? -eq 1 ]; }'
USED
        # The lines make what they need: a second try starts from the same chroot.
        chroot "$chroots/container" sh -c 'rm -rf /opt/alexnet_fast; ! id alexnet >/dev/null 2>&1 || userdel --remove alexnet'
        inside container root container.sh
        ;;
    *)
        fail "unknown cell $cell"
        ;;
    esac
    say "$cell: passed"
done
