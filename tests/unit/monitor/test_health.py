"""The collapse verdict on synthetic outputs, healthy and collapsed, and the figures on cases with a known answer."""

import io
import json
import math

import pytest
import torch

from internlm.monitor.boards import Boards, tensorboard
from internlm.monitor.health import CollapseWatch, effective_rank, read_health
from internlm.monitor.metrics import MetricsWriter, read_metrics
from internlm.monitor.progress import Progress

N, K, D = 64, 512, 32


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def healthy():
    return torch.softmax(3 * torch.randn(N, K), -1), unit(torch.randn(N, D))


def uniform():
    return torch.softmax(0.01 * torch.randn(N, K), -1), unit(torch.randn(N, D))


def one_hot():
    teacher = torch.zeros(N, K)
    teacher[:, 3] = 1
    return teacher, unit(torch.randn(N, D))


def same_features():
    return torch.softmax(3 * torch.randn(N, K), -1), unit(torch.ones(N, D) + 1e-3 * torch.randn(N, D))


def test_figures_of_a_uniform_teacher_and_random_features():
    reading = read_health(torch.full((N, K), 1 / K), unit(torch.randn(4096, D)))
    assert reading.teacher_entropy == pytest.approx(math.log(K), rel=1e-5)
    assert reading.mean_teacher_entropy == pytest.approx(math.log(K), rel=1e-5)
    assert reading.feature_std == pytest.approx(reading.healthy_std, rel=0.02)
    assert reading.effective_rank == pytest.approx(D, rel=0.02)


def test_effective_rank_counts_equal_directions():
    basis = torch.eye(D)[:4]
    features = torch.cat([basis, -basis])
    assert effective_rank(features).item() == pytest.approx(4, rel=1e-5)


def test_prototype_usage_counts_winners():
    teacher = torch.zeros(8, K)
    teacher[torch.arange(8), torch.arange(8) % 2] = 1
    assert read_health(teacher, unit(torch.randn(8, D))).prototype_usage == pytest.approx(2 / 8)


@pytest.mark.parametrize(
    ("outputs", "verdict"), [(healthy, None), (uniform, "uniform"), (one_hot, "constant"), (same_features, "constant")]
)
def test_verdict_of_a_reading(outputs, verdict):
    assert read_health(*outputs()).verdict == verdict


def test_verdict_needs_patience_and_a_finished_grace():
    watch = CollapseWatch(patience=3, grace_steps=100)
    bad = read_health(*uniform())
    assert [watch.update(step, bad.verdict) for step in (0, 50, 99)] == [None] * 3
    assert [watch.update(step, bad.verdict) for step in (100, 110, 120)] == [None, None, "uniform"]
    assert "ln K" in bad.explain("uniform")


def test_a_good_reading_starts_the_count_anew_and_lasting_health_lifts_the_verdict():
    watch = CollapseWatch(patience=2, grace_steps=0)
    good, bad = read_health(*healthy()), read_health(*one_hot())
    assert [watch.update(0, reading.verdict) for reading in (bad, good, bad, bad)] == [None, None, None, "constant"]
    assert [watch.update(0, reading.verdict) for reading in (good, bad, good, good)] == ["constant"] * 3 + [None]


def test_the_watch_continues_from_its_state():
    first, second = (CollapseWatch(patience=2, grace_steps=0) for _ in range(2))
    bad = read_health(*uniform())
    first.update(0, bad.verdict)
    second.load_state(json.loads(json.dumps(first.state())))
    assert second.update(1, bad.verdict) == "uniform"


def test_metrics_are_json_lines_and_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in range(1, 5):
        writer.write(step, {"loss": float("nan") if step == 2 else step / 3})
    writer.close()
    with writer.path.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [record["loss"] for record in read_metrics(tmp_path)] == [1 / 3, None, 1.0, 4 / 3]
    writer = MetricsWriter(tmp_path, resume_step=3)
    writer.write(4, {"loss": 9.0})
    writer.close()
    assert [(record["step"], record["loss"]) for record in read_metrics(tmp_path)] == [(1, 1 / 3), (2, None), (3, 1.0), (4, 9.0)]


def test_tensorboard_gets_the_same_scalars(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = MetricsWriter(tmp_path, boards=Boards(tensorboard(tmp_path, 0)))
    writer.write(3, {"loss": 0.5})
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.5)]


def test_progress_without_a_terminal_is_plain_lines(capsys):
    progress = Progress(total=10, start=2)
    progress.advance(3)
    progress.report(3, {"loss": 1.25, "images_per_s": 7.0})
    progress.close()
    error = capsys.readouterr().err
    assert error.startswith("step 3/10  loss 1.25  7.0 images/s") and "\x1b" not in error


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_shows_the_bar_the_figures_and_notes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress(total=10, stream=stream)
    progress.advance(4)
    progress.report(4, {"loss": 1.25, "images_per_s": 7.0})
    progress.note("[a note]")
    progress.close()
    shown = stream.getvalue()
    assert "4/10" in shown and "7.0 images/s  loss 1.25" in shown and "[a note]" in shown
