#!/bin/sh
# What `cargo xtask gpu-check --pack` packs, run on a machine with a GPU: run.sh [--emulated] [OUT]
#
# It needs the driver; Python with PyTorch for the peers and compute-sanitizer are used if they are there. Reports go to the
# folder OUT (results by default): summary.json, bench.json, model-*.json, peers.json and what each step said. AIENG_MODEL
# names a GGUF file for the comparison with the CPU; without it one with random weights is made. With --emulated, a package
# built with the emulator proves that all of this works, without a GPU and on tiny shapes.
set -u
here=$(cd "$(dirname "$0")" && pwd)
emulated=
if [ "${1:-}" = --emulated ]; then emulated=--emulated; shift; fi
out=${1:-results}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
passed=0 failed=0 skipped=0 steps=

note() { # step, outcome, why
    steps="$steps${steps:+,
}  {\"step\": \"$1\", \"outcome\": \"$2\", \"why\": \"${3:-}\"}"
    case $2 in
        passed) passed=$((passed + 1)) ;;
        failed) failed=$((failed + 1)); echo "FAILED: $1: ${3:-}" ;;
        skipped) skipped=$((skipped + 1)); echo "SKIPPED: $1: ${3:-}" ;;
    esac
}

step() { # name, file, command...
    name=$1 file=$out/$2
    shift 2
    echo "==> $name"
    if "$@" >"$file" 2>&1 && ! grep -q '^running 0 tests' "$file"; then
        note "$name" passed
    else
        status=$?
        tail -n 20 "$file"
        note "$name" failed "exit status $status, see $(basename "$file")"
    fi
}

# A greedy answer.
answer() { # device, file
    "$here/aieng" run --device "$1" --model "$model" --raw --temp 0 -n "$tokens" --ctx 256 --json "Once upon a time" >"$2"
}

parity() {
    answer cpu "$out/cpu.json" && answer cuda "$out/cuda.json" || return 1
    ids='s/.*"token_ids": *\(\[[^]]*\]\).*/\1/p'
    cpu=$(sed -n "$ids" "$out/cpu.json") cuda=$(sed -n "$ids" "$out/cuda.json")
    echo "cpu:  $cpu"
    echo "cuda: $cuda"
    [ -n "$cpu" ] && [ "$cpu" = "$cuda" ]
}

# Decoding at a context, by a model whose random weights are made on the device; rows go to model-FORMAT.json.
speed() { # format of the weights, numbers of sequences
    "$here/aieng" bench --device cuda --random-weights "$shape" --quant "$1" --batch-size 2048 \
        -p 0 -n "$generated" -d "$depth" --sequences "$2" -r "$runs" --json >"$out/model-$1.json"
}

if [ -z "$emulated" ] && ! [ -e /dev/nvidiactl ]; then
    echo "SKIPPED: no CUDA device (there is no /dev/nvidiactl)"
    exit 0
fi

# One at a time: all tests share one device, and its errors are sticky.
if [ -n "$emulated" ]; then
    filter="rms_norm" tokens=2 shape=llama-small generated=2 depth=16 runs=1 many=3
else
    filter= tokens=32 shape=llama-3-8b generated=64 depth=1024 runs=3 many=64
fi
step "conformance" conformance.txt "$here/tests" --test-threads 1 conformance
step "every operation's cases" tests.txt "$here/tests" --test-threads 1 --skip conformance $filter
if [ -z "$emulated" ] && grep -q '^SKIPPED' "$out/tests.txt"; then note "the device in the tests" failed "tests skipped it"; fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
if [ -n "$emulated" ]; then
    note "compute-sanitizer" skipped "emulated"
elif [ -z "$sanitizer" ]; then
    note "compute-sanitizer" skipped "it is not installed"
else
    for tool in memcheck racecheck synccheck; do
        step "compute-sanitizer $tool" "$tool.txt" "$sanitizer" --tool "$tool" --error-exitcode 9 \
            "$here/tests" --test-threads 1 rms_norm rope kv_write act_mul embed
    done
fi

model=${AIENG_MODEL:-}
if [ -z "$model" ]; then
    model=$out/model.gguf
    step "a model with random weights" make-model.txt "$here/aieng" bench --make-model llama-small "$model"
fi
step "answers are those of the CPU" parity.txt parity

step "benchmarks" bench.txt "$here/bench" $emulated --json "$out/bench.json"
step "whole models, int4" model-int4.txt speed int4 "1,$many"
step "whole models, bf16" model-bf16.txt speed bf16 1
if ! command -v python3 >/dev/null; then
    note "peers" skipped "there is no python3"
else
    step "peers" peers.txt python3 -B "$here/gpu.py" ${emulated:+--cpu} --json "$out/peers.json"
    if grep '^SKIPPED' "$out/peers.txt"; then note "some peers" skipped "see peers.txt"; fi
    step "table" table.md python3 -B "$here/gpu.py" --table "$out"
    cat "$out/table.md"
fi

rm -f "$out/model.gguf"
printf '{"passed": %d, "failed": %d, "skipped": %d, "steps": [\n%s\n]}\n' \
    "$passed" "$failed" "$skipped" "$steps" >"$out/summary.json"
echo
echo "$passed passed, $failed failed, $skipped skipped; reports are in $out"
[ "$failed" = 0 ]
