"""Crops and the batched photometric pass against PIL, hand-made cases and the definitions of the recipe."""

import colorsys

import numpy as np
import pytest
import torch
from data_samples import picture
from PIL import Image

from internlm.config.schema import ClipConfig, CropConfig
from internlm.data.augment import _random_boxes, resize_crop, sample_views
from internlm.data.photometric import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    GRAY,
    HUE,
    ORDER,
    SATURATION,
    SOLARIZE,
    _on_device,
    clip_photometric,
    identity_photometric,
    photometric,
)
from internlm.data.view import eval_transform, normalise

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def images(count=4, size=32) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(seed, size, size).transpose(2, 0, 1) for seed in range(count)]))


def exactly(x: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """In float32, as on an accelerator."""
    return _on_device(x, params.numpy())


def changed(x, **values) -> torch.Tensor:
    """photometric with the same named values for every sample, back in [0, 1]."""
    params = identity_photometric(len(x))
    columns = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
    columns |= {"gray": GRAY, "blur": BLUR, "solarize": SOLARIZE, "order": ORDER}
    for name, value in values.items():
        params[:, columns[name]] = value
    return exactly(x, torch.from_numpy(params)) * STD + MEAN


@pytest.mark.parametrize(("height", "width"), [(300, 400), (412, 333), (256, 256), (90, 120), (57, 200)])
@pytest.mark.parametrize("size", [224, 64])
def test_eval_transform_equals_pil(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = round(size * 256 / 224)
    scaled = (int(width * short / height), short) if height <= width else (short, int(height * short / width))
    resized = Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC)
    left, top = round((resized.width - size) / 2), round((resized.height - size) / 2)
    expected = np.asarray(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1).astype(int)
    result = eval_transform(image, size)
    assert result.dtype == np.uint8 and result.shape == (3, size, size)
    assert np.abs(result - expected).max() <= 2


def test_eval_transform_at_its_own_size_only_crops():
    image = picture(1, 256, 256)
    np.testing.assert_array_equal(eval_transform(image, 224), image[16:240, 16:240].transpose(2, 0, 1))


@pytest.mark.parametrize("box", [(0, 0, 100, 140), (10, 20, 64, 64), (7, 3, 31, 55), (50, 60, 16, 12)])
@pytest.mark.parametrize("flip", [False, True])
def test_resize_crop_equals_pil(box, flip):
    image = np.random.default_rng(1).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    top, left, height, width = box
    expected = Image.fromarray(image).crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.BICUBIC)
    if flip:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out = np.empty((3, 64, 64), np.uint8)
    resize_crop(image, box, out, flip=flip)
    assert np.abs(out.astype(int) - np.asarray(expected).transpose(2, 0, 1)).max() <= 2


def test_read_only_images_are_accepted():
    image = picture(0, 50, 50)
    image.setflags(write=False)
    out = np.empty((3, 32, 32), np.uint8)
    resize_crop(image, (0, 0, 50, 50), out)
    assert out.std() > 0


def test_views_have_the_configured_sizes_and_are_reproducible():
    crops = CropConfig(local_crops=4)
    views = [sample_views(np.random.default_rng(5), picture(0, 60, 80), crops, 64, 32) for _ in range(2)]
    assert views[0]["global_crops"].shape == (2, 3, 64, 64) and views[0]["local_crops"].shape == (4, 3, 32, 32)
    assert views[0]["global_photometric"].shape == (2, 8) and views[0]["local_photometric"].shape == (4, 8)
    for name in views[0]:
        np.testing.assert_array_equal(views[0][name], views[1][name])
    other = sample_views(np.random.default_rng(6), picture(0, 60, 80), crops, 64, 32)
    assert not np.array_equal(views[0]["global_crops"], other["global_crops"])


def test_no_local_crops():
    views = sample_views(np.random.default_rng(0), picture(0), CropConfig(local_crops=0), 32, 16)
    assert views["local_crops"].shape == (0, 3, 16, 16) and views["local_photometric"].shape == (0, 8)


def test_boxes_follow_scale_and_aspect():
    scales = [(0.4, 1.0)] * 2000 + [(0.05, 0.4)] * 2000
    boxes = np.array(_random_boxes(np.random.default_rng(0), (10, 20, 200, 300), scales), float)
    top, left, height, width = boxes.T
    assert (top >= 10).all() and (left >= 20).all() and (top + height <= 210).all() and (left + width <= 320).all()
    area, ratio = height * width / (200 * 300), width / height
    assert area[2000:].min() > 0.045 and area[2000:].max() < 0.41 and abs(area[2000:].mean() - 0.225) < 0.01
    assert area[:2000].min() > 0.38 and ratio.min() > 0.72 and ratio.max() < 1.37
    assert abs(np.log(ratio[2000:]).mean()) < 0.02


def test_box_of_a_region_too_narrow_for_its_scale():
    boxes = np.array(_random_boxes(np.random.default_rng(0), (0, 0, 10, 1000), [(0.9, 1.0)] * 20))
    assert (boxes[:, 2] == 10).all() and (boxes[:, 3] == 13).all()


def test_recipe_probabilities():
    crops = CropConfig(local_crops=2, blur_global=(1.0, 0.1), blur_local=0.5, solarize=0.2, gray=0.2, color_jitter=0.8)
    drawn = [sample_views(np.random.default_rng(n), picture(0, 16, 16), crops, 16, 8) for n in range(1500)]
    whole = np.stack([d["global_photometric"] for d in drawn])
    local = np.stack([d["local_photometric"] for d in drawn])
    assert (whole[:, 0, BLUR] > 0).all() and abs((whole[:, 1, BLUR] > 0).mean() - 0.1) < 0.03
    assert abs((local[:, :, BLUR] > 0).mean() - 0.5) < 0.04
    assert (
        (whole[:, 0, SOLARIZE] == 0).all()
        and abs(whole[:, 1, SOLARIZE].mean() - 0.2) < 0.04
        and (local[..., SOLARIZE] == 0).all()
    )
    assert abs(whole[..., GRAY].mean() - 0.2) < 0.03 and abs((whole[..., BRIGHTNESS] != 1).mean() - 0.8) < 0.03
    jittered = whole[..., BRIGHTNESS] != 1
    for column, strength, neutral in ((BRIGHTNESS, 0.4, 1), (CONTRAST, 0.4, 1), (SATURATION, 0.2, 1), (HUE, 0.1, 0)):
        spread = whole[..., column][jittered] - neutral
        assert 0.95 * strength < np.abs(spread).max() <= strength + 1e-6 and abs(spread.mean()) < 0.03
    assert set(np.unique(whole[..., ORDER])) == set(range(24))


def test_identity_only_normalises():
    x = images()
    expected = (x.double() / 255 - MEAN) / STD
    torch.testing.assert_close(exactly(x, torch.from_numpy(identity_photometric(4))).double(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(normalise(x).double(), expected, atol=2e-6, rtol=0)
    assert normalise(x[None]).shape == (1, 4, 3, 32, 32) and x.dtype == torch.uint8


def test_brightness_contrast_and_saturation():
    x = images()
    unit = x / 255
    grey = (unit * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    near = {"atol": 2e-6, "rtol": 0}
    torch.testing.assert_close(changed(x, brightness=1.3), (unit * 1.3).clamp(0, 1), **near)
    mean = grey.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed(x, contrast=0.6), 0.6 * unit + 0.4 * mean, **near)
    torch.testing.assert_close(changed(x, saturation=0.5), 0.5 * unit + 0.5 * grey, **near)
    torch.testing.assert_close(changed(x, saturation=0.0), changed(x, gray=1), **near)
    torch.testing.assert_close(changed(x, brightness=0.0), torch.zeros_like(unit), **near)


def test_hue_equals_colorsys_and_full_turn_is_identity():
    x = images(1, 8)
    expected = torch.empty(1, 3, 8, 8)
    for row in range(8):
        for column in range(8):
            hue, saturation, value = colorsys.rgb_to_hsv(*(x[0, :, row, column] / 255).tolist())
            expected[0, :, row, column] = torch.tensor(colorsys.hsv_to_rgb((hue + 0.1) % 1, saturation, value))
    torch.testing.assert_close(changed(x, hue=0.1), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(changed(x, hue=-1.0), x / 255, atol=1e-5, rtol=0)


def test_grey_images_stay_grey():
    grey = images()[:, :1].expand(-1, 3, -1, -1).contiguous()
    for change in ({"gray": 1}, {"hue": 0.3}, {"saturation": 1.8}):
        torch.testing.assert_close(changed(grey, **change), grey / 255, atol=2e-4, rtol=0)  # the luma weights sum to 0.9999


def test_solarize_inverts_the_bright_half():
    x = images()
    unit = x / 255
    torch.testing.assert_close(changed(x, solarize=1), torch.where(x >= 128, 1 - unit, unit), atol=2e-6, rtol=0)


def test_blur_equals_a_gaussian():
    from scipy.ndimage import gaussian_filter1d

    x = images()
    for sigma in (0.4, 1.5):
        expected = (x / 255).double().numpy()
        radius = int(np.ceil(3 * sigma))
        for axis in (2, 3):
            expected = gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=radius)
        torch.testing.assert_close(changed(x, blur=sigma).double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_order_of_the_jitter_steps_matters_and_is_per_sample():
    x = images(1).repeat(24, 1, 1, 1)
    params = identity_photometric(24)
    params[:, : HUE + 1] = (1.4, 1.4, 1.2, 0.1)
    params[:, ORDER] = np.arange(24)
    results = exactly(x, torch.from_numpy(params))
    distinct = torch.unique(results.flatten(1).round(decimals=4), dim=0)
    assert len(distinct) > 10
    alone = exactly(x[7:8], torch.from_numpy(params[7:8]))
    torch.testing.assert_close(results[7:8], alone, atol=1e-6, rtol=0)
    brightness_first = changed(x[:1], brightness=1.4, contrast=1.4, order=0)  # order 0 is brightness, contrast, saturation, hue
    torch.testing.assert_close(brightness_first, _contrast_of((x[:1] / 255 * 1.4).clamp(0, 1), 1.4), atol=2e-6, rtol=0)


def _contrast_of(unit: torch.Tensor, factor: float) -> torch.Tensor:
    mean = (unit * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1).mean()
    return (mean + factor * (unit - mean)).clamp(0, 1)


def test_a_batch_equals_its_samples_one_by_one():
    rng = np.random.default_rng(0)
    drawn = [sample_views(rng, picture(n, 40, 40), CropConfig(local_crops=0), 32, 16) for n in range(12)]
    x = torch.from_numpy(np.concatenate([d["global_crops"] for d in drawn]))
    params = torch.from_numpy(np.concatenate([d["global_photometric"] for d in drawn]))
    params[:, BLUR] *= 7  # as at 224 pixels
    whole = exactly(x, params)
    for row in range(len(x)):
        torch.testing.assert_close(whole[row : row + 1], exactly(x[row : row + 1], params[row : row + 1]), atol=1e-5, rtol=0)


def test_clip_change_is_off_by_default_and_on_when_asked():
    np.testing.assert_array_equal(clip_photometric(np.random.default_rng(0), ClipConfig(), CropConfig())[:4], (1, 1, 1, 0))
    params = clip_photometric(np.random.default_rng(0), ClipConfig(color_jitter=1.0), CropConfig())
    assert (params[:3] != 1).all() and (params[[GRAY, BLUR, SOLARIZE]] == 0).all()
    np.testing.assert_array_equal(clip_photometric(None, ClipConfig(color_jitter=1.0), CropConfig()), identity_photometric(1)[0])


def test_clips_change_in_the_configured_strengths():
    """Drawn a thousand times, each factor fills the interval of its strength; without strength no pixel changes."""
    rng, clip, neutral = np.random.default_rng(0), ClipConfig(color_jitter=1.0), np.array([1, 1, 1, 0])
    strengths = np.array([0.7, 0.3, 0.05, 0.5])
    crops = CropConfig(**dict(zip(("brightness", "contrast", "saturation", "hue"), strengths.tolist())))
    drawn = np.stack([clip_photometric(rng, clip, crops)[:4] for _ in range(1000)]) - neutral
    assert (np.abs(drawn) <= strengths + 1e-6).all()
    np.testing.assert_allclose(drawn.min(0), -strengths, rtol=0.05)
    np.testing.assert_allclose(drawn.max(0), strengths, rtol=0.05)
    still = clip_photometric(rng, clip, CropConfig(brightness=0, contrast=0, saturation=0, hue=0))
    images = torch.from_numpy(picture(1, 32, 32).transpose(2, 0, 1)[None].copy())
    unchanged = photometric(images, torch.from_numpy(identity_photometric(1)))
    assert photometric(images, torch.from_numpy(still[None])).equal(unchanged)


def test_eight_bits_mean_what_floats_mean():
    """Pictures as the recipe draws them: each within rounding of the float way, and the same on average."""
    rng, crops = np.random.default_rng(0), CropConfig(color_jitter=1.0, blur_global=(0.5, 0.5), solarize=0.3, gray=0.2)
    drawn = [sample_views(rng, picture(n, 96, 96), crops, 64, 32) for n in range(150)]
    x = torch.from_numpy(np.concatenate([d["global_crops"] for d in drawn]))
    params = torch.from_numpy(np.concatenate([d["global_photometric"] for d in drawn]))
    before = x.clone()
    found, expected = ((255 * (way(x, params) * STD + MEAN)).numpy() for way in (photometric, exactly))
    assert x.equal(before), "the batch that came in is another's"
    away = np.abs(found - expected)
    # A rounded level that lies at the edge of solarize's threshold comes out on the other side of it.
    kept = params[:, SOLARIZE].numpy() == 0
    assert away.mean() < 1 and np.quantile(away[kept], 0.99) < 6
    assert abs((found - expected).mean()) < 0.1 and abs(found.std() / expected.std() - 1) < 0.005
    means = [values.mean((2, 3)) for values in (found, expected)]
    assert np.corrcoef(means[0].ravel(), means[1].ravel())[0, 1] > 0.9999


@pytest.mark.parametrize(
    ("column", "value"),
    [(BRIGHTNESS, 1.4), (CONTRAST, 0.6), (SATURATION, 0.5), (HUE, -0.25), (GRAY, 1), (BLUR, 1.3), (SOLARIZE, 1)],
)
def test_each_step_of_eight_bits_is_that_of_floats(column, value):
    x, params = images(6, 48), torch.from_numpy(identity_photometric(6))
    params[:, column] = value
    found, expected = (255 * (way(x, params) * STD + MEAN) for way in (photometric, exactly))
    away = (found - expected).abs()
    assert away.mean() < (1.5 if column == HUE else 0.6) and away.quantile(0.99) < (9 if column == HUE else 1.6)
    assert (found - 255 * (photometric(x, torch.from_numpy(identity_photometric(6))) * STD + MEAN)).abs().mean() > 2
