#!/usr/bin/env bash
# Run a command on all hosts of a TPU VM slice: launch/tpu_vm.sh NAME GCLOUD-OPTIONS... -- COMMAND...
#
#   launch/tpu_vm.sh pod --zone=us-east5-a -- cv3jax train --config=base_512 --workdir=/runs/base_512
#   launch/tpu_vm.sh pod --zone=us-east5-a --logs     show the first host's last lines; --worker=3 for another host
#   launch/tpu_vm.sh pod --zone=us-east5-a --stop     end the run after the current step, with a checkpoint
#
# On every host the command runs under launch/local.sh, which starts it again after failures (RESTARTS times, default 20). It keeps
# running when this script ends. The options are those of `gcloud compute tpus tpu-vm ssh`. Every host needs cv3jax with its .venv
# in FOLDER (default: cv3jax in the home directory); docs/scale/launch.md says how to install it. JAX finds the other hosts by itself.
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
    # The command gets a session of its own. The session outlives the connection, and --stop signals every process in it, as a
    # shutdown of the machine does
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
