"""Bytes that a process sends in an optimizer step, by mesh axis and collective: arithmetic on the shapes of a workload.

With n processes in a group and a tensor of S bytes, a process sends (and receives)

    all-gather, reduce-scatter   S (n - 1) / n
    all-reduce                   2 S (n - 1) / n

Left out: scalars (losses, norms, counts), and what a health reading or a checkpoint gathers now and then.
"""

from dataclasses import dataclass, field

from internlm.config.schema import ParallelConfig

from .workload import GRADIENT_BYTES, Pass, Unit, Workload

FLOAT = 4


@dataclass
class Traffic:
    """Bytes that one process sends in an optimizer step, by axis and collective (``dp_shard all-gather``).

    ``data`` is the axis of all data-parallel processes, dp_replicate x dp_shard.
    """

    by_kind: dict[str, float] = field(default_factory=dict)

    def add(self, axis: str, collective: str, size: float, group: int, times: float = 1) -> None:
        """Count a collective over a whole tensor of ``size`` bytes."""
        if group > 1 and times:
            factor = 2 if collective == "all-reduce" else 1
            name = f"{axis} {collective}"
            self.by_kind[name] = self.by_kind.get(name, 0) + times * factor * size * (group - 1) / group

    def of(self, axis: str) -> float:
        """Bytes over one axis."""
        return sum(value for name, value in self.by_kind.items() if name.split()[0] == axis)


def traffic_of(work: Workload, mesh: ParallelConfig) -> Traffic:
    """Bytes on the wire of one optimizer step."""
    traffic, pieces = Traffic(), work.config.train.accumulation
    observers = work.observer_passes()
    for kind, passes in work.passes().items():
        _weights(traffic, work, mesh, kind, passes, pieces)
        _gradients(traffic, work, mesh, kind, pieces)
        _layers(traffic, work, mesh, passes, pieces, trained=True)
        _layers(traffic, work, mesh, [observers[kind]], pieces, trained=False)
        _heads(traffic, work, mesh, sum(p.rows for p in passes), observers[kind].rows, pieces, poses=kind == "clip")
        _statistics(traffic, work, mesh, kind, len(passes), pieces)
    if work.sequence(mesh):
        # Norms and biases between the layers see a process's own tokens; their gradients are completed once in a step.
        traffic.add("tp", "all-reduce", FLOAT * work.partial.elements(mesh.dp_shard, mesh.tp) / mesh.dp_shard, mesh.tp)
    return traffic


def _weights(traffic: Traffic, work: Workload, mesh: ParallelConfig, kind: str, passes: list[Pass], pieces: int) -> None:
    shards, size = mesh.dp_shard, work.weight_bytes

    def add(unit: Unit, times: int) -> None:
        traffic.add("dp_shard", "all-gather", size * unit.elements(shards, mesh.tp), shards, times * pieces)

    # ZeRO-3 gathers for each forward and again for each backward pass. ZeRO-2 keeps what the forward passes gathered, frees it
    # after the first backward pass through it, and gathers for the others. What is no block stays until the backward pass ends.
    kept = mesh.zero == 2
    for block in work.blocks:
        add(block, len(passes) if kept else 2 * len(passes))
    add(work.rest, 1 if kept else len(passes) + 1)
    add(work.head, _head_gathers(work, kind, sum(p.rows for p in passes), kept))
    # The observer's head is called twice, for the bottleneck and for the logits.
    for unit, times in (*((block, 1) for block in work.blocks), (work.observer_rest, 1), (work.head, 2)):
        add(unit, times)


def _gradients(traffic: Traffic, work: Workload, mesh: ParallelConfig, kind: str, pieces: int) -> None:
    rest = work.rest if kind == "clip" else work.observer_rest
    gradients = GRADIENT_BYTES * sum(unit.elements(mesh.dp_shard, mesh.tp) for unit in [*work.blocks, work.head, rest])
    traffic.add("dp_shard", "reduce-scatter", gradients, mesh.dp_shard, pieces)
    traffic.add("dp_replicate", "all-reduce", gradients / mesh.dp_shard, mesh.dp_replicate, pieces)


def _head_gathers(work: Workload, kind: str, rows: int, kept: bool) -> int:
    """Of the predictor's head: forward and backward of every chunk of rows (objective/self_distillation.py), and of KoLeo's."""
    uses = -(-rows // work.config.loss.row_chunk) + (kind == "image" and work.config.loss.koleo_weight > 0)
    return uses if kept else 2 * uses


def _layers(traffic: Traffic, work: Workload, mesh: ParallelConfig, passes: list[Pass], pieces: int, *, trained: bool) -> None:
    """Tensor parallelism: two layer pairs a block, forward and backward; checkpointing repeats the forward up to its last sum."""
    tp, size = mesh.tp, work.weight_bytes
    layers, h = work.config.model.num_layers, work.config.model.hidden_size
    again = layers * (trained and mesh.activation_checkpointing != "none")
    for p in passes:
        if not work.sequence(mesh):
            tokens = size * p.sequences * p.length * h
            traffic.add("tp", "all-reduce", tokens, tp, (2 * layers * (1 + trained) + again) * pieces)
            continue
        tokens = size * p.sequences * (-(-p.length // tp) * tp) * h
        # Forward gathers before a pair and scatters after it; backward the other way round. Once more around the blocks.
        pairs = 2 * layers * (1 + trained)
        gathers, scatters = pairs + 2 * again + 1 + trained, pairs + again
        traffic.add("tp", "all-gather", tokens, tp, gathers * pieces)
        traffic.add("tp", "reduce-scatter", tokens, tp, scatters * pieces)


def _heads(
    traffic: Traffic, work: Workload, mesh: ParallelConfig, rows: int, watched: int, pieces: int, *, poses: bool
) -> None:
    """Tensor parallelism in the heads: inner activations forward, inputs and bottleneck backward; a chunk's forward twice."""
    model, loss, size = work.config.model, work.config.loss, work.weight_bytes
    twice = 2 if rows > loss.row_chunk else 1
    sent = size * (rows * (twice * model.head_hidden + model.hidden_size) + watched * model.head_hidden)
    sent += FLOAT * rows * model.head_bottleneck
    # Of a row: the largest logit, the exponentials' sum and the product; of a target: largest, sum (or sums), entropy.
    sent += FLOAT * (3 * twice * rows + watched * (1 + (loss.sinkhorn_iterations if _sinkhorn(work, poses) else 2)))
    if not poses and loss.koleo_weight:
        sent += size * work.images * (model.head_hidden + model.hidden_size)
    if poses:
        sent += size * rows * (4 * model.poses_per_step * model.num_joints + model.hidden_size)
    traffic.add("tp", "all-reduce", sent, mesh.tp, pieces)


def _statistics(traffic: Traffic, work: Workload, mesh: ParallelConfig, kind: str, passes: int, pieces: int) -> None:
    """What is measured over all data-parallel processes: centres, Sinkhorn's sums, batch norms, KoLeo's neighbours."""
    model, loss, data = work.config.model, work.config.loss, mesh.dp_replicate * mesh.dp_shard
    sums = 1 + (loss.sinkhorn_iterations if _sinkhorn(work, kind == "clip") else 0)
    traffic.add("data", "all-reduce", FLOAT * model.prototypes / mesh.tp, data, sums * pieces)
    # Means and variances, in each of the predictor's passes forward and backward, in the observer's forward.
    traffic.add("data", "all-reduce", 2 * FLOAT * work.normalised, data, (2 * passes + 1) * pieces)
    if kind == "image" and loss.koleo_weight:
        rows = data * work.images * (FLOAT * model.head_bottleneck)
        traffic.add("data", "all-gather", rows + 8 * data * work.images, data, pieces)
        traffic.add("data", "reduce-scatter", rows, data, pieces)


def _sinkhorn(work: Workload, clip: bool) -> bool:
    return work.config.loss.targets == "sinkhorn" and not (clip and work.config.loss.pred_temp is not None)
