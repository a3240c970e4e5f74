"""EgoAgent as a Hugging Face model: one branch, its features of single images, and for a predictor the next motion."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from internlm.systems.egoagent.network import ClipReadout, EgoNetwork

from .configuration_egoagent import EgoAgentConfig


@dataclass
class EgoAgentOutput(ModelOutput):
    """Features of N images of p patches.

    Args:
        last_hidden_state: ``[N, p + 1, h]``, the patches row by row and then the state query, final norm applied.
        pooler_output: ``[N, h]``, the state query: the feature of the kNN protocol.
        bottleneck: ``[N, head_bottleneck]`` of unit length: the feature of the retrieval protocol.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    bottleneck: Tensor | None = None


class EgoAgentModel(PreTrainedModel):
    """One branch of EgoAgent under ``.network``."""

    config_class = EgoAgentConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EgoAgentConfig):
        super().__init__(config)
        self.network = EgoNetwork(config, actions=config.actions)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """The network initialises itself when it is built."""

    def forward(self, pixel_values: Tensor, return_dict: bool | None = None) -> EgoAgentOutput | tuple[Tensor, ...]:
        """Images ``[N, 3, S, S]`` as the image processor gives them -> features. S is any multiple of the patch size."""
        patches, state = self.network.tokens(pixel_values.to(self.dtype))
        output = EgoAgentOutput(
            last_hidden_state=torch.cat((patches, state.unsqueeze(1)), dim=1),
            pooler_output=state,
            bottleneck=self.network.head.bottleneck(state),
        )
        return output.to_tuple() if return_dict is False else output

    def predict(
        self, images: Tensor | None, poses: Tensor, visible: Tensor, past_poses: Tensor, past_visible: Tensor
    ) -> ClipReadout:
        """Next motion and next state over a clip; shapes as in ``EgoNetwork.forward_clip``. Only a predictor can."""
        if not self.config.actions:
            raise ValueError(f"this is the {self.config.network}, which reads images only; export with --network predictor")
        images = None if images is None else images.to(self.dtype)
        return self.network.forward_clip(images, poses, visible, past_poses, past_visible)
