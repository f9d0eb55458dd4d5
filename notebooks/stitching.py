# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Zero-shot model stitching
#
# Take the encoder of one trained network and the head of another, connect them, and train nothing further: how much of
# the performance is left? If two networks hold the same information up to a change of coordinates, a connection that
# undoes this change should cost little. Five connections are tried. *Absolute* hands the codes over as they are.
# *Relative* describes every sample by its cosines to anchors; its heads were trained on such descriptions. *Affine* and
# *orthogonal* fit a map on the anchors that carries the codes of one encoder into the space of the other. *Product*
# describes a sample by four similarities to the anchors at once; its heads were trained on frozen encoders.
# Rerun this notebook with other parameters through papermill; [](../reproduce.md) shows how.

# %% tags=["parameters"]
profile: str = "smoke"  # size of the run: smoke (embedded stand-ins), laptop (real data), full (GPUs)
datasets: "Optional[str]" = None  # comma list of the rows' data sets: mnist, cifar-10, trec, amazon; None runs all
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

settings = read("stitching", globals())

# %% tags=["remove-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from invariances.paper import claims, figures, sections, tables

study = sections.run(settings)
results = pd.read_csv(study.save())
Markdown(tables.banner(results))

# %% [markdown]
# ## The models
#
# Every model has initial weights and an order of samples of its own, in every language too: encoders that start from the
# same weights stitch by accident. The reviews' encoders first learn their language by guessing masked tokens, over
# reviews and over captions that are neither anchors nor scored; then they learn all five stars. Their anchors are no
# reviews, which have no counterpart in other languages, but captions of Multi30k, each in all three languages. Fitted
# maps use the absolute models as they are and leave the head untouched.

# %% tags=["remove-input"]
tables.Shown(tables.models(study.models), "How well the models do their own task, on the test split")

# %% [markdown]
# ## Reported and measured
#
# All ordered pairs of different models; where a row has several languages or architectures, across these alone, and so
# are the controls. *Ceiling* is the same head on its own encoder, in the same space; the paper's "non-stitched" column is
# the ceiling of the absolute space throughout.
# Three controls stand beside it: *self-stitch* connects a model with itself by the same path, *shuffled anchors* breaks
# the correspondence of the anchors, *untrained encoder* connects a network that has learnt nothing.
# *Calibrated* is 0 at the null (shuffled anchors, or the untrained encoder where a space has no anchors) and 1 at the
# ceiling. *Retention* is the share of the ceiling that is kept (for errors: ceiling divided by error). It can exceed 1:
# a head answers better to an encoder that tells more than its own, or by chance. It means little where a ceiling is
# close to guessing: see the models above. Reported errors are read as MSE ×10⁻³, as the lineage's code prints them. A head on
# frozen encoders has a ceiling of its own; compare a space with its own ceiling, and ceilings with one another to see
# what a space costs before anything is stitched.

# %% tags=["remove-input"]
tables.Shown(tables.stitching(results, study.not_run), "Zero-shot stitching, reported and measured")

# %% tags=["remove-input"] mystnb={"image": {"alt": "Share of the ceiling that stitching keeps by space, with controls, one panel per row"}}
figures.stitching(results)

# %% [markdown]
# ## What stitched pictures look like
#
# The same digits and pictures, through one pair of models. Pictures of low error and pictures that one recognizes are
# not quite the same thing: look at what blurs.

# %% tags=["remove-input"] mystnb={"image": {"alt": "The same pictures: original, reconstruction, and stitched through absolute, relative, affine, orthogonal and product spaces"}}
pictures = [result for result in study.rows.values() if result.planned.groups[0].variant.task == "reconstruction"]
for result in pictures:
    display(figures.reconstructions(result))
if not pictures:
    print("not drawn: no autoencoder row is part of this run")

# %% [markdown]
# ## Does alignment predict stitching?
#
# The paper holds that alignment tells which models will stitch. Here every ordered pair is a point: how well its two
# spaces agree under the connection (calibrated cosine on held-out samples) against the share of the ceiling that
# stitching keeps. Reviews in different languages are no translations of each other, so languages are aligned on
# captions that are no anchors, and stitched on reviews. Pairs share models and are not independent: p is the
# share of relabelled models whose rank correlation is as strong. Nothing is pooled over rows, since differences between
# data sets alone would make a strong correlation. *Not testable* means that all pairs stitch equally well. In a row that
# mixes architectures or optimizers, pairs that align equally badly can go either way: a better encoder in the head of a
# weaker model keeps more than 1, a weaker one in the head of a better model less. Such a cloud bends to one side, and a
# rank correlation says less than the eye.
#
# Rows of several groups (languages, architectures, optimizers) hold pairs of one group, too. Where these align and
# stitch better than pairs across, that alone makes a correlation. *Within groups* is the p of the same correlation if
# labels are dealt anew among the models of each group alone. The rule of the finding, which was written before, does
# not ask for it.

# %% tags=["remove-input"]
tables.Shown(tables.prediction(results), "Rank correlation of alignment with the share of the ceiling that stitching keeps")

# %% tags=["remove-input"] mystnb={"image": {"alt": "Calibrated alignment against the share of the ceiling that stitching keeps, a panel per data set and task, with rank correlations"}}
figures.prediction(results)

# %% [markdown]
# ## The key finding

# %% tags=["remove-input"]
verdict = claims.judge("stitching", results)
glue("stitching_verdict", verdict.verdict, display=False)
verdict
