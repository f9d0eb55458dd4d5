import pytest
import torch
from torchvision.transforms import v2

from invariances.zoo.augmentation import AUGMENTED_PARTS, augmentation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["light", "heavy"])
def test_augmentation_changes_pixels_and_nothing_else(name, channels):
    torch.manual_seed(0)
    x = torch.randint(1, 256, (64, channels, 16, 16), dtype=torch.uint8)
    before = x.clone()
    changed = augmentation(name)(x)
    assert (changed.shape, changed.dtype) == (x.shape, torch.uint8)
    assert torch.equal(x, before)
    assert not torch.equal(changed, x)


@pytest.mark.parametrize("name", ["light", "heavy"])
def test_parts_of_a_batch_draw_their_own(name):
    torch.manual_seed(0)
    x = torch.randint(1, 256, (1, 1, 16, 16), dtype=torch.uint8).repeat(64, 1, 1, 1)
    pictures = augmentation(name)(x)
    distinct = {picture.numpy().tobytes() for picture in pictures}
    assert len(distinct) >= AUGMENTED_PARTS / 2  # small shifts may coincide
    assert not torch.equal(augmentation(name)(x), pictures)


def test_light_moves_pixels_and_heavy_changes_them():
    torch.manual_seed(0)
    x = torch.tensor([50, 100, 150], dtype=torch.uint8)[torch.randint(3, (64, 1, 16, 16))]
    assert set(augmentation("light")(x).unique().tolist()) == {0, 50, 100, 150}
    assert len(augmentation("heavy")(x).unique()) > 10


@pytest.mark.parametrize("n", [1, 2, 7, 9])
def test_augmentation_keeps_small_batches_whole(n):
    assert augmentation("heavy")(torch.ones(n, 3, 8, 8, dtype=torch.uint8)).shape == (n, 3, 8, 8)


def test_no_augmentation_leaves_the_pictures_alone():
    assert augmentation("none") is None


def batch(channels, pixels, n=10):
    return torch.randint(1, 256, (n, channels, pixels, pixels), dtype=torch.uint8)


@pytest.mark.parametrize(("channels", "pixels"), [(1, 8), (3, 32), (3, 64)])
def test_light_is_torchvisions_shift_and_flip_to_the_bit_and_from_the_same_draws(channels, pixels):
    plain = v2.Compose([v2.RandomAffine(degrees=0, translate=(0.1, 0.1)), v2.RandomHorizontalFlip()])
    light, seen = augmentation("light"), set()
    for seed in range(60):
        torch.manual_seed(seed)
        x = batch(channels, pixels)
        stream = torch.get_rng_state()
        mine = light(x)
        after = torch.get_rng_state()
        torch.set_rng_state(stream)
        theirs = torch.cat([plain(part) for part in x.tensor_split(min(AUGMENTED_PARTS, len(x)))])
        assert torch.equal(mine, theirs)
        assert torch.equal(after, torch.get_rng_state())
        seen |= {(tuple(row.tolist()), tuple(column.tolist())) for row, column in zip(*edges(mine), strict=True)}
    assert len(seen) > 8  # in all directions, and not at all


def edges(pictures):
    """Which rows and columns of each picture are empty, as a shift leaves them."""
    empty = pictures.sum(dim=1) == 0
    return empty.all(dim=2), empty.all(dim=1)
