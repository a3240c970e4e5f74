"""The stranger's own section of a config."""

from pydantic import Field

from internlm.config.schema import Config, Positive, Section


class WaveConfig(Section):
    hidden: Positive = 16
    layers: Positive = 2
    length: Positive = Field(12, description="samples of a wave")
    batch: Positive = Field(4, description="waves per process and step")


class RunConfig(Config):
    wave: WaveConfig = WaveConfig()
