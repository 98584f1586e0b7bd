#!/usr/bin/env bash
# Run one process of a job, on a machine or in a container: launch/task.sh -- COMMAND...
#
# `cv3jax train` exits with 0 when it is done. It also exits with 0 when it has saved after a SIGTERM. A scheduler cannot tell the two
# apart. This script therefore exits with 75 (EX_TEMPFAIL, "try again") if a SIGTERM came before the end. Other exit codes are
# passed on. Exit code 2 is always passed on: the command's input has to change first.
#
#   LOGS=DIR           write a copy of the output to DIR/HOST-TIME.log
#   TASK_SIGNALS=all   COMMAND gets a SIGTERM without this script (systemd signals every process); otherwise it is passed on, once
set -uo pipefail

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit
fi
if [ "${1:-}" = -- ]; then shift; fi
if [ $# -eq 0 ]; then
  echo "launch/task.sh: no command; e.g. launch/task.sh -- cv3jax train --config=base_512 --workdir runs/base_512" >&2
  exit 2
fi

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

stopped=
passed=
woken=
child=

# shellcheck disable=SC2329  # the trap calls it
stop() {
  woken=yes
  if [ -n "$stopped" ]; then return; fi # a second SIGTERM would end the save
  stopped=yes
  pass
}

# shellcheck disable=SC2329
pass() {
  if [ -z "$stopped" ] || [ -z "$child" ] || [ -n "$passed" ] || [ "${TASK_SIGNALS:-}" = all ]; then return; fi
  passed=yes
  kill -TERM "$child"
}
trap stop TERM
trap 'woken=yes' INT # a terminal's Ctrl-C reaches COMMAND by itself

tee=
if [ -n "${LOGS:-}" ]; then
  mkdir -p "$LOGS" || exit 1
  log="$LOGS/$(hostname)-$(date -u +%Y%m%dT%H%M%SZ).log"
  # a signal that ends the job must not end tee, which still has to write the last lines
  exec > >(trap '' TERM INT HUP && exec tee -a "$log") 2>&1
  tee=$!
fi

code=143
if [ -z "$stopped" ]; then
  (exec "$@") & # without the parentheses bash would have it ignore Ctrl-C
  child=$!
  pass # a SIGTERM may have come after the command's start and before its process id was known
  while true; do
    woken=
    wait "$child"
    code=$?
    if [ -z "$woken" ]; then break; fi # a trap ends `wait` before the child's end
  done
fi
if [ -n "$stopped" ] && [ "$code" -ne 2 ]; then
  echo "launch/task.sh: stopped by SIGTERM (the command's exit code was $code); exit 75, to be started again" >&2
  code=75
fi
if [ -n "$tee" ]; then
  exec >&- 2>&-
  wait "$tee"
fi
exit "$code"
