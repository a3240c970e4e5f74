"""The network's oracles: published parameter counts, token counts, and the four leak tests by gradient (spec §2.1, §2.5)."""

import pytest
import torch

from internlm.config.errors import ConfigError
from internlm.config.load import load_config
from internlm.config.resolve import parse_config
from internlm.modality.body_pose import last_observed, pose_features
from internlm.systems.egoagent.config import ModelConfig
from internlm.systems.egoagent.network import EgoAgent, EgoNetwork
from internlm.systems.egoagent.sequence import clip_layout, frame_layout
from internlm.trunk.cache import KVCache

BATCH, STEPS = 2, 3
TINY = dict(
    hidden_size=32, num_layers=2, num_heads=2, mlp_multiple_of=16, image_size=32, local_image_size=16, patch_size=8,
    prototypes=24, head_hidden=16, head_bottleneck=8, init_std=0.2,
)  # fmt: skip


def tiny(**changes) -> EgoAgent:
    torch.manual_seed(0)
    return EgoAgent(ModelConfig(**{**TINY, **changes})).eval()


def actions(config: ModelConfig, visible: float = 1.0):
    torch.manual_seed(1)
    shape = (BATCH, STEPS, config.poses_per_step, config.num_joints)
    poses, past = torch.randn(*shape, 3), torch.randn(*shape, 3)
    return [poses, torch.rand(shape) <= visible, past, torch.rand(shape) <= visible]


def frames(config: ModelConfig, count: int = STEPS) -> torch.Tensor:
    return torch.randn(BATCH, count, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("hidden", "heads", "backbone", "head"), [(1024, 8, 289_977_472, 23_597_312), (2048, 16, 1_159_620_864, 25_694_464)]
)
def test_published_parameter_counts(hidden, heads, backbone, head):
    with torch.device("meta"):
        network = EgoNetwork(ModelConfig(hidden_size=hidden, num_heads=heads))
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(network.stem) + count(network.backbone) == backbone
    assert count(network.head) == head


def test_token_counts_at_224_pixels():
    assert len(clip_layout(196, 20, "causal")) == 199 * 20
    assert len(frame_layout(196, "causal")) == 197
    assert len(frame_layout(196, "causal", 20)) == 197 * 20
    assert len(frame_layout(49, "causal")) == 50


def test_causal_layout_is_the_lower_triangle():
    layout = clip_layout(4, 3, "causal")
    assert layout.is_causal and layout.mask(torch.device("cpu")) is None
    assert torch.equal(layout.allow(), torch.ones(len(layout), len(layout), dtype=torch.bool).tril())


def test_block_layout_opens_frames_and_hides_queries():
    layout = clip_layout(4, 2, "block")
    allow, image = layout.allow(), layout.index["image"]
    assert not layout.is_causal
    assert allow[image[0]][:, image[0]].all(), "patches of a frame see each other"
    assert not allow[image[0]][:, image[1]].any(), "no patch sees a later frame"
    for query in ("action_query", "state"):
        seen = allow[:, layout.index[query].flatten()].sum(0)
        assert (seen == 1).all(), f"{query} is read by nobody but itself"


def gradient_reaches(output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Which steps of ``source`` [B, T, ...] the sum of ``output`` depends on, bool [T]."""
    (gradient,) = torch.autograd.grad(output.square().sum(), source, retain_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros(source.shape[1], dtype=torch.bool)
    return gradient.abs().sum(dim=[d for d in range(gradient.dim()) if d != 1]) > 0


@pytest.mark.parametrize("sequence", ["causal", "block"])
@pytest.mark.parametrize("context", [False, True])
def test_no_leak_between_steps(sequence, context):
    agent = tiny(sequence=sequence, pose_context=context)
    images = frames(agent.config).requires_grad_()
    poses, visible, past, past_visible = actions(agent.config)
    poses.requires_grad_()
    readout = agent.predictor(images, poses, visible, past, past_visible)
    for t in range(STEPS):
        upto, before = [k <= t for k in range(STEPS)], [k < t for k in range(STEPS)]
        assert gradient_reaches(readout.action[:, t], poses).tolist() == before, "A'_t sees a_0..a_{t-1}"
        assert gradient_reaches(readout.action[:, t], images).tolist() == upto, "A'_t sees i_0..i_t"
        assert gradient_reaches(readout.state[:, t], poses).tolist() == upto, "S'_{t+1} sees a_0..a_t"
        assert gradient_reaches(readout.state[:, t], images).tolist() == upto, "S'_{t+1} sees i_0..i_t"


@pytest.mark.parametrize("sequence", ["causal", "block"])
@pytest.mark.parametrize("seen", [0, 2])
def test_no_leak_without_images(sequence, seen):
    """Steps without an image: poses leak no more than with one, and the images of the first steps reach the later ones."""
    agent = tiny(sequence=sequence, pose_context=True)
    images = frames(agent.config, seen).requires_grad_() if seen else None
    poses, visible, past, past_visible = actions(agent.config)
    poses.requires_grad_()
    readout = agent.predictor(images, poses, visible, past, past_visible)
    for t in range(STEPS):
        assert gradient_reaches(readout.action[:, t], poses).tolist() == [k < t for k in range(STEPS)]
        assert gradient_reaches(readout.state[:, t], poses).tolist() == [k <= t for k in range(STEPS)]
        if seen:
            assert gradient_reaches(readout.action[:, t], images).tolist() == [k <= t for k in range(seen)]


@pytest.mark.parametrize("sequence", ["causal", "block"])
def test_images_of_the_first_steps_give_what_they_give_in_a_full_clip(sequence):
    agent = tiny(sequence=sequence, pose_target="offset", pose_context=True)
    given, images = actions(agent.config), frames(agent.config)
    whole, half = agent.predictor(images, *given), agent.predictor(images[:, :2], *given)
    torch.testing.assert_close(half.action[:, :2], whole.action[:, :2])
    assert not torch.allclose(half.state[:, 2], whole.state[:, 2])


def test_configs_of_before_may_say_that_there_are_images(root):
    file = root / "configs/joint_train/demo.py"
    assert load_config(file, ["model.use_images=true"]) == load_config(file)
    before = load_config(file).model_dump(mode="json")
    assert parse_config(before | {"model": before["model"] | {"use_images": True}}) == load_config(file)
    with pytest.raises(ConfigError, match="model: use_images False: without images it is system 'forecaster'"):
        load_config(file, ["model.use_images=false"])


@pytest.mark.parametrize(("attention", "independent"), [("frame", True), ("clip", False)])
def test_observer_sees_frames_alone_or_in_order(attention, independent):
    agent = tiny(observer_attention=attention)
    images = frames(agent.config).requires_grad_()
    state = agent.observer.encode_clip(images)
    for t in range(STEPS):
        expected = [k == t if independent else k <= t for k in range(STEPS)]
        assert gradient_reaches(state[:, t], images).tolist() == expected
    if independent:
        torch.testing.assert_close(state[:, 1], agent.observer(images[:, 1]))


def test_observer_starts_as_the_predictor_and_gets_no_gradient():
    agent = tiny()
    images = frames(agent.config)[:, 0]
    torch.testing.assert_close(agent.predictor(images), agent.observer(images))
    assert not any(p.requires_grad for p in agent.observer.parameters())


def test_offset_head_starts_as_zero_velocity():
    agent = tiny(pose_target="offset")
    poses, visible, past, past_visible = actions(agent.config)
    readout = agent.predictor(frames(agent.config), poses, visible, past, past_visible)
    torch.testing.assert_close(readout.action, past[:, :, -1:].expand_as(readout.action))


def test_missing_joints_never_act_as_coordinates():
    agent = tiny(pose_target="offset", pose_context=True)
    images = frames(agent.config)
    poses, visible, past, past_visible = actions(agent.config, visible=0.5)
    wild = [p.masked_fill(~v.unsqueeze(-1), 1e6) for p, v in ((poses, visible), (past, past_visible))]
    one = agent.predictor(images, poses, visible, past, past_visible)
    two = agent.predictor(images, wild[0], visible, wild[1], past_visible)
    torch.testing.assert_close(one.action, two.action)
    torch.testing.assert_close(one.state, two.state)


def test_last_observed_takes_the_latest_visible_position():
    poses = torch.tensor([[[1.0, 0, 0], [2, 0, 0], [9, 9, 9]], [[5.0, 0, 0], [6, 0, 0], [9, 9, 9]]])
    visible = torch.tensor([[True, True, False], [False, True, False]])
    expected = torch.tensor([[1.0, 0, 0], [6, 0, 0], [3.5, 0, 0]])
    torch.testing.assert_close(last_observed(poses, visible), expected)
    assert not last_observed(poses, torch.zeros_like(visible)).any()


def test_pose_features_are_invertible_for_visible_joints():
    poses = torch.randn(5, 17, 3)
    features = pose_features(poses, torch.ones(5, 17, dtype=torch.bool)).view(5, 17, 3)
    last, motion = features[-1], features[:-1] / 10
    rebuilt = [last]
    for step in motion.flip(0):
        rebuilt.append(rebuilt[-1] - step)
    torch.testing.assert_close(torch.stack(rebuilt[::-1]), poses, atol=1e-5, rtol=0)


def test_prototype_rows_are_normalised():
    agent = tiny()
    hidden = torch.randn(4, agent.config.hidden_size)
    before = agent.predictor.head(hidden)
    agent.predictor.head.prototypes.data.mul_(7.0)
    torch.testing.assert_close(agent.predictor.head(hidden), before)
    assert before.abs().max() <= 1 + 1e-5


def test_misfit_images_and_layouts_are_refused():
    agent = tiny()
    with pytest.raises(ValueError, match="patch size 8"):
        agent.predictor(torch.zeros(1, 3, 30, 30))
    with pytest.raises(ValueError, match="do not fit a layout"):
        agent.predictor.backbone(torch.zeros(1, 3, 32), frame_layout(4, "causal"))


def test_layer_norm_stem_is_free_of_the_batch():
    agent = tiny(stem_norm="layer").train()
    images = frames(agent.config)[:, 0]
    torch.testing.assert_close(agent.predictor(images)[:1], agent.predictor(images[:1]))


@pytest.mark.parametrize("sequence", ["causal", "block"])
@pytest.mark.parametrize("seen", [0, 1, STEPS])
@pytest.mark.parametrize("at_once", [False, True])
@torch.no_grad()
def test_a_clip_read_as_it_becomes_known_is_the_clip(sequence, seen, at_once):
    """A frame and the poses before it, then the poses after it: the read-outs of the whole clip."""
    agent = tiny(sequence=sequence, pose_context=True, pose_target="offset")
    network, given = agent.predictor, actions(agent.config, visible=0.8)
    with torch.no_grad():
        network.pose_head.layers[-1].weight.normal_(std=0.1)
    images = frames(agent.config, seen) if seen else None
    whole = network(images, *given)
    patches = network.stem(images.flatten(0, 1)).unflatten(0, (BATCH, seen)) if seen else None
    poses, visible, past, past_visible = given
    layout, cache = clip_layout(16 if seen else 0, STEPS, sequence, frames=seen), KVCache()
    found, states = [], []
    for t in range(STEPS):
        image = {"patches": patches[:, t : t + 1]} if t < seen else {}
        now = {"past": (past[:, t : t + 1], past_visible[:, t : t + 1])}
        acted = {"actions": (poses[:, t : t + 1], visible[:, t : t + 1])}
        calls = [{**image, **now, **acted}] if at_once else [image, now, acted] if image else [now, acted]
        for call in calls:
            readout = network.append(cache, layout, **call)
            found += [] if readout.action is None else [(readout.action, readout.visibility)]
            states.append(readout.state)
    action, visibility = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    for mine, theirs in ((action, whole.action), (visibility, whole.visibility), (torch.cat(states, 1), whole.state)):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert cache.seen == len(layout)


@pytest.mark.parametrize("sequence", ["causal", "block"])
@torch.no_grad()
def test_a_clip_is_read_under_autocast_as_well(sequence):
    agent = tiny(sequence=sequence, pose_context=True)
    network, given, images = agent.predictor, actions(agent.config), frames(agent.config)
    poses, visible, past, past_visible = given
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = network(images, *given)
        patches = network.stem(images.flatten(0, 1)).unflatten(0, (BATCH, STEPS))
        layout, cache = clip_layout(16, STEPS, sequence), KVCache()
        first = network.append(cache, layout, patches=patches[:, :1], past=(past[:, :1], past_visible[:, :1]))
        rest = network.append(
            cache.branch(1), layout, patches=patches[:, 1:], past=(past[:, 1:], past_visible[:, 1:]), actions=(poses, visible)
        )
    action, state = torch.cat((first.action, rest.action), 1), torch.cat((first.state, rest.state), 1)
    for found, expected in ((action, whole.action), (state, whole.state)):
        assert (found.float() - expected.float()).norm() <= 2e-2 * expected.float().norm()


@torch.no_grad()
def test_what_does_not_come_next_in_a_clip_is_refused():
    agent = tiny()
    network, layout, cache = agent.predictor, clip_layout(16, 2, "causal"), KVCache()
    poses, visible, past, past_visible = (given[:, :1] for given in actions(agent.config))
    patches = network.stem(frames(agent.config, 1)[:, 0])[:, None]
    with pytest.raises(ValueError, match=r"after 0 tokens .* come \{'image': 16, 'action_query': 1\}, and given are \{'act"):
        network.append(cache, layout, past=(past, past_visible))
    network.append(cache, layout, patches=patches, past=(past, past_visible))
    for wrong in ({"patches": patches}, {"past": (past, past_visible), "actions": (poses, visible)}, {}):
        with pytest.raises(ValueError, match=r"after 17 tokens of this clip come"):
            network.append(cache, layout, **wrong)
    assert cache.seen == 17
    network.append(cache, layout, actions=(poses, visible))
    assert cache.seen == 19


@pytest.mark.parametrize("sequence", ["causal", "block"])
@torch.no_grad()
def test_an_observer_of_clips_reads_frame_by_frame(sequence):
    agent = tiny(sequence=sequence, observer_attention="clip")
    images = frames(agent.config)
    patches = agent.observer.stem(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    layout, cache = frame_layout(16, sequence, STEPS), KVCache()
    states = [agent.observer.append(cache, layout, patches=patches[:, t : t + 1]).state for t in range(STEPS)]
    torch.testing.assert_close(torch.cat(states, 1), agent.observer.encode_clip(images), rtol=1e-5, atol=1e-5)
