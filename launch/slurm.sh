#!/usr/bin/env bash
#SBATCH --job-name=cv3jax
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#SBATCH --open-mode=append
#SBATCH --output=cv3jax-%j.log
# Run a command as a Slurm job: sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh -- COMMAND...
#
# Each task is one process of the run. 300 s before the time limit, this script gets a SIGTERM and passes it on. The tasks save and
# exit 0, and the job goes back to the queue with the same command. A preemption does the same (docs/scale/launch.md). The job ends
# for good when the command exits with 0, or with 2, which means that the command's input has to change. After any other failure
# the job is queued again, RESTARTS times.
#
#   LOGS=DIR     write the outputs of the tasks to DIR/0.log, DIR/1.log, … (default: cv3jax-JOBID in the folder of sbatch's call)
#   RESTARTS=N   restarts after failures; preemptions and time limits do not count (default: 3)
set -uo pipefail

if [ "${1:-}" = --help ]; then
  awk 'NR > 1 && !/^#/ { exit } NR > 1 && !/^#SBATCH/ { sub(/^# ?/, ""); print }' "$0"
  exit
fi
if [ "${1:-}" = -- ]; then shift; fi
if [ $# -eq 0 ]; then
  echo "launch/slurm.sh: no command; e.g. sbatch --nodes=4 launch/slurm.sh -- cv3jax train --config=base_512 --workdir runs/base_512" >&2
  exit 2
fi
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "launch/slurm.sh: not in a Slurm job; start it with sbatch, as in sbatch --nodes=4 launch/slurm.sh -- $*" >&2
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
logs=${LOGS:-cv3jax-$SLURM_JOB_ID}
mkdir -p "$logs" || exit 1

say() { echo "launch/slurm.sh: $(date -u +%FT%TZ) $*"; }

# By default JAX gives each task the one GPU that has the task's number on the node. With one task a node, JAX has to be told to
# take all GPUs
gpus=${SLURM_GPUS_ON_NODE:-0}
per_node=$((SLURM_NTASKS / SLURM_JOB_NUM_NODES))
if [ "$gpus" -gt 1 ] && [ "$per_node" -eq 1 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
elif [ "$gpus" -gt 0 ] && [ "$per_node" -ne "$gpus" ]; then
  say "$per_node tasks and $gpus GPUs a node; give --ntasks-per-node=$gpus, or 1 for one process a node" >&2
  exit 2
fi
if [ "$gpus" -gt 0 ]; then
  export XLA_FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true ${XLA_FLAGS:-}"
fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # since 22.05 srun does not read SLURM_CPUS_PER_TASK

stopped=
woken=

# shellcheck disable=SC2329  # the trap calls it
stop() {
  woken=yes
  if [ -n "$stopped" ]; then return; fi # a second SIGTERM would end the save
  stopped=yes
  say "SIGTERM: the tasks end after this step, with a checkpoint"
  if ! scancel --signal=TERM "$SLURM_JOB_ID" 2>/dev/null; then say "Slurm has signalled the tasks itself"; fi
}
trap stop TERM

say "start ${SLURM_RESTART_COUNT:-0}: $SLURM_NTASKS tasks on $SLURM_JOB_NODELIST, logs in $logs: $*"
# --kill-on-bad-exit: when a task dies, srun names it and ends the others. --gpu-bind=none: JAX chooses the GPU (see above)
srun --kill-on-bad-exit=1 --gpu-bind=none --open-mode=append --output="$logs/%t.log" "$@" 2>"$logs/srun.log" &
child=$!
while true; do
  woken=
  wait "$child"
  code=$?
  if [ -z "$woken" ]; then break; fi # a trap ends `wait` before srun's end
done

cat "$logs/srun.log" >&2
# srun exits with the highest code. That may be the code of a task that srun ended because another task had exited with 2
if grep -q 'Exited with exit code 2$' "$logs/srun.log"; then code=2; fi

again() {
  say "$1; back to the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit $?
}

fields=$(scontrol show job --oneliner "$SLURM_JOB_ID")
if [[ $fields != *JobState=RUNNING* ]]; then
  say "Slurm is ending this job (cancelled, or preempted without grace) and decides what becomes of it (exit code $code)"
elif [ "$code" -eq 2 ]; then
  say "exit code 2, which means that the command's input has to change"
elif [ -n "$stopped" ]; then
  again "stopped by SIGTERM (exit code $code)"
elif [[ $fields =~ PreemptTime=[0-9] ]]; then
  again "preempted (exit code $code)"
elif [ "$code" -ne 0 ]; then
  echo "$code" >>"$logs/failures"
  if [ "$(wc -l <"$logs/failures")" -le "${RESTARTS:-3}" ]; then again "exit code $code"; fi
  say "exit code $code, after ${RESTARTS:-3} restarts"
else
  say "done"
fi
exit "$code"
