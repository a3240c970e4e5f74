"""The stranger's own evaluation: how well the next value of a wave is told, beside the value before."""

from dataclasses import dataclass

from internlm.eval.options import EvalOptions, option, whole
from internlm.eval.task import Result, open_subject

SUMMARY = "mean error of the next value of a wave"


@dataclass(frozen=True, kw_only=True)
class Options(EvalOptions):
    waves: int = option(32, "waves that are continued", type=whole(1))


def evaluate(options: Options) -> Result:
    import torch

    from internlm.eval.report.page import Figure

    subject = open_subject(options, "Predicts")
    phases = 0.37 + torch.arange(options.waves)[:, None]
    wave = torch.sin(phases + 0.5 * torch.arange(subject.system.config.wave.length))
    predicted, truth = subject.system.predict({"wave": wave})["wave"][:, :-1].cpu(), wave[:, 1:]
    error, floor = ((other - truth).abs().mean().item() for other in (predicted, wave[:, :-1]))
    report = {"error": error, "floors": {"value before": floor}, "protocol": {"waves": options.waves}}
    return Result(subject.about, report, [Figure("next value", error, "", report["floors"], higher_is_better=False)])
