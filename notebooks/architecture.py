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
from invariances.paper import parameters

settings = parameters.read("architecture", globals())

# %% tags=["remove-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from invariances.paper import claims, conditions, figures, sections, tables

study = sections.run(settings)
results = pd.read_csv(study.save())
Markdown(tables.banner(results))

# %% [markdown]
# ## The models
#
# The paper does not say on which data it compared architectures; CIFAR-10 and TREC are our choice.

# %% tags=["remove-input"]
tables.Shown(tables.models(study.rows), "How well the models do their own task, on the test split")

# %% [markdown]
# ## Reported and measured
#
# *Measured* is the mean ± standard deviation over pairs of models, the form of the paper's table. The interval
# is over models, since pairs share models. *Null* is the expected score when the samples of one side are
# shuffled, *null in class* when they are shuffled within classes, *untrained* the score of untrained networks of the
# same kind. *Calibrated* is 0 at the null and 1 for perfect agreement. Raw and scale coincide under cosine by
# definition, since cosine ignores the length of a vector.

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
# The paper's figure compares *pretrained* models (CNNs, vision transformers, language models). That figure is **not
# run** here: pretrained weights are not part of this version. What is drawn instead are this zoo's own
# vision models on the same held-out pictures. Debiased CKA does not grow with the width of a space, as the biased
# form does.

# %% tags=["remove-input"] mystnb={"image": {"alt": "Heatmap of debiased CKA between all vision models of this section, blocks by architecture"}}
if any(result.planned.row.dataset == "cifar-10" for result in study.rows.values()):
    display(figures.cka_heatmap(results))
else:
    print("not drawn: no row on CIFAR-10 is part of this run")

# %% [markdown]
# ## The key finding

# %% tags=["remove-input"]
verdict = claims.judge("architecture", results)
glue("architecture_verdict", verdict.verdict, display=False)
verdict
