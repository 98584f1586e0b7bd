#!/usr/bin/env bash
# One process of a job on a machine or in a container: launch/task.sh -- COMMAND...
#
# `cv3jax train` exits 0 when it is done, and also after a SIGTERM, when it has saved. A scheduler cannot tell the two apart, so
# this exits 75 ("try again", EX_TEMPFAIL) where a SIGTERM came before the end. Other exit codes are passed on; 2 always is: what
# was given has to change first.
#
#   LOGS=DIR           a copy of the output goes to DIR/HOST-TIME.log
#   TASK_SIGNALS=all   a SIGTERM reaches COMMAND by itself (systemd signals every process); otherwise it is passed on, once
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

stopped=
passed=
woken=
child=

# shellcheck disable=SC2329  # the trap calls it
stop() {
  woken=yes
  if [ -n "$stopped" ]; then return; fi # passed on twice it would end the save
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
  # what ends the job must not end tee, which has the last lines to write
  exec > >(trap '' TERM INT HUP && exec tee -a "$log") 2>&1
  tee=$!
fi

code=143
if [ -z "$stopped" ]; then
  (exec "$@") & # without the parentheses bash would have it ignore Ctrl-C
  child=$!
  pass # of a SIGTERM that came when the command had begun and its number was not known yet
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
