"""The networks: an encoder that makes codes, and a head that reads them.

Encoders are small convolutional networks, torchvision's vision transformer, transformers' BERT and
RoBERTa from scratch, and pretrained ones, which stay as they are. Heads start with LayerNorm, never
with statistics of the batch, so that what a head answers for a sample does not depend on its
neighbours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from invariances.errors import PretrainedError
from invariances.relative import relative
from invariances.zoo import frozen, pretrained
from invariances.zoo.recipes import Network

__all__ = ["MASK", "MaskedLanguage", "Model", "build", "head", "multiplications"]


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
MASK = 4
"""The token id that hides another, in the tokenizers that `datasets` trains; ids up to it are marks, not text."""


class Model(nn.Module):
    """An encoder and a head; the head reads codes, or relative representations if `anchors` > 0."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: torch.Tensor, anchors: torch.Tensor | None = None) -> torch.Tensor:
        """Answer for inputs `x`; with `anchors`, codes of shape (k, d), the head reads similarities to them."""
        codes = self.encoder(x)
        if anchors is None:
            return self.head(codes)
        with torch.autocast(codes.device.type, enabled=False):  # similarities keep their digits
            profiles = relative(codes.to(anchors.dtype), anchors)
        return self.head(profiles)

    @torch.no_grad()
    def embed_anchors(self, x: torch.Tensor) -> torch.Tensor:
        """Codes by the encoder as it is now, in evaluation mode and without gradient."""
        was_training = self.encoder.training
        self.encoder.eval()
        codes = self.encoder(x)
        self.encoder.train(was_training)
        return codes


def build(network: Network, task: str, anchors: int, shape: tuple[int, ...], classes: int, vocabulary: int) -> Model:
    """Build a model with fresh weights; a pretrained encoder has its own, which stay out of the model's state.

    Parameters
    ----------
    network : Network
    task : "classification" or "reconstruction"
    anchors : int
        0 for a head on codes, k for a head on relative representations.
    shape : tuple
        (channels, pixels, pixels) of a picture, (length,) of a text.
    classes, vocabulary : int
        Of the data set.

    Raises
    ------
    PretrainedError
        If a checkpoint cannot be had, or the data set is not made for it.
    """
    encoders = {"cnn": _cnn, "vit": _vit, "bert": _text, "roberta": _text, "pretrained": _pretrained}
    encoder = encoders[network.family](network, shape, vocabulary)
    width = anchors or (encoder.dim if network.family == "pretrained" else network.dim)
    model = Model(encoder, head(network, task, width, shape, classes))
    if network.family == "pretrained" and not network.fresh:
        model.register_state_dict_post_hook(_without_encoder)
        model.register_load_state_dict_post_hook(_encoder_is_not_missing)
    return model


def head(network: Network, task: str, width: int, shape: tuple[int, ...], classes: int) -> nn.Module:
    """What reads codes or profiles of a width: a linear classifier, or the mirror of the network as a decoder."""
    return _decoder(network, width, shape) if task == "reconstruction" else _classifier(width, classes)


def _classifier(width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))


LAYERS = {3: ((1, 2), (2, 2), (4, 2)), 5: ((1, 2), (2, 1), (2, 2), (4, 1), (4, 2))}
"""A CNN's convolutions by depth: channels as a multiple of the width, and stride; three of them halve the picture."""


def multiplications(network: Network, shape: tuple[int, ...]) -> int:
    """How many multiplications take one sample through an encoder that is trained here, about.

    Parameters
    ----------
    network : Network
    shape : tuple
        (channels, pixels, pixels) of a picture, (length,) of a text.
    """
    if network.family == "cnn":
        before, side, total = shape[0], shape[-1], 0
        for multiple, stride in LAYERS[network.depth]:
            after, side = network.width * multiple, side // stride
            total, before = total + 9 * before * after * side**2, after
        return total + before * side**2 * network.dim
    tokens = (shape[-1] // network.patch) ** 2 + 1 if network.family == "vit" else shape[0]
    # four projections and a perceptron of four times the width; products of tokens with tokens
    return network.depth * tokens * (12 * network.dim**2 + 2 * tokens * network.dim)


def _cnn(network: Network, shape: tuple[int, ...], vocabulary: int) -> nn.Module:
    """`depth` convolutions, then a linear layer that makes the code."""
    before, pixels, _ = shape
    layers: list[nn.Module] = []
    for multiple, stride in LAYERS[network.depth]:
        after = network.width * multiple
        layers += [
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            ACTIVATIONS[network.activation](),
        ]
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * (pixels // 8) ** 2, network.dim))


def _decoder(network: Network, width: int, shape: tuple[int, ...]) -> nn.Module:
    """The mirror of the encoder: a linear layer, then its convolutions transposed, to a picture in [0, 1]."""
    channels, pixels, _ = shape
    layers, side = LAYERS[network.depth], pixels // 8
    before = network.width * layers[-1][0]
    parts: list[nn.Module] = [
        nn.LayerNorm(width),
        nn.Linear(width, before * side**2),
        nn.Unflatten(1, (before, side, side)),
    ]
    for i in reversed(range(len(layers))):
        stride, after = layers[i][1], network.width * layers[max(i - 1, 0)][0]
        parts += [
            nn.BatchNorm2d(before),
            ACTIVATIONS[network.activation](),
            nn.ConvTranspose2d(before, after, 3, stride, 1, output_padding=stride - 1, bias=False),
        ]
        before = after
    last = [nn.BatchNorm2d(before), ACTIVATIONS[network.activation](), nn.Conv2d(before, channels, 3, padding=1)]
    return nn.Sequential(*parts, *last, nn.Sigmoid())


class _VisionEncoder(nn.Module):
    def __init__(self, network: Network, pixels: int) -> None:
        super().__init__()
        from torchvision.models import VisionTransformer

        self.body = VisionTransformer(
            image_size=pixels,
            patch_size=network.patch,
            num_layers=network.depth,
            num_heads=network.heads,
            hidden_dim=network.dim,
            mlp_dim=4 * network.dim,
        )
        self.body.heads = nn.Identity()  # the code is the class token after the last LayerNorm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.expand(-1, 3, -1, -1))


def _vit(network: Network, shape: tuple[int, ...], vocabulary: int) -> nn.Module:
    return _VisionEncoder(network, shape[1])


class _TextEncoder(nn.Module):
    """BERT or RoBERTa without its pooler; the code is the mean over the tokens that are not padding."""

    def __init__(self, network: Network, length: int, vocabulary: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

        config_class, model_class = (
            (BertConfig, BertModel) if network.family == "bert" else (RobertaConfig, RobertaModel)
        )
        config = config_class(
            vocab_size=vocabulary,
            hidden_size=network.dim,
            num_hidden_layers=network.depth,
            num_attention_heads=network.heads,
            intermediate_size=4 * network.dim,
            max_position_embeddings=length + 2,  # RoBERTa counts positions from 2
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.body = model_class(config, add_pooling_layer=False)
        self.padding = config.pad_token_id

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(x)
        mask = (x != self.padding).unsqueeze(-1).to(hidden)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """States of all tokens, of shape (n, length, dim)."""
        return self.body(input_ids=x, attention_mask=(x != self.padding).long()).last_hidden_state


class MaskedLanguage(nn.Module):
    """A text encoder that guesses masked tokens, by BERT's head: its output layer is the embedding itself."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        embedding = encoder.body.get_input_embeddings().weight
        self.head = nn.Sequential(
            nn.Linear(embedding.shape[1], embedding.shape[1]), nn.GELU(), nn.LayerNorm(embedding.shape[1])
        )
        self.bias = nn.Parameter(embedding.new_zeros(len(embedding)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of all tokens for every masked place, of shape (masked, vocabulary)."""
        guessed = self.head(self.encoder.hidden(x)[x == MASK])
        return guessed @ self.encoder.body.get_input_embeddings().weight.T + self.bias


def _text(network: Network, shape: tuple[int, ...], vocabulary: int) -> nn.Module:
    return _TextEncoder(network, shape[0], vocabulary)


def _pretrained(network: Network, shape: tuple[int, ...], vocabulary: int) -> nn.Module:
    """A checkpoint's encoder, for data that were made for it."""
    name = network.checkpoint
    kind = "text" if len(shape) == 1 else "vision"
    if pretrained.named(name).kind != kind:
        raise PretrainedError(f"the checkpoint {name} is not for {kind}; give one that is")
    if kind == "text" and frozen.tokenizer(name, shape[0]).get_vocab_size() != vocabulary:
        raise PretrainedError(
            f"the texts are not encoded by the tokenizer of {name}; prepare them with tokenizer={name}"
        )
    return frozen.encoder(name, network.fresh)


def _without_encoder(model: Model, state: dict[str, torch.Tensor], prefix: str, metadata: object) -> None:
    """Keep another's weights out of the store: the checkpoint has them, and its digest says which they are."""
    for name in [name for name in state if name.startswith(f"{prefix}encoder.")]:
        del state[name]


def _encoder_is_not_missing(model: Model, result: Any) -> None:
    result.missing_keys[:] = [name for name in result.missing_keys if not name.startswith("encoder.")]
