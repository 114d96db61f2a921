#!/usr/bin/env bash
# All GPU measurements in one run with a time limit, for a machine with one NVIDIA GPU and no network.
#
#   bash benchmarks/gpu_session.sh [--budget 480] [--out DIR] [--wheels DIR] [--train toybox] [--from DIR] [--data DIR]
#
# Parts, in this order; one that fails does not stop the others:
#   setup     finds or installs the packages; describes the machine
#   tests     tests/test_gpu.py; meanwhile the idle cores render training pictures
#   timings   benchmarks/full_size.py: SDS and VSD at renders of 64 and 512 pixels, with the sizes of SD 2.1, SDXL and SD3
#   training  goes on training a prior for the time that is left, and saves it
#
# Options:
#   --budget SECONDS   wall time of the whole script, from its start (default 480; with --small 150)
#   --out DIR          folder of the results (default outputs/gpu-session-<time>)
#   --parts "A B"      only these parts of "tests timings training"
#   --wheels DIR       folder of wheels for packages that are missing
#   --venv DIR         where missing packages are installed (default outputs/gpu-venv; used again if it is there)
#   --train NAME       what is trained: a name of the table TRAININGS below
#   --from DIR         a run folder of an earlier training, which is resumed, or a diffusers folder, whose weights are the start
#   --data DIR         folder of rendered training pictures; without it they are rendered here
#   --pictures N       how many pictures are rendered at most (default 30000)
#   --small            a trial in small, on a CPU: tiny models, some seconds of training on two kinds, no GPU tests
#   -- OPTIONS         the rest goes to the trainer, for instance: -- --batch 256
#
# The results: summary.txt and summary.json (each part: done, failed or skipped, seconds, why), machine.txt, packages.json,
# a log of each part, tests.xml, timings.json, and training-NAME/ with the weights in prior/. A part that failed makes the exit
# code 1; wrong options make it 2.
#
# A folder of wheels is made on a machine with a network, with the same version of Python and the same processor. It needs no
# torch, of which the GPU machine has its own CUDA build:
#   pip download --only-binary=:all: --no-deps -d wheels diffusers trimesh xatlas fast-simplification rich-argparse shtab
# (For another version of Python add, for example, --python-version 3.12 --platform manylinux2014_x86_64.) $PYTHON names the
# interpreter whose torch is used; by default it is python3.

set -uo pipefail
here=$PWD
cd "$(dirname "$0")/.." || exit 2
root=$PWD

# Name -> pixels a side of its pictures, then the trainer's command. Folders, device and time limit are added below.
declare -A TRAININGS=(
  [toybox]="64 dreamlift.toybox.training.prior --init dreamlift/weights/toybox --batch 1024 --lr 2e-3 --warmup 100
    --hold 0.4 --ema 0.998"
  [toybox-geometry]="64 dreamlift.toybox.training.prior --maps --init dreamlift/weights/toybox-geometry --batch 1024 --lr 1e-3
    --warmup 100 --hold 0.4 --ema 0.998"
  [toybox-latent]="128 dreamlift.toybox.training.prior --init dreamlift/weights/toybox-latent
    --vae dreamlift/weights/toybox-latent/vae --teacher dreamlift/weights/toybox --batch 256 --warmup 100
    --hold 0.4 --ema 0.998"
)

budget='' out='' wheels='' venv='' name=toybox from='' data='' pictures=30000 small=false extra=()
parts='tests timings training'

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$root/benchmarks/gpu_session.sh"; }
# A path that is given is one of the folder in which the script was called.
whole() { case $1 in '' | /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }
stop() { echo "gpu_session.sh: $1" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --small) small=true; shift; continue ;;
    --) shift; extra=("$@"); break ;;
    --budget | --out | --parts | --wheels | --venv | --train | --from | --data | --pictures) ;;
    *) stop "unknown option $1; see --help" ;;
  esac
  [ $# -ge 2 ] || stop "$1 needs a value"
  case $1 in
    --budget) budget=$2 ;; --parts) parts=$2 ;; --train) name=$2 ;; --pictures) pictures=$2 ;;
    --out) out=$(whole "$2") ;; --wheels) wheels=$(whole "$2") ;; --venv) venv=$(whole "$2") ;;
    --from) from=$(whole "$2") ;; --data) data=$(whole "$2") ;;
  esac
  shift 2
done
if $small; then budget=${budget:-150}; else budget=${budget:-480}; fi
[[ $budget =~ ^[1-9][0-9]*$ ]] || stop "--budget is '$budget'; accepted: whole seconds, 1 or more"
[[ $pictures =~ ^[0-9]+$ ]] || stop "--pictures is '$pictures'; accepted: a whole number"
[[ -v TRAININGS[$name] ]] || stop "--train is '$name'; accepted: ${!TRAININGS[*]}"
for part in $parts; do
  [[ ' tests timings training ' == *" $part "* ]] || stop "--parts has '$part'; accepted: tests timings training"
done

# The least time, in seconds, in which each part is worth its start, and what the training needs to start and to save.
if $small; then
  device=cpu least_timings=15 least_training=20 saving=15 longest_training=8 pictures=500 size=32
  small_options="--kinds mug chair --batch 8 --warmup 5"
else
  device=cuda least_timings=60 least_training=60 saving=40 longest_training=$budget size=${TRAININGS[$name]%% *}
  small_options=''
fi
cores=$(nproc 2> /dev/null || echo 2)
renderers=$((cores > 2 ? cores - 2 : 1))  # two cores stay free for the tests
out=${out:-$root/outputs/gpu-session-$(date +%Y%m%d-%H%M%S)} venv=${venv:-$root/outputs/gpu-venv}
mkdir -p "$out" || stop "cannot write to --out $out"
out=$(cd "$out" && pwd)
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TQDM_DISABLE=1
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

# The random models are files of up to 7 GB; in memory they are written and read faster than on a disk.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && [ "$(df --output=avail -k /dev/shm | tail -n 1)" -gt 16000000 ]; then
  TMPDIR=/dev/shm
fi
# A program that is stopped leaves its temporary files, so they have a folder that is deleted at the end.
TMPDIR=$(mktemp -d -p "${TMPDIR:-/tmp}" gpu-session-XXXXXX) || stop "cannot write to ${TMPDIR:-/tmp}"
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# --- the summary -----------------------------------------------------------------------------------------------------------

part_names=() part_states=() part_seconds=() part_reasons=()
left() { echo $((budget - SECONDS)); }
json_text() { local text=${1//\\/\\\\}; text=${text//\"/\\\"}; printf '"%s"' "${text//[[:cntrl:]]/ }"; }

# record PART STATE SECONDS WHY: the summary is written each time, so that a killed script leaves one too.
record() {
  part_names+=("$1") part_states+=("$2") part_seconds+=("$3") part_reasons+=("$4")
  echo "== $1: $2 after $3 s${4:+: $4}"
  local i comma=''
  {
    printf '{\n  "budget_seconds": %d,\n  "seconds": %d,\n  "small": %s,\n  "parts": [' "$budget" "$SECONDS" "$small"
    for i in "${!part_names[@]}"; do
      printf '%s\n    {"part": "%s", "state": "%s", "seconds": %d, "why": %s}' "$comma" "${part_names[i]}" \
        "${part_states[i]}" "${part_seconds[i]}" "$(json_text "${part_reasons[i]}")"
      comma=,
    done
    printf '\n  ]\n}\n'
  } > "$out/summary.json"
  {
    for i in "${!part_names[@]}"; do
      printf '%-10s%-9s%5d s  %s\n' "${part_names[i]}" "${part_states[i]}" "${part_seconds[i]}" "${part_reasons[i]}"
    done
    echo "$SECONDS of $budget s"
  } > "$out/summary.txt"
}

child='' current='' rendering=()

# limited SECONDS LOG COMMAND...: runs with a time limit, on the screen and into LOG; the code is 124 or 137 after the limit.
limited() {
  local limit=$1 log=$2
  shift 2
  timeout --kill-after=5 "$limit" "$@" > >(exec tee -a "$log") 2>&1 &
  child=$!
  wait "$child"
  local code=$?
  child=''
  sleep 0.3  # tee writes what is left
  return "$code"
}

# why CODE LIMIT LOG: the reason of a failure, with the last line of the log.
why() {
  case $1 in
    124 | 137) echo "not ready within $2 s; see $(basename "$3")" ;;
    *) echo "exit code $1: $(grep -v '^[[:space:]]*$' "$3" | tail -n 1 | cut -c 1-200)" ;;
  esac
}

stop_rendering() {
  [ ${#rendering[@]} -eq 0 ] && return
  kill "${rendering[@]}" 2> /dev/null
  wait "${rendering[@]}" 2> /dev/null
  rendering=()
}

interrupted() {
  trap - INT TERM
  [ -n "$child" ] && kill -TERM "$child" 2> /dev/null && wait "$child"
  stop_rendering
  record "${current:-setup}" failed "$SECONDS" "interrupted"
  exit 130
}
trap interrupted INT TERM

# --- setup -----------------------------------------------------------------------------------------------------------------

# Prints "missing" and "old" requirements of pyproject.toml, one a line; writes packages.json. The code is 3 without a CUDA GPU.
look() {
  timeout 120 "$1" - "$out/packages.json" "$device" << 'PYTHON'
import importlib
import importlib.metadata
import json
import platform
import re
import sys

file, device = sys.argv[1:]
text = open("pyproject.toml", encoding="utf-8").read()
listed = text[text.index("\ndependencies = [") : text.index("\n]", text.index("\ndependencies = ["))]
wanted = re.findall(r'^\s*"([A-Za-z0-9_.-]+)([^";]*)', listed, re.MULTILINE)
wanted += [("numba", "")] + ([("pytest", ""), ("triton", "")] if device == "cuda" else [])  # --small runs no tests
modules = {"pillow": "PIL", "pyyaml": "yaml"}
versions, cuda = {}, None
for name, bound in wanted:
    try:
        importlib.import_module(modules.get(name, name.replace("-", "_")))
    except Exception as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f" ({type(error).__name__} when it is imported)"
        print(f"missing {name}{bound}{reason}")
        continue
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = None
    lowest = re.search(r">=([0-9.]+)", bound)
    numbers = [[int(n) for n in re.findall(r"\d+", v)[:3]] for v in (versions[name] or "9999", lowest[1] if lowest else "0")]
    if numbers[0] < numbers[1]:
        print(f"old {name}{bound}")
if "torch" in versions:
    import torch

    if torch.cuda.is_available():
        cuda = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda,
                "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)}
with open(file, "w", encoding="utf-8") as out:
    about = {"python": platform.python_version(), "executable": sys.executable, "gpu": cuda, "packages": versions}
    out.write(json.dumps(about, indent=2) + "\n")
sys.exit(3 if device == "cuda" and cuda is None and "torch" in versions else 0)
PYTHON
}

# A virtual environment over $python's packages. --system-site-packages gives it those of the base interpreter only, so where
# $python is itself of a virtual environment, a .pth file adds that one's.
make_venv() {
  [ -x "$venv/bin/python" ] && return
  "$python" -m venv --system-site-packages --without-pip "$venv" || return
  "$python" -c 'import sysconfig; print("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))' \
    > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth" || return
  "$venv/bin/python" -m pip --version > /dev/null 2>&1 || "$venv/bin/python" -m ensurepip
}

describe_machine() {
  {
    date -u
    uname -a
    echo "$cores cores"
    grep -m 1 'model name' /proc/cpuinfo
    grep MemTotal /proc/meminfo
    git log -1 --format='commit %H' 2> /dev/null
    if command -v nvidia-smi > /dev/null; then nvidia-smi; nvidia-smi -q; else echo "there is no nvidia-smi"; fi
  } > "$out/machine.txt" 2>&1
}

# Sets what setup finds: $code, and the requirements that are $missing or $old, one a line.
look_again() {
  found=$(look "$python" 2>> "$log")
  code=$?
  missing=$(sed -n 's/^missing //p' <<< "$found") old=$(sed -n 's/^old //p' <<< "$found")
}

# Sets $python; the code is not 0, and $reason is set, if the other parts cannot run.
setup() {
  local log=$out/setup.txt found code missing old
  reason=''
  python=$(command -v "${PYTHON:-python3}") || { reason="there is no ${PYTHON:-python3}"; return 1; }
  [ -x "$venv/bin/python" ] && python=$venv/bin/python
  describe_machine
  look_again
  if [ -n "$missing$old" ] && [ -n "$wheels" ]; then
    make_venv >> "$log" 2>&1 || { reason="no virtual environment in $venv; see setup.txt"; return 1; }
    python=$venv/bin/python
    local one names install=("$python" -m pip install -q --no-index --find-links)
    mapfile -t names < <(sed -n 's/ (.*//; /./p' <<< "$missing")
    if [ ${#names[@]} -gt 0 ] && ! timeout 120 "${install[@]}" "$wheels" "${names[@]}" >> "$log" 2>&1; then
      # One that is not there, or that one of them depends on without importing it, must not keep away the others.
      for one in "${names[@]}"; do timeout 30 "${install[@]}" "$wheels" --no-deps "$one" >> "$log" 2>&1; done
    fi
    # Packages that are too old are tried one by one: that the folder has no newer one is no failure.
    mapfile -t names < <(sed -n '/./p' <<< "$old")
    for one in "${names[@]}"; do timeout 30 "${install[@]}" "$wheels" "$one" >> "$log" 2>&1; done
    look_again
  fi
  if [ -n "$missing" ]; then
    reason="missing: ${missing//$'\n'/, }; put the wheels into a folder and add --wheels FOLDER (see --help)"
    [ -n "$wheels" ] && reason="missing, and not installed from $wheels: ${missing//$'\n'/, }; see setup.txt"
    return 1
  fi
  [ "$code" -eq 3 ] && { reason="torch of $python sees no CUDA GPU; --small is a trial without one"; return 1; }
  [ "$code" -ne 0 ] && { reason="$python: $(why "$code" 0 "$log")"; return 1; }
  [ -n "$old" ] && reason="older than pyproject.toml asks for: ${old//$'\n'/, }"
  return 0
}

# --- pictures for the training ----------------------------------------------------------------------------------------------

own_data=$root/outputs/gpu-data  # outside the results, of which it would be the larger part, and used again
$small && own_data=$out/data  # of two kinds only
maker=dreamlift.toybox.training.dataset prefix=pictures
if [[ ${TRAININGS[$name]} == *" --maps "* ]]; then maker=dreamlift.toybox.training.geometry prefix=maps; fi
count() { find "$1" -maxdepth 1 -name "$prefix-$size-*.npz" 2> /dev/null | wc -l; }

# Each process renders every so-manieth file of 500 pictures, which takes its name only when it is whole.
start_rendering() {
  [ -n "$data" ] && return
  local k kinds=()
  $small && kinds=(--kinds mug chair)
  for ((k = 0; k < renderers; k++)); do
    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 CUDA_VISIBLE_DEVICES='' nice -n 19 "$python" -m "$maker" \
      --data "$own_data" --shards $(((pictures + 499) / 500)) --first "$k" --stride "$renderers" --size "$size" "${kinds[@]}" \
      >> "$out/rendering.txt" 2>&1 &
    rendering+=($!)
  done
}

# render_until SECOND: renders until all is there or the script has run so long.
render_until() {
  start_rendering
  while [ "$SECONDS" -lt "$1" ] && [ -n "$(jobs -pr)" ]; do sleep 0.5; done
  stop_rendering
}

# --- the parts -------------------------------------------------------------------------------------------------------------

run_tests() {
  $small && { record tests skipped 0 "--small: tests/test_gpu.py needs a GPU"; return; }
  local begun=$SECONDS limit=$((budget * 3 / 10)) code
  [ "$limit" -gt $(($(left) - 10)) ] && limit=$(($(left) - 10))
  [ "$limit" -lt 20 ] && { record tests skipped 0 "only $(left) s are left"; return; }
  [[ " $parts " == *" training "* ]] && start_rendering
  limited "$limit" "$out/tests.txt" "$python" -m pytest tests/test_gpu.py -p no:cacheprovider -v --durations=10 \
    --junitxml="$out/tests.xml"
  code=$?
  stop_rendering  # the timings need the cores
  if [ "$code" -eq 0 ]; then
    record tests "done" $((SECONDS - begun)) "$(tail -n 1 "$out/tests.txt" | sed 's/^=* *//; s/ *=*$//')"
  else
    record tests failed $((SECONDS - begun)) "$(why "$code" "$limit" "$out/tests.txt")"
  fi
}

run_timings() {
  local begun=$SECONDS limit=$(($(left) - 8)) code sizes=(--sizes 64 512)
  # Without a training after it, this part may use all of the time.
  [[ " $parts " == *" training "* ]] && limit=$((budget * 7 / 10 - SECONDS))
  [ "$limit" -lt "$least_timings" ] && { record timings skipped 0 "$limit s are left for it; it needs $least_timings"; return; }
  $small && sizes=(--sizes 16 32 --steps 3 --small)
  # The program stops itself in time, except while a model is being loaded.
  limited "$limit" "$out/timings.txt" "$python" benchmarks/full_size.py --models sd-2.1-base sdxl sd3-medium \
    --device "$device" --seconds $((limit * 9 / 10 - 2)) --json "$out/timings.json" "${sizes[@]}"
  code=$?
  rm -rf "${TMPDIR:?}"/*  # a model that was being measured when the limit was reached
  if [ "$code" -eq 0 ]; then
    record timings "done" $((SECONDS - begun)) "$("$python" -c 'import json, sys
found = json.load(open(sys.argv[1]))
print(len(found["rows"]), "rows,", len(found["skipped"]), "left out for lack of time")' "$out/timings.json")"
  else
    record timings failed $((SECONDS - begun)) "$(why "$code" "$limit" "$out/timings.txt")"
  fi
}

# Copies what is resumed into the run's folder, or sets start=(--init FOLDER).
find_start() {
  start=()
  [ -z "$from" ] && return
  if [ -f "$from/training.safetensors" ]; then
    mkdir -p "$run" && cp "$from/training.safetensors" "$run" && { cp "$from/loss.jsonl" "$run" 2> /dev/null || true; }
  elif [ -f "$from/model_index.json" ]; then
    start=(--init "$from")
  elif [ -f "$from/prior/model_index.json" ]; then
    start=(--init "$from/prior")
  else
    return 1
  fi
}

run_training() {
  local begun=$SECONDS run=$out/training-$name log=$out/training.txt start seconds limit code
  [ "$(left)" -lt "$least_training" ] && { record training skipped 0 "$(left) s are left; it needs $least_training"; return; }
  find_start || { record training failed 0 "--from $from has neither training.safetensors nor model_index.json"; return; }
  if [ -z "$data" ] && [ $(($(count "$own_data") * 500)) -lt "$pictures" ]; then
    render_until $((SECONDS + $(left) / 4))
  fi
  local folder=${data:-$own_data} shards
  shards=$(count "$folder")
  if [ "$shards" -eq 0 ]; then
    [ -z "$data" ] && folder="$folder; see rendering.txt"
    record training failed $((SECONDS - begun)) "no files $prefix-$size-*.npz in $folder"
    return
  fi
  seconds=$(($(left) - saving)) limit=$(($(left) - 8))
  [ "$seconds" -gt "$longest_training" ] && seconds=$longest_training
  [ "$seconds" -lt 5 ] && { record training skipped $((SECONDS - begun)) "$(left) s are left after rendering"; return; }
  # The time limit ends the run, not the number of steps. Of an option that is given twice the last one counts.
  # shellcheck disable=SC2086
  limited "$limit" "$log" "$python" -m ${TRAININGS[$name]#* } $small_options --steps 100000000 --save-every 200 --pictures 0 \
    --size "$size" --data "$folder" --out "$run" --device "$device" --seconds "$seconds" "${start[@]}" "${extra[@]}"
  code=$?
  if [ "$code" -eq 0 ]; then
    record training "done" $((SECONDS - begun)) "$((shards * 500)) pictures; $(tail -n 1 "$run/loss.jsonl" | tr -d '{}"')"
  else
    record training failed $((SECONDS - begun)) "$(why "$code" "$limit" "$log")"
  fi
}

# --- all of it -------------------------------------------------------------------------------------------------------------

echo "results in $out; at most $budget s"
current=setup
if setup; then
  record setup "done" "$SECONDS" "$reason"
  for part in tests timings training; do
    current=$part
    if [[ " $parts " == *" $part "* ]]; then "run_$part"; else record "$part" skipped 0 "not among --parts"; fi
  done
else
  record setup failed "$SECONDS" "$reason"
  for part in tests timings training; do record "$part" skipped 0 "setup failed"; done
fi
echo
cat "$out/summary.txt"
[[ " ${part_states[*]} " != *" failed "* ]]
