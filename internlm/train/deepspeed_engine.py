"""DeepSpeed's ZeRO in the place of ``fully_shard`` and PyTorch's optimizer loop (arXiv 1910.02054).

The optimizer maths stays this project's: the same AdamW over the same groups, only that DeepSpeed lets it step on flat pieces
of each group. Names and shapes that go out and come in are those of one process, so that either engine continues the other's
checkpoints. Weights and the observer are whole on every process (ZeRO 1 and 2). Tested with DeepSpeed 0.19.
"""

import os

import torch
from torch import Tensor

from internlm.checkpoint.index import Checkpoint
from internlm.config.errors import ConfigError
from internlm.config.schema import Config
from internlm.core.mesh import Mesh, read_launch
from internlm.model.egoagent import EgoAgent
from internlm.parallel.shares import shares
from internlm.solver.ema import MovingAverage
from internlm.solver.optim import build_optimizer, set_step_values
from internlm.solver.schedule import StepValues

MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"
BUCKET = 50_000_000  # elements that are reduced at once


class DeepSpeedEngine:
    """An ``Engine`` (see ``engine.py``) around ``deepspeed.initialize``."""

    def __init__(self, agent: EgoAgent, config: Config, mesh: Mesh) -> None:
        deepspeed = _import()
        os.environ.setdefault("LOCAL_RANK", str(read_launch().local_rank))  # srun does not set it, DeepSpeed demands it
        self.predictor, self.mesh = agent.predictor, mesh
        self.base = build_optimizer(agent.predictor, config.optim)
        self._named = {
            name: parameter
            for group in self.base.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        }
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=agent.predictor, optimizer=self.base, config=_settings(config, self._named.values())
        )
        self._open_states()
        self.average = MovingAverage(agent.predictor, agent.observer)
        # DeepSpeed measures the norm inside its step, and leaves a step with a norm that is not finite. Here the norm comes
        # first, and whether the step is taken is decided with the loss of all processes: it is measured once and handed over.
        self._measure, self._norm = self._zero.scaled_global_norm, torch.zeros(())
        self._zero.scaled_global_norm = lambda: self._norm

    def zero_grad(self) -> None:
        self._zero.zero_grad()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._zero.clear_backward_seen_flag()
        self._engine.backward(loss, scale_wrt_gas=False)

    def clipped_norm(self) -> Tensor:
        self._norm = self._measure()
        return self._norm

    def step(self, number: int, values: StepValues) -> None:
        set_step_values(self.base, step=number, lr=values.lr, weight_decay=values.weight_decay)
        self._engine.step()
        self.average.update(values.momentum)

    def drop(self) -> None:
        self._norm = torch.full_like(self._norm, torch.inf)
        self._engine.step()

    def weights(self) -> dict[str, Tensor]:
        return self.predictor.state_dict()

    def restore(self, checkpoint: Checkpoint) -> None:
        checkpoint.fill("predictor", shares(self.weights(), self.mesh))
        self._zero.refresh_fp32_params()
        if checkpoint.index["optimizer"]:  # of a run that has stepped
            self._restore_states(checkpoint)

    def optimizer_tensors(self) -> dict[str, Tensor]:
        stepped = any(state[STEP] for state in self.base.state.values())
        return self._states() if stepped else {}

    def _states(self) -> dict[str, Tensor]:
        """Step and moments of every parameter, whole; a collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        found = {}
        for group in self.base.param_groups:
            step = self.base.state[group["params"][0]][STEP]
            for name in group["param_names"]:
                moments = {f"{name}/{kind}": safe_get_full_optimizer_state(self._named[name], kind) for kind in MOMENTS}
                found |= {f"{name}/{STEP}": step.clone(), **moments}
        return found

    def _restore_states(self, checkpoint: Checkpoint) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        checkpoint.check("optimizer", shares(self._states(), self.mesh))
        for group in self.base.param_groups:
            step = checkpoint.tensor("optimizer", f"{group['param_names'][0]}/{STEP}")
            self.base.state[group["params"][0]][STEP].copy_(step)
        for name, parameter in self._named.items():
            for moment in MOMENTS:
                value = checkpoint.tensor("optimizer", f"{name}/{moment}")
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), moment)

    def _open_states(self) -> None:
        """Give every piece its state now: DeepSpeed looks for the states of all groups after the first one's first step."""
        for group in self.base.param_groups:
            piece = group["params"][0]  # of this process, all of the group's parameters in one
            zero = torch.zeros((), dtype=torch.float32, device=piece.device)
            self.base.state[piece] = {STEP: zero} | {moment: torch.zeros_like(piece) for moment in MOMENTS}
        self._zero._lazy_init_hp_params_optimizer_state()

    def close(self) -> None:
        from deepspeed.utils import groups

        self._engine.destroy()
        groups._release_process_group_references()  # or the next run of this process would use this one's


def _import():
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"parallel.engine is 'deepspeed', which cannot be imported ({error}); install it with "
            "pip install 'egoagent[deepspeed]', or set parallel.engine=torch"
        ) from error
    return deepspeed


def _settings(config: Config, parameters) -> dict:
    """DeepSpeed's own configuration. Batches are counted here, not there: every backward pass is one of its micro-steps."""
    elements = sum(parameter.numel() for parameter in parameters)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optim.grad_clip,
        "steps_per_print": 2**62,
        "zero_optimization": {"stage": config.parallel.zero, "reduce_bucket_size": min(elements, BUCKET)},
    }
