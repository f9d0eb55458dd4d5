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
# The same network, trained on the same data from different random seeds: which invariance makes its spaces
# comparable?
#
# The paper claims that *rotation invariance* (relative representations) aligns best across random seeds.
#
# ```{glue:md} initialization_answer
# :format: myst
# ```
#
# ```{glue:figure} initialization_figure
# :alt: Alignment by invariance for every row: pairs of models, chance, the 95 % interval over models, and the reported value
# :name: fig-initialization
#
# Alignment across random seeds by invariance, with what chance alone would give.
# Data: {download}`initialization.csv`.
# ```
#
# This line makes the page, with the data under `INVARIANCES_DATA`; [](../reproduce.md) has its parameters:
#
# ```bash
# papermill notebooks/initialization.ipynb initialization.ipynb -p profile laptop
# ```

# %% tags=["parameters", "hide-input"]
profile: str = "smoke"  # size of the run: smoke (embedded stand-ins), laptop (real data), full (GPUs)
datasets: "Optional[str]" = None  # comma list of the rows' data sets: mnist, fashion-mnist, cifar-10, cifar-100, trec, dbpedia; None runs all
seeds: "Optional[int]" = None  # models per variant, at least 2; None takes the profile's
anchors: "Optional[int]" = None  # anchors that transforms are fitted on; None takes the profile's
epochs: "Optional[int]" = None  # passes over the training samples; None takes the profile's
samples: "Optional[int]" = None  # training samples; None takes at most the profile's
metric: str = "cosine"  # what alignment is measured by: cosine, cka, cka_debiased, cka_rbf, procrustes, cca, svcca, rsa, mutual_knn, ...
device: str = "auto"  # where to train: auto, cpu, cuda
data: "Optional[str]" = None  # auto (INVARIANCES_DATA, then the hub), builtin (stand-ins), a folder, or your own labelled samples

# %% tags=["remove-cell"]
# stops here, with one sentence, if a parameter is unknown or has a value it cannot have
from invariances.paper.settings import read

settings = read("initialization", globals())

# %% [markdown]
# ## The plan
#
# Each row trains one network on one data set: classifiers of pictures and of texts, and autoencoders of
# pictures.

# %% tags=["hide-input"]
from IPython.display import Markdown, display

from invariances import align, interval, ladder, zoo
from invariances.paper import claims, figures, frames, leads, plan, sentences, tables

rows = plan.rows(settings)
summary = frames.planned_table(plan.summary(rows), settings)
display(Markdown(tables.banner(summary, settings.profile)))
tables.show(tables.planned(summary), "What is trained and compared")

# %% [markdown]
# ## Train
#
# Every model has its own initial weights and its own data order. Models that are already in the store are not
# trained again. *mse* is the mean squared error of pixels in [0, 1].

# %% tags=["hide-input"]
models = zoo.train(plan.recipes(rows), device=settings.device)
scores = frames.model_scores(rows, models, settings)
quality = frames.save_table(scores, "initialization_models")
caption = "How well the models do their own task, on the test split"
display(tables.show(tables.models(quality), caption))
sentences.shows(sentences.models(quality))

# %% [markdown]
# ## Embed
#
# Trained and untrained models embed the same anchors and the same held-out samples. These are the spaces to
# compare.

# %% tags=["hide-input"]
anchor_ids = plan.anchors(rows)
spaces = zoo.embed(plan.compared(rows), anchor_ids, device=settings.device)
labels = zoo.labels(plan.one_model(rows), anchor_ids)

# %% [markdown]
# ## Reported and measured
#
# All pairs of seeds are compared under four invariances, on samples that are not anchors. Beside each score are
# the scores of chance, of untrained networks, and of a model compared with itself;
# [](../method.md#how-to-read-the-tables) explains each column.

# %% tags=["hide-input"]
alignment = align(
    spaces,
    anchors=anchor_ids,
    invariances=("absolute", "scale", "relative", "affine"),
    metrics=(settings.metric,),
    labels=labels,
    workers=zoo.spread,
)
results = frames.save_table(frames.described(alignment, rows, settings), "initialization")

# %% tags=["hide-input"]
trained = results[results.kind == "trained"].groupby(["row", "invariance"], sort=False)
pairs = {key: frames.across_groups(part) for key, part in trained}
intervals = {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}
whole = tables.alignment("initialization", results, intervals, plan.not_run(rows))
lead = leads.alignment("initialization", results, whole)
display(tables.show(lead, "Alignment across random seeds, reported and measured"))
sentences.shows(sentences.scores(results))

# %% [markdown]
# Scale invariance has no line of its own: under cosine it equals raw spaces by definition. The full table is
# below, and in {download}`initialization.csv`:

# %% tags=["hide-input"]
tables.fold(whole, "Nulls, untrained networks, data and notes of every line")

# %% tags=["hide-input", "remove-output"]
figure = figures.alignment("initialization", results, intervals)
figure

# %% [markdown]
# ## Two spaces side by side
#
# The figures show the same held-out samples in two models, first for pictures, then for texts. Both models are
# drawn on the principal axes of the left one, so spaces that agree look the same.

# %% tags=["hide-input"]
trained_spaces = zoo.embed(plan.trained(rows), anchor_ids, device=settings.device)
classes = plan.classes(rows)
for row in plan.one_per_modality(rows):
    two = trained_spaces[row]
    display(figures.latents(row, two, anchor_ids[row], labels[row], classes[row]))

# %% [markdown]
# ## What structure do the maps have?
#
# What kind of map T leads from one seed's space to another's? The ladder fits maps of growing freedom on the
# anchors. It names the simplest one that explains as much of the held-out variance as the best;
# [](../method.md#discovery) has the rule. Where there are many pairs, a random sample of them is compared, and
# the table says how many. *Affine beyond similarity* is the variance that only an affine map explains: where it
# is small, the verdict was close.

# %% tags=["hide-input"]
maps = ladder(
    trained_spaces,
    anchors=anchor_ids,
    pairs=plan.pairs(rows),
    most_pairs=25,
    workers=zoo.spread,
)
steps = frames.save_table(frames.described(maps.table, rows, settings), "initialization_ladder")

# %% tags=["hide-input"]
structure = tables.ladder(steps)
caption = "Which maps lead from one seed's space to another's"
display(tables.show(leads.ladder(structure), caption))
display(sentences.shows(sentences.ladder(steps)))
display(tables.fold(structure, "All classes of maps, and T described"))
figures.ladder(steps)

# %% [markdown]
# A map that only rotates and rescales stretches all directions equally, so its singular values form a flat
# line. The dashed line is a true rotation into a target that is as noisy as this one; noise in the source can
# bend it a little more.

# %% tags=["hide-input"]
values = frames.described(maps.singular_values, rows, settings)
saved = frames.save_table(values, "initialization_singular_values")
display(figures.singular_values(saved))
sentences.shows(sentences.singular_values(steps))

# %% [markdown]
# ## The key finding

# %% tags=["hide-input"]
verdict = claims.judge("initialization", results)
verdict

# %% tags=["remove-cell"]
from myst_nb import glue

glue("initialization_verdict", verdict.verdict, display=False)
glue("initialization_answer", verdict.answer(), display=False)
glue("initialization_figure", figure, display=False)
