"""``egoagent eval linear``: linear probe and few-shot on frozen features."""

from ...errors import EvalError
from ...images.options import open_images
from ...task import Result
from .options import LinearOptions as Options

SUMMARY = "linear probe and few-shot classes of single images on frozen features"


def evaluate(options: Options) -> Result | None:
    """Probes on a model's or on stored features; None on processes that do not report."""
    from . import report as linear

    judged = open_images(options, needs_images=False)
    if judged.subject:
        report = linear.probe_report(judged.subject.system, *judged.sources, options)
    elif options.augment:
        raise EvalError("--augment needs a model; stored features have one view")
    else:
        report = linear.stored_report(judged.stored, options)
    if not report:
        return None
    report["protocol"] |= judged.protocol
    return Result(judged.about, report, linear.figures(report))
