"""The demo's report.html: figures beside floors, curves, neighbours, retrieved frames and skeletons."""

from pathlib import Path
from typing import Any

import numpy as np

from internlm.data.camera import project
from internlm.data.frames import decode
from internlm.eval.report import figures
from internlm.eval.report.page import Section, curves, facts, table_of_figures
from internlm.eval.report.page import write_page as write_html
from internlm.eval.tasks.knn import pictures as neighbours
from internlm.eval.tasks.motion import chunks as motion
from internlm.eval.tasks.motion.report import motion_chunks
from internlm.eval.tasks.retrieval import pictures as retrieved
from internlm.monitor.health import UNIFORM_SHARE
from internlm.monitor.metrics import read_metrics

from .evaluation import Evaluated

EXAMPLES = 6


def summary(report: dict[str, Any]) -> str:
    """What this is, in plain words."""
    verdict = "a collapse was diagnosed" if report["collapsed"] else "no collapse"
    kl = report["prediction_kl"]
    uniform = kl["teacher_entropy"]["last"] > UNIFORM_SHARE * kl["uniform_entropy"]
    warning = " The targets on held-out takes are uniform: the figures of the prediction's KL mean nothing." if uniform else ""
    return (
        f"A network of {report['parameters'] / 1e6:.1f} M parameters, trained from scratch for {report['steps']['stage1']} + "
        f"{report['steps']['stage2']} steps (seed {report['seed']}, {verdict}) on EgoWorld, a synthetic first-person world. "
        f"All figures are of {report['split']} takes, in rooms that training never saw, each beside what needs no learning. "
        "They say whether the whole system learns; they are not comparable with figures on real recordings." + warning
    )


def write_page(path: Path, report: dict[str, Any], done: Evaluated, runs: dict[str, Path]) -> Path:
    """Write the page; returns its path."""
    near = neighbours.neighbour_strips(done.features, done.images["train"], done.images["test"], EXAMPLES + 2)
    read = retrieved.take_reader(done.dataset)
    found = retrieved.retrieved_strips(done.outputs, "bottleneck", done.gallery, read, EXAMPLES)
    sections = [
        Section("Results beside their floors", table_of_figures(done.figures), f"Measured on the {report['split']} takes."),
        Section("What was run", facts(_facts(report, done))),
        Section("Training curves", _curves(runs), _CURVES),
        Section("Nearest neighbours", near, neighbours.NEIGHBOURS),
        Section("Retrieved next frames", found, retrieved.RETRIEVED),
        Section("Predicted motion", _motion(done), _MOTION),
    ]
    return write_html(path, title="EgoAgent demo", summary=summary(report), sections=sections)


_CURVES = "Faint: as logged; strong: running mean; held out: on validation takes. KL = cross-entropy minus the teacher's entropy."
_MOTION = (
    "The wearer's body at the end of the predicted chunk, in the head camera of the frame shown: green = true, pink = predicted, "
    "grey = zero velocity. Beside it the same bodies seen from the wearer's right (forward is to the right). Shown are "
    "the takes' liveliest moments, where standing still is the worst guess."
)


def _facts(report: dict[str, Any], done: Evaluated) -> dict[str, Any]:
    data, laps = report["data"], report["seconds_by_part"]
    knn_, retrieval_, motion_ = (report[task]["protocol"] for task in ("knn", "retrieval", "motion"))
    health = "; ".join(f"{stage}: {h['verdict'] or 'healthy'}" for stage, h in report["health"].items())
    return {
        "Data": f"EgoWorld, synthetic, generated with seed {report['seed']}; no real recording",
        "Takes": f"{data['takes'][0]} train, {data['takes'][1]} val, {data['takes'][2]} test; {data['seconds']:.0f} s each",
        "Evaluated": f"{report['split']}: {len(done.features['test'].rows)} frames for kNN, {len(done.outputs.takes)} clips",
        "Steps": f"{report['steps']['stage1']} (stage 1), {report['steps']['stage2']} (stage 2)",
        "Health": health,
        "Parameters": f"{report['parameters']:,}",
        "Device": report["device"],
        "Seconds": f"{report['seconds']:.0f} ({', '.join(f'{name} {value:.0f}' for name, value in laps.items())})",
        "kNN protocol": f"{knn_['branch']}, {knn_['view']}, {knn_['vote']}, k = {report['knn']['k']}",
        "Retrieval protocol": f"{retrieval_['gallery']}; {retrieval_['horizon_seconds']:.2f} s ahead",
        "Motion protocol": f"{motion_['prediction']}; {motion_['joints']}",
    }


def _curves(runs: dict[str, Path]) -> str:
    names = {"stage1": "Stage 1", "stage2": "Stage 2"}
    groups = {
        "KL of the losses": ({"L_rep": "rep_kl", "L_pred": "pred_kl"}, "nats"),
        "Teacher entropy": ({"representation": "rep_teacher_entropy", "prediction": "pred_teacher_entropy"}, "nats"),
        "L_act": ({"masked L1": "act"}, "metres"),
        "Effective rank of the features": ({"effective rank": "health/effective_rank"}, "dimensions"),
    }
    charts = []
    for stage, run_dir in runs.items():
        records = read_metrics(run_dir)
        for title, (keys, unit) in groups.items():
            series = curves(records, keys)
            if series:
                charts.append(figures.line_chart(series, title=f"{names[stage]}: {title}", x_label="step", y_label=unit))
    return f'<div class="charts">{"".join(charts)}</div>'


def _motion(done: Evaluated) -> str:
    chunks, outputs = motion_chunks(done.outputs), done.outputs
    steps = outputs.poses.shape[1]
    predicted = outputs.action.flatten(0, 1).numpy()
    last = -1 if done.dataset.clip.pose_coordinates == "chunk" else 0  # in camera coordinates only the first pose is in I_t's
    seen = chunks.visible[:, last] & chunks.past_visible[:, -1]
    distance = np.linalg.norm(chunks.target[:, last] - chunks.past[:, -1], axis=-1)
    moved = np.where(seen, distance, 0).sum(-1) / np.maximum(seen.sum(-1), 1)
    parts = []
    for row in _one_per_take(chunks.takes, moved)[:EXAMPLES]:
        take = done.dataset.takes[int(chunks.takes[row])]
        if take.info.camera is None or not seen[row].any():
            continue
        number = int(outputs.frame_numbers[row // steps, row % steps])
        standing, guess, truth = chunks.past[row, -1], predicted[row, last], chunks.target[row, last]
        bodies = ((standing, figures.FLOOR), (guess, figures.PREDICTED), (truth, figures.TRUE))
        error, floor = (motion.position_error(body, truth)[seen[row]].mean() for body in (guess, standing))
        caption = f"{take.info.labels.get('place', take.info.name)}, frame {number}: {error:.1f} cm (zero velocity {floor:.1f})"
        overlay = [(project(take.info.camera, joints)[0], seen[row] & (joints[:, 2] > 0.05), colour) for joints, colour in bodies]
        image = decode(take.read_frame(number))
        side = figures.side_view([(joints, seen[row], colour) for joints, colour in bodies], caption="from the right")
        parts.append(f'<div class="pair">{figures.skeletons(image, overlay, caption=caption)}{side}</div>')
    return f'<div class="strip">{"".join(parts)}</div>'


def _one_per_take(takes: np.ndarray, score: np.ndarray) -> list[int]:
    """The row of highest score of each take, takes in order."""
    rows = [np.flatnonzero(takes == take) for take in np.unique(takes)]
    return [int(r[np.argmax(score[r])]) for r in rows]
