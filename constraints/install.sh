#!/usr/bin/env bash
# Makes a virtual environment of the exact versions in this folder; `make venv` calls it, in the root of the checkout.
#
#   constraints/install.sh FOLDER PYTHON [TORCH [LINE]]
#
# TORCH is a version of torch instead of the pinned one. LINE is a line of megatron-core: constraints/megatron-LINE.txt holds
# the pins that differ. Exits 1, and says why in one line that begins with "error:", where it cannot be done.
set -euo pipefail
folder=$1 python=$2 torch=${3:-} line=${4:-}
REMEDY="name a Python 3.10 to 3.14 with make PYTHON=python3.11, or install uv, which brings one"

fail() {
    echo "error: $*" >&2
    exit 1
}

pinned() { # the version that a package is pinned to
    sed -n "s/^$1==\([^ ;]*\).*/\1/p" "${pins:-constraints/dev.txt}"
}

write_pins() { # the lines of dev.txt, in the place of some those of another line of megatron-core, and another torch
    local other=constraints/megatron-$line.txt own
    own=$(pinned megatron-core)
    if [ -z "$line" ] || [ "$line" = "${own%.*}" ]; then other=/dev/null; fi
    [ -r "$other" ] || fail "MEGATRON=$line: there are no pins for it in $other; constraints/README.md lists the lines"
    [[ ${torch:-2.7} =~ ^[0-9]+([.][0-9]+)+([+][0-9a-z.]+)?$ ]] || fail "TORCH=$torch is no version: give one as TORCH=2.7.1"
    awk -F '[][=~<>! ;]' '
        function name(word) { word = tolower(word); gsub(/[-_.]+/, "-", word); return word }
        FILENAME == ARGV[1] { if (!/^(#|$)/) { changed[name($1)] = 1; print }; next }
        !(name($1) in changed)' "$other" constraints/dev.txt |
        sed "s/^torch==.*/torch==${torch:-$(pinned torch)}/"
}

split_pins() { # into those whose hashes are kept, with them, and the others; torch is in neither
    : >"$folder/unhashed.txt"
    awk -v others="$folder/unhashed.txt" '
        FILENAME == ARGV[1] { if (!/^(#|$|torch==)/) wanted[$0] = 1; next }
        !/^ / { pin = $0; sub(/ *\\$/, "", pin); kept = pin in wanted; delete wanted[pin] }
        kept
        END { for (pin in wanted) print pin >others }' "$pins" constraints/hashes.txt constraints/hashes-megatron.txt >"$folder/hashed.txt"
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

trouble_with() { # why an interpreter cannot be used at all; nothing where it can
    local version
    if ! version=$(version_of "$1"); then
        echo "$1 is missing or does not start"
    elif [[ $version =~ ^(2[.].*|3[.][0-9])$ ]]; then
        echo "$1 is Python $version, and the code needs 3.10 or newer"
    elif ! [[ $version =~ ^3[.]1[0-4]$ ]]; then
        echo "$1 is Python $version, for which torch $(pinned torch) has no build (3.10 to 3.14 have)"
    elif ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$1 cannot make virtual environments (Debian: apt install python$version-venv)"
    fi
}

compiler() {
    command -v g++ || command -v c++ || command -v clang++
}

missing_to_compile() { # what a C++ extension for an interpreter lacks here; nothing where it lacks nothing
    if ! compiler >/dev/null; then
        echo "g++ is missing (Debian: apt install g++)"
    elif ! "$1" -c 'import os, sysconfig as s; os.stat(s.get_paths()["include"] + "/Python.h")' 2>/dev/null; then
        echo "the headers of Python are missing (Debian: apt install python$(version_of "$1")-dev)"
    fi
}

has_wheel() { # whether the index has megatron-core built for the folder's Python
    local wheels status=0
    wheels=$(mktemp -d)
    "$folder/bin/python" -m pip --disable-pip-version-check download -qq --no-deps --only-binary :all: \
        --dest "$wheels" "megatron-core==$(pinned megatron-core)" >/dev/null 2>&1 || status=$?
    rm -r "$wheels"
    return "$status"
}

# Sets `python` to one of uv's because of $1, or says $1 and the remedy $2. The Python of a cell is never replaced.
take_managed() {
    local reason=$1 remedy=$2 version=3.12 said
    if [ -n "$torch$line" ] || ! command -v uv >/dev/null; then fail "$reason: $remedy"; fi
    compiler >/dev/null || version=3.11 # the newest with a wheel of megatron-core 0.12
    export UV_PYTHON_PREFERENCE=only-managed
    { said=$(uv python install "$version" 2>&1 | sed -n '$s/^ *\(cause: \)*//p') && python=$(uv python find "$version" 2>/dev/null); } ||
        fail "$reason, and uv could not bring Python $version ($said): $remedy"
    echo "note: $reason. uv's Python $version is taken instead: $python"
}

make_folder() {
    local base='import sys; print(sys.base_prefix, sys.version_info[:2])' clear=--clear
    if [ "$("$python" -c "$base")" = "$("$folder/bin/python" -c "$base" 2>/dev/null)" ]; then clear=; fi
    "$python" -m venv $clear "$folder"
}

pip_install() { # says which package has no build for this Python, and what to do
    local log=$folder/pip.log status=0 constraints="$pins constraints/build.txt" of_build what
    of_build=$constraints
    if [[ " $* " == *" --no-build-isolation "* ]]; then of_build=; fi # pip 26 refuses the two together
    # the folder's own python3 comes first, as megatron-core's setup.py calls python3
    PATH="$PWD/$folder/bin:$PATH" PIP_BUILD_CONSTRAINT="$of_build" PIP_CONSTRAINT="$constraints" \
        "$folder/bin/python" -m pip --disable-pip-version-check install -qq "$@" 2>"$log" || status=$?
    cat "$log" >&2
    what=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' "$log" | head -n 1)
    if [ -n "$what" ]; then
        fail "$what has no build for Python $(version_of "$python") on this machine, or the index was not reached: $REMEDY"
    fi
    return "$status"
}

reason=$(trouble_with "$python")
if [ -n "$reason" ]; then take_managed "$reason" "$REMEDY"; fi
write_pins >/dev/null # complains before anything is made
make_folder
write_pins >"$folder/pins.txt"
pins=$folder/pins.txt
engine="megatron-core $(pinned megatron-core)"
reason=$(missing_to_compile "$python")
if [ -n "$reason" ] && ! has_wheel; then
    take_managed "$reason; $engine has no wheel for Python $(version_of "$python") and is compiled" \
        "install that, or name a Python that needs no compiler with make PYTHON=python3.11"
    make_folder
    write_pins >"$pins"
fi
echo "installing into $folder: some minutes; a gigabyte with torch's CPU build, six with its CUDA build"
# All is installed as pinned, unresolved, and only if its hash is kept, another line's pins too. torch follows by its
# exact version, so that pip takes the build this machine offers (CPU or CUDA): what it needs is there, but for CUDA's own
# packages. `pip check` then says whether the pins fit pyproject.toml's ranges.
split_pins
pip_install --no-deps --only-binary numpy,pyarrow,scipy --require-hashes --requirement "$folder/hashed.txt"
if [ -s "$folder/unhashed.txt" ]; then pip_install --no-deps --requirement "$folder/unhashed.txt"; fi
if [ -n "$torch" ]; then sed -i '/^setuptools==/d' "$pins"; fi # torch 2.11 wants another; it takes what it needs
pip_install "torch==$(pinned torch)"
pip_install --no-deps --no-build-isolation --ignore-requires-python --editable .
said=$("$folder/bin/python" -m pip check) || {
    echo "$said" >&2
    # pins of packages that megatron-core asks for and nothing of ours calls may want the pinned torch: nvidia-modelopt does
    if [ -z "$torch" ] || [[ $said == *grok1-bench* ]]; then exit 1; fi
    echo "note: the pins were made for another torch; the cell is made all the same"
}
