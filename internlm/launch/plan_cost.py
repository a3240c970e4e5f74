"""What one mesh costs a process: bytes of memory and bytes on the wire of a step. Arithmetic, nothing is allocated.

A network is divided as ``parallel/apply.py`` does it: every block, the DINO head and what remains are units; a unit is gathered
before it is used and its gradients are reduce-scattered after each backward pass through it. With n processes in a group and a
tensor of S bytes, a process sends (and receives)

    all-gather, reduce-scatter   S (n - 1) / n
    all-reduce                   2 S (n - 1) / n
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from internlm.config.schema import Config, ParallelConfig
from internlm.monitor import flops, memory

GRADIENT_BYTES = 4  # gradients are summed in float32


@dataclass(frozen=True)
class Unit:
    """What ``fully_shard`` gathers at once: the shapes of its parameters before tp."""

    rows: tuple[tuple[int, int, int], ...]  # (length of dim 0, elements of a row, which of the two tp cuts: 0 none, 1, 2)

    def elements(self, shards: int, tp: int) -> int:
        """Elements that the processes of a shard group hold together: dim 0 is padded to a multiple of the group's size."""
        total = 0
        for length, row, cut in self.rows:
            if cut == 1:
                length //= tp
            elif cut == 2:
                row //= tp
            total += -(-length // shards) * shards * row
        return total


@dataclass(frozen=True)
class Pass:
    """One forward pass of a micro-step: sequences, their tokens (with queries), and rows through the DINO head."""

    sequences: int
    length: int
    rows: int


@dataclass
class Workload:
    """What every mesh shares, read off the meta model once. FLOPs are of one sample; the trunk's are its forward pass alone."""

    config: Config
    images: int  # of a micro-step
    clips: int
    blocks: list[Unit]
    head: Unit
    rest: Unit
    observer_rest: Unit  # also what an image batch gives gradients to, beside blocks and head
    trained: int
    observed: int
    train_image: int
    train_clip: int
    trunk_image: int  # what full checkpointing repeats
    trunk_clip: int
    activations: int
    block_bytes: dict[tuple, int] = field(default_factory=dict)

    @property
    def half(self) -> bool:
        return self.config.train.dtype != "float32"

    @property
    def weight_bytes(self) -> int:
        return 2 if self.half else 4

    def passes(self) -> dict[str, list[Pass]]:
        """The predictor's forward passes of one image and one clip micro-step."""
        tokens, crops = flops.tokens(self.config), self.config.data.crops
        found: dict[str, list[Pass]] = {}
        if self.images:
            found["image"] = [Pass(crops.global_crops * self.images, tokens["image"], crops.global_crops * self.images)]
            if crops.local_crops:
                views = crops.local_crops * self.images
                found["image"].append(Pass(views, tokens["local_crop"], views))
        if self.clips:
            found["clip"] = [Pass(self.clips, tokens["clip"], self.clips * tokens["clip_steps"])]
        return found

    def observer_passes(self) -> dict[str, Pass]:
        """The observer's forward pass of each kind of micro-step."""
        tokens, crops, steps = flops.tokens(self.config), self.config.data.crops, self.config.data.clip.steps
        found = {}
        if self.images:
            views = crops.global_crops * self.images
            found["image"] = Pass(views, tokens["image"], views)
        if self.clips:
            frames = steps if self.config.model.observer_attention == "clip" else 1
            found["clip"] = Pass(self.clips * steps // frames, tokens["image"] * frames, self.clips * steps)
        return found


def read_workload(config: Config) -> Workload:
    """Build the model on the meta device and read off it what the formulas need; seconds at any size."""
    train, crops = config.train, config.data.crops
    images, clips = train.image_batch // train.accumulation, train.clip_batch // train.accumulation
    agent = flops.build_on_meta(config.model)
    cost = flops.flops(config, agent)
    tokens = flops.tokens(config)
    observer = agent.observer
    workload = Workload(
        config, images, clips,
        blocks=[_unit(f"backbone.blocks.{index}.", block) for index, block in enumerate(agent.predictor.backbone.blocks)],
        head=_unit("head.", agent.predictor.head),
        rest=_rest(agent.predictor),
        observer_rest=_rest(observer),
        trained=flops.count(agent.predictor),
        observed=flops.count(observer),
        train_image=cost["train_image"],
        train_clip=cost["train_clip"],
        trunk_image=crops.global_crops * _trunk_flops(config, tokens["image"])
        + crops.local_crops * _trunk_flops(config, tokens["local_crop"]),
        trunk_clip=_trunk_flops(config, tokens["clip"]),
        activations=memory.activations(config, agent, images, clips),
    )  # fmt: skip
    return workload


def _unit(prefix: str, module: nn.Module) -> Unit:
    return Unit(tuple(_row(prefix + name, parameter) for name, parameter in module.named_parameters()))


def _rest(network: nn.Module) -> Unit:
    own = [(name, p) for name, p in network.named_parameters() if not name.startswith(("backbone.blocks.", "head."))]
    return Unit(tuple(_row(name, parameter) for name, parameter in own))


def _row(name: str, parameter: torch.Tensor) -> tuple[int, int, int]:
    from internlm.parallel.plan import cut_of

    cut = cut_of(name)
    return parameter.shape[0], parameter[0].numel(), 0 if cut is None else cut.dim + 1


def _trunk_flops(config: Config, length: int) -> int:
    """Forward FLOPs of all blocks on one sequence: matrix products, and attention as the full square."""
    from internlm.model.backbone import ffn_width

    model = config.model
    h, inner = model.hidden_size, ffn_width(model.hidden_size, model.mlp_ratio, model.mlp_multiple_of)
    return model.num_layers * (2 * length * (4 * h * h + 3 * h * inner) + 4 * length * length * h)


# --- memory ---------------------------------------------------------------------------------------------------------------


def memory_of(work: Workload, mesh: ParallelConfig) -> memory.Memory:
    """Bytes of one process: states in shards, gathered weights, and what autograd keeps of one micro-step."""
    shards, tp = mesh.dp_shard, mesh.tp
    units = [*work.blocks, work.head, work.rest]
    trained = sum(unit.elements(shards, tp) for unit in units) // shards
    observed = sum(unit.elements(shards, tp) for unit in [*work.blocks, work.head, work.observer_rest]) // shards
    return memory.Memory(
        parameters=4 * trained,
        gradients=GRADIENT_BYTES * trained,
        optimizer=8 * trained,
        observer=4 * observed,
        working_copy=_gathered(work, mesh),
        activations=activations_of(work, mesh),
    )


def _gathered(work: Workload, mesh: ParallelConfig) -> int:
    """Weights gathered at the worst moment, and the whole gradients that wait to be reduced: of two blocks and the head."""
    tp, block = mesh.tp, work.blocks[0].elements(1, mesh.tp)
    head, rest = work.head.elements(1, tp), work.rest.elements(1, tp)
    everything = len(work.blocks) * block + head + rest
    if mesh.dp_shard == 1 and mesh.dp_replicate == 1:
        return work.weight_bytes * everything if work.half else 0
    held = everything if mesh.zero == 2 else 2 * block + head + rest
    return work.weight_bytes * held + (work.weight_bytes + GRADIENT_BYTES) * max(2 * block, head + rest)


def activations_of(work: Workload, mesh: ParallelConfig) -> int:
    """Bytes that autograd keeps: the model's own count in one process, with the blocks' part as this mesh has it."""
    largest = 0
    kinds = work.passes()
    shares = {kind: sum(_blocks_bytes(work, p, ParallelConfig()) for p in passes) for kind, passes in kinds.items()}
    kind = max(shares, key=shares.get)
    outside = max(work.activations - shares[kind], 0)
    for passes in kinds.values():
        largest = max(largest, sum(_blocks_bytes(work, p, mesh) for p in passes))
    again = 0
    if mesh.activation_checkpointing != "none":
        again = max(_block_bytes(work, p, mesh) for passes in kinds.values() for p in passes)
    return outside + largest + again


def _blocks_bytes(work: Workload, p: Pass, mesh: ParallelConfig) -> int:
    model, size = work.config.model, work.weight_bytes
    tokens = p.sequences * p.length
    own_tokens = -(-p.length // mesh.tp) * p.sequences if _sequence(mesh) else tokens
    if mesh.activation_checkpointing == "full":
        return model.num_layers * size * own_tokens * model.hidden_size
    whole = model.num_layers * _block_bytes(work, p, mesh)
    if mesh.activation_checkpointing == "none":
        return whole
    from internlm.model.backbone import ffn_width

    inner = ffn_width(model.hidden_size, model.mlp_ratio, model.mlp_multiple_of)
    products = tokens * (4 * model.hidden_size + 2 * inner) // mesh.tp  # QKV and the mix of values; gate and up
    return min(whole, model.num_layers * size * (products + 3 * own_tokens * model.hidden_size))  # input, out, down


def _block_bytes(work: Workload, p: Pass, mesh: ParallelConfig) -> int:
    """What autograd keeps of one block, measured on the meta device with the layers as narrow as tp makes them."""
    key = (p, mesh.tp, _sequence(mesh))
    if key not in work.block_bytes:
        work.block_bytes[key] = memory.block_bytes(
            work.config.model, p.sequences, p.length, tp=mesh.tp, sequence_parallel=_sequence(mesh),
            dtype=torch.bfloat16 if work.half else torch.float32,
        )  # fmt: skip
    return work.block_bytes[key]


def _sequence(mesh: ParallelConfig) -> bool:
    return mesh.tp > 1 and mesh.sequence_parallel


# --- communication --------------------------------------------------------------------------------------------------------


@dataclass
class Traffic:
    """Bytes that one process sends in an optimizer step, by axis and collective (``dp_shard all-gather``)."""

    by_kind: dict[str, float] = field(default_factory=dict)

    def add(self, axis: str, collective: str, size: float, group: int, times: float = 1) -> None:
        if group > 1 and times:
            factor = 2 if collective == "all-reduce" else 1
            name = f"{axis} {collective}"
            self.by_kind[name] = self.by_kind.get(name, 0) + times * factor * size * (group - 1) / group

    def of(self, axis: str) -> float:
        return sum(value for name, value in self.by_kind.items() if name.startswith(axis))

    @property
    def total(self) -> float:
        return sum(self.by_kind.values())


def traffic_of(work: Workload, mesh: ParallelConfig) -> Traffic:
    """Bytes on the wire of one optimizer step. Left out: losses, norms and counts, which are scalars."""
    traffic, pieces = Traffic(), work.config.train.accumulation
    observers = work.observer_passes()
    for kind, passes in work.passes().items():
        _weights(traffic, work, mesh, passes, pieces)
        _gradients(traffic, work, mesh, passes, pieces, rest=work.rest if kind == "clip" else work.observer_rest)
        _layers(traffic, work, mesh, passes, pieces, trained=True)
        _layers(traffic, work, mesh, [observers[kind]], pieces, trained=False)
        _heads(traffic, work, mesh, sum(p.rows for p in passes), observers[kind].rows, pieces, poses=kind == "clip")
        _statistics(traffic, work, mesh, pieces)
    return traffic


def _weights(traffic: Traffic, work: Workload, mesh: ParallelConfig, passes: list[Pass], pieces: int) -> None:
    shards, tp = mesh.dp_shard, mesh.tp
    predictor, observer = [*work.blocks, work.rest], [*work.blocks, work.head, work.observer_rest]
    weights = work.weight_bytes * sum(unit.elements(shards, tp) for unit in predictor)
    head = work.weight_bytes * work.head.elements(shards, tp)
    # ZeRO-3 gathers for each forward and again for each backward pass; ZeRO-2 once, and again where a pass is not the last.
    times = 2 * len(passes) if mesh.zero == 3 else len(passes)
    traffic.add("dp_shard", "all-gather", weights, shards, times * pieces)
    traffic.add("dp_shard", "all-gather", head, shards, _head_gathers(work, passes, mesh) * pieces)
    watched = work.weight_bytes * sum(unit.elements(shards, tp) for unit in observer)
    # The observer's head is called twice, for the bottleneck and for the logits.
    traffic.add("dp_shard", "all-gather", watched + head, shards, pieces)


def _gradients(traffic: Traffic, work: Workload, mesh: ParallelConfig, passes: list[Pass], pieces: int, *, rest: Unit) -> None:
    shards, tp = mesh.dp_shard, mesh.tp
    counts = [*((unit, len(passes)) for unit in [*work.blocks, rest]), (work.head, _head_chunks(work, passes))]
    for unit, count in counts:
        gradients = GRADIENT_BYTES * unit.elements(shards, tp)
        traffic.add("dp_shard", "reduce-scatter", gradients, shards, count * pieces)
        traffic.add("dp_replicate", "all-reduce", gradients / shards, mesh.dp_replicate, count * pieces)


def _head_chunks(work: Workload, passes: list[Pass]) -> int:
    return -(-sum(p.rows for p in passes) // work.config.loss.row_chunk)


def _head_gathers(work: Workload, passes: list[Pass], mesh: ParallelConfig) -> int:
    """Chunks beyond one are computed twice (loss/dino.py); each computation and each backward pass gathers under ZeRO-3."""
    chunks = _head_chunks(work, passes)
    if mesh.zero == 2:
        return chunks
    return 2 * chunks if chunks == 1 else 3 * chunks


def _layers(traffic: Traffic, work: Workload, mesh: ParallelConfig, passes: list[Pass], pieces: int, *, trained: bool) -> None:
    """Tensor parallelism: two layer pairs a block, forward and backward; checkpointing repeats the forward up to its last sum."""
    tp, size = mesh.tp, work.weight_bytes
    layers, h = work.config.model.num_layers, work.config.model.hidden_size
    again = layers * (trained and mesh.activation_checkpointing != "none")
    for p in passes:
        if not _sequence(mesh):
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
    model, size = work.config.model, work.weight_bytes
    twice = 2 if rows > work.config.loss.row_chunk else 1
    sent = size * (rows * (twice * model.head_hidden + model.hidden_size) + watched * model.head_hidden)
    sent += 4 * rows * model.head_bottleneck
    if poses:
        sent += size * rows * (4 * model.poses_per_step * model.num_joints + model.hidden_size)
    traffic.add("tp", "all-reduce", sent, mesh.tp, pieces)


def _statistics(traffic: Traffic, work: Workload, mesh: ParallelConfig, pieces: int) -> None:
    """The teacher's centre over data-parallel processes; Sinkhorn's sums instead where those are the targets."""
    loss, data = work.config.loss, mesh.dp_replicate * mesh.dp_shard
    columns = 4 * work.config.model.prototypes // mesh.tp
    sums = 1 + (loss.sinkhorn_iterations if loss.targets == "sinkhorn" else 0)
    traffic.add("dp statistics", "all-reduce", columns, data, sums * pieces)
