"""``egoagent launch CONFIG [section.key=value ...]``: a training run on this machine, or as a job of a Slurm cluster."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

from internlm.config.places import LAUNCH, RESOLVED_NAME
from internlm.core.errors import ConfigError, UserError
from internlm.eval.options import whole

WHERE = ("partition", "account", "qos", "constraint")  # of the cluster, as sbatch calls it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("config", help="config file (.py or .yaml), or a run folder holding config.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--run-dir", help="run folder, on a disk that all nodes see (default: the config's)")
    parser.add_argument("--gpus", type=whole(1), default=1, metavar="N", help="processes of a node, one a GPU (1)")
    parser.add_argument("--max-restarts", type=int, default=3, metavar="N", help="starts after a crash (3)")
    parser.add_argument("--signal-ahead", type=whole(1), default=300, metavar="SECONDS", help="time for the last save (300)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and write nothing")
    cluster = parser.add_argument_group("Slurm")
    cluster.add_argument("--slurm", action="store_true", help="submit a job instead of running here")
    cluster.add_argument("--nodes", type=whole(1), default=1, metavar="N")
    cluster.add_argument("--time", default="24:00:00", help="limit of one stretch, after which it is queued again (24:00:00)")
    for name in WHERE:
        cluster.add_argument(f"--{name}")
    cluster.add_argument("--cpus", type=whole(1), metavar="N", help="cores of a process (default: data.workers + 1)")
    cluster.add_argument("--memory", type=whole(1), metavar="GB", help="of a node (default: the partition's)")
    cluster.add_argument("--no-requeue", action="store_true", help="end at the limit or a preemption, exit code 75")
    parser.epilog = "exit codes are those of egoagent train (docs/training.md); with --slurm 0 once the job is submitted"


def run(args: argparse.Namespace) -> int:
    """Write the run's snapshot, then run or submit it."""
    if args.nodes > 1 and not args.slurm:
        raise ConfigError(f"--nodes {args.nodes} needs --slurm, or torchrun on each node (docs/training.md)")
    config = _resolved(args)
    run_dir = Path(config.run_dir)
    words = ("train", str(run_dir / LAUNCH / RESOLVED_NAME))
    return _submit(args, config, run_dir, words) if args.slurm else _here(args, config, run_dir, words)


def _resolved(args: argparse.Namespace):
    """The config with its run folder made absolute and its mesh made to fit the number of processes."""
    from internlm.config.load import load_config
    from internlm.config.places import RUNS

    config = load_config(args.config, [*args.overrides, *([f"run_dir={json.dumps(args.run_dir)}"] if args.run_dir else [])])
    run_dir = Path(config.run_dir or Path(RUNS) / config.job_name).resolve()
    mesh = fit_mesh(config.parallel, args.nodes * args.gpus)
    return config.model_copy(update={"run_dir": str(run_dir), "parallel": mesh})


def fit_mesh(mesh, processes: int):
    """``parallel`` for so many processes: as configured where it fits; a mesh of one becomes dp_shard = all of them.

    ConfigError names the mesh that does not fit.
    """
    size = mesh.dp_replicate * mesh.dp_shard * mesh.tp
    if size == processes:
        return mesh
    if size == 1:
        return mesh.model_copy(update={"dp_shard": processes})
    shape = f"dp_replicate {mesh.dp_replicate} x dp_shard {mesh.dp_shard} x tp {mesh.tp}"
    raise ConfigError(f"parallel is {shape} = {size} processes, and nodes x gpus are {processes}; see egoagent estimate")


def _here(args: argparse.Namespace, config, run_dir: Path, words: tuple[str, ...]) -> int:
    from internlm.launch.local import run_local, torchrun_words

    options = dict(processes=args.gpus, max_restarts=args.max_restarts, grace=args.signal_ahead)
    if args.dry_run:
        print(shlex.join(["egoagent", *words] if args.gpus == 1 else ["torchrun", *torchrun_words(words, **options)]))
        return 0
    _snapshot(config, run_dir)
    return run_local(words, **options)


def _submit(args: argparse.Namespace, config, run_dir: Path, words: tuple[str, ...]) -> int:
    from internlm.launch.slurm import JobOptions, TrainTask, batch_script, minutes_of, submit

    minutes = minutes_of(args.time)
    if args.signal_ahead + 60 >= 60 * minutes:  # Slurm may warn up to a minute early
        early = f"--signal-ahead {args.signal_ahead} s, and up to a minute earlier by Slurm"
        raise UserError(f"{early}, leaves nothing of --time {args.time}")
    asked = {
        "job_name": config.job_name,
        "ntasks_per_node": args.gpus,
        "gpus_per_node": args.gpus if config.train.device != "cpu" else None,
        "cpus_per_task": args.cpus or config.data.workers + 1,
        "time": minutes,
        "mem": args.memory and f"{args.memory}GB",
        "signal_delay_s": args.signal_ahead,
        **{name: getattr(args, name) for name in ("nodes", *WHERE)},
    }
    options = JobOptions(run_dir / LAUNCH, not args.no_requeue, args.max_restarts, {k: v for k, v in asked.items() if v})
    if args.dry_run:
        print(batch_script(TrainTask(words), options))
        return 0
    _snapshot(config, run_dir)
    job = submit(TrainTask(words), options)
    print(f"job {job.job_id}; logs in {os.path.relpath(options.folder)}: tail -f {os.path.relpath(job.paths.stdout)}")
    return 0


def _snapshot(config, run_dir: Path) -> None:
    from internlm.launch.snapshot import write_snapshot

    write_snapshot(config, run_dir, ["egoagent", *sys.argv[1:]])
