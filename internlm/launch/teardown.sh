code=$?
again=no
case "$code" in
  {final}) ;;
  {stopped}) again=yes ;;
  *) touch {log}; if [ "$(wc -l < {log})" -lt {restarts} ]; then
       echo "exit code $code: starting again" | tee -a {log}; again=yes
     fi ;;
esac
# A cancelled job is no longer RUNNING, nor is one that Slurm has queued again by itself.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
if [ "$again" = yes ] && [ "$state" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
