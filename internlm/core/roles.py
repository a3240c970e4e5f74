"""What a module says about its own parameters, as class attributes that others read.

``division``: a ``Division``, how tensor parallelism cuts its layers (``parallel/plan.py``).
``called``: methods besides ``forward`` that others call; such a module is gathered by itself (``parallel/apply.py``).
``roles``: optimizer role by parameter name where it is not the usual one (``solver/optim.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

PROTOTYPES = "prototypes"  # a group of their own, which may rest at the start
NO_DECAY = "no_decay"


@dataclass(frozen=True)
class Division:
    """A pair of linear layers in Megatron's manner (arXiv 1909.08053): the first keeps a share of its outputs, the second the
    matching share of its inputs, and partial results are summed once.

    ``columns``: layers, parameters or buffers of which each process keeps rows, with the number of equal sections that are cut
    one by one (3 for a fused QKV). ``rows``: layers of which each keeps a share of the inputs. Names are dotted and the
    module's own.
    """

    columns: Mapping[str, int] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    enter: str = ""  # the sub-module whose input enters the divided layers; "" = the module itself
    methods: tuple[str, ...] = ()  # methods whose argument enters a divided parameter
