"""Shape of an EgoAgent network as a Hugging Face configuration."""

from transformers import PretrainedConfig


class EgoAgentConfig(PretrainedConfig):
    """Every key of a run's section ``model`` as an attribute, taken from config.json, and which branch it is.

    Args:
        network: ``observer`` (moving average, images only) or ``predictor``.
        actions: whether the network has the parts that read and predict body motion.
    """

    model_type = "egoagent"
    attribute_map = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}

    def __init__(self, network: str = "observer", actions: bool = False, **model):
        self.network, self.actions = network, actions
        super().__init__(**model)
