"""``egoagent eval retrieval``: does the predicted next state find the true next frame?"""

from ...errors import EvalError
from ...task import Result, open_subject
from .options import RetrievalOptions as Options

SUMMARY = "find the true next frame from the predicted next state"
PICTURES = 12


def evaluate(options: Options) -> Result | None:
    """Retrieval by a model's predictions, or by stored features; None on processes that do not report."""
    from internlm.core.collectives import rank

    from . import report as retrieval

    if options.features:
        return None if rank() else _stored(options)
    from ...clips import evaluated_clips

    subject = open_subject(options, "Foresees")
    feature = options.feature or subject.system.states[0]
    outputs, dataset, data = evaluated_clips(subject, options, (feature,))
    if rank():
        return None
    how = {"feature": feature, "scope": options.gallery, "horizon": options.horizon}
    report, gallery = retrieval.retrieval_report(outputs, dataset, **how)
    report["protocol"] |= {"data": data, "split": options.split}
    if options.pictures:
        from .pictures import retrieval_page

        page = retrieval_page(options.pictures, outputs, feature, gallery, dataset, PICTURES)
        print(f"pictures in {page}")
    return Result(subject.about, report, retrieval.figures(report, subject.system.states[0]))


def _stored(options: Options) -> Result:
    from ...feature_files import read_frames
    from . import report as retrieval

    if not options.frame_stride:
        raise EvalError("--features needs --frame-stride N: frame numbers of one step (5 for images at 6 Hz of takes at 30 Hz)")
    report = retrieval.stored_report(read_frames(options.features), options)
    return Result({"source": options.source, "step": None}, report, retrieval.figures(report))
