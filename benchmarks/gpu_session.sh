#!/usr/bin/env bash
# Measure on one large GPU what the other benchmarks cannot, in under twelve minutes: bash benchmarks/gpu_session.sh
#
# One table and one JSON come out, DIR/gpu_session.md and DIR/gpu_session.json, with hardware, versions, commit and date. They are
# composed anew after each section, so that a session that is stopped has what it measured. A section has a process and a limit of
# its own; what it does not use is left to those after it. A section that lacks a library, fails or is stopped leaves the others.
#
#   --out DIR          results, logs, compiled programs (default: runs/gpu_session)
#   --size full|tiny   the released sizes, or those of the tests (default: full)
#   --device cuda|cpu  what to measure (default: cuda)
#   --seconds N        limit of the whole session (default: 700)
#   --sections A,B     some of forward,sampling,decode,serving,train (default: all); others keep their earlier results
#   --limits A=N,B=N   seconds for some sections, in place of the table's
#   --revision COMMIT  the commit, where the files came without Git
#   PYTHON=FILE        the Python to use (default: .venv/bin/python of this checkout, or else python3)
#
# Estimates for an H200, 16 cores and empty caches, in seconds. Work is FLOPs at 40 % of 989 TFLOP/s. Compilation is about
# what benchmarks/gpu_plan.py needs ahead of time on two cores (a train step 70, a sampler 14, decoders 14 and 4): there are more
# cores, but XLA times its kernels too. That of torch.compile, 50 forward and 100 with gradients, is a guess.
#
#   section   what                                                        weights  compile  run  in all  limit
#   check     versions, devices                                                                   10    120
#   forward   2.9 B, 8 × 64², bfloat16, beside torch.compile with cuDNN        30       65    5    100    150
#   sampling  50 + 10 and 4 + 1 steps, 4 × 1024², with T5-XXL                  25       75   30    130    165
#   decode    4096² in tiles of 1024, and whole                                 5       20   15     40     75
#   serving   `cv3jax serve`, 4 + 1 steps, batches of 7, saturated             20       55   25    100    140
#   train     2.9 B, 8 × 64², AdamW, EMA, beside torch.compile with cuDNN      40      170   10    220    what is left
#   all                                                                                           600    700
set -uo pipefail

usage() {
  echo "benchmarks/gpu_session.sh: $1; --help lists the options" >&2
  exit 2
}

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=runs/gpu_session
size=full
device=cuda
seconds=700
sections=forward,sampling,decode,serving,train
revision=
limits=
while [ $# -gt 0 ]; do
  case $1 in
    --out | --size | --device | --seconds | --sections | --limits | --revision) [ -n "${2:-}" ] || usage "$1 has no value" ;;
    *) usage "$1 is not an option" ;;
  esac
  printf -v "${1#--}" %s "$2"
  shift 2
done
case $size in full | tiny) ;; *) usage "--size $size: give full or tiny" ;; esac
case $device in cuda | cpu) ;; *) usage "--device $device: give cuda or cpu" ;; esac
[[ $seconds =~ ^[1-9][0-9]{0,5}$ ]] || usage "--seconds $seconds: give a whole number of seconds"
for name in ${sections//,/ }; do
  case $name in forward | sampling | decode | serving | train) ;; *) usage "--sections $name: there is no such section" ;; esac
done
declare -A most=([forward]=150 [sampling]=165 [decode]=75 [serving]=140 [train]=$seconds)
# the table is of full size
if [ "$size" = tiny ]; then for name in "${!most[@]}"; do most[$name]=$seconds; done; fi
for word in ${limits//,/ }; do
  [[ $word =~ ^(forward|sampling|decode|serving|train)=([1-9][0-9]{0,5})$ ]] || usage "--limits $word: give SECTION=SECONDS"
  most[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
done

python=${PYTHON:-$here/../.venv/bin/python}
[ -x "$python" ] || python=${PYTHON:-python3}
command -v "$python" >/dev/null || usage "$python is missing; give PYTHON=FILE"
"$python" -c 'import jax' 2>/dev/null || usage "$python has no jax; give PYTHON=FILE, or install '.[cuda13,train,serve]'"
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}
# a second session in the same folder compiles little again
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/cache/jax}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$out/cache/inductor}
if [ "$device" = cpu ]; then export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=; fi

child=
current=
report() {
  "$python" "$here/gpu_session.py" report --out "$out" --sections "$sections"
}

# shellcheck disable=SC2317  # called by the trap
stop() {
  trap '' TERM INT
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null
    wait "$child"
    echo "$1 $((SECONDS - began)) $limit" >"$out/$current.end"
  fi
  report
  exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT

# run NAME LIMIT COMMAND...: in a group of its own, which `timeout` ends as a whole
run() {
  current=$1 limit=$2 began=$SECONDS
  shift 2
  rm -f "$out/$current.json" "$out/$current.end"
  timeout --kill-after=10 "$limit" "$@" >"$out/$current.log" 2>&1 &
  child=$!
  wait "$child"
  local code=$?
  child=
  echo "$code $((SECONDS - began)) $limit" >"$out/$current.end"
  return "$code"
}

echo "gpu_session: $size on $device, at most $seconds s; results in $out"
run check $((seconds < 120 ? seconds : 120)) "$python" "$here/gpu_session.py" check --out "$out" --device "$device" \
  ${revision:+--revision "$revision"}
checked=$?
cat "$out/check.log"
[ "$checked" = 0 ] || exit "$checked"
rival=$(cat "$out/rival")

unet=(--size "$size" --apart --beside ${rival:+"$rival"})
sampling=(--size "$size")
decode=(--size "$size")
serving=(--size "$size")
rounds=20
if [ "$size" = tiny ]; then
  rounds=2
  sampling+=(--batch 2 --rounds 1)
  decode+=(--side 128 --tile 64 --rounds 1)
  serving+=(--batch 3 --num 9)
fi
saved=0
for name in ${sections//,/ }; do
  [ ! -s "$out/$name.missing" ] || continue
  left=$((seconds - SECONDS - 10)) # the last ones are for the table
  limit=$((most[$name] + saved < left ? most[$name] + saved : left))
  [ "$limit" -gt 0 ] || break
  echo "gpu_session: $name, at most $limit s" >&2
  case $name in
    forward | train) words=("$here/unet.py" --what "$name" --rounds "$rounds" "${unet[@]}") ;;
    sampling) words=("$here/sampling.py" "${sampling[@]}") ;;
    decode) words=("$here/tiled_decode.py" "${decode[@]}") ;;
    serving) words=("$here/serve_released.py" "${serving[@]}") ;;
  esac
  run "$name" "$limit" "$python" "${words[@]}" --json "$out/$name.json"
  saved=$((limit > SECONDS - began ? limit - (SECONDS - began) : 0))
  report >/dev/null 2>&1
done
report
