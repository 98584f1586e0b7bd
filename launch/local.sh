#!/usr/bin/env bash
# One machine, one process or several, started again after a failure: launch/local.sh [-n PROCESSES] [-r RESTARTS] -- COMMAND...
#
# One process drives every device of the machine, and `cv3jax train …` alone is enough to start it; this adds the restarts. With -n
# the processes are one run, as on so many hosts: on a CPU a rehearsal of them, on GPUs each has its share of them. When one of them
# fails it is named and the others are ended, GRACE seconds at most. SIGTERM is passed on once, and nothing is started again after it.
# Exit 2, which means that what was given has to change, is final.
#
#   -r RESTARTS        after failures (default: 3)
#   LOGS=DIR           with -n: for the processes' outputs, DIR/0.log and so on (default: all to the terminal)
#   GRACE=S            that the others have to end in (default: 60)
#   PAUSE=S            before a restart (default: 10)
#   TASK_SIGNALS=all   a SIGTERM reaches the processes by itself (launch/tpu_vm.sh signals all of them)
set -uo pipefail

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit
fi

usage() {
  echo "launch/local.sh: $1; launch/local.sh [-n PROCESSES] [-r RESTARTS] -- COMMAND..." >&2
  exit 2
}

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then usage "bash 5.1 or newer is needed, this is $BASH_VERSION"; fi
processes=1
restarts=3
while getopts ":n:r:" option; do
  case $option in
    n) processes=$OPTARG ;;
    r) restarts=$OPTARG ;;
    *) usage "-$OPTARG is not an option, or has no value" ;;
  esac
done
shift $((OPTIND - 1)) # past the -- too
[[ $processes =~ ^[1-9][0-9]*$ ]] || usage "-n $processes is not a number of processes"
[[ $restarts =~ ^[0-9]+$ ]] || usage "-r $restarts is not a number of restarts"
[ $# -gt 0 ] || usage "no command"

gpus=0
if [ "$processes" -gt 1 ] && command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi --list-gpus | grep -c '^GPU'); fi
if [ $((gpus % processes)) -ne 0 ]; then usage "$gpus GPUs cannot be shared evenly by $processes processes"; fi
share=$((gpus / processes))
if [ -n "${LOGS:-}" ]; then mkdir -p "$LOGS" || exit 1; fi

say() { echo "launch/local.sh: $(date -u +%FT%TZ) $*" >&2; }

stopped= # by a signal: nothing is started again
told=    # the processes of this start have their SIGTERM: a second one would end the save
code=0
declare -A running=() # process id → its number in the run

tell() {
  if [ -n "$told" ]; then return; fi
  told=yes
  if [ ${#running[@]} -gt 0 ]; then kill -TERM "${!running[@]}" 2>/dev/null; fi
}

# shellcheck disable=SC2329  # the trap calls it
stop() {
  stopped=yes
  if [ "${TASK_SIGNALS:-}" != all ]; then tell; fi
}
trap 'stopped=yes' INT # a terminal's Ctrl-C reaches the processes by itself

start() { # INDEX PORT COMMAND...
  local index=$1 port=$2
  shift 2
  if [ "$processes" -gt 1 ]; then
    export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$index
    if [ "$share" -gt 0 ]; then
      JAX_LOCAL_DEVICE_IDS=$(seq -s, $((index * share)) $(((index + 1) * share - 1)))
      export JAX_LOCAL_DEVICE_IDS
    fi
    if [ -n "${LOGS:-}" ]; then exec >>"$LOGS/$index.log" 2>&1; fi
  fi
  exec "$@"
}

# the processes from their start to the end of the last; leaves the first failure's exit code in `code`, or 2 if one was that
run() {
  local port=$((20000 + RANDOM % 12000)) index ended status killer=
  code=0 told=
  trap 'stopped=yes' TERM # until all of them are known
  for ((index = 0; index < processes; index++)); do
    (start "$index" "$port" "$@") & # without the parentheses bash would have it ignore Ctrl-C
    running[$!]=$index
  done
  trap stop TERM
  if [ -n "$stopped" ]; then stop; fi
  while [ ${#running[@]} -gt 0 ]; do
    wait -n "${!running[@]}" 2>/dev/null # it forgets the second of two that end together, so all are looked at
    for ended in "${!running[@]}"; do
      if kill -0 "$ended" 2>/dev/null; then continue; fi
      wait "$ended"
      status=$?
      index=${running[$ended]}
      unset "running[$ended]"
      if [ "$status" -eq 0 ]; then continue; fi
      if [ "$processes" -gt 1 ]; then say "process $index of $processes: exit code $status"; fi
      if [ "$code" -eq 0 ] || [ "$status" -eq 2 ]; then code=$status; fi
      if [ ${#running[@]} -gt 0 ] && [ -z "$killer" ]; then
        tell
        (sleep "${GRACE:-60}" && kill -KILL "${!running[@]}") >/dev/null 2>&1 &
        killer=$!
      fi
    done
  done
  if [ -n "$killer" ]; then kill "$killer" 2>/dev/null; fi
}

for ((failures = 0; ; failures++)); do
  run "$@"
  if [ -n "$stopped" ]; then
    say "stopped (exit code $code)"
  elif [ "$code" -ne 0 ] && [ "$code" -ne 2 ] && [ "$failures" -lt "$restarts" ]; then
    say "exit code $code; start $((failures + 1)) of $restarts again in ${PAUSE:-10} s"
    sleep "${PAUSE:-10}" >/dev/null 2>&1 &
    wait $! # which a signal ends, as it does not end `sleep`
    if [ -z "$stopped" ]; then continue; fi
    say "stopped"
  fi
  exit "$code"
done
