#!/usr/bin/env bash
# Everything that a GPU has to show, in order of worth, in at most 480 seconds:
#
#     bash benchmarks/gpu.sh OUT [WHEELS]
#
# Runs on a bare machine with Python, torch for CUDA, torchvision, timm, numba and pytest, without a network. WHEELS is a
# folder of wheels for what is missing there; nothing else is installed, and Headrace runs from this checkout. Each part
# has its own time limit and leaves its results in OUT as soon as it has some; one that fails or is cut off does not stop
# the next. SETS=FOLDER names written sets to learn from (NAME/train, NAME/test; see benchmarks/learning/sets.py).
#
# DEVICE=cpu runs the same on a machine without a GPU, at smoke size, the kernel in Triton's interpreter.
set -uo pipefail
out=${1:?usage: gpu.sh OUT [WHEELS]}
wheels=${2:-}
device=${DEVICE:-cuda}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$out"
out=$(cd "$out" && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

if [ -n "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$wheels"/*.whl
fi
mkdir -p "$site/headrace"
for package in shards pipeline models train tools benchmarks; do ln -sfn "$root/$package" "$site/headrace/$package"; done
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
cd "$root" || exit 1

smoke=()
if [ "$device" = cpu ]; then
    smoke=(--smoke)
    export TRITON_INTERPRET=1
fi

# part NAME SECONDS COMMAND...: its output in OUT/NAME.log, its fate in OUT/parts.txt
part() {
    local name=$1 limit=$2 began=$SECONDS code=0
    shift 2
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
    case $code in
    0) fate=done ;;
    124 | 137) fate="cut off after $limit s" ;;
    *) fate="failed ($code)" ;;
    esac
    echo "$name: $fate, $((SECONDS - began)) s" | tee -a "$out/parts.txt"
    [ "$code" = 0 ] || tail -n 15 "$out/$name.log"
}

: >"$out/parts.txt"
# The kernels of the loader are compiled for the processor here while tests run that need none of them yet.
if [ "$device" = cuda ]; then
    "$python" -c 'from headrace.benchmarks.gpu.training import warm_up; warm_up()' >"$out/compile.log" 2>&1 &
fi
tests=(tests/gpu)
[ "$device" = cpu ] && tests=(tests/gpu --collect-only)
part tests 170 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
part views 60 "$python" -m headrace.benchmarks.gpu --device "$device" "${smoke[@]}" --part views --out "$out/views"
part training 140 "$python" -m headrace.benchmarks.gpu --device "$device" "${smoke[@]}" --part training --out "$out/training"
part learning 100 "$python" -m headrace.benchmarks.gpu --device "$device" "${smoke[@]}" ${SETS:+--sets "$SETS"} \
    --part learning --out "$out/learning"
cat "$out"/*/gpu.md >"$out/gpu.md" 2>/dev/null
cat "$out/parts.txt"
! grep -qv ': done' "$out/parts.txt"
