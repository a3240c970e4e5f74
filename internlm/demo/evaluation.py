"""All evaluations of a demo run on its held-out takes, with what the page's pictures need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internlm.config.schema import ParallelConfig
from internlm.data.clips import ClipDataset
from internlm.data.evaluation import evaluation_clips
from internlm.data.frames import ImageSource, open_images
from internlm.eval.clips import ClipOutputs, run_clips
from internlm.eval.features import Features
from internlm.eval.report.page import Figure
from internlm.eval.tasks.knn import report as knn_task
from internlm.eval.tasks.knn.options import KnnOptions
from internlm.eval.tasks.motion import report as motion_task
from internlm.eval.tasks.retrieval import report as retrieval_task
from internlm.eval.tasks.retrieval.ranking import Gallery
from internlm.systems.egoagent.config import EgoAgentConfig as Config
from internlm.systems.egoagent.weights import init_from
from internlm.train.loop import TrainResult
from internlm.train.state import build_state

from .sensitivity import ACTIONS, prediction_kl
from .sensitivity import figures as sensitivity_figures
from .size import DemoSize

CLIP_BATCH = 16


@dataclass(frozen=True)
class Evaluated:
    """Reports by name, their table rows, and the material of the pictures."""

    reports: dict[str, dict[str, Any]]  # of kNN, retrieval, motion, action_sensitivity and prediction_kl
    figures: list[Figure]
    images: dict[str, ImageSource]  # "train" and "test"
    features: dict[str, Features]
    dataset: ClipDataset
    outputs: ClipOutputs
    gallery: Gallery


def evaluate(result: TrainResult, config: Config, world: Path, size: DemoSize, *, split: str) -> Evaluated:
    """kNN, retrieval, motion, action sensitivity and the prediction's KL before and after stage 2, on ``split``.

    Retrieval compares the bottleneck, as the command does by default; its report's ``hidden`` is the same by the hidden state.
    """
    system = result.state.system
    agent, loss = system.agent.eval(), system.loss.eval()
    device = next(agent.parameters()).device
    parts = {"train": "train", "test": split}
    images = {name: open_images([world], part, size.knn_frame_stride, "place") for name, part in parts.items()}
    knn, features = knn_task.knn_report(system, images["train"], images["test"], KnnOptions(device=device.type))
    dataset = system.clips([str(world)], split)
    batches = list(evaluation_clips(dataset, CLIP_BATCH, limit=size.clips, mixed=True))
    outputs = run_clips(system, batches, features=("bottleneck", "hidden"), device=device)
    retrieval, gallery = retrieval_task.retrieval_report(outputs, dataset)
    retrieval["hidden"], _ = retrieval_task.retrieval_report(outputs, dataset, feature="hidden")
    motion = motion_task.motion_report(outputs, dataset)
    actions = prediction_kl(agent, loss, batches, actions=ACTIONS, device=device)
    start = build_state(config.model_copy(update={"parallel": ParallelConfig()}), device)  # of one process, whatever trained it
    init_from(start.system.agent, start.system.loss, config.train.init_from)
    first = prediction_kl(start.system.agent, start.system.loss, batches, actions=("true",), fit_center=True, device=device)
    kl = {"first": first["true"], "last": actions["true"], "unit": "nats", "uniform_entropy": actions["uniform_entropy"]}
    kl |= {name: {"first": first[name], "last": actions[name]} for name in ("constant", "teacher_entropy")}
    entropies = f"{actions['teacher_entropy']:.2f} of at most {actions['uniform_entropy']:.2f} nats"
    about = {"higher_is_better": False, "meaning": f"targets: entropy {entropies}"}
    figures = [
        *knn_task.figures(knn),
        *retrieval_task.figures(retrieval, system.states[0]),
        *retrieval_task.figures(retrieval["hidden"], system.states[0]),
        *motion_task.figures(motion),
        *sensitivity_figures(actions),
        Figure("Prediction KL after stage 2", kl["last"], "nats", {"before stage 2": kl["first"]}, **about),
    ]
    reports = {"knn": knn, "retrieval": retrieval, "motion": motion, "action_sensitivity": actions, "prediction_kl": kl}
    return Evaluated(reports, figures, images, features, dataset, outputs, gallery)
