"""Every metric against other people's implementations of it, one convention turned into the other where they differ.

The peers come with the extra `bench`; a test whose peer is not installed is skipped.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes, subspace_angles
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.metrics import label_ranking_average_precision_score, pairwise_distances, top_k_accuracy_score
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.neighbors import NearestNeighbors

from invariances.metrics.table import METRICS, compare

# 42 samples make 861 pairs: an odd number, so that every definition of the median distance agrees
SAMPLES = 42


def related(d=6, m=5, seed=0):
    """Two float64 spaces of the same samples, far from the origin and with axes of unequal length."""
    rng = np.random.default_rng(seed)
    x = (rng.exponential(size=(SAMPLES, d)) - 1) * np.geomspace(3, 0.2, d) + 0.4
    y = x @ rng.normal(size=(d, m)) / np.sqrt(d) + rng.normal(size=(SAMPLES, m)) * np.geomspace(1, 0.1, m) - 0.3
    return x, y


@pytest.fixture(params=[(6, 6), (6, 5), (4, 9)], ids="{0[0]}x{0[1]}".format)
def spaces(request):
    return related(*request.param)


@pytest.fixture
def same_width():
    return related(6, 6)


def ours(spaces, metric):
    return compare(*spaces, metric).score


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def centred(x):
    return x - x.mean(axis=0)


def shape(x):
    """Centred, of unit Frobenius norm."""
    return centred(x) / np.linalg.norm(centred(x))


def tensors(spaces):
    return [torch.from_numpy(x) for x in spaces]


# Rows --------------------------------------------------------------------------------------------


def test_cosine_is_one_minus_the_mean_of_scikit_learns_paired_distances(same_width):
    assert ours(same_width, "cosine") == near(1 - paired_cosine_distances(*same_width).mean())


def test_pearson_is_the_mean_of_scipys_correlations_of_the_rows(same_width):
    correlations = [pearsonr(a, b).statistic for a, b in zip(*same_width, strict=True)]
    assert ours(same_width, "pearson") == near(np.mean(correlations))


# Linear CKA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fro_norm", "hsic"])
def test_cka_is_ckatorchs(spaces, method):
    core = pytest.importorskip("ckatorch.core")
    assert ours(spaces, "cka") == near(core.cka_base(*tensors(spaces), method=method).item())


def test_cka_is_latentis(spaces):
    peer = pytest.importorskip("latentis.measure.functional.cka")
    assert ours(spaces, "cka") == near(peer.linear_cka(*tensors(spaces)).item())


def test_cka_is_repsims(spaces):
    repsim = pytest.importorskip("repsim")
    assert ours(spaces, "cka") == near(repsim.cka(spaces, kernel_type="linear", estimator="gretton")[0, 1])


def test_cka_is_sheshas(spaces):
    peer = pytest.importorskip("shesha.sim")
    assert ours(spaces, "cka") == near(peer.cka_linear(*spaces))


def test_cka_is_hoggorms_rv_coefficient_of_centred_data_since_that_does_not_centre(spaces):
    hoggorm = pytest.importorskip("hoggorm")
    assert ours(spaces, "cka") == near(hoggorm.RVcoeff([centred(x) for x in spaces])[0, 1])
    assert ours(spaces, "cka") != pytest.approx(hoggorm.RVcoeff(list(spaces))[0, 1], rel=1e-3)


def test_cka_is_rsatoolboxs_whitened_cosine_of_squared_distances(spaces):
    """Distances instead of products: whitening by the covariance of the distances undoes the difference."""
    rsatoolbox = pytest.importorskip("rsatoolbox")
    first, second = (rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(x), method="euclidean") for x in spaces)
    assert ours(spaces, "cka") == near(rsatoolbox.rdm.compare(first, second, method="cosine_cov").item())


# Debiased linear CKA -----------------------------------------------------------------------------


def test_debiased_cka_is_ckatorchs_unbiased(spaces):
    core = pytest.importorskip("ckatorch.core")
    assert ours(spaces, "cka_debiased") == near(core.cka_base(*tensors(spaces), unbiased=True).item())


def test_debiased_cka_is_the_one_of_pytorch_cka_which_needs_no_centring(spaces):
    cka = pytest.importorskip("cka")
    x, y = tensors(spaces)
    assert ours(spaces, "cka_debiased") == near(cka.cka_from_features(x, y).item())


def test_debiased_cka_is_the_ratio_of_cka_pytorchs_unbiased_hsics(spaces):
    """Its calculator adds 1e-4 under the root, hence the ratio of its parts."""
    peer = pytest.importorskip("cka_pytorch.hsic")
    x, y = ((x @ x.T)[None] for x in tensors(spaces))
    ratio = peer.hsic1(x, y) / (peer.hsic1(x, x) * peer.hsic1(y, y)).sqrt()
    assert ours(spaces, "cka_debiased") == near(ratio.item())


def test_debiased_cka_is_repsims_with_the_unbiased_estimator_in_the_norms_too(spaces):
    """Repsim's ``cka`` divides the unbiased product by biased norms."""
    repsim = pytest.importorskip("repsim")
    unbiased, biased = (repsim.hsic(spaces, "linear", estimator) for estimator in ("song", "gretton"))
    mixed = repsim.cka(spaces, "linear", "song")[0, 1]
    assert ours(spaces, "cka_debiased") == near(unbiased[0, 1] / np.sqrt(unbiased[0, 0] * unbiased[1, 1]))
    norms = np.sqrt(biased[0, 0] * biased[1, 1] / (unbiased[0, 0] * unbiased[1, 1]))
    assert ours(spaces, "cka_debiased") == near(mixed * norms)


def test_debiased_cka_is_sheshas_less_the_product_of_the_diagonals(spaces):
    """Shesha takes the diagonal out of all terms but the first: what is left there is the bias itself."""
    peer = pytest.importorskip("shesha.sim")
    n = SAMPLES
    grams = [centred(x) @ centred(x).T for x in spaces]

    def sheshas_sum(k, g):
        hollow_k, hollow_g = k - np.diag(np.diag(k)), g - np.diag(np.diag(g))
        rows = hollow_k.sum(axis=0) @ hollow_g.sum(axis=0)
        return (k * g).sum() + hollow_k.sum() * hollow_g.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)

    powers = [sheshas_sum(k, k) for k in grams]
    product = peer.cka_debiased(*spaces) * np.sqrt(powers[0] * powers[1])
    product -= np.diag(grams[0]) @ np.diag(grams[1])
    powers = [power - np.square(np.diag(k)).sum() for power, k in zip(powers, grams, strict=True)]
    assert ours(spaces, "cka_debiased") == near(product / np.sqrt(powers[0] * powers[1]))


# RBF CKA -----------------------------------------------------------------------------------------


def ckatorch_kernels(spaces):
    """Ckatorch's bandwidth is a fraction of the median of all n^2 distances, n zeros of the diagonal included."""
    utils = pytest.importorskip("ckatorch.utils")
    kernels = []
    for x in spaces:
        with_zeros = np.sqrt(torch.median(torch.from_numpy(pairwise_distances(x, metric="sqeuclidean"))).item())
        kernels.append(utils.rbf_kernel(torch.from_numpy(x), threshold=np.median(pdist(x)) / with_zeros))
    return kernels


@pytest.mark.parametrize("metric", ["cka_rbf", "cka_rbf_debiased"])
def test_rbf_cka_is_ckatorchs_with_the_bandwidth_from_pairs_of_different_samples(spaces, metric):
    utils = pytest.importorskip("ckatorch.utils")
    k, g = (utils.center_gram_matrix(kernel, "debiased" in metric) for kernel in ckatorch_kernels(spaces))
    assert ours(spaces, metric) == near(((k * g).sum() / (k.norm() * g.norm())).item())


def test_rbf_cka_is_repsims(spaces):
    repsim = pytest.importorskip("repsim")
    assert ours(spaces, "cka_rbf") == near(repsim.cka(spaces, kernel_type="rbf", estimator="gretton")[0, 1])


def test_rbf_cka_is_latentis(spaces):
    peer = pytest.importorskip("latentis.measure.functional.cka")
    assert ours(spaces, "cka_rbf") == near(peer.rbf_cka(*tensors(spaces)).item())


def test_debiased_rbf_cka_is_the_ratio_of_repsims_unbiased_hsics(spaces):
    repsim = pytest.importorskip("repsim")
    hsic = repsim.hsic(spaces, "rbf", "song")
    assert ours(spaces, "cka_rbf_debiased") == near(hsic[0, 1] / np.sqrt(hsic[0, 0] * hsic[1, 1]))


# Procrustes: five conventions --------------------------------------------------------------------


def test_procrustes_from_scipys_disparity_which_also_fits_the_scale(same_width):
    """Scipy's best scale is the nuclear norm s, which leaves 1 - s^2 of the target; ours is 2 - 2 s."""
    disparity = scipy_procrustes(*same_width)[2]
    assert ours(same_width, "procrustes") == near(2 - 2 * np.sqrt(1 - disparity))


def test_procrustes_from_the_nuclear_norm_that_scipy_calls_scale(same_width):
    assert ours(same_width, "procrustes") == near(2 - 2 * orthogonal_procrustes(*map(shape, same_width))[1])


def test_procrustes_is_qc_procrustes_error_of_translated_and_scaled_spaces(spaces):
    peer = pytest.importorskip("procrustes")
    assert ours(spaces, "procrustes") == near(peer.orthogonal(*spaces, translate=True, scale=True).error)
    assert ours(spaces, "procrustes") != pytest.approx(peer.orthogonal(*spaces).error, rel=0.1)  # as they are


def test_procrustes_is_twice_what_sheshas_similarity_lacks_of_one(same_width):
    """A similarity, 1 - distance / 2; others give the distance's root, or the angle arccos(1 - distance / 2)."""
    peer = pytest.importorskip("shesha.sim")
    assert ours(same_width, "procrustes") == near(2 * (1 - peer.procrustes_similarity(*same_width)))


# Canonical correlations --------------------------------------------------------------------------


def test_cca_is_the_mean_squared_cosine_of_scipys_angles_between_centred_spaces(spaces):
    assert ours(spaces, "cca") == near(np.square(np.cos(subspace_angles(*map(centred, spaces)))).mean())


def test_cca_squares_the_correlations_of_cca_zoos_scores(spaces):
    linear, metrics = pytest.importorskip("cca_zoo.linear"), pytest.importorskip("cca_zoo.metrics")
    narrower = min(x.shape[1] for x in spaces)
    scores = linear.CCA(n_components=narrower).fit(spaces).transform(spaces)
    correlations = metrics.pairwise_correlations(scores)[0, 1]
    assert ours(spaces, "cca") == pytest.approx(np.square(correlations).mean(), rel=1e-6)


def test_cca_is_repsims_with_yanais_summary(spaces):
    repsim = pytest.importorskip("repsim")
    assert ours(spaces, "cca") == near(repsim.cca(spaces, summary_type="yanai")[0, 1])


def principal_scores(spaces, kept=0.99):
    return [PCA(kept, svd_solver="full").fit_transform(x) for x in spaces]


def test_svcca_is_the_mean_cosine_of_scipys_angles_between_scikit_learns_components(spaces):
    assert ours(spaces, "svcca") == near(np.cos(subspace_angles(*principal_scores(spaces))).mean())


def test_svcca_is_repsims_of_principal_components_since_that_prunes_whitened_axes(spaces):
    """Repsim keeps 99 % of the variance of an orthonormal basis, in which all axes are equally long."""
    repsim = pytest.importorskip("repsim")
    pruned = repsim.svcca(principal_scores(spaces), summary_type="pillai")[0, 1]
    assert ours(spaces, "svcca") == near(pruned)
    assert ours(spaces, "svcca") != pytest.approx(repsim.svcca(spaces, summary_type="pillai")[0, 1], rel=1e-3)


def test_svcca_is_latentis_of_principal_components_since_that_prunes_correlations(spaces):
    """Latentis cuts the smallest canonical correlations instead of axes, and adds 1e-6 to the covariances."""
    peer = pytest.importorskip("latentis.measure.functional.svcca")
    reduced = [torch.from_numpy(x) for x in principal_scores(spaces)]
    assert ours(spaces, "svcca") == pytest.approx(peer.svcca(*reduced, variance_percentage=1.0).item(), rel=1e-3)


def test_pwcca_is_repsims_which_averages_both_directions(spaces):
    repsim = pytest.importorskip("repsim")
    there, back = ours(spaces, "pwcca"), ours(spaces[::-1], "pwcca")
    assert (there + back) / 2 == near(repsim.pwcca(spaces)[0, 1])
    assert there != pytest.approx(back, rel=1e-3)


# Dissimilarities and neighbours ------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "method"), [("rsa", "spearman"), ("rsa_pearson", "corr")])
def test_rsa_is_rsatoolboxs(spaces, metric, method):
    rsatoolbox = pytest.importorskip("rsatoolbox")
    first, second = (rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(x), method="correlation") for x in spaces)
    assert ours(spaces, metric) == near(rsatoolbox.rdm.compare(first, second, method=method).item())


@pytest.mark.parametrize(("metric", "method"), [("rsa", "spearman"), ("rsa_pearson", "pearson")])
def test_rsa_is_sheshas_with_correlation_distances(spaces, metric, method):
    """Shesha's default is the cosine distance, which does not centre the rows."""
    peer = pytest.importorskip("shesha.sim")
    assert ours(spaces, metric) == near(peer.rdm_similarity(*spaces, metric="correlation", method=method))
    assert ours(spaces, metric) != pytest.approx(peer.rdm_similarity(*spaces, method=method), rel=1e-3)


def overlap(spaces, metric):
    """Mean share of common neighbours among the 10 nearest, by scikit-learn."""
    first, second = (
        NearestNeighbors(n_neighbors=10, metric=metric).fit(x).kneighbors(return_distance=False) for x in spaces
    )
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first, second, strict=True)])


def test_mutual_neighbours_are_scikit_learns_by_cosine(spaces):
    """By Euclidean distance they are others, unless the rows have unit length."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in spaces]
    assert ours(spaces, "mutual_knn") == near(overlap(spaces, "cosine"))
    assert ours(spaces, "mutual_knn") == near(overlap(unit, "euclidean"))
    assert ours(spaces, "mutual_knn") != pytest.approx(overlap(spaces, "euclidean"), rel=1e-3)


CENTRED = {"": centred, "_uncentred": lambda x: x}


def cosines_of(spaces):
    width = max(x.shape[1] for x in spaces)
    return 1 - pairwise_distances(*(np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in spaces), metric="cosine")


@pytest.mark.parametrize("variant", CENTRED)
def test_retrieval_is_scikit_learns_ranking(spaces, variant):
    """One relevant row for each query: the rank's reciprocal is the average precision."""
    similar, own = cosines_of([CENTRED[variant](x) for x in spaces]), np.arange(SAMPLES)
    peers = {
        "retrieval_top1": top_k_accuracy_score(own, similar, k=1),
        "retrieval_recall": top_k_accuracy_score(own, similar, k=10),
        "retrieval_mrr": label_ranking_average_precision_score(np.eye(SAMPLES), similar),
    }
    assert {name: ours(spaces, f"{name}{variant}") for name in peers} == near(peers)


@pytest.mark.parametrize("variant", CENTRED)
def test_the_overlap_is_of_scikit_learns_neighbours(spaces, variant):
    """Of one more than are compared, since a sample of a gallery is not its own neighbour there."""
    asking, gallery = (CENTRED[variant](x) for x in spaces)
    width = max(x.shape[1] for x in spaces)
    asking, gallery = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (asking, gallery))
    index = NearestNeighbors(n_neighbors=11, metric="cosine").fit(gallery)
    lists = zip(*(index.kneighbors(x, return_distance=False) for x in (asking, gallery)), strict=True)
    shares = [
        len({*[j for j in seen if j != i][:10]} & {*[j for j in own if j != i]}) / 10
        for i, (seen, own) in enumerate(lists)
    ]
    assert ours(spaces, "neighbour_overlap" + variant) == near(np.mean(shares))


def test_every_metric_has_a_peer():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in METRICS if f'"{name.removesuffix("_uncentred")}"' not in source] == []
