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
# The encoder of one model, the head of another, no fine-tuning: how much of the performance is left?
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
from invariances.paper import parameters

settings = parameters.read("stitching", globals())

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
# Relative heads are trained on relative representations. Fitted maps (affine, orthogonal) use the absolute models as
# they are and leave the head untouched.

# %% tags=["remove-input"]
tables.Shown(tables.models(study.rows), "How well the models do their own task, on the test split")

# %% [markdown]
# ## Reported and measured
#
# All ordered pairs of different models; across languages only for Amazon Reviews. *Ceiling* is the same head on its own
# encoder, in the same space; the paper's "non-stitched" column is the ceiling of the absolute space throughout.
# *Null* is the score with shuffled anchors, or of an untrained encoder where a space has no anchors.
# *Calibrated* is 0 at the null and 1 at the ceiling. *Retention* is the share of the ceiling that is kept (for errors:
# ceiling divided by error). Reported errors are read as MSE ×10⁻³, as the lineage's code prints them.

# %% tags=["remove-input"]
tables.Shown(tables.stitching(results, study.not_run), "Zero-shot stitching, reported and measured")

# %% tags=["remove-input"] mystnb={"image": {"alt": "Share of the ceiling that stitching keeps by space, with shuffled-anchor and untrained-encoder controls, one panel per row"}}
figures.stitching(study)

# %% [markdown]
# ## What stitched pictures look like

# %% tags=["remove-input"] mystnb={"image": {"alt": "The same pictures: original, reconstruction, and stitched through absolute, relative, affine and orthogonal spaces"}}
pictures = [r for r in study.rows.values() if r.planned.groups[0].variant.task == "reconstruction"]
if pictures:
    display(figures.reconstructions(pictures[0]))
else:
    print("not drawn: no autoencoder row is part of this run")

# %% [markdown]
# ## The key finding

# %% tags=["remove-input"]
verdict = claims.judge("stitching", results)
glue("stitching_verdict", verdict.verdict, display=False)
verdict
