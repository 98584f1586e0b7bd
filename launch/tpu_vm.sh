#!/usr/bin/env bash
# The hosts of a TPU VM slice, without a cluster: launch/tpu_vm.sh NAME GCLOUD-OPTIONS... -- COMMAND...
#
#   launch/tpu_vm.sh pod --zone=us-east5-a -- cv3jax train --config=base_512 --workdir=/runs/base_512
#   launch/tpu_vm.sh pod --zone=us-east5-a --logs     what the first host says now; --worker=3 for another
#   launch/tpu_vm.sh pod --zone=us-east5-a --stop     ends the step, saves, ends
#
# The command runs on every host under launch/local.sh, which starts it again after failures (RESTARTS times, default 20), and goes on
# when this ends. The options are those of `gcloud compute tpus tpu-vm ssh`. cv3jax is expected in FOLDER on every host (default:
# cv3jax in the home), with its .venv; docs/scale/launch.md says how it gets there. JAX finds the other hosts by itself.
set -euo pipefail

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit
fi

usage() {
  echo "launch/tpu_vm.sh: $1; launch/tpu_vm.sh NAME --zone=ZONE (--logs | --stop | -- COMMAND...)" >&2
  exit 2
}

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then usage "the slice's name comes first"; fi
name=$1
shift
action=
options=()
while [ $# -gt 0 ] && [ -z "$action" ]; do
  case $1 in
    --logs | --stop | --) action=$1 ;;
    *) options+=("$1") ;;
  esac
  shift
done

case $action in
  --)
    if [ $# -eq 0 ]; then usage "no command"; fi
    # A session of its own, which outlives the connection and in which --stop, as the machine's own shutdown, signals every process
    worker=all
    # shellcheck disable=SC2016  # for the hosts
    remote='if [ -e .pid ] && kill -0 "$(cat .pid)" 2>/dev/null; then echo "$(hostname): one is running; --stop ends it" >&2; exit 2; fi
export PATH="$PWD/.venv/bin:$PATH" TASK_SIGNALS=all'"
setsid launch/local.sh -r ${RESTARTS:-20} -- ${*@Q} </dev/null >>launch.log 2>&1 &
echo \$! >.pid"
    ;;
  --logs)
    worker=0
    remote="tail --lines=50 launch.log"
    ;;
  --stop)
    worker=all
    remote="kill -TERM -- -\$(cat .pid)"
    ;;
  *) usage "nothing to do" ;;
esac
exec gcloud compute tpus tpu-vm ssh "$name" --worker="$worker" "${options[@]}" --command="cd ${FOLDER:-cv3jax} || exit
$remote"
