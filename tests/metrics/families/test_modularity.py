"""Groups of neurons that were planted are found, and noise has none."""

import numpy as np
import pytest
from tiny import ARCHITECTURES, tiny_config, tiny_params

from jaxinterp.metrics.families.modularity import groups, links, modularity_of
from jaxinterp.models.model import Model


def planted(n_layers, n, n_groups, between=0.0):
    """Links of 1 inside groups, which every layer has, at random places."""
    rng = np.random.default_rng(0)
    group_LF = np.stack([rng.permutation(np.arange(n) % n_groups) for _ in range(n_layers)])
    same = group_LF[:-1, :, None] == group_LF[1:, None]
    return np.where(same, 1.0, between), group_LF


def test_planted_groups():
    for n_groups in (2, 4):
        link, _ = planted(3, 12, n_groups)
        # All links are inside, of which chance would have 1 / n.
        assert modularity_of(link) == pytest.approx(1 - 1 / n_groups)
    link, _ = planted(3, 12, 2, between=1 / 3)
    assert modularity_of(link) == pytest.approx(3 / 4 - 1 / 2)


def test_the_groups_are_those_that_were_planted():
    link, group_LF = planted(2, 12, 2)
    excess = np.zeros((24, 24))
    excess[:12, 12:] = (link[0] - link[0].sum(1)[:, None] * link[0].sum(0)[None] / link[0].sum()) / 2
    found = groups(excess + excess.T)
    assert len(set(zip(found.tolist(), group_LF.ravel().tolist(), strict=True))) == 2 == len(set(found.tolist()))


def test_links_without_groups():
    # However many layers there are: successive ones are no groups of their own.
    assert modularity_of(np.ones((3, 10, 10))) == pytest.approx(0, abs=1e-9)
    noise = np.abs(np.random.default_rng(1).standard_normal((2, 60, 60)))
    assert 0 < modularity_of(noise) < 0.15
    assert np.isnan(modularity_of(np.zeros((2, 4, 4))))


def test_neither_the_unit_nor_the_order_of_neurons_matters():
    rng = np.random.default_rng(2)
    link, _ = planted(3, 10, 2, between=0.2)
    link = link + 0.1 * rng.uniform(size=link.shape)
    first, second, third = (rng.permutation(10) for _ in range(3))
    moved = np.stack([link[0][first][:, second], link[1][second][:, third]])
    assert modularity_of(moved) == pytest.approx(modularity_of(link)) == pytest.approx(modularity_of(7 * link))


@pytest.mark.parametrize("name", ["gpt", "llama", "olmo"])
def test_links_are_products_of_weights(name):
    config = tiny_config(n_layers=2, **ARCHITECTURES[name])
    params = tiny_params(config)
    layers = {key: np.asarray(value) for key, value in params["layers"].items() if not isinstance(value, dict)}
    adds, read = layers["w_out"][0, 3], params["layers"]
    if name == "olmo":
        adds, scale = adds * np.asarray(read["norm_mlp_out"]["scale"][0]), np.ones(8)
    else:
        scale = np.asarray(read["norm_mlp"]["scale"][1])
    adds = adds - adds.mean() if name == "gpt" else adds
    names = ("w_in", "w_gate") if config.gated else ("w_in",)
    expected = sum(abs((adds * scale) @ layers[matrix][1][:, 5]) for matrix in names)
    found = links(Model(config, params))
    assert found.shape == (1, 6, 6)
    np.testing.assert_allclose(found[0, 3, 5], expected, rtol=1e-5)
