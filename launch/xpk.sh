#!/usr/bin/env bash
# Run a command as a workload on a cluster that XPK made: launch/xpk.sh XPK-OPTIONS... -- COMMAND...
#
#   launch/xpk.sh --cluster=C --workload=base-512 --docker-image=IMAGE --tpu-type=v5p-4x8x8 --num-slices=2 -- cv3jax train …
#   launch/xpk.sh --cluster=C --workload=base-512 --docker-image=IMAGE --device-type=h100-mega-80gb-8 --num-nodes=4 -- cv3jax train …
#
# The options are those of `xpk workload create`. The image is that of launch/Dockerfile. The workload is started again after failures
# and preemptions, 20 times in all (--max-restarts). It is not started again after exit code 2, which means that the command's input
# has to change.
set -euo pipefail

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit
fi

options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  options+=("$1")
  shift
done
if [ $# -lt 2 ]; then
  echo "launch/xpk.sh: no command; give it after --: launch/xpk.sh --cluster=C … -- cv3jax train --config=base_512 --workdir=/runs/base_512" >&2
  exit 2
fi
shift
case " ${options[*]}" in
  *" --device-type"[=\ ][abghl]*) # GPUs; names of TPUs start with v or tpu. XPK's own variables say which machine this is
    # shellcheck disable=SC2016  # Kubernetes expands these
    options+=('--env=JAX_COORDINATOR_ADDRESS=$(JOBSET_NAME)-$(REPLICATED_JOB_NAME)-0-0.$(JOBSET_NAME):6002' \
      '--env=JAX_NUM_PROCESSES=$(NNODES)' '--env=JAX_PROCESS_ID=$(NODE_RANK)')
    ;;
esac

# single quotes, because XPK also puts the command into double-quoted YAML
exec xpk workload create --max-restarts=20 --restart-on-exit-codes=1,75 --termination-grace-period-seconds=300 \
  "${options[@]}" --command="exec /cv3jax/launch/task.sh -- ${*@Q}"
