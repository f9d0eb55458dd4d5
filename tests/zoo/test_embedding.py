"""Somebody's own samples embedded: what the model gives of each, whatever batches, parts and interruptions."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import datasets as hf
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from test_pretrained import save_text
from torchvision.models import resnet18
from transformers import AutoModel, AutoTokenizer

from invariances import compare
from invariances.cli import main
from invariances.errors import DataError, ParameterError, PretrainedError, SpaceError
from invariances.readers import read
from invariances.spaces import read_space
from invariances.zoo import embedding
from invariances.zoo.embedding import Options, embed_samples, find_samples
from invariances.zoo.pretrained import REGISTRY

WORDS = ["who", "where", "is", "wrote", "the", "river", "novel", "about"]
RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(WORDS, size=RNG.integers(1, 12))) for _ in range(50)]
STAND_IN = next(name for name in REGISTRY if name.startswith("stand-in-"))
IDS = [f"t{i}" for i in range(50)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedding, "PART", 16)
    pd.DataFrame({"id": IDS, "text": TEXTS}).to_csv("t.csv", index=False)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_text(tmp_path_factory.mktemp("bert"))


def known(bert, layer, pooling):
    """By transformers, each text alone."""
    model, tokenizer = AutoModel.from_pretrained(bert), AutoTokenizer.from_pretrained(bert)
    codes = []
    for text in TEXTS:
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=22)
        with torch.no_grad():
            hidden = model(**given, output_hidden_states=True).hidden_states[layer][0]
        codes.append({"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling])
    return torch.stack(codes)


@pytest.mark.parametrize(
    ("layer", "pooling"), [(None, None), ("-1", "cls"), ("0", "mean"), ("1", "last"), ("2", "mean")]
)
def test_texts_are_what_transformers_makes_of_each_alone(layer, pooling, bert):
    embed_samples(bert, "t.csv", "o.safetensors", options=Options(layer, pooling, length=22, batch=7))
    state = -1 if layer is None else int(layer)
    torch.testing.assert_close(read_space("o.safetensors"), known(bert, state, pooling or "mean"), rtol=1e-4, atol=1e-5)


def test_the_file_says_what_determines_it_and_ids_match_rows(bert):
    embed_samples(bert, "t.csv", "o.safetensors", options=Options("1", "cls", 20))
    embed_samples(bert, "t.csv", "o.parquet", options=Options("1", "cls", 20))
    with safe_open("o.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["model"].startswith(bert)
    assert "@" in facts["model"]  # the digest of its weights
    assert (facts["layer"], facts["pooling"], facts["length"], facts["samples"]) == ("1", "cls", 20, 50)
    for path in ("o.safetensors", "o.parquet"):
        assert list(read(path).ids) == IDS
    torch.testing.assert_close(read_space("o.parquet"), read_space("o.safetensors"), rtol=0, atol=0)
    assert not list(pathlib.Path().glob(".*"))


def test_encoders_of_the_registry_and_functions_work_by_name(monkeypatch):
    embed_samples(STAND_IN, "t.csv", "a.safetensors")
    assert read_space("a.safetensors").shape[0] == 50
    pathlib.Path("mine.py").write_text(
        "import numpy as np\ndef encode(texts): return np.array([[len(t), 1.0] for t in texts])\n"
    )
    embed_samples("mine:encode", "t.csv", "b.safetensors", most=20)
    assert read_space("b.safetensors")[:, 0].tolist() == [len(text) for text in TEXTS[:20]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 255, size=(40 + 8 * i, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
    return str(place)


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vision") / "resnet18-mine.safetensors"
    save_file(resnet18(weights=None).state_dict(), path)
    return str(path)


def test_pictures_and_layers_of_a_vision_network(pictures, vision):
    embed_samples(vision, pictures, "code.safetensors", options=Options(batch=2))
    embed_samples(vision, pictures, "mean.safetensors", options=Options("layer4", "mean"))
    embed_samples(vision, pictures, "flat.safetensors", options=Options("layer4", "flatten"))
    code, mean, flat = (read_space(f"{name}.safetensors") for name in ("code", "mean", "flat"))
    assert (code.shape, mean.shape, flat.shape) == ((5, 512), (5, 512), (5, 512 * 49))
    torch.testing.assert_close(code, mean, rtol=1e-4, atol=1e-5)  # a ResNet's code is the mean of its last layer
    torch.testing.assert_close(flat.view(5, 512, 49).mean(dim=2), mean, rtol=1e-4, atol=1e-5)


def test_the_test_samples_of_a_data_set(monkeypatch, tmp_path):
    place = tmp_path / "CogComp/trec"
    place.mkdir(parents=True)
    classes = hf.ClassLabel(names=["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"])
    features = hf.Features({"text": hf.Value("string"), "coarse_label": classes, "fine_label": classes})
    for split, words in (("train", "who"), ("test", "where")):
        columns = {"text": [f"{words} {i}" for i in range(5)], "coarse_label": [0, 1, 2, 3, 4], "fine_label": [0] * 5}
        hf.Dataset.from_dict(columns, features).to_parquet(place / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("INVARIANCES_DATA", str(tmp_path))
    found = find_samples("trec")
    assert found.load(range(5)) == [f"where {i}" for i in range(5)]
    assert found.labels == ["0", "1", "2", "3", "4"]
    assert found.ids[0] == "test-0"
    assert find_samples("trec:train").load([0])[0] == "who 0"
    with pytest.raises(DataError, match=r"trec has no split 'dev'; choose from train, test"):
        find_samples("trec:dev")


# Interruptions ------------------------------------------------------------------------------------


def test_stopped_it_goes_on_with_what_is_finished(bert):
    class Stopped(Exception):
        pass

    def stop(done, total):
        assert total == 50
        if done > 40:
            raise Stopped

    with pytest.raises(Stopped):
        embed_samples(bert, "t.csv", "o.safetensors", progress=stop)
    assert not pathlib.Path("o.safetensors").exists()
    seen = []
    embed_samples(bert, "t.csv", "o.safetensors", progress=lambda done, total: seen.append(done))
    assert seen[:2] == [16, 32]  # whole parts, from an earlier run
    embed_samples(bert, "t.csv", "at-once.safetensors")
    torch.testing.assert_close(read_space("o.safetensors"), read_space("at-once.safetensors"), rtol=0, atol=0)


def test_killed_it_goes_on(bert):
    code = (
        "import sys, time; from invariances.zoo import embedding; embedding.PART = 16; "
        f"embedding.embed_samples({bert!r}, 't.csv', 'o.safetensors', options=embedding.Options(batch=4), "
        "progress=lambda done, total: time.sleep(0.1))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.time() + 300
    while (
        not pathlib.Path(".o.safetensors.parts/part-00001.safetensors").exists()
        and time.time() < deadline
        and worker.poll() is None
    ):
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait(300)
    seen = []
    options = Options(batch=4)
    embed_samples(bert, "t.csv", "o.safetensors", options=options, progress=lambda done, total: seen.append(done))
    assert seen[:2] == [16, 32]
    embed_samples(bert, "t.csv", "at-once.safetensors", options=options)
    torch.testing.assert_close(read_space("o.safetensors"), read_space("at-once.safetensors"), rtol=0, atol=0)


def test_parts_of_other_samples_or_options_are_not_gone_on_with(bert):
    def stop(done, total):
        if done > 20:
            raise KeyboardInterrupt

    for change in ("texts", "layer"):
        with pytest.raises(KeyboardInterrupt):
            embed_samples(bert, "t.csv", f"{change}.safetensors", progress=stop)
        if change == "texts":
            pd.DataFrame({"id": IDS, "text": TEXTS[::-1]}).to_csv("t.csv", index=False)
        options = Options(layer="1" if change == "layer" else None)
        embed_samples(bert, "t.csv", f"{change}.safetensors", options=options)
        embed_samples(bert, "t.csv", "at-once.safetensors", options=options, force=True)
        torch.testing.assert_close(
            read_space(f"{change}.safetensors"), read_space("at-once.safetensors"), rtol=0, atol=0
        )


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"model": "absent/there/is/none"}, PretrainedError, "there is no checkpoint at"),
        ({"model": "mine:absent"}, ParameterError, "mine:absent cannot be imported .*; give module:function"),
        ({"data": "absent"}, DataError, "there are no samples at absent"),
        ({"output": "o.npy"}, ParameterError, "o.npy would be a .npy file; give .safetensors or .parquet"),
        ({"output": "t.csv"}, ParameterError, "t.csv is one of the inputs"),
        ({"output": "no/o.safetensors"}, ParameterError, "is not there; make it first"),
        ({"most": 0}, ParameterError, "most is 0; give a whole number of at least 1"),
        ({"options": Options(pooling="max")}, ParameterError, "unknown pooling 'max'; choose from mean, cls"),
        ({"options": Options(pooling="flatten")}, ParameterError, "unequal numbers of tokens, .*; give mean"),
        ({"options": Options(layer="9")}, ParameterError, "has hidden states 0 to 2; give one of these"),
        ({"options": Options(layer="encoder")}, ParameterError, "layer is 'encoder'; give the number"),
        ({"options": Options(batch=0)}, ParameterError, "batch is 0; give"),
        ({"options": Options(length=999)}, PretrainedError, "tokens at most, not 999; give a length so"),
        ({"model": STAND_IN, "options": Options(layer="1")}, ParameterError, "shows no layers; leave"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_writes_nothing(given, error, match, bert):
    before = sorted(pathlib.Path().iterdir())
    with pytest.raises(error, match=match) as caught:
        embed_samples(**{"model": bert, "data": "t.csv", "output": "o.safetensors", **given})
    assert "\n" not in str(caught.value)
    assert sorted(pathlib.Path().iterdir()) == before


def test_a_model_of_pictures_does_not_read_texts(vision, bert, pictures):
    with pytest.raises(ParameterError, match=r"reads pictures, but t.csv holds texts"):
        embed_samples(vision, "t.csv", "o.safetensors")
    with pytest.raises(ParameterError, match=r"reads texts, but .* holds pictures"):
        embed_samples(bert, pictures, "o.safetensors")
    with pytest.raises(ParameterError, match=r"has no layer 'layer9'; it has conv1, .* so name one"):
        embed_samples(vision, pictures, "o.safetensors", options=Options("layer9"))
    with pytest.raises(SpaceError, match=r"which has no tokens; pool by mean or flatten"):
        embed_samples(vision, pictures, "o.safetensors", options=Options("layer4", "cls"))


def test_what_a_model_gives_is_checked():
    for body, match in (
        ("[[float('nan'), 1.0]] * len(t)", "NaN or infinity for the sample t0; take it out"),
        ("[[1.0]]", "the model gave shape .1, 1. for 32 samples; it must give one vector for each"),
    ):
        pathlib.Path("mine2.py").write_text(f"import numpy as np\ndef encode(t): return np.array({body})\n")
        sys.modules.pop("mine2", None)
        with pytest.raises((DataError, PretrainedError), match=match):
            embedding.PART = 50
            embed_samples("mine2:encode", "t.csv", "o.safetensors")


# Layers -------------------------------------------------------------------------------------------


def command(monkeypatch, capsys, line, status=0):
    monkeypatch.setattr("sys.argv", ["invariances", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code or 0) == status, (out, err)
    return out, err


def test_the_layers_of_two_transformers_on_one_s_own_texts(bert, tmp_path_factory, monkeypatch, capsys):
    other = save_text(tmp_path_factory.mktemp("other"), seed=1)
    command(monkeypatch, capsys, f"layers {bert} {other} t.csv -o l.csv --figure l.png --length 20 --batch 9")
    table = pd.read_csv("l.csv")
    assert set(table.n_samples) == {50}
    assert pathlib.Path("l.png").stat().st_size > 1000
    # a block's output, pooled over tokens, is what `embed` gives of the hidden state after it
    names = list(dict.fromkeys(table.layer_a))
    assert [name for name in names if "layer." in name] == ["encoder.layer.0", "encoder.layer.1"]
    spaces = {}
    for model, name in ((bert, "a"), (other, "b")):
        embed_samples(model, "t.csv", f"{name}.safetensors", options=Options("1", "mean", 20))
        spaces[name] = f"{name}.safetensors"
    known = compare(spaces["a"], spaces["b"], "cka_debiased").score
    line = table[(table.layer_a == "encoder.layer.0") & (table.layer_b == "encoder.layer.0")]
    assert line.cka.item() == pytest.approx(known, abs=1e-4)


def test_checkpoints_of_one_model_are_a_course(bert, tmp_path_factory, monkeypatch, capsys):
    others = [save_text(tmp_path_factory.mktemp("step"), seed=i) for i in (1, 2)]
    command(monkeypatch, capsys, f"layers {others[0]} {others[1]} {bert} t.csv -o c.csv --length 20")
    table = pd.read_csv("c.csv")
    assert list(dict.fromkeys(table.checkpoint)) == [*others, bert]
    np.testing.assert_allclose(table[table.checkpoint == bert].cka, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("layers BERT t.csv -o l.csv", "1 model(s) given; give two models or more"),
        ("layers BERT BERT absent -o l.csv", "there are no samples at absent"),
        ("layers BERT BERT t.csv -o t.csv", "t.csv is one of the inputs"),
        ("layers BERT STANDIN t.csv -o l.csv", "shows no layers; give another encoder"),
        ("layers BERT BERT t.csv -o l.csv --pooling max", "unknown pooling 'max'; choose"),
    ],
)
def test_layers_that_cannot_be_compared_are_one_sentence(line, said, bert, monkeypatch, capsys):
    line = line.replace("BERT", bert).replace("STANDIN", STAND_IN)
    line = line if "--length" in line else f"{line} --length 20"
    out, err = command(monkeypatch, capsys, line, status=1)
    assert out == ""
    assert said in err
    assert not pathlib.Path("l.csv").exists()
