"""Where the pipeline meets ``wsi_models``: a bundle becomes a module and its specification."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predict.trained import TrainedEncoder, TrainedModel
from wsi_pipeline.types import CONVENTIONS, EncoderSpec, ModelSpec, PatchSpec, StainPair

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from wsi_models.bundle import Bundle, BundleConfig
    from wsi_models.encoders import EncoderCard


ONNX = "onnx:"
"""What begins the name of a network that is a file."""


_OF_MODELS = ("model.safetensors", "SHA256SUMS")
"""Files by which the folder of a trained model is known."""


def load_model(name: str) -> TrainedModel:
    """Load a bundle by folder, an embedded one by name, or a classifier of an ONNX file.

    Parameters
    ----------
    name : str
        Folder of a bundle, a name among the embedded ones, or ``onnx:FILE`` with a TOML file beside
        (:class:`wsi_models.onnx_classifier.OnnxClassifierCard`).

    Returns
    -------
    TrainedModel
        The classifier, what it expects, and the hash of its weights.

    Raises
    ------
    ConfigError
        If there is no such bundle, or it cannot be loaded.
    """
    if name.startswith(ONNX):
        return _from_onnx(Path(name.removeprefix(ONNX)))
    return _trained(name, lambda bundle: bundle.assessor())


def _from_onnx(file: Path) -> TrainedModel:
    from wsi_models.bundle import BundleError
    from wsi_models.onnx_classifier import read_onnx_classifier

    try:
        found = read_onnx_classifier(file)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    card = found.card
    spec = ModelSpec(
        name=card.name,
        class_names=card.class_names,
        class_colors=card.class_colors,
        mpp=card.mpp,
        patch_px=card.patch_px,
        mean=card.mean,
        std=card.std,
        input="rgb",
    )
    return TrainedModel(
        module=found.module,
        spec=spec,
        fingerprint=found.fingerprint,
        trained_on=card.trained_on,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderChoices:
    """What is chosen of an encoder besides its name.

    Attributes
    ----------
    weights : Path or None
        File of its weights, or a folder that holds it.
    allow_download : bool
        Whether they may be fetched from the hub.
    pooling : str or None
        ``class``, ``mean`` or ``class+mean``; as published if None.
    tile_px : int or None
        Side of the tiles that are cut and resized to its input, px; as published if None.
    """

    weights: Path | None = None
    allow_download: bool = False
    pooling: Literal["class", "mean", "class+mean"] | None = None
    tile_px: int | None = None


def load_encoder(name: str, choices: EncoderChoices | None = None) -> TrainedEncoder:
    """Load an encoder of patches.

    Parameters
    ----------
    name : str
        A published encoder (:func:`wsi_models.encoders.available_encoders`), a TOML file with a
        card of one's own, or a bundle, whose encoder is taken.
    choices : EncoderChoices or None
        Weights, pooling and tiles of a published encoder; a bundle has its own.

    Returns
    -------
    TrainedEncoder
        Its module maps patches to (B, F) features.

    Raises
    ------
    ConfigError
        If there is none of that name, its weights cannot be had or trusted, or it cannot be chosen
        so.
    """
    from wsi_models.bundle import available_bundles

    choices = choices or EncoderChoices()
    if name.startswith(ONNX):
        _require_no_classifier(Path(name.removeprefix(ONNX)))
    if not Path(name).is_dir() and name not in available_bundles():
        return _published(name, choices)
    if choices != EncoderChoices():
        raise ConfigError(
            f"{name!r} is a bundle, which has its own weights, pooling and tiles; leave --weights, "
            "--allow-download, --pooling and --tile-px out"
        )
    model = _trained(name, lambda bundle: bundle.extractor())
    shared = {field.name: getattr(model.spec, field.name) for field in fields(PatchSpec)}
    spec = EncoderSpec(**shared, features=_count_features(model), pooling="of the bundle")
    return TrainedEncoder(
        module=model.module,
        spec=spec,
        fingerprint=model.fingerprint,
        trained_on=model.trained_on,
        origin={"title": spec.name, "weights_sha256": model.fingerprint},
    )


def _require_no_classifier(file: Path) -> None:
    """Refuse a file that gives classes where vectors are wanted; what else it is, is read later."""
    from wsi_models.onnx_classifier import is_classifier

    if is_classifier(file):
        raise ConfigError(
            f"{file} is a classifier by {file.with_suffix('.toml').name}: it gives logits of "
            "classes, and what it makes of a patch before is not to be had from its file. Export "
            "the network without its last layer, with the card of an encoder beside it, or use "
            "it with 'run' and 'predict'"
        )


def _published(name: str, choices: EncoderChoices) -> TrainedEncoder:
    from wsi_models.encoders import EncoderError, find_encoder, load_encoder, with_choices

    try:
        chosen = with_choices(find_encoder(name), pooling=choices.pooling, tile_px=choices.tile_px)
        loaded = load_encoder(chosen, choices.weights, allow_download=choices.allow_download)
    except (EncoderError, ValueError) as error:
        raise ConfigError(str(error)) from error
    card = loaded.card
    return TrainedEncoder(
        module=loaded.module,
        spec=encoder_spec(card),
        fingerprint=loaded.identity,
        trained_on=f"see {card.paper}" if card.paper else "what its authors say",
        origin={
            "title": card.title,
            "weights_file": loaded.weights_file,
            "weights_sha256": loaded.weights_sha256,
            "weights_digest": loaded.weights_digest,
            "licence": card.licence,
        },
    )


def encoder_spec(card: EncoderCard) -> EncoderSpec:
    """Say what a published encoder expects and gives, in the words of the pipeline."""
    transform = card.transform
    return EncoderSpec(
        name=card.name,
        mpp=card.mpp,
        patch_px=card.tile_px,
        mean=transform.mean,
        std=transform.std,
        input="rgb",
        features=card.features,
        resize_px=transform.resize_px,
        input_px=transform.input_px,
        interpolation=transform.interpolation,
        pooling=card.pooling,
        precision=card.precision,
    )


def encoder_defaults(encoder: TrainedEncoder) -> dict[str, dict[str, Any]]:
    """Return the tiles that an encoder asks for, as configuration values."""
    return {"tile": {"mpp": encoder.spec.mpp, "patch_size": encoder.spec.patch_px}}


def _count_features(model: TrainedModel) -> int:
    """Send one blank patch through the encoder of a bundle, which does not say what it gives."""
    import torch

    spec = model.spec
    with torch.inference_mode():
        blank = torch.zeros((1, len(spec.mean), spec.patch_px, spec.patch_px))
        return int(model.module.eval()(blank).shape[1])


def load_explainer(name: str) -> TrainedModel:
    """Load what tells the parts of the stains in a model's logits; see :func:`load_model`.

    Returns
    -------
    TrainedModel
        Its module maps patches to (B, 2 K) parts, and its ``maps`` to (B, 2, K, h, w).

    Raises
    ------
    ConfigError
        Also if the model does not see two stains.
    """
    if name.startswith(ONNX):
        raise ConfigError(
            f"{name} cannot be explained: that tells the parts of two stains, which the networks "
            "of CLASS-M add up, and a network of an ONNX file takes colours; give a bundle of "
            "CLASS-M"
        )
    return _trained(name, lambda bundle: bundle.explainer())


def _trained(name: str, module_of: Callable[[Bundle], nn.Module]) -> TrainedModel:
    from wsi_models.bundle import BundleError, available_bundles, bundle_path, load_bundle

    if not Path(name).is_dir() and name not in available_bundles():
        raise ConfigError(
            f"there is no model bundle {name!r}; {_what_was_meant(name, available_bundles())}"
        )
    if (Path(name) / "bundle").is_dir() and not (Path(name) / "config.json").exists():
        raise ConfigError(
            f"{name} is the folder of a training run; its model is {Path(name) / 'bundle'}"
        )
    try:
        # results or slides in a folder called as an embedded bundle do not hide it
        is_embedded = name in available_bundles() and not (Path(name) / "config.json").exists()
        bundle = load_bundle(bundle_path(name) if is_embedded else Path(name))
        module = module_of(bundle)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    return TrainedModel(
        module=module,
        spec=model_spec(bundle.config),
        fingerprint=bundle.fingerprint,
        trained_on=bundle.config.training.data,
        caveat=bundle.config.caveat,
        usual_share=_usual_share(bundle.config),
    )


def find_models(name: Path | str) -> list[Path]:
    """Find the trained models that a name or a folder stands for.

    Parameters
    ----------
    name : Path or str
        Folder of a bundle or of a model of slides, folder of a training run, or the name of an
        embedded bundle.

    Returns
    -------
    list of Path
        Their folders; none if it is nothing of the kind.
    """
    from wsi_models.bundle import available_bundles, bundle_path

    folder = Path(name)
    if not folder.exists() and str(name) in available_bundles():
        return [bundle_path(str(name))]
    within = [folder, folder / "bundle", folder / "model", *sorted(folder.glob("folds/*"))]
    return [place for place in within if any((place / file).exists() for file in _OF_MODELS)]


def check_model(folder: Path) -> str | None:
    """Read a trained model as a whole, against its checksums and its own description.

    Parameters
    ----------
    folder : Path
        One of :func:`find_models`.

    Returns
    -------
    str or None
        What is wrong with it, and what to do.
    """
    from wsi_models.bundle import BundleError, load_bundle
    from wsi_models.mil.bundle import is_slide_model, load_slide_model

    try:
        if is_slide_model(folder):
            load_slide_model(folder)
        else:
            load_bundle(folder)
    except BundleError as error:
        return str(error)
    return None


def _usual_share(config: BundleConfig) -> float | None:
    return None if config.familiarity is None else config.familiarity.usual


def model_spec(config: BundleConfig) -> ModelSpec:
    """Say what the model of a bundle expects and gives, in the words of the pipeline."""
    shared = (field.name for field in fields(ModelSpec))
    return ModelSpec(**{name: getattr(config, name) for name in shared})


def model_defaults(model: TrainedModel) -> dict[str, dict[str, Any]]:
    """Return what a run needs for a model, as configuration values.

    That is the tile geometry it was trained for, the stains that it knows, and, if it takes RGB,
    stores that keep it.
    """
    defaults: dict[str, dict[str, Any]] = {
        "tile": {"mpp": model.spec.mpp, "patch_size": model.spec.patch_px}
    }
    for pair, convention in CONVENTIONS.items():
        if convention == model.spec.stain_convention and pair is not StainPair.HE:
            defaults["stain"] = {"stains": pair}
    if model.spec.input == "rgb":
        defaults["store"] = {"keep_rgb": True}
    return defaults


def _what_was_meant(name: str, bundles: tuple[str, ...]) -> str:
    """Say which bundles there are, and which of them has almost this name."""
    close = get_close_matches(name, bundles, n=1)
    if close:
        return f"there is one called {close[0]}"
    return (
        f"give the folder of a bundle, which 'wsi-pipeline train' writes, or one of: "
        f"{', '.join(bundles)}"
    )
