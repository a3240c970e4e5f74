#!/usr/bin/env bash
# A real Slurm of two nodes on this one machine, for tests: everything listens on loopback and lives in one folder.
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: slurm_two_nodes.sh install | start FOLDER | stop FOLDER | uninstall

  install         Debian's slurm-wlm and munge through apt-get (needs root)
  start FOLDER    munged, slurmctld and the nodes n1 and n2; then use: export SLURM_CONF=FOLDER/slurm.conf
  stop FOLDER     end what start started
  uninstall       remove the packages that install brought

Partitions: train (default; its jobs are preempted, with 60 s of grace, and queued again) and urgent (preempts train).
FIRST_PORT (17000) is the first of three free ports.
TEXT
  exit 2
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

install() {
  if command -v slurmctld slurmd munged >/dev/null; then
    return
  fi
  command -v apt-get >/dev/null || { echo "slurm_two_nodes.sh: no apt-get here; install Slurm and munge by hand" >&2; exit 1; }
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
}

uninstall() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq slurm-wlm slurmctld slurmd slurm-client munge >/dev/null
}

write_conf() {
  local folder=$1 first=$2 host cores
  host=$(hostname -s)
  cores=$(nproc)
  cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$first
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
KillWait=10
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=requeue_setup_env_fail,sched_interval=5,bf_interval=5
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((first + 1))-$((first + 2))] CPUs=$cores State=UNKNOWN
PartitionName=train Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
}

start() {
  local folder
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  mkdir -p "$folder/state" "$folder/spool-n1" "$folder/spool-n2"
  head -c 1024 /dev/urandom >"$folder/munge.key"
  chmod 600 "$folder/munge.key"
  write_conf "$folder" "${FIRST_PORT:-17000}"
  export SLURM_CONF="$folder/slurm.conf"
  # --force: munged wants folders that everyone may enter, which a test's own folder is not.
  munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" 2>/dev/null
  slurmctld -c
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    if [ "$(sinfo --noheader --Node --partition=train --states=idle 2>/dev/null | wc -l)" -eq 2 ]; then
      return
    fi
    sleep 0.5
  done
  echo "slurm_two_nodes.sh: the nodes do not answer; see the logs in $folder" >&2
  tail -n 5 "$folder"/*.log >&2
  stop "$folder"
  exit 1
}

stop() {
  local pid
  for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    if [ -s "$1/$name.pid" ]; then
      pid=$(cat "$1/$name.pid")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.2
      done
      kill -9 "$pid" 2>/dev/null || true
    fi
  done
}

case "${1:-}:$#" in
  install:1) install ;;
  uninstall:1) uninstall ;;
  start:2) start "$2" ;;
  stop:2) stop "$2" ;;
  *) usage ;;
esac
