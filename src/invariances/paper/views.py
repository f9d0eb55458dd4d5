"""What of its data set a network of the plan reads, and how many of the samples are anchors."""

from __future__ import annotations

from invariances.errors import ParameterError
from invariances.paper.rows import Row, Variant
from invariances.paper.settings import Settings
from invariances.zoo import datasets, locating, pretrained
from invariances.zoo.recipes import Network
from invariances.zoo.trained import ANCHOR_POOL

__all__ = ["anchor_count", "pool_size", "view"]


def view(variant: Variant, row: Row, network: Network, settings: Settings) -> locating.View:
    """The view of a variant's data set that a network reads: how many samples, of what size, by which tokenizer."""
    sizes, source = settings.sizes, datasets.source_named(variant.dataset)
    n_train = settings.samples or sizes.n_train.get(variant.dataset, sizes.n_train[""])
    common = {"dataset": variant.dataset, "data": settings.value("data"), "n_train": n_train, "n_test": sizes.n_test}
    if source.kind == "image":
        pixels = sizes.pixels_imagenet if variant.dataset == "imagenet" else sizes.pixels
        return locating.View(**common, pixels=pixels, channels=source.channels)
    if variant.frozen:
        frozen, whole = sizes.frozen, pretrained.named(network.checkpoint).engine
        common |= {"n_train": settings.samples or frozen["n_train"], "n_test": frozen["n_test"]}
        return locating.View(
            **common,
            tokenizer="characters" if whole else network.checkpoint,
            length=frozen["length"] if whole else frozen["tokens"],
            n_parallel=sizes.n_parallel if row.cross_lingual else 0,
            parallel=row.parallel,
            coarse=variant.coarse,
        )
    crosses = settings.section == "stitching" and source.language is not None
    return locating.View(
        **common,
        tokenizer=network.checkpoint or ("byte-bpe" if network.family == "roberta" else "wordpiece"),
        vocabulary=0 if network.checkpoint else sizes.vocabulary,
        length=sizes.length.get(variant.dataset, sizes.length[""]),
        n_parallel=sizes.n_parallel if crosses else 0,
    )


def pool_size(prepared: datasets.Prepared, row: Row | None = None) -> int:
    """How many samples of a data set anchors are drawn from: of sentences with documents, half of the documents."""
    pool = min(prepared.n_parallel or prepared.n_train, ANCHOR_POOL)
    return pool // 2 if row and row.cross_lingual and datasets.source_named(row.parallel).document else pool


def anchor_count(prepared: datasets.Prepared, row: Row, settings: Settings) -> int:
    """How many anchors a row has: as many as are asked for, or as its data offer.

    Raises
    ------
    ParameterError
        If more are asked for.
    """
    pool = pool_size(prepared, row)
    if settings.anchors and settings.anchors > pool:
        raise ParameterError(
            f"parameter anchors is {settings.anchors}, but {prepared.title} offers {pool}; give at most so many"
        )
    return min(settings.value("anchors"), pool)
