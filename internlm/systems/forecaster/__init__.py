"""Forecasters of body motion: siMLPe, a diffusion policy and EgoAgent without images are trained; floors and ridge are solved."""

from internlm.config.schema import Config

from ..base import System


def build(config: Config) -> System:
    """The method that ``forecaster.method`` names. Torch is imported here, as reading a config needs none of it."""
    from .system import build as build_method

    return build_method(config)


__all__ = ["build"]
