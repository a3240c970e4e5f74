#!/usr/bin/env bash
# Stage 2 (representation, prediction and action together) as a Slurm job.
set -euo pipefail

if [ $# -lt 3 ] || ! [ -e "$1" ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]] || ! [[ $3 =~ ^[0-9]+$ ]]; then
  cat >&2 <<'TEXT'
usage: slurm_train_stage2_contrastive_joint.sh CONFIG GPUS SEED [section.key=value | launch option ...]

  CONFIG    an existing config file, e.g. configs/joint_train/lr6e-04_tmp004_300m.py
  GPUS      GPUs in all; up to GPUS_PER_NODE (environment; 8) are one node, more must be a multiple of it
  SEED      seed of the run

What follows is passed on to `egoagent launch --slurm` (--partition, --time, --account, --dry-run, ...).
sbatch's own variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS) hold too.
TEXT
  exit 2
fi
config=$1 gpus=$2 seed=$3
shift 3

per_node=${GPUS_PER_NODE:-8}
if [ "$gpus" -le "$per_node" ]; then
  nodes=1 per_node=$gpus
elif [ $((gpus % per_node)) -eq 0 ]; then
  nodes=$((gpus / per_node))
else
  echo "slurm_train_stage2_contrastive_joint.sh: $gpus GPUs are no multiple of GPUS_PER_NODE=$per_node" >&2
  exit 2
fi
exec "${EGOAGENT:-egoagent}" launch "$config" --slurm --nodes "$nodes" --gpus "$per_node" "seed=$seed" "$@"
