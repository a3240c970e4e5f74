#!/usr/bin/env bash
# Stage 1 (self-distillation on frames) as a Slurm job.
# run_stage1: a function, so that this file may be sourced or run without changing the caller's shell.
run_stage1() {
  local egoagent=${EGOAGENT:-egoagent}
  if [ $# -lt 3 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]] || ! [ -e "$2" ] || ! [[ $3 =~ ^[0-9]+$ ]]; then
    cat >&2 <<'TEXT'
usage: source_slurm_train_stage1_contrastive_w_tokenizer.sh NODES CONFIG WORKERS [section.key=value | launch option ...]

  NODES     nodes of the job, each with GPUS_PER_NODE GPUs (environment; 8)
  CONFIG    an existing config file, e.g. configs/dino_pretrain/lr5e-4_tmp004_300m.py
  WORKERS   data-loading processes of each GPU's process

What follows is passed on to `egoagent launch --slurm` (--partition, --time, --account, --dry-run, ...).
sbatch's own variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS) hold too.
TEXT
    return 2
  fi
  local nodes=$1 config=$2 workers=$3
  shift 3
  "$egoagent" launch "$config" --slurm --nodes "$nodes" --gpus "${GPUS_PER_NODE:-8}" "data.workers=$workers" "$@"
}

run_stage1 "$@"
