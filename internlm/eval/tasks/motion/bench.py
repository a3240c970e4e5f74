"""The motion benchmark: every forecaster on the same windows, one result file each, one table of all.

A result file is written when its method is measured, so that a long comparison can be run in parts, in several processes,
and goes on after an interruption.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from internlm.data.motion import MotionData, Recordings, Windows, hold_out, windows, zero_velocity

from ...errors import EvalError
from ...report.page import write_json
from .forecasters import TITLES, Forecaster, make, note
from .metrics import paired_difference, score
from .options import BenchOptions

PROTOCOL = ("frame", "past", "future", "stride", "seed")  # of the options: what must be equal for results to stand side by side


def run_benchmark(options: BenchOptions) -> dict[str, Any]:
    """Train and measure methods, write ``<out>/<method>.json`` and ``<out>/report.json``, print the table.

    A method whose file has the same protocol is not run again unless ``again``; its runs are in ``<out>/<method>``.
    ``config``: the file for EgoAgent, with ``overrides`` laid over it. Raises EvalError for an unknown method.
    """
    methods, out, seed = options.methods or tuple(TITLES), options.out, options.seed
    for name in methods:
        if name not in TITLES:
            raise EvalError(f"method {name!r} is unknown; choose from {', '.join(TITLES)}")
    recordings = Recordings(() if options.data == ("cmu",) else options.data, options.actions, frame=options.frame)
    data = recordings.open()
    train, test = data.of("train"), data.of("test")
    _check_unseen(train, test)
    fitted, held_out = hold_out(train)
    tested = windows(test, options.past, options.future, options.stride)
    about = describe(data, options, fitted, held_out, test, tested)
    how = {"past": options.past, "future": options.future, "cpu_minutes": options.cpu_minutes, "steps": options.steps}
    for name in methods:
        file = out / f"{name}.json"
        if not options.again and (known := _read(file)) and known["protocol"] == about:
            print(f"{TITLES[name]}: measured earlier ({file})", flush=True)
            continue
        print(f"{TITLES[name]}", flush=True)
        own = {"file": options.config, "overrides": options.overrides} if name == "egoagent" else {}
        forecaster = make(name, recordings, folder=out / name, seed=seed, note=note, **how, **own)
        write_json(file, {"method": name, "protocol": about, **measure(forecaster, tested, test)})
    found = {name: result for name in TITLES if (result := _read(out / f"{name}.json")) and result["protocol"] == about}
    report = {"protocol": about, "methods": {n: {k: v for k, v in r.items() if k != "protocol"} for n, r in found.items()}}
    write_json(out / "report.json", report)
    print(table(report))
    print(f"written to {out / 'report.json'}")
    return report


def _check_unseen(train: MotionData, test: MotionData) -> None:
    """EvalError when a recording is in training and in test, under whatever names."""
    known = {hashlib.blake2b(track.joints.tobytes()).digest(): track.name for track in train.tracks}
    for track in test.tracks:
        same = known.get(hashlib.blake2b(track.joints.tobytes()).digest())
        if same is not None:
            raise EvalError(f"{train.source}: {track.name} in test is the recording {same} in training; give each recording once")


def measure(forecaster: Forecaster, windows: Windows, data: MotionData) -> dict[str, Any]:
    """A forecaster's errors on the test windows, the difference to zero velocity, and how it was trained."""

    kept = {"rate": data.rate, "takes": windows.takes, "actions": windows.actions, "joints": data.joints}

    def errors(forecast) -> dict[str, Any]:
        prediction = forecast(windows.past)
        result = score(prediction, windows.future, windows.visible, **kept)
        still = zero_velocity(windows.past, windows.future.shape[1])
        result["minus_zero_velocity"] = paired_difference(prediction, still, windows.future, windows.visible, windows.takes)
        return result

    result = {**errors(forecaster.forecast), "training": forecaster.report}
    if forecaster.variants:
        result["variants"] = {name: errors(forecast) for name, forecast in forecaster.variants}
    return result


def describe(
    data: MotionData, options: BenchOptions, fitted: MotionData, held_out: MotionData, test: MotionData, windows: Windows
) -> dict[str, Any]:
    """The protocol as JSON."""
    return {
        **{name: getattr(options, name) for name in PROTOCOL},
        "data": data.source,
        "rate_hz": data.rate,
        "joints": list(data.joints),
        "root": [data.joints[j] for j in data.root],
        "units": "cm, cm/s",
        "mean": "over windows, frames and visible joints; intervals: 95 %, bootstrap over takes",
        "fitted_on": fitted.recordings,
        "selected_on": held_out.recordings,
        "tested_on": [name for row, name in enumerate(test.recordings) if row in windows.takes],
        "too_short_to_test": [name for row, name in enumerate(test.recordings) if row not in windows.takes],
        "windows": len(windows),
    }


def table(report: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    protocol = report["protocol"]
    rows = []
    for name, result in report["methods"].items():
        variants = {name: result, **result.get("variants", {})}
        for key, values in variants.items():
            title = TITLES[name] + ("" if key == name else f", {key.removeprefix(name).strip('_').replace('_', ' ')}")
            rows.append(_row(title, values, result["training"]))
    milliseconds = sorted({int(ms) for result in report["methods"].values() for ms in result["mpjpe_cm_at_ms"]})
    head = ["", "MPJPE cm [95 %]", "MPJVE cm/s [95 %]", "PA-MPJPE cm", f"cm at {'/'.join(map(str, milliseconds))} ms",
            "minus zero velocity, cm", "parameters", "CPU min"]  # fmt: skip
    title = (
        f"{protocol['data']}: {protocol['past']} frames in, {protocol['future']} out at {protocol['rate_hz']:g} Hz, "
        f"frame {protocol['frame']}, {protocol['windows']} windows of {len(protocol['tested_on'])} takes"
    )
    lines = [title, "", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *rows])


def _row(title: str, values: dict[str, Any], training: dict[str, Any]) -> str:
    def ranged(key: str) -> str:
        low_high = values[f"{key}_interval"]
        return f"{values[key]:.2f}" + (f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else "")

    difference = values["minus_zero_velocity"]
    spread = difference["interval"]
    cells = [
        title,
        ranged("mpjpe_cm"),
        ranged("mpjve_cm_s"),
        f"{values['pa_mpjpe_cm']:.2f}",
        "/".join(f"{error:.1f}" for error in values["mpjpe_cm_at_ms"].values()),
        f"{difference['mpjpe_cm']:+.2f}" + (f" [{spread[0]:+.2f}, {spread[1]:+.2f}]" if spread else ""),
        f"{training['parameters']:,}" if "parameters" in training else "–",
        f"{training['cpu_seconds'] / 60:.1f}" if "cpu_seconds" in training else "–",
    ]
    return "| " + " | ".join(cells) + " |"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
