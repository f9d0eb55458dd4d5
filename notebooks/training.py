# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Invariances to training modality
#
# The same network and data, trained in different ways: which invariance makes the spaces comparable?
# Rerun this notebook with other parameters through papermill; [](../reproduce.md) shows how.

# %% tags=["parameters"]
profile: str = "smoke"  # size of the run: smoke (embedded stand-ins), laptop (real data), full (GPUs)
datasets: "Optional[str]" = None  # comma list of the rows' data sets: cifar-10, cifar-100, imagenet, amazon; None runs all
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

settings = read("training", globals())

# %% tags=["remove-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from invariances.paper.frames import save_table
from invariances.paper import attention, claims, conditions, figures, ladder, sections, tables

study = sections.run(settings)
results = pd.read_csv(study.save())
Markdown(tables.banner(results))

# %% [markdown]
# ## The models
#
# Models of the two conditions have their own initial weights: a shared initialization alone would make raw spaces agree.

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
tables.Shown(tables.alignment("training", results, study.not_run), "Alignment across training procedures, reported and measured")

# %% tags=["remove-input"] mystnb={"image": {"alt": "Alignment across training procedures by invariance: pairs of models, three chance references, interval and reported value, one panel per comparison"}}
figures.alignment(study)

# %% [markdown]
# ## Within a condition and across
#
# Is it the training that sets two models apart, or would two models of *one* condition agree no better? The table
# sets the pairs across the two conditions beside those within the first and within the second (SGD with SGD, Adam
# with Adam, in the order of the row's name); all models have initial weights of their own. Numbers are calibrated
# (0: shuffled samples, 1: perfect agreement), with a 95 % interval over models.
#
# *Across minus within* is the score across less the mean of the two within. It has no interval: what a single model
# does to all its pairs cancels in it, so that an interval over models has nothing to rest on. Instead *p, relabelled*
# is the share of all ways to deal the same models to two conditions that part them at least as much. With four models
# in each condition p cannot be below 2/70, with five not below 2/252, and several cells are tested at once. The
# *control* is one pair across the conditions whose models started from the *same* weights: a single pair without
# an interval, to be read against the pairs across, not as a result.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Calibrated alignment by invariance, one panel per row: pairs within the first condition, across and within the second in three colours, intervals over models as bars, and the pair with the same initial weights as a star"}}
display(
    tables.Shown(conditions.table(results), "Calibrated alignment across and within the two conditions of each row"),
    conditions.figure(results),
)

# %% [markdown]
# ## What attention goes to
#
# The paper shows attention over invariant features that stay similar across training procedures. Here every trained
# encoder is frozen and a new head learns to classify from its codes, given as four *components*: each sample's
# similarities to the same anchors by cosine, L2, L1 and L∞ distance. Self-attention lets each component take up the
# others; a cell is the weight that one (the line) gives to another (the column), averaged over the test samples and
# over the models of a condition, ± its standard deviation over models. A line sums to 1, and 0.25 is what it would
# give to each component if it made no difference between them.
#
# Attention weights of a trained head explain nothing by themselves. So each encoder has a second head that differs in
# one thing: all its attention weights are 0.25. The table compares the two. If its interval holds 0, the weights make
# no difference to the accuracy that these few models could show.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Heatmaps of attention weights between the components cosine, L2, L1 and L-infinity, a line of panels per row and one panel per condition, each cell with its mean and its standard deviation over models"}}
attended = pd.read_csv(save_table(attention.attend(study), "training_attention"))
display(
    attention.heatmaps(attended),
    tables.Shown(attention.accuracies(attended), "Test accuracy with attention and with equal weights, paired by encoder"),
)

# %% [markdown]
# ## Which features stay alike
#
# For every pair of models across the two conditions, *agreement* is the correlation over test samples of a feature
# (the similarities to one anchor) in one model with the same feature in the other, averaged over the anchors. The
# dotted line is its expectation when the samples of one model are shuffled, the dashed line when they are shuffled
# within their classes: what lies above the dashed line is structure beyond the classes. On the right is the attention
# that each component receives, so that the eye can compare. Four components are too few to test whether attention goes
# to what stays alike, and the two share no scale: this is shown, not tested.
#
# The last figure splits the agreement by class: the cosine between both models' profiles of a sample, each less its
# model's mean profile, averaged over the class and over pairs. *In class* is its mean over the components when
# samples are shuffled within their classes; where it is close to the other columns, the agreement is that of the
# class as a whole. Everything is measured on one subset of the data, with encoders of the size named above.

# %% tags=["remove-input"] mystnb={"image": {"alt": "First figure: agreement of the four components across conditions, pairs as points, with two chance levels, beside the attention that each component receives, one line of panels per row. Second figure: agreement by class and component, one heatmap per row"}}
alike = pd.read_csv(save_table(attention.agree(study), "training_features"))
display(attention.features(alike, attended), attention.classes(alike))

# %% [markdown]
# ## What structure the maps have
#
# Each invariance above is scored in a space of its own, so the scores cannot say which kind of map T leads from one
# model's space to another's. The ladder can: maps of growing freedom (leave as is, shift, rescale, rotate, rotate and
# rescale, any affine map) are fitted on the anchors, all end in the same space, and are compared by the share of its
# held-out variance that they explain. Chosen is the simplest kind that comes within *delta* (1 % of the variance) or
# three standard errors over samples (*SE*) of the best, whichever is more; the answer is "none" where no kind beats a
# constant, and "weak" where it explains less than half. Noise that is private to one model would make a rotation look
# affine, so it is first taken out of the source by predicting the source from the other models, of either condition.
# Only pairs across the two conditions are compared, in both directions. *Affine beyond similarity* is what full
# freedom adds to turning, rescaling and shifting: it says by how little a verdict can be decided.
#
# A map that only turns and rescales stretches all directions alike, so that its singular values are all equal: a flat
# line. The dashed line is what a true rotation looks like if the target is as noisy as here; noise in the source can
# bend it a little more.

# %% tags=["remove-input"]
maps, singular_values = (pd.read_csv(path) for path in ladder.run(study).save())
tables.Shown(ladder.table(maps), "Which maps lead from one condition's space to the other's")

# %% tags=["remove-input"] mystnb={"image": {"alt": "First figure: held-out explained variance by class of maps, pairs as points, the chosen class marked, one panel per row. Second figure: singular values of T, largest first, beside those of a simulated rotation, one panel per row"}}
display(ladder.figure(maps), ladder.spectrum(singular_values))

# %% [markdown]
# ## The key finding

# %% tags=["remove-input"]
verdict = claims.judge("training", results)
glue("training_verdict", verdict.verdict, display=False)
verdict
