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
Each node has four CPUs, however many there are. A job that was queued again waits for five seconds (a cluster's default: 120).
FIRST_PORT (17000) is the first of three free ports; several clusters may run side by side.
TEXT
  exit 2
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

install() {
  local program missing=""
  for program in slurmctld slurmd munged; do
    command -v "$program" >/dev/null || missing="$missing $program"
  done
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || { echo "slurm_two_nodes.sh: no apt-get here; install Slurm and munge by hand" >&2; exit 1; }
  # Nobody is there to answer a question, and a mirror that does not answer must not be waited for.
  local options=(-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=60)
  as_root apt-get "${options[@]}" update || true # one list of several that fails is no reason not to try
  as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends slurm-wlm munge >/dev/null
}

uninstall() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq slurm-wlm slurmctld slurmd slurm-client munge >/dev/null
}

write_conf() {
  local folder=$1 first=$2 host
  host=$(hostname -s)
  # cred_expire is also how long a job that was queued again waits. Slurm has it at 120 s for a reason: a message to end the
  # earlier stretch that a node did not answer in MessageTimeout is sent once more after 60 s, and would end the next one. With
  # a KillWait far below MessageTimeout nodes answer in time.
  cat >"$folder/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$first
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
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
KillWait=5
MessageTimeout=60
MpiDefault=none
MailProg=/bin/true
FirstJobId=$((first * 10 % 50000 + 1))
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=requeue_setup_env_fail,sched_interval=2,bf_interval=2
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((first + 1))-$((first + 2))] CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=train Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
}

start() {
  local folder log
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  mkdir -p "$folder/state" "$folder/spool-n1" "$folder/spool-n2"
  head -c 1024 /dev/urandom >"$folder/munge.key"
  chmod 600 "$folder/munge.key"
  write_conf "$folder" "${FIRST_PORT:-17000}"
  if start_daemons "$folder" && wait_for_nodes; then
    return
  fi
  echo "slurm_two_nodes.sh: the nodes do not answer; see the logs in $folder" >&2
  for log in "$folder"/*.log; do
    tail -n 5 "$log" >&2
  done
  stop "$folder"
  exit 1
}

start_daemons() {
  export SLURM_CONF=$1/slurm.conf
  # --force: munged wants folders that everyone may enter, which a test's own folder is not.
  munged --force --socket="$1/munge.socket" --key-file="$1/munge.key" --pid-file="$1/munged.pid" \
    --log-file="$1/munged.log" --seed-file="$1/munged.seed" 2>/dev/null &&
    slurmctld -c && slurmd -N n1 && slurmd -N n2
}

wait_for_nodes() {
  for _ in $(seq 60); do
    if [ "$(timeout 5 sinfo --noheader --Node --partition=train --states=idle 2>/dev/null | wc -l)" -eq 2 ]; then
      return
    fi
    sleep 0.5
  done
  return 1
}

stop() {
  local folder pids=() pid
  folder=$(cd "$1" && pwd)
  cancel_all "$folder"
  for name in slurmd-n1 slurmd-n2 slurmctld munged; do
    if [ -s "$folder/$name.pid" ]; then
      pids+=("$(cat "$folder/$name.pid")")
    fi
  done
  end_all "${pids[@]}"
  rm -f "$folder"/*.pid
  # What outlived its node, as the processes of a job do when the cluster did not answer.
  pids=()
  # shellcheck disable=SC2013 # numbers have no spaces
  for pid in $(grep -lzsxF "SLURM_CONF=$folder/slurm.conf" /proc/[0-9]*/environ | cut -d / -f 3); do
    if grep -qzs '^SLURM_JOB_ID=' "/proc/$pid/environ"; then
      pids+=("$pid")
    fi
  done
  end_all "${pids[@]}"
}

cancel_all() {
  export SLURM_CONF=$1/slurm.conf
  timeout 20 scancel --user="$(id -un)" 2>/dev/null || return 0
  for _ in $(seq 100); do
    [ -n "$(timeout 20 squeue --noheader 2>/dev/null)" ] || return 0
    sleep 0.2
  done
}

end_all() {
  local pid
  [ $# -gt 0 ] || return 0
  kill "$@" 2>/dev/null || true
  for pid in "$@"; do
    for _ in $(seq 50); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.2
    done
    kill -9 "$pid" 2>/dev/null || true
  done
}

case "${1:-}:$#" in
  install:1) install ;;
  uninstall:1) uninstall ;;
  start:2) start "$2" ;;
  stop:2) stop "$2" ;;
  *) usage ;;
esac
