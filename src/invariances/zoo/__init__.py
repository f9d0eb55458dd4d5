"""The zoo: models trained from recipes, each once, and the spaces that they make.

What a notebook calls: `train`, `embed` and `labels` to compare spaces, `take_apart` to stitch models, and `spread` to
use all cores.
"""

from invariances.zoo.experiment import Models, embed, labels, take_apart, train
from invariances.zoo.heads import HeadRecipe
from invariances.zoo.models import device_named
from invariances.zoo.recipes import Network, Recipe, Training
from invariances.zoo.workers import spread

__all__ = [
    "HeadRecipe",
    "Models",
    "Network",
    "Recipe",
    "Training",
    "device_named",
    "embed",
    "labels",
    "spread",
    "take_apart",
    "train",
]
