"""DeepSpeed's ZeRO in the place of ``fully_shard`` and PyTorch's optimizer loop (arXiv 1910.02054).

The optimizer maths stays this project's: the same AdamW over the same groups, only that DeepSpeed lets it step on flat pieces
of each group. Names and shapes that go out and come in are those of one process, so that either engine continues the other's
checkpoints. Moving averages are whole on every process, as are weights under ZeRO 1 and 2. Tested with DeepSpeed 0.19, some of
whose inner names are used here; each is a line with its reason.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from internlm.checkpoint.index import Checkpoint
from internlm.config.errors import ConfigError
from internlm.config.schema import Config
from internlm.core.mesh import Mesh, read_launch
from internlm.parallel.shares import shares
from internlm.solver.optim import build_optimizer, set_step_values
from internlm.systems.base import Part

from .engine import moving_averages, trained_modules

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"
BUCKET = 50_000_000  # elements that are sent at once


def open_deepspeed(parts: Mapping[str, Part], config: Config, mesh: Mesh) -> "DeepSpeedEngine":
    """The engine of the config's ZeRO level. Raises ConfigError where DeepSpeed is not installed or cannot train these parts."""
    return (DividedWeightsEngine if config.parallel.zero == 3 else DeepSpeedEngine)(parts, config, mesh)


class DeepSpeedEngine:
    """An ``Engine`` (see ``engine.py``) around ``deepspeed.initialize``: ZeRO 1 and 2."""

    def __init__(self, parts: Mapping[str, Part], config: Config, mesh: Mesh) -> None:
        self._deepspeed, self._parts = _import(), parts
        trained = trained_modules(parts)
        if len(trained) != 1:
            has = f"system {config.system!r} has {', '.join(trained)}"
            raise ConfigError(f"engine deepspeed trains one module, and {has}; set parallel.engine=torch")
        if not dist.is_initialized():
            raise RuntimeError("DeepSpeed needs a process group even for one process: open_mesh(..., always=True)")
        os.environ["LOCAL_RANK"] = str(read_launch().local_rank)  # srun does not set it, DeepSpeed demands it
        (self.name, self.module), self.mesh = *trained.items(), mesh
        self.base = build_optimizer(self.module, config.optim)
        self._named = {
            name: parameter
            for group in self.base.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }
        self._engine, self._zero, _, _ = self._deepspeed.initialize(
            model=self.module, optimizer=self.base, config=_settings(config, self._named.values())
        )
        # Now, because DeepSpeed looks for the states of all groups when the first one has stepped.
        for piece in self._pieces():
            zero = torch.zeros((), dtype=torch.float32, device=piece.device)
            self.base.state[piece] = {STEP: zero} | {moment: torch.zeros_like(piece) for moment in MOMENTS}
        # DeepSpeed measures the norm inside its step, and leaves out a step whose norm is not finite. Here the norm comes first,
        # and whether the step is taken is decided with the losses of all processes: it is measured once and handed over.
        self._norm = torch.zeros(())
        self._measure = self._take_over()

    def zero_grad(self) -> None:
        self._zero.zero_grad()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._zero.clear_backward_seen_flag()  # the network is called directly, and not through DeepSpeed, which would do it
        self._engine.backward(loss, scale_wrt_gas=False)

    def clipped_norm(self) -> Tensor:
        self._norm = self._measure()
        return self._norm

    def step(self, number: int, values: Mapping[str, float]) -> None:
        set_step_values(self.base, step=number, lr=values["lr"], weight_decay=values["weight_decay"])
        self._engine.step()
        if any(part.follows for part in self._parts.values()):
            self._follow(values["momentum"])

    def drop(self) -> None:
        self._norm = torch.full_like(self._norm, torch.inf)
        self._engine.step()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        return {self.name: self._weights()}

    def _weights(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return self._states() if self._step_counter() else {}

    def restore(self, checkpoint: Checkpoint) -> None:
        self._restore_weights(checkpoint)
        self._zero.refresh_fp32_params()
        if checkpoint.index["optimizer"]:  # of a run that has stepped
            self._restore_states(checkpoint)

    def close(self) -> None:
        from deepspeed.utils import groups

        self._engine.destroy()
        groups._release_process_group_references()  # or the next run of this process would use this one's

    def _pieces(self) -> list[Tensor]:
        """The flat float32 tensors that the optimizer steps on here."""
        return self._zero.single_partition_of_fp32_groups

    def _take_over(self) -> Callable[[], Tensor]:
        """Hand DeepSpeed ``self._norm`` for the norm that it would measure; returns what measures it."""
        self._zero._lazy_init_hp_params_optimizer_state()
        self._averages = moving_averages(self._parts)  # of the memory that DeepSpeed gave the weights
        measure, self._zero.scaled_global_norm = self._zero.scaled_global_norm, lambda: self._norm
        return measure

    def _follow(self, momentum: float) -> None:
        for average in self._averages:
            average.update(momentum)

    def _step_counter(self) -> Tensor:
        return self.base.state[self._pieces()[0]][STEP]

    def _states(self) -> dict[str, Tensor]:
        """Step and moments of every parameter, whole; a collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        found = {}
        for name, parameter in self._named.items():
            moments = {f"{name}/{moment}": safe_get_full_optimizer_state(parameter, moment) for moment in MOMENTS}
            found |= {f"{name}/{STEP}": self._step_counter().clone(), **moments}
        return found

    def _restore_weights(self, checkpoint: Checkpoint) -> None:
        checkpoint.fill(self.name, shares(self._weights(), self.mesh, {}))

    def _restore_states(self, checkpoint: Checkpoint) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        states = self._states()
        checkpoint.fill("optimizer", shares(states, self.mesh, {}))
        for piece in self._pieces():
            self.base.state[piece][STEP].copy_(states[f"{next(iter(self._named))}/{STEP}"])  # all parameters step together
        for name, parameter in self._named.items():
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, states[f"{name}/{moment}"], moment)


class DividedWeightsEngine(DeepSpeedEngine):
    """ZeRO 3: DeepSpeed's hooks gather a module's weights when it is called and free them after."""

    def zero_grad(self) -> None:
        super().zero_grad()
        # A parameter without a gradient in a step's first backward pass would otherwise add to the step before.
        for gradient in self._gradients:
            gradient.zero_()

    def clipped_norm(self) -> Tensor:
        self._gradients = [gradient for group in self._zero.averaged_gradients.values() for gradient in group]
        return super().clipped_norm()

    def _weights(self) -> dict[str, Tensor]:
        found = self.module.state_dict()
        for batch in _batches(self.module.named_parameters()):
            with self._whole([parameter for _, parameter in batch]):
                found |= {name: parameter.detach().clone() for name, parameter in batch}
        return found

    def close(self) -> None:
        # Of several processes one may be gone already, and a collective would wait for it.
        whole = self._weights() if self.mesh.alone else {}
        super().close()
        for name, parameter in self.module.named_parameters():
            if name in whole:
                parameter.data = whole[name]

    def _pieces(self) -> list[Tensor]:
        return self._zero.fp32_partitioned_groups_flat

    def _take_over(self) -> Callable[[], Tensor]:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        for inner in self.module.modules():
            if inner is not self.module and getattr(inner, "called", ()):
                _call_as_module(inner, *inner.called)
        sources, self._gradients = dict(self.module.named_parameters()), []
        self._pairs = [
            ([sources[name] for name, _ in batch], [target for _, target in batch])
            for part in self._parts.values()
            if part.follows
            for batch in _batches(part.module.named_parameters())
        ]
        measure, self._zero._get_norm_groups = self._zero._get_norm_groups, lambda: [self._norm]
        return lambda: combine_grad_norm_groups(measure())

    @torch.no_grad()
    def _follow(self, momentum: float) -> None:
        for sources, targets in self._pairs:
            with self._whole(sources):
                torch._foreach_lerp_(targets, [source.detach() for source in sources], 1.0 - momentum)

    @torch.no_grad()
    def _restore_weights(self, checkpoint: Checkpoint) -> None:
        found = self._weights()
        checkpoint.fill(self.name, shares(found, self.mesh, {}))
        for batch in _batches(self.module.named_parameters()):
            with self._whole([parameter for _, parameter in batch], modifier_rank=0):
                for name, parameter in batch:
                    parameter.copy_(found[name])

    def _whole(self, parameters: list[nn.Parameter], **options: Any) -> Any:
        return self._deepspeed.zero.GatheredParameters(parameters, **options)


def _batches(named: Iterable[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Parameters in runs of about ``BUCKET`` elements, so that no more are whole at a time."""
    batch, elements = [], 0
    for name, parameter in named:
        batch.append((name, parameter))
        elements += getattr(parameter, "ds_numel", parameter.numel())
        if elements >= BUCKET:
            yield batch
            batch, elements = [], 0
    if batch:
        yield batch


def _call_as_module(module: nn.Module, *methods: str) -> None:
    """Let methods of a module run as its forward pass does, with the hooks that gather its weights."""
    forward, kind = module.forward, type(module)

    def dispatch(*arguments: Tensor, method: str | None = None) -> Tensor:
        return forward(*arguments) if method is None else getattr(kind, method)(module, *arguments)

    module.forward = dispatch
    for method in methods:
        setattr(module, method, partial(module, method=method))


def _import() -> Any:
    try:
        import deepspeed
    except ImportError as error:
        way_out = "install it with pip install 'egoagent[deepspeed]', or set parallel.engine=torch"
        raise ConfigError(f"parallel.engine is 'deepspeed', which cannot be imported ({error}); {way_out}") from error
    return deepspeed


def _settings(config: Config, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """DeepSpeed's own configuration. Batches are counted here, not there: every backward pass is one of its micro-steps."""
    elements = sum(parameter.numel() for parameter in parameters)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.grad_clip,
        "steps_per_print": 2**62,
        "zero_optimization": {
            "stage": config.parallel.zero,
            "reduce_bucket_size": min(elements, BUCKET),
            "stage3_param_persistence_threshold": 0,  # no weight stays whole
        },
    }
