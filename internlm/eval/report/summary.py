"""Results as rows of one table, the same on the console and on the page."""

from collections.abc import Iterable
from typing import Any

from .page import Figure

FLOOR_NAMES = {
    "random_weights": "random weights",
    "random_weights_uncalibrated": "random weights, uncalibrated",
    "pixels": "raw pixels",
    "current_frame": "current frame",
    "constant_drift": "constant drift",
    "random": "random order",
    "zero_velocity": "zero velocity",
    "constant_velocity": "constant velocity",
}


def knn_figures(report: dict[str, Any]) -> list[Figure]:
    """Rows of a ``protocols.knn_report``."""
    meaning = f"place class of a frame, k = {report['k']}; top-5 is {report['top5']:.1f} %"
    floors = _named(report["floors"]) | {"chance": report["chance"]}
    return [Figure("kNN top-1", report["top1"], "%", floors, meaning=meaning)]


def linear_figures(report: dict[str, Any]) -> list[Figure]:
    """Rows of a ``linear_protocol.probe_report``."""
    chosen = report["selected"]
    choice = chosen["feature"].removeprefix("model.")
    meaning = f"feature {choice}, learning rate {chosen['rate']:g}, chosen on held-out training images"
    floors = _named(report["floors"]) | {"chance": report["chance"]}
    rows = [Figure("Linear probe top-1", report["top1"], "%", floors, meaning=meaning)]
    for shot in report.get("few_shot", []):
        spread = f"± {shot['top1_std']:.2g} over {shot['draws']} draws"
        others = {"nearest class mean": shot["nearest_mean_top1"], "chance": report["chance"]}
        rows.append(Figure(f"{shot['shots']}-shot top-1 {spread}", shot["top1"], "%", others, meaning="linear probe"))
    return rows


def retrieval_figures(report: dict[str, Any]) -> list[Figure]:
    """Rows of a ``protocols.retrieval_report``; a feature other than the default is in their names."""
    feature = report["protocol"].get("feature", "bottleneck")  # stored features have none
    by = "" if feature == "bottleneck" else f", {feature}"
    where = f"finding the true next frame among {report['competing_items']:.0f}"
    by_map = _named({name: scores["map"] for name, scores in report["floors_in_full"].items()})
    centred = report["centred"]
    by_centred = _named({name: scores["top1"] for name, scores in centred["floors"].items()})
    return [
        Figure(f"Next-state retrieval top-1{by}", report["top1"], "%", _named(report["floors"]), meaning=where),
        Figure(
            f"Next-state retrieval top-1{by}, centred", centred["top1"], "%", by_centred, meaning="each branch's mean taken away"
        ),
        Figure(f"Next-state retrieval mAP{by}", report["map"], "%", by_map, meaning="mean reciprocal rank"),
    ]


def motion_figures(report: dict[str, Any]) -> list[Figure]:
    """Rows of a ``protocols.motion_report``."""
    horizon = 1000 * report["protocol"]["horizon_seconds"]
    rows = []
    for view, part in (("head camera", report), ("root-relative", report["root_relative"])):
        if part is None:
            continue
        for key, name, unit in (("mpjpe_cm", "MPJPE", "cm"), ("mpjve_cm_s", "MPJVE", "cm/s")):
            floors = _named({floor: values[key] for floor, values in part["floors"].items()})
            meaning = f"next {horizon:.0f} ms of body motion"
            rows.append(Figure(f"{name}, {view}", part[key], unit, floors, higher_is_better=False, meaning=meaning))
    return rows


def rollout_figures(report: dict[str, Any]) -> list[Figure]:
    """Rows of a ``motion_protocol.rollout_report``: each model beside the floors and baselines of its frame."""
    if "skipped" in report:
        return []
    rows = []
    protocol = report["protocol"]
    seconds = protocol["predicted_poses"] / min(protocol["poses_per_second"])
    for view in ("world", "head_camera", "root_relative"):
        part = report[view] or {}
        if view == "head_camera" and "model_without_images" in report["world"]:
            continue  # one camera for all poses: the same figures as in the world
        models = {name: values for name, values in part.items() if name.startswith("model_")}
        others = {name: values for name, values in part.items() if name not in models}
        for model, values in models.items():
            for key, name, unit in (("mpjpe_cm", "MPJPE", "cm"), ("mpjve_cm_s", "MPJVE", "cm/s")):
                floors = {FLOOR_NAMES.get(other, other): found[key] for other, found in others.items()}
                title = f"{name} rolled out, {view.replace('_', ' ')}, {model.removeprefix('model_').replace('_', ' ')}"
                meaning = f"{seconds:.2g} s of motion"
                rows.append(Figure(title, values[key], unit, floors, higher_is_better=False, meaning=meaning))
    return rows


def sensitivity_figures(report: dict[str, float]) -> list[Figure]:
    """Row of a ``sensitivity.prediction_kl`` with all three actions."""
    others = {"shuffled action": report["shuffled"], "zeroed action": report["zero"], "constant prediction": report["constant"]}
    meaning = "KL of the predicted next state, at the same frames"
    return [Figure("Prediction with the true action", report["true"], "nats", others, higher_is_better=False, meaning=meaning)]


def print_table(title: str, rows: Iterable[Figure]) -> None:
    """The rows as a console table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", show_lines=True)
    table.add_column("")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("floors", no_wrap=True)
    table.add_column("against the best floor")
    for row in rows:
        floors = "\n".join(f"{name} {value:.4g}" for name, value in row.floors.items())
        colour = "green" if row.beats_floors else "yellow"
        table.add_row(row.name, f"[bold]{row.value:.4g}[/] {row.unit}", floors, f"[{colour}]{row.verdict()}[/]")
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # in a log file, lines need not be short
    console.print(table)


def _named(floors: dict[str, float]) -> dict[str, float]:
    return {FLOOR_NAMES[name]: value for name, value in floors.items()}
