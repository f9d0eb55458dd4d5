# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Invariances to architecture
#
# Different architectures, trained on the same data: which invariance makes their spaces comparable?
# Rerun this notebook with other parameters through papermill; [](../reproduce.md) shows how.

# %% tags=["parameters"]
profile: str = "smoke"  # size of the run: smoke (embedded stand-ins), laptop (real data), full (GPUs)
datasets: "Optional[str]" = None  # comma list of the rows' data sets: cifar-10, trec; None runs all
seeds: "Optional[int]" = None  # models per variant, at least 2; None takes the profile's
anchors: "Optional[int]" = None  # anchors that transforms are fitted on; None takes the profile's
epochs: "Optional[int]" = None  # passes over the training samples; None takes the profile's
samples: "Optional[int]" = None  # training samples; None takes at most the profile's
metric: str = "cosine"  # what alignment is measured by: cosine, cka, cka_debiased, cka_rbf, procrustes, cca, svcca, rsa, mutual_knn, ...
device: str = "auto"  # where to train: auto, cpu, cuda
data: "Optional[str]" = None  # auto (INVARIANCES_DATA, then the hub), builtin (stand-ins), or a folder

# %% tags=["remove-cell"]
# stops here, with one sentence, if a parameter is unknown or has a value it cannot have
from invariances.paper.settings import read

settings = read("architecture", globals())

# %% tags=["remove-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from invariances.paper import atlas, claims, conditions, figures, ladder, sections, tables

study = sections.run(settings)
results = pd.read_csv(study.save())
Markdown(tables.banner(results))

# %% [markdown]
# ## The models
#
# The paper does not say on which data it compared architectures; CIFAR-10 and TREC are our choice.

# %% tags=["remove-input"]
tables.Shown(tables.models(study.models), "How well the models do their own task, on the test split")

# %% [markdown]
# ## Reported and measured
#
# *Measured* is the mean ± standard deviation over pairs of models, the form of the paper's table. The interval
# is over models, since pairs share models. *Null* is the expected score when the samples of one side are
# shuffled, *null in class* when they are shuffled within classes, *untrained* the score of untrained networks of the
# same kind, *itself* that of a model with itself: the most that an invariance can show. *Calibrated* is 0 at the null
# and 1 for perfect agreement. Raw and scale coincide under cosine by definition, since cosine ignores the length of a
# vector. Relative and affine scores are cosines in different spaces; which is higher says little about T, and
# [](../definitions.md) shows why.

# %% tags=["remove-input"]
tables.Shown(tables.alignment("architecture", results, study.not_run), "Alignment across architectures, reported and measured")

# %% tags=["remove-input"] mystnb={"image": {"alt": "Alignment across architectures by invariance: pairs of models, three chance references, interval and reported value, one panel per comparison"}}
figures.alignment(study)

# %% [markdown]
# ## Within an architecture and across
#
# Pairs across the two architectures beside pairs within the first and within the second (in the order of the row's
# name), calibrated, with a 95 % interval over models. *Across minus within* is the score across less the mean of the
# two within. It has no interval: what a single model does to all its pairs cancels in it. Instead *p, relabelled* is the
# share of all ways to deal the same models to two architectures that part them at least as much.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Calibrated alignment by invariance, one panel per row: pairs within the first architecture, across and within the second in three colours, with intervals over models as bars"}}
display(
    tables.Shown(conditions.table(results), "Calibrated alignment across and within the two architectures of each row"),
    conditions.figure(results),
)

# %% [markdown]
# ## CKA over all architectures
#
# Centred kernel alignment (CKA) compares two spaces of any widths: 1 if one is a rotated and rescaled copy of the
# other. *Raw* CKA is biased upwards, the more so the wider the spaces and the fewer the samples, so unrelated spaces
# do not score 0; *debiased* CKA has expectation 0 for them. Every cell is a pair of networks that read the same
# held-out pictures. White lines border architectures, the thick line untrained networks; the diagonal, a network
# with itself, is left out.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Two heatmaps, raw and debiased CKA between all vision networks of this section, trained and untrained, blocks by architecture"}}
compared = atlas.run(study)
cka = pd.read_csv(compared.save())
display(atlas.figure_zoo(cka) if "zoo" in set(cka.atlas) else Markdown("Not drawn: no row on pictures is in this run."))

# %% [markdown]
# Blocks on the diagonal are what the paper describes. Whether they stand out is a number: the mean over pairs of one
# architecture minus the mean over pairs of two, with its 95 % interval over networks. Above 0, the architecture shows
# in the space; an interval that holds 0 cannot tell. Untrained networks say how much of it is there before training.

# %% tags=["remove-input"]
if "zoo" in set(cka.atlas):
    display(tables.Shown(atlas.blocks(cka), "CKA within and across architectures, with 95 % intervals over networks"))

# %% [markdown]
# ## Vision and language
#
# The paper's figure also compares pretrained models of pictures and of texts. Here each class of ImageNet is one
# sample: one picture of it for the vision models, its names in the data set (such as "tench, Tinca tinca") for the
# language models. Captions would be an alternative, but Multi30k's pictures are not part of the data. The networks of
# CIFAR-10 see such pictures for the first time, at 32 pixels. A cell is the mean over pairs of different networks.
# The table says whether picture and text agree beyond chance, that is more than after shuffling the names over the
# classes; a low score can be far above chance. Class names that share words, and pictures that share a background,
# agree without any training: hence the columns with an untrained network in place of either.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Two heatmaps, raw and debiased CKA between vision and language models on classes of ImageNet, a thick line between the two kinds"}}
if "paired" in set(cka.atlas):
    display(atlas.figure_pretrained(cka))
    display(tables.Shown(atlas.cross_modal(cka), "CKA between vision and language, beside chance"))
tables.Shown(atlas.left_out(compared.not_run), "Models that are not compared here")

# %% [markdown]
# ## What structure the maps have
#
# Each invariance above is scored in a space of its own, so the scores cannot say which kind of map T leads from one
# model's space to another's. The ladder can: maps of growing freedom (leave as is, shift, rescale, rotate, rotate and
# rescale, any affine map) are fitted on the anchors, all end in the same space, and are compared by the share of its
# held-out variance that they explain. Chosen is the simplest kind that comes within *delta* (1 % of the variance) or
# three standard errors over samples (*SE*) of the best, whichever is more; the answer is "none" where no kind beats a
# constant, and "weak" where it explains less than half. Noise that is private to one model would make a rotation look
# affine, so it is first taken out of the source by predicting the source from the other models, of either
# architecture. Only pairs across the two architectures are compared, in both directions. *Affine beyond similarity* is
# what full freedom adds to turning, rescaling and shifting: it says by how little a verdict can be decided.
#
# A map that only turns and rescales stretches all directions alike, so that its singular values are all equal: a flat
# line. The dashed line is what a true rotation looks like if the target is as noisy as here; noise in the source can
# bend it a little more.

# %% tags=["remove-input"]
maps, singular_values = (pd.read_csv(path) for path in ladder.run(study).save())
tables.Shown(ladder.table(maps), "Which maps lead from one architecture's space to the other's")

# %% tags=["remove-input"] mystnb={"image": {"alt": "First figure: held-out explained variance by class of maps, pairs as points, the chosen class marked, one panel per row. Second figure: singular values of T, largest first, beside those of a simulated rotation, one panel per row"}}
display(ladder.figure(maps), ladder.spectrum(singular_values))

# %% [markdown]
# ## The key finding

# %% tags=["remove-input"]
verdict = claims.judge("architecture", results)
glue("architecture_verdict", verdict.verdict, display=False)
verdict
