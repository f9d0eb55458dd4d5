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
# Take the encoder of one trained network and the head of another, connect them, and train nothing further: how much
# of the performance is left? Five connections are tried. *Absolute* hands the codes over as they are. *Relative*
# describes every sample by its cosines to anchors; its heads were trained on such descriptions. *Affine* and
# *orthogonal* fit a map on the anchors that carries the codes of one encoder into the space of the other. *Product*
# describes a sample by four similarities to the anchors at once; its heads were trained on frozen encoders.
#
# The paper claims that encoders and heads that were trained apart work together, without further training, once
# both use relative representations or an affine map connects them.
#
# ```{glue:md} stitching_answer
# :format: myst
# ```
#
# ```{glue:figure} stitching_figure
# :alt: Share of the ceiling that stitching keeps by invariance for every row, with its controls
# :name: fig-stitching
#
# Share of the ceiling that stitching keeps, with its controls.
# ```
#
# Rerun this notebook with other parameters through papermill; [](../reproduce.md) shows how.

# %% tags=["parameters", "hide-input"]
profile: str = "smoke"  # size of the run: smoke (embedded stand-ins), laptop (real data), full (GPUs)
datasets: "Optional[str]" = None  # comma list of the rows' data sets: mnist, cifar-10, trec, dbpedia, amazon; None runs all
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

# %% [markdown]
# ## The plan
#
# Autoencoders, classifiers, frozen pretrained encoders with heads of our own, and classifiers of reviews in several
# languages. Across languages, anchors are no reviews, which have no counterpart, but parallel sentences.
#
# The paper's row across languages is the *coarse* task of its source: one and two stars against four and five, with a
# frozen pretrained encoder for each language. The nearest that can be had here are two frozen multilingual encoders,
# in six languages, with news sentences of NTREX-128 as anchors. A pair is of two languages *and* of two encoders; two
# encoders are one case, so that its interval speaks of languages drawn anew. Encoders of three languages that are
# trained from scratch, on five stars and with captions of Multi30k as anchors, are another and much harder task: they
# stand beside no reported number.

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from invariances import align, interval, ladder, stitch, zoo
from invariances.paper import claims, figures, frames, leads, plan, sentences, tables

rows = plan.rows(settings)
summary = frames.planned_table(plan.summary(rows), settings)
display(Markdown(tables.banner(summary, settings.profile)))
tables.show(tables.planned(summary), "What is trained and stitched")

# %% [markdown]
# ## Train
#
# Every model has initial weights and an order of samples of its own, in every language too: encoders that start from
# the same weights stitch by accident. Reviews' encoders from scratch first learn their language by guessing masked
# tokens, over reviews and over captions that are neither anchors nor scored; then they learn all five stars. A frozen
# encoder is read by several heads that differ by their seed; scores are means over these.

# %% tags=["hide-input"]
models = zoo.train(plan.recipes(rows), device=settings.device)
scores = frames.model_scores(rows, models)
quality = frames.save_table(scores, "stitching_models")
caption = "How well the models do their own task, on the test split"
display(tables.show(tables.models(quality), caption))
sentences.shows(sentences.models(quality))

# %% [markdown]
# ## Embed
#
# Each model is taken apart into its codes and its head. Beside the trained encoders stands an untrained one: a
# control.

# %% tags=["hide-input"]
anchor_ids = plan.anchors(rows)
untrained = plan.untrained_encoders(rows)
pieces = zoo.take_apart(plan.stitched(rows), untrained, anchor_ids, device=settings.device)

# %% [markdown]
# Alignment and the ladder read the same encoders' spaces; relative representations are compared in the encoders whose
# heads read them.

# %% tags=["hide-input"]
spaces = zoo.embed(plan.trained(rows), anchor_ids, device=settings.device)
of_relative_heads = zoo.embed(
    plan.trained(rows, head="relative"), anchor_ids, device=settings.device
)

# %% [markdown]
# ## Stitch
#
# All ordered pairs of different models are connected, and measured by their own task. Every connection is also made
# with shuffled anchors and with an untrained encoder, and every model is stitched with itself.

# %% tags=["hide-input"]
stitches = stitch(
    pieces,
    invariances=("absolute", "relative", "affine", "orthogonal", "product"),
    quality=plan.quality(rows),
    workers=zoo.spread,
)

# %% [markdown]
# How well do the same spaces align under each connection? Reviews in different languages are no translations of each
# other, so languages are aligned on parallel sentences that are no anchors, of documents that have none.

# %% tags=["hide-input"]
mapped = align(
    spaces,
    anchors=anchor_ids,
    invariances=("absolute", "affine", "orthogonal"),
    metrics=(settings.metric,),
    workers=zoo.spread,
)

# %% tags=["hide-input"]
relative = align(
    of_relative_heads,
    anchors=anchor_ids,
    invariances=("relative",),
    metrics=(settings.metric,),
    workers=zoo.spread,
)
scores = frames.with_alignment(stitches, pd.concat([mapped, relative]))
results = frames.save_table(frames.described(scores, rows, settings), "stitching")

# %% [markdown]
# ## Reported and measured
#
# Where a row has several languages or architectures, pairs across these alone are shown, and so are the controls.
# [](../method.md#how-to-read-the-tables) says what each column means. Reported errors are read as MSE ×10⁻³, as the
# lineage's code prints them. The paper's "non-stitched" column is the ceiling of the absolute space throughout;
# compare a space with its own ceiling, and ceilings with one another to see what a space costs before anything is
# stitched.

# %% tags=["hide-input"]
real = results[results.control == "none"].groupby(["row", "invariance"], sort=False)
pairs = {key: frames.over_groups(frames.across_groups(part)) for key, part in real}
intervals = {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}
whole = tables.stitching(results, intervals, plan.not_run(rows))
lead = leads.stitching(results, whole)
display(tables.show(lead, "Zero-shot stitching, reported and measured"))
sentences.shows(sentences.stitching(results))

# %% [markdown]
# *Kept* is the share of the ceiling. All columns stand below, and in {download}`stitching.csv`:

# %% tags=["hide-input"]
tables.fold(whole, "Controls, ceilings, data and notes of every line")

# %% tags=["hide-input", "remove-output"]
figure = figures.stitching(results)
figure

# %% [markdown]
# ## What stitched pictures look like
#
# The same pictures through one pair of models. Pictures of low error and pictures that one recognizes are not quite
# the same thing: look at what blurs.

# %% tags=["hide-input"]
for row in plan.autoencoders(rows):
    connections = {name: pieces[row, name] for name in rows[row].row.spaces}
    display(figures.reconstructions(row, connections))

# %% [markdown]
# ## Does alignment predict stitching?
#
# The paper holds that alignment tells which models will stitch. Here every ordered pair is a point: how well its two
# spaces agree under the connection against the share of the ceiling that stitching keeps. Pairs share models and are
# not independent: p is the share of relabelled models whose rank correlation is as strong. Nothing is pooled over
# rows. *Not testable* means that all pairs stitch equally well. In a row that mixes architectures or optimizers, a
# better encoder in the head of a weaker model keeps more than 1; such a cloud bends to one side, and a rank
# correlation says less than the eye. *Within groups* is the p of the same correlation if labels are dealt anew among
# the models of each group alone; the rule of the finding, which was written before, does not ask for it.

# %% tags=["hide-input"]
caption = "Rank correlation of alignment with the share of the ceiling that stitching keeps"
predicted = tables.prediction(results)
display(tables.show(leads.prediction(predicted), caption))
display(sentences.shows(sentences.prediction(results)))
tables.fold(predicted, "Spread of retention, groups, held-out models, notes")

# %% tags=["hide-input"]
figures.prediction(results)

# %% [markdown]
# ## What structure the maps have
#
# A connection works if it undoes the map between two spaces. The [ladder](../method.md#discovery) says which kind of
# map that is, for the spaces that were aligned above.

# %% tags=["hide-input"]
maps = ladder(
    spaces,
    anchors=anchor_ids,
    pairs=plan.pairs(rows),
    most_pairs=25,
    workers=zoo.spread,
)
steps = frames.save_table(frames.described(maps.table, rows, settings), "stitching_ladder")

# %% tags=["hide-input"]
classes = tables.ladder(steps)
caption = "Which maps lead from one model's space to another's"
display(tables.show(leads.ladder(classes), caption))
display(sentences.shows(sentences.ladder(steps)))
display(tables.fold(classes, "All classes of maps, and T described"))
figures.ladder(steps)

# %% [markdown]
# ## The key finding

# %% tags=["hide-input"]
verdict = claims.judge("stitching", results)
verdict

# %% tags=["remove-cell"]
from myst_nb import glue

glue("stitching_verdict", verdict.verdict, display=False)
glue("stitching_answer", verdict.answer(), display=False)
glue("stitching_figure", figure, display=False)
