"""Encoders: every card builds what was published, and loads its weights, all of them and no others.

Real weights cannot be had in tests: checkpoints are made, in the very names and shapes of the
public ones, and go through the path that real ones go through.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from wsi_models.encoders import (
    EncoderCard,
    EncoderError,
    PatchEncoder,
    Pooling,
    available_encoders,
    find_encoder,
    load_encoder,
    read_cards,
    registry,
)
from wsi_models.encoders.base import digest_tensors
from wsi_models.encoders.layouts import to_module
from wsi_models.encoders.pooling import pool_tokens

from tests.encoders import card_of, randomise, save, shrunk, write_checkpoint
from tests.timm_packages import make_timm_importable

make_timm_importable()
pytest.importorskip("timm", reason="timm is not installed; 'make env' puts it in .venv/encoders")

ENCODERS = available_encoders()
NAMES = sorted(ENCODERS)
MANIFESTS = Path(__file__).parent / "fixtures" / "encoder_manifests.json"


def layout_of(name: str) -> str:
    weights = ENCODERS[name].card.weights
    assert weights is not None
    return weights.layout


DINOV2 = [name for name in NAMES if layout_of(name) == "dinov2"]
OTHERS = [name for name in NAMES if layout_of(name) == "network"]


class Sums(nn.Module):
    """Six features that can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, patches: Tensor) -> Tensor:
        flat = patches.flatten(2)
        return self.scale * torch.cat([flat.mean(dim=2), flat.amax(dim=2)], dim=1)


class Own:
    """An encoder as another package would bring it."""

    def __init__(self, name: str = "own-sums", **changes: object) -> None:
        self.card = card_of(name, **changes)

    def build(self) -> nn.Module:
        return Sums()


def patches_of(card: EncoderCard, count: int = 2) -> Tensor:
    side = card.transform.input_px
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(1))


def test_there_are_the_encoders_that_the_field_asks_for() -> None:
    assert len(NAMES) >= 14
    assert {"uni2-h", "virchow2", "h-optimus-1", "prov-gigapath", "resnet50"} <= set(NAMES)
    assert [ENCODERS[name].card.name for name in NAMES] == NAMES
    ungated = [n for n in NAMES if ENCODERS[n].card.commercial and not ENCODERS[n].card.gated]
    assert {"resnet50", "efficientnet-lite0"} <= set(ungated)


@pytest.mark.parametrize("name", NAMES)
def test_cards_say_where_their_facts_are_from(name: str) -> None:
    card = ENCODERS[name].card
    asked = {"architecture", "transform", "pooling", "precision", "licence", "weights", "mpp"}
    assert asked | {"parameters"} == set(card.sources)
    assert all(card.sources.values())
    assert card.weights is not None
    if card.weights.sha256 is None:
        assert "not known" in card.note


@pytest.mark.parametrize("name", NAMES)
def test_networks_have_the_published_size_and_tensors_and_give_the_published_features(
    name: str,
) -> None:
    encoder = ENCODERS[name]
    with torch.device("meta"):
        module = encoder.build().eval()
        given = module(torch.empty((2, 3, *[encoder.card.transform.input_px] * 2)))

    assert sum(parameter.numel() for parameter in module.parameters()) == encoder.card.parameters
    assert given.shape == (2, encoder.card.features)
    # a new timm that names or shapes a tensor in another way would not read the public files
    state = module.state_dict()
    lines = "".join(f"{key} {tuple(state[key].shape)}\n" for key in sorted(state))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert {"tensors": len(state), "sha256": digest} == json.loads(MANIFESTS.read_text())[name]


@pytest.mark.parametrize("name", OTHERS)
def test_weights_load_from_a_file_in_the_public_layout(name: str, tmp_path: Path) -> None:
    encoder = shrunk(ENCODERS[name])
    path = write_checkpoint(encoder, tmp_path)
    expected = encoder.build()
    randomise(expected)
    patches = patches_of(encoder.card)

    by_file, by_folder = load_encoder(encoder, path), load_encoder(encoder, tmp_path)

    with torch.inference_mode():
        features = by_file.module(patches)
        torch.testing.assert_close(features, expected.eval()(patches), rtol=1e-3, atol=1e-5)
    assert features.shape == (2, encoder.card.features)
    assert features.std() > 0
    assert (
        by_file.weights_digest == by_folder.weights_digest == digest_tensors(expected.state_dict())
    )
    assert by_file.weights_file == path.name


@pytest.mark.parametrize("name", DINOV2)
def test_weights_of_transformers_give_what_transformers_gives(name: str, tmp_path: Path) -> None:
    """The second implementation: transformers' own DINOv2, from the file that it writes itself."""
    transformers = pytest.importorskip("transformers")
    encoder = shrunk(ENCODERS[name])
    reference = dinov2(transformers, encoder, tiny=True)
    randomise(reference, seed=3)
    reference.save_pretrained(tmp_path / name)
    patches = patches_of(encoder.card)

    loaded = load_encoder(encoder, tmp_path)

    prefix = 1 + getattr(reference.config, "num_register_tokens", 0)
    with torch.inference_mode():
        tokens = reference.eval()(pixel_values=patches).last_hidden_state
        pooling = encoder.card.pooling
        assert pooling != "own"
        torch.testing.assert_close(
            loaded.module(patches), pool_tokens(tokens, prefix, pooling), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", ["phikon-v2", "hibou-l"])
def test_full_size_weights_of_transformers_fit_by_name_and_shape(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        reference = dinov2(transformers, ENCODERS[name], tiny=False)
        module = ENCODERS[name].build()
    public = {public_name(key): tensor for key, tensor in reference.state_dict().items()}

    fitted = to_module(fuse_gates(public), "dinov2")

    assert {k: w.shape for k, w in fitted.items()} == {
        k: w.shape for k, w in module.state_dict().items()
    }


def dinov2(transformers: Any, encoder: PatchEncoder, *, tiny: bool) -> Any:
    """Build the network of a card with transformers."""
    with torch.device("meta"):
        network: Any = encoder.build().network
    registers = network.num_prefix_tokens - 1
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    values = {
        "hidden_size": network.embed_dim,
        "num_hidden_layers": len(network.blocks),
        "num_attention_heads": network.blocks[0].attn.num_heads,
        "image_size": encoder.card.transform.input_px,
        "patch_size": network.patch_embed.patch_size[0],
        "use_swiglu_ffn": encoder.card.name != "phikon-v2",
        **({"num_register_tokens": registers} if registers else {}),
    }
    assert not tiny or network.embed_dim == 48
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**values))


def public_name(name: str) -> str:
    """Give a tensor of transformers 5 the name it has in files, which is that of version 4."""
    for part, public in (("q", "query"), ("k", "key"), ("v", "value")):
        name = name.replace(f"attention.{part}_proj", f"attention.attention.{public}")
    name = name.replace("attention.o_proj", "attention.output.dense")
    return name.replace("mlp.down_proj", "mlp.weights_out")


def fuse_gates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the two halves that version 5 holds apart."""
    fused = {
        name: w for name, w in state.items() if "gate_proj" not in name and "up_proj" not in name
    }
    for name, gate in state.items():
        if "gate_proj" in name:
            halves = [gate, state[name.replace("gate_proj", "up_proj")]]
            fused[name.replace("gate_proj", "weights_in")] = torch.cat(halves)
    return fused


def test_poolings_are_those_of_a_naive_loop() -> None:
    tokens = torch.randn((2, 5 + 4, 3), generator=torch.Generator().manual_seed(0))
    for row, each in enumerate(tokens.numpy()):
        first, mean = each[0], sum(each[5:]) / 4
        cases: list[tuple[Pooling, Any]] = [
            ("class", first), ("mean", mean), ("class+mean", np.concatenate([first, mean])),
        ]  # fmt: skip
        for pooling, expected in cases:
            given = pool_tokens(tokens, 5, pooling)[row]
            np.testing.assert_allclose(given.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_pooling_can_be_chosen_and_changes_what_vectors_rest_on(tmp_path: Path) -> None:
    virchow = shrunk(ENCODERS["virchow2"])
    assert virchow.card.pooled("class").features == 48
    assert ENCODERS["virchow2"].card.pooled("class").features == 1280
    assert ENCODERS["h0-mini"].card.pooled("class+mean").features == 1536
    assert virchow.card.pooled("class+mean") is virchow.card
    assert virchow.card.identity("a") != virchow.card.pooled("class").identity("a")
    with pytest.raises(ValueError, match="pools as its network does"):
        ENCODERS["efficientnet-lite0"].card.pooled("class")


def test_identity_rests_on_what_decides_a_vector_and_nothing_else() -> None:
    card = ENCODERS["uni"].card
    bicubic = card.model_copy(
        update={"transform": card.transform.model_copy(update={"interpolation": "bicubic"})}
    )
    assert card.identity("a") != card.identity("b")
    # nothing is resized, so that it does not matter how
    assert card.identity("a") == bicubic.identity("a")
    resized, resized_bicubic = card.cut_from(256), bicubic.cut_from(256)
    assert (resized.tile_px, resized.transform.resize_px) == (256, 224)
    assert len({c.identity("a") for c in (card, resized, resized_bicubic)}) == 3
    assert card.cut_from(224) is card
    renamed = card.model_copy(update={"name": "other", "licence": "other"})
    assert renamed.identity("a") == card.identity("a")


def test_gigapath_is_cropped_from_256_and_never_resized() -> None:
    card = ENCODERS["prov-gigapath"].card
    assert (card.tile_px, card.transform.resize_px, card.transform.input_px) == (256, None, 224)


def test_efficientnet_comes_with_its_weights() -> None:
    loaded = load_encoder(ENCODERS["efficientnet-lite0"])

    assert loaded.card.weights is not None
    assert loaded.weights_sha256 == loaded.card.weights.sha256
    with torch.inference_mode():
        features = loaded.module(patches_of(loaded.card))
    assert features.shape == (2, 1280)
    assert features.std() > 0.01


@pytest.fixture
def tiny() -> PatchEncoder:
    return shrunk(ENCODERS["kaiko-vits16"])


def broken(tiny: PatchEncoder, folder: Path, how: str) -> Path:
    path = write_checkpoint(tiny, folder)
    state = dict(torch.load(path) if path.suffix == ".bin" else _tensors(path))
    match how:
        case "truncated":
            path.write_bytes(path.read_bytes()[:1000])
            return path
        case "missing":
            del state["norm.weight"]
        case "extra":
            state["head.weight"] = torch.ones(3)
        case "shape":
            state["norm.weight"] = torch.ones(3)
        case "nan":
            state["norm.weight"] = torch.full((48,), torch.nan)
    save(state, path)
    return path


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "cannot be read as weights"),
        ("missing", r"lacks 1 tensors \(network.norm.weight\)"),
        ("extra", r"has unknown 1 tensors \(network.head.weight\)"),
        ("shape", r"reshapes 1 tensors \(network.norm.weight\)"),
        ("nan", "no numbers in 1 tensors"),
    ],
)
def test_damaged_weights_are_refused(
    tiny: PatchEncoder, tmp_path: Path, how: str, message: str
) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder(tiny, broken(tiny, tmp_path, how))


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (Path.touch, (self.witness,))


def test_code_in_a_file_of_weights_is_not_run(tiny: PatchEncoder, tmp_path: Path) -> None:
    path, witness = tmp_path / "pytorch_model.bin", tmp_path / "witness"
    path.write_bytes(pickle.dumps({"norm.weight": Harmful(witness)}, protocol=2))
    torch.save({"norm.weight": Harmful(witness)}, tmp_path / "zipped.bin")

    for file in (path, tmp_path / "zipped.bin"):
        with pytest.raises(EncoderError, match="holds nothing but tensors"):
            load_encoder(tiny, file)
    assert not witness.exists()


def test_another_file_under_the_published_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save({"norm.weight": torch.ones(3)}, path)

    with pytest.raises(
        EncoderError, match=r"has sha256 .*5e4de45a6527.*give the file another name"
    ):
        load_encoder(ENCODERS["h0-mini"], path)

    path.rename(tmp_path / "mine.safetensors")
    with pytest.raises(EncoderError, match=r"lacks .* tensors"):
        load_encoder(ENCODERS["h0-mini"], tmp_path / "mine.safetensors")


def test_weights_that_are_not_here_are_not_sought_on_a_network(
    tiny: PatchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was contacted")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)

    with pytest.raises(
        EncoderError, match=r"not on this machine; fetch them from https://.*--weights"
    ):
        load_encoder(tiny)
    with pytest.raises(EncoderError, match=r"is no file and holds no model\.safetensors"):
        load_encoder(tiny, tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gated", r"only to accounts that accepted its terms \(Kaiko .*hf auth login"),
        ("offline", "cannot be fetched: .*fetch them on a machine that can"),
    ],
)
def test_hub_that_refuses_or_cannot_be_reached_is_explained(
    tiny: PatchEncoder, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def fetch(*_: object, **__: object) -> str:
        if kind == "gated":
            raise GatedRepoError.__new__(GatedRepoError)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", fetch)

    with pytest.raises(EncoderError, match=message):
        load_encoder(tiny, allow_download=True)


def test_digest_is_of_values_names_and_shapes_whatever_the_order() -> None:
    one, two = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    assert digest_tensors({"a": one, "b": two}) == digest_tensors({"b": two, "a": one})
    others = [{"a": one, "c": two}, {"a": one.T, "b": two}, {"a": one + 1e-6, "b": two}]
    others.append({"a": one.reshape(3, 2), "b": two})
    assert len({digest_tensors(state) for state in [{"a": one, "b": two}, *others]}) == 5


def test_card_of_ones_own_is_found_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        """
        [mine]
        title = "Mine"
        library = "timm"
        architecture = "vit_tiny_patch16_224"
        arguments = { img_size = 64, depth = 2 }
        mpp = 0.5
        tile_px = 64
        features = 192
        licence = "mine"
        transform = { input_px = 64, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }
        """
    )

    loaded = load_encoder(find_encoder(str(file)))

    assert loaded.module(torch.zeros((1, 3, 64, 64))).shape == (1, 192)
    assert (loaded.weights_file, loaded.weights_sha256) == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "cannot be read as TOML"),
        ("[a]\ntitle = 'A'", r"card 'a' of x is not valid: .*mpp: Field required"),
        ("a = 1", "is not valid"),
        ("[a]\nwidth = 3", "width: Extra inputs are not permitted"),
    ],
)
def test_cards_that_are_not_valid_are_explained(text: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        read_cards(text, "x")


def test_input_that_cannot_be_cut_from_the_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="input_px 32 cannot be cut out of 16 px"):
        card_of("a", tile_px=16)


def test_unknown_encoders_are_answered_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no encoder 'uni3'; there are: efficientnet-lite0, "):
        find_encoder("uni3")
    with pytest.raises(EncoderError, match="cannot be read"):
        find_encoder(str(tmp_path / "none.toml"))
    (tmp_path / "two.toml").write_text("")
    with pytest.raises(EncoderError, match=r"must hold one card.*it has 0"):
        find_encoder(str(tmp_path / "two.toml"))


def announce(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    entries = EntryPoints(EntryPoint(f"e{i}", v, registry.GROUP) for i, v in enumerate(values))
    monkeypatch.setattr(registry, "entry_points", lambda group: entries.select(group=group))


class Taken(Own):
    def __init__(self) -> None:
        super().__init__("uni")


def test_encoders_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, f"{__name__}:Own")

    loaded = load_encoder(find_encoder("own-sums"))

    assert loaded.module(torch.ones((1, 3, 32, 32))).tolist() == [[2.0] * 6]
    assert loaded.weights_digest == digest_tensors(Sums().state_dict())


def test_two_encoders_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, f"{__name__}:Taken")
    with pytest.raises(EncoderError, match="two encoders 'uni'"):
        available_encoders()


@pytest.mark.parametrize("value", ["json:loads", "json:nothing", "no_such_package:x"])
def test_entry_points_that_are_no_encoders_are_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    announce(monkeypatch, value)
    with pytest.raises(EncoderError, match="entry point 'e0'"):
        available_encoders()


def test_own_network_without_weights_is_used_as_built() -> None:
    loaded = load_encoder(Own())
    assert loaded.identity == loaded.card.identity(loaded.weights_digest)
    assert not loaded.module.training


def test_missing_timm_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(EncoderError, match=r"pip install 'wsi-pipeline\[encoders\]'"):
        ENCODERS["uni"].build()
