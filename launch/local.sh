#!/usr/bin/env bash
# Run a command on one machine and start it again after a failure: launch/local.sh [-n PROCESSES] [-r RESTARTS] -- COMMAND...
#
# Without -n there is one process, which drives every device of the machine; `cv3jax train …` alone does the same without restarts.
# With -n the processes are one run, as on that many hosts. On a CPU this rehearses a run of many hosts; GPUs are shared out evenly.
# When a process fails, the script names it and ends the others. A SIGTERM is passed on once; after it nothing is started again.
# Exit code 2 means that the command's input has to change; after it nothing is started again either.
#
#   -r RESTARTS        restarts after failures (default: 3)
#   LOGS=DIR           with -n: write the outputs of the processes to DIR/0.log, DIR/1.log, … (default: the terminal)
#   GRACE=S            seconds that the other processes have for ending after a failure (default: 60)
#   PAUSE=S            seconds before a restart (default: 10)
#   TASK_SIGNALS=all   the processes get a SIGTERM without this script (launch/tpu_vm.sh signals all of them)
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
shift $((OPTIND - 1)) # the -- is skipped too
[[ $processes =~ ^[1-9][0-9]*$ ]] || usage "-n $processes is not a number of processes"
[[ $restarts =~ ^[0-9]+$ ]] || usage "-r $restarts is not a number of restarts"
[ $# -gt 0 ] || usage "no command"

# compiled programs stay beside the workdir, where each later start of the command finds them
if [ -z "${JAX_COMPILATION_CACHE_DIR:-}" ]; then
  workdir=$(printf '%s\n' "$@" | sed -n -e 's/^--workdir=//p' -e '/^--workdir$/{n;p;}' | tail -n 1)
  case $workdir in
    *://*/?* | /?*) JAX_COMPILATION_CACHE_DIR=$(dirname "$workdir")/.cache/xla ;;
    *://* | "" | /) ;; # a whole bucket, or a command without a workdir
    *) JAX_COMPILATION_CACHE_DIR=$PWD/$(dirname "$workdir")/.cache/xla ;;
  esac
  if [ -n "${JAX_COMPILATION_CACHE_DIR:-}" ]; then export JAX_COMPILATION_CACHE_DIR CV3JAX_COMPILED_GB="${CV3JAX_COMPILED_GB:-20}"; fi
fi

gpus=0
if [ "$processes" -gt 1 ] && command -v nvidia-smi >/dev/null; then gpus=$(nvidia-smi --list-gpus | grep -c '^GPU'); fi
if [ $((gpus % processes)) -ne 0 ]; then usage "$gpus GPUs cannot be shared evenly by $processes processes"; fi
share=$((gpus / processes))
if [ -n "${LOGS:-}" ]; then mkdir -p "$LOGS" || exit 1; fi

say() { echo "launch/local.sh: $(date -u +%FT%TZ) $*" >&2; }

stopped= # after a signal nothing is started again
told=    # whether the processes of this start got a SIGTERM; a second one would end the save
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

# Start the processes and wait for all of them. `code` becomes the exit code of the first failure, or 2 if any process exited with 2
run() {
  local port=$((20000 + RANDOM % 12000)) index ended status killer=
  code=0 told=
  trap 'stopped=yes' TERM # until all process ids are known
  for ((index = 0; index < processes; index++)); do
    (start "$index" "$port" "$@") & # without the parentheses bash would have it ignore Ctrl-C
    running[$!]=$index
  done
  trap stop TERM
  if [ -n "$stopped" ]; then stop; fi
  while [ ${#running[@]} -gt 0 ]; do
    wait -n "${!running[@]}" 2>/dev/null # it reports one of two that end together, so all are checked below
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
    wait $! # a signal ends `wait`, but it would not end a `sleep` in the foreground
    if [ -z "$stopped" ]; then continue; fi
    say "stopped"
  fi
  exit "$code"
done
