"""``egoagent eval knn``: classes of images by their nearest neighbours."""

from ...images.options import open_images
from ...task import Result
from .options import KnnOptions as Options

SUMMARY = "k-nearest-neighbour classes of single images, beside random weights and raw pixels"
PICTURES = 12


def evaluate(options: Options) -> Result | None:
    """kNN of a model, or of stored features; None on processes that do not report."""
    from . import report as knn

    judged = open_images(options)
    if judged.subject:
        report, found = knn.knn_report(judged.subject.system, *judged.sources, options)
    else:
        report, found = knn.stored_report(judged.stored, judged.sources, options)
    if not report:
        return None
    report["protocol"] |= judged.protocol
    if options.pictures and judged.sources:
        from .pictures import neighbour_page

        print(f"pictures in {neighbour_page(options.pictures, found, judged.sources, PICTURES)}")
    for k, row in report["by_k"]["model"].items():
        print(f"{k}-NN classifier result: Top1: {row['top1']:.4g}, Top5: {row['top5']:.4g}")
    return Result(judged.about, report, knn.figures(report))
