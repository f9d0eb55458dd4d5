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
# The same network, trained in two ways (optimizer, learning rate, augmentation, batch size): which invariance makes
# the spaces comparable?
#
# The paper claims that it depends on what varies: rotation invariance across optimizers, learning rates and batch
# sizes, affine invariance across data augmentations.
#
# ```{glue:md} training_answer
# :format: myst
# ```
#
# ```{glue:figure} training_figure
# :alt: Alignment by invariance for every pair of conditions: pairs of models, chance, the 95 % interval over models, and the reported value
# :name: fig-training
#
# Alignment across training procedures by invariance, with what chance alone would give.
# Data: {download}`training.csv`.
# ```
#
# This line makes the page, with the data under `INVARIANCES_DATA`; [](../reproduce.md) has its parameters:
#
# ```bash
# papermill notebooks/training.ipynb training.ipynb -p profile laptop
# ```

# %% tags=["parameters", "hide-input"]
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

# %% [markdown]
# ## The plan
#
# All models have their own initial weights, because shared ones are enough to make raw spaces agree. The one
# pair that shares them is a control, and is named so.

# %% tags=["hide-input"]
from IPython.display import Markdown, display

from invariances import align, interval, ladder, zoo
from invariances.paper import claims, figures, frames, leads, plan, sentences, tables
from invariances.paper.studies import attention, conditions

rows = plan.rows(settings)
summary = frames.planned_table(plan.summary(rows), settings)
display(Markdown(tables.banner(summary, settings.profile)))
tables.show(tables.planned(summary), "What is trained and compared")

# %% [markdown]
# ## Train
#
# Models that are already in the store are not trained again.

# %% tags=["hide-input"]
models = zoo.train(plan.recipes(rows), device=settings.device)
scores = frames.model_scores(rows, models, settings)
quality = frames.save_table(scores, "training_models")
caption = "How well the models do their own task, on the test split"
display(tables.show(tables.models(quality), caption))
sentences.shows(sentences.models(quality))

# %% [markdown]
# ## Embed
#
# Trained and untrained models of both conditions, and the control, embed the same anchors and held-out samples.

# %% tags=["hide-input"]
anchor_ids = plan.anchors(rows)
spaces = zoo.embed(plan.compared(rows), anchor_ids, device=settings.device)
labels = zoo.labels(plan.one_model(rows), anchor_ids)

# %% [markdown]
# ## Reported and measured
#
# Each pair has one model of either condition; [](../method.md#how-to-read-the-tables) explains the columns.

# %% tags=["hide-input"]
alignment = align(
    spaces,
    anchors=anchor_ids,
    invariances=("absolute", "scale", "relative", "affine"),
    metrics=(settings.metric,),
    labels=labels,
    workers=zoo.spread,
)
results = frames.save_table(frames.described(alignment, rows, settings), "training")

# %% tags=["hide-input"]
trained = results[results.kind == "trained"].groupby(["row", "invariance"], sort=False)
pairs = {key: frames.across_groups(part) for key, part in trained}
intervals = {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}
whole = tables.alignment("training", results, intervals, plan.not_run(rows))
lead = leads.alignment("training", results, whole)
display(tables.show(lead, "Alignment across training procedures, reported and measured"))
sentences.shows(sentences.scores(results))

# %% [markdown]
# The lines for raw spaces also hold for scale, which is the same under cosine. The full table is below, and in
# {download}`training.csv`:

# %% tags=["hide-input"]
tables.fold(whole, "Nulls, untrained networks, data and notes of every line")

# %% tags=["hide-input", "remove-output"]
figure = figures.alignment("training", results, intervals)
figure

# %% [markdown]
# ## Within a condition and across
#
# Do two models differ because they were trained differently, or would two models of the *same* condition agree
# no better? The table compares pairs across the conditions with pairs within each, in the order of the row's
# name (SGD with SGD, Adam with Adam).
#
# The *control* is a single pair across the conditions whose models started from the *same* weights. Compare it
# with the other pairs across; it is not a result by itself. With four models in each condition p cannot be
# below 2/70, with five not below 2/252, and several cells are tested at once.

# %% tags=["hide-input"]
caption = "Calibrated alignment across and within the two conditions of each row"
compared = conditions.table(results)
display(tables.show(leads.conditions(compared), caption))
display(sentences.shows(sentences.conditions(conditions.cells(results))))
tables.fold(compared, "Scale, scores that are not calibrated, models and notes of every line")

# %% tags=["hide-input"]
conditions.figure(results)

# %% [markdown]
# ## What does attention go to?
#
# The paper shows attention over invariant features that stay similar across training procedures. Here every
# trained encoder is frozen, and a new head learns to classify from four *components*: each sample's
# similarities to the same anchors by cosine, L2, L1 and L∞ distance. Each cell is the weight that one component
# (the line) gives to another (the column), averaged over the test samples and over the models of a condition.
# Each line sums to 1; with no preference, every weight would be 0.25.
#
# The attention weights of a trained head explain nothing by themselves. So each encoder has a second head,
# which differs in one thing: all its attention weights are 0.25. The table compares the two. If the interval
# holds 0, the weights make no difference to the accuracy that so few models could show.

# %% tags=["hide-input"]
heads = zoo.train(attention.recipes(rows, settings), device=settings.device)
weights = attention.attend(rows, models, heads, settings)
attended = frames.save_table(weights, "training_attention")
display(attention.heatmaps(attended))
sentences.shows(sentences.received(attended))

# %% tags=["hide-input"]
caption = "Test accuracy with attention and with equal weights, paired by encoder"
accuracies = attention.accuracies(attended)
display(tables.show(accuracies, caption))
sentences.shows(sentences.attention(accuracies))

# %% [markdown]
# ## Which features stay alike?
#
# A feature is the similarity to one anchor. For every pair of models across the two conditions, *agreement* is
# the correlation of a feature in one model with the same feature in the other, over test samples, averaged over
# the anchors. The dotted line is its expectation when the samples of one model are shuffled, the dashed line
# when they are shuffled within their classes. Four components are too few to test whether attention goes to
# features that stay alike: this is shown, not tested.

# %% tags=["hide-input"]
agreement = attention.agree(rows, models, settings)
alike = frames.save_table(agreement, "training_features")
display(attention.features(alike, attended))
sentences.shows(sentences.features(alike))

# %% [markdown]
# The next figure splits the agreement by class. It shows the cosine between the two models' profiles of a
# sample, after each model's mean profile is subtracted, averaged over the class and over pairs. *In class* is
# the mean over the components when samples are shuffled within their classes. Where it is close to the other
# columns, the agreement is that of the class as a whole.

# %% tags=["hide-input"]
display(attention.classes(alike))
sentences.shows(sentences.by_class(alike))

# %% [markdown]
# ## What structure do the maps have?
#
# If a change of training only rotated a space, the [ladder](../method.md#discovery) would name a rotation for
# the pairs across the two conditions. If it stretched some directions more than others, the ladder would name
# an affine map.

# %% tags=["hide-input"]
trained_spaces = zoo.embed(plan.trained(rows), anchor_ids, device=settings.device)
maps = ladder(
    trained_spaces,
    anchors=anchor_ids,
    pairs=plan.pairs(rows),
    most_pairs=25,
    workers=zoo.spread,
)
steps = frames.save_table(frames.described(maps.table, rows, settings), "training_ladder")

# %% tags=["hide-input"]
classes = tables.ladder(steps)
caption = "Which maps lead from one condition's space to the other's"
display(tables.show(leads.ladder(classes), caption))
display(sentences.shows(sentences.ladder(steps)))
display(tables.fold(classes, "All classes of maps, and T described"))
figures.ladder(steps)

# %% [markdown]
# The singular values show how unevenly T stretches; the dashed line is a simulated rotation:

# %% tags=["hide-input"]
values = frames.described(maps.singular_values, rows, settings)
saved = frames.save_table(values, "training_singular_values")
display(figures.singular_values(saved))
sentences.shows(sentences.singular_values(steps))

# %% [markdown]
# ## The key finding

# %% tags=["hide-input"]
verdict = claims.judge("training", results)
verdict

# %% tags=["remove-cell"]
from myst_nb import glue

glue("training_verdict", verdict.verdict, display=False)
glue("training_answer", verdict.answer(), display=False)
glue("training_figure", figure, display=False)
