# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Invariances to initialization
#
# The same network, trained on the same data from different random seeds: which invariance makes its spaces comparable?
# Rerun this notebook with other parameters through papermill; [](../reproduce.md) shows how.

# %% tags=["parameters"]
profile: str = "smoke"  # size of the run: smoke (embedded stand-ins), laptop (real data), full (GPUs)
datasets: "Optional[str]" = None  # comma list of the rows' data sets: mnist, fashion-mnist, cifar-10, cifar-100, trec, dbpedia; None runs all
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

settings = read("initialization", globals())

# %% tags=["remove-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from invariances.paper import claims, figures, ladder, sections, tables

study = sections.run(settings)
results = pd.read_csv(study.save())
Markdown(tables.banner(results))

# %% [markdown]
# ## The models
#
# Every model has its own initial weights and its own data order; no two share either. Pictures are classified, and
# reconstructed by autoencoders; texts are classified only. The *mse* of autoencoders is that of pixels in [0, 1].

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
tables.Shown(tables.alignment("initialization", results, study.not_run), "Alignment across random seeds, reported and measured")

# %% tags=["remove-input"] mystnb={"image": {"alt": "Alignment across seeds by invariance: pairs of models, three chance references, interval and reported value, one panel per data set"}}
figures.alignment(study)

# %% [markdown]
# ## Two spaces side by side
#
# The same held-out samples in two models, coloured by class: pictures first, then texts. Both models are drawn on the principal axes of the
# left one, so that agreement shows as the same picture.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Two models' latent spaces, raw and relative: raw clouds differ between the models, relative ones can be compared"}}
for kind in ("cnn", "bert"):
    chosen = next((r for r in study.rows.values() if r.planned.groups[0].variant.network.startswith(kind)), None)
    if chosen:
        display(figures.latents(chosen))

# %% [markdown]
# ## What structure the maps have
#
# Each invariance above is scored in a space of its own, so the scores cannot say which kind of map T leads from one
# model's space to another's. The ladder can: maps of growing freedom (leave as is, shift, rescale, rotate, rotate and
# rescale, any affine map) are fitted on the anchors, all end in the same space, and are compared by the share of its
# held-out variance that they explain. Chosen is the simplest kind that comes within *delta* (1 % of the variance) or
# three standard errors over samples (*SE*) of the best, whichever is more; the answer is "none" where no kind beats a
# constant, and "weak" where it explains less than half. Noise that is private to one model would make a rotation look
# affine; with three models or more it is first taken out of the source by predicting the source from the other models.
# Pairs of seeds are compared in both directions; where there are many, a random part of them, as the table says.
# *Affine beyond similarity* is what full freedom adds to turning, rescaling and shifting: it says by how little a
# verdict can be decided.
#
# A map that only turns and rescales stretches all directions alike, so that its singular values are all equal: a flat
# line. The dashed line is what a true rotation looks like if the target is as noisy as here; noise in the source can
# bend it a little more.

# %% tags=["remove-input"]
maps, singular_values = (pd.read_csv(path) for path in ladder.run(study).save())
tables.Shown(ladder.table(maps), "Which maps lead from one seed's space to another's")

# %% tags=["remove-input"] mystnb={"image": {"alt": "First figure: held-out explained variance by class of maps, pairs as points, the chosen class marked, one panel per row. Second figure: singular values of T, largest first, beside those of a simulated rotation, one panel per row"}}
display(ladder.figure(maps), ladder.spectrum(singular_values))

# %% [markdown]
# ## The key finding

# %% tags=["remove-input"]
verdict = claims.judge("initialization", results)
glue("initialization_verdict", verdict.verdict, display=False)
verdict
