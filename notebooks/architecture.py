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
# Two architectures, trained on the same data: which invariance makes their spaces comparable?
#
# The paper claims that *affine invariance* aligns best across architectures.
#
# ```{glue:md} architecture_answer
# :format: myst
# ```
#
# ```{glue:figure} architecture_figure
# :alt: Alignment by invariance for every pair of architectures: pairs of models, chance, the 95 % interval over models, and the reported value
# :name: fig-architecture
#
# Alignment across architectures by invariance, with what chance alone would give.
# Data: {download}`architecture.csv`.
# ```
#
# This line makes the page, with the data under `INVARIANCES_DATA`; [](../reproduce.md) has its parameters:
#
# ```bash
# papermill notebooks/architecture.ipynb architecture.ipynb -p profile laptop
# ```

# %% tags=["parameters", "hide-input"]
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

# %% [markdown]
# ## The plan
#
# The paper does not say on which data it compared architectures; CIFAR-10 and TREC are our choice.

# %% tags=["hide-input"]
from IPython.display import Markdown, display

from invariances import align, interval, ladder, zoo
from invariances.paper import claims, figures, frames, leads, plan, sentences, tables
from invariances.paper.studies import cka_map, cka_tables, conditions

rows = plan.rows(settings)
summary = frames.planned_table(plan.summary(rows), settings)
display(Markdown(tables.banner(summary, settings.profile)))
tables.show(tables.planned(summary), "What is trained and compared")

# %% [markdown]
# ## Train
#
# No two models share initial weights or a data order, whatever their architecture.

# %% tags=["hide-input"]
models = zoo.train(plan.recipes(rows), device=settings.device)
scores = frames.model_scores(rows, models, settings)
quality = frames.save_table(scores, "architecture_models")
caption = "How well the models do their own task, on the test split"
display(tables.show(tables.models(quality), caption))
sentences.shows(sentences.models(quality))

# %% [markdown]
# ## Embed
#
# All models of a row embed the same anchors and the same held-out samples, whatever the width of their codes.

# %% tags=["hide-input"]
anchor_ids = plan.anchors(rows)
spaces = zoo.embed(plan.compared(rows), anchor_ids, device=settings.device)
labels = zoo.labels(plan.one_model(rows), anchor_ids)

# %% [markdown]
# ## Reported and measured
#
# Each pair has one model of either architecture. [](../method.md#how-to-read-the-tables) explains the columns.
# Where the two spaces have different widths, raw and scale pad the narrower one with zeros, and the note says
# so.

# %% tags=["hide-input"]
alignment = align(
    spaces,
    anchors=anchor_ids,
    invariances=("absolute", "scale", "relative", "affine"),
    metrics=(settings.metric,),
    labels=labels,
    workers=zoo.spread,
)
results = frames.save_table(frames.described(alignment, rows, settings), "architecture")

# %% tags=["hide-input"]
trained = results[results.kind == "trained"].groupby(["row", "invariance"], sort=False)
pairs = {key: frames.across_groups(part) for key, part in trained}
intervals = {key: interval(part, "score", frames.groups_of(part)) for key, part in pairs.items()}
whole = tables.alignment("architecture", results, intervals, plan.not_run(rows))
lead = leads.alignment("architecture", results, whole)
display(tables.show(lead, "Alignment across architectures, reported and measured"))
sentences.shows(sentences.scores(results))

# %% [markdown]
# The lines for raw spaces also hold for scale, which is the same under cosine. The full table is below, and in
# {download}`architecture.csv`:

# %% tags=["hide-input"]
tables.fold(whole, "Nulls, untrained networks, data and notes of every line")

# %% tags=["hide-input", "remove-output"]
figure = figures.alignment("architecture", results, intervals)
figure

# %% [markdown]
# ## Within an architecture and across
#
# The table compares pairs across the two architectures with pairs within the first and within the second, in
# the order of the row's name. Scores are calibrated, with 95 % intervals over models.
# [](../method.md#how-to-read-the-tables) says why *across minus within* has a p from relabelling and no
# interval.

# %% tags=["hide-input"]
caption = "Calibrated alignment across and within the two architectures of each row"
compared = conditions.table(results)
display(tables.show(leads.conditions(compared), caption))
display(sentences.shows(sentences.conditions(conditions.cells(results))))
tables.fold(compared, "Scale, scores that are not calibrated, models and notes of every line")

# %% tags=["hide-input"]
conditions.figure(results)

# %% [markdown]
# ## CKA over all architectures
#
# Centred kernel alignment (CKA) compares two spaces of any width. It is 1 if one is a rotated and rescaled copy
# of the other. *Raw* CKA is biased upwards, more so for wide spaces and few samples; *debiased* CKA has
# expectation 0 for unrelated spaces. Each cell compares two networks on the same held-out pictures.

# %% tags=["hide-input"]
compared = cka_map.run(rows, models, settings)
cka = frames.save_table(compared.frame, "architecture_cka")
cka_tables.figure_pictures(cka)

# %% [markdown]
# The paper describes blocks on the diagonal. The table measures them: the mean over pairs of one architecture
# minus the mean over pairs of two, with its 95 % interval over networks. Untrained networks show how much of
# that is there before training.

# %% tags=["hide-input"]
caption = "CKA within and across architectures, with 95 % intervals over networks"
blocks = cka_tables.blocks(cka)
display(tables.show(blocks, caption))
sentences.shows(sentences.cka(blocks))

# %% [markdown]
# ## Vision and language
#
# The paper's figure also compares pretrained models of pictures and of texts. Here each sample is a class of
# ImageNet: vision models read one picture of it, language models its names in the data set (such as "tench,
# Tinca tinca"). The CIFAR-10 networks see such pictures for the first time, at 32 pixels. Each cell is the mean
# over pairs of different networks. The table says whether picture and text agree more than they do with the
# names shuffled over the classes; even a low score can be far above chance. Class names share words, and
# pictures share backgrounds, so some agreement needs no training. The columns with an untrained network in
# place of either show how much.

# %% tags=["hide-input"]
cka_tables.figure_pretrained(cka)

# %% tags=["hide-input"]
caption = "CKA within vision, within language and across, with 95 % intervals over models"
kinds = cka_tables.by_modality(cka)
display(tables.show(kinds, caption))
display(sentences.shows(sentences.by_modality(kinds)))
cross = cka_tables.cross_modal(cka)
display(tables.show(cross, "CKA between vision and language, beside chance"))
sentences.shows(sentences.cross_modal(cross))

# %% tags=["hide-input"]
tables.show(cka_tables.left_out(compared.not_run), "Models that are not compared here")

# %% [markdown]
# ## What structure do the maps have?
#
# The [ladder](../method.md#discovery) compares the pairs across the two architectures, in both directions. The
# other models, of either architecture, help to remove from a source what is private to it.

# %% tags=["hide-input"]
trained_spaces = zoo.embed(plan.trained(rows), anchor_ids, device=settings.device)
maps = ladder(
    trained_spaces,
    anchors=anchor_ids,
    pairs=plan.pairs(rows),
    most_pairs=25,
    workers=zoo.spread,
)
steps = frames.save_table(frames.described(maps.table, rows, settings), "architecture_ladder")

# %% tags=["hide-input"]
classes = tables.ladder(steps)
caption = "Which maps lead from one architecture's space to the other's"
display(tables.show(leads.ladder(classes), caption))
display(sentences.shows(sentences.ladder(steps)))
display(tables.fold(classes, "All classes of maps, and T described"))
figures.ladder(steps)

# %% [markdown]
# As on the page on initialization, a flat line is a rotation, and the dashed line a rotation with as much noise
# as here.

# %% tags=["hide-input"]
values = frames.described(maps.singular_values, rows, settings)
saved = frames.save_table(values, "architecture_singular_values")
display(figures.singular_values(saved))
sentences.shows(sentences.singular_values(steps))

# %% [markdown]
# ## The key finding

# %% tags=["hide-input"]
verdict = claims.judge("architecture", results)
verdict

# %% tags=["remove-cell"]
from myst_nb import glue

glue("architecture_verdict", verdict.verdict, display=False)
glue("architecture_answer", verdict.answer(), display=False)
glue("architecture_figure", figure, display=False)
